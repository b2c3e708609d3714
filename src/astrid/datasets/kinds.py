"""The words for what a detection is: labels, kinds of truth rows, artefact tags, and how the three speak of each other."""

from __future__ import annotations

REAL, BOGUS, UNLABELLED = 1, 0, -1
LABEL_NAMES = {REAL: "real", BOGUS: "bogus", UNLABELLED: "unlabelled"}

SKY_KINDS = ("supernova", "variable", "asteroid", "injected")  # of a truth row: light from the sky
# Artefacts of a truth row. A detection that several can have made is named after the first group that is there, within it after the
# nearest row: charge or light with a sharp outline, then what subtraction leaves of a constant star, then what is spread over many PSFs.
LOCAL_ARTEFACTS = ("cosmic_ray", "hot_pixel", "bad_column", "satellite_trail", "glint", "bleed", "crosstalk", "persistence")
STAR_ARTEFACTS = ("dipole", "guiding", "cloud", "residual")
DIFFUSE_ARTEFACTS = ("ghost", "glare", "stray_light", "edge", "amplifier_step", "fringe")
ARTEFACT_GROUPS = (LOCAL_ARTEFACTS, STAR_ARTEFACTS, DIFFUSE_ARTEFACTS)
ARTEFACT_KINDS = (*LOCAL_ARTEFACTS, *STAR_ARTEFACTS, *DIFFUSE_ARTEFACTS)
# What a truth row of an artefact says of its light. Photometric: `flux` is what PSF photometry measures of it at the row's place, so that
# it can be held against a candidate's. Brightening: it only adds light to the exposure that it is in. Spread: its rows lie far apart.
PHOTOMETRIC = ("bad_column", "crosstalk", "persistence", "ghost", "glare", "stray_light", "amplifier_step", "fringe")
BRIGHTENING = ("cosmic_ray", "hot_pixel", "satellite_trail", "glint")
SPREAD = ("ghost", "glare", "stray_light", "amplifier_step", "fringe")
ENUMERATED = ("cosmic_ray", "hot_pixel", "ghost")  # kinds of which a complete truth table lists every case, where it is

# Bogus kind of a tag, the most telling one first; a bogus without a tag is noise.
KIND_OF_TAG = {
    "cosmic_ray": "cosmic_ray",
    "trail": "satellite_trail",
    "glint": "glint",
    "crosstalk": "crosstalk",
    "persistence": "persistence",
    "column": "bad_column",
    "hot_pixel": "hot_pixel",
    "saturated": "saturation",
    "dipole": "dipole",
    "residual": "residual",
    "offset": "residual",
    "ghost": "ghost",
    "fringe": "fringe",
    "step": "amplifier_step",
    "edge": "edge",
    "scale": "residual",
    "diffuse": "stray_light",
    "extended": "extended",
}
# Tags that name an artefact of the truth table. `diffuse` names every kind of light that is spread over many PSFs: which one it is,
# a piece of it does not always show. What a bleeding star left in the exposure before is charge along a `column`, as a leaking column's.
TAGS_OF_KIND = {
    "cosmic_ray": ("cosmic_ray",),
    "hot_pixel": ("hot_pixel",),
    "bad_column": ("hot_pixel", "trail", "column"),
    "satellite_trail": ("trail",),
    "glint": ("glint", "trail"),
    "crosstalk": ("crosstalk",),
    "persistence": ("persistence", "column"),
    "bleed": ("saturated",),
    "ghost": ("ghost", "diffuse"),
    "glare": ("extended", "residual", "diffuse"),
    "stray_light": ("extended", "diffuse"),
    "amplifier_step": ("step", "diffuse"),
    "fringe": ("fringe", "diffuse"),
    "edge": ("edge",),
    "dipole": ("dipole", "offset"),
    "guiding": ("dipole", "offset", "residual", "scale"),
    "cloud": ("scale",),
    "residual": ("residual", "saturated", "dipole", "offset", "scale"),
}
NOISE = "noise"
MOVING = "moving"

# SIMBAD classes whose members vary in brightness, in the spelling that Fink writes into its packets (older and newer).
_VARIABLES = """
    RRLyr RRLyrae EB* EclBin XB LXB HXB LowMassXBin HighMassXBin Symbiotic* BYDra RSCVn EllipVar CataclyV* CataclyV TTau* TTauri
    Orion_V* Cepheid ClassicalCep Type2Cep PulsV* PulsV*bCep pulsV*SX PulsV*delSct PulsV*RVTau PulsV*WVir bCep delSct RVTau
    deltaCep gammaDor Irregular_V* Erupt*RCrB Eruptive* Flare* Mira LPV* LongPeriodV* RotV* Be* V* Variable* Nova SN Supernova
    QSO BLLac Blazar AGN Seyfert Seyfert_1 Seyfert1
"""
VARIABLE_CLASSES = frozenset(_VARIABLES.split())

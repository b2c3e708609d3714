"""The words for what a detection is: labels, kinds of truth rows, artefact tags, and how the three speak of each other."""

from __future__ import annotations

REAL, BOGUS, UNLABELLED = 1, 0, -1
LABEL_NAMES = {REAL: "real", BOGUS: "bogus", UNLABELLED: "unlabelled"}

SKY_KINDS = ("supernova", "variable", "asteroid", "injected")  # of a truth row: light from the sky
# Artefacts of a truth row. A detection near several is named after the first group that is there, within it after the nearest row:
# charge or light with a sharp outline, then what subtraction leaves of a constant star, then what is spread over many PSFs.
LOCAL_ARTEFACTS = ("cosmic_ray", "hot_pixel", "bad_column", "satellite_trail", "glint", "bleed", "crosstalk", "persistence")
STAR_ARTEFACTS = ("dipole", "guiding", "cloud", "residual")
DIFFUSE_ARTEFACTS = ("ghost", "glare", "stray_light", "edge", "amplifier_step", "fringe")
ARTEFACT_KINDS = (*LOCAL_ARTEFACTS, *STAR_ARTEFACTS, *DIFFUSE_ARTEFACTS)
ENUMERATED = ("cosmic_ray", "hot_pixel", "ghost")  # kinds of which a complete truth table lists every case, where it is

# Bogus kind of a tag, the most telling one first; a bogus without a tag is noise.
KIND_OF_TAG = {
    "cosmic_ray": "cosmic_ray",
    "trail": "satellite_trail",
    "hot_pixel": "hot_pixel",
    "saturated": "saturation",
    "dipole": "dipole",
    "residual": "residual",
    "ghost": "ghost",
    "edge": "edge",
    "extended": "extended",
}
# Tags that name an artefact of the truth table; a kind without any is told from others by its stamps alone.
TAGS_OF_KIND = {
    "cosmic_ray": ("cosmic_ray",),
    "hot_pixel": ("hot_pixel",),
    "bad_column": ("hot_pixel", "trail"),
    "satellite_trail": ("trail",),
    "glint": ("trail",),
    "bleed": ("saturated",),
    "ghost": ("ghost",),
    "glare": ("extended", "residual"),
    "stray_light": ("extended",),
    "edge": ("edge",),
    "dipole": ("dipole",),
    "guiding": ("dipole", "residual"),
    "cloud": ("residual",),
    "residual": ("residual", "saturated"),
}
NOISE = "noise"
MOVING = "moving"

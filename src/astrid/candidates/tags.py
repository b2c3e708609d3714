"""Artefact tags: evidence beside a candidate, never a cut."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from astrid.candidates.constant import on_constant
from astrid.candidates.ghosts import on_ghost
from astrid.candidates.glints import on_glint
from astrid.candidates.host import Sources
from astrid.candidates.light import diffuse_share, light_of
from astrid.candidates.measure import Features
from astrid.candidates.peaks import Peaks, psf_fwhm
from astrid.candidates.readout import on_column, on_flagged, on_step
from astrid.candidates.rings import on_disc
from astrid.candidates.ripples import on_fringe
from astrid.candidates.trails import is_narrow, on_track, trails_of
from astrid.config.schema.candidates import TagsConfig
from astrid.core.dq import DQ
from astrid.core.records import Difference

_CORE_FWHM = 1.25  # radius of the disc that stands for the core in which chi-squared was taken


def tag(
    difference: Difference,
    peaks: Peaks,
    features: Features,
    sources: Sources,
    star: tuple[NDArray[np.float64], NDArray[np.float64]],
    cfg: TagsConfig,
) -> list[list[str]]:
    """The tags of each peak, in alphabetical order. `star`: distance and flux of the nearest bright star (host.star_distance).

    column      charge along its column, see `readout`
    cosmic_ray  sharper than the PSF, by a factor and beyond the sharpness's own error, and not beside light of the other sign where both
                epochs show a source: what is left of a shifted star is sharp, and a `dipole`; or faint, alone and in no respect like
                the PSF; or with a flagged pixel in a core that the PSF does not fit; or alone in one epoch and either sharper by a
                smaller factor, or long and narrower across than the PSF; or on a trail that is, see `trails`
    crosstalk   where the calibration of its epoch expects a measured share of another amplifier's charge
    diffuse     even light about it makes it, see `light`
    hot_pixel   one pixel alone: no neighbour holds what the PSF demands; or a hot pixel in the core; or, once the exposures are seen
                together, one that fires again where other sky is, see `recurring`
    dipole      opposite-sign flux beside it
    offset      beside the centre of a star, with a small share of its light, see `constant`
    persistence where a star was full in the exposure before that of its epoch, by the observatory's record
    residual    small change close to a bright or saturated star
    saturated   saturated or bled pixels in the core
    scale       a source whose light changes by the same share as that of the sources around, see `constant`
    trail       on a long thin connected region of the score, or on a filled line of candidates, see `trails`; not where its narrowness
                names it a particle's track. Where the PSF is too narrow or the trail too faint to tell, it stays one, beside whatever
                other tag its peaks have
    edge        close to the edge of the footprint, or in the detector's margin
    extended    wider than the PSF
    fringe      on a crest of coherent ripples, see `ripples`
    ghost       on the reflection of a bright star, see `ghosts`; or on a round region of light without a known star, see `rings`
    glint       a dash, or one of several flashes of equal spacing, in one epoch alone and not as narrow as a track, see `glints`
    step        beside a border across the image at which the level jumps, see `readout`
    """
    columns, bits = features.columns, features.core_bits
    fwhm = psf_fwhm(difference.psf_science)
    distance, star_flux = star
    near_star = (distance < cfg.residual_fwhm * fwhm) & (np.abs(columns["flux"]) < cfg.residual_fraction * star_flux)
    limit = cfg.extended_ratio * (1.0 + cfg.extended_noise / np.maximum(peaks.strength, 1.0))
    wide = columns["fwhm"] > limit * features.psf_moment_fwhm
    light = light_of(difference)
    share = diffuse_share(light, peaks)
    sharp = _sharp(features, cfg.cosmic_sharpness, cfg)
    trails = trails_of(difference, peaks, cfg)
    track = on_track(trails, features.across, features.across_err, cfg)
    hit, narrow = _hits(peaks, features, trails.upright, fwhm, cfg)
    scale, offset = on_constant(difference, peaks, columns["flux"], sources, cfg)
    marks = {
        "column": on_column(difference, light, peaks, cfg),
        "cosmic_ray": hit | track,
        "crosstalk": on_flagged(difference, peaks, DQ.CROSSTALK, cfg.flagged_fwhm * fwhm),
        "diffuse": share > cfg.diffuse_share,
        "dipole": columns["symmetry"] > cfg.dipole_symmetry,
        "edge": (columns["edge_distance"] < cfg.edge_distance) | _has(bits, DQ.EDGE),
        "extended": wide,
        "fringe": on_fringe(light, peaks, cfg),
        "ghost": on_ghost(difference, light, peaks, wide, sources, cfg) | on_disc(light, peaks, share, wide, sources, cfg),
        "glint": on_glint(peaks, columns, ~(hit | track | narrow), fwhm, features.psf_moment_fwhm, cfg),
        "hot_pixel": (sharp & (features.neighbour_ratio < cfg.hot_neighbour)) | _has(bits, DQ.HOT),
        "offset": offset,
        "persistence": on_flagged(difference, peaks, DQ.PERSISTENCE, cfg.flagged_fwhm * fwhm),
        "residual": near_star,
        "saturated": _has(bits, DQ.SATURATED | DQ.BLEED),
        "scale": scale,
        "step": on_step(difference, light, peaks, share, wide, cfg),
        "trail": trails.on & ~track,
    }
    return [[name for name, mark in marks.items() if mark[row]] for row in range(len(peaks))]


def _hits(
    peaks: Peaks, features: Features, upright: NDArray[np.bool_], fwhm: float, cfg: TagsConfig
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """True for peaks that are a particle's by their own pixels, and for those that are narrow across and alone; bool (n,).

    `upright`: the peak lies on a trail along a column.
    """
    columns = features.columns
    other = np.abs(np.where(peaks.sign > 0, columns["reference_snr"], columns["science_snr"]))
    dipole = columns["symmetry"] > cfg.dipole_symmetry
    hit = _sharp(features, cfg.cosmic_sharpness, cfg) & ~(dipole & (other > cfg.faint_empty))
    hit |= _faint_hit(peaks, features, other, fwhm, cfg)
    hit |= _has(features.core_bits, DQ.COSMIC_RAY) & (_misfit(peaks, columns, fwhm) > cfg.cosmic_misfit)
    alone = (other < cfg.track_empty) & ~dipole
    narrow = alone & is_narrow(features.across, features.across_err, cfg)
    hit |= alone & _sharp(features, cfg.faint_sharpness, cfg)
    hit |= narrow & (columns["elongation"] > cfg.track_elongation) & ~upright
    return hit, narrow


def _sharp(features: Features, limit: float, cfg: TagsConfig) -> NDArray[np.bool_]:
    """True where the sharpness exceeds the limit, and 1 by `cosmic_sigma` of its error."""
    sharpness = features.columns["sharpness"]
    return np.asarray((sharpness > limit) & (sharpness - 1.0 > cfg.cosmic_sigma * features.sharpness_err))


def _faint_hit(peaks: Peaks, features: Features, other: NDArray[np.float64], fwhm: float, cfg: TagsConfig) -> NDArray[np.bool_]:
    """True for faint peaks whose pixels are those of a particle rather than of the PSF, with nothing there in the `other` epoch.

    Near the threshold the sharpness of an undersampled source has an error of a quarter, so that several signs must agree.
    """
    columns = features.columns
    shape = (columns["elongation"] > cfg.faint_elongation) | (columns["fwhm"] < cfg.faint_narrow * fwhm)
    own = (peaks.snr < cfg.faint_snr) & (columns["sharpness"] > cfg.faint_sharpness) & (columns["chi2"] > cfg.faint_chi2)
    return np.asarray(own & shape & (other < cfg.faint_empty) & (columns["symmetry"] < cfg.dipole_symmetry))


def _misfit(peaks: Peaks, columns: dict[str, NDArray[np.float64]], fwhm: float) -> NDArray[np.float64]:
    """Root of the chi-squared beyond its expectation over the strength: 0 for a source that the PSF fits."""
    pixels = max(np.pi * (_CORE_FWHM * fwhm) ** 2 - 3.0, 3.0)
    return np.asarray(np.sqrt((columns["chi2"] - 1.0).clip(min=0.0) * pixels) / np.maximum(peaks.strength, 1.0))


def _has(bits: NDArray[np.uint32], wanted: DQ) -> NDArray[np.bool_]:
    return np.asarray((bits & np.uint32(wanted)) != 0)

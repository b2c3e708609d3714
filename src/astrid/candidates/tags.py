"""Artefact tags: evidence beside a candidate, never a cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid.candidates.constant import on_constant
from astrid.candidates.ghosts import on_ghost
from astrid.candidates.glints import on_glint
from astrid.candidates.host import Sources
from astrid.candidates.light import diffuse_share, light_of
from astrid.candidates.measure import Features
from astrid.candidates.peaks import Peaks, psf_fwhm
from astrid.candidates.planes import pick
from astrid.candidates.readout import on_column, on_flagged, on_step
from astrid.candidates.rings import on_disc
from astrid.candidates.ripples import on_fringe
from astrid.candidates.runs import Runs, regions, runs_of
from astrid.config.schema.candidates import TagsConfig
from astrid.core.dq import DQ, unusable
from astrid.core.records import Difference

_ANGLES = np.deg2rad(np.arange(0.0, 180.0, 1.0))  # of a line's normal in the Hough transform
_CORE_FWHM = 1.25  # radius of the disc that stands for the core in which chi-squared was taken
_CHANCE_SIGMA = 5.0  # Poisson sigma by which a bin of the Hough transform exceeds chance alignment in a crowded image


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
    cosmic_ray  sharper than the PSF, by a factor and beyond the sharpness's own error; or faint, alone and in no respect like the PSF; or
                with a flagged pixel in a core that the PSF does not fit
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
    trail       on a long thin connected region of the score, or on a filled line of candidates
    edge        close to the edge of the footprint, or in the detector's margin
    extended    wider than the PSF
    fringe      on a crest of coherent ripples, see `ripples`
    ghost       on the reflection of a bright star, see `ghosts`; or on a round region of light without a known star, see `rings`
    glint       a dash, or one of several flashes of equal spacing, in one epoch alone, see `glints`
    step        beside a border across the image at which the level jumps, see `readout`
    """
    columns, bits = features.columns, features.core_bits
    fwhm = psf_fwhm(difference.psf_science)
    excess = (columns["sharpness"] - 1.0) / np.maximum(features.sharpness_err, np.finfo(np.float64).tiny)
    sharp = (columns["sharpness"] > cfg.cosmic_sharpness) & (excess > cfg.cosmic_sigma)
    distance, star_flux = star
    near_star = (distance < cfg.residual_fwhm * fwhm) & (np.abs(columns["flux"]) < cfg.residual_fraction * star_flux)
    limit = cfg.extended_ratio * (1.0 + cfg.extended_noise / np.maximum(peaks.strength, 1.0))
    wide = columns["fwhm"] > limit * features.psf_moment_fwhm
    light = light_of(difference)
    share = diffuse_share(light, peaks)
    dots = (
        sharp | _faint_hit(peaks, features, fwhm, cfg) | (_has(bits, DQ.COSMIC_RAY) & (_misfit(peaks, columns, fwhm) > cfg.cosmic_misfit))
    )
    scale, offset = on_constant(difference, peaks, columns["flux"], sources, cfg)
    marks = {
        "column": on_column(difference, light, peaks, cfg),
        "cosmic_ray": dots,
        "crosstalk": on_flagged(difference, peaks, DQ.CROSSTALK, cfg.flagged_fwhm * fwhm),
        "diffuse": share > cfg.diffuse_share,
        "dipole": columns["symmetry"] > cfg.dipole_symmetry,
        "edge": (columns["edge_distance"] < cfg.edge_distance) | _has(bits, DQ.EDGE),
        "extended": wide,
        "fringe": on_fringe(light, peaks, cfg),
        "ghost": on_ghost(difference, light, peaks, wide, sources, cfg) | on_disc(light, peaks, share, wide, sources, cfg),
        "glint": on_glint(peaks, columns, fwhm, features.psf_moment_fwhm, cfg),
        "hot_pixel": (sharp & (features.neighbour_ratio < cfg.hot_neighbour)) | _has(bits, DQ.HOT),
        "offset": offset,
        "persistence": on_flagged(difference, peaks, DQ.PERSISTENCE, cfg.flagged_fwhm * fwhm),
        "residual": near_star,
        "saturated": _has(bits, DQ.SATURATED | DQ.BLEED),
        "scale": scale,
        "step": on_step(difference, light, peaks, share, wide, cfg),
        "trail": on_long_region(difference, peaks, cfg) | on_line(difference, peaks, cfg),
    }
    return [[name for name, mark in marks.items() if mark[row]] for row in range(len(peaks))]


def _faint_hit(peaks: Peaks, features: Features, fwhm: float, cfg: TagsConfig) -> NDArray[np.bool_]:
    """True for faint peaks whose pixels are those of a particle rather than of the PSF, with nothing there in the other epoch.

    Near the threshold the sharpness of an undersampled source has an error of a quarter, so that several signs must agree.
    """
    columns = features.columns
    other = np.where(peaks.sign > 0, columns["reference_snr"], columns["science_snr"])
    shape = (columns["elongation"] > cfg.faint_elongation) | (columns["fwhm"] < cfg.faint_narrow * fwhm)
    own = (peaks.snr < cfg.faint_snr) & (columns["sharpness"] > cfg.faint_sharpness) & (columns["chi2"] > cfg.faint_chi2)
    return np.asarray(own & shape & (np.abs(other) < cfg.faint_empty) & (columns["symmetry"] < cfg.dipole_symmetry))


def _misfit(peaks: Peaks, columns: dict[str, NDArray[np.float64]], fwhm: float) -> NDArray[np.float64]:
    """Root of the chi-squared beyond its expectation over the strength: 0 for a source that the PSF fits."""
    pixels = max(np.pi * (_CORE_FWHM * fwhm) ** 2 - 3.0, 3.0)
    return np.asarray(np.sqrt((columns["chi2"] - 1.0).clip(min=0.0) * pixels) / np.maximum(peaks.strength, 1.0))


def _has(bits: NDArray[np.uint32], wanted: DQ) -> NDArray[np.bool_]:
    return np.asarray((bits & np.uint32(wanted)) != 0)


def on_long_region(difference: Difference, peaks: Peaks, cfg: TagsConfig) -> NDArray[np.bool_]:
    """True for peaks on a connected region of one sign beyond trail_sigma that is long and thin, bool (n,).

    The length is sqrt(12 lambda) of the region's larger second moment, the width its area over the length: exact for a uniform
    bar, and a branch on a particle's track counts little.
    """
    fwhm = psf_fwhm(difference.psf_science)
    on = np.zeros(len(peaks), dtype=bool)
    for sign in (1, -1):
        rows = np.flatnonzero(peaks.sign == sign)
        runs = runs_of(difference.score, _beyond(sign, cfg.trail_sigma))
        number = regions(runs, diagonal=True)
        held = runs.find(peaks.iy[rows], peaks.ix[rows])
        own = np.where(held >= 0, number[held], -1) if len(runs) else held
        thin = [region for region in np.unique(own[own >= 0]) if _is_trail(runs.take(number == region), fwhm, cfg)]
        on[rows] = np.isin(own, thin)
    return on


def _beyond(sign: int, sigma: float) -> Callable[[NDArray[Any]], NDArray[np.bool_]]:
    limit = np.float32(sign * sigma)
    return (lambda band: band > limit) if sign > 0 else (lambda band: band < limit)  # NaN compares false


def _is_trail(region: Runs, fwhm: float, cfg: TagsConfig) -> bool:
    height, width = region.row.max() - region.row.min() + 1, region.stop.max() - region.start.min()
    if np.hypot(height, width) < cfg.trail_length_fwhm * fwhm:
        return False
    y, x, _ = region.pixels()
    covariance = np.cov(np.stack([x, y]).astype(np.float64))
    length = float(np.sqrt(12.0 * np.linalg.eigvalsh(covariance)[-1]))
    return length > cfg.trail_length_fwhm * fwhm and length > cfg.trail_elongation * len(x) / length


def on_line(difference: Difference, peaks: Peaks, cfg: TagsConfig) -> NDArray[np.bool_]:
    """True for peaks of one sign that a Hough transform finds on a straight, filled line, bool (n,).

    Bins of 1 deg and one FWHM. A bin needs `trail_members` peaks that span the trail's length, and the score on the line between
    the outermost must be beyond `trail_sigma` over the share `trail_fill` of its usable pixels.
    """
    on = np.zeros(len(peaks), dtype=bool)
    fwhm = psf_fwhm(difference.psf_science)
    for sign in (1, -1):
        rows = np.flatnonzero(peaks.sign == sign)
        if len(rows) < cfg.trail_members:
            continue
        for member in _hough_bins(peaks.x[rows], peaks.y[rows], fwhm, cfg.trail_members):
            line = rows[member]
            if not on[line].all() and _filled_line(difference, sign, peaks.x[line], peaks.y[line], fwhm, cfg):
                on[line] = True
    return on


def _hough_bins(x: NDArray[np.float64], y: NDArray[np.float64], width: float, members: int) -> list[NDArray[np.int64]]:
    """Rows in every bin of (angle, distance) that holds at least `members` and more than chance, the fullest bins first."""
    rho = np.rint((np.outer(np.cos(_ANGLES), x) + np.outer(np.sin(_ANGLES), y)) / width).astype(np.int64)
    rho -= rho.min()
    key = (np.arange(len(_ANGLES))[:, None] * (rho.max() + 1) + rho).ravel()
    count = np.bincount(key)
    chance = len(x) * width / max(float(np.ptp(x)), float(np.ptp(y)), width)  # members of a bin when the peaks lie anywhere
    full = np.flatnonzero(count >= max(members, chance + _CHANCE_SIGMA * np.sqrt(chance)))
    order = np.argsort(key, kind="stable")
    starts = np.concatenate([[0], np.cumsum(count)])
    ranked = full[np.argsort(-count[full], kind="stable")]
    return [order[starts[bin_] : starts[bin_ + 1]] % len(x) for bin_ in ranked]


def _filled_line(difference: Difference, sign: int, x: NDArray[np.float64], y: NDArray[np.float64], fwhm: float, cfg: TagsConfig) -> bool:
    centre_x, centre_y = x.mean(), y.mean()
    _, _, axes = np.linalg.svd(np.column_stack([x - centre_x, y - centre_y]), full_matrices=False)
    along = (x - centre_x) * axes[0, 0] + (y - centre_y) * axes[0, 1]
    if np.ptp(along) < cfg.trail_length_fwhm * fwhm:
        return False
    ny, nx = difference.score.shape
    steps = np.arange(along.min(), along.max() + 1.0)
    iy = np.rint(centre_y + steps * axes[0, 1]).astype(np.int64).clip(0, ny - 1)
    ix = np.rint(centre_x + steps * axes[0, 0]).astype(np.int64).clip(0, nx - 1)
    values = pick(difference.score, iy, ix) * sign
    known = np.isfinite(values) & ~unusable(pick(difference.dq, iy, ix))
    return bool(known.any() and np.mean(values[known] > cfg.trail_sigma) >= cfg.trail_fill)

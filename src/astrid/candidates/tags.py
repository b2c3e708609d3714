"""Artefact tags: evidence beside a candidate, never a cut."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label, map_coordinates

from astrid.candidates.measure import Features
from astrid.candidates.peaks import Peaks, psf_fwhm
from astrid.config.schema.candidates import TagsConfig
from astrid.core.dq import DQ, unusable
from astrid.core.records import Difference

_ANGLES = np.deg2rad(np.arange(0.0, 180.0, 1.0))  # of a line's normal in the Hough transform
_CHANCE_SIGMA = 5.0  # Poisson sigma by which a bin of the Hough transform exceeds chance alignment in a crowded image
_CONNECTED = np.ones((3, 3), dtype=int)


def tag(
    difference: Difference,
    peaks: Peaks,
    features: Features,
    star_distance: NDArray[np.float64],
    star_flux: NDArray[np.float64],
    cfg: TagsConfig,
) -> list[list[str]]:
    """The tags of each peak, in alphabetical order.

    cosmic_ray  sharper than the PSF, by a factor and beyond the sharpness's own error
    hot_pixel   one pixel alone: no neighbour holds what the PSF demands; or a hot pixel in the core
    dipole      opposite-sign flux beside it
    residual    small change close to a bright or saturated star
    saturated   saturated or bled pixels in the core
    trail       on a long thin connected region of the score, or on a filled line of candidates
    edge        close to the edge of the footprint, or in the detector's margin
    extended    wider than the PSF
    """
    columns, bits = features.columns, features.core_bits
    fwhm = psf_fwhm(difference.psf_science)
    excess = (columns["sharpness"] - 1.0) / np.maximum(features.sharpness_err, np.finfo(np.float64).tiny)
    sharp = (columns["sharpness"] > cfg.cosmic_sharpness) & (excess > cfg.cosmic_sigma)
    near_star = (star_distance < cfg.residual_fwhm * fwhm) & (np.abs(columns["flux"]) < cfg.residual_fraction * star_flux)
    limit = cfg.extended_ratio * (1.0 + cfg.extended_noise / np.maximum(peaks.strength, 1.0))
    wide = columns["fwhm"] > limit * features.psf_moment_fwhm
    marks = {
        "cosmic_ray": sharp | _has(bits, DQ.COSMIC_RAY),
        "dipole": columns["symmetry"] > cfg.dipole_symmetry,
        "edge": (columns["edge_distance"] < cfg.edge_distance) | _has(bits, DQ.EDGE),
        "extended": wide,
        "hot_pixel": (sharp & (features.neighbour_ratio < cfg.hot_neighbour)) | _has(bits, DQ.HOT),
        "residual": near_star,
        "saturated": _has(bits, DQ.SATURATED | DQ.BLEED),
        "trail": on_long_region(difference, peaks, cfg) | on_line(difference, peaks, cfg),
    }
    return [[name for name, mark in marks.items() if mark[row]] for row in range(len(peaks))]


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
        regions, _ = label(difference.score * sign > cfg.trail_sigma, structure=_CONNECTED)  # NaN compares false
        own = regions[peaks.iy[rows], peaks.ix[rows]]
        boxes = find_objects(regions)
        thin = [number for number in np.unique(own[own > 0]) if _is_trail(regions, boxes[number - 1], number, fwhm, cfg)]
        on[rows] = np.isin(own, thin)
    return on


def _is_trail(regions: NDArray[np.int32], box: tuple[slice, slice], number: int, fwhm: float, cfg: TagsConfig) -> bool:
    if np.hypot(box[0].stop - box[0].start, box[1].stop - box[1].start) < cfg.trail_length_fwhm * fwhm:
        return False
    y, x = np.nonzero(regions[box] == number)
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
    score = np.where(unusable(difference.dq), np.float32(np.nan), difference.score)
    for sign in (1, -1):
        rows = np.flatnonzero(peaks.sign == sign)
        if len(rows) < cfg.trail_members:
            continue
        for member in _hough_bins(peaks.x[rows], peaks.y[rows], fwhm, cfg.trail_members):
            line = rows[member]
            if not on[line].all() and _filled_line(score * sign, peaks.x[line], peaks.y[line], fwhm, cfg):
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


def _filled_line(plane: NDArray[np.float32], x: NDArray[np.float64], y: NDArray[np.float64], fwhm: float, cfg: TagsConfig) -> bool:
    centre_x, centre_y = x.mean(), y.mean()
    _, _, axes = np.linalg.svd(np.column_stack([x - centre_x, y - centre_y]), full_matrices=False)
    along = (x - centre_x) * axes[0, 0] + (y - centre_y) * axes[0, 1]
    if np.ptp(along) < cfg.trail_length_fwhm * fwhm:
        return False
    steps = np.arange(along.min(), along.max() + 1.0)
    values = map_coordinates(plane, [centre_y + steps * axes[0, 1], centre_x + steps * axes[0, 0]], order=0, mode="nearest")
    known = np.isfinite(values)
    return bool(known.any() and np.mean(values[known] > cfg.trail_sigma) >= cfg.trail_fill)

"""Trails: long thin regions of the score and filled lines of candidates, and which of them a particle left rather than a satellite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid.candidates.peaks import Peaks, psf_fwhm
from astrid.candidates.planes import Pixels, pick
from astrid.candidates.runs import Runs, regions, runs_of
from astrid.config.schema.candidates import TagsConfig
from astrid.core.dq import unusable
from astrid.core.records import Difference

_ANGLES = np.deg2rad(np.arange(0.0, 180.0, 1.0))  # of a line's normal in the Hough transform
_CHANCE_SIGMA = 5.0  # Poisson sigma by which a bin of the Hough transform exceeds chance alignment in a crowded image
_COLUMN_TILT = np.tan(np.deg2rad(3.0))  # of a trail that may be a column of the detector, on a reference that is turned a little too

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Trails:
    """Which trail each peak lies on; arrays of (n,)."""

    number: Pixels  # of the trail, -1 without; every peak of a broken trail has its own
    upright: Mask  # it runs along the detector's columns

    @property
    def on(self) -> Mask:
        """True for peaks on a trail."""
        return self.number >= 0


def trails_of(difference: Difference, peaks: Peaks, cfg: TagsConfig) -> Trails:
    """The trails of both signs: connected regions first, then the lines of peaks that lie on none."""
    long = on_long_region(difference, peaks, cfg)
    on, upright = on_line(difference, peaks, long.on, cfg)
    loose = on & ~long.on
    return Trails(np.where(loose, long.number.max(initial=-1) + np.cumsum(loose), long.number), np.where(loose, upright, long.upright))


def on_track(trails: Trails, across: Floats, error: Floats, cfg: TagsConfig) -> Mask:
    """True for peaks on a trail that is narrower across than the PSF by `narrow_share` and by `cosmic_sigma` errors, bool (n,).

    A particle leaves its charge in the pixels that it passes, 0.3 to 0.6 pixel wide; a satellite's light has passed the optics
    and is as wide as the PSF at least. The width of a trail is the mean of `across` at its peaks with their errors, to which
    `narrow_error` is added in quadrature, since charge falls in lumps; half of its peaks must be as narrow, lest one hit on a
    satellite's trail speak for all. A peak that is itself as wide as the PSF (a star beside the track) is none of it, and a trail
    along a column is the detector's.
    """
    rows = np.flatnonzero(trails.on)
    _, trail = np.unique(trails.number[rows], return_inverse=True)
    weight = 1.0 / (np.square(error[rows]) + cfg.narrow_error**2)
    total = np.maximum(np.bincount(trail, weight), np.finfo(np.float64).tiny)
    mean = np.bincount(trail, weight * across[rows]) / total
    few = np.bincount(trail, across[rows] < cfg.narrow_share) < 0.5 * np.bincount(trail)
    narrow = is_narrow(mean, 1.0 / np.sqrt(total), cfg) & ~few
    on = np.zeros(len(across), dtype=bool)
    own = across[rows] - np.hypot(error[rows], cfg.narrow_error)
    on[rows] = narrow[trail] & (own < cfg.narrow_share) & ~trails.upright[rows]
    return on


def is_narrow(across: Floats, error: Floats, cfg: TagsConfig) -> Mask:
    """True where a width across, over the PSF's, is below 1 by both limits."""
    return np.asarray((across < cfg.narrow_share) & (1.0 - across > cfg.cosmic_sigma * error))


def on_long_region(difference: Difference, peaks: Peaks, cfg: TagsConfig) -> Trails:
    """Connected regions of one sign beyond trail_sigma that are long and thin.

    The length is sqrt(12 lambda) of the region's larger second moment, the width its area over the length: exact for a uniform
    bar, and a branch on a particle's track counts little.
    """
    fwhm = psf_fwhm(difference.psf_science)
    trails = Trails(np.full(len(peaks), -1), np.zeros(len(peaks), dtype=bool))
    for sign in (1, -1):
        rows = np.flatnonzero(peaks.sign == sign)
        runs = runs_of(difference.score, _beyond(sign, cfg.trail_sigma))
        number = regions(runs, diagonal=True)
        held = runs.find(peaks.iy[rows], peaks.ix[rows])
        own = np.where(held >= 0, number[held], -1) if len(runs) else held
        first = trails.number.max(initial=-1) + 1
        for region in np.unique(own[own >= 0]):
            part = runs.take(number == region)
            if _is_trail(part, fwhm, cfg):
                trails.number[rows[own == region]] = first + region
                trails.upright[rows[own == region]] = _tilt(part) < _COLUMN_TILT
    return trails


def _beyond(sign: int, sigma: float) -> Callable[[NDArray[Any]], Mask]:
    limit = np.float32(sign * sigma)
    return (lambda band: band > limit) if sign > 0 else (lambda band: band < limit)  # NaN compares false


def _is_trail(region: Runs, fwhm: float, cfg: TagsConfig) -> bool:
    height, width = region.row.max() - region.row.min() + 1, region.stop.max() - region.start.min()
    if np.hypot(height, width) < cfg.trail_length_fwhm * fwhm:
        return False
    covariance, pixels = _moments(region)
    length = float(np.sqrt(12.0 * np.linalg.eigvalsh(covariance)[-1]))
    return length > cfg.trail_length_fwhm * fwhm and length > cfg.trail_elongation * pixels / length


def _tilt(region: Runs) -> float:
    """Tangent of the angle between a region's long axis and the columns."""
    across, along = np.abs(np.linalg.eigh(_moments(region)[0])[1][:, -1])
    return float(across / along) if along > 0 else float("inf")


def _moments(region: Runs) -> tuple[Floats, int]:
    """Covariance of x and y over a region's pixels, (2, 2) px^2, and their number."""
    y, x, _ = region.pixels()
    return np.cov(np.stack([x, y]).astype(np.float64)), len(x)


def on_line(difference: Difference, peaks: Peaks, known: Mask, cfg: TagsConfig) -> tuple[Mask, Mask]:
    """True for peaks of one sign that a Hough transform finds on a straight, filled line, and where it runs along a column; bool (n,).

    Bins of 1 deg and one FWHM. A bin needs `trail_members` peaks that span the trail's length, and the score on the line between
    the outermost must be beyond `trail_sigma` over the share `trail_fill` of its usable pixels. Lines of `known` peaks alone are left out.
    """
    on, upright = known.copy(), np.zeros(len(peaks), dtype=bool)
    fwhm = psf_fwhm(difference.psf_science)
    for sign in (1, -1):
        rows = np.flatnonzero(peaks.sign == sign)
        if len(rows) < cfg.trail_members:
            continue
        for member in _hough_bins(peaks.x[rows], peaks.y[rows], fwhm, cfg.trail_members):
            line = rows[member]
            if not on[line].all() and _filled_line(difference, sign, peaks.x[line], peaks.y[line], fwhm, cfg):
                on[line] = True
                upright[line] |= np.ptp(peaks.x[line]) < _COLUMN_TILT * np.ptp(peaks.y[line])
    return on, upright


def _hough_bins(x: Floats, y: Floats, width: float, members: int) -> list[NDArray[np.int64]]:
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


def _filled_line(difference: Difference, sign: int, x: Floats, y: Floats, fwhm: float, cfg: TagsConfig) -> bool:
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

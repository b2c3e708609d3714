"""The surroundings of stars on which a PSF is built: their neighbours and their local backgrounds."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from astrid.imaging.stars.profile import Cutouts, Field, Floats, StarFit

_SKY_FROM = 0.7  # of the stamp's half side: beyond this radius a star's local background is measured
_SKY_CLIP = 3.0  # sigma
_SKY_ROUNDS = 2  # of clipping
_LEAST_SLOPE = 6  # stars that tell wings from backgrounds
_MAD = 1.4826  # median absolute deviation -> sigma of a Gaussian
_LEAST_SKY = 20  # px of a star's background
_DISC_PER_DECADE = 0.5  # FWHM by which the disc masked about a neighbour grows with each decade of its S/N
_SAME_PX = 0.5  # px, nearer than this a source is the star itself


def without_neighbours(cutouts: Cutouts, chosen: NDArray[Any], found: NDArray[Any], fwhm: float) -> Cutouts:
    """Cutouts whose pixels near other sources have no weight; the brighter a source, the wider the disc. Cores are kept."""
    places, stars = np.c_[found["x"], found["y"]], np.c_[chosen["x"], chosen["y"]]
    radius = found["fwhm"] * (1.0 + _DISC_PER_DECADE * np.log10(np.maximum(found["snr"], 10.0)))
    weight = cutouts.weight.copy()
    reach = np.sqrt(2.0) * (cutouts.data.shape[1] // 2 + 1) + float(radius.max())
    for star, near in enumerate(cKDTree(places).query_ball_point(stars, reach)):
        others = [j for j in near if np.hypot(*(places[j] - stars[star])) > _SAME_PX]
        dy, dx = cutouts.y[star], cutouts.x[star]
        core = np.hypot(dy - stars[star, 1], dx - stars[star, 0]) < fwhm
        for j in others:
            weight[star][(np.hypot(dy - places[j, 1], dx - places[j, 0]) < radius[j]) & ~core] = 0.0
    return dataclasses.replace(cutouts, weight=weight)


def distances(cutouts: Cutouts, fit: StarFit) -> Floats:
    """(n, k, k): distance of each pixel from its star, px."""
    return np.asarray(np.hypot(cutouts.y - fit.y[:, None, None], cutouts.x - fit.x[:, None, None]))


def star_levels(cutouts: Cutouts, fit: StarFit, shape: Field) -> Floats:
    """(n,) clipped mean of what a star leaves in the outer part of its cutout, less what goes with its flux; NaN with too few pixels.

    Light in proportion to the stars' fluxes is that of the PSF's wings, which the shape lacks or has in excess; a background is not.
    """
    left = cutouts.data - fit.flux[:, None, None] * shape.planes(cutouts, fit.y, fit.x)[:, 0]
    outer = (distances(cutouts, fit) >= _SKY_FROM * (cutouts.data.shape[1] // 2)) & (cutouts.weight > 0)
    enough = outer.sum(axis=(1, 2)) >= _LEAST_SKY
    level = np.full(len(left), np.nan)
    if not enough.any():
        return level
    values = np.where(outer, left, np.nan)[enough].reshape(int(enough.sum()), -1)
    for _ in range(_SKY_ROUNDS):
        middle = _row_median(values)
        width = _MAD * _row_median(np.abs(values - middle))
        values = np.where(np.abs(values - middle) <= _SKY_CLIP * width, values, np.nan)
    count = np.isfinite(values).sum(axis=1)
    mean = np.nansum(values, axis=1) / count
    error = np.sqrt(np.nansum((values - mean[:, None]) ** 2, axis=1)) / count
    level[enough] = mean - _per_flux(fit.flux[enough], mean, error) * fit.flux[enough]
    return level


def _row_median(values: Floats) -> Floats:
    """(n, 1) medians of the finite values of each row, each of which has some."""
    ordered = np.sort(values, axis=1)  # NaN last
    last = np.isfinite(ordered).sum(axis=1) - 1
    row = np.arange(len(ordered))
    return np.asarray(0.5 * (ordered[row, last // 2] + ordered[row, (last + 1) // 2]))[:, None]


def _per_flux(flux: Floats, level: Floats, error: Floats) -> float:
    """Slope of the levels over the fluxes by clipped least squares, shrunk by its own error."""
    slope, keep = 0.0, np.isfinite(level) & (flux > 0) & (error > 0)
    for _ in range(3):
        if keep.sum() < _LEAST_SLOPE:
            return 0.0
        scatter = _MAD * np.median(np.abs(level[keep] - slope * flux[keep] - np.median(level[keep] - slope * flux[keep])))
        weight = np.where(keep, 1.0 / (error**2 + scatter**2), 0.0)
        centred = flux - np.average(flux, weights=weight)
        moment = float((weight * centred**2).sum())
        if moment <= 0:
            return 0.0
        slope = float((weight * centred * level).sum()) / moment
        left = level - slope * flux
        left -= np.average(left, weights=weight)
        keep &= np.abs(left) <= _SKY_CLIP * np.hypot(error, scatter)
    return slope * max(0.0, 1.0 - 1.0 / max(slope * slope * moment, 1e-300))

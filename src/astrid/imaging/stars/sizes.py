"""Sizes of sources and the sequence that the stars among them form.

The size is the FWHM of the circular Gaussian that matches a source's core: the fixed point at which the second moments under
a Gaussian window of variance s^2 are s^2 / 2 (adaptive moments, Bernstein & Jarvis 2002, AJ 123, 583). Weighted like the source itself,
it is about three times less noisy than a half-light radius and hardly sees wings, neighbours or the sky.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FWHM_PER_SIGMA = float(2.0 * np.sqrt(2.0 * np.log(2.0)))
_ROUNDS = 25  # of the window's size
_SETTLED = 1e-3  # relative change of the variance, and px of the centre, that ends the rounds
_CENTRE_STEP = 0.3  # px, the most the centre moves in one round
_CHUNK = 256  # sources measured at once
_WINDOW_SIGMAS = 3.0  # reach of a cutout in units of the largest sigma that it can measure
_PIXEL_SIGMA = 1.0 / np.sqrt(12.0)  # px, of the pixel itself: nothing that the optics made is smaller
_WIDTH = 0.12  # in ln(size), the window in which sources are counted
_LEAST = 4  # sources that make a sequence
_SHARE = 0.15  # a smaller size wins over the commonest when this share as many sources have it
_FEW = 3  # with fewer sources than a sequence needs, the size of the stars is the median of so many of the most compact
_FLOOR = 0.06  # in ln(size), least half-width of the sequence
_SIGMAS = 3.0  # of its scatter, half-width of the sequence
_MAD = 1.4826  # median absolute deviation -> sigma of a Gaussian


@dataclass(frozen=True)
class Locus:
    """The stars' sequence: `size` px (FWHM), `width` its half-width in ln(size), `n` the sources that it was told from.

    `common` is False where too few sources agree and `size` is that of the most compact ones.
    """

    size: float
    width: float
    n: int
    common: bool


def core_fwhm(image: NDArray[Any], mask: NDArray[np.bool_], x: Floats, y: Floats, start: Floats) -> Floats:
    """FWHM, px, of the matched Gaussian of each source.

    Parameters
    ----------
    image, mask
        (ny, nx) sky-subtracted image; masked pixels count as zero.
    x, y, start
        (n,) positions, px, and first guesses of the FWHM, px.

    Returns
    -------
    (n,) float64, between the pixel's own width and the largest that the cutouts (sized by the upper quartile of `start`) can hold.
    """
    if len(x) == 0:
        return np.zeros(0)
    half = int(np.clip(np.ceil(1.5 * np.percentile(start, 75)), 8, 40))
    bounds = (_PIXEL_SIGMA, half / _WINDOW_SIGMAS)
    first = np.clip(start / FWHM_PER_SIGMA, *bounds) ** 2
    chunks = [slice(at, at + _CHUNK) for at in range(0, len(x), _CHUNK)]
    return np.concatenate([_matched(image, mask, x[part], y[part], first[part], half, bounds) for part in chunks])


def _matched(
    image: NDArray[Any], mask: NDArray[np.bool_], x: Floats, y: Floats, variance: Floats, half: int, bounds: tuple[float, float]
) -> Floats:
    ny, nx = image.shape
    offset = np.arange(-half, half + 1)
    rows = np.rint(y).astype(int)[:, None, None] + offset[None, :, None]
    columns = np.rint(x).astype(int)[:, None, None] + offset[None, None, :]
    inside = (rows >= 0) & (rows < ny) & (columns >= 0) & (columns < nx)
    at = (rows.clip(0, ny - 1), columns.clip(0, nx - 1))
    data = np.where(inside & ~mask[at], image[at], 0.0).astype(np.float64)
    row, column = rows[:, :, 0].astype(float), columns[:, 0, :].astype(float)
    px, py = x.astype(float).copy(), y.astype(float).copy()
    low, high = bounds[0] ** 2, bounds[1] ** 2
    for _ in range(_ROUNDS):
        down, across = _window_moments(row - py[:, None], variance), _window_moments(column - px[:, None], variance)
        sums = down @ data @ across.swapaxes(1, 2)  # (n, 3, 3): powers of dy, dx
        known = sums[:, 0, 0] > 0
        total = np.where(known, sums[:, 0, 0], 1.0)
        moment = np.where(known, (sums[:, 2, 0] + sums[:, 0, 2]) / (2.0 * total), variance / 2.0)
        step_x, step_y = (
            np.where(known, np.clip(2.0 * first / total, -_CENTRE_STEP, _CENTRE_STEP), 0.0) for first in (sums[:, 0, 1], sums[:, 1, 0])
        )
        px, py = px + step_x, py + step_y
        freed = np.where(moment < variance, moment * variance / np.maximum(variance - moment, 1e-9), high)
        before = variance
        variance = np.clip(np.sqrt(variance * np.clip(freed, low, high)), low, high)
        if np.all(np.abs(variance - before) <= _SETTLED * before) and max(np.abs(step_x).max(), np.abs(step_y).max()) <= _SETTLED:
            break
    return np.asarray(FWHM_PER_SIGMA * np.sqrt(variance))


def _window_moments(offset: Floats, variance: Floats) -> Floats:
    """(n, 3, k): a Gaussian window along one axis, times the powers 0, 1 and 2 of the offset."""
    window = np.exp(offset * offset * (-0.5 / variance[:, None]))
    return np.stack([window, window * offset, window * offset * offset], axis=1)


def find_locus(size: Floats) -> Locus:
    """The smallest well-populated concentration of sizes: galaxies may be the majority, but none is sharper than a star.

    `size` (n,), n >= 1, px, is that of clean, round sources. The centre is the mean of the shortest half (which a tail of compact
    galaxies does not move), the scatter that of the smaller half about it.
    """
    log = np.sort(np.log(size))
    ends = np.searchsorted(log, log + _WIDTH, side="right")
    counts = ends - np.arange(len(log))
    needed = max(_LEAST, _SHARE * counts.max())
    if counts.max() < needed:
        few = log[:_FEW]
        return Locus(float(np.exp(np.median(few))), _WIDTH, len(few), False)
    start = int(np.flatnonzero(counts >= needed)[0])
    centre = _shortest_half(log[start : ends[start]])
    for _ in range(3):
        centre = _shortest_half(log[np.abs(log - centre) <= _WIDTH])
    members = log[np.abs(log - centre) <= _WIDTH]
    below = centre - members[members <= centre]
    scatter = _MAD * float(np.median(below)) if len(below) else 0.0
    return Locus(float(np.exp(centre)), max(_FLOOR, _SIGMAS * scatter), len(members), True)


def _shortest_half(ordered: Floats) -> float:
    """Mean of the half of the values (ascending) that lies within the shortest interval."""
    keep = (len(ordered) + 1) // 2
    spans = ordered[keep - 1 :] - ordered[: len(ordered) - keep + 1]
    first = int(np.argmin(spans))
    return float(np.mean(ordered[first : first + keep]))

"""What a sensor does to charge that is already collected: pixels that shrink, charge that stays, amplifiers that disagree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]

_FIELD_REACH = 1.5  # pixel, sigma of the reach of a pixel's charge
_STAR_WINDOW = 24  # pixel, half width of the star on which the effect is normalised
_COLUMN_ON = 0.6  # share of exposures in which a blinking column leaks
_NEIGHBOUR = 0.3  # share of bad columns whose neighbour leaks too, and its share of the charge


def brighter_fatter(charge: Floats, strength: float, full_well: float) -> None:
    """Let collected charge push later charge into its neighbours, in place; the sum is conserved.

    The border between two pixels moves towards the fuller one by half of the difference of their potentials (Antilogus et al.
    2014, JINST 9, C03048, eq. 1; Guyonnet et al. 2015, A&A 575, A41), which here are the charge seen through a Gaussian of
    1.5 pixel; the charge between old and new border changes sides. `strength` is the shift in pixels an electron.
    """
    held = np.minimum(charge, full_well)
    potential = ndimage.gaussian_filter(held, _FIELD_REACH, mode="nearest")
    across = strength * np.diff(potential, axis=1) * 0.5 * (held[:, 1:] + held[:, :-1])
    along = strength * np.diff(potential, axis=0) * 0.5 * (held[1:] + held[:-1])
    charge[:, :-1] += across
    charge[:, 1:] -= across
    charge[:-1] += along
    charge[1:] -= along


def brighter_fatter_strength(growth: float, fwhm: float, full_well: float) -> float:
    """The strength at which a Gaussian star of `fwhm` pixels, its peak at full well, grows by the relative `growth` in FWHM."""
    if growth <= 0:
        return 0.0
    grid = np.arange(-_STAR_WINDOW, _STAR_WINDOW + 1.0)
    square = grid[:, None] ** 2 + grid[None, :] ** 2
    star = full_well * np.exp(-4 * np.log(2) * square / fwhm**2)
    tried = star.copy()
    small = 1e-3 / full_well
    brighter_fatter(tried, small, full_well)
    return float(growth / (0.5 * ((tried - star) * square).sum() / (star * square).sum()) * small)


@dataclass(frozen=True, eq=False)
class HotColumns:
    """Columns that leak charge from a defect on, towards the last row read; the bad-pixel mask does not know them."""

    column: NDArray[np.int64]
    first: NDArray[np.int64]  # row of the defect
    rate: Floats  # electron/s a pixel


def draw_columns(size: int, mean: float, charge: float, exptime: float, rng: np.random.Generator) -> HotColumns:
    """The bad columns of a sensor, some with a weaker neighbour."""
    drawn: list[tuple[int, int, float]] = []
    for _ in range(int(rng.poisson(mean))):
        place, start = int(rng.integers(0, size)), int(rng.integers(0, 3 * size // 4))
        level = charge * float(rng.lognormal(0.0, 0.6)) / exptime
        drawn.append((place, start, level))
        if rng.random() < _NEIGHBOUR and place + 1 < size:
            drawn.append((place + 1, start, _NEIGHBOUR * level))
    columns, rows, rates = (np.array([entry[index] for entry in drawn]) for index in range(3))
    return HotColumns(columns.astype(np.int64), rows.astype(np.int64), rates.astype(np.float64))


def leak(charge: Floats, columns: HotColumns, exptime: float, rng: np.random.Generator) -> Floats:
    """Add what the bad columns leak in one exposure, in place, with its shot noise; returns what is expected of them (electrons)."""
    size, expected = charge.shape[0], np.zeros(charge.shape)
    for column, first, rate in zip(columns.column.tolist(), columns.first.tolist(), columns.rate.tolist(), strict=True):
        on, level = rng.random() < _COLUMN_ON, rate * exptime * float(rng.lognormal(0.0, 0.3))
        drawn = rng.poisson(level, size - first)
        if on:
            charge[first:, column] += drawn
            expected[first:, column] += level
    return expected


def crosstalk(charge: Floats, share: float) -> Floats:
    """Each pixel's charge times `share` at the pixel that the other amplifier reads at the same moment (electrons).

    The two amplifiers read the halves of a row from the outside in, so that the image is mirrored about the middle (Freyhammer
    et al. 2001, Exp. Astron. 12, 147; Bernstein et al. 2017, PASP 129, 114502: some 1e-4, up to 1e-3).
    """
    return np.asarray(share * charge[:, ::-1])


def step(size: int, sky: float, drift: tuple[float, float], gain: float) -> Floats:
    """What the second amplifier's `drift` (of `detector.amplifier_drift`) adds to `sky` electrons on its half: electrons, (size, size)."""
    light = np.zeros((size, size))
    light[:, size // 2 :] = sky * (1 / (1 + drift[0]) - 1) + drift[1] * gain
    return light

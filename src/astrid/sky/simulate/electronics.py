"""What a sensor does to charge that is already collected: pixels that shrink, charge that stays, amplifiers that disagree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrid.sky.simulate.artifacts import Mark, thinned

Floats = NDArray[np.float64]

_FIELD_REACH = 1.5  # pixel, sigma of the reach of a pixel's charge
_STAR_WINDOW = 24  # pixel, half width of the star on which the effect is normalised
_COLUMN_ON = 0.6  # share of exposures in which a blinking column leaks
_COLUMN_STEP = 4  # pixel between the marks of a column
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


def leak(charge: Floats, columns: HotColumns, exptime: float, rng: np.random.Generator) -> list[Mark]:
    """Add what the bad columns leak in one exposure, in place, with its shot noise; returns marks along those that leak."""
    marks = []
    size = charge.shape[0]
    for number, (column, first, rate) in enumerate(
        zip(columns.column.tolist(), columns.first.tolist(), columns.rate.tolist(), strict=True)
    ):
        on, level = rng.random() < _COLUMN_ON, rate * exptime * float(rng.lognormal(0.0, 0.3))
        drawn = rng.poisson(level, size - first)
        if on:
            charge[first:, column] += drawn
            marks += [Mark(f"column{number}", "bad_column", float(column), float(y), level) for y in range(first, size, _COLUMN_STEP)]
    return marks


def crosstalk(charge: Floats, share: float) -> None:
    """Add each pixel's charge times `share` to the pixel that the other amplifier reads at the same moment, in place.

    The two amplifiers read the halves of a row from the outside in, so that the image is mirrored about the middle (Freyhammer
    et al. 2001, Exp. Astron. 12, 147; Bernstein et al. 2017, PASP 129, 114502: some 1e-4, up to 1e-3).
    """
    charge += share * charge[:, ::-1]


def crosstalk_marks(
    marks: list[Mark], stars: list[tuple[str, float, float, float]], width: int, share: float, limits: tuple[float, float, float]
) -> list[Mark]:
    """Marks at the mirror images of full columns and bright stars that show.

    `limits`: the peak of a star of unit flux, the full well, and the faintest peak that counts (electrons).
    """
    peak, full_well, faintest = limits
    found = []
    if share * full_well > faintest:
        found += [Mark(f"{mark.name}-talk", "crosstalk", width - 1 - mark.x, mark.y, share * full_well) for mark in marks]
    done = {mark.name for mark in marks}
    for name, x, y, flux in stars:
        seen = share * min(peak * flux, full_well)
        if name not in done and seen > faintest:
            found.append(Mark(f"{name}-talk", "crosstalk", width - 1 - x, y, seen))
    return thinned(found, width)


def step_marks(size: int, step: float, faintest: float) -> list[Mark]:
    """Marks along the border between two amplifiers whose levels differ by `step` electrons."""
    if abs(step) < faintest:
        return []
    middle = size / 2 - 0.5
    return [Mark("amplifiers", "amplifier_step", middle, float(y), abs(step)) for y in range(0, size, _COLUMN_STEP)]

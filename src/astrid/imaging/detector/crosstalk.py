"""Crosstalk of a raw exposure: the share of one amplifier's charge in another's pixels, measured, and where it shows.

Amplifiers that are read at the same time couple: each pixel holds a share of some 1e-5 to 1e-3 of what the others read at the same
moment (Freyhammer et al. 2001, Exp. Astron. 12, 147). The share is the slope of the victims' charge over the aggressors', as
Rubin's instrument-signature removal measures it from pixels well above the sky. The image itself is not corrected.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrid.config.schema.calibrate import CrosstalkConfig
from astrid.core.archive import Amplifier, Section
from astrid.core.dq import DQ, unusable
from astrid.core.records import DQImage

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_GRID = re.compile(r"^\s*([12])[\s,]+([12])\s*$")
_MOST = 1 << 16  # aggressor pixels that are used, the brightest first
_FEWEST = 16  # that are needed
_CONTROLS = 48  # displacements along the columns, at which no crosstalk is
_NEAREST = 0.07  # of the amplifier's length, the shortest of them
_CLIP = 4.0  # sigma of a pixel about the line
_ROUNDS = 10
_SEARCHES = 3  # rounds of (own sources, sky, line)
_SMOOTH = 1.5  # px, sigma of the filter under which own sources are looked for
_GROW = 3  # px, around them
_CAP = 16.0  # sigma, brighter pixels are held at it there, so that one does not smear into a disc
_LEAST = 1e-3  # weight of unmasked pixels, below which the sky about a pixel is unknown
_ONE_SIGMA = 0.159  # share of a Gaussian below -1 sigma


@dataclass(frozen=True)
class Channel:
    """An amplifier by its place in the trimmed image; `step` turns it so that its first pixel is the one that is read first."""

    name: str
    place: Section
    step: tuple[int, int]  # 1 or -1 along rows and columns

    def read(self, plane: NDArray[Any]) -> NDArray[Any]:
        """The amplifier's part of a plane (ny, nx), a view in the order of the readout."""
        return plane[self.place][:: self.step[0], :: self.step[1]]


@dataclass(frozen=True)
class Coupling:
    """What a victim's pixel holds of the charge that the aggressor reads at the same moment, electrons an electron."""

    aggressor: Channel
    victim: Channel
    share: float
    error: float  # 1 sigma, with what the victim's own sources do to it


@dataclass(frozen=True, eq=False)
class Crosstalk:
    """What an exposure shows of it: `flags` holds DQ.CROSSTALK, `numbers` every measured share and its error."""

    flags: DQImage  # (ny, nx)
    numbers: Mapping[str, float]


def channels(shape: tuple[int, int], grid: str, amplifiers: Sequence[Amplifier], config: CrosstalkConfig) -> tuple[Channel, ...]:
    """The amplifiers of a trimmed image of `shape` (ny, nx), each read from its outer corner; empty where the layout is not known.

    `grid`: amplifiers along y and x, "1 2" (the card NAMPSYX of NOAO's Arcon controllers), empty without. Amplifiers that have sections
    of their own count where they are two or four of one size in such a grid.
    """
    if config.layout == "none":
        return ()
    match = _GRID.match("1 2" if config.layout == "mirrored" else grid)
    if match is not None:
        counts = [int(match.group(1)), int(match.group(2))]
    else:
        starts = [sorted({amplifier.place[axis].start for amplifier in amplifiers}) for axis in (0, 1)]
        counts = [len(part) for part in starts]
        sizes = {tuple(part.stop - part.start for part in amplifier.place) for amplifier in amplifiers}
        if max(counts) > 2 or len(sizes) != 1 or len(amplifiers) != counts[0] * counts[1]:
            return ()
    if counts == [1, 1]:
        return ()
    rows, columns = (_parts(length, count) for length, count in zip(shape, counts, strict=True))
    return tuple(
        Channel(f"{1 + x + y * counts[1]}", (row[0], column[0]), (row[1], column[1]))
        for y, row in enumerate(rows)
        for x, column in enumerate(columns)
    )


def _parts(length: int, count: int) -> list[tuple[slice, int]]:
    """One axis as one part, or as two that are read from its ends inwards: (its range, the step that turns it)."""
    if count == 1:
        return [(slice(0, length), 1)]
    return [(slice(0, length // 2), 1), (slice(length - length // 2, length), -1)]


def flag_crosstalk(charge: Floats, sigma: Floats, dq: DQImage, parts: Sequence[Channel], config: CrosstalkConfig) -> Crosstalk:
    """Measure the shares and mark the pixels where those that are believed make more than `flag_sigma` of the noise.

    `charge`, `sigma`: electrons (ny, nx) above the sky before the flat, finite, and their noise.
    """
    couplings = measure_crosstalk(charge, sigma, unusable(dq) | ((dq & np.uint32(DQ.EDGE)) != 0), parts, config)
    shows = predicted(charge, couplings, config) > config.flag_sigma * sigma
    numbers: dict[str, float] = {}
    for coupling in couplings:
        pair = f"{coupling.aggressor.name}_{coupling.victim.name}"
        numbers |= {f"crosstalk_{pair}": coupling.share, f"crosstalk_error_{pair}": coupling.error}
    return Crosstalk(np.where(shows, np.uint32(DQ.CROSSTALK), np.uint32(0)), numbers)


def measure_crosstalk(charge: Floats, sigma: Floats, lost: Mask, parts: Sequence[Channel], config: CrosstalkConfig) -> tuple[Coupling, ...]:
    """The couplings of every aggressor and victim that can be measured.

    Parameters
    ----------
    charge, sigma
        (ny, nx) electrons above the sky before the flat, finite, and their noise. A saturated pixel counts as an aggressor with what
        was read.
    lost
        (ny, nx) True where a pixel cannot be a victim.
    """
    found = (_coupling(charge, sigma, lost, aggressor, victim, config) for aggressor, victim in permutations(parts, 2))
    return tuple(coupling for coupling in found if coupling is not None)


def predicted(charge: Floats, couplings: Sequence[Coupling], config: CrosstalkConfig) -> Floats:
    """The crosstalk, electrons (ny, nx), of the couplings that are beyond `config.sigma` of their errors; 0 elsewhere."""
    out = np.zeros(charge.shape)
    for coupling in couplings:
        if coupling.share > config.sigma * coupling.error:
            coupling.victim.read(out)[...] += coupling.share * coupling.aggressor.read(charge)
    return out


def _coupling(charge: Floats, sigma: Floats, lost: Mask, aggressor: Channel, victim: Channel, config: CrosstalkConfig) -> Coupling | None:
    """The slope at the crosstalk's place, less the median of the slopes at places where none can be; their scatter is its error.

    What sources too faint to be masked do to the slope they do there as well.
    """
    source = aggressor.read(charge).astype(np.float64)
    own, noise = (victim.read(plane).astype(np.float64) for plane in (charge, sigma))
    hidden: Mask = victim.read(lost)
    bright = np.flatnonzero(source > config.aggressor_sigma * np.median(noise))
    bright = bright[np.argsort(-source.ravel()[bright], kind="stable")[:_MOST]]
    row, column = np.divmod(bright, source.shape[1])
    light = source.ravel()[bright]
    share = _first_guess(light, own[row, column], noise[row, column], hidden[row, column], config)
    masked, level, formal = hidden, np.zeros(own.shape), np.inf
    for _ in range(_SEARCHES):
        rest = own - share * source
        masked = hidden | _sources(rest, noise, hidden, config)
        level = _sky(rest, masked, config.level_px)
        share, formal = _slope(row, column, light, own - level, noise, masked, share)
        if not np.isfinite(formal):
            return None
    rest = own - level - share * source
    length = source.shape[0]
    shifts = np.unique(np.rint(np.linspace(_NEAREST, 1.0 - _NEAREST, _CONTROLS) * length).astype(int))
    slopes = np.array([_slope((row + shift) % length, column, light, rest, noise, masked, 0.0)[0] for shift in shifts])
    slopes = slopes[np.isfinite(slopes)]
    if len(slopes) < _FEWEST:
        return None
    scatter = 0.5 * float(np.diff(np.quantile(slopes, [_ONE_SIGMA, 1.0 - _ONE_SIGMA]))[0])
    return Coupling(aggressor, victim, share - float(np.median(slopes)), max(scatter, formal))


def _first_guess(light: Floats, own: Floats, noise: Floats, hidden: Mask, config: CrosstalkConfig) -> float:
    """The line of least absolute distance, which few sources of its own do not move, within what crosstalk may be."""
    good = ~hidden
    if not good.any():
        return 0.0
    ratio, weight = own[good] / light[good], light[good] / noise[good]
    order = np.argsort(ratio, kind="stable")
    total = np.cumsum(weight[order])
    return float(np.clip(ratio[order][np.searchsorted(total, 0.5 * total[-1])], 0.0, config.max_share))


def _slope(
    row: NDArray[np.intp], column: NDArray[np.intp], light: Floats, own: Floats, noise: Floats, masked: Mask, share: float
) -> tuple[float, float]:
    """The slope through zero of `own` over `light`, clipped about the line in rounds, and its error from the noise; inf without."""
    good = ~masked[row, column]
    if int(good.sum()) < _FEWEST:
        return np.nan, np.inf
    x, y, s = light[good], own[row, column][good], noise[row, column][good]
    power = np.square(x / s)
    error = np.inf
    for _ in range(_ROUNDS):
        near = np.abs(y - share * x) < _CLIP * s
        total = float(power[near].sum())
        if not total > 0:
            return np.nan, np.inf
        previous, share, error = share, float((power * y / x)[near].sum() / total), total**-0.5
        if abs(share - previous) < 0.01 * error:
            break
    return share, error


def _sources(rest: Floats, noise: Floats, hidden: Mask, config: CrosstalkConfig) -> Mask:
    """What stands above the noise of a smoothed image once the crosstalk is taken off, grown."""
    ratio = np.where(hidden, 0.0, np.clip(rest / noise, -_CLIP, _CAP))
    smooth = ndimage.gaussian_filter(ratio, _SMOOTH) * np.sqrt(4.0 * np.pi) * _SMOOTH
    return np.asarray(ndimage.binary_dilation(smooth > config.source_sigma, iterations=_GROW))


def _sky(rest: Floats, masked: Mask, width: float) -> Floats:
    """Gaussian-weighted mean of the unmasked pixels about each one, 0 where there are none."""
    weight = ndimage.gaussian_filter((~masked).astype(float), width)
    total = ndimage.gaussian_filter(np.where(masked, 0.0, rest), width)
    return np.where(weight > _LEAST, total / np.maximum(weight, _LEAST), 0.0)

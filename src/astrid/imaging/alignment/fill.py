"""Holes of an image filled from their surroundings, so that neither a spline nor a transform rings, and how far they are felt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrid.core.records import DQImage, FloatImage
from astrid.imaging.alignment.spline import cardinal

_REACH = 5.0  # widths of the weights, beyond which pixels do not count
_LEAST_WEIGHT = 1e-4  # of a full neighbourhood; with less, nothing is known of a pixel
_CROWD = 60  # surrounding pixels that cost as much to filter as one hole to fill on its own
_FEW = 2048  # holes that are filled at a time
_RANGE = 2  # px, reach of the surroundings whose range of values tells how wrong a fill may be
_NOISE_RANGE = 5.0  # sigma, what the noise alone makes of that range
_FELT = 0.5  # sigma, an error of an interpolated value that matters
_LEAST_LOBE = 0.013  # of the cardinal spline: what lobes below it pass on of a wrong fill stays unmarked (beyond 4 px for the quintic)

Window = tuple[slice, slice]


def fill_local(data: FloatImage, good: NDArray[np.bool_], sigma: float) -> FloatImage:
    """Replace unusable pixels by a Gaussian-weighted mean of the usable ones near them, 0 where there are none.

    `sigma` px, width of the weights; the result is finite everywhere, so that neither a spline nor a transform rings.
    """
    return fill_planes((data,), good, sigma)[0]


def fill_planes(planes: Sequence[FloatImage], good: NDArray[np.bool_], sigma: float) -> list[FloatImage]:
    """`fill_local` of several planes with the same unusable pixels: few of them one by one, crowds by filtering their surroundings."""
    filled = [plane.astype(np.float32, copy=True) for plane in planes]
    if good.all():
        return filled
    reach = int(_REACH * sigma + 0.5)
    offset = np.arange(-reach, reach + 1)
    line = np.exp(-0.5 * (offset / sigma) ** 2)
    kernel = np.outer(line, line) / line.sum() ** 2
    few: list[NDArray[np.intp]] = []
    for block, around in _patches(~good, reach):
        hole = np.argwhere(~good[block])
        if len(hole) * _CROWD < good[around].size:
            few.append(hole + np.array([block[0].start, block[1].start]))
        else:
            _fill_crowd(planes, filled, good, (block, around), sigma)
    if few:
        _fill_few(planes, filled, good, np.concatenate(few), kernel.astype(np.float32))
    return filled


def _fill_crowd(
    planes: Sequence[FloatImage], filled: list[FloatImage], good: NDArray[np.bool_], window: tuple[Window, Window], sigma: float
) -> None:
    block, around = window
    inner = tuple(slice(b.start - a.start, b.stop - a.start) for b, a in zip(block, around, strict=True))
    weight, *sums = (
        ndimage.gaussian_filter(plane, sigma, mode="constant", truncate=_REACH)[inner]
        for plane in (good[around].astype(np.float32), *(np.where(good[around], plane[around], np.float32(0)) for plane in planes))
    )
    hole = ~good[block]
    for out, total in zip(filled, sums, strict=True):
        out[block][hole] = _mean(total[hole], weight[hole])


def _fill_few(
    planes: Sequence[FloatImage], filled: list[FloatImage], good: NDArray[np.bool_], holes: NDArray[np.intp], kernel: FloatImage
) -> None:
    offset = np.arange(len(kernel)) - len(kernel) // 2
    for start in range(0, len(holes), _FEW):
        part = holes[start : start + _FEW]
        place = [part[:, axis, None] + offset for axis in (0, 1)]
        inside = [(p >= 0) & (p < n) for p, n in zip(place, good.shape, strict=True)]
        row, column = (np.clip(p, 0, n - 1) for p, n in zip(place, good.shape, strict=True))
        index = (row * good.shape[1])[:, :, None] + column[:, None, :]
        known = np.take(good, index) & inside[0][:, :, None] & inside[1][:, None, :]
        weight = known * kernel
        for plane, out in zip(planes, filled, strict=True):
            total = np.sum(weight * np.where(known, np.take(plane, index), np.float32(0)), axis=(1, 2))
            out[part[:, 0], part[:, 1]] = _mean(total, weight.sum(axis=(1, 2)))


def _mean(total: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    known = weight > _LEAST_WEIGHT
    return np.asarray(np.where(known, total / np.where(known, weight, 1), 0.0), np.float32)


def _patches(bad: NDArray[np.bool_], margin: int) -> Iterator[tuple[Window, Window]]:
    """Boxes around the bad pixels of every block of the image, without and with a margin; blocks without any are skipped."""
    size = 128
    ny, nx = bad.shape
    for top in np.unique(np.flatnonzero(bad.any(axis=1)) // size) * size:
        strip = bad[top : top + size]
        for left in np.unique(np.flatnonzero(strip.any(axis=0)) // size) * size:
            block = strip[:, left : left + size]
            rows, columns = np.flatnonzero(block.any(axis=1)) + top, np.flatnonzero(block.any(axis=0)) + left
            box = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
            around = tuple(slice(max(0, s.start - margin), min(n, s.stop + margin)) for s, n in zip(box, (ny, nx), strict=True))
            yield box, (around[0], around[1])


def spread_causes(dq: DQImage, filled: FloatImage, variance: FloatImage, good: NDArray[np.bool_], order: int) -> DQImage | None:
    """Every bit also on the neighbours whose interpolated values a wrong fill would reach; None where no bit is set.

    An interpolating spline passes on the error of a filled pixel by its side lobes, to the eight neighbours always, and farther
    where the surroundings are so uneven (beside a star's core) that the lobes times their range exceed half the noise.
    `filled`, `variance`: the image and its variance with holes filled; `order`: degree of the spline.
    """
    place = np.flatnonzero(dq)
    if len(place) == 0:
        return None
    row, column = np.divmod(place, dq.shape[1])
    bits = np.take(dq, place)
    reach = np.where(np.take(good, place), 1, _reach(row, column, filled, variance, order))
    far = int(reach.max())
    out = np.zeros((dq.shape[0] + 2 * far, dq.shape[1] + 2 * far), np.uint32)
    for distance in np.unique(reach):
        chosen = reach == distance
        for dy in range(far - distance, far + distance + 1):
            for dx in range(far - distance, far + distance + 1):
                out[row[chosen] + dy, column[chosen] + dx] |= bits[chosen]
    return np.ascontiguousarray(out[far:-far, far:-far])


def _reach(row: NDArray[np.intp], column: NDArray[np.intp], filled: FloatImage, variance: FloatImage, order: int) -> NDArray[np.intp]:
    """Distance to which the fills of the pixels may be felt, px."""
    ny, nx = filled.shape
    low, high = np.full(len(row), np.inf, np.float32), np.full(len(row), -np.inf, np.float32)
    for dy in range(-_RANGE, _RANGE + 1):
        start = np.clip(row + dy, 0, ny - 1) * nx
        for dx in range(-_RANGE, _RANGE + 1):
            value = np.take(filled, start + np.clip(column + dx, 0, nx - 1))
            np.minimum(low, value, out=low)
            np.maximum(high, value, out=high)
    sigma = np.sqrt(np.maximum(variance[row, column], 0))
    error = np.maximum(high - low - np.float32(_NOISE_RANGE) * sigma, 0)
    return np.asarray(1 + sum((lobe * error > _FELT * sigma).astype(np.intp) for lobe in _lobes(order)), np.intp)


@lru_cache
def _lobes(order: int) -> tuple[float, ...]:
    """Greatest magnitude of the cardinal spline beyond 1.5, 2.5, ... px, as long as it matters."""
    if order < 2:
        return ()
    positions = np.arange(0.0, 20.0, 0.02)
    size = np.abs(cardinal(positions, order))
    beyond = [float(size[positions >= ring - 0.5].max()) for ring in range(2, 20)]
    return tuple(lobe for lobe in beyond if lobe > _LEAST_LOBE)

"""Sparse masks as horizontal runs of pixels: connected regions and distances at a cost that follows the runs, not the plane."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from astrid.candidates.planes import Pixels, bands, window

_CHUNK = 1 << 20  # distances that are held at once


@dataclass(frozen=True, eq=False)
class Runs:
    """Maximal horizontal runs of a mask in raster order; arrays of (m,): row, first column, column after the last."""

    row: Pixels
    start: Pixels
    stop: Pixels
    shape: tuple[int, int]  # (ny, nx) of the mask

    def __len__(self) -> int:
        return len(self.row)

    def take(self, chosen: NDArray[Any]) -> Runs:
        """The runs at `chosen`, an index or a mask."""
        return Runs(self.row[chosen], self.start[chosen], self.stop[chosen], self.shape)

    def pixels(self) -> tuple[Pixels, Pixels, Pixels]:
        """Row and column of every pixel, and the number of its run; (total,) each."""
        length = self.stop - self.start
        run = np.repeat(np.arange(len(self)), length)
        first = np.cumsum(length) - length
        return self.row[run], self.start[run] + np.arange(len(run)) - first[run], run

    def find(self, iy: Pixels, ix: Pixels) -> Pixels:
        """Number of the run that holds each pixel (n,), -1 where none does."""
        if not len(self):
            return np.full(len(iy), -1)
        width = self.shape[1] + 1
        place = np.searchsorted(self.row * width + self.start, iy * width + ix, side="right") - 1
        near = place.clip(0)
        held = (place >= 0) & (self.row[near] == iy) & (ix < self.stop[near])
        return np.where(held, near, -1)


def runs_of(plane: Any, mask: Callable[[NDArray[Any]], NDArray[np.bool_]]) -> Runs:
    """The runs of `mask(band)` over a plane (ny, nx), band by band of rows."""
    nx = plane.shape[1]
    parts = []
    for rows in bands(plane.shape):
        flat = np.flatnonzero(mask(window(plane, rows)))
        if not len(flat):
            continue
        breaks = np.ones(len(flat), dtype=bool)
        np.logical_or(flat[1:] - flat[:-1] != 1, flat[1:] % nx == 0, out=breaks[1:])
        first = np.flatnonzero(breaks)
        last = np.append(first[1:], len(flat)) - 1
        row, start = np.divmod(flat[first], nx)
        parts.append((row + rows.start, start, flat[last] % nx + 1))
    if not parts:
        none = np.zeros(0, dtype=np.int64)
        return Runs(none, none, none, (int(plane.shape[0]), nx))
    row, start, stop = (np.concatenate(column).astype(np.int64) for column in zip(*parts, strict=True))
    return Runs(row, start, stop, (int(plane.shape[0]), nx))


def regions(runs: Runs, *, diagonal: bool) -> Pixels:
    """Number of the connected region of each run, int (m,) from 0; `diagonal`: pixels that share a corner are connected."""
    if not len(runs):
        return np.zeros(0, dtype=np.int64)
    reach = 1 if diagonal else 0
    width = runs.shape[1] + 2  # a gap between the rows, wider than the reach
    start, stop = runs.row * width + runs.start, runs.row * width + runs.stop
    low = np.searchsorted(stop, start - width - reach, side="right")  # of the row above: those that end after this one's start
    high = np.searchsorted(start, stop - width + reach, side="left")
    count = (high - low).clip(0)
    here = np.repeat(np.arange(len(runs)), count)
    there = np.arange(len(here)) - np.repeat(np.cumsum(count) - count, count) + low[here]
    graph = coo_array((np.ones(len(here), dtype=np.int8), (here, there)), shape=(len(runs), len(runs)))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def distance(runs: Runs, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], Pixels]:
    """Distance, px, from each position (n,) to the centre of the nearest pixel of the runs, and its run; infinite and -1 without any."""
    best, nearest = np.full(len(x), np.inf), np.full(len(x), -1)
    if not len(runs):
        return best, nearest
    step = max(1, _CHUNK // len(runs))
    for first in range(0, len(x), step):
        part = slice(first, first + step)
        px, py = x[part, None], y[part, None]
        along = np.maximum(np.maximum(runs.start - px, px - (runs.stop - 1)), 0.0)
        # Between two pixel centres of a run the nearest centre is at most half a pixel away.
        inside = along == 0
        along[inside] = np.abs(px - np.rint(px)).repeat(len(runs), axis=1)[inside]
        gap = np.hypot(along, runs.row - py)
        nearest[part] = gap.argmin(axis=1)
        best[part] = gap.min(axis=1)
    return best, nearest

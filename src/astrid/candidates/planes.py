"""Planes of any size, looked at through windows: bands of rows, stamps about peaks, single pixels, a sample.

A plane is an ndarray (ny, nx) or any object with `shape` whose slices `plane[rows, columns]` give ndarrays; nothing here asks
for more of it than a band of rows at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

BAND = 1 << 18  # px of a band of rows: a float32 band of this size stays in the cache of a core
_SAMPLE = 1 << 16  # px that stand for a plane where its level or noise is wanted
_SAMPLED_ROWS = 256
_BLOCK = 128  # rows of a plane on disk that are read together where single pixels are wanted

Pixels = NDArray[np.int64]


def window(plane: Any, rows: slice, columns: slice = slice(None)) -> NDArray[Any]:
    """The part of a plane as an ndarray: a view of an array in memory, else a copy."""
    return np.asarray(plane[rows, columns])


def bands(shape: tuple[int, ...], pixels: int = BAND) -> Iterator[slice]:
    """Slices of rows that cover a plane of `shape` (ny, nx), each of about `pixels` pixels and at least one row."""
    step = max(1, pixels // max(shape[1], 1))
    return (slice(first, min(first + step, shape[0])) for first in range(0, shape[0], step))


def pick(plane: Any, iy: Pixels, ix: Pixels) -> NDArray[Any]:
    """Values of the pixels (iy, ix), int of one shape, inside the plane; the result has that shape."""
    if isinstance(plane, np.ndarray):
        return np.asarray(plane[iy, ix])
    rows, columns = iy.ravel(), ix.ravel()
    order = np.argsort(rows, kind="stable")
    out = np.empty(rows.shape, np.asarray(plane[0:1, 0:1]).dtype)
    edges = np.flatnonzero(np.diff(rows[order] // _BLOCK)) + 1
    for part in np.split(order, edges) if len(order) else ():
        top, left = int(rows[part].min()), int(columns[part].min())
        seen = window(plane, slice(top, int(rows[part].max()) + 1), slice(left, int(columns[part].max()) + 1))
        out[part] = seen[rows[part] - top, columns[part] - left]
    return out.reshape(iy.shape)


def stamps(plane: Any, iy: Pixels, ix: Pixels, half: int, *, outside: float) -> NDArray[Any]:
    """Stamps (n, 2 half + 1, 2 half + 1) of the plane's own type centred on pixels (n,); `outside` fills what leaves the plane."""
    ny, nx = plane.shape
    side = 2 * half + 1
    out = np.full((len(iy), side, side), outside, dtype=np.asarray(plane[0:1, 0:1]).dtype)
    for stamp, row, column in zip(out, iy.tolist(), ix.tolist(), strict=True):
        top, left, bottom, right = max(row - half, 0), max(column - half, 0), min(row + half + 1, ny), min(column + half + 1, nx)
        if top < bottom and left < right:
            stamp[top - row + half : bottom - row + half, left - column + half : right - column + half] = plane[top:bottom, left:right]
    return out


def sample(plane: Any) -> NDArray[np.float64]:
    """Up to some 65,000 finite values spread evenly over the plane, float64 (m,)."""
    ny, nx = plane.shape
    rows = np.unique(np.linspace(0, ny - 1, min(ny, _SAMPLED_ROWS)).round().astype(int))
    stride = max(1, len(rows) * nx // _SAMPLE)
    # Each row starts elsewhere in the stride, so that no column pattern of a detector is hit more than another.
    values = np.concatenate([np.asarray(plane[row : row + 1, :])[0, number % stride :: stride] for number, row in enumerate(rows)])
    return np.asarray(values[np.isfinite(values)], dtype=np.float64)

"""Overlapping tiles: an image of any size is transformed in arrays of one small, fast shape.

A tile's array holds its core and a margin on every side. The transform is circular, so whatever a kernel carries around the
array's border, or fails to see beyond it, stays within the kernel's reach of that border: in the margin, which is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from astrid.core.errors import ImagingError

# px: lengths whose estimated plans are fast; at most lengths in between a transform costs up to twice as much a pixel
LENGTHS = tuple(sorted({*(factor << power for factor in (1, 3, 5) for power in range(4, 9)), 144, 288, 400, 512, 1024, 1536, 2048}))


class Plane(Protocol):
    """Anything that gives an array when it is sliced: an ndarray, a memory map, a plane on disk."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, window: Any, /) -> Any: ...


@dataclass(frozen=True)
class Tile:
    """One tile; every pair is (rows, columns)."""

    shape: tuple[int, int]  # px, of the tile's array, the same for every tile of a plan
    read: tuple[slice, slice]  # of the image: what the array holds of it
    place: tuple[slice, slice]  # of the array: where that lies; the rest of the array is off the image
    write: tuple[slice, slice]  # of the image: the core, that this tile answers for
    inner: tuple[slice, slice]  # of the array: where the core lies

    @property
    def centre(self) -> tuple[float, float]:
        """x, y of the core's centre, px of the image."""
        rows, columns = self.write
        return (columns.start + columns.stop - 1) / 2, (rows.start + rows.stop - 1) / 2


@dataclass(frozen=True)
class _Axis:
    """The tiles along one axis."""

    length: int  # px, of the array
    core: int  # px, of every tile but the last, which may be shorter
    offset: int  # px, where the core begins in the array
    count: int


def plan_tiles(shape: tuple[int, int], core: int, margin: int) -> list[Tile]:
    """Tiles that cover an image exactly once, in arrays of one fast shape with the least pixels in all.

    Parameters
    ----------
    shape
        (ny, nx) of the image, px.
    core
        Largest side of a core, px.
    margin
        What an array keeps around its core at least, px, on the image or off it: the reach of the kernels.

    Returns
    -------
    list[Tile]
        Row by row. An image that fits into one core gives one tile.

    Raises
    ------
    ImagingError
        When a length is not positive, or no fast length holds the margins.
    """
    if min(*shape, core, margin) < 1:
        raise ImagingError(
            f"an image of {shape} px cannot be cut into cores of {core} px with margins of {margin} px; all must be positive."
        )
    rows, columns = (_plan_axis(length, core, margin) for length in shape)
    return [_tile(shape, (rows, columns), (i, j)) for i in range(rows.count) for j in range(columns.count)]


def _plan_axis(length: int, core: int, margin: int) -> _Axis:
    """The split with the least pixels in all; among equals the one with the fewest tiles."""
    splits = [(fast * -(-length // size), -fast) for fast in LENGTHS if (size := min(fast - 2 * margin, core)) > 0]
    if length <= core:  # what a transform carries around the border of a single tile has both margins to itself
        splits += [(fast, -fast) for fast in LENGTHS if fast >= max(length + max(margin, 2), 2 * margin)]
    if not splits:
        raise ImagingError(f"margins of {margin} px leave no core in an array of {LENGTHS[-1]} px; give the images smaller PSF stamps.")
    total, negative = min(splits)
    count = total // -negative
    even = -(-length // count)
    return _Axis(-negative, even, (-negative - even) // 2, -(-length // even))


def _tile(shape: tuple[int, int], axes: tuple[_Axis, _Axis], index: tuple[int, int]) -> Tile:
    windows = [_windows(length, axis, number) for length, axis, number in zip(shape, axes, index, strict=True)]
    (read_y, place_y, write_y, inner_y), (read_x, place_x, write_x, inner_x) = windows
    return Tile((axes[0].length, axes[1].length), (read_y, read_x), (place_y, place_x), (write_y, write_x), (inner_y, inner_x))


def _windows(length: int, axis: _Axis, number: int) -> tuple[slice, slice, slice, slice]:
    """Read, place, write and inner slices of tile `number` along one axis."""
    start = number * axis.core
    stop = min(start + axis.core, length)
    origin = start - axis.offset
    low, high = max(origin, 0), min(origin + axis.length, length)
    inner = slice(axis.offset, axis.offset + stop - start)
    return slice(low, high), slice(low - origin, high - origin), slice(start, stop), inner


def cut(plane: Plane, tile: Tile, fill: float, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """The tile's array of a plane, with `fill` where it lies off the image; into `out` of the tile's shape where that is given."""
    window = np.asarray(plane[tile.read])
    if out is None:
        out = np.empty(tile.shape, window.dtype)
    if window.shape != tile.shape:
        out[...] = fill
    out[tile.place] = window
    return out

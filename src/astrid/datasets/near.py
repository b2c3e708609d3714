"""Copies of triplets that were changed a little: found by a coarse key, verified on the pixels.

Changed a little means noise of up to a third of their own, another gain or background, a shift of a quarter of a pixel, each with
or without a turn and a swap of the epochs. Of copies shifted by half a pixel or with a PSF of another width some are found, not
all. Whole-pixel shifts are found exactly, by `content`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astrid.core.errors import DataSetError

Stamps = NDArray[np.float32]
Floats = NDArray[np.float32]
Counts = NDArray[np.int8]
Numbers = NDArray[np.int64]
Reader = Callable[[Numbers], Stamps]  # rows of the table -> their stamps

NEAR_VERSION = "n1"
NEAREST, RELATIVE, FARTHEST = 3.5, 0.15, 7.0  # radius of a key: a share of its own length, within bounds; see `near_keys`
CORRELATION = 0.5  # of the pixels, above which two triplets are copies; unrelated ones scatter by 0.05 about 0

_SIDE = 63  # px
_WINDOW, _SPACING, _GRID = 4.0, 8.0, 7  # sigma of a window and distance of two, px; windows a side
_STEP = 0.25  # units of noise a count of the key
_CENTRE = 8.0  # px about the detection that the pixels' comparison leaves out: every point source looks alike there
_MAD_TO_SIGMA = 1.4826  # of a Gaussian
_SMALLEST = np.float32(1e-30)
_BLOCK = 1024  # rows whose distances are computed together: 4 MB
_SAMPLE = 20_000  # rows, or up to twice as many, that say in which direction the pictures differ most
_PAIRS = 128  # pairs whose pixels are compared together: 12 MB


def near_keys(stamps: Stamps) -> list[str]:
    """A coarse picture of each triplet of (n, 3, 63, 63) as text: 38 numbers that are the same under the eight turns.

    Each plane is scaled by its own median and noise (median absolute deviation) and through asinh. The difference and the
    sum of the two epochs are seen through 7 x 7 Gaussian windows, of which those that the turns exchange are put together to
    their mean and their scatter. A number is in units of what white noise gives it, so that a copy with a share e of new noise
    is about e sqrt(38) away from its original; two pictures of nothing but noise are 7 apart, and ones with stars in them
    further than those are long by a sixth.
    """
    keys = []
    for triplet in stamps:
        counts = np.clip(np.rint(_numbers(_scaled(triplet)) / _STEP), -127, 127).astype(np.int8)
        keys.append(f"{NEAR_VERSION}-{base64.b64encode(counts.tobytes()).decode()}")
    return keys


def near_copies(table: pd.DataFrame, read: Reader, groups: Numbers) -> pd.DataFrame:
    """Pairs of rows of different groups that are copies of each other: the columns first, second (candidate_id), in order of rows.

    `table`: candidate_id and near_key; `read` gives the stamps of its rows, float32 (n, 3, 63, 63); `groups` int (n,): pairs
    within a group are known to belong together and not looked at. Rows of the group -1 and rows without a key of this version are
    left out.
    """
    rows = np.flatnonzero(table["near_key"].str.startswith(NEAR_VERSION + "-").to_numpy(dtype=bool) & (groups >= 0))
    pictures = _pictures(table["near_key"], rows)
    found = [_verified(rows[pairs], read) for pairs in _close(pictures, groups[rows])]
    copies = np.concatenate([np.zeros((0, 2), np.int64), *found])
    copies = copies[np.lexsort((copies[:, 1], copies[:, 0]))]
    names = table["candidate_id"]
    ends = {"first": copies[:, 0], "second": copies[:, 1]}
    return pd.DataFrame({end: names.iloc[where].to_numpy(dtype=object) for end, where in ends.items()}, dtype=object)


def likeness(first: Stamps, second: Stamps) -> float:
    """How alike two triplets (3, 63, 63) are: the correlation of the plane that agrees least, in the turn where that is most.

    Planes are scaled as for the key and smoothed over 3 x 3 pixels; the middle stays out. The epochs count in both orders, the
    difference without its sign.
    """
    one, other = (_compared(_scaled(triplet)) for triplet in (first, second))
    best = -1.0
    for turned in _turns(other):
        same = one[:2].reshape(2, -1) @ turned[:2].reshape(2, -1).T
        epochs = max(min(same[0, 0], same[1, 1]), min(same[0, 1], same[1, 0]))
        best = max(best, min(float(epochs), abs(float(one[2].ravel() @ turned[2].ravel()))))
    return best


def _verified(pairs: Numbers, read: Reader) -> Numbers:
    """Those pairs of rows (m, 2) whose pixels agree."""
    keep = np.zeros(len(pairs), dtype=bool)
    for start in range(0, len(pairs), _PAIRS):
        part = pairs[start : start + _PAIRS]
        wanted, where = np.unique(part, return_inverse=True)
        stamps = read(wanted)
        places = where.reshape(part.shape)
        keep[start : start + _PAIRS] = [likeness(stamps[a], stamps[b]) > CORRELATION for a, b in places]
    return pairs[keep]


def _close(pictures: Counts, groups: Numbers) -> Iterator[Numbers]:
    """Pairs of pictures of different groups within the radius, block by block: each (m, 2), the smaller row first.

    Rows are sorted along the direction in which the pictures differ most, and a block is compared with those rows alone that can be
    near enough along it.
    """
    if len(pictures) < 2:
        return
    sample = _values(pictures[:: max(1, len(pictures) // _SAMPLE)]).astype(np.float64)
    direction = np.linalg.eigh(np.cov(sample.T))[1][:, -1].astype(np.float32)
    along = np.concatenate([_values(block) @ direction for block in _blocks(pictures)])
    order = np.argsort(along, kind="stable")
    pictures, groups, along = pictures[order], groups[order], along[order]
    squares = np.concatenate([np.einsum("ij,ij->i", block, block) for block in map(_values, _blocks(pictures))])
    radii = np.clip(RELATIVE**2 * squares, NEAREST**2, FARTHEST**2)  # squared
    for start in range(0, len(order), _BLOCK):
        stop = min(start + _BLOCK, len(order))
        here = _values(pictures[start:stop])
        widest = float(np.sqrt(radii[start:stop].max()))
        beyond = int(np.searchsorted(along, along[stop - 1] + widest, side="right"))
        for first in range(start, beyond, _BLOCK):
            last = min(first + _BLOCK, beyond)
            distance = here @ _values(pictures[first:last]).T
            distance *= -2
            distance += squares[start:stop, None]
            distance += squares[first:last]
            a, b = np.divmod(np.flatnonzero(distance < radii[start:stop, None]), last - first)
            a, b = a + start, b + first
            keep = (a < b) & (groups[a] != groups[b]) & (distance[a - start, b - first] < radii[b])
            pairs = np.sort(np.stack([order[a[keep]], order[b[keep]]], axis=1), axis=1)
            if len(pairs):
                yield pairs


def _pictures(keys: pd.Series, rows: Numbers) -> Counts:
    """The numbers, in counts, of the keys of `rows`, which are in ascending order."""
    skip, length = len(NEAR_VERSION) + 1, _orbits()[1].size
    out = np.empty((len(rows), length), np.int8)
    for target, here in zip(_blocks(out), _blocks(rows), strict=True):
        some = keys.iloc[here[0] : here[-1] + 1].iloc[here - here[0]]  # a slice copies nothing
        raw = [base64.b64decode(key[skip:]) for key in some]
        wrong = [key for key, bytes_ in zip(some, raw, strict=True) if len(bytes_) != length]
        if wrong:
            raise DataSetError(f"{wrong[0]!r} is no near_key of {length} numbers; run the stage triplets again.")
        target[:] = np.frombuffer(b"".join(raw), np.int8).reshape(target.shape)
    return out


def _values(counts: Counts) -> Floats:
    return counts.astype(np.float32) * np.float32(_STEP)


def _blocks(rows: Any) -> Iterator[Any]:
    for start in range(0, len(rows), _BLOCK):
        yield rows[start : start + _BLOCK]


def _scaled(triplet: NDArray[np.float32]) -> Floats:
    """asinh of each plane (3, 63, 63) in units of its noise about its median; masked pixels 0."""
    planes = np.where(np.isfinite(triplet), triplet, np.nan).reshape(3, -1)
    out = np.zeros_like(planes)
    for plane, target in zip(planes, out, strict=True):
        board = plane[::2]  # of 63 x 63 the draughts board's squares: the same under turns, and half the work
        board = board[np.isfinite(board)]
        if len(board):
            middle = np.median(board)
            noise = np.float32(_MAD_TO_SIGMA) * np.median(np.abs(board - middle))
            target[:] = np.arcsinh((plane - middle) / max(noise, _SMALLEST))
    return np.asarray(np.nan_to_num(out, copy=False), dtype=np.float32).reshape(triplet.shape)


def _numbers(planes: Floats) -> Floats:
    """The key's numbers of scaled planes (3, 63, 63)."""
    seen = np.stack([planes[2], planes[0] + planes[1]])
    windows = _windows()
    means, noise = _orbits()
    values = (windows @ seen @ windows.T).reshape(2, -1)
    mean = values @ means
    scatter = np.sqrt(np.maximum((values**2) @ means - mean**2, 0))[:, 1:]  # the first orbit is the central window alone
    return np.asarray(np.concatenate([mean, scatter], axis=1) / noise, dtype=np.float32).ravel()


@lru_cache(maxsize=1)
def _windows() -> Floats:
    centres = _SIDE // 2 + _SPACING * (np.arange(_GRID) - _GRID // 2)
    weights = np.exp(-0.5 * ((np.arange(_SIDE) - centres[:, None]) / _WINDOW) ** 2)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


@lru_cache(maxsize=1)
def _orbits() -> tuple[Floats, Floats]:
    """Averages over windows that the turns exchange, (windows, orbits), and the noise of the key's numbers, (2, numbers).

    The orbit of the central window comes first, for it alone has one window.
    """
    grid = np.arange(_GRID * _GRID).reshape(1, _GRID, _GRID)
    names = np.stack(list(_turns(grid)))[:, 0].min(axis=0).ravel()
    number = np.unique(names, return_inverse=True)[1]
    sizes = np.bincount(number)
    order = np.argsort(sizes, kind="stable")
    sizes = sizes[order]
    means = np.equal.outer(number, order) / sizes
    window = float((_windows()[_GRID // 2] ** 2).sum())  # noise of white noise of 1 through a window of both axes
    noise = np.concatenate([1 / np.sqrt(sizes), 1 / np.sqrt(2 * sizes[1:])]) * window * np.sqrt([[1.0], [2.0]])
    return means.astype(np.float32), noise.astype(np.float32)


def _compared(planes: Floats) -> Floats:
    """Smoothed planes (3, 63, 63) of zero mean and unit sum of squares over the pixels that are compared, 0 elsewhere."""
    wide = np.pad(planes, ((0, 0), (1, 1), (1, 1)))
    rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    smooth = (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:])[:, _outside()]
    smooth -= smooth.mean(axis=1, keepdims=True)
    out = np.zeros_like(planes)
    out[:, _outside()] = smooth / np.maximum(np.linalg.norm(smooth, axis=1, keepdims=True), _SMALLEST)
    return out


@lru_cache(maxsize=1)
def _outside() -> NDArray[np.bool_]:
    along = np.arange(_SIDE) - _SIDE // 2
    return np.asarray(np.hypot(along[:, None], along) > _CENTRE)


def _turns(planes: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The eight turns of planes (n, side, side)."""
    for quarter in range(4):
        turned = np.rot90(planes, quarter, axes=(1, 2))
        yield turned
        yield turned[:, :, ::-1]

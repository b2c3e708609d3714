"""Augmentation on the fly of normalised triplets: flips and quarter turns, whole-pixel shifts and swapped epochs.

A transient looks the same from every side, so the eight elements of the dihedral group D4 are the natural augmentation. All
three stamps of a triplet turn and shift together. A source that brightened between two epochs fades when the epochs change
places: the store turns the difference so that the source is positive, so science and reference swap and the difference
stays. These commute with every normalisation; what changes the light itself is in `effects`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from astrid.config.schema.train import AugmentConfig
from astrid.learning.effects import Draws

Stamps = NDArray[np.float32]
Counts = NDArray[np.int64]

_ELEMENTS = 8  # of D4
_QUARTERS = 4  # turns among them


@dataclass(frozen=True, eq=False)
class Moves:
    """What is drawn for the triplets of a batch. Each kind draws from a generator of its own."""

    turns: Counts  # (n,), 0 to 7: number of quarter turns as in `numpy.rot90`, plus 4 for a left-right flip after them
    shifts: Counts  # (n, 2) px down and to the right; pixels that come from outside repeat the edge
    swapped: NDArray[np.bool_]  # (n,) science and reference change places

    @classmethod
    def draw(cls, cfg: AugmentConfig, count: int, draws: Draws) -> Moves:
        """The moves of `count` triplets by `cfg`, from the generators of `draws` alone."""
        turns, shifts = np.zeros(count, dtype=np.int64), np.zeros((count, 2), dtype=np.int64)
        if cfg.turns == "d4":
            turns = draws("turns").integers(_ELEMENTS, size=count)
        if cfg.shift > 0:
            shifts = draws("shift").integers(-cfg.shift, cfg.shift + 1, size=(count, 2))
        return cls(turns, shifts, draws("swap").random(count) < cfg.swap if cfg.swap > 0 else np.zeros(count, dtype=bool))

    def apply(self, images: Iterable[tuple[int, Stamps]], out: Stamps) -> None:
        """Put `images`, (place, (3, side, side)) in any order, into `out` (n, 3, side, side): each by the moves of its place.

        The source fades instead of brightening, or back, where the epochs change places; the difference stays: it is turned so
        that the source is positive, whichever epoch has it.
        """
        turns, shifts, swapped = self.turns.tolist(), self.shifts.tolist(), self.swapped.tolist()
        for place, image in images:
            turned = _turned(image, turns[place])
            if swapped[place]:
                _put(turned[1::-1], shifts[place], out[place, :2])
                _put(turned[2:], shifts[place], out[place, 2:])
            else:
                _put(turned, shifts[place], out[place])
            _repeat_edge(out[place], shifts[place])


def _put(images: Stamps, shift: Sequence[int], out: Stamps) -> None:
    """Put images (channels, side, side) into `out` of that shape, `shift` px further down and to the right."""
    (down, right), side = shift, images.shape[-1]
    out[:, _inside(down, side), _inside(right, side)] = images[:, _inside(-down, side), _inside(-right, side)]


def _repeat_edge(images: Stamps, shift: Sequence[int]) -> None:
    """Fill the rows and columns of (channels, side, side) that a shift has left with the ones beside them."""
    down, right = shift
    if right > 0:
        images[:, :, :right] = images[:, :, right : right + 1]
    elif right < 0:
        images[:, :, right:] = images[:, :, right - 1 : right]
    if down > 0:
        images[:, :down] = images[:, down : down + 1]
    elif down < 0:
        images[:, down:] = images[:, down - 1 : down]


@cache
def _inside(shift: int, side: int) -> slice:
    return slice(max(shift, 0), side + min(shift, 0))


def _turned(images: Stamps, turn: int) -> Stamps:
    """A view of (channels, side, side) turned by an element of D4."""
    quarters, flipped = turn % _QUARTERS, turn >= _QUARTERS
    across = images.swapaxes(1, 2) if quarters % 2 else images
    down = -1 if quarters in (1, 2) else 1
    right = -1 if (quarters in (2, 3)) != flipped else 1
    return across[:, ::down, ::right]

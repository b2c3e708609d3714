"""Augmentation on the fly of normalised triplets: flips and quarter turns, whole-pixel shifts and swapped epochs.

A transient looks the same from every side, so the eight elements of the dihedral group D4 are the natural augmentation. All
three stamps of a triplet turn and shift together. A source that brightened between two epochs fades when the epochs change
places: the store turns the difference so that the source is positive, so science and reference swap and the difference
stays. These commute with every normalisation; what changes the light itself is in `effects`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from astrid.config.schema.train import AugmentConfig
from astrid.learning.effects import Draws

_ELEMENTS = 8  # of D4
_QUARTERS = 4  # turns among them


@dataclass(frozen=True)
class Augmenter:
    """Draws and applies an augmentation for every triplet of a batch; each kind draws from a generator of its own."""

    cfg: AugmentConfig

    def __call__(self, batch: torch.Tensor, draws: Draws) -> torch.Tensor:
        """A batch like `batch`, float32 (n, 3, side, side) on the CPU; the draws come from `draws` alone."""
        count = len(batch)
        if self.cfg.turns == "d4" or self.cfg.shift > 0:
            turned = self.cfg.turns == "d4"
            turns = draws("turns").integers(_ELEMENTS, size=count) if turned else np.zeros(count, dtype=np.int64)
            shifts = draws("shift").integers(-self.cfg.shift, self.cfg.shift + 1, size=(count, 2))
            batch = move(batch, turns, shifts)
        if self.cfg.swap > 0:
            batch = swap(batch, draws("swap").random(count) < self.cfg.swap)
        return batch


def swap(batch: torch.Tensor, chosen: np.ndarray) -> torch.Tensor:
    """Let science and reference change places where `chosen`, bool (n,): the source fades instead of brightening, or back.

    The difference stays: it is turned so that the source is positive, whichever epoch has it. Returns a new tensor.
    """
    given, rows = batch.numpy(), np.flatnonzero(chosen)
    swapped = given.copy()
    swapped[rows, 0] = given[rows, 1]
    swapped[rows, 1] = given[rows, 0]
    return torch.from_numpy(swapped)


def move(batch: torch.Tensor, turns: np.ndarray, shifts: np.ndarray) -> torch.Tensor:
    """Turn each triplet by an element of D4, then shift it.

    Parameters
    ----------
    batch
        (n, channels, side, side), on the CPU.
    turns
        int (n,), 0 to 7: number of quarter turns as in `numpy.rot90`, plus 4 for a left-right flip after them.
    shifts
        int (n, 2): px down and to the right; pixels that come from outside repeat the edge.

    Returns
    -------
    Tensor of the same shape and dtype.
    """
    given = batch.numpy()
    reach, side = int(np.abs(shifts).max(initial=0)), batch.shape[-1]
    wide = _widened(given, reach)
    moved = np.empty_like(given)
    for row, (turn, corner) in enumerate(zip(turns.tolist(), (reach - shifts).tolist(), strict=True)):
        down, right = corner
        moved[row] = _turned(wide[row], turn)[:, down : down + side, right : right + side]
    return torch.from_numpy(moved)


def _widened(images: np.ndarray, by: int) -> np.ndarray:
    """Images (..., side, side) with their edges repeated `by` px further on every side; turning and widening commute."""
    side = images.shape[-1]
    wide = np.empty((*images.shape[:-2], side + 2 * by, side + 2 * by), dtype=images.dtype)
    inner, end = slice(by, by + side), by + side
    wide[..., inner, inner] = images
    wide[..., inner, :by] = images[..., :1]
    wide[..., inner, end:] = images[..., -1:]
    wide[..., :by, :] = wide[..., by : by + 1, :]
    wide[..., end:, :] = wide[..., end - 1 : end, :]
    return wide


def _turned(images: np.ndarray, turn: int) -> np.ndarray:
    """A view of (channels, side, side) turned by an element of D4."""
    quarters, flipped = turn % _QUARTERS, turn >= _QUARTERS
    across = images.swapaxes(1, 2) if quarters % 2 else images
    down = -1 if quarters in (1, 2) else 1
    right = -1 if (quarters in (2, 3)) != flipped else 1
    return across[:, ::down, ::right]

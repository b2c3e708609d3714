"""Augmentation on the fly of normalised triplets: flips and quarter turns, whole-pixel shifts and swapped epochs.

A transient looks the same from every side, so the eight elements of the dihedral group D4 are the natural augmentation. All
three stamps of a triplet turn and shift together. A source that brightened between two epochs fades when the epochs change
places: the store turns the difference so that the source is positive, so science and reference swap and the difference
stays. These commute with every normalisation and run on the training device; what changes the light itself is in `effects`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from astrid.config.schema.train import AugmentConfig
from astrid.learning.effects import Draws

_ELEMENTS = 8  # of D4


@dataclass(frozen=True)
class Augmenter:
    """Draws and applies an augmentation for every triplet of a batch; each kind draws from a generator of its own."""

    cfg: AugmentConfig

    def __call__(self, batch: torch.Tensor, draws: Draws) -> torch.Tensor:
        """A batch of the shape and device of `batch`, float32 (n, 3, side, side); the draws come from `draws` alone."""
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
    order = np.where(chosen[:, None], [1, 0, 2], [0, 1, 2])
    rows = torch.arange(len(batch), device=batch.device)[:, None]
    return batch[rows, torch.from_numpy(order).to(batch.device)]


def move(batch: torch.Tensor, turns: np.ndarray, shifts: np.ndarray) -> torch.Tensor:
    """Turn each triplet by an element of D4, then shift it.

    Parameters
    ----------
    batch
        (n, channels, side, side).
    turns
        int (n,), 0 to 7: number of quarter turns as in `numpy.rot90`, plus 4 for a left-right flip after them.
    shifts
        int (n, 2): px down and to the right; pixels that come from outside repeat the edge.

    Returns
    -------
    Tensor of the same shape and dtype.
    """
    side = batch.shape[-1]
    at = np.arange(side)
    rows = np.clip(at[None, :] - shifts[:, :1], 0, side - 1)
    columns = np.clip(at[None, :] - shifts[:, 1:], 0, side - 1)
    source = _turned_indices(side)[turns[:, None, None], rows[:, :, None], columns[:, None, :]]
    index = torch.from_numpy(source.reshape(len(source), 1, -1)).to(batch.device)
    flat = batch.reshape(len(batch), batch.shape[1], -1)
    return torch.gather(flat, 2, index.expand(-1, flat.shape[1], -1)).reshape(batch.shape)


def _turned_indices(side: int) -> np.ndarray:
    """Flat source index of every pixel for the eight elements of D4: int64 (8, side, side)."""
    straight = np.arange(side * side).reshape(side, side)
    turned = [np.rot90(straight, quarter) for quarter in range(4)]
    return np.stack([*turned, *(np.fliplr(one) for one in turned)])

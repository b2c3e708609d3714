"""Augmentation on the fly: flips and quarter turns, whole-pixel shifts and noise, on the training device.

A transient looks the same from every side, so the eight elements of the dihedral group D4 are the natural augmentation. All
three stamps of a triplet turn and shift together. Shifts are by whole pixels: interpolation would smooth the noise and teach
the network to tell augmented stamps from measured ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from astrid.config.schema.train import AugmentConfig

_ELEMENTS = 8  # of D4


@dataclass(frozen=True)
class Augmenter:
    """Draws and applies an augmentation for every triplet of a batch."""

    cfg: AugmentConfig

    def __call__(self, batch: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """A new batch of the shape and device of `batch`, float32 (n, channels, side, side); the draws come from `rng` alone."""
        count = len(batch)
        turns = rng.integers(_ELEMENTS, size=count) if self.cfg.turns == "d4" else np.zeros(count, dtype=np.int64)
        shifts = rng.integers(-self.cfg.shift, self.cfg.shift + 1, size=(count, 2))
        out = move(batch, turns, shifts)
        if self.cfg.noise > 0:
            noise = rng.standard_normal(tuple(batch.shape), dtype=np.float32) * np.float32(self.cfg.noise)
            out = out + torch.from_numpy(noise).to(out.device)
        return out


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

"""Memory that outlives a batch: fresh memory costs a page fault every 4 kB, which takes longer than most work on it."""

from __future__ import annotations

import math
import mmap
import weakref
from collections import deque

import numpy as np
import torch
from numpy.typing import NDArray

from astrid.datasets.normalize import STAMP_SHAPE


def shared(*shape: int) -> NDArray[np.float32]:
    """Zeros, float32, that this process shares with those forked from it later; nameless, gone with their last user."""
    count = math.prod(shape)
    return np.frombuffer(mmap.mmap(-1, max(1, count * np.dtype(np.float32).itemsize)), dtype=np.float32, count=count).reshape(shape)


class Recycled:
    """Arrays of triplets whose memory comes back once nobody holds them, nor a view or a tensor of them."""

    def __init__(self) -> None:
        self._free: deque[torch.Tensor] = deque()

    def take(self, count: int) -> NDArray[np.float32]:
        """An array, float32 (count, 3, 63, 63), of whatever was in that memory before."""
        block = self._block(count)
        # A new array each time: what is made of it holds it, not the tensor behind it, so that it goes when the last one goes.
        array: NDArray[np.float32] = block[:count].numpy()
        weakref.finalize(array, self._free.append, block).atexit = False
        return array

    def _block(self, count: int) -> torch.Tensor:
        while True:
            try:
                block = self._free.pop()
            except IndexError:
                return torch.empty((count, *STAMP_SHAPE), dtype=torch.float32)
            if len(block) >= count:
                return block

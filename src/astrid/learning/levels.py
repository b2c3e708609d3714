"""Background and noise of the stamps that a training visits again and again."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid.datasets.normalize import STAMP_SHAPE, levels
from astrid.learning.memory import shared

Stamps = NDArray[np.float32]


class Levels:
    """Background and noise of the stamps of some triplets, each measured when it is first asked for.

    Processes that are forked later share what is known.
    """

    def __init__(self, count: int) -> None:
        self._known = shared(count, 2, len(STAMP_SHAPE))
        self._known.fill(np.nan)

    def of(self, places: NDArray[np.integer[Any]], stamps: Stamps) -> tuple[Stamps, Stamps]:
        """`datasets.normalize.levels` of the raw `stamps` (n, 3, 63, 63) of the triplets at `places` (n,): two arrays (n, 3)."""
        found = self._known[places]
        new = np.isnan(found).any(axis=(1, 2)).nonzero()[0]  # a number at a time is written, so another process may be half through
        if len(new):
            found[new] = np.stack(levels(stamps if len(new) == len(stamps) else stamps[new]), axis=1)
            self._known[places[new]] = found[new]
        return found[:, 0], found[:, 1]

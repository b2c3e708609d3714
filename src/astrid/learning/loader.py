"""From the triplet store and a split to batches of normalised tensors, the same for the same seed and epoch.

Where the normalised stamps fit in memory, a batch is a copy out of one array; where they do not, it is read from the
shards, in an order that visits them a stretch at a time, and normalised. A batch depends on nothing but its positions and
draws, so that it may be made in any process. Its memory is used again when nobody holds it any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from astrid.config.schema.train import AugmentConfig
from astrid.core.errors import DataSetError
from astrid.datasets.normalize import normalize
from astrid.learning.augment import Moves
from astrid.learning.effects import Draws, Plan, distort, plan
from astrid.learning.levels import Levels
from astrid.learning.memory import Recycled

Rows = NDArray[np.int64]
Stamps = NDArray[np.float32]
Kind = TypeVar("Kind", bound=np.generic)

_MEGABYTE = 1e6
_STRETCH = 64  # neighbouring triplets of a part that are read together where they come from the disk: 3 MB
_STRETCHES = 64  # stretches that are shuffled into one another: batches are drawn from 4,096 triplets of 64 places
_TOGETHER = 16  # triplets normalised before they are turned: the chunk of `normalize`
_READ = 256  # triplets read and normalised at a time while the cache is filled: 12 MB


class Triplets(Protocol):
    """What training needs of a triplet store; `io.shards.TripletStore` is one."""

    digest: str

    @property
    def table(self) -> pd.DataFrame:
        """TRIPLETS, one row a triplet."""
        ...

    def stamps(self, indices: NDArray[np.integer[Any]], out: Stamps | None = None) -> Stamps:
        """Stamps, float32 (n, 3, 63, 63), of the rows `indices`: `out`, which is filled with them, or a new array."""
        ...


@dataclass(frozen=True, eq=False)
class Part:
    """One part of a split: the labelled, scorable rows of the store."""

    name: str
    rows: Rows  # (n,) of the store's table, ascending
    labels: NDArray[np.float32]  # (n,) 1 real, 0 bogus

    @property
    def real(self) -> int:
        """Number of real triplets."""
        return int(self.labels.sum())

    @property
    def bogus(self) -> int:
        """Number of bogus triplets."""
        return len(self.labels) - self.real


def select(table: pd.DataFrame, splits: pd.DataFrame, part: str) -> Part:
    """The labelled, scorable rows of `table` (TRIPLETS) that `splits` (SPLITS) puts into `part`.

    Raises `DataSetError` when the split names a candidate that the table lacks, or when the part lacks a class.
    """
    named = pd.Index(splits.loc[splits["part"] == part, "candidate_id"])
    absent = named.difference(pd.Index(table["candidate_id"]))
    if len(absent):
        raise DataSetError(
            f"{len(absent)} candidates of the part {part!r} are not in the triplet table, {absent[0]!r} first; run the stage split again."
        )
    usable = table["candidate_id"].isin(named) & table["label"].isin((0, 1)) & table["scorable"]
    rows = np.flatnonzero(usable.to_numpy())
    chosen = Part(part, rows, table["label"].to_numpy()[rows].astype(np.float32))
    if chosen.real == 0 or chosen.bogus == 0:
        raise DataSetError(
            f"the part {part!r} holds {chosen.real} real and {chosen.bogus} bogus triplets and both classes are needed; "
            "use another split strategy, or more fields and visits."
        )
    return chosen


class NormalizedStamps:
    """Normalised stamps of some rows, kept in memory where they fit and read anew for each batch where they do not."""

    def __init__(self, store: Triplets, rows: Rows, normalization_id: str, *, cache_bytes: float) -> None:
        self._store = store
        self._rows = rows
        self._id = normalization_id
        self._signs = store.table["sign"].to_numpy()[rows]
        first = normalize(store.stamps(rows[:1]), normalization_id)
        self._levels = Levels(len(rows))
        self._cache: Stamps | None = None
        self._memory, self._raw, self._work = Recycled(), Recycled(), Recycled()  # of batches, of what they come from, of a few triplets
        if first.nbytes * len(rows) <= cache_bytes:
            self._cache = np.empty((len(rows), *first.shape[1:]), dtype=np.float32)
            for start in range(0, len(rows), _READ):
                part = rows[start : start + _READ]
                normalize(store.stamps(part, self._raw.take(len(part))), normalization_id, out=self._cache[start : start + _READ])
            self._raw = Recycled()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes that the stamps take in memory; 0 where they are read anew for each batch."""
        return 0 if self._cache is None else self._cache.nbytes

    @property
    def cached(self) -> bool:
        """True when every stamp is in memory."""
        return self._cache is not None

    def batch(self, positions: NDArray[np.integer[Any]], out: Stamps | None = None) -> torch.Tensor:
        """Float32 (k, 3, 63, 63) at `positions` within the rows, in that order.

        `out`: memory of k triplets or more to put them into; without it, memory that is used again when nobody holds it.
        """
        made = self._memory_for(positions, out)
        if self._cache is not None:
            np.take(self._cache, positions, axis=0, out=made, mode="clip")
        else:
            normalize(self._store.stamps(self._rows[positions], made), self._id, out=made)
        return torch.from_numpy(made)

    def augmented(self, positions: NDArray[np.integer[Any]], cfg: AugmentConfig, draws: Draws, out: Stamps | None = None) -> torch.Tensor:
        """The same after the augmentations of `cfg`: effects on some of the raw stamps, and turns, shifts and swaps of any."""
        made = self._memory_for(positions, out)
        planned = plan(cfg, len(positions), draws)
        Moves.draw(cfg, len(positions), draws).apply(self._images(positions, cfg, planned), made)
        return torch.from_numpy(made)

    def _memory_for(self, positions: NDArray[np.integer[Any]], given: Stamps | None) -> Stamps:
        return self._memory.take(len(positions)) if given is None else given[: len(positions)]

    def _images(self, positions: NDArray[np.integer[Any]], cfg: AugmentConfig, planned: Plan) -> Iterator[tuple[int, Stamps]]:
        """The normalised triplets with their places in `positions`, in any order; each is to be copied before the next one is taken."""
        touched, rest = planned.touched, planned.untouched
        order = touched if self.cached else np.concatenate([touched, rest])
        work = self._work.take(_TOGETHER)
        if self._cache is not None:
            for some in batches(rest, _TOGETHER):
                yield from zip(some.tolist(), self._cache.take(positions[some], axis=0, out=work[: len(some)], mode="clip"), strict=True)
        if not len(order):
            return
        chosen = positions[order]
        raw = self._store.stamps(self._rows[chosen], self._raw.take(len(order)))
        if len(touched):
            struck, images = chosen[: len(touched)], raw[: len(touched)]
            distort(images, self._signs[struck], self._levels.of(struck, images), cfg, planned)
        for some, part in zip(batches(order, _TOGETHER), batches(raw, _TOGETHER), strict=True):
            yield from zip(some.tolist(), normalize(part, self._id, out=work[: len(some)]), strict=True)


def open_stamps(store: Triplets, parts: Sequence[Part], normalization_id: str, *, cache_mb: float) -> list[NormalizedStamps]:
    """The normalised stamps of each part. A part stays in memory where it fits into what the earlier ones left of `cache_mb` megabytes."""
    opened: list[NormalizedStamps] = []
    for part in parts:
        left = cache_mb * _MEGABYTE - sum(stamps.nbytes for stamps in opened)
        opened.append(NormalizedStamps(store, part.rows, normalization_id, cache_bytes=left))
    return opened


def epoch_order(labels: NDArray[np.float32], balance: str, rng: np.random.Generator, *, stretch: int = 1) -> Rows:
    """The order in which an epoch visits the triplets: positions, int64 (n,).

    With `balance` "sampling" each class is drawn equally often, with replacement; otherwise every triplet comes once. A
    `stretch` above 1 keeps that many neighbours close: stretches are shuffled, and triplets among 64 stretches at a time.
    """
    count = len(labels)
    if balance == "sampling":
        chosen = rng.choice(count, size=count, p=class_weights(labels)[labels.astype(np.intp)] / count)
    else:
        chosen = np.arange(count)
    return rng.permutation(chosen) if stretch == 1 else _near_order(np.sort(chosen), stretch, rng)


def _near_order(ascending: Rows, stretch: int, rng: np.random.Generator) -> Rows:
    starts = rng.permutation(np.arange(0, len(ascending), stretch))
    pools = [
        rng.permutation(np.concatenate([ascending[start : start + stretch] for start in starts[first : first + _STRETCHES]]))
        for first in range(0, len(starts), _STRETCHES)
    ]
    return np.concatenate(pools)


def class_weights(labels: NDArray[np.float32]) -> NDArray[np.float64]:
    """Weights (bogus, real) by which both classes sum to the same: n / (2 n_class)."""
    real = float(labels.sum())
    return len(labels) / (2 * np.array([len(labels) - real, real]))


def batches(order: NDArray[Kind], size: int) -> Iterator[NDArray[Kind]]:
    """Cut an order, or any array, into batches of `size`; the last one may be shorter."""
    for start in range(0, len(order), size):
        yield order[start : start + size]


def stretch_of(stamps: NormalizedStamps) -> int:
    """The stretch of `epoch_order`: 1 (any order) where the stamps are in memory, a length to read at once where they are not."""
    return 1 if stamps.cached else _STRETCH

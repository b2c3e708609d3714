"""From the triplet store and a split to batches of normalised tensors, the same for the same seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from astrid.core.errors import DataSetError
from astrid.datasets.normalize import normalize

Rows = NDArray[np.int64]

_MEGABYTE = 1e6
_READ = 256  # triplets read and normalised at a time while the cache is filled: 12 MB


class Triplets(Protocol):
    """What training needs of a triplet store; `io.shards.TripletStore` is one."""

    table: pd.DataFrame
    digest: str

    def stamps(self, indices: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Stamps, float32 (n, 3, 63, 63), of the rows `indices`."""
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
        first = self._read(rows[:1])
        self._cache: NDArray[np.float32] | None = None
        if first.nbytes * len(rows) <= cache_bytes:
            self._cache = np.empty((len(rows), *first.shape[1:]), dtype=np.float32)
            for start in range(0, len(rows), _READ):
                self._cache[start : start + _READ] = self._read(rows[start : start + _READ])

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def cached(self) -> bool:
        """True when every stamp is in memory."""
        return self._cache is not None

    def batch(self, positions: NDArray[np.integer[Any]]) -> torch.Tensor:
        """Float32 (k, 3, 63, 63) at `positions` within the rows, in that order."""
        taken = self._cache[positions] if self._cache is not None else self._read(self._rows[positions])
        return torch.from_numpy(taken)

    def _read(self, rows: Rows) -> NDArray[np.float32]:
        return normalize(self._store.stamps(rows), self._id)


def open_stamps(store: Triplets, part: Part, normalization_id: str, *, cache_mb: float) -> NormalizedStamps:
    """The normalised stamps of a part, cached up to `cache_mb` megabytes."""
    return NormalizedStamps(store, part.rows, normalization_id, cache_bytes=cache_mb * _MEGABYTE)


def epoch_order(labels: NDArray[np.float32], balance: str, rng: np.random.Generator) -> Rows:
    """The order in which an epoch visits the triplets: positions, int64 (n,).

    With `balance` "sampling" each class is drawn equally often, with replacement; otherwise every triplet comes once.
    """
    count = len(labels)
    if balance == "sampling":
        return rng.choice(count, size=count, p=class_weights(labels)[labels.astype(np.intp)] / count)
    return rng.permutation(count)


def class_weights(labels: NDArray[np.float32]) -> NDArray[np.float64]:
    """Weights (bogus, real) by which both classes sum to the same: n / (2 n_class)."""
    real = float(labels.sum())
    return len(labels) / (2 * np.array([len(labels) - real, real]))


def batches(order: Rows, size: int) -> Iterator[Rows]:
    """Cut an order into batches of `size`; the last one may be shorter."""
    for start in range(0, len(order), size):
        yield order[start : start + size]

"""Several triplet stores read as one, and parts of a split read as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astrid.core.errors import DataSetError
from astrid.core.provenance import digest_bytes


class Source(Protocol):
    """A triplet store, as `io.shards.TripletStore` is one."""

    digest: str

    @property
    def table(self) -> pd.DataFrame:
        """TRIPLETS, one row a triplet."""
        ...

    def stamps(self, indices: NDArray[np.integer[Any]], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Stamps, float32 (n, 3, 63, 63), of the rows `indices`: `out`, which is filled with them, or a new array."""
        ...


class JoinedStores:
    """The rows of several stores one after the other.

    `sources`: (store, splits) pairs. `table` (TRIPLETS) and `splits` (SPLITS) carry candidate_ids, object and group names with the
    store's number in front, so that equal names of two stores stay apart; `digest` covers the stores' digests in their order.
    """

    def __init__(self, sources: Sequence[tuple[Source, pd.DataFrame]]) -> None:
        self._stores = [store for store, _ in sources]
        self._starts = np.cumsum([0, *(len(store.table) for store in self._stores)])
        self.digest = digest_bytes(*(store.digest.encode() for store in self._stores))
        names = ("candidate_id", "event_id")
        self.table = pd.concat([_numbered(store.table, k, names) for k, store in enumerate(self._stores)], ignore_index=True)
        names = ("candidate_id", "group_id")
        self.splits = pd.concat([_numbered(splits, k, names) for k, (_, splits) in enumerate(sources)], ignore_index=True)

    def __len__(self) -> int:
        return len(self.table)

    def stamps(self, indices: NDArray[np.integer[Any]], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Stamps, float32 (n, 3, 63, 63), of the rows `indices`, in that order: `out`, which is filled with them, or a new array."""
        wanted = np.asarray(indices, dtype=np.int64)
        owner = np.searchsorted(self._starts, wanted, side="right") - 1
        for number in np.unique(owner):
            here = np.flatnonzero(owner == number)
            read = self._stores[number].stamps(wanted[here] - self._starts[number])
            if out is None:
                out = np.empty((len(wanted), *read.shape[1:]), np.float32)
            out[here] = read
        return out if out is not None else self._stores[0].stamps(wanted)


def as_training(splits: pd.DataFrame, parts: Sequence[str]) -> pd.DataFrame:
    """SPLITS in which the rows of all `parts` make up the part "train".

    For a test that lies elsewhere. The parts of a split share nothing, so that what is left of the others stays apart from it.

    Raises `DataSetError` when a part that is not to be trained on, "validation", which stops a training, or "unused", is among them.
    """
    strange = sorted(set(parts) - {"train", "test"})
    if strange:
        raise DataSetError(f"the part {strange[0]!r} cannot be trained on; choose train, or train and test.")
    return splits.assign(part=splits["part"].where(~splits["part"].isin(parts), "train"))


def _numbered(table: pd.DataFrame, number: int, names: Sequence[str]) -> pd.DataFrame:
    """The table with a store's number before its names; empty names stay empty."""
    return table.assign(**{name: [f"{number}/{value}" if value else "" for value in table[name]] for name in names if name in table})

"""Building the data set on disk: labelled candidates and their stamps, pair by pair, into a triplet store."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astrid.core.errors import DataSetError
from astrid.core.provenance import digest_bytes
from astrid.core.runtime import rng_for
from astrid.datasets import content
from astrid.datasets.labels import BOGUS, UNLABELLED
from astrid.io.shards import ShardWriter, TripletStore
from astrid.io.tables import CANDIDATES, conform

Batch = tuple[NDArray[np.float32], pd.DataFrame]


def build(folder: Path, batches: Iterable[Batch], *, rows_per_shard: int) -> TripletStore:
    """Write batches of stamps (n, 3, 63, 63) and their TRIPLETS rows as a new store, one batch in memory.

    The digest and the keys of the content of each triplet are added, so that the split can find duplicates and copies.
    """
    with ShardWriter(folder, rows_per_shard) as writer:
        return _fill(writer, batches)


def resume(folder: Path, batches_from: Callable[[int], Iterable[Batch]], *, rows_per_shard: int, key: str) -> TripletStore:
    """As `build`, and go on after the whole shards of a process that was killed while it wrote from the same inputs.

    `batches_from(first)` gives the batches from row `first` on; `key` is a digest of everything that they come from.
    """
    with ShardWriter.resume(folder, rows_per_shard, key) as writer:
        return _fill(writer, batches_from(writer.rows))


def _fill(writer: ShardWriter, batches: Iterable[Batch]) -> TripletStore:
    for stamps, rows in batches:
        writer.append(stamps, content.with_keys(stamps, rows))
    return writer.close()


def digest_rows(rows: pd.DataFrame) -> str:
    """SHA-256 of the contents of rows of a CANDIDATES or TRIPLETS table, in their order."""
    flat = rows.assign(tags=rows["tags"].map(" ".join))
    return digest_bytes(" ".join(flat.columns).encode(), pd.util.hash_pandas_object(flat, index=False).to_numpy().tobytes())


def select(candidates: pd.DataFrame, columns: pd.DataFrame, *, max_bogus_per_pair: int, keep_unlabelled: bool, seed: int) -> pd.DataFrame:
    """Labelled candidates that go into the store, in order of pair and of detection.

    `columns`: the labels' columns of `Labelled`, row for row. Unscorable candidates stay out. Above `max_bogus_per_pair`
    (0 = all) the bogus ones of a pair are drawn by the seed and the pair's id, so that other pairs do not matter.
    """
    if list(candidates["candidate_id"]) != list(columns["candidate_id"]):
        raise DataSetError(f"{len(candidates)} candidates and {len(columns)} labels differ or differ in order; label these candidates.")
    rows = conform(candidates, CANDIDATES, source="the candidates")
    rows = rows.assign(**{name: columns[name].to_numpy() for name in columns.columns if name != "candidate_id"})
    keep = rows["scorable"].to_numpy() & (keep_unlabelled | (rows["label"] != UNLABELLED).to_numpy())
    if max_bogus_per_pair:
        bogus = rows[keep & (rows["label"] == BOGUS).to_numpy()]
        for pair_id, where in bogus.groupby("pair_id").groups.items():
            dropped = rng_for(seed, "bogus", str(pair_id)).permutation(len(where))[max_bogus_per_pair:]
            keep[np.asarray(where)[dropped]] = False
    return rows[keep].sort_values("pair_id", kind="stable").reset_index(drop=True)


def reason_kind(reason: str) -> str:
    """What kind of reason a sentence gives: its first clause without the numbers, e.g. "the stamp leaves the image"."""
    clause = re.split(r"[:;,(]", str(reason), maxsplit=1)[0]
    return " ".join(re.sub(r"\d[\d.]*\s*(%|px)?(\s+of)?\s", "", clause).split())


def selection_counts(candidates: pd.DataFrame, columns: pd.DataFrame, chosen: pd.DataFrame) -> dict[str, Any]:
    """What went in and what stayed out, by reason."""
    scorable = candidates["scorable"].to_numpy(dtype=bool)
    reasons = candidates["reason"][~scorable].map(reason_kind).value_counts()
    label = columns["label"].to_numpy()
    out = {
        name: int((scorable & (label == value)).sum() - (chosen["label"] == value).sum())
        for name, value in (("bogus", 0), ("unlabelled", -1))
    }
    return {
        "candidates": len(candidates),
        "triplets": len(chosen),
        "unscorable": int((~scorable).sum()),
        "unscorable_reasons": {str(reason): int(count) for reason, count in sorted(reasons.items())},
        "bogus_over_cap": out["bogus"],
        "unlabelled_left_out": out["unlabelled"],
    }

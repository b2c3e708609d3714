"""The audit that refuses a leaking split: nothing that two parts could share may stand in two parts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astrid.core.copies import parent_of
from astrid.core.errors import DataSetError, LeakageError
from astrid.datasets.content import words_of

Numbers = NDArray[np.int64]

PARTS = ("train", "validation", "test")
UNUSED = "unused"

# What two triplets can share, and the columns in which it stands. A reference is an exposure too: one image that is the science
# exposure of one triplet and the reference of another is shared by both, and a copy with injected sources is the image that it was
# made from. `copy` is what turned, shifted or swapped copies of stamps have in common.
KEYS: dict[str, tuple[str, ...]] = {
    "event": ("event_id",),
    "cell": ("cell_id",),
    "exposure": ("exposure_id", "reference_id"),
    "stamp": ("stamp_digest",),
    "copy": ("content_key",),
}
NEAR = "near"  # slightly changed copies, as `near.near_copies` finds them
_EXAMPLES = 3
_CHUNK = 8192  # rows whose values are spelled out at a time


@dataclass(frozen=True)
class AuditReport:
    """What the audit counted."""

    leaks: dict[str, int]  # per key: values that stand in more than one of train, validation and test; "near": pairs that do
    distinct: dict[str, int]  # per key: values in use; "near": pairs
    counts: dict[str, dict[str, int]]  # per part: rows real, bogus, unlabelled
    examples: dict[str, list[str]] = field(default_factory=dict)  # per leaking key: some values with their parts

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a report."""
        return asdict(self)

    def raise_if_leaking(self) -> None:
        """Raise `LeakageError` with the numbers and examples when anything stands in two parts."""
        leaking = [key for key, count in self.leaks.items() if count]
        if leaking:
            numbers = ", ".join(f"{self.leaks[key]} of {self.distinct[key]} {key} values ({self.examples[key][0]})" for key in leaking)
            raise LeakageError(f"the split leaks: {numbers} stand in more than one part; run the stage split again.")


def joined(table: pd.DataFrame, splits: pd.DataFrame) -> pd.DataFrame:
    """The triplet table with `part` and `group_id`, in the table's order.

    Raises `DataSetError` when the two do not speak of the same candidates, once each, or a part is not known.
    """
    for name, frame in (("triplet table", table), ("splits", splits)):
        twice = _repeated(frame["candidate_id"])
        if len(twice):
            raise DataSetError(
                f"{len(twice)} candidate_ids stand on more than one row of the {name}, {twice.iloc[0]!r} first; run it again."
            )
    if not _same(table["candidate_id"], splits["candidate_id"]):
        absent = (~table["candidate_id"].isin(splits["candidate_id"])).sum()
        beyond = (~splits["candidate_id"].isin(table["candidate_id"])).sum()
        if absent or beyond:
            raise DataSetError(f"the splits lack {absent} triplets and name {beyond} that are not in the table; run the stage split again.")
    strange = sorted(set(splits["part"].unique()) - {*PARTS, UNUSED})
    if strange:
        raise DataSetError(f"{strange[0]!r} is no part of a split; use {', '.join(PARTS)} or {UNUSED}.")
    parts = in_order(splits, table["candidate_id"])
    return table.reset_index(drop=True).assign(part=parts["part"].array, group_id=parts["group_id"].array)


def in_order(frame: pd.DataFrame, names: pd.Series) -> pd.DataFrame:
    """The rows of a frame with the column candidate_id, in the order of `names`."""
    return frame if _same(frame["candidate_id"], names) else frame.set_index("candidate_id").loc[names]


def _same(first: pd.Series, second: pd.Series) -> bool:
    """True where two columns of names are the same in the same order, as those of a table and of its split are.

    To look names up in an index, which is needed where they are not, takes 500 bytes a row.
    """
    return bool(first.reset_index(drop=True).equals(second.reset_index(drop=True)))


def _repeated(names: pd.Series) -> pd.Series:
    """The names that stood before."""
    hashes = [_hashes(names.iloc[start : start + _CHUNK]) for start in range(0, len(names), _CHUNK)]
    distinct = len(np.unique(np.concatenate(hashes))) if hashes else 0
    return names[names.duplicated()] if distinct < len(names) else names.iloc[:0]


def shared_values(rows: pd.DataFrame, key: str) -> pd.Series:
    """The values of a key, indexed by row number (a row may have several); empty values are no link."""
    columns = [rows[column].reset_index(drop=True) for column in KEYS[key] if column in rows.columns]
    values = pd.concat(columns) if columns else pd.Series(dtype=object)
    if key == "copy":
        return words_of(values)
    if key == "exposure":
        codes, names = pd.factorize(values)
        parents = [parent_of(name) for name in names]
        values = pd.Series(pd.Index(parents, dtype=object).take(codes), index=values.index)
    return values[values != ""]


def shared_hashes(table: pd.DataFrame, key: str, rows: Numbers) -> tuple[Numbers, NDArray[np.uint64]]:
    """The values of a key of some `rows` of a table, as numbers: each one's place in `rows` and a hash of 64 bits, (m,) each.

    `rows`: row numbers in ascending order. Strings take ten times as much memory. Of ten million values two share a hash with a
    probability of 3e-6.
    """
    named = table[[column for column in KEYS[key] if column in table.columns]]
    places, hashes = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
    for start in range(0, len(rows), _CHUNK):
        some = rows[start : start + _CHUNK]
        values = shared_values(named.iloc[some[0] : some[-1] + 1].iloc[some - some[0]], key)  # a slice copies nothing
        places.append(values.index.to_numpy(dtype=np.int64) + start)
        hashes.append(_hashes(values))
    return np.concatenate(places), np.concatenate(hashes)


def by_value(hashes: NDArray[np.uint64]) -> tuple[Numbers, NDArray[np.bool_]]:
    """The order that brings equal values together, and where in it each value begins."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    begins = np.ones(len(hashes), dtype=bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    return order, begins


def _hashes(values: pd.Series) -> NDArray[np.uint64]:
    hashes: NDArray[np.uint64] = pd.util.hash_array(values.to_numpy(dtype=object), categorize=False)
    return hashes


def audit(table: pd.DataFrame, splits: pd.DataFrame, near: pd.DataFrame | None = None) -> AuditReport:
    """Count what stands in more than one part.

    `table`: TRIPLETS (event_id, cell_id, exposure_id, reference_id, stamp_digest, content_key, label); `splits`: SPLITS of the same
    candidates; `near`: pairs of candidate_ids (first, second) that are slightly changed copies. Unused rows are no part. Raises
    `DataSetError` when the tables do not match.
    """
    rows = joined(table, splits)
    used = np.flatnonzero(rows["part"] != UNUSED)
    part_codes = pd.Index(PARTS).get_indexer(rows["part"].iloc[used]).astype(np.int8)
    leaks, distinct = {}, {}
    examples: dict[str, list[str]] = {}
    for key in KEYS:
        places, hashes = shared_hashes(rows, key, used)
        order, begins = by_value(hashes)
        numbers, starts = part_codes[places[order]], np.flatnonzero(begins)
        stops = np.append(starts[1:], len(order))
        bad = np.flatnonzero(np.maximum.reduceat(numbers, starts) != np.minimum.reduceat(numbers, starts)) if len(starts) else starts
        leaks[key], distinct[key] = len(bad), len(starts)
        if len(bad):
            examples[key] = []
            for value in bad[np.argsort(order[starts[bad]])][:_EXAMPLES]:
                first, among = order[starts[value]], numbers[starts[value] : stops[value]]
                name = _name(rows.iloc[[used[places[first]]]], key, hashes[first])
                examples[key].append(f"{name} in {' and '.join(sorted(PARTS[number] for number in np.unique(among)))}")
    if near is not None:
        pairs = _pair_parts(rows, near)
        apart = pairs[(pairs["first_part"] != pairs["second_part"]) & ~pairs[["first_part", "second_part"]].isin([UNUSED]).any(axis=1)]
        leaks[NEAR], distinct[NEAR] = len(apart), len(pairs)
        if len(apart):
            examples[NEAR] = [f"{p.first} in {p.first_part} and {p.second} in {p.second_part}" for p in apart.head(_EXAMPLES).itertuples()]
    return AuditReport(leaks, distinct, part_counts(rows), examples)


def _name(row: pd.DataFrame, key: str, hashed: np.uint64) -> str:
    """The value of a row that has this hash."""
    values = shared_values(row, key)
    return str(values[_hashes(values) == hashed].iloc[0])


def _pair_parts(rows: pd.DataFrame, near: pd.DataFrame) -> pd.DataFrame:
    named = rows["candidate_id"].isin(near["first"]) | rows["candidate_id"].isin(near["second"])
    parts = rows[["candidate_id", "part"]][named].set_index("candidate_id")["part"]
    absent = ~(near["first"].isin(parts.index) & near["second"].isin(parts.index))
    if absent.any():
        raise DataSetError(f"{absent.sum()} near copies name triplets that are not in the table; look for copies in this table.")
    return near.assign(first_part=parts.loc[near["first"]].to_numpy(), second_part=parts.loc[near["second"]].to_numpy())


def part_counts(rows: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Rows of each part by label: {"train": {"real": ..., "bogus": ..., "unlabelled": ...}, ...}."""
    names = {"real": 1, "bogus": 0, "unlabelled": -1}
    return {
        part: {name: int(((rows["part"] == part) & (rows["label"] == label)).sum()) for name, label in names.items()}
        for part in (*PARTS, UNUSED)
    }

"""The audit that refuses a leaking split: nothing that two parts could share may stand in two parts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from astrid.core.copies import parent_of
from astrid.core.errors import DataSetError, LeakageError
from astrid.datasets.content import words_of

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
        twice = frame["candidate_id"][frame["candidate_id"].duplicated()]
        if len(twice):
            raise DataSetError(
                f"{len(twice)} candidate_ids stand on more than one row of the {name}, {twice.iloc[0]!r} first; run it again."
            )
    absent = (~table["candidate_id"].isin(splits["candidate_id"])).sum()
    beyond = (~splits["candidate_id"].isin(table["candidate_id"])).sum()
    if absent or beyond:
        raise DataSetError(f"the splits lack {absent} triplets and name {beyond} that are not in the table; run the stage split again.")
    strange = sorted(set(splits["part"]) - {*PARTS, UNUSED})
    if strange:
        raise DataSetError(f"{strange[0]!r} is no part of a split; use {', '.join(PARTS)} or {UNUSED}.")
    parts = splits.set_index("candidate_id").loc[table["candidate_id"]]
    return table.reset_index(drop=True).assign(part=parts["part"].to_numpy(), group_id=parts["group_id"].to_numpy())


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


def audit(table: pd.DataFrame, splits: pd.DataFrame, near: pd.DataFrame | None = None) -> AuditReport:
    """Count what stands in more than one part.

    `table`: TRIPLETS (event_id, cell_id, exposure_id, reference_id, stamp_digest, content_key, label); `splits`: SPLITS of the same
    candidates; `near`: pairs of candidate_ids (first, second) that are slightly changed copies. Unused rows are no part. Raises
    `DataSetError` when the tables do not match.
    """
    rows = joined(table, splits)
    used = rows[rows["part"] != UNUSED].reset_index(drop=True)
    part_codes = pd.Categorical(used["part"], categories=PARTS).codes.astype(np.int64)
    leaks, distinct, examples = {}, {}, {}
    for key in KEYS:
        values = shared_values(used, key)
        codes, names = pd.factorize(values)
        spread = np.unique(codes * len(PARTS) + part_codes[values.index])
        where, count = np.unique(spread // len(PARTS), return_counts=True)
        bad = where[count > 1]
        leaks[key], distinct[key] = len(bad), len(names)
        if len(bad):
            found = {
                str(names[code]): sorted(PARTS[place % len(PARTS)] for place in spread[spread // len(PARTS) == code])
                for code in bad[:_EXAMPLES]
            }
            examples[key] = [f"{value} in {' and '.join(parts)}" for value, parts in found.items()]
    if near is not None:
        pairs = _pair_parts(rows, near)
        apart = pairs[(pairs["first_part"] != pairs["second_part"]) & ~pairs[["first_part", "second_part"]].isin([UNUSED]).any(axis=1)]
        leaks[NEAR], distinct[NEAR] = len(apart), len(pairs)
        if len(apart):
            examples[NEAR] = [f"{p.first} in {p.first_part} and {p.second} in {p.second_part}" for p in apart.head(_EXAMPLES).itertuples()]
    return AuditReport(leaks, distinct, part_counts(rows), examples)


def _pair_parts(rows: pd.DataFrame, near: pd.DataFrame) -> pd.DataFrame:
    parts = rows.set_index("candidate_id")["part"]
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

"""The candidates of one field after the other, each with what its labels are made from: a field is labelled by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from astrid.io.table_parts import read_parts
from astrid.io.tables import CANDIDATES, PAIRS, TRUTH, read_table
from astrid.stages.inject import injected_truth

CANDIDATE_TABLE = Path("data/candidates/candidates.parquet")
PAIR_TABLE = Path("data/difference/pairs.parquet")
TRUTH_TABLE = Path("data/raw/truth.parquet")

_Name = tuple[str, str]  # survey and field_id


@dataclass(frozen=True, eq=False)
class Field:
    """The candidates of a field of a survey and what is known of its images."""

    candidates: pd.DataFrame  # CANDIDATES
    truth: pd.DataFrame  # TRUTH of their exposures and references
    injected: pd.DataFrame  # TRUTH of the copies, on the scale of the science exposures
    pairs: pd.DataFrame  # PAIRS
    given: pd.DataFrame  # LABELS of people and other tables


def read_fields(given: pd.DataFrame) -> tuple[int, Iterator[Field]]:
    """How many fields have candidates, and these fields in the order of the candidates; one is in memory at a time.

    `given`: LABELS by candidate_id. Those that are of no field come with the first one, as labels without a candidate. A survey
    without any candidate is one field without rows. Raises `InputError` for a missing or broken table.
    """
    pairs = read_table(PAIR_TABLE, PAIRS)
    members = _pairs_of_fields()
    if not members:
        return 1, iter([Field(CANDIDATES.empty(), TRUTH.empty(), TRUTH.empty(), pairs, given)])
    return len(members), _fields(members, pairs, given)


def _fields(members: dict[_Name, list[str]], pairs: pd.DataFrame, given: pd.DataFrame) -> Iterator[Field]:
    field_of = {pair_id: number for number, names in enumerate(members.values()) for pair_id in names}
    about = [field_of.get(str(name).rpartition(":")[0], 0) for name in given["candidate_id"]]
    given_to = given.groupby(about).indices
    for number, names in enumerate(members.values()):
        candidates = read_table(CANDIDATE_TABLE, CANDIDATES, where=("pair_id", names))
        images = sorted({*candidates["exposure_id"], *candidates["reference_id"]})
        truth = read_table(TRUTH_TABLE, TRUTH, where=("exposure_id", images))
        own = pairs[pairs["pair_id"].isin(names)]
        yield Field(candidates, truth, injected_truth(images), own, given.iloc[given_to.get(number, [])])


def _pairs_of_fields() -> dict[_Name, list[str]]:
    """The pair_ids of each field, in the order of the candidates."""
    members: dict[_Name, list[str]] = {}
    for part in read_parts(CANDIDATE_TABLE, CANDIDATES, columns=("survey", "field_id", "pair_id")):
        for row in part.drop_duplicates().itertuples():
            names = members.setdefault((row.survey, row.field_id), [])
            if row.pair_id not in names[-1:]:
                names.append(row.pair_id)
    return members

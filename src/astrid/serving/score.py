"""Files in, one table of scores out: alerts, triplet stores, arrays and difference products through the same engine.

Every alert or candidate gets a row: a score, or the reason why there is none. A table named .csv is written with the standard
library alone, so that a device needs no pandas; any other name is Parquet.
"""

from __future__ import annotations

import csv
import importlib.util
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from astrid.core.errors import MissingDependencyError
from astrid.core.runtime import atomic_path, track
from astrid.serving.engine import ScoringEngine
from astrid.serving.inputs import Item, check_inputs, difference_products, needs_candidates, read_items

if TYPE_CHECKING:
    import pandas as pd

    from astrid.config.schema.candidates import CandidatesConfig

__all__ = ["COLUMNS", "Item", "Scored", "check_inputs", "difference_products", "needs_candidates", "score_inputs", "score_items"]

COLUMNS = ("candidate_id", "object_id", "survey", "source", "score", "raw_score", "real", "sign", "model_version", "reason")  # of SCORES
Row = dict[str, Any]

_BLANK = "a stamp has no finite pixel."
_CSV = ".csv"


@dataclass(frozen=True, eq=False)
class Scored:
    """What a scoring run gave: the rows of the SCORES table and the seconds it took, reading included."""

    rows: list[Row]
    seconds: float

    @property
    def table(self) -> pd.DataFrame:
        """The rows as a SCORES frame; needs pandas and pyarrow."""
        return _frame(self.rows)


def score_inputs(
    inputs: Sequence[Path], output: Path, engine: ScoringEngine, *, batch: int, candidates: CandidatesConfig | None = None
) -> Scored:
    """Score everything under `inputs` and write the SCORES table to `output`, atomically.

    Parameters
    ----------
    inputs : alert files, folders of them, tar archives; triplet stores; triplets as .npy or FITS; difference products (FITS).
    output : Parquet file, or CSV where it ends in .csv.
    engine : the model.
    batch : triplets in memory at a time.
    candidates : how difference products are searched; needed for those inputs only.

    Raises `InputError` when an input does not exist, and `MissingDependencyError` when this machine cannot write such an output or
    read such an input, before anything is scored.
    """
    check_inputs(inputs)
    _check_output(output)
    start = time.perf_counter()
    rows = score_rows(track(read_items(inputs, candidates, batch), "score"), engine, batch=batch)
    _write(rows, output)
    return Scored(rows, time.perf_counter() - start)


def score_items(items: Iterable[Item], engine: ScoringEngine, *, batch: int) -> pd.DataFrame:
    """The SCORES table of a stream of items, in their order; at most `batch` stamps are held at a time."""
    return _frame(score_rows(items, engine, batch=batch))


def score_rows(items: Iterable[Item], engine: ScoringEngine, *, batch: int) -> list[Row]:
    """The same as plain rows with the keys of `COLUMNS`; needs numpy alone."""
    rows: list[Row] = []
    stream = iter(items)
    while chunk := list(islice(stream, batch)):
        scored = [index for index, item in enumerate(chunk) if item.stamps is not None]
        given = {"score": np.nan, "raw_score": np.nan, "real": False, "model_version": engine.version}
        values = [item.row | given for item in chunk]
        if scored:
            scores = engine.score(np.stack([stamps for item in chunk if (stamps := item.stamps) is not None]))
            for place, index in enumerate(scored):
                values[index]["score"] = float(scores.calibrated[place])
                values[index]["raw_score"] = float(scores.raw[place])
                values[index]["real"] = bool(scores.real[place])
                if np.isnan(scores.raw[place]):
                    values[index]["reason"] = _BLANK
        rows.extend(values)
    return rows


def _frame(rows: Sequence[Row]) -> pd.DataFrame:
    import pandas as pd

    from astrid.io.tables import SCORES, conform

    return conform(pd.DataFrame(rows) if rows else SCORES.empty(), SCORES, source="scores")


def _check_output(output: Path) -> None:
    if output.suffix.lower() == _CSV:
        return
    missing = [name for name in ("pandas", "pyarrow") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(f"{output} cannot be written as Parquet without {' and '.join(missing)}; name a .csv file instead.")


def _write(rows: Sequence[Row], output: Path) -> None:
    if output.suffix.lower() != _CSV:
        from astrid.io.tables import SCORES, write_table

        write_table(_frame(rows), output, SCORES)
        return
    with atomic_path(output) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        writer.writerows([_cell(row[name]) for name in COLUMNS] for row in rows)


def _cell(value: Any) -> Any:
    return "" if isinstance(value, float) and np.isnan(value) else value

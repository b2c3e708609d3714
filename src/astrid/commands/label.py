"""Appending labels: what a person says of candidates, evidence from elsewhere, and what a model's scores suggest."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from astrid.core.errors import InputError
from astrid.datasets.precedence import GIVEN, weak_labels, winners
from astrid.io.labels import append_labels
from astrid.io.tables import CANDIDATES, LABELS, SCORES, conform, read_table


def label(
    candidate_ids: Sequence[str],
    *,
    value: int,
    kind: str,
    annotator: str,
    confidence: float = 1.0,
    table: Path = Path("data/labels/human.csv"),
    candidates: Path = Path("data/candidates/candidates.parquet"),
) -> None:
    """Append what a person says: `value` 1 real or 0 bogus, with its kind, for candidates of the table `candidates`.

    Each row carries the place of the candidate, so that it finds it again after a new detection, and the time in UTC. Raises
    `InputError` for a candidate that is not there, no annotator, or a value that is no label.
    """
    if not annotator.strip():
        raise InputError("a label needs a name to it; say who gives it.")
    time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    rows = pd.DataFrame({"candidate_id": list(candidate_ids), "label": value, "transient_type": kind, "source": "human"})
    rows = rows.assign(annotator=annotator, confidence=confidence, time=time)
    _append(rows, table, candidates)


def import_labels(
    evidence: Path,
    *,
    source: str,
    annotator: str,
    table: Path,
    candidates: Path = Path("data/candidates/candidates.parquet"),
) -> None:
    """Append the rows of a table (CSV or Parquet with candidate_id and label, and what else LABELS has) under a source.

    `source`: human, catalogue, evidence or weak. `annotator` is written where the table names none. Rows of candidates that are not
    in `candidates` are left out and counted. Raises `InputError` for another source, or a table that cannot be read as labels.
    """
    if source not in GIVEN:
        raise InputError(f"labels of the source {source!r} cannot be given; use one of {', '.join(GIVEN)}.")
    rows = _read(evidence)
    rows = conform(rows.assign(source=source), LABELS, source=str(evidence))
    rows["annotator"] = rows["annotator"].where(rows["annotator"] != "", annotator)
    _append(rows, table, candidates, known_only=True)


def import_scores(
    scores: Path,
    *,
    below: float,
    above: float,
    table: Path = Path("data/labels/weak.csv"),
    candidates: Path = Path("data/candidates/candidates.parquet"),
) -> None:
    """Append weak labels from a table of scores (`astrid score`): bogus at or below `below`, real at or above `above`."""
    frame = read_table(scores, SCORES)
    parts = [
        weak_labels(rows["candidate_id"], rows["score"], below=below, above=above, annotator=str(model) or str(scores))
        for model, rows in frame.groupby("model_version", sort=True)
    ]
    _append(pd.concat(parts) if parts else LABELS.empty(), table, candidates, known_only=True)


def _read(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pd.DataFrame(pd.read_parquet(path))
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a readable CSV table ({error}); correct it.") from error


def _append(rows: pd.DataFrame, table: Path, candidates: Path, *, known_only: bool = False) -> None:
    found = read_table(candidates, CANDIDATES).drop_duplicates("candidate_id").set_index("candidate_id")
    known = rows["candidate_id"].isin(found.index)
    if not known_only and not known.all():
        raise InputError(f"{rows['candidate_id'][~known].iloc[0]} is no candidate of {candidates}; name candidates of that table.")
    places = found.loc[rows["candidate_id"][known]]
    rows = conform(rows[known].assign(x=places["x"].to_numpy(), y=places["y"].to_numpy()), LABELS, source="the labels")
    winners(rows)  # refuses what is no label
    count = append_labels(rows, table)
    absent = f"; {int((~known).sum())} name no candidate of {candidates}" if not known.all() else ""
    print(f"{count} label{'s' if count != 1 else ''} appended to {table}{absent}")

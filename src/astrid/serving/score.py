"""Files in, one table of scores out: alerts, triplet stores and difference products through the same engine.

Every alert or candidate gets a row: a score, or the reason why there is none.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astrid.config.schema.candidates import CandidatesConfig
from astrid.core.errors import AstridError, InputError
from astrid.core.records import Triplet
from astrid.core.runtime import track
from astrid.io.alerts import alert_files, read_alerts
from astrid.io.tables import SCORES, conform, write_table
from astrid.serving.engine import ScoringEngine

_FITS = (".fits", ".fits.fz", ".fits.gz", ".fit")
_STORE_INDEX = "index.json"
_BLANK = "a stamp has no finite pixel."


@dataclass(frozen=True, eq=False)
class Item:
    """One row to be: its identity, and stamps float32 (3, 63, 63), or None with the reason in the row."""

    row: dict[str, Any]
    stamps: NDArray[np.float32] | None


@dataclass(frozen=True, eq=False)
class Scored:
    """What a scoring run gave: the SCORES table and the seconds it took, reading included."""

    table: pd.DataFrame
    seconds: float


def score_inputs(
    inputs: Sequence[Path], output: Path, engine: ScoringEngine, *, batch: int, candidates: CandidatesConfig | None = None
) -> Scored:
    """Score everything under `inputs` and write the SCORES table to `output`, atomically.

    Parameters
    ----------
    inputs : alert files, folders of them, tar archives; triplet stores; difference products (FITS).
    output : Parquet file.
    engine : the model.
    batch : triplets in memory at a time.
    candidates : how difference products are searched; needed for FITS inputs only.

    Raises `InputError` when an input does not exist, before anything is scored.
    """
    check_inputs(inputs)
    start = time.perf_counter()
    table = score_items(track(_items(inputs, candidates, batch), "score"), engine, batch=batch)
    write_table(table, output, SCORES)
    return Scored(table, time.perf_counter() - start)


def check_inputs(inputs: Sequence[Path]) -> None:
    """Raise `InputError` for the first input that does not exist."""
    for path in inputs:
        if not path.exists():
            raise InputError(f"{path} does not exist; give alert files, folders, tar archives, triplet stores or difference products.")


def score_items(items: Iterable[Item], engine: ScoringEngine, *, batch: int) -> pd.DataFrame:
    """The SCORES table of a stream of items, in their order; at most `batch` stamps are held at a time."""
    rows: list[dict[str, Any]] = []
    stream = iter(items)
    while chunk := list(islice(stream, batch)):
        scored = [index for index, item in enumerate(chunk) if item.stamps is not None]
        values = [item.row | {"score": np.nan, "raw_score": np.nan, "real": False} for item in chunk]
        if scored:
            scores = engine.score(np.stack([stamps for item in chunk if (stamps := item.stamps) is not None]))
            for place, index in enumerate(scored):
                values[index]["score"] = float(scores.calibrated[place])
                values[index]["raw_score"] = float(scores.raw[place])
                values[index]["real"] = bool(scores.real[place])
                if np.isnan(scores.raw[place]):
                    values[index]["reason"] = _BLANK
        rows.extend(values)
    frame = pd.DataFrame(rows) if rows else SCORES.empty()
    return conform(frame.assign(model_version=engine.description.version), SCORES, source="scores")


def _items(inputs: Sequence[Path], candidates: CandidatesConfig | None, batch: int) -> Iterator[Item]:
    for path in inputs:
        if (path / _STORE_INDEX).is_file():
            yield from _store_items(path, batch)
        elif products := difference_products(path):
            for product in products:
                yield from _product_items(product, candidates)
        else:
            yield from map(_alert_item, read_alerts([path]))


def difference_products(path: Path) -> list[Path]:
    """The FITS files that an input stands for: itself, or those of a folder without alerts; [] where it is something else."""
    if not path.is_dir():
        return [path] if path.name.lower().endswith(_FITS) else []
    return [] if alert_files(path) else sorted(file for file in path.rglob("*") if file.name.lower().endswith(_FITS))


def _alert_item(reading: Any) -> Item:
    if isinstance(reading, Triplet):
        row = _row(reading.candidate_id, reading.object_id, reading.survey, str(reading.meta["source"]), reading.sign)
        return Item(row, reading.stamps)
    row = _row(getattr(reading, "candidate_id", ""), getattr(reading, "object_id", ""), getattr(reading, "survey", ""), reading.source, 0)
    return Item(row | {"reason": reading.reason}, None)


def _store_items(folder: Path, batch: int) -> Iterator[Item]:
    from astrid.io.shards import TripletStore

    store = TripletStore.open(folder)
    table = store.table
    for start in range(0, len(store), batch):
        stamps = store.stamps(slice(start, min(start + batch, len(store))))
        for offset, values in enumerate(table.iloc[start : start + len(stamps)].to_dict("records")):
            row = _row(values["candidate_id"], values["event_id"], values["survey"], str(folder), int(values["sign"]))
            yield Item(row, stamps[offset])


def _product_items(path: Path, candidates: CandidatesConfig | None) -> Iterator[Item]:
    if candidates is None:
        raise InputError(f"{path} is a FITS file, and finding its candidates needs the section `candidates`; run in the project's root.")
    from astrid.candidates.extract import find_candidates
    from astrid.candidates.stamps import cut_stamps
    from astrid.io.fits import read_difference

    try:
        difference = read_difference(path)
        found = find_candidates(difference, candidates, pair_id=path.name.split(".fits")[0])
        stamps = cut_stamps(difference, found)
    except AstridError as error:
        yield Item(_row("", "", "", str(path), 0) | {"reason": str(error)}, None)
        return
    for index, values in enumerate(found.to_dict("records")):
        row = _row(values["candidate_id"], "", values["survey"], str(path), int(values["sign"]))
        scorable = bool(values.get("scorable", True))
        yield Item(row | {"reason": "" if scorable else str(values["reason"])}, stamps[index] if scorable else None)


def _row(candidate_id: str, object_id: str, survey: str, source: str, sign: int) -> dict[str, Any]:
    return {"candidate_id": candidate_id, "object_id": object_id, "survey": survey, "source": source, "sign": sign, "reason": ""}

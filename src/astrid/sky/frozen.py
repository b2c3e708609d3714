"""What an archive was asked and has answered, on disk: parts while it is asked, then one manifest with its questions.

A part is two tables, the rows and then the questions; a part whose questions are not there yet does not count. Freezing
merges parts and earlier tables, sorted by event and some events at a time, so that memory does not grow with their number.

Answers that a freeze leaves out (another catalogue, another survey) stay in a folder beside it (`data/.manifest` for
`data/manifest`), the latest of each event and mission, and come back when they are wanted again: nothing is asked twice.
"""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from astrid.core.errors import InputError
from astrid.core.provenance import digest_settings
from astrid.core.runtime import atomic_path, log
from astrid.io.archive_tables import MANIFEST, QUESTIONS
from astrid.io.tables import conform, read_table, to_arrow, write_table
from astrid.sky.archives import Event

MANIFEST_NAME = "manifest.parquet"
QUESTIONS_NAME = "questions.parquet"
_PARTS = "parts"
_BEFORE = "zz-before"  # name of the part that the frozen tables become: the last in order
_QUESTIONS_SUFFIX = ".questions.parquet"
_MERGED = 64  # events a row group of the manifest
_ORDER = ["object_id", "mission", "obs_id", "filename"]

Ident = tuple[str, str]  # event, mission


@dataclass(frozen=True)
class Question:
    """What is asked of one mission about one event."""

    event: Event
    mission: str
    key: str
    reason: str = ""  # why it cannot be asked; empty = it can

    @property
    def ident(self) -> Ident:
        return self.event.object_id, self.mission


def by_event(todo: Sequence[Question]) -> list[list[Question]]:
    """The questions of each event together, in the order of the events."""
    grouped: dict[str, list[Question]] = {}
    for question in todo:
        grouped.setdefault(question.event.object_id, []).append(question)
    return list(grouped.values())


def write_part(folder: Path, rows: Sequence[Mapping[str, Any]], lines: Sequence[Mapping[str, Any]]) -> None:
    """Keep the rows (MANIFEST) and then the questions (QUESTIONS) of a chunk; nothing without questions."""
    if not lines:
        return
    stem = digest_settings({"questions": sorted(line["key"] for line in lines)})[:24]
    frame = pd.DataFrame(list(rows)) if rows else MANIFEST.empty()
    write_table(frame, folder / _PARTS / f"{stem}.parquet", MANIFEST)
    write_table(pd.DataFrame(list(lines)), folder / _PARTS / f"{stem}{_QUESTIONS_SUFFIX}", QUESTIONS)


def line(question: Question, status: str, observations: int = 0, products: int = 0, reason: str = "") -> dict[str, Any]:
    """A row of QUESTIONS."""
    return {
        "object_id": question.event.object_id,
        "mission": question.mission,
        "key": question.key,
        "status": status,
        "observations": observations,
        "products": products,
        "reason": reason,
    }


@dataclass(frozen=True)
class _Answer:
    source: Path  # the file with its rows
    observations: int
    products: int


@dataclass(frozen=True)
class Known:
    """What earlier runs have asked, from the frozen tables and the parts."""

    answered: Mapping[tuple[str, str, str], _Answer]  # event, mission, key
    failed: Mapping[tuple[str, str, str], str]  # reasons

    @classmethod
    def read(cls, folder: Path) -> Known:
        """An answer counts when its rows are all there."""
        answered: dict[tuple[str, str, str], _Answer] = {}
        failed: dict[tuple[str, str, str], str] = {}
        for source, lines in _sources(folder):
            there = _counted(source)
            for line in lines.itertuples():
                name = (str(line.object_id), str(line.mission), str(line.key))
                if line.status == "answered" and there[name[:2]] == line.products:
                    answered.setdefault(name, _Answer(source, int(line.observations), int(line.products)))
                elif line.status == "failed":
                    failed.setdefault(name, str(line.reason))
        return cls(answered, failed)

    def answers(self, question: Question) -> bool:
        return (*question.ident, question.key) in self.answered


def _sources(folder: Path) -> Iterator[tuple[Path, pd.DataFrame]]:
    """Files of rows with their questions: parts, frozen tables, those beside. What one that cannot be read held is asked again."""
    pairs = [
        (path.with_name(path.name.removesuffix(_QUESTIONS_SUFFIX) + ".parquet"), path)
        for path in sorted((folder / _PARTS).glob(f"*{_QUESTIONS_SUFFIX}"))
    ]
    frozen = [(place / MANIFEST_NAME, place / QUESTIONS_NAME) for place in (folder, _beside(folder))]
    for table, questions in [*pairs, *frozen]:
        if not questions.exists():
            continue
        try:
            yield table, read_table(questions, QUESTIONS)
        except InputError as error:
            log.warning("search: %s What it held is asked again.", error)


def _counted(path: Path) -> Counter[Ident]:
    """Rows by event and mission; none where the file is missing or broken."""
    counts: Counter[Ident] = Counter()
    try:
        for batch in pq.ParquetFile(path).iter_batches(columns=["object_id", "mission"], use_threads=False):
            counts.update(zip(batch.column("object_id").to_pylist(), batch.column("mission").to_pylist(), strict=True))
    except (OSError, pa.ArrowInvalid) as error:
        if path.exists():
            log.warning("search: %s cannot be read (%s); what it held is asked again.", path, error)
        return Counter()
    return counts


def freeze(questions: Sequence[Question], known: Known, folder: Path) -> pd.DataFrame:
    """Write the manifest and the questions of exactly these questions, and remove the parts; returns the questions.

    What else is known is kept beside. A kill at any time loses nothing: what is left out stays a part until it lies there.
    """
    others = _left_out(questions, known, folder)
    if others:
        known = _as_part(folder)
    frame = _write(questions, known, folder)
    if others:
        _write(others, known, _beside(folder))
    shutil.rmtree(folder / _PARTS, ignore_errors=True)
    return frame


def leave(folder: Path) -> None:
    """Freeze nothing: the tables become empty, and all that is known is kept beside."""
    freeze([], Known.read(folder), folder)


def _beside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}")


def _left_out(questions: Sequence[Question], known: Known, folder: Path) -> list[Question]:
    """What is known besides these questions, the latest of each event and mission; nothing where all of it lies beside already."""
    wanted = {(*question.ident, question.key) for question in questions}
    rest: dict[Ident, Question] = {}
    for object_id, mission, key in known.answered:  # the latest first
        if (object_id, mission, key) not in wanted:
            event = Event(object_id, math.nan, math.nan, math.nan, math.nan)
            rest.setdefault((object_id, mission), Question(event, mission, key))
    beside = _beside(folder)
    moved = any(known.answered[(*ident, question.key)].source.parent != beside for ident, question in rest.items())
    return [rest[ident] for ident in sorted(rest)] if moved else []


def _as_part(folder: Path) -> Known:
    """Make the frozen tables a part, so that they can be read while they are replaced."""
    parts = folder / _PARTS
    parts.mkdir(parents=True, exist_ok=True)
    for name, part in ((MANIFEST_NAME, f"{_BEFORE}.parquet"), (QUESTIONS_NAME, f"{_BEFORE}{_QUESTIONS_SUFFIX}")):
        if (folder / name).exists():
            with atomic_path(parts / part) as temporary:
                shutil.copyfile(folder / name, temporary)
    return Known.read(folder)


def _write(questions: Sequence[Question], known: Known, folder: Path) -> pd.DataFrame:
    folder.mkdir(parents=True, exist_ok=True)
    schema = to_arrow(MANIFEST.empty(), MANIFEST, source=MANIFEST_NAME).schema
    with atomic_path(folder / MANIFEST_NAME) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for frame in _groups(questions, known):
            if len(frame):
                writer.write_table(to_arrow(frame, MANIFEST, source=MANIFEST_NAME).cast(schema))
    frame = pd.DataFrame([_told(question, known) for question in questions]) if questions else QUESTIONS.empty()
    write_table(frame, folder / QUESTIONS_NAME, QUESTIONS)
    return frame


def _told(question: Question, known: Known) -> dict[str, Any]:
    answer = known.answered.get((*question.ident, question.key))
    if answer is not None:
        return line(question, "answered", answer.observations, answer.products)
    if question.reason:
        return line(question, "not asked", reason=question.reason)
    return line(question, "failed", reason=known.failed.get((*question.ident, question.key), "it was not asked."))


def _groups(questions: Sequence[Question], known: Known) -> Iterator[pd.DataFrame]:
    """The manifest's rows, `_MERGED` events at a time: only the row groups of these events are read."""
    for some in _batches(by_event(questions)):
        wanted: dict[Path, set[Ident]] = {}
        for question in some:
            answer = known.answered.get((*question.ident, question.key))
            if answer is not None and answer.products:
                wanted.setdefault(answer.source, set()).add(question.ident)
        frames = [_read_rows(source, wanted[source]) for source in sorted(wanted)]
        if frames:
            yield pd.concat(frames, ignore_index=True).sort_values(_ORDER, kind="stable", ignore_index=True)


def read_manifest(path: Path) -> Iterator[pd.DataFrame]:
    """The frozen manifest in tables (MANIFEST) of some events each, with all rows of each event: the whole is never in memory.

    Raises `InputError` when it is missing, broken or no manifest.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; run the stage search.")
    rest = MANIFEST.empty()
    try:
        with pq.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                frame = conform(file.read_row_group(number, use_threads=False).to_pandas(), MANIFEST, source=str(path))
                frame = pd.concat([rest, frame], ignore_index=True) if len(rest) else frame
                if frame.empty:
                    continue
                last = frame["object_id"] == frame["object_id"].iloc[-1]  # may go on in the next group
                if not last.all():
                    yield frame[~last].reset_index(drop=True)
                rest = frame[last].reset_index(drop=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not a readable Parquet file ({error}); delete {path.parent} and search again.") from error
    if len(rest):
        yield rest


def _batches(events: Sequence[list[Question]]) -> Iterable[list[Question]]:
    for start in range(0, len(events), _MERGED):
        yield [question for one in events[start : start + _MERGED] for question in one]


def _read_rows(source: Path, wanted: set[Ident]) -> pd.DataFrame:
    """Their rows, from the row groups that may hold them; without the reader's own threads, which keep memory of their own."""
    first, last = min(wanted)[0], max(wanted)[0]
    frames = []
    with pq.ParquetFile(source) as file:
        place = file.schema_arrow.get_field_index("object_id")
        for number in range(file.num_row_groups):
            span = file.metadata.row_group(number).column(place).statistics
            if span is not None and span.has_min_max and (span.max < first or span.min > last):
                continue
            frame = file.read_row_group(number, use_threads=False).to_pandas()
            frames.append(frame[[ident in wanted for ident in zip(frame["object_id"], frame["mission"], strict=True)]])
    return pd.concat(frames, ignore_index=True)

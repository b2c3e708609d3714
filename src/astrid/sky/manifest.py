"""The frozen answer of an archive: what is asked for a catalogue, checkpoints while it is asked, one manifest at the end.

A question is an event and a mission; its key covers all that the answer depends on. `data/manifest` holds the manifest and
the questions; while questions are asked, every chunk of events adds a part beside them (rows, then questions: a part whose
questions are not there yet does not count). At the end everything is merged, sorted by event, some events at a time, and
the parts go. The manifest's bytes depend on the catalogue, the settings and the archive's content alone.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from astrid.config.schema.archive import ArchiveConfig, SearchConfig
from astrid.core.errors import InputError
from astrid.core.provenance import digest_settings
from astrid.core.runtime import log, track
from astrid.sky.archives import Archive, Event, Observation, open_archive
from astrid.sky.archives.products import fingerprint, merged, rows
from astrid.sky.frozen import Ident, Known, Question, by_event, freeze, line, write_part
from astrid.sky.manners import ArchiveError, Manners, in_parallel

_SILENCE = 10  # questions in a row that fail before the archive counts as down


@dataclass
class _Reply:
    """The answers of one chunk: rows by question, observations found, reasons of those that failed."""

    rows: dict[Ident, list[dict[str, Any]]] = field(default_factory=dict)
    found: Counter[Ident] = field(default_factory=Counter)
    failed: dict[Ident, str] = field(default_factory=dict)


def plan(catalog: pd.DataFrame, cfg: ArchiveConfig, missions: Sequence[str]) -> list[Question]:
    """The questions for a catalogue (CATALOG), sorted by event and mission.

    Raises `InputError` when no mission is named.
    """
    if not missions:
        raise InputError("survey.missions is empty; name what to search, e.g. [swift].")
    search = cfg.search
    rules = {mission: fingerprint(mission) for mission in missions}
    common = {"archive": cfg.name, "server": search.server, "radius": search.radius}
    questions = []
    for row in catalog.drop_duplicates("object_id").itertuples():
        ra, dec, found = float(row.s_ra), float(row.s_dec), float(row.discovery_mjd)
        event = Event(str(row.object_id), ra, dec, found - search.before_days, found + search.after_days)
        reason = "" if np.isfinite(found) else "its discovery date is not known, so that there is no window to search."
        if not (np.isfinite(ra) and np.isfinite(dec)):
            reason = "its position is not known."
        for mission in sorted(set(missions)):
            place = [repr(value) for value in (ra, dec, event.first, event.last)]
            key = digest_settings({**common, "event": place, "mission": mission, "rules": rules[mission]})
            questions.append(Question(event, mission, key, reason))
    return sorted(questions, key=lambda question: question.ident)


def search(catalog: pd.DataFrame, cfg: ArchiveConfig, missions: Sequence[str], folder: Path) -> pd.DataFrame:
    """Ask what is not answered yet and freeze `folder`/manifest.parquet and `folder`/questions.parquet; returns the questions.

    Raises
    ------
    ArchiveError
        When the archive does not answer at all; what was answered before is kept for the next run.
    """
    questions = plan(catalog, cfg, missions)
    known = Known.read(folder)
    todo = [question for question in questions if not question.reason and not known.answers(question)]
    if todo:
        done = sum(known.answers(question) for question in questions)
        log.info("search: %d questions to ask, %d already answered", len(todo), done)
        before = frozenset(question.event.object_id for question in todo if (*question.ident, question.key) in known.failed)
        todo.sort(key=lambda question: question.event.object_id in before)  # what failed before comes last
        _ask(todo, cfg, folder, _Silence(before), alive=done > 0)
        known = Known.read(folder)
    return freeze(questions, known, folder)


# Asking


class _Silence:
    """Notices that an archive is down: so many questions in a row fail that have not failed before."""

    def __init__(self, failed_before: frozenset[str]) -> None:
        self._failed_before = failed_before  # events
        self._lock = threading.Lock()
        self._failed = 0
        self.answered = False
        self.reason = ""  # of the failure that was one too many

    def heard(self, event: str, reason: str) -> None:
        """A question was answered (no reason) or failed."""
        with self._lock:
            if not reason:
                self._failed = 0
            elif event not in self._failed_before:
                self._failed += 1
            self.answered = self.answered or not reason
            if self._failed >= _SILENCE and not self.reason:
                self.reason = reason


def _ask(todo: Sequence[Question], cfg: ArchiveConfig, folder: Path, silence: _Silence, *, alive: bool) -> None:
    """Ask in chunks of events and leave a part for each. `alive`: earlier questions were answered."""
    manners = Manners(cfg.search.rate, cfg.search.retries)
    archive = open_archive(cfg.name, cfg.search, manners)
    try:
        try:
            archive.connect()
        except ArchiveError as error:
            raise _down(archive, str(error)) from error
        last = ""
        for _ in track(_chunks(archive, manners, silence, by_event(todo), cfg.search, folder), "search", _events(todo), unit="events"):
            last = silence.reason
    finally:
        manners.stop.set()
    if last or not (silence.answered or alive):
        raise _down(archive, last or _first_reason(folder))


def _down(archive: Archive, reason: str) -> ArchiveError:
    said = reason.rstrip(".")
    return ArchiveError(f"the archive at {archive.address} does not answer ({said}); run it again later: what was answered is kept.")


def _first_reason(folder: Path) -> str:
    failed = Known.read(folder).failed
    return next(iter(failed.values()), "no question was answered")


def _events(todo: Sequence[Question]) -> int:
    return len({question.event.object_id for question in todo})


def _chunks(
    archive: Archive, manners: Manners, silence: _Silence, events: Sequence[list[Question]], cfg: SearchConfig, folder: Path
) -> Iterator[str]:
    """The events one by one, each when its chunk is on disk; ends early when the archive falls silent."""
    for start in range(0, len(events), cfg.chunk):
        chunk = events[start : start + cfg.chunk]
        reply = _observations(archive, manners, silence, chunk, cfg.parallel)
        _write_part(folder, [question for one in chunk for question in one], reply)
        if silence.reason:
            yield chunk[0][0].event.object_id
            return
        yield from (one[0].event.object_id for one in chunk)


def _observations(archive: Archive, manners: Manners, silence: _Silence, chunk: Sequence[list[Question]], threads: int) -> _Reply:
    """Ask for the observations of each event, all its missions together, then for the files of all of them."""

    def near(questions: list[Question]) -> list[Observation] | str | None:
        if silence.reason:
            return None
        try:
            found = archive.observations(questions[0].event, [question.mission for question in questions])
        except ArchiveError as error:
            silence.heard(questions[0].event.object_id, str(error))
            return str(error)
        silence.heard(questions[0].event.object_id, "")
        return found

    reply = _Reply()
    owners: dict[str, dict[str, list[tuple[Event, list[Observation]]]]] = {}
    for questions, found in zip(chunk, in_parallel(near, chunk, threads, manners.stop), strict=True):
        if found is None:
            continue
        if isinstance(found, str):
            reply.failed.update({question.ident: found for question in questions})
            continue
        event = questions[0].event
        reply.rows.update({question.ident: [] for question in questions})
        planes: dict[tuple[str, str], list[Observation]] = {}
        for observation in found:
            planes.setdefault((observation.mission, observation.number), []).append(observation)
        for (mission, number), listed in planes.items():
            reply.found[event.object_id, mission] += 1
            owners.setdefault(mission, {}).setdefault(number, []).append((event, listed))
    _files(archive, manners, owners, threads, reply)
    return reply


def _files(
    archive: Archive,
    manners: Manners,
    owners: Mapping[str, Mapping[str, list[tuple[Event, list[Observation]]]]],
    threads: int,
    reply: _Reply,
) -> None:
    """Ask for the files of the observations, several a question and each observation once, and add their rows."""
    batches = []
    for mission in sorted(owners):
        numbers, size = sorted(owners[mission]), archive.batch(mission)
        batches += [(mission, numbers[start : start + size]) for start in range(0, len(numbers), size)]

    def listed(batch: tuple[str, list[str]]) -> list[tuple[Ident, list[dict[str, Any]]]] | str:
        mission, numbers = batch
        try:
            files = archive.files(numbers)
        except ArchiveError as error:
            return str(error)
        by_number: dict[str, list[Any]] = {number: [] for number in numbers}
        for file in files:
            by_number.setdefault(file.observation, []).append(file)
        return [
            ((event.object_id, mission), list(rows(archive, event, planes, by_number[number])))
            for number in numbers
            for event, planes in owners[mission][number]
        ]

    for (mission, numbers), made in zip(batches, in_parallel(listed, batches, threads, manners.stop), strict=True):
        if isinstance(made, str):
            reply.failed.update({(event.object_id, mission): made for number in numbers for event, _ in owners[mission][number]})
            continue
        for ident, some in made:
            reply.rows[ident].extend(some)


def _write_part(folder: Path, questions: Sequence[Question], reply: _Reply) -> None:
    """The rows and then the questions of a chunk; a question that was not asked is left out."""
    table, lines = [], []
    for question in questions:
        ident = question.ident
        if ident in reply.failed:
            lines.append(line(question, "failed", reason=reply.failed[ident]))
        elif ident in reply.rows:
            made = merged(reply.rows[ident])
            table += made
            lines.append(line(question, "answered", reply.found[ident], len(made)))
    write_part(folder, table, lines)

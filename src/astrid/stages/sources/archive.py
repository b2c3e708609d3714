"""An archive as a source: what the manifest offers is chosen, fetched, read by its headers, and accounted for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from astrid.config.schema import SurveyConfig
from astrid.config.schema.archive import ArchiveConfig
from astrid.config.schema.survey import FolderConfig
from astrid.config.validate import validate
from astrid.core.errors import ConfigError
from astrid.core.provenance import digest_code, digest_settings
from astrid.core.records import Problem
from astrid.core.runtime import log
from astrid.io.archive_tables import CHOSEN, QUESTIONS
from astrid.io.tables import CATALOG, EXPOSURES, conform, read_table, write_table
from astrid.sky.arrivals import Arrival, exposure_names, field_names, is_exposure, read_arrival
from astrid.sky.choose import Choice, Fate, choose
from astrid.sky.download import Fetched, fetch
from astrid.sky.frozen import read_manifest
from astrid.sky.outcomes import Key, outcomes
from astrid.stages.common import Job, executor, incomplete, resume
from astrid.stages.sources.base import CATALOG_PATH, CHOSEN_PATH, MANIFEST_PATH, QUESTIONS_PATH, RAW, Acquired, job_files

_READINGS = RAW / "readings"  # a record of what was read of each file, so that it is read once
_CODE = ("astrid.sky.arrivals", "astrid.sky.folder", "astrid.io.images", "astrid.io.wcs", "astrid.io.missions")


def archive(survey: SurveyConfig) -> Acquired:
    """Choose from the manifest, fetch, and read what came."""
    cfg = survey.archive
    if cfg is None or survey.folder is None:
        raise ConfigError("survey.archive or survey.folder is null but survey.kind is archive; choose survey=mast or set them.")
    catalog = read_table(CATALOG_PATH, CATALOG)
    questions = read_table(QUESTIONS_PATH, QUESTIONS)
    choice = choose(read_manifest(MANIFEST_PATH), catalog, cfg.choose, survey.pair)
    write_table(choice.chosen, CHOSEN_PATH, CHOSEN)
    log.info("acquire: %d files of %d in the manifest are wanted", len(choice.chosen), questions["products"].sum())
    fetched = fetch(choice.chosen, catalog, RAW, cfg.download)
    jobs = _jobs(fetched, catalog, survey.folder, cfg)
    rows = resume(_read_job, jobs, description="read", unit="files", executor=executor())
    read = [row for found in rows for row in found["rows"]]
    exposures = conform(pd.DataFrame(read), EXPOSURES, source="the archive's files") if read else EXPOSURES.empty()
    problems, fates = list(fetched.problems), _lost(fetched)
    for job, found in zip(jobs, rows, strict=True):
        if found["why"]:
            problems.append(Problem(job.key, found["reason"]))
            fates.append((job.payload.key, Fate(found["why"], found["reason"])))
    files = (*job_files(jobs), *(RAW / path for path in fetched.paths))
    key = "survey.archive.download.accept_failed"
    short = incomplete(fetched.passing, len(choice.chosen), cfg.download.accept_failed, what="files could not be transferred", key=key)
    account = partial(_account, survey, catalog, questions, choice, fetched, fates)
    return Acquired(exposures, (), files, tuple(problems), incomplete=short, outcomes=account)


@dataclass(frozen=True)
class _Payload:
    """What a worker needs to read one file."""

    arrival: Arrival
    key: Key
    folder: str  # FolderConfig as JSON
    edge: float
    longest: bool


def _jobs(fetched: Fetched, catalog: pd.DataFrame, folder: FolderConfig, cfg: ArchiveConfig) -> list[Job]:
    """One a fetched image; its digest covers the file and all that lie beside it, its companions among them."""
    events = catalog.drop_duplicates("object_id").set_index("object_id")
    names = field_names(fetched.files["object_id"])
    text = json.dumps(dataclasses.asdict(folder), sort_keys=True)
    made_by = {"folder": text, "code": digest_code(_CODE), "edge": cfg.choose.edge, "take": cfg.choose.take}
    beside: dict[str, list[str]] = {}
    for row in fetched.files.itertuples():
        beside.setdefault(row.path.rpartition("/")[0], []).append(f"{row.path} {row.sha256}")
    images = fetched.files[(fetched.files["kind"] != "companion") & fetched.files["path"].map(is_exposure)]
    jobs = []
    for row, name in zip(images.itertuples(), exposure_names(images, names), strict=True):
        event = events.loc[row.object_id]
        arrival = Arrival(
            row.path, name, names[row.object_id], row.role, row.mission, row.filter, row.t_min, row.t_max, event["s_ra"], event["s_dec"]
        )
        given = {**made_by, "arrival": dataclasses.asdict(arrival), "files": sorted(beside[row.path.rpartition("/")[0]])}
        payload = _Payload(arrival, (str(row.object_id), str(row.mission)), text, cfg.choose.edge, cfg.choose.take == "best")
        jobs.append(Job(arrival.path, digest_settings(given), _READINGS / arrival.path, payload))
    return jobs


def _read_job(job: Job) -> Mapping[str, Any]:
    payload: _Payload = job.payload
    cfg = validate(FolderConfig, json.loads(payload.folder), path="survey.folder")
    reading = read_arrival(RAW, payload.arrival, cfg, edge=payload.edge, longest=payload.longest)
    return dataclasses.asdict(reading)


def _lost(fetched: Fetched) -> list[tuple[Key, Fate]]:
    """The fates of events whose images did not come."""
    images = fetched.missing[fetched.missing["kind"] != "companion"]
    return [((str(row.object_id), str(row.mission)), Fate(row.why, f"{row.filename}: {row.reason}")) for row in images.itertuples()]


def _account(
    survey: SurveyConfig,
    catalog: pd.DataFrame,
    questions: pd.DataFrame,
    choice: Choice,
    fetched: Fetched,
    fates: list[tuple[tuple[str, str], Fate]],
    pairs: pd.DataFrame,
) -> pd.DataFrame:
    names = {field: name for name, field in field_names(fetched.files["object_id"]).items()}
    own = pairs.assign(object_id=pairs["field_id"].map(names), mission=pairs["survey"])
    return outcomes(catalog, survey.missions, questions, choice.fates, fetched.files, fates, own)

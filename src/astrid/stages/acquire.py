"""Stage acquire: raw exposures into data/raw, the truth about them where it is known, and the pairs."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from astrid.config.params import settings
from astrid.config.schema import SimulateConfig, SurveyConfig
from astrid.config.validate import validate
from astrid.core.errors import ConfigError, InputError
from astrid.core.pool import LocalPool
from astrid.core.provenance import digest_code, digest_file, digest_settings
from astrid.core.records import Problem
from astrid.core.runtime import atomic_path, log, write_json
from astrid.io.tables import CATALOG, EXPOSURES, PAIRS, TRUTH, conform, read_table, write_table
from astrid.stages.common import Job, executor, prune, resume, run

if TYPE_CHECKING:
    from astrid.sky.simulate.render import World

RAW = Path("data/raw")
CATALOG_PATH = Path("data/catalog/catalog.parquet")
PAIRS_PATH = Path("data/pairs/pairs.parquet")
EXPOSURES_PATH = RAW / "exposures.parquet"
TRUTH_PATH = RAW / "truth.parquet"
QUARANTINE_PATH = RAW / "quarantine.json"


@dataclass(frozen=True, eq=False)
class Acquired:
    """What a source brought into data/raw."""

    exposures: pd.DataFrame  # EXPOSURES
    truth: pd.DataFrame  # TRUTH
    files: tuple[Path, ...]  # everything that belongs there
    problems: tuple[Problem, ...] = ()


def main() -> None:
    """Fill data/raw from the configured source and pair its exposures."""
    from astrid.sky.pairs import pair_exposures

    survey = settings(SurveyConfig, "survey")
    catalog = read_table(CATALOG_PATH, CATALOG)
    acquired = SOURCES[survey.kind](survey)
    pairs = pair_exposures(acquired.exposures, catalog, survey.pair)
    write_table(acquired.exposures, EXPOSURES_PATH, EXPOSURES)
    write_table(acquired.truth, TRUTH_PATH, TRUTH)
    write_json(QUARANTINE_PATH, [dataclasses.asdict(problem) for problem in acquired.problems])
    prune(RAW, [*acquired.files, EXPOSURES_PATH, TRUTH_PATH, QUARANTINE_PATH])
    usable = int((pairs["status"] == "ok").sum())
    if not usable:
        raise InputError(_no_pair(pairs, acquired.problems))
    write_table(pairs, PAIRS_PATH, PAIRS)
    log.info(
        "acquire: %d exposures, %d quarantined, %d pairs, %d refused",
        len(acquired.exposures), len(acquired.problems), usable, len(pairs) - usable,
    )  # fmt: skip
    for problem in acquired.problems:
        log.warning("quarantined %s: %s", problem.source, problem.reason)


def _no_pair(pairs: pd.DataFrame, problems: Sequence[Problem]) -> str:
    aside = f" {len(problems)} files were set aside, the first because {problems[0].reason}" if problems else ""
    if pairs.empty:
        return f"there is no science exposure to pair; give one the role science.{aside}"
    return f"none of {len(pairs)} science exposures has a reference: {pairs['reason'].iloc[0]}{aside}"


# The synthetic surveys


def _simulated(_: SurveyConfig) -> Acquired:
    from astrid.sky.simulate import expand, plan
    from astrid.sky.simulate.render import CALIBRATION, calibration_path, exposure_path

    cfg = settings(SimulateConfig, "simulate")
    text = json.dumps(dataclasses.asdict(cfg), sort_keys=True)
    made_by = {"settings": text, "code": digest_code(("astrid.sky.simulate",))}
    jobs = [
        Job(visit.exposure_id, digest_settings({**made_by, "visit": visit.exposure_id}), RAW / exposure_path(visit), (text, visit))
        for visit in plan(cfg)
    ]
    frames = []
    for survey, spec in expand(cfg).surveys.items():
        for detector in spec.detectors:
            for kind in CALIBRATION:
                path = calibration_path(survey, detector, kind)
                frames.append(Job(path, digest_settings({**made_by, "frame": path}), RAW / path, (text, (survey, detector, kind))))
    resume(_calibration_job, frames, description="calibration frames", unit="frames", executor=executor())
    rows = resume(_render_job, jobs, description="render", unit="exposures", executor=executor())
    exposures = conform(pd.DataFrame([row["exposure"] for row in rows]), EXPOSURES, source="the simulator")
    truth = pd.DataFrame([line for row in rows for line in row["truth"]], columns=[column.name for column in TRUTH.columns])
    return Acquired(exposures, conform(truth, TRUTH, source="the simulator"), _files([*frames, *jobs]))


@lru_cache(maxsize=1)
def _world(text: str) -> World:
    from astrid.sky.simulate.render import World

    return World(validate(SimulateConfig, json.loads(text), path="simulate"))


def _render_job(job: Job) -> Mapping[str, Any]:
    from astrid.sky.simulate.render import write_exposure

    text, visit = job.payload
    return write_exposure(_world(text), visit, job.output)


def _calibration_job(job: Job) -> Mapping[str, Any]:
    from astrid.sky.simulate.render import write_calibration

    text, (survey, detector, kind) = job.payload
    write_calibration(_world(text), survey, detector, kind, job.output)
    return {"path": job.key}


def _files(jobs: Sequence[Job]) -> tuple[Path, ...]:
    return tuple(path for job in jobs for path in (job.output, job.record))


# A user's folder


def _folder(survey: SurveyConfig) -> Acquired:
    from astrid.sky.folder import scan_folder

    if survey.folder is None:
        raise ConfigError("survey.folder is null but survey.kind is folder; set survey.folder.root and the rest.")
    root = Path(survey.folder.root)
    scan = scan_folder(survey.folder)
    jobs, files = [], []
    for row in scan.exposures.to_dict("records"):
        placed, copies = _placed(root, {str(key): value for key, value in row.items()})
        digests = {target: digest_file(source) for source, target in copies}
        digest = digest_settings({"row": {key: str(value) for key, value in placed.items()}, "files": digests})
        jobs.append(Job(placed["exposure_id"], digest, RAW / placed["path"], (placed, copies)))
        files += [RAW / target for _, target in copies]
    lost = [job for job in jobs if not all((RAW / target).exists() for _, target in job.payload[1])]
    for job in lost:  # a companion was deleted: its exposure is done again
        job.record.unlink(missing_ok=True)
    rows = resume(_copy_job, jobs, description="copy", unit="exposures", executor=LocalPool(1))  # copying is bound by the disk
    exposures = conform(pd.DataFrame(rows), EXPOSURES, source=str(root))
    return Acquired(exposures, TRUTH.empty(), (*_files(jobs), *files), scan.problems)


def _placed(root: Path, row: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[Path, str]]]:
    """The row with its paths in data/raw, and the copies to make: (source, target below data/raw), the exposure last.

    Noise and PSF images lie beside their exposure; bias, flat and mask, which exposures share, by their content.
    """
    from astrid.sky.folder import COMPANIONS

    folder = f"{row['survey']}/{row['field_id']}/{row['role']}"
    copies: list[tuple[Path, str]] = []
    placed = dict(row)
    for kind in COMPANIONS:
        if not row[f"{kind}_path"]:
            continue
        source = root / row[f"{kind}_path"]
        own = kind in ("noise", "psf")
        target = f"{folder}/{row['exposure_id']}.{kind}" if own else f"{row['survey']}/calibration/{kind}-{digest_file(source)[:16]}"
        placed[f"{kind}_path"] = target + _suffix(source)
        copies.append((source, placed[f"{kind}_path"]))
    source = root / row["path"]
    placed["path"] = f"{folder}/{row['exposure_id']}{_suffix(source)}"
    return placed, [*copies, (source, placed["path"])]


def _suffix(path: Path) -> str:
    packed = path.suffix.lower() if path.suffix.lower() in (".gz", ".fz", ".bz2") else ""
    return f".fits{packed}"


def _copy_job(job: Job) -> Mapping[str, Any]:
    placed, copies = job.payload
    for source, target in copies:
        with atomic_path(RAW / target) as temporary:
            shutil.copyfile(source, temporary)
    row: Mapping[str, Any] = placed
    return row


SOURCES: dict[str, Callable[[SurveyConfig], Acquired]] = {"simulated": _simulated, "folder": _folder}


if __name__ == "__main__":
    run(main)

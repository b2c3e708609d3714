"""A user's folder as a source: usable exposures and their companions are copied."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from astrid.config.schema import SurveyConfig
from astrid.core.errors import ConfigError
from astrid.core.pool import LocalPool
from astrid.core.provenance import digest_file, digest_settings
from astrid.core.runtime import atomic_path
from astrid.io.tables import EXPOSURES, conform
from astrid.stages.common import Job, resume
from astrid.stages.sources.base import RAW, Acquired, job_files


def folder(survey: SurveyConfig) -> Acquired:
    """Copy the usable exposures of a folder, with their companions."""
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
    return Acquired(exposures, (), (*job_files(jobs), *files), scan.problems)


def _placed(root: Path, row: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[Path, str]]]:
    """The row with its paths in data/raw, and the copies to make: (source, target below data/raw), the exposure last.

    Noise and PSF images lie beside their exposure; bias, flat and mask, which exposures share, by their content.
    """
    from astrid.sky.folder import COMPANIONS

    place = f"{row['survey']}/{row['field_id']}/{row['role']}"
    copies: list[tuple[Path, str]] = []
    placed = dict(row)
    for kind in COMPANIONS:
        if not row[f"{kind}_path"]:
            continue
        source = root / row[f"{kind}_path"]
        own = kind in ("noise", "psf")
        target = f"{place}/{row['exposure_id']}.{kind}" if own else f"{row['survey']}/calibration/{kind}-{digest_file(source)[:16]}"
        placed[f"{kind}_path"] = target + _suffix(source)
        copies.append((source, placed[f"{kind}_path"]))
    source = root / row["path"]
    placed["path"] = f"{place}/{row['exposure_id']}{_suffix(source)}"
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

"""The synthetic surveys as a source: every exposure is rendered, its truth known."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pandas as pd

from astrid.config.params import settings
from astrid.config.schema import SimulateConfig, SurveyConfig
from astrid.config.validate import validate
from astrid.core.provenance import digest_code, digest_settings
from astrid.io.tables import EXPOSURES, TRUTH, conform
from astrid.stages.common import Job, executor, finish, recorded
from astrid.stages.sources.base import RAW, Acquired, job_files

if TYPE_CHECKING:
    from astrid.sky.simulate.render import World

_TOGETHER = 16  # exposures whose truth is in memory at a time: 10,000 rows where the sky is full


def simulated(_: SurveyConfig) -> Acquired:
    """Render what is not rendered yet."""
    from astrid.sky.simulate import expand, plan
    from astrid.sky.simulate.render import CALIBRATION, calibration_path, exposure_path

    cfg = settings(SimulateConfig, "simulate")
    text = json.dumps(dataclasses.asdict(cfg), sort_keys=True)
    made_by = {"settings": text, "code": digest_code(("astrid.sky.simulate", "astrid.io.flags"))}
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
    finish(_calibration_job, frames, description="calibration frames", unit="frames", executor=executor())
    finish(_render_job, jobs, description="render", unit="exposures", executor=executor())
    exposures = pd.DataFrame([recorded(job)["exposure"] for job in jobs])
    return Acquired(conform(exposures, EXPOSURES, source="the simulator"), truth_of(jobs), job_files([*frames, *jobs]))


def truth_of(jobs: Sequence[Job]) -> Iterator[pd.DataFrame]:
    """The truth about rendered exposures (TRUTH) in parts: that of a hundred surveys is too much to hold at once."""
    names = [column.name for column in TRUTH.columns]
    for start in range(0, len(jobs), _TOGETHER):
        rows = [row for job in jobs[start : start + _TOGETHER] for row in recorded(job)["truth"]]
        yield conform(pd.DataFrame(rows, columns=names), TRUTH, source="the simulator")


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

"""Stage inject: data/calibrated and data/pairs -> data/injected, the copies of the pairs and the sources that are added to them.

A copy is a pair of the same pixels under other names, with point sources of known flux in its science exposure (brightening) and
in its reference (fading). This stage draws the sources and writes the tables; the stage difference adds them to the pixels as it
reads the exposures, so that no image is stored twice. Of a copy only what matches an injection is labelled downstream.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from astrid.config.params import settings
from astrid.config.schema.imaging import FluxScaleConfig, RegistrationConfig
from astrid.config.schema.injection import InjectionConfig
from astrid.config.schema.psf import PsfConfig
from astrid.core.copies import is_copy
from astrid.core.errors import ImagingError, InputError
from astrid.core.provenance import digest_bytes, digest_code, digest_file, digest_settings
from astrid.core.runtime import log, write_json
from astrid.imaging.copies import Alignment, copies_of, copy_rows, joined_truth
from astrid.io.fits import read_calibrated
from astrid.io.tables import EXPOSURES, PAIRS, TRUTH, read_table, write_table
from astrid.stages.common import Job, executor, only_alerts, prune, quarantine, resume, run
from astrid.stages.difference import CALIBRATED, INJECTED, PAIR_TABLE, TRUTH_TABLE, changes, memory_needed, places, set_aside

REPORT = Path("reports/inject.json")
CODE = ("astrid.imaging", "astrid.io.fits", "astrid.io.flags", "astrid.core")

_NAMED_REASONS = 20  # reasons that the report repeats


@dataclass(frozen=True)
class Task:
    """One pair whose copies are drawn; picklable."""

    pair_id: str
    names: tuple[str, str]  # exposure_id of science and reference
    science: Path
    reference: Path
    known: tuple[tuple[float, float], ...]  # x, y in science px of changes that are there already
    config: InjectionConfig
    alignment: Alignment


def main() -> None:
    """Draw the copies of every usable pair of data/pairs/pairs.parquet."""
    config = settings(InjectionConfig, "injection")
    pairs = read_table(PAIR_TABLE, PAIRS)
    if pairs.empty:
        only_alerts("inject")
    jobs = _jobs(_usable(pairs), config) if config.copies else []
    rows = resume(_draw_one, jobs, description="inject", unit="pairs", executor=executor(), on_loss=quarantine) if jobs else []
    done = [job for job, row in zip(jobs, rows, strict=True) if row["status"] == "ok"]
    truth = joined_truth([read_table(job.output, TRUTH) for job in done])
    copies = copy_rows(pairs, {job.key for job in done}, config.copies)
    write_table(truth, INJECTED / "truth.parquet", TRUTH)
    write_table(copies, INJECTED / "pairs.parquet", PAIRS)
    tables = [INJECTED / name for name in ("truth.parquet", "pairs.parquet")]
    prune(INJECTED, [*tables, *(path for job in jobs for path in (job.output, job.record))])
    reasons = {job.key: str(row["reason"]) for job, row in zip(jobs, rows, strict=True) if row["status"] != "ok"}
    for name, reason in reasons.items():
        log.warning("inject: %s has no copies: %s", name, reason)
    write_json(REPORT, report(truth, copies, reasons))
    if jobs and not done:
        raise ImagingError(f"nothing could be injected into the {len(jobs)} pairs; see {REPORT}. The first: {next(iter(reasons.values()))}")


def _usable(pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs that can be subtracted as far as is known before.

    Raises `InputError` for a name that would be taken for a copy's.
    """
    for column in ("science_id", "reference_id"):
        unfit = [name for name in pairs[column] if is_copy(str(name))]
        if unfit:
            raise InputError(f"the {column} {unfit[0]!r} reads like the name of an injected copy (-inj and a number); rename the exposure.")
    usable = set_aside(pairs, read_table(CALIBRATED / "exposures.parquet", EXPOSURES))
    return usable[usable["status"] == "ok"]


def _jobs(pairs: pd.DataFrame, config: InjectionConfig) -> list[Job]:
    alignment = Alignment(
        settings(PsfConfig, "imaging.difference.psf"),
        settings(RegistrationConfig, "imaging.difference.registration"),
        settings(FluxScaleConfig, "imaging.difference.flux_scale"),
    )
    common = (digest_settings(config), digest_settings(alignment), digest_code(CODE))
    known = places(changes(TRUTH_TABLE))
    digests: dict[Path, str] = {}
    jobs = []
    for row in pairs.to_dict("records"):
        names = (str(row["science_id"]), str(row["reference_id"]))
        files = [CALIBRATED / f"{name}.fits" for name in names]
        for path in files:
            if path not in digests:
                digests[path] = digest_file(path) if path.is_file() else "absent"
        task = Task(str(row["pair_id"]), names, files[0], files[1], known.get(names[0], ()), config, alignment)
        parts = (*common, task.pair_id, *(digests[path] for path in files), repr(task.known))
        output = INJECTED / "sources" / f"{task.pair_id}.parquet"
        jobs.append(Job(task.pair_id, digest_bytes(*(part.encode() for part in parts)), output, task, memory_needed(*files)))
    return jobs


def _draw_one(job: Job) -> dict[str, Any]:
    task: Task = job.payload
    try:
        science, reference = read_calibrated(task.science), read_calibrated(task.reference)
        truth = copies_of(science, reference, task.config, task.alignment, names=task.names, known=np.array(task.known).reshape(-1, 2))
    except (ImagingError, InputError) as error:
        job.output.unlink(missing_ok=True)
        return quarantine(job, str(error))
    write_table(truth, job.output, TRUTH)
    return {"status": "ok", "reason": ""}


def injected_truth(exposures: Collection[str]) -> pd.DataFrame:
    """TRUTH of these exposures of copies as labels compare it, fluxes on the scale of the science exposures.

    Empty where the stage did not run.
    """
    path = INJECTED / "truth.parquet"
    if not path.exists():
        return TRUTH.empty()
    from astrid.imaging.injections import on_science_scale

    return on_science_scale(read_table(path, TRUTH, where=("exposure_id", exposures)))


def report(truth: pd.DataFrame, copies: pd.DataFrame, reasons: Mapping[str, str]) -> dict[str, Any]:
    """Counts of copies and sources, how they cover S/N and host distance, and why pairs have no copies."""
    sources = truth[truth["flux"] > 0]
    edges = np.geomspace(sources["aimed_snr"].min(), sources["aimed_snr"].max() * 1.001, 5) if len(sources) else np.zeros(0)
    counts = np.histogram(sources["aimed_snr"], edges)[0] if len(sources) else np.zeros(0, dtype=int)
    return {
        "copies": len(copies),
        "sources": len(sources),
        "fading": int(sources["fading"].sum()),
        "near_hosts": int(np.isfinite(sources["host_dlr"]).sum()),
        "median_host_dlr": float(sources["host_dlr"].median()) if len(sources) else None,
        "by_snr": [
            {"from": float(low), "to": float(high), "sources": int(n)} for low, high, n in zip(edges, edges[1:], counts, strict=False)
        ],
        "pairs_without_copies": len(reasons),
        "reasons": dict(list(reasons.items())[:_NAMED_REASONS]),
    }


if __name__ == "__main__":
    run(main)

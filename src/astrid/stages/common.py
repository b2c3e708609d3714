"""What every stage does the same way: where items run, exit codes, resumable items, stale files."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astrid.config.params import settings
from astrid.config.schema import ComputeConfig
from astrid.core.cluster import DaskCluster, require_dask
from astrid.core.executors import Executor, parallel_map
from astrid.core.pool import LocalPool
from astrid.core.provenance import digest_file
from astrid.core.runtime import configure_logging, exit_codes, log, write_json

ALERTS_PATH = Path("data/raw/alerts.parquet")  # there only where the source is alert packets
EVIDENCE_PATH = Path("data/raw/evidence.parquet")  # LABELS that the rules over their evidence give

_GB = 1e9  # bytes


def executor() -> Executor:
    """Where this project's items run, as `compute` says.

    Raises `MissingDependencyError` when that is a Dask cluster and the package is not there.
    """
    config = settings(ComputeConfig, "compute")
    if config.dask is None:
        return LocalPool(config.workers, config.memory_gb * _GB, config.retries)
    require_dask()
    return DaskCluster(
        scheduler=config.dask.scheduler,
        workers=config.workers,
        threads=config.dask.threads,
        worker_memory=config.dask.worker_memory_gb * _GB,
        memory=config.memory_gb * _GB,
        retries=config.retries,
    )


def only_alerts(stage: str) -> bool:
    """Whether the source is alert packets, which come as stamps: then a stage of images has nothing to do, and says so in the log."""
    if not ALERTS_PATH.exists():
        return False
    log.info("%s: the source is alert packets, which come as stamps; nothing to do", stage)
    return True


def run(main: Callable[[], None]) -> None:
    """Run a stage's main: logging on, telemetry off, one sentence and exit code 2 for a mistake that its reader can mend."""
    configure_logging(json_logs=os.environ.get("ASTRID_JSON_LOGS") == "1")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with exit_codes():
        _by_name(main)()


def _by_name(main: Callable[[], None]) -> Callable[[], None]:
    """The function in the module that others can import, where this one is of `__main__`: workers elsewhere look it up by name."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if main.__module__ != "__main__" or spec is None:
        return main
    found: Callable[[], None] = getattr(importlib.import_module(spec.name), main.__name__)
    return found


@dataclass(frozen=True)
class Job:
    """One resumable item: `digest` covers its inputs, settings and code; `output` exists exactly when it was done."""

    key: str
    digest: str
    output: Path  # the product; its record is written beside it as <name>.json
    payload: Any = None  # what the worker needs; must pickle
    needs: float = 0.0  # bytes that it is expected to take while it runs

    @property
    def record(self) -> Path:
        return self.output.with_name(self.output.name + ".json")


def resume(
    function: Callable[[Job], Mapping[str, Any]],
    jobs: Sequence[Job],
    *,
    description: str,
    executor: Executor,
    unit: str = "items",
    on_loss: Callable[[Job, str], Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Run the jobs that are not done yet and return one row a job, in the order of the jobs.

    `function` writes `job.output` atomically (or leaves it unwritten for a quarantined item) and returns a row of plain
    values. The row is recorded beside the product as soon as it is there, so a killed stage loses only its running jobs.
    `on_loss` gives the row of a job whose worker was killed at every attempt; it is recorded nowhere, so that the next run
    tries again. Without it such a job ends the stage, when all others are done.
    """
    lost = finish(function, jobs, description=description, executor=executor, unit=unit, on_loss=on_loss)
    return [lost[job.key] if job.key in lost else recorded(job) for job in jobs]


def finish(
    function: Callable[[Job], Mapping[str, Any]],
    jobs: Sequence[Job],
    *,
    description: str,
    executor: Executor,
    unit: str = "items",
    on_loss: Callable[[Job, str], Mapping[str, Any]] | None = None,
) -> dict[str, dict[str, Any]]:
    """As `resume`, with the rows left on the disk for `recorded`: returns those of lost jobs alone, by key."""
    pending = [job for job in jobs if not _finished(job)]
    if len(pending) < len(jobs):
        log.info("%s: %d of %d already done", description, len(jobs) - len(pending), len(jobs))
    lost: dict[str, dict[str, Any]] = {}

    def remember(job: Job, reason: str) -> Mapping[str, Any]:
        lost[job.key] = dict(on_loss(job, reason)) if on_loss else {}
        for path in (job.output, job.record):
            path.unlink(missing_ok=True)
        return lost[job.key]

    done = parallel_map(
        function,
        pending,
        executor=executor,
        description=description,
        unit=unit,
        needs=lambda job: job.needs,
        on_loss=remember if on_loss else None,
    )
    for job, row in done if pending else ():
        if job.key not in lost:
            write_json(job.record, {"digest": job.digest, "product": _content(job.output), "row": dict(row)})
    return lost


def recorded(job: Job) -> dict[str, Any]:
    """The row of a finished job as its record has it, so that a resumed and an undisturbed run see the same values to the last bit."""
    row: dict[str, Any] = json.loads(job.record.read_text())["row"]
    return row


def quarantine(_: Job, reason: str) -> dict[str, Any]:
    """The row of an item that is set aside."""
    return {"status": "quarantined", "reason": reason}


def _finished(job: Job) -> bool:
    try:
        record = json.loads(job.record.read_text())
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return False
    return isinstance(record, dict) and bool(record.get("digest") == job.digest and record.get("product") == _content(job.output))


def _content(product: Path) -> str:
    """Digest of a product as it lies there, empty where there is none: a damaged one is made again."""
    return digest_file(product) if product.exists() else ""


def incomplete(failed: int, total: int, accepted: float, *, what: str, key: str) -> str:
    """The sentence that ends a stage of which more failed in passing than is accepted, after all else was done; empty where it is not.

    DVC runs a stage that ended so again, while one that ended well with something missing would count as done.
    """
    if failed <= accepted * total:
        return ""
    return (
        f"{failed} of {total} {what}, and {key} accepts {accepted:g} of them; all others are kept: type the same command again to ask "
        "for these alone, or raise that share to go on without them."
    )


def prune(folder: Path, keep: Iterable[Path]) -> None:
    """Remove files under `folder` that no current job made, and folders left empty: a persisted output holds nothing stale."""
    wanted = {path.resolve() for path in keep}
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and path.resolve() not in wanted:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()

"""What every stage does the same way: settings, exit codes, resumable items, stale files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from astrid.config.schema import ComputeConfig
from astrid.config.validate import validate
from astrid.core.errors import ConfigError
from astrid.core.provenance import digest_file
from astrid.core.runtime import configure_logging, exit_codes, log, parallel_map, write_json

Section = TypeVar("Section")

PARAMS = Path("params.yaml")


def settings(section: type[Section], key: str) -> Section:
    """The section under the dotted `key` of params.yaml in the working directory, validated."""
    if not PARAMS.exists():
        raise ConfigError("params.yaml is not here; run `astrid params` in the project's root.")
    try:
        values: Any = yaml.safe_load(PARAMS.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{PARAMS} is no readable YAML ({' '.join(str(error).split())[:99]}); write it with `astrid params`.") from error
    for step in key.split("."):
        if not isinstance(values, dict) or step not in values:
            raise ConfigError(f"params.yaml has no key {key}; run `astrid params` to write it from conf/.")
        values = values[step]
    return validate(section, values, path=key)


def workers() -> int:
    """How many processes a stage may use; 0 means every core."""
    return settings(ComputeConfig, "compute").workers


def run(main: Callable[[], None]) -> None:
    """Run a stage's main: logging on, telemetry off, one sentence and exit code 2 for a mistake that its reader can mend."""
    configure_logging(json_logs=os.environ.get("ASTRID_JSON_LOGS") == "1")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with exit_codes():
        main()


@dataclass(frozen=True)
class Job:
    """One resumable item: `digest` covers its inputs, settings and code; `output` exists exactly when it was done."""

    key: str
    digest: str
    output: Path  # the product; its record is written beside it as <name>.json
    payload: Any = None  # what the worker needs; must pickle

    @property
    def record(self) -> Path:
        return self.output.with_name(self.output.name + ".json")


def resume(function: Callable[[Job], Mapping[str, Any]], jobs: Sequence[Job], *, description: str, processes: int) -> list[dict[str, Any]]:
    """Run the jobs that are not done yet and return one row a job, in the order of the jobs.

    `function` writes `job.output` atomically (or leaves it unwritten for a quarantined item) and returns a row of plain
    values. The row is recorded beside the product as soon as it is there, so a killed stage loses only its running jobs.
    """
    pending = [job for job in jobs if not _finished(job)]
    if len(pending) < len(jobs):
        log.info("%s: %d of %d already done", description, len(jobs) - len(pending), len(jobs))
    for job, row in parallel_map(function, pending, workers=processes, description=description) if pending else ():
        write_json(job.record, {"digest": job.digest, "product": _content(job.output), "row": dict(row)})
    # Read back what was recorded, so that a resumed and an undisturbed run return the same values to the last bit.
    return [json.loads(job.record.read_text())["row"] for job in jobs]


def _finished(job: Job) -> bool:
    try:
        record = json.loads(job.record.read_text())
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return False
    return isinstance(record, dict) and bool(record.get("digest") == job.digest and record.get("product") == _content(job.output))


def _content(product: Path) -> str:
    """Digest of a product as it lies there, empty where there is none: a damaged one is made again."""
    return digest_file(product) if product.exists() else ""


def prune(folder: Path, keep: Iterable[Path]) -> None:
    """Remove files under `folder` that no current job made, and folders left empty: a persisted output holds nothing stale."""
    wanted = {path.resolve() for path in keep}
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and path.resolve() not in wanted:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()

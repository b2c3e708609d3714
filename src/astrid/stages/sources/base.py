"""What every source of exposures answers, and where it writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from astrid.core.records import Problem
from astrid.stages.common import Job

RAW = Path("data/raw")
MANIFEST_PATH = Path("data/manifest/manifest.parquet")
QUESTIONS_PATH = Path("data/manifest/questions.parquet")
CATALOG_PATH = Path("data/catalog/catalog.parquet")
PAIRS_PATH = Path("data/pairs/pairs.parquet")
CHOSEN_PATH = Path("data/pairs/chosen.parquet")  # of an archive
OUTCOMES_PATH = Path("data/pairs/outcomes.parquet")
EXPOSURES_PATH = RAW / "exposures.parquet"
TRUTH_PATH = RAW / "truth.parquet"
QUARANTINE_PATH = RAW / "quarantine.json"


@dataclass(frozen=True, eq=False)
class Acquired:
    """What a source brought into data/raw."""

    exposures: pd.DataFrame  # EXPOSURES
    truth: Iterable[pd.DataFrame]  # TRUTH, in parts; none where it is not known
    files: tuple[Path, ...]  # everything that belongs there
    problems: tuple[Problem, ...] = ()
    alerts: int = 0  # usable ones, of alert packets
    needs_pairs: bool = True  # whether the run ends where no pair is usable
    incomplete: str = ""  # what the run ends with, after all was written, where it shall be repeated
    outcomes: Callable[[pd.DataFrame], pd.DataFrame] | None = None  # PAIRS -> OUTCOMES, of a source that asks an archive


def job_files(jobs: Sequence[Job]) -> tuple[Path, ...]:
    """The products of jobs and the records beside them."""
    return tuple(path for job in jobs for path in (job.output, job.record))

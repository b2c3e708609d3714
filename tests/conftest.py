"""Shared by every test: no telemetry, no network for astropy's tables, one thread a library, and where the real data is."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MPLBACKEND", "Agg")
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def project_root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real FITS and alerts; the test skips, and says so, where it is absent."""
    folder = Path(os.environ.get("ASTRID_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data is not at hand ({folder} is absent; set ASTRID_SHARED_DATA)")
    return folder


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """A command sets up the log and writes it to the stream of its test, which the next test finds closed."""
    log = logging.getLogger("astrid")
    before = list(log.handlers), log.level, log.propagate
    yield
    log.handlers[:], level, log.propagate = before
    log.setLevel(level)

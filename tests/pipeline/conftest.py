"""The tiny pipeline, run once from the simulated sky to the triplets; every test that goes on works on a copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from support.tiny import UP_TO_TRIPLETS, configure, new_project, run_stages


@pytest.fixture(scope="session")
def tiny_triplets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which every stage up to the triplets has run; read it, or copy it."""
    project = new_project(tmp_path_factory.mktemp("tiny"))
    configure(project)
    run_stages(project, UP_TO_TRIPLETS)
    return project


@pytest.fixture
def project(tiny_triplets: Path, tmp_path: Path) -> Path:
    """A copy of the project with the triplets, for one test to go on with."""
    copy = tmp_path / "project"
    shutil.copytree(tiny_triplets, copy)
    return copy


@pytest.fixture
def stages() -> Callable[[Path, Sequence[str]], None]:
    return run_stages


@pytest.fixture(autouse=True)
def _own_tracking_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow leaves the address of the last store in the environment; every project has its own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

"""The tiny pipeline, run once a session from the simulated sky to the triplets; every test works on a copy of its own."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from astrid.config.compose import compose, write_params

ROOT = Path(__file__).resolve().parents[2]
UP_TO_TRIPLETS = ("catalog", "acquire", "calibrate", "difference", "detect", "triplets")
FROM_TRIPLETS = ("split", "train", "evaluate", "export", "register")


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def configure(project: Path, *overrides: str) -> None:
    values = compose(ROOT / "conf", ["experiment=tiny", "compute.workers=1", *overrides])
    write_params(values, project / "params.yaml")


def run_stages(project: Path, stages: Sequence[str]) -> None:
    with inside(project):
        for name in stages:
            importlib.import_module(f"astrid.stages.{name}").main()


def new_project(folder: Path) -> Path:
    (folder / "data/labels").mkdir(parents=True)
    shutil.copy(ROOT / "data/labels/human.csv", folder / "data/labels/human.csv")
    return folder


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

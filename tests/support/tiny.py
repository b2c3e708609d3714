"""The tiny project of the pipeline tests: how it is made, configured and run."""

from __future__ import annotations

import copy
import importlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from astrid.config.compose import compose, write_params
from astrid.core.provenance import digest_file

ROOT = Path(__file__).resolve().parents[2]
UP_TO_TRIPLETS = ("catalog", "acquire", "calibrate", "inject", "difference", "detect", "triplets")
FROM_TRIPLETS = ("split", "train", "evaluate", "export", "register")


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@cache
def _tiny_training() -> dict[str, Any]:
    values: dict[str, Any] = compose(ROOT / "conf", ["train=tiny"])["train"]
    return values


def training_values(**changes: Any) -> dict[str, Any]:
    """The tiny choice of conf/train as plain values, with changes on top: two epochs on one thread."""
    return copy.deepcopy(_tiny_training()) | {"epochs": 2, "patience": 2, "device": "cpu", "threads": 1} | changes


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


def products(folder: Path) -> dict[str, str]:
    """Digest of every file under a folder, by its path."""
    return {str(path.relative_to(folder)): digest_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}

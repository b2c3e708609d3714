"""A stage that is killed at any moment and run again ends with the bytes of an undisturbed run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from support.tiny import configure, products

pytestmark = pytest.mark.xdist_group("pipeline")

RunStages = Callable[[Path, Sequence[str]], None]


def kill_when(project: Path, stage: str, ready: Callable[[], bool]) -> None:
    """Start a stage, and kill its whole process group without mercy as soon as `ready` holds."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"astrid.stages.{stage}"],
        cwd=project,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while not ready():
            assert process.poll() is None, f"{stage} ended before it could be killed"
            assert time.monotonic() < deadline, f"{stage} made nothing"
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize(
    ("stage", "folder"), [("acquire", "data/raw"), ("calibrate", "data/calibrated"), ("difference", "data/difference")]
)
def test_a_killed_imaging_stage_resumes_to_the_same_bytes(project: Path, stages: RunStages, stage: str, folder: str) -> None:
    expected = products(project / folder)
    survivors = sorted((project / folder).rglob("*.fits.json"))[::2]
    for path in survivors:
        path.unlink()  # as if these had never been finished
    remaining = len(list((project / folder).rglob("*.fits.json")))
    kill_when(project, stage, lambda: len(list((project / folder).rglob("*.fits.json"))) >= remaining + 2)
    stages(project, [stage])
    assert products(project / folder) == expected


def test_a_killed_training_resumes_to_the_same_bytes(project: Path, stages: RunStages) -> None:
    configure(project, "train.epochs=4")
    stages(project, ["split", "train"])
    expected = products(project / "models/train")
    for path in ("models/train", "models/checkpoints", "mlartifacts"):
        shutil.rmtree(project / path)
    checkpoints = project / "models/checkpoints"
    kill_when(project, "train", lambda: checkpoints.exists() and any(checkpoints.iterdir()))
    stages(project, ["train"])
    assert products(project / "models/train") == expected

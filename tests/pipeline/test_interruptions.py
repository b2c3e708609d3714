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


def workers_of(process: int) -> list[int]:
    """The processes that a process of ours has spawned to work for it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the workers in /proc")
def test_a_killed_worker_changes_no_byte_of_a_stage(project: Path) -> None:
    expected = products(project / "data/difference")
    configure(project, "compute.workers=2")
    again = sorted((project / "data/difference").glob("*.fits.json"))[::6]
    for path in again:
        path.unlink()
    stage = subprocess.Popen(
        [sys.executable, "-m", "astrid.stages.difference"], cwd=project, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 120
        while not any(path.exists() for path in again):
            assert time.monotonic() < deadline, "nothing was made"
            assert stage.poll() is None, stage.stderr
            time.sleep(0.02)
        os.kill(workers_of(stage.pid)[-1], signal.SIGKILL)
        _, said = stage.communicate(timeout=300)
    finally:
        stage.kill()
    assert stage.returncode == 0, said
    assert "killed by signal 9; what it worked on is tried again" in said
    assert products(project / "data/difference") == expected


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

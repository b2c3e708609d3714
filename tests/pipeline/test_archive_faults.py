"""Forty supernovae through query, choosing and download while the archive misbehaves and the process is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from support.archive_server import survey
from support.archive_server.faults import Fault
from support.archive_server.server import DOWNLOAD, ArchiveServer

EVENTS = 40
FILES = 4 * EVENTS  # two images an event, each with its exposure map
FAST = ("search.rate=1000", "download.rate=1000", "search.chunk=10")


@pytest.fixture(scope="module")
def routes() -> dict[str, Any]:
    return survey.routes(EVENTS)


@pytest.fixture(scope="module")
def expected(routes: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a run without faults leaves."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with ArchiveServer(routes) as server:
        done = again(folder, server)
    assert (done["files"], done["problems"]) == (FILES, 0)
    return survey.content(folder)


def again(folder: Path, server: ArchiveServer) -> dict[str, Any]:
    """A run in this process."""
    cfg = survey.settings(server.url, dict(change.split("=") for change in FAST))
    return survey.acquire(folder, cfg, survey.catalog(EVENTS))


def start(folder: Path, server: ArchiveServer) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "support.archive_server.survey", str(folder), server.url, str(EVENTS), *FAST]
    paths = os.pathsep.join([str(survey.ROOT / "src"), str(survey.ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(server: ArchiveServer, client: subprocess.Popen[str], path: str, count: int) -> None:
    while server.counts[path] < count:
        assert client.poll() is None, client.stderr.read() if client.stderr else ""
        time.sleep(0.002)


def whole(folder: Path, expected: dict[str, str]) -> int:
    """Number of files under a final name, each of which must be as an undisturbed run leaves it."""
    names = [path for path in (folder / "raw").rglob("*") if path.is_file()]
    for path in names:
        assert survey.digest(path) == expected[path.relative_to(folder).as_posix()]
    return len(names)


def test_faults_and_kills_leave_what_a_run_without_them_leaves(routes: dict[str, Any], expected: dict[str, str], tmp_path: Path) -> None:
    with ArchiveServer(routes, survey.misbehaving(7, 0.2)) as server:
        for path, count in ((survey.INVOKE, 4), (DOWNLOAD, FILES // 2)):
            client = start(tmp_path, server)
            wait_for(server, client, path, count)
            client.send_signal(signal.SIGKILL)
            client.communicate()
            there = whole(tmp_path, expected)
            assert there < FILES
        assert there > FILES // 4
        client = start(tmp_path, server)
        output, errors = client.communicate(timeout=120)
        assert client.returncode == 0, errors
        assert json.loads(output)["problems"] == 0
        assert survey.content(tmp_path) == expected
        assert sum(server.faulty.values()) > 0.1 * server.total
        assert not list((tmp_path / ".raw" / "partial").iterdir())
        server.forget()
        assert again(tmp_path, server)["files"] == FILES
        assert server.total == 0
    assert survey.content(tmp_path) == expected


def test_ctrl_c_ends_soon_and_the_running_files_go_on(routes: dict[str, Any], expected: dict[str, str], tmp_path: Path) -> None:
    # From the twelfth on every file takes five seconds; after the interruption no more.
    started: list[str] = []

    def slow(request: str, _attempt: int) -> Fault | None:
        if DOWNLOAD not in request:
            return None
        started.append(request)
        return Fault("slow", seconds=5.0) if 12 < len(started) < 1000 else None

    with ArchiveServer(routes, slow) as server:
        client = start(tmp_path, server)
        wait_for(server, client, DOWNLOAD, 16)
        time.sleep(2.5)  # two of the five pieces have come
        client.send_signal(signal.SIGINT)
        began = time.monotonic()
        client.communicate(timeout=30)
        assert time.monotonic() - began < 5.0
        assert client.returncode != 0
        assert whole(tmp_path, expected) == 12
        begun = len(list((tmp_path / ".raw" / "partial").glob("*.gz")))
        assert begun == 4
        server.forget()
        started[:] = [""] * 1000
        again(tmp_path, server)
        assert survey.content(tmp_path) == expected
        assert server.counts[DOWNLOAD] == FILES - 12
        assert server.ranges == begun

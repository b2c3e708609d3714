"""The parallel map over processes of this machine and over a Dask cluster: what is lost, what is kept, what is bounded."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from astrid.core import cluster
from astrid.core.cluster import DaskCluster
from astrid.core.errors import AstridError, InputError, MissingDependencyError
from astrid.core.executors import Backlog, Executor, Lost, memory_limit, parallel_map
from astrid.core.pool import LocalPool

GB = 1e9
POOL = LocalPool(workers=2, memory=GB, retries=1)


@pytest.fixture(scope="module")
def dask() -> DaskCluster:
    pytest.importorskip("distributed", reason="the extra `dask` is not installed")
    return DaskCluster(workers=2, memory=2 * GB, retries=1)


@pytest.fixture(params=["pool", "dask"])
def executor(request: pytest.FixtureRequest) -> Executor:
    return POOL if request.param == "pool" else request.getfixturevalue("dask")


def square(item: int) -> int:
    return item * item


def square_but_die(folder: Path, deaths: int, item: int) -> int:
    """Item 3 kills its own process without mercy, the first `deaths` times."""
    time.sleep(0.05)
    marks = [folder / f"{death}.died" for death in range(deaths)]
    left = [mark for mark in marks if not mark.exists()]
    if item == 3 and left:
        left[0].touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


def refuse(item: int) -> int:
    raise InputError(f"item {item} is broken; mend it.")


class Stubborn(Exception):
    """One that cannot be sent: it takes two arguments and keeps one."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def stubborn(item: int) -> int:
    raise Stubborn("this", "that")


def overlap(folder: Path, item: int) -> int:
    """How many run at this moment, this one included."""
    mark = folder / f"{item}.running"
    mark.touch()
    time.sleep(0.1)
    running = len(list(folder.glob("*.running")))
    mark.unlink()
    return running


def process_of(_: int) -> int:
    return os.getpid()


@pytest.mark.parametrize("workers", [1, 2])
def test_every_item_comes_with_its_result(workers: int) -> None:
    found = dict(parallel_map(math.isqrt, range(7), executor=LocalPool(workers), description="roots"))
    assert found == {n: math.isqrt(n) for n in range(7)}


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_of_an_item_reaches_the_caller(workers: int) -> None:
    with pytest.raises(InputError, match="item 1 is broken") as caught:
        list(parallel_map(refuse, [1, 1], executor=LocalPool(workers), description="refusing"))
    assert workers == 1 or "in refuse" in caught.value.__notes__[0]


def test_an_exception_that_cannot_be_sent_comes_as_its_text() -> None:
    with pytest.raises(RuntimeError, match="Stubborn: this and that"):
        list(parallel_map(stubborn, [1, 2], executor=POOL, description="stubborn"))


def test_a_killed_worker_costs_one_attempt_at_its_item(executor: Executor, tmp_path: Path) -> None:
    found = dict(parallel_map(partial(square_but_die, tmp_path, 1), range(8), executor=executor, description="squares"))
    assert found == {n: square(n) for n in range(8)}
    assert (tmp_path / "0.died").exists()


def test_an_item_that_kills_every_worker_is_lost_alone(executor: Executor, tmp_path: Path) -> None:
    deadly = partial(square_but_die, tmp_path, 99)
    found = dict(parallel_map(deadly, range(6), executor=executor, description="squares", on_loss=lambda item, reason: reason))
    assert {item: value for item, value in found.items() if item != 3} == {n: square(n) for n in range(6) if n != 3}
    assert "killed" in str(found[3])
    assert "2 times" in str(found[3])
    assert len(list(tmp_path.iterdir())) == 2


def test_a_loss_that_nobody_takes_is_an_error_after_all_others(tmp_path: Path) -> None:
    found = {}
    with pytest.raises(AstridError, match=r"squares: 1 of 6 items were lost, the first because a worker process was killed by signal 9"):
        found.update(parallel_map(partial(square_but_die, tmp_path, 99), range(6), executor=POOL, description="squares"))
    done = parallel_map(partial(square_but_die, tmp_path, 0), range(6), executor=POOL, description="squares")
    assert dict(done) == {n: square(n) for n in range(6)}


@pytest.mark.parametrize(("need", "most"), [(0.4 * GB, 2), (0.6 * GB, 1), (3 * GB, 1)])
def test_no_more_runs_at_once_than_memory_holds(tmp_path: Path, need: float, most: int) -> None:
    found = parallel_map(partial(overlap, tmp_path), range(6), executor=POOL, description="overlap", needs=lambda _: need)
    assert max(value for _, value in found) <= most


def test_dask_too_holds_to_its_memory(dask: DaskCluster, tmp_path: Path) -> None:
    found = parallel_map(partial(overlap, tmp_path), range(4), executor=dask, description="overlap", needs=lambda _: 1.5 * GB)
    assert max(value for _, value in found) == 1


def test_a_worker_that_keeps_too_much_memory_is_replaced() -> None:
    kept = {pid for _, pid in parallel_map(process_of, range(6), executor=LocalPool(2, 50 * GB), description="processes")}
    replaced = {pid for _, pid in parallel_map(process_of, range(6), executor=LocalPool(2, 1e6), description="processes")}
    assert len(kept) <= 2
    assert len(replaced) == 6


def test_a_function_that_no_worker_can_import_is_said_once(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone_in_workers.py").write_text("def work(item):\n    return item\n")
    monkeypatch.syspath_prepend(tmp_path)
    work = __import__("gone_in_workers").work
    (tmp_path / "gone_in_workers.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(AstridError, match=r"ended with exit code 3 before it could begin"):
        list(parallel_map(work, range(3), executor=POOL, description="work"))


def test_a_closed_map_leaves_no_process_and_nothing_half_written(tmp_path: Path) -> None:
    running = parallel_map(partial(overlap, tmp_path), range(100), executor=POOL, description="overlap")
    next(running)
    running.close()
    before = sorted(tmp_path.iterdir())
    time.sleep(0.3)
    assert sorted(tmp_path.iterdir()) == before
    assert len(before) <= 2


SCRIPT = """
    import sys, time
    from pathlib import Path
    from astrid.core.cluster import DaskCluster
    from astrid.core.pool import LocalPool
    from astrid.core.executors import parallel_map
    from astrid.core.runtime import exit_codes

    def wait(item):
        Path(f"{item}.begun").touch()
        try:
            time.sleep(30)
        finally:
            Path(f"{item}.left").touch()

    if __name__ == "__main__":
        with exit_codes():
            list(parallel_map(wait, range(4), executor=EXECUTOR, description="waiting"))
"""


def wait_for(ready: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.mark.parametrize("made", ["LocalPool(2)", "DaskCluster(workers=2)"])
def test_ctrl_c_ends_the_run_and_its_workers_with_one_sentence(made: str, tmp_path: Path) -> None:
    if "Dask" in made:
        pytest.importorskip("distributed")
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT).replace("EXECUTOR", made))
    process = subprocess.Popen([sys.executable, str(script)], cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: len(list(tmp_path.glob("*.begun"))) == 2, "nothing began")
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does on Ctrl-C: every process of the group hears it
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors.strip() == "astrid: interrupted; run the same command again to go on from here."
    wait_for(lambda: not group_lives(process.pid), "a worker outlived the run")


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_dask_without_its_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingDependencyError, match=r'pip install -e "\.\[dask\]"'):
        list(parallel_map(square, range(3), executor=DaskCluster(), description="squares"))


def test_a_scheduler_that_does_not_answer_is_named(dask: DaskCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_POLL", 0.5)
    with pytest.raises(AstridError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1 "):
        list(parallel_map(square, range(3), executor=DaskCluster("tcp://127.0.0.1:1"), description="squares"))


def test_a_scheduler_elsewhere_is_used_and_one_without_workers_is_given_up(
    dask: DaskCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import LocalCluster

    monkeypatch.setattr(cluster, "_POLL", 0.2)
    monkeypatch.setattr(cluster, "_PATIENCE", 0.5)
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None, memory_limit=0) as standing:
        monkeypatch.chdir(tmp_path)
        there = DaskCluster(standing.scheduler_address)
        found = parallel_map(place, range(3), executor=there, description="places")
        assert {value for _, value in found} == {str(tmp_path)}
        standing.scale(0)
        with pytest.raises(AstridError, match="has had no worker for"):
            list(parallel_map(square, range(3), executor=there, description="squares"))


def place(_: int) -> str:
    return str(Path.cwd())


def test_a_backlog_runs_what_was_lost_last_and_alone() -> None:
    backlog = Backlog([1.0, 1.0, 1.0, 1.0], limit=2.5, attempts=2)
    assert (backlog.take(), backlog.take(), backlog.take()) == (0, 1, None)
    assert backlog.died(0, "it died") is None
    assert backlog.take() == 2
    backlog.done(1)
    assert (backlog.take(), backlog.take()) == (3, None)
    backlog.done(2)
    backlog.done(3)
    assert (backlog.take(), backlog.take()) == (0, None)
    assert backlog.died(0, "it died") == Lost(
        "it died 2 times while it was at work, most often for want of memory; free memory or lower compute.workers or "
        "compute.memory_gb, and run the stage again."
    )
    assert backlog.take() is None


def test_zero_means_most_of_the_machines_memory() -> None:
    assert memory_limit(0.0) > 1e8
    assert memory_limit(5.0) == 5.0

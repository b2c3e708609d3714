from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

from astrid.core.cluster import DaskCluster
from astrid.core.errors import AstridError, InputError, MissingDependencyError
from astrid.core.pool import LocalPool
from astrid.stages.common import Job, executor, incomplete, prune, quarantine, resume, run


def double(job: Job) -> dict[str, object]:
    if job.payload == "stop":
        raise KeyboardInterrupt
    if job.payload is not None:
        job.output.write_text(str(2 * job.payload))
    return {"value": None if job.payload is None else 2 * job.payload}


def jobs(folder: Path, *payloads: object, digest: str = "d") -> list[Job]:
    return [Job(str(i), f"{digest}{i}", folder / f"{i}.txt", payload) for i, payload in enumerate(payloads)]


def test_rows_come_in_the_order_of_the_jobs(tmp_path: Path) -> None:
    assert resume(double, jobs(tmp_path, 1, 2, 3), description="doubling", executor=LocalPool(1)) == [
        {"value": 2},
        {"value": 4},
        {"value": 6},
    ]


def test_an_interrupted_map_goes_on_with_what_is_left(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        resume(double, jobs(tmp_path, 1, "stop", 3), description="doubling", executor=LocalPool(1))
    done = (tmp_path / "0.txt").stat().st_mtime_ns
    assert resume(double, jobs(tmp_path, 1, 2, 3), description="doubling", executor=LocalPool(1))[2] == {"value": 6}
    assert (tmp_path / "0.txt").stat().st_mtime_ns == done


def test_a_new_digest_or_a_lost_product_is_done_again(tmp_path: Path) -> None:
    resume(double, jobs(tmp_path, 1), description="doubling", executor=LocalPool(1))
    (tmp_path / "0.txt").unlink()
    resume(double, jobs(tmp_path, 1), description="doubling", executor=LocalPool(1))
    assert (tmp_path / "0.txt").read_text() == "2"
    resume(double, jobs(tmp_path, 5, digest="e"), description="doubling", executor=LocalPool(1))
    assert (tmp_path / "0.txt").read_text() == "10"


def test_a_quarantined_item_is_remembered_without_a_product(tmp_path: Path) -> None:
    for _ in range(2):
        assert resume(double, jobs(tmp_path, None), description="doubling", executor=LocalPool(1)) == [{"value": None}]
    assert not (tmp_path / "0.txt").exists()


def write_but_die(marks: Path, deaths: int, job: Job) -> dict[str, object]:
    """Write the product; job 2 kills its own process with half a product written, the first `deaths` times."""
    left = [mark for mark in (marks / str(death) for death in range(deaths)) if not mark.exists()]
    if job.payload == 2 and left:
        left[0].touch()
        job.output.with_name(f".{job.output.name}.part").write_text("ha")
        os.kill(os.getpid(), signal.SIGKILL)
    return double(job)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.suffix != ".part"}


@pytest.mark.parametrize("where", ["pool", "dask"])
def test_a_worker_killed_in_the_middle_changes_nothing(tmp_path: Path, where: str) -> None:
    if where == "dask":
        pytest.importorskip("distributed", reason="the extra `dask` is not installed")
    workers = LocalPool(2, retries=1) if where == "pool" else DaskCluster(workers=2, retries=1)
    for name in ("undisturbed", "killed", "marks"):
        (tmp_path / name).mkdir()
    undisturbed = jobs(tmp_path / "undisturbed", *range(6))
    expected = resume(double, undisturbed, description="doubling", executor=LocalPool(1))
    killed = jobs(tmp_path / "killed", *range(6))
    assert resume(partial(write_but_die, tmp_path / "marks", 1), killed, description="doubling", executor=workers) == expected
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")
    assert len(list((tmp_path / "marks").iterdir())) == 1


def test_an_item_that_kills_its_workers_is_set_aside_and_tried_by_the_next_run(tmp_path: Path) -> None:
    (tmp_path / "marks").mkdir()
    deadly, workers = partial(write_but_die, tmp_path / "marks", 2), LocalPool(2, retries=1)
    resume(double, jobs(tmp_path, *range(4)), description="doubling", executor=LocalPool(1))
    renewed = jobs(tmp_path, *range(4), digest="e")
    rows = resume(deadly, renewed, description="doubling", executor=workers, on_loss=quarantine)
    assert rows[2]["status"] == "quarantined"
    assert "killed by signal 9 2 times" in str(rows[2]["reason"])
    assert [row for index, row in enumerate(rows) if index != 2] == [{"value": 0}, {"value": 2}, {"value": 6}]
    assert not (tmp_path / "2.txt").exists()
    assert resume(deadly, renewed, description="doubling", executor=workers, on_loss=quarantine)[2] == {"value": 4}


def test_a_stage_that_needs_every_item_ends_after_the_others_are_done(tmp_path: Path) -> None:
    (tmp_path / "marks").mkdir()
    deadly = partial(write_but_die, tmp_path / "marks", 9)
    with pytest.raises(AstridError, match=r"doubling: 1 of 4 items were lost"):
        resume(deadly, jobs(tmp_path, *range(4)), description="doubling", executor=LocalPool(2, retries=0))
    assert (tmp_path / "3.txt").exists()


def test_compute_chooses_where_items_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("compute: {workers: 2, memory_gb: 3, retries: 1, dask: null}\n")
    assert executor() == LocalPool(2, 3e9, 1)
    dask = "{scheduler: 'tcp://host:8786', threads: 4, worker_memory_gb: 2}"
    Path("params.yaml").write_text(f"compute: {{workers: 2, memory_gb: 3, retries: 1, dask: {dask}}}\n")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "distributed", None)
        with pytest.raises(MissingDependencyError, match="needs the package distributed; install it with `pip install"):
            executor()
    pytest.importorskip("distributed", reason="the extra `dask` is not installed")
    assert executor() == DaskCluster("tcp://host:8786", 2, 4, 2e9, 3e9, 1)


def test_prune_removes_what_no_job_made(tmp_path: Path) -> None:
    keep = tmp_path / "a" / "keep.txt"
    stale = tmp_path / "b" / "stale.txt"
    for path in (keep, stale):
        path.parent.mkdir()
        path.write_text("x")
    prune(tmp_path, [keep])
    assert keep.exists()
    assert not stale.parent.exists()


@pytest.mark.parametrize(("error", "code"), [(InputError("a.fits is broken; fetch it again."), 2), (KeyboardInterrupt(), 130)])
def test_a_stage_ends_with_a_sentence_and_its_code(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        run(main)
    assert caught.value.code == code
    assert capsys.readouterr().err.startswith("astrid: ")


@pytest.mark.parametrize(
    ("failed", "total", "accepted", "ends"), [(0, 0, 0.0, False), (1, 1000, 0.0, True), (5, 100, 0.05, False), (6, 100, 0.05, True)]
)
def test_a_stage_ends_when_more_failed_than_is_accepted(failed: int, total: int, accepted: float, ends: bool) -> None:
    sentence = incomplete(failed, total, accepted, what="files are missing", key="a.key")
    assert bool(sentence) == ends
    assert not ends or sentence.startswith(f"{failed} of {total} files are missing, and a.key accepts {accepted:g} of them; ")

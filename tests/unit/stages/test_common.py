from __future__ import annotations

from pathlib import Path

import pytest

from astrid.config.schema import ComputeConfig
from astrid.core.errors import ConfigError, InputError
from astrid.stages.common import Job, prune, resume, run, settings


def double(job: Job) -> dict[str, object]:
    if job.payload == "stop":
        raise KeyboardInterrupt
    if job.payload is not None:
        job.output.write_text(str(2 * job.payload))
    return {"value": None if job.payload is None else 2 * job.payload}


def jobs(folder: Path, *payloads: object, digest: str = "d") -> list[Job]:
    return [Job(str(i), f"{digest}{i}", folder / f"{i}.txt", payload) for i, payload in enumerate(payloads)]


def test_rows_come_in_the_order_of_the_jobs(tmp_path: Path) -> None:
    assert resume(double, jobs(tmp_path, 1, 2, 3), description="doubling", processes=1) == [{"value": 2}, {"value": 4}, {"value": 6}]


def test_an_interrupted_map_goes_on_with_what_is_left(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        resume(double, jobs(tmp_path, 1, "stop", 3), description="doubling", processes=1)
    done = (tmp_path / "0.txt").stat().st_mtime_ns
    assert resume(double, jobs(tmp_path, 1, 2, 3), description="doubling", processes=1)[2] == {"value": 6}
    assert (tmp_path / "0.txt").stat().st_mtime_ns == done


def test_a_new_digest_or_a_lost_product_is_done_again(tmp_path: Path) -> None:
    resume(double, jobs(tmp_path, 1), description="doubling", processes=1)
    (tmp_path / "0.txt").unlink()
    resume(double, jobs(tmp_path, 1), description="doubling", processes=1)
    assert (tmp_path / "0.txt").read_text() == "2"
    resume(double, jobs(tmp_path, 5, digest="e"), description="doubling", processes=1)
    assert (tmp_path / "0.txt").read_text() == "10"


def test_a_quarantined_item_is_remembered_without_a_product(tmp_path: Path) -> None:
    for _ in range(2):
        assert resume(double, jobs(tmp_path, None), description="doubling", processes=1) == [{"value": None}]
    assert not (tmp_path / "0.txt").exists()


def test_prune_removes_what_no_job_made(tmp_path: Path) -> None:
    keep = tmp_path / "a" / "keep.txt"
    stale = tmp_path / "b" / "stale.txt"
    for path in (keep, stale):
        path.parent.mkdir()
        path.write_text("x")
    prune(tmp_path, [keep])
    assert keep.exists()
    assert not stale.parent.exists()


def test_settings_validates_one_subtree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"params\.yaml is not here"):
        settings(ComputeConfig, "compute")
    Path("params.yaml").write_text("compute: {workers: 2}\n")
    assert settings(ComputeConfig, "compute").workers == 2
    with pytest.raises(ConfigError, match=r"no key imaging\.calibrate"):
        settings(ComputeConfig, "imaging.calibrate")


@pytest.mark.parametrize(("error", "code"), [(InputError("a.fits is broken; fetch it again."), 2), (KeyboardInterrupt(), 130)])
def test_a_stage_ends_with_a_sentence_and_its_code(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        run(main)
    assert caught.value.code == code
    assert capsys.readouterr().err.startswith("astrid: ")

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from astrid.core.runtime import atomic_path, configure_logging, log, progress_line, rng_for, track, worker_count, write_json


def test_a_generator_depends_on_seed_and_identity_only() -> None:
    assert rng_for(1, "a", 2).random() == rng_for(1, "a", 2).random()
    values = {rng_for(seed, name).random() for seed in (1, 2) for name in ("a", "b")}
    assert len(values) == 4
    assert rng_for(1, "ab", "c").random() != rng_for(1, "a", "bc").random()


def test_zero_workers_means_every_core() -> None:
    assert worker_count(0) >= 1
    assert worker_count(3) == 3


def test_progress_tells_the_rate_and_the_time_left() -> None:
    assert progress_line("difference", 40, 210, 60.0, "pairs") == "difference: 40 of 210 pairs, 40.0 a minute, 4.2 min left"
    assert progress_line("score", 5, None, 30.0, "items") == "score: 5 items, 10.0 a minute"


def test_tracking_off_a_terminal_ends_with_a_plain_line(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "propagate", True)
    with caplog.at_level(logging.INFO, "astrid"):
        assert list(track([1, 2, 3], "difference", unit="pairs")) == [1, 2, 3]
    assert caplog.messages[-1].startswith("difference: 3 pairs done in ")


def test_an_atomic_path_appears_only_when_the_block_ends_well(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "product.txt"

    def half_way() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        half_way()
    assert list(target.parent.iterdir()) == []
    with atomic_path(target) as temporary:
        temporary.write_text("whole")
    assert [path.name for path in target.parent.iterdir()] == ["product.txt"]


def test_json_is_sorted_and_holds_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "numbers.json"
    write_json(path, {"b": np.float32("nan"), "a": np.arange(2), "c": (np.int64(3), float("inf"))})
    assert json.loads(path.read_text()) == {"a": [0, 1], "b": None, "c": [3, None]}
    assert path.read_text().index('"a"') < path.read_text().index('"b"')


def test_json_logs_are_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(json_logs=True, level=logging.INFO)
    log.info("two\nlines")
    entry = json.loads(capsys.readouterr().err)
    assert entry["message"] == "two\nlines"
    configure_logging()

"""Train and track on a handful of triplets: what the stage writes, that a killed one goes on, and what it refuses."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from astrid.core.errors import DataSetError
from astrid.io.shards import ShardWriter
from astrid.io.tables import SPLITS, TRIPLETS, write_table
from astrid.learning import models
from astrid.registry import tracking
from astrid.stages import train
from support.tiny import training_values

ROOT = Path(__file__).parents[3]
PRODUCTS = ("model.pt", "history.csv", "baseline.joblib", "train.json")


class Killed(Exception):
    pass


class RecordedRun:
    """Stands in for the MLflow run, which has tests of its own."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.series: list[tuple[int, dict[str, float]]] = []
        self.artifacts: list[str] = []
        self.opened: dict = {}
        self.kill_at = kill_at

    def log_metrics(self, metrics, step=0):
        self.series.append((step, dict(metrics)))
        if step == self.kill_at:
            raise Killed

    def log_artifact(self, path, folder=None):
        self.artifacts.append(path.name)


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    count = 40
    table = TRIPLETS.empty().reindex(range(count))
    table["candidate_id"] = [f"p:{number}" for number in range(count)]
    table["label"], table["scorable"], table["sign"] = np.arange(count) % 2, True, 1
    for column in ("snr", "symmetry", "chi2", "fwhm", "psf_fwhm", "edge_distance", "star_distance"):
        table[column] = rng.uniform(1, 2, count)
    table = table.astype({"label": int})
    for column in TRIPLETS.columns:
        if column.kind == "str" and column.name != "candidate_id":
            table[column.name] = ""
    table["tags"] = [[] for _ in range(count)]
    stamps = rng.standard_normal((count, 3, 63, 63)).astype(np.float32)
    with ShardWriter(Path("data/triplets"), 16) as writer:
        writer.append(stamps, table)
    part = np.where(np.arange(count) < 28, "train", "validation")
    splits = pd.DataFrame({"candidate_id": table["candidate_id"], "part": part, "group_id": "g"})
    write_table(splits, Path("data/splits/splits.parquet"), SPLITS)
    model = yaml.safe_load((ROOT / "conf/model/astrid_cnn.yaml").read_text()) | {"width": 2, "dense": 4}
    trainer = training_values(seed=3, epochs=3)
    Path("params.yaml").write_text(yaml.safe_dump({"model": model, "train": trainer}))
    return tmp_path


def follow(monkeypatch, run: RecordedRun) -> RecordedRun:
    @contextlib.contextmanager
    def training_run(**arguments):
        run.opened = arguments
        yield run

    monkeypatch.setattr(tracking, "training_run", training_run)
    return run


def products(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "models/train" / name).read_bytes() for name in PRODUCTS}


def test_the_stage_writes_model_history_baseline_record_and_metrics(project, monkeypatch):
    run = follow(monkeypatch, RecordedRun())
    train.main()
    record = json.loads((project / "models/train/train.json").read_text())
    network, cfg = models.load((project / "models/train/model.pt").read_bytes(), source="model.pt")
    assert (record["name"], record["normalization"], record["weights"]) == (cfg.name, cfg.normalization, models.count_weights(network))
    assert record["key"] == run.opened["resume_key"]
    assert set(record["digests"]) == {"triplets", "splits"}
    assert len(pd.read_csv(project / "models/train/history.csv")) == 3
    metrics = json.loads((project / "reports/train.json").read_text())
    assert {"best_validation_aucpr", "baseline_validation_aucpr", "train_real", "validation_bogus"} <= set(metrics)
    assert [step for step, _ in run.series] == [1, 2, 3, 0]
    assert set(run.artifacts) == set(PRODUCTS)


def test_a_killed_stage_goes_on_and_writes_the_same_bytes(project, monkeypatch):
    follow(monkeypatch, RecordedRun())
    train.main()
    undisturbed = products(project)
    for path in (project / "models/train").iterdir():
        path.unlink()
    for path in (project / "models/checkpoints").iterdir():
        path.unlink()
    follow(monkeypatch, RecordedRun(kill_at=2))
    with pytest.raises(Killed):
        train.main()
    assert not (project / "models/train/model.pt").exists()
    assert len(list((project / "models/checkpoints").iterdir())) == 1
    run = follow(monkeypatch, RecordedRun())
    train.main()
    assert products(project) == undisturbed
    assert [step for step, _ in run.series] == [1, 2, 3, 0]


def test_checkpoints_of_other_settings_are_removed(project, monkeypatch):
    follow(monkeypatch, RecordedRun())
    stale = project / "models/checkpoints/0123456789abcdef.pt"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"old")
    train.main()
    assert not stale.exists()
    assert len(list(stale.parent.iterdir())) == 1


def test_a_part_without_a_class_is_refused_and_nothing_is_written(project, monkeypatch):
    follow(monkeypatch, RecordedRun())
    splits = pd.read_parquet("data/splits/splits.parquet").assign(part="train")
    write_table(splits, Path("data/splits/splits.parquet"), SPLITS)
    with pytest.raises(DataSetError, match="the part 'validation' holds 0 real and 0 bogus"):
        train.main()
    assert not (project / "models/train").exists()

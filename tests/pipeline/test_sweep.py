"""A Hydra multirun is one parent run with a child a trial, names its winner, and refuses to sweep what it does not read."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from astrid.config.compose import compose
from astrid.sweep import write_winner
from support.tiny import ROOT, configure

pytestmark = pytest.mark.xdist_group("pipeline")


def sweep(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    shutil.copytree(ROOT / "conf", project / "conf", dirs_exist_ok=True)
    command = [sys.executable, "-m", "astrid.sweep", "-m", "experiment=tiny", "train.epochs=1", "train.patience=1", *arguments]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


def test_a_sweep_is_one_parent_with_a_child_a_trial(project: Path) -> None:
    configure(project)
    done = sweep(project, "split=temporal,cross_survey", "model=astrid_cnn,braai")
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(project / "mlflow.db") as database:
        rows = database.execute(
            "select r.name, (select value from tags t where t.run_uuid = r.run_uuid and t.key = 'mlflow.parentRunId') from runs r"
        ).fetchall()
        metrics = dict(database.execute("select key, count(distinct run_uuid) from metrics group by key").fetchall())
    parents = {parent for _, parent in rows if parent}
    assert len(parents) == 1
    assert sorted(name for name, parent in rows if parent) == [
        "cross_survey-astrid_cnn", "cross_survey-braai", "temporal-astrid_cnn", "temporal-braai",
    ]  # fmt: skip
    assert metrics["validation_aucpr"] == 4
    assert not any(key.startswith("test.") for key in metrics)
    assert (project / "conf/experiment/sweep_winner.yaml").exists()
    values = compose(project / "conf", ["experiment=sweep_winner"])
    assert values["train"]["epochs"] == 1


def test_what_shapes_the_triplets_cannot_be_swept(project: Path) -> None:
    configure(project)
    done = sweep(project, "candidates.extract.threshold=6,7")
    assert done.returncode == 2
    assert "candidates cannot be swept" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_winner_composes_with_its_groups_and_values(tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(ROOT / "conf", conf)
    write_winner(conf / "experiment/winner.yaml", 0.9, ["model=braai", "train.learning_rate=0.002", "hydra/sweeper=optuna"], groups=conf)
    values = compose(conf, ["experiment=winner"])
    assert values["model"]["name"] == "braai"
    assert values["train"]["learning_rate"] == 0.002


def test_optuna_searches_for_the_highest_validation_aucpr(project: Path) -> None:
    configure(project)
    done = sweep(project, "hydra/sweeper=optuna", "hydra.sweeper.optuna_config.n_trials=2", "model=braai")
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(project / "optuna.db") as database:
        values = [value for (value,) in database.execute("select value from trial_values")]
    assert len(values) == 2
    assert all(0 <= value <= 1 for value in values)

import math
import sqlite3
from pathlib import Path

import pytest

from astrid.core.errors import RegistryError
from astrid.registry import store as stores
from astrid.registry.tracking import parent_run, resume_run, training_run


def open_run(key, **changes):
    settings = {"name": "cnn", "params": {"model": {"name": "cnn"}, "lr": 0.001}, "tags": {"data": "d1"}, "resume_key": key}
    return training_run(**(settings | changes))


def stored(run_id):
    return stores.client().get_run(run_id)


def history(run_id, name):
    return [(metric.step, metric.value) for metric in stores.client().get_metric_history(run_id, name)]


def test_a_training_is_one_run_with_params_tags_and_metrics_by_epoch():
    with open_run("one") as run:
        for epoch in range(3):
            run.log_metrics({"loss": 1 / (epoch + 1), "aucpr": 0.1 * epoch}, epoch)
    found = stored(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"model.name": "cnn", "lr": "0.001"}
    assert found.data.tags["data"] == "d1"
    assert history(run.run_id, "loss") == [(0, 1.0), (1, 0.5), (2, 1 / 3)]


def test_an_interrupted_training_is_continued_and_repeated_epochs_are_not_doubled():
    with pytest.raises(KeyboardInterrupt), open_run("killed") as first:  # noqa: PT012
        first.log_metrics({"loss": 1.0, "gap": math.nan}, 0)
        raise KeyboardInterrupt
    assert stored(first.run_id).info.status == "KILLED"
    with open_run("killed") as second:
        second.log_metrics({"loss": 1.0, "gap": math.nan}, 0)
        second.log_metrics({"loss": 0.5}, 1)
    assert second.run_id == first.run_id
    assert history(first.run_id, "loss") == [(0, 1.0), (1, 0.5)]
    assert len(history(first.run_id, "gap")) == 1
    assert stored(first.run_id).info.status == "FINISHED"


def test_a_failed_training_says_so_and_its_error_goes_on():
    with pytest.raises(ZeroDivisionError), open_run("failed") as run:
        1 / 0  # noqa: B018
    assert stored(run.run_id).info.status == "FAILED"


def test_a_later_stage_finds_the_run_by_its_key(tmp_path):
    with open_run("later") as training:
        pass
    (tmp_path / "table.csv").write_text("a\n1\n")
    with resume_run("later") as run:
        run.log_artifact(tmp_path / "table.csv", "tables")
        run.log_artifact(tmp_path, "all")
        run.log_dict({"a": 1}, "facts/a.json")
    assert run.run_id == training.run_id
    assert [f.path for f in stores.client().list_artifacts(run.run_id, "tables")] == ["tables/table.csv"]
    assert [f.path for f in stores.client().list_artifacts(run.run_id, "all")] == ["all/table.csv"]
    assert stored(run.run_id).info.status == "FINISHED"


def test_a_lost_run_is_opened_anew_with_a_message(caplog):
    with caplog.at_level("WARNING", logger="astrid"), resume_run("never trained") as run:
        pass
    with resume_run("never trained") as again:
        pass
    assert again.run_id == run.run_id
    assert "no run of training never traine" in caplog.text


def test_curves_are_series_over_a_step_and_batches_hold_more_than_one_request():
    with open_run("curves") as run:
        run.log_series({"recall": [1 - step / 1500 for step in range(1500)]})
        run.log_series({"precision": [0.2, 0.4]}, steps=[10, 20])
    assert len(history(run.run_id, "recall")) == 1500
    assert history(run.run_id, "precision") == [(10, 0.2), (20, 0.4)]


def test_trials_of_two_sweeps_with_the_same_settings_are_two_runs_under_their_parents():
    first, second = parent_run(name="sweep", key="a"), parent_run(name="sweep", key="b")
    assert first != second == parent_run(name="sweep", key="b")
    with open_run("trial", parent_run_id=first) as one, open_run("trial", parent_run_id=second) as two, open_run("trial") as alone:
        pass
    assert len({one.run_id, two.run_id, alone.run_id}) == 3
    assert stored(one.run_id).data.tags["mlflow.parentRunId"] == first
    with open_run("trial", parent_run_id=first) as again:
        pass
    assert again.run_id == one.run_id


def test_a_changed_parameter_keeps_its_first_value_and_is_named(caplog):
    with open_run("params"):
        pass
    with caplog.at_level("WARNING", logger="astrid"), open_run("params", params={"lr": 1}) as run:
        pass
    assert stored(run.run_id).data.params["lr"] == "0.001"
    assert "keeps its first value of lr" in caplog.text


def test_a_figure_is_kept():
    from matplotlib.figure import Figure

    with open_run("figure") as run:
        run.log_figure(Figure(), "figures/empty.png")
    assert [f.path for f in stores.client().list_artifacts(run.run_id, "figures")] == ["figures/empty.png"]


def test_an_absent_file_is_a_mistake_with_a_next_step(tmp_path):
    with pytest.raises(RegistryError, match="run the stage that makes it"), open_run("absent") as run:
        run.log_artifact(tmp_path / "nothing.png")


def test_a_deleted_experiment_is_named_with_the_command_that_restores_it():
    with open_run("x", experiment="gone") as run:
        pass
    stores.client().delete_experiment(stored(run.run_id).info.experiment_id)
    with pytest.raises(RegistryError, match="mlflow experiments restore -x"), open_run("x", experiment="gone"):
        pass


def test_a_broken_database_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "bad.db").write_text("not a database, but long enough to be looked at " * 20)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'bad.db'}")
    with pytest.raises(RegistryError, match="move a broken"), open_run("x"):
        pass


def test_the_database_appears_whole_and_leaves_no_temporary_file():
    stores.client()
    store = Path(stores.tracking_uri().removeprefix("sqlite:///")).parent
    names = {path.name for path in store.iterdir()}
    assert "mlflow.db" in names
    assert not [name for name in names if ".part" in name]
    with sqlite3.connect(store / "mlflow.db") as database:
        assert database.execute("select count(*) from alembic_version").fetchone() == (1,)


def test_default_places_are_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.delenv("MLFLOW_DEFAULT_ARTIFACT_ROOT")
    monkeypatch.chdir(tmp_path)
    assert stores.tracking_uri() == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert stores.artifact_root() == (tmp_path / "mlartifacts").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert stores.artifact_root() is None

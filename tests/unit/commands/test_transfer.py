"""`astrid transfer`: which rows train, what is opened how often, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from astrid.cli import cli
from astrid.commands import transfer as command
from astrid.commands.settings import section
from astrid.commands.transfer import Alerts, Training, open_training, parse, read_stamps, transfer
from astrid.config.schema import ModelConfig, TrainConfig
from astrid.core.errors import DataSetError, InputError
from astrid.io.shards import ShardWriter, TripletStore
from astrid.io.tables import SPLITS, write_table
from astrid.learning.loader import select
from astrid.learning.train import training_key
from support.evidence import evidence

PARTS = ["train"] * 8 + ["validation"] * 4 + ["test"] * 6 + ["unused"] * 2
GROUPS = ["strong"] * 6 + ["peer_low"] * 6


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Twenty triplets, real and bogus in turn; the number of each stands in its pixels."""
    folder = tmp_path / "runs"
    names = [f"p:{number}" for number in range(len(PARTS))]
    frame = pd.DataFrame({"candidate_id": names, "pair_id": "p", "x": 1.0, "y": 2.0, "sign": 1, "snr": 7.0, "exposure_id": "e"})
    frame = frame.assign(label=np.arange(len(PARTS)) % 2, event_id="", cell_id="c", scorable=True, tags=[[]] * len(PARTS))
    stamps = np.zeros((len(PARTS), 3, 63, 63), np.float32) + np.arange(len(PARTS), dtype=np.float32)[:, None, None, None]
    with ShardWriter(folder / "data/triplets", 8) as writer:
        writer.append(stamps, frame)
    write_table(pd.DataFrame({"candidate_id": names, "part": PARTS, "group_id": "g"}), folder / "data/splits/splits.parquet", SPLITS)
    return folder


def test_a_training_is_a_name_and_its_folders(project):
    assert parse(f"wide={project}+{project}") == Training("wide", (project, project))


@pytest.mark.parametrize("text", ["wide", "wide=", "=runs", ""])
def test_other_words_are_refused(text):
    with pytest.raises(InputError, match="write NAME=FOLDER"):
        parse(text)


def test_a_folder_without_triplets_is_refused(project):
    (project / "data/splits/splits.parquet").unlink()
    with pytest.raises(InputError, match="run `dvc repro split` there first"):
        parse(f"wide={project}")


def test_files_that_are_no_alerts_are_refused(tmp_path):
    path = Path(tmp_path / "x.avro")
    path.write_bytes(b"not an alert")
    with pytest.raises(InputError, match="is an alert with stamps"):
        read_stamps([path])


def test_test_parts_train_when_they_are_asked_for_and_validation_stays(project):
    training = Training("wide", (project, project))
    plain, more = open_training(training), open_training(training, ("train", "test"))
    rows = {"real": 8, "bogus": 8, "validation_real": 4, "validation_bogus": 4}
    assert plain.described == {"name": "wide", "folders": ["runs", "runs"], "digest": plain.stores.digest, **rows}
    assert more.described == {**plain.described, "real": 14, "bogus": 14}
    assert select(more.stores.table, more.splits, "train").rows.tolist() == [*range(8), *range(12, 18), *range(20, 28), *range(32, 38)]
    for name in ("validation", "unused"):
        assert (more.splits["part"] == name).equals(plain.splits["part"] == name)


def test_another_choice_of_parts_is_another_training(project):
    model = section(ModelConfig, "model", ["experiment=tiny"])
    train = section(TrainConfig, "train", ["experiment=tiny"])
    keys = [
        training_key(opened.stores, opened.splits, model, train)
        for opened in (open_training(Training("wide", (project,)), parts) for parts in (("train",), ("train",), ("train", "test")))
    ]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("part", ["validation", "unused"])
def test_other_parts_do_not_train(project, part):
    with pytest.raises(DataSetError, match=f"the part '{part}' cannot be trained on; choose train, or train and test"):
        open_training(Training("wide", (project,)), ("train", part))


def test_the_report_tells_the_parts_and_a_store_is_opened_once(project, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(TripletStore, "open", lambda folder, real=TripletStore.open: opened.append(folder) or real(folder))
    rows = pd.DataFrame({"candidate_id": [str(k) for k in range(12)], "source": [f"/d/night/{k}.avro" for k in range(12)]})
    alerts = Alerts(rows.assign(survey="ZTF", sign=1), np.random.default_rng(0).normal(size=(12, 3, 63, 63)).astype(np.float32))
    monkeypatch.setattr(command, "read_stamps", lambda paths: alerts)
    monkeypatch.setattr("astrid.registry.tracking.parent_run", lambda **_: "parent")
    counted = []

    def scores(training, model, train, read, *_):
        counted.append((training.name, train.seed, len(select(training.stores.table, training.splits, "train").rows)))
        return read.rows.assign(score=np.linspace(0.9, 0.1, 12))

    monkeypatch.setattr(command, "_trained_scores", scores)
    evidence(GROUPS).to_csv(tmp_path / "evidence.csv", index=False)
    sets = [Training("wide", (project,)), Training("both", (project, project))]
    transfer(sets, [tmp_path], tmp_path / "evidence.csv", tmp_path / "transfer.json", seeds=2, parts=("train", "test"))
    assert len(opened) == 3
    assert [(name, count) for name, _, count in counted] == [("wide", 14)] * 2 + [("both", 28)] * 2
    assert counted[1][1] == counted[0][1] + 1
    result = json.loads((tmp_path / "transfer.json").read_text())
    assert result["parts"] == ["train", "test"]
    assert [(one["name"], one["real"], one["bogus"]) for one in result["trainings"]] == [("wide", 7, 7), ("both", 14, 14)]
    assert "The rows of the part train and of the part test train;" in (tmp_path / "transfer.html").read_text()


@pytest.mark.parametrize(("options", "parts"), [([], ("train",)), (["--with-test-parts"], ("train", "test"))])
def test_the_test_parts_are_left_alone_unless_they_are_asked_for(project, monkeypatch, options, parts):
    given = {}
    monkeypatch.setattr(command, "transfer", lambda *_, **arguments: given.update(arguments))
    arguments = ["transfer", f"wide={project}", "--alerts", "x", "--evidence", "y", *options]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert given == {"seeds": 3, "parts": parts}

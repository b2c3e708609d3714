"""The stage judges what the model folder does on the frozen test rows: each planted fault closes its gate, and a sound model wins."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
import yaml

from astrid.core.errors import GateError, InputError
from astrid.core.provenance import digest_file
from astrid.export.folder import Artifact as FolderArtifact
from astrid.export.folder import ModelFacts, add_artifact, manifest, write_folder
from astrid.io.shards import ShardWriter, TripletStore
from astrid.io.tables import EVALUATED, SPLITS, TRIPLETS, write_table
from astrid.registry import lineage, promote, versions
from astrid.registry.decide import decide
from astrid.registry.gates import refused
from astrid.registry.store import client
from astrid.registry.versions import EVIDENCE
from astrid.serving.engine import ScoringEngine
from astrid.stages import register
from support.tiny_model import tiny_graph

ROWS = 160
MIDDLE, CORNER = (2, 27), (2, 5)  # channel and first pixel of the 9x9 window that a model looks at; the corner tells less


@pytest.fixture(scope="module")
def triplets(tmp_path_factory):
    """Half of the rows real: bright in the middle of the difference, and less surely so in its corner; dark ones are bogus."""
    rng = np.random.default_rng(5)
    label = np.arange(ROWS) // 2 % 2
    stamps = rng.normal(0, 1, (ROWS, 3, 63, 63)).astype(np.float32)
    for (channel, start), scatter in ((MIDDLE, 0.4), (CORNER, 1.2)):
        level = (2 * label - 1) + scatter * rng.normal(0, 1, ROWS)
        stamps[:, channel, start : start + 9, start : start + 9] += level[:, None, None]
    table = TRIPLETS.empty().reindex(range(ROWS))
    table["candidate_id"], table["event_id"] = [f"c{i:03d}" for i in range(ROWS)], [f"e{i // 2}" for i in range(ROWS)]
    table["label"], table["sign"], table["scorable"], table["tags"] = label, 1, True, [[] for _ in range(ROWS)]
    table["survey"], table["snr"] = np.where(np.arange(ROWS) // 4 % 2, "deep", "wide"), rng.uniform(5, 20, ROWS)
    table["host_dlr"], table["reference_snr"] = rng.uniform(0, 4, ROWS), rng.uniform(0, 60, ROWS)
    folder = tmp_path_factory.mktemp("store") / "triplets"
    with ShardWriter(folder, 64) as writer:
        writer.append(stamps, table)
    return folder


@pytest.fixture
def project(tmp_path, monkeypatch, triplets, registry_values):
    """A project in which everything before `register` has run; returns the name in the registry."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(triplets, "data/triplets")
    ids = TripletStore.open(register.TRIPLETS).table["candidate_id"]
    write_table(pd.DataFrame({"candidate_id": ids, "part": "test", "group_id": ""}), register.SPLITS_TABLE, SPLITS)
    name = f"stage-{tmp_path.name}"
    configure(registry_values, model_name=name)
    leaks = {"event": 0, "cell": 0, "exposure": 0, "stamp": 0}
    counts = {"test": {"real": ROWS // 2, "bogus": ROWS // 2, "unlabelled": 0}}
    digest = TripletStore.open(register.TRIPLETS).digest
    put("reports/split.json", {"strategy": "temporal", "triplets_digest": digest, "audit": {"leaks": leaks, "counts": counts}})
    trained()
    return name


def configure(values, **changes):
    put("params.yaml", {"registry": values | changes})


def put(path, content):
    register.write_json(Path(path), content)


def change(path, **changes):
    put(path, json.loads(Path(path).read_text()) | changes)


def report():
    return json.loads(register.REPORT.read_text())


def closed():
    return [name for name, gate in report()["gates"].items() if not gate["passed"]]


def looking_at(window):
    """The tiny graph with its 9x9 window elsewhere."""
    channel, start = window
    weights = np.zeros((3, 63, 63), np.float32)
    weights[channel, start : start + 9, start : start + 9] = 3 / 81
    graph = onnx.load_from_string(tiny_graph())
    initializer = next(one for one in graph.graph.initializer if one.name == "weights")
    initializer.CopyFrom(onnx.numpy_helper.from_array(weights.reshape(-1, 1), "weights"))
    return bytes(graph.SerializeToString())


def exported(window=MIDDLE, **changes):
    """models/export, as the stage export would leave it."""
    digests = {"triplets": TripletStore.open(register.TRIPLETS).digest, "splits": digest_file(register.SPLITS_TABLE), "training": "key"}
    facts = {
        "name": "tiny", "normalization": "asinh_noise.v1", "threshold": 0.2, "calibration": {"method": "platt", "slope": 30.0, "bias": 0.0},
        "metrics": {"test.aucpr": 0.9}, "digests": digests, "parity": {"largest_difference": 1e-7}, "frameworks": {},
    }  # fmt: skip
    graph = looking_at(window)
    write_folder(register.MODEL, manifest(ModelFacts(**facts | changes), graph), graph)


def trained(window=MIDDLE, **changes):
    """models/export, what evaluation says of it, and the lock file of a `dvc repro` that made both."""
    exported(window, **changes)
    store = TripletStore.open(register.TRIPLETS)
    found = ScoringEngine.load(register.MODEL, target="onnx").score(store.stamps(slice(None)))
    table = store.table[["candidate_id", "label"]].assign(part="test", score=found.calibrated, raw_score=found.raw.astype(float))
    write_table(table, register.SCORES, EVALUATED)
    put("models/evaluate/operating_point.json", {"threshold": 0.2, "interval": 0.9, "stream_prevalence": 0.01})
    put("reports/export.json", {"targets": {}, "left_out": {}})
    put("reports/evaluate.json", {"test.aucpr": 0.95, "test.aucpr_low": 0.93, "test.aucpr_high": 0.97, "test.rows": 160.0})
    locked()


def locked():
    outs = [{"path": path, "md5": lineage.dvc_digest(Path(path))} for path in register.PRODUCTS]
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"all": {"outs": outs}}}))


def test_a_good_model_becomes_the_champion_and_a_second_run_changes_nothing(project):
    register.main()
    first = (register.REPORT.read_bytes(), register.CARD.read_bytes())
    assert closed() == []
    assert report()["promoted"]
    assert set(report()["aliases"]) == {"candidate", "onnx-champion"}
    register.main()
    assert report()["version"] == 1
    assert (register.REPORT.read_bytes(), register.CARD.read_bytes()) == first
    version = versions.champion(project)
    assert version.number("astrid.aucpr") == pytest.approx(report()["gates"]["aucpr"]["measured"])
    assert version.tags["astrid.from.training"] == "key"
    assert version.tags["astrid.dirty"] == "True"
    assert [entry.action for entry in promote.settle(project).entries] == ["register", "promote"]


def test_the_version_keeps_its_evidence_its_lineage_and_its_card_with_pictures(project):
    for name in ("figures/gallery_missed.png", "export/losses_by_snr.png"):
        (register.CARD.parent / name).parent.mkdir(parents=True)
        (register.CARD.parent / name).write_bytes(name.encode())
    register.SLICES.parent.mkdir(parents=True, exist_ok=True)
    counts = {"rows": 80, "positives": 40, "negatives": 40}
    slices = {"slice": "survey", "group": "deep", "metric": "aucpr", "value": 0.9, "low": 0.8, "high": 0.95, **counts}
    pd.DataFrame([slices]).to_csv(register.SLICES)
    register.main()
    folder = versions.fetch(f"models:/{project}@onnx-champion")
    kept = json.loads((folder / EVIDENCE / "lineage.json").read_text())
    assert kept["digests"]["training"] == "key"
    assert len(pd.read_parquet(next((folder / EVIDENCE).glob("scores-*-onnx.parquet")))) == ROWS
    card, report = (folder / "card.md").read_text(), register.CARD.read_text()
    for words in ("| test | 80 | 80 | 0 | 160 | 80 |", "| AUCPR | 0.950 (0.930 to 0.970) |", "| deep | 40 | 40 | 0.900 (0.800 to 0.950) |",
                  "| leakage | 0 | 0 | passed", "- training: `key`", "`temporal`: cut in time", "Intervals hold 90 %"):  # fmt: skip
        assert words in card, words
    for text, place in ((card, folder), (report, register.CARD.parent)):
        links = re.findall(r"\]\((.*?)\)", text)
        assert [(place / link).read_bytes() for link in links] == [b"export/losses_by_snr.png", b"figures/gallery_missed.png"]
    assert client().get_model_version(project, "1").description.startswith("# tiny ")


def plant_worse():
    trained(CORNER)


def plant_leaks():
    change("reports/split.json", audit={"leaks": {"event": 2, "stamp": 1}})
    locked()


def plant_normalization():
    exported(normalization="l2.v1")
    locked()


def plant_calibration():
    exported(calibration={"method": "platt", "slope": 0.05, "bias": 1.5})
    locked()


def plant_channels():
    exported((0, 27))
    locked()


def plant_parity():
    trained(parity={"largest_difference": 0.1})


def plant_other_data():
    trained(digests={"triplets": "0" * 64, "splits": "", "training": "key"})


def plant_by_hand():
    (register.MODEL / "notes.txt").write_text("made by hand")


@pytest.mark.parametrize(
    ("plant", "gates"),
    [
        (plant_worse, {"champion aucpr"}),
        (plant_leaks, {"leakage"}),
        (plant_normalization, {"replay"}),
        (plant_calibration, {"replay", "calibration"}),
        (plant_channels, {"replay", "aucpr"}),
        (plant_parity, {"parity"}),
        (plant_other_data, {"data"}),
        (plant_by_hand, {"pipeline"}),
    ],
)
def test_a_planted_fault_is_refused_and_the_champion_stays(project, plant, gates):
    champion = None
    if plant is plant_worse:  # the one fault that only a champion shows
        register.main()
        champion = 1
    plant()
    with pytest.raises(GateError, match="is not promoted"):
        register.main()
    assert gates <= set(closed())
    assert not report()["promoted"]
    assert promote.settle(project).aliases.get("onnx-champion") == champion
    assert promote.settle(project).entries[-1].action == "refuse"


def test_without_a_lock_file_only_a_project_that_does_not_ask_for_one_promotes(project, registry_values):
    Path("dvc.lock").unlink()
    with pytest.raises(GateError, match=r"1 of \d+ gates refuse: there is no dvc.lock"):
        register.main()
    configure(registry_values, model_name=project, gates=registry_values["gates"] | {"pipeline": False})
    register.main()
    assert report()["promoted"]


def test_without_fatal_a_refused_model_stays_a_candidate(project, registry_values, caplog):
    configure(registry_values, model_name=project, fatal=False)
    plant_leaks()
    with caplog.at_level("WARNING", logger="astrid"):
        register.main()
    assert "stays a candidate" in caplog.text
    assert versions.champion(project) is None


def test_a_champion_from_other_test_rows_is_scored_on_these(project):
    trained(CORNER)
    configure_loosely(project)
    register.main()
    store = TripletStore.open(register.TRIPLETS).table
    part = np.where(np.arange(ROWS) < 120, "test", "train")
    write_table(pd.DataFrame({"candidate_id": store["candidate_id"], "part": part, "group_id": ""}), register.SPLITS_TABLE, SPLITS)
    trained()
    scores = pd.read_parquet(register.SCORES)
    write_table(scores.iloc[:120], register.SCORES, EVALUATED)
    locked()
    register.main()
    assert report()["promoted"]
    assert report()["gates"]["champion aucpr"]["measured"] > 0
    kept = [path.name for path in (versions.fetch(f"models:/{project}/1") / EVIDENCE).glob("scores-*")]
    assert len(kept) == 2


def configure_loosely(name):
    values = yaml.safe_load(Path("params.yaml").read_text())["registry"]
    loose = {"aucpr_floor": 0.0, "recall_floor": 0.0, "calibration_ece": 1.0}
    configure(values, model_name=name, gates=values["gates"] | loose)


def test_what_an_operator_rolled_back_is_not_promoted_again_by_itself(project):
    trained(CORNER)
    configure_loosely(project)
    register.main()
    trained()
    register.main()
    promote.rollback(promote.settle(project), "onnx", why="false alarms at night")
    with pytest.raises(GateError, match=r"rolled it back \(false alarms at night\); `astrid registry promote 2`"):
        register.main()
    assert closed() == ["rolled back"]
    assert versions.champion(project).version == 1


def integer_file(*, level=1.0, batch=1):
    """The network of the middle window in integers, its ranges measured on triplets of this brightness, 1 being their own."""
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed (extra `edge`), which writes and runs TFLite files")
    import torch

    from astrid.datasets.normalize import normalize
    from astrid.export import quantize, tflite
    from astrid.learning.graph import from_network

    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 63 * 63, 1))
    initializer = next(one for one in onnx.load_from_string(looking_at(MIDDLE)).graph.initializer if one.name == "weights")
    with torch.no_grad():
        network[1].weight.copy_(torch.from_numpy(onnx.numpy_helper.to_array(initializer).reshape(1, -1).copy()))
        network[1].bias.zero_()
    given = level * normalize(TripletStore.open(register.TRIPLETS).stamps(slice(None)), "asinh_noise.v1")
    integers = quantize.calibrate(from_network(network), [given], "asinh_noise.v1", "logit")
    return tflite.write_int8(integers, batch=batch)


def with_integer(content, calibrated=ROWS, batch=1):
    tensor = {"name": "logit", "kind": "logit", "shape": [batch, 1], "dtype": "int8"}
    quantization = {"calibration_stamps": calibrated}
    add_artifact(register.MODEL, FolderArtifact("model.int8.tflite", "tflite-int8", content, tensor, tensor, quantization, {}))
    locked()


@pytest.mark.parametrize(
    ("level", "calibrated", "gates"),
    [(1.0, ROWS, set()), (0.03, 0, {"aucpr loss", "ranges"})],
    ids=["calibrated", "quantised without calibration"],
)
def test_an_integer_artifact_is_measured_on_the_same_rows_and_takes_its_rung_when_it_is_sound(
    project, registry_config, level, calibrated, gates
):
    with_integer(integer_file(level=level), calibrated)
    register.main()
    one = versions.champion(project)
    outcome = decide(one, "edgetpu", replace(registry_config, model_name=project), why="a test")
    assert {gate.name for gate in refused(outcome.gates)} >= gates
    assert outcome.targets == (() if gates else ("tflite-int8",))
    measured = {gate.name: gate.measured for gate in outcome.gates}
    assert measured["operators"] == 0
    assert (measured["aucpr loss"] > 0.002) == bool(gates)


def test_an_integer_artifact_with_operators_that_the_edge_tpu_cannot_run_is_refused(project, registry_config):
    """A batch of eight moves the outermost dimension, which no operator of the Edge TPU may."""
    with_integer(integer_file(batch=8), batch=8)
    register.main()
    outcome = decide(versions.champion(project), "edgetpu", replace(registry_config, model_name=project), why="a test")
    assert [gate.name for gate in refused(outcome.gates)] == ["operators"]
    assert "operators that the Edge TPU cannot run: " in refused(outcome.gates)[0].sentence
    assert versions.standing(project).get("tflite-int8-champion") is None


def test_scores_of_rows_that_are_not_held_out_are_refused(project):
    splits = pd.read_parquet(register.SPLITS_TABLE)
    write_table(splits.assign(part=np.where(np.arange(ROWS) < 3, "train", "test")), register.SPLITS_TABLE, SPLITS)
    with pytest.raises(InputError, match="3 of 160 scored rows"):
        register.main()


def test_a_folder_of_an_older_export_is_refused(project):
    change("models/export/model.json", artifacts={})
    with pytest.raises(InputError, match="names no artifact for onnx; run the stage export again"):
        register.main()


def test_an_absent_report_names_its_stage(project):
    register.SPLIT.unlink()
    with pytest.raises(InputError, match=r"split\.json does not exist; run the stage split"):
        register.main()


@pytest.mark.parametrize(("content", "sentence"), [("{", "is not readable JSON"), ("[]", "holds no mapping")])
def test_a_damaged_report_is_refused(project, content, sentence):
    register.EVALUATION.write_text(content)
    with pytest.raises(InputError, match=sentence):
        register.main()

from __future__ import annotations

import dataclasses
import hashlib

import pytest

from astrid.core.errors import InputError
from astrid.core.provenance import digest_bytes
from astrid.export.folder import Artifact, ModelFacts, add_artifact, manifest, onnx_artifact, read_manifest, write_folder
from astrid.export.folder import card as write_card

FACTS = ModelFacts(
    name="astrid_cnn",
    normalization="l2.v1",
    threshold=0.125,
    calibration={"method": "platt", "slope": 1.0, "bias": 0.0},
    metrics={"test.aucpr": 0.98765432},
    digests={"triplets": "d1", "splits": "d2", "training": "d3"},
    parity={"largest_difference": 1e-7},
    frameworks={"torch": "2.13.0"},
)


def test_the_manifest_says_how_to_use_the_model():
    content = manifest(FACTS, b"graph")
    assert content["channel_order"] == ["science", "reference", "difference"]
    assert content["stamp_size"] == 63
    assert content["classes"] == ["bogus", "real"]
    assert "source is positive" in content["sign_convention"]
    assert content["files"] == {"model.onnx": digest_bytes(b"graph")}
    assert content["digest"].startswith(content["version"])


def test_the_version_follows_what_changes_a_decision_and_not_the_frameworks():
    version = manifest(FACTS, b"graph")["version"]
    same = dataclasses.replace(FACTS, frameworks={"torch": "3.0"}, parity={}, metrics={})
    others = [dataclasses.replace(FACTS, threshold=0.2), dataclasses.replace(FACTS, normalization="asinh_noise.v1")]
    assert manifest(same, b"graph")["version"] == version
    assert len({version, manifest(FACTS, b"other")["version"], *(manifest(one, b"graph")["version"] for one in others)}) == 4


def test_a_folder_holds_graph_manifest_and_card(tmp_path):
    content = manifest(FACTS, b"graph")
    write_folder(tmp_path / "model", content, b"graph")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["card.md", "model.json", "model.onnx"]
    assert read_manifest(tmp_path / "model") == content
    card = (tmp_path / "model" / "card.md").read_text()
    assert content["version"] in card
    assert "| aucpr | 0.987654 | – |" in card
    more = {"metrics": {"test.aucpr": 0.9, "test.aucpr_low": 0.8, "test.aucpr_high": 0.95, "baseline.aucpr": 0.5}}
    assert "| aucpr | 0.9 | 0.8 to 0.95 |" in write_card(content | more)
    assert "0.5" not in write_card(content | more)
    assert "Nothing recorded." in write_card(content | {"metrics": {}})
    assert "l2.v1" in card


def test_what_is_no_model_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist; run the stage export"):
        read_manifest(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(InputError, match="is not readable JSON"):
        read_manifest(tmp_path)
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(InputError, match="is not of the format astrid-model/1"):
        read_manifest(tmp_path)


INTEGER = Artifact(
    "model.int8.tflite",
    "tflite-int8",
    b"integers",
    {"name": "triplets", "shape": [1, 63, 63, 3]},
    {"kind": "logit"},
    {"calibration_stamps": 9},
    {"largest_difference": 0.02, "aucpr_loss": 0.001, "by_snr": [{"snr": "< 6", "rows": 3, "recall": None}]},
)


def test_artifacts_are_described_with_their_digests_and_leave_the_version_alone(tmp_path):
    content = manifest(FACTS, b"graph", [INTEGER])
    entry = content["artifacts"]["model.int8.tflite"]
    assert set(entry) == {"file", "target", "sha256", "bytes", "input", "output", "quantization", "parity"}
    assert entry["sha256"] == hashlib.sha256(b"integers").hexdigest()
    assert entry["bytes"] == 8
    assert content["artifacts"]["model.onnx"]["target"] == "onnx"
    assert content["version"] == manifest(FACTS, b"graph")["version"]
    write_folder(tmp_path, content, b"graph", [INTEGER])
    assert (tmp_path / "model.int8.tflite").read_bytes() == b"integers"
    card = (tmp_path / "card.md").read_text()
    assert "| `model.int8.tflite` | tflite-int8 | 8 | 0.02 | 0.001 | – |" in card
    assert "| < 6 | 3 | – |" in card


def test_an_artifact_comes_later_and_another_models_are_removed(tmp_path):
    write_folder(tmp_path, manifest(FACTS, b"graph"), b"graph")
    before = read_manifest(tmp_path)
    after = add_artifact(tmp_path, INTEGER)
    assert after == read_manifest(tmp_path)
    assert after["version"] == before["version"]
    assert set(after["artifacts"]) == {"model.onnx", "model.int8.tflite"}
    assert "model.int8.tflite" in (tmp_path / "card.md").read_text()
    write_folder(tmp_path, manifest(FACTS, b"other"), b"other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.md", "model.json", "model.onnx"]


def test_the_graph_is_not_replaced_and_an_unknown_target_is_refused(tmp_path):
    write_folder(tmp_path, manifest(FACTS, b"graph"), b"graph")
    with pytest.raises(InputError, match=r"model\.onnx is what the model's version is made of"):
        add_artifact(tmp_path, onnx_artifact(b"other"))
    with pytest.raises(InputError, match="'abacus' is no target of a model folder"):
        add_artifact(tmp_path, dataclasses.replace(INTEGER, target="abacus"))
    assert not (tmp_path / "model.int8.tflite").exists()

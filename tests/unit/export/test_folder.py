from __future__ import annotations

import dataclasses

import pytest

from astrid.core.errors import InputError
from astrid.core.provenance import digest_bytes
from astrid.export.folder import ModelFacts, manifest, read_manifest, write_folder

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
    assert "| test.aucpr | 0.987654 |" in card
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

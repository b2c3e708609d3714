"""A version is kept whole, found by number or alias, and known by what makes its scores."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from astrid.core.errors import RegistryError
from astrid.registry import promote, versions
from astrid.registry.store import client, load_mlflow
from support.registry import each_store, evidence, put
from support.tiny_model import write_tiny_model

NAME = "kept"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("m"), threshold=0.31)


def test_nothing_is_registered_at_first():
    assert versions.list_models("nobody").empty
    assert versions.champion("nobody") is None
    with pytest.raises(RegistryError, match="nothing is registered as nobody yet"):
        promote.settle("nobody")


@each_store
def test_a_version_has_the_models_own_bytes_and_mlflow_loads_it_too(model):
    one = put(model, evidence(), NAME)
    assert one.aliases == ("candidate",)
    assert one.number("astrid.aucpr") == 0.97
    assert np.isnan(one.number("astrid.nothing"))
    folder = versions.fetch(f"models:/{NAME}@candidate")
    for name in ("model.onnx", "model.json", "card.md"):
        assert (folder / name).read_bytes() == (model / name).read_bytes()
    loaded = load_mlflow().pyfunc.load_model(one.uri)
    out = loaded.predict({"triplets": np.zeros((2, 3, 63, 63), np.float32)})["raw_score"]
    np.testing.assert_allclose(out, 0.5)


@each_store
def test_the_same_model_is_registered_once_and_its_tags_are_brought_up_to_date(model):
    first = put(model, evidence(), NAME)
    again = put(model, evidence(threshold=0.7), NAME)
    assert again.version == first.version
    assert again.number("astrid.threshold") == 0.7
    table = versions.list_models(NAME)
    assert table["version"].is_unique
    assert table["digest"].iloc[-1] == versions.model_digest(model)[:12]


@each_store
def test_a_version_is_found_by_number_and_by_alias(model):
    one = put(model, evidence(), NAME)
    assert versions.find(NAME, "candidate").version == versions.find(NAME, str(one.version)).version == one.version
    with pytest.raises(RegistryError, match=r"has no alias 'champion' \(it has candidate\)"):
        versions.find(NAME, "champion")
    with pytest.raises(RegistryError, match="kept has no version 99; `astrid registry list`"):
        versions.find(NAME, "99")


@each_store
def test_a_long_description_is_kept_by_every_store(model):
    one = put(model, evidence(), NAME)
    versions.describe(one, "d" * 5000)
    assert client().get_model_version(NAME, str(one.version)).description == "d" * 5000


def test_what_is_compiled_later_leaves_a_model_what_it_is(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "m")
    before = versions.model_digest(folder)
    content = json.loads((folder / "model.json").read_text())
    content["artifacts"]["model_edgetpu.tflite"] = {"file": "model_edgetpu.tflite", "target": "edgetpu"}
    (folder / "model.json").write_text(json.dumps(content))
    assert versions.model_digest(folder) == before
    content["artifacts"]["model.int8.tflite"] = {"file": "model.int8.tflite", "target": "tflite-int8"}
    (folder / "model.json").write_text(json.dumps(content))
    assert versions.model_digest(folder) != before


def test_unknown_uris_and_incomplete_folders_are_refused(model, tmp_path):
    with pytest.raises(RegistryError, match="names no registered model"):
        versions.fetch("models:/nobody@onnx-champion")
    shutil.copy(model / "model.json", tmp_path)
    with pytest.raises(RegistryError, match=r"model\.onnx is not in it"):
        versions.model_digest(tmp_path)

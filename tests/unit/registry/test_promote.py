import shutil

import numpy as np
import pytest

from astrid.core.errors import RegistryError
from astrid.registry import promote
from astrid.registry.gates import Gate
from astrid.registry.store import load_mlflow
from astrid.registry.tracking import resume_run
from support.tiny_model import write_tiny_model

OPEN = (Gate("aucpr", 0.9, 0.8, True, "fine."),)
SHUT = (Gate("aucpr", 0.7, 0.8, False, "the AUCPR on test is 0.7, below 0.8."),)
NAME = "tiny"


def put(folder, key="training", **tags):
    with resume_run(key) as run:
        return promote.register(folder, run, tags=tags, name=NAME)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return [write_tiny_model(tmp_path_factory.mktemp("m"), threshold=value) for value in (0.5, 0.6)]


def test_nothing_is_registered_at_first():
    assert promote.list_models("nobody").empty
    assert promote.champion("nobody") is None


def test_register_promote_and_succeed(models):
    first = put(models[0], **{"astrid.aucpr": 0.9, "astrid.threshold": 0.5})
    assert first.aliases == ("candidate",)
    assert first.number("astrid.aucpr") == 0.9
    assert np.isnan(first.number("astrid.nothing"))
    promoted = promote.promote(first, OPEN)
    assert set(promoted.aliases) == {"candidate", "onnx-champion"}

    again = put(models[0], **{"astrid.aucpr": 0.9})
    assert again.version == first.version
    assert promote.promote(again, OPEN).aliases == promoted.aliases
    assert len(promote.list_models(NAME)) == 1

    second = put(models[1], **{"astrid.aucpr": 0.95})
    assert second.version == first.version + 1
    with pytest.raises(RegistryError, match=r"is not promoted: the AUCPR on test is 0\.7"):
        promote.promote(second, SHUT)
    assert promote.champion(NAME).version == first.version
    promote.promote(second, OPEN)
    assert promote.champion(NAME).version == second.version
    table = promote.list_models(NAME)
    assert list(table["version"]) == [second.version, first.version]
    assert table["aliases"][0] == "candidate, onnx-champion"
    assert table["aliases"][1] == "previous-onnx-champion"
    assert table["aucpr"][0] == 0.95
    assert table["digest"][1] == promote.model_digest(models[0])[:12]


def test_the_fetched_folder_has_the_models_own_bytes_and_mlflow_can_load_it_too(models):
    version = put(models[0])
    promote.promote(version, OPEN)
    folder = promote.fetch(f"models:/{NAME}@onnx-champion")
    for name in ("model.onnx", "model.json", "card.md"):
        assert (folder / name).read_bytes() == (models[0] / name).read_bytes()
    loaded = load_mlflow().pyfunc.load_model(f"models:/{NAME}@onnx-champion")
    out = loaded.predict({"triplets": np.zeros((2, 3, 63, 63), np.float32)})["probability"]
    np.testing.assert_allclose(out, 0.5)


def test_a_description_is_kept(models):
    from astrid.registry.store import client

    version = put(models[0])
    promote.describe(version, "# card")
    assert client().get_model_version(NAME, str(version.version)).description == "# card"


def test_unknown_uris_and_incomplete_folders_are_refused(models, tmp_path):
    with pytest.raises(RegistryError, match="names no registered model"):
        promote.fetch("models:/nobody@onnx-champion")
    shutil.copy(models[0] / "model.json", tmp_path)
    with pytest.raises(RegistryError, match=r"model\.onnx is not in it"):
        promote.model_digest(tmp_path)

"""Export of a small trained network: the model folder, its gate, and what the stage refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml

from astrid.config.schema import ModelConfig
from astrid.core.errors import GateError, InputError
from astrid.core.provenance import digest_file
from astrid.core.runtime import write_json
from astrid.export import folder
from astrid.io.shards import ShardWriter
from astrid.io.tables import TRIPLETS
from astrid.learning import models
from astrid.stages import export

ROOT = Path(__file__).parents[3]
POINT = Path("models/evaluate/operating_point.json")


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    cfg = ModelConfig(name="astrid_cnn", normalization="asinh_noise.v1", width=2, dense=4, conv_dropout=0.0, dropout=0.5)
    weights = Path("models/train/model.pt")
    weights.parent.mkdir(parents=True)
    weights.write_bytes(models.dump(models.build(cfg), cfg))
    write_json(Path("models/train/train.json"), {"key": "k", "digests": {"triplets": "t", "splits": "s"}})
    calibration = {"method": "platt", "slope": 2.0, "bias": 0.5}
    metrics = {"test.aucpr": 0.9}
    write_json(POINT, {"threshold": 0.25, "calibration": calibration, "metrics": metrics, "model_digest": digest_file(weights)})
    table = TRIPLETS.empty().reindex(range(12))
    table["candidate_id"] = [f"p:{number}" for number in range(12)]
    table["label"], table["sign"], table["scorable"], table["tags"] = 1, 1, True, [[] for _ in range(12)]
    with ShardWriter(Path("data/triplets"), 8) as writer:
        writer.append(np.random.default_rng(0).standard_normal((12, 3, 63, 63)).astype(np.float32), table)
    configure()
    return tmp_path


def configure(limit: float = 1e-5) -> None:
    values = yaml.safe_load((ROOT / "conf/export/onnx.yaml").read_text()) | {"seed": 1}
    values["parity"]["limit"] = limit
    Path("params.yaml").write_text(yaml.safe_dump({"export": values}))


def test_the_model_folder_is_complete_and_repeats(project):
    export.main()
    manifest = folder.read_manifest(project / "models/export")
    assert manifest["threshold"] == 0.25
    assert manifest["calibration"] == {"method": "platt", "slope": 2.0, "bias": 0.5}
    assert manifest["data"] == {"triplets": "t", "splits": "s", "training": "k", "network": digest_file(project / "models/train/model.pt")}
    assert manifest["metrics"] == {"test.aucpr": 0.9}
    assert set(manifest["frameworks"]) >= {"torch", "onnxruntime"}
    properties = {one.key: one.value for one in onnx.load(project / "models/export/model.onnx").metadata_props}
    assert properties["astrid.normalization"] == "asinh_noise.v1"
    assert json.loads(properties["astrid.threshold"]) == 0.25
    report = json.loads((project / "reports/export.json").read_text())
    assert report["largest_difference"] <= 1e-5
    assert report["differences"]["triplets"] <= 1e-5
    assert report["version"] == manifest["version"]
    first = {path.name: path.read_bytes() for path in (project / "models/export").iterdir()}
    export.main()
    assert {path.name: path.read_bytes() for path in (project / "models/export").iterdir()} == first


def test_the_engine_scores_the_folder_like_the_network(project):
    from astrid.learning.predict import predict
    from astrid.serving.engine import ScoringEngine

    export.main()
    network, cfg = models.load(Path("models/train/model.pt").read_bytes(), source="model.pt")
    stamps = np.random.default_rng(5).standard_normal((4, 3, 63, 63)).astype(np.float32)
    scores = ScoringEngine.load(project / "models/export").score(stamps)
    np.testing.assert_allclose(scores.raw, predict(network, stamps, cfg.normalization), atol=1e-6)


def test_a_network_outside_the_limit_is_not_exported(project, monkeypatch):
    configure(limit=1e-30)
    from astrid.export import parity

    agreeing = parity.onnx_scorer
    monkeypatch.setattr(parity, "onnx_scorer", lambda content, name: lambda stamps: agreeing(content, name)(stamps) + np.float32(1e-3))
    with pytest.raises(GateError, match=r"model\.onnx differs from the network by .* limit 1e-30"):
        export.main()
    assert not (project / "models/export").exists()


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("models/train/train.json", "run the stage train"),
        ("models/train/model.pt", "run the stage train"),
        ("models/evaluate/operating_point.json", "run the stage evaluate"),
    ],
)
def test_a_missing_input_is_named(project, path, sentence):
    Path(path).unlink()
    with pytest.raises(InputError, match=f"{path} does not exist; {sentence}"):
        export.main()


def test_an_unreadable_or_foreign_operating_point_is_refused(project):
    point = json.loads(POINT.read_text())
    write_json(POINT, {**point, "model_digest": "other"})
    with pytest.raises(InputError, match="was made for another network"):
        export.main()
    POINT.write_text("{")
    with pytest.raises(InputError, match="is not readable JSON"):
        export.main()

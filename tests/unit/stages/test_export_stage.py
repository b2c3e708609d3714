"""Export of a small trained network: the model folder, its gate, and what the stage refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
import yaml

from astrid.config.schema import ModelConfig
from astrid.core.errors import GateError, InputError
from astrid.core.provenance import digest_file
from astrid.core.runtime import write_json
from astrid.export import folder
from astrid.io.shards import ShardWriter
from astrid.io.tables import SPLITS, TRIPLETS, write_table
from astrid.learning import models
from astrid.stages import export

ROOT = Path(__file__).parents[3]
POINT = Path("models/evaluate/operating_point.json")
ROWS = 24
REAL = ROWS // 3 // 2  # of a part


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
    table = TRIPLETS.empty().reindex(range(ROWS))
    table["candidate_id"] = [f"p:{number}" for number in range(ROWS)]
    table["event_id"] = [f"e{number // 2}" for number in range(ROWS)]
    table["label"], table["sign"], table["scorable"], table["tags"] = np.arange(ROWS) % 2, 1, True, [[] for _ in range(ROWS)]
    table["snr"] = np.linspace(5, 30, ROWS)
    with ShardWriter(Path("data/triplets"), 8) as writer:
        writer.append(np.random.default_rng(0).standard_normal((ROWS, 3, 63, 63)).astype(np.float32), table)
    splits = pd.DataFrame({"candidate_id": table["candidate_id"], "part": np.repeat(["train", "validation", "test"], ROWS // 3)})
    write_table(splits.assign(group_id="g"), Path("data/splits/splits.parquet"), SPLITS)
    configure()
    return tmp_path


def configure(limit: float = 1e-5, **changed: Any) -> None:
    """The stage's own settings, with fewer stamps and no training; `changed` replaces entries of sections."""
    values = yaml.safe_load((ROOT / "conf/export/onnx.yaml").read_text()) | {"seed": 1}
    values["parity"] |= {"limit": limit, "stamps": 20, "hostile": 2, "damaged": 3}
    values["compare"] |= {"replicates": 20, "latency_batches": [1, 4], "latency_turns": 2}
    values["integer"]["plane"] = {"snr_edges": [], "light_edges": [], "share": 0.0, "least": 1}
    values["integer"]["tuning"]["steps"] = 0
    for name, entries in changed.items():
        values[name] |= entries
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


def test_every_target_is_measured_against_the_network_and_by_snr(project):
    pytest.importorskip("ai_edge_litert", reason="the integer TFLite artifact is written with ai-edge-litert")
    configure(onnx_int8={"aucpr_loss": 1.0, "recall_loss": 1.0})
    export.main()
    report = json.loads((project / "reports/export.json").read_text())
    assert set(report["targets"]) == {"onnx", "onnx-int8", "tflite-int8"}
    manifest = folder.read_manifest(project / "models/export")
    assert set(manifest["artifacts"]) == {"model.onnx", "model.int8.onnx", "model.int8.tflite", "model.int8.b8.tflite"}
    for numbers in report["targets"].values():
        assert numbers["rows"] == ROWS // 3
        assert sum(record["rows"] for record in numbers["by_snr"]) == ROWS // 3
        assert {"aucpr", "aucpr_low", "aucpr_loss", "recall", "recall_loss", "largest_difference", "bytes"} <= set(numbers)
        assert numbers["stamps"] == 20 + 13 * 2 + 5 * 3
        entry = manifest["artifacts"][numbers["file"]]
        assert entry["parity"]["largest_difference"] == numbers["largest_difference"]
        assert "latency_ratio" not in entry["parity"]  # a time is no property of a model
    assert report["targets"]["onnx"]["aucpr_loss"] == pytest.approx(0, abs=1e-9)
    assert set(report["targets"]["onnx-int8"]["latency_ratio"]) == {"batch_1", "batch_4"}
    assert manifest["artifacts"]["model.int8.onnx"]["quantization"]["calibration_stamps"] == ROWS // 3
    assert manifest["artifacts"]["model.int8.tflite"]["quantization"]["validation_loss"]["real"] == REAL
    assert (project / "reports/export/losses_by_snr.png").read_bytes().startswith(b"\x89PNG")


def test_an_integer_artifact_that_cannot_be_made_or_loses_too_much_is_left_out_and_the_graph_is_not(project, monkeypatch):
    from astrid.export import compare

    monkeypatch.setattr(compare, "within", lambda comparison, **limits: f"it loses a lot, and {limits['aucpr']:.4f} is allowed")
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    (project / "reports/export").mkdir(parents=True)
    (project / "reports/export/losses_by_snr.png").write_bytes(b"of an earlier model")
    export.main()
    report = json.loads((project / "reports/export.json").read_text())
    assert set(report["targets"]) == {"onnx"}
    assert report["left_out"]["onnx-int8"] == "it loses a lot, and 0.0020 is allowed"
    assert "ai-edge-litert is not installed" in report["left_out"]["tflite-int8"]
    assert sorted(path.name for path in (project / "models/export").iterdir()) == ["card.md", "model.json", "model.onnx"]
    assert list((project / "reports/export").iterdir()) == []


def test_a_training_part_that_leaves_the_plane_bare_makes_no_integer_artifact(project):
    plane = {"snr_edges": [10.0, 20.0], "light_edges": [], "share": 0.0, "least": 1}
    values = yaml.safe_load(Path("params.yaml").read_text())["export"]["integer"]
    configure(integer={**values, "plane": plane})
    export.main()
    left_out = json.loads((project / "reports/export.json").read_text())["left_out"]
    assert set(left_out) == {"onnx-int8", "tflite-int8"}
    assert "do not cover the S/N plane" in left_out["onnx-int8"]


def test_a_network_outside_the_limit_is_not_exported(project, monkeypatch):
    configure(limit=1e-30)
    from astrid.export import parity

    agreeing = parity.onnx_scorer

    def shifted(content, name, threads=0):
        return lambda stamps: agreeing(content, name)(stamps) + np.float32(1e-3)

    monkeypatch.setattr(parity, "onnx_scorer", shifted)
    with pytest.raises(GateError, match=r"model\.onnx differs from the network by .* limit 1e-30"):
        export.main()
    assert not (project / "models/export").exists()


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("models/train/train.json", "run the stage train"),
        ("models/train/model.pt", "run the stage train"),
        ("models/evaluate/operating_point.json", "run the stage evaluate"),
        ("data/splits/splits.parquet", "run the stage"),
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

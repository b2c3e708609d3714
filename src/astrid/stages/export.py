"""Stage export: the trained network as an ONNX model folder, behind the gate of agreement."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from astrid.config.params import settings
from astrid.config.schema import ExportConfig
from astrid.core.errors import InputError
from astrid.core.provenance import digest_file
from astrid.core.runtime import log, rng_for, write_json
from astrid.io.shards import TripletStore
from astrid.stages.common import run

if TYPE_CHECKING:
    from torch import nn

    from astrid.export.parity import Parity

TRIPLETS = Path("data/triplets")
TRAINED = Path("models/train")
OPERATING_POINT = Path("models/evaluate/operating_point.json")
FOLDER = Path("models/export")
REPORT = Path("reports/export.json")

_FRAMEWORKS = ("torch", "onnx", "onnxruntime", "onnxscript")


def main() -> None:
    """Read models/train, models/evaluate and data/triplets; write models/export and reports/export.json.

    Nothing is written when ONNX Runtime and torch disagree by more than the configured limit.
    """
    from astrid.export import folder, parity
    from astrid.export.onnx import to_onnx
    from astrid.learning import models

    cfg = settings(ExportConfig, "export")
    trained, point = _read(TRAINED / "train.json", "train"), _read(OPERATING_POINT, "evaluate")
    weights = TRAINED / "model.pt"
    if not weights.is_file():
        raise InputError(f"{weights} does not exist; run the stage train.")
    if point.get("model_digest", "") != digest_file(weights):
        raise InputError(f"{OPERATING_POINT} was made for another network than {weights}; run the stage evaluate again.")
    network, model_cfg = models.load(weights.read_bytes(), source=str(weights))
    metadata = _metadata(model_cfg.normalization, trained, point)
    content = to_onnx(network, opset=cfg.opset, metadata=metadata)
    measured = measure(network, content, model_cfg.normalization, cfg)
    parity.gate(measured, cfg.parity.limit, artifact=folder.ONNX_FILE)
    agreement = {"largest_difference": measured.largest, "worst_case": measured.worst, "limit": cfg.parity.limit, "stamps": measured.stamps}
    facts = folder.ModelFacts(
        name=model_cfg.name,
        normalization=model_cfg.normalization,
        threshold=float(point["threshold"]),
        calibration=point["calibration"],
        metrics=point.get("metrics", {}),
        digests={**trained["digests"], "training": trained["key"], "network": digest_file(TRAINED / "model.pt")},
        parity=agreement,
        frameworks={name: importlib.metadata.version(name) for name in _FRAMEWORKS},
    )
    manifest = folder.manifest(facts, content)
    folder.write_folder(FOLDER, manifest, content)
    write_json(REPORT, {**agreement, "differences": measured.differences, "bytes": len(content), "version": manifest["version"]})
    log.info("export: %s %s agrees within %.1e on %d stamps", model_cfg.name, manifest["version"], measured.largest, measured.stamps)


def measure(network: nn.Module, content: bytes, normalization_id: str, cfg: ExportConfig) -> Parity:
    """The agreement of the graph with the network on triplets drawn from the store and on hostile stamps."""
    from astrid.export import parity
    from astrid.export.onnx import INPUT
    from astrid.learning.predict import probabilities

    store = TripletStore.open(TRIPLETS)
    rng = rng_for(cfg.seed, "export", "parity")
    real = store.stamps(parity.draw(len(store), cfg.parity.stamps, rng))
    cases = parity.normalized_cases({"triplets": real, **parity.hostile_stamps(rng)}, normalization_id) | parity.hostile_inputs(rng)

    def score(stamps: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        return probabilities(network, [stamps])

    return parity.compare(score, parity.onnx_scorer(content, INPUT), cases, batch=cfg.parity.batch)


def _metadata(normalization_id: str, trained: dict[str, Any], point: dict[str, Any]) -> dict[str, str]:
    """What the ONNX file itself says, for a consumer that has lost its folder."""
    from astrid.datasets.normalize import CHANNELS
    from astrid.export.folder import CLASSES, SIGN_CONVENTION

    values = {
        "normalization": normalization_id,
        "channels": list(CHANNELS),
        "classes": list(CLASSES),
        "sign_convention": SIGN_CONVENTION,
        "threshold": point["threshold"],
        "calibration": point["calibration"],
        "digests": {**trained["digests"], "training": trained["key"], "network": digest_file(TRAINED / "model.pt")},
    }
    return {f"astrid.{name}": value if isinstance(value, str) else json.dumps(value, sort_keys=True) for name, value in values.items()}


def _read(path: Path, stage: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; run the stage {stage}.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not readable JSON ({error}); run the stage {stage} again.") from error
    return content


if __name__ == "__main__":
    run(main)

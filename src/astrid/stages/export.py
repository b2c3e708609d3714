"""Stage export: the trained network as a model folder: the ONNX graph behind the gate of agreement, and the integer artifacts."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from astrid.config.params import settings
from astrid.config.schema import ExportConfig
from astrid.core.errors import ConfigError, DataSetError, InputError, MissingDependencyError
from astrid.core.provenance import digest_file
from astrid.core.runtime import log, rng_for, write_bytes, write_json
from astrid.io.shards import TripletStore
from astrid.io.tables import SPLITS, read_table
from astrid.stages.common import prune, run

if TYPE_CHECKING:
    from torch import nn

    from astrid.export.folder import Artifact
    from astrid.export.measure import Bench, Measured
    from astrid.export.parity import Scorer, Stamps
    from astrid.learning.loader import Part

TRIPLETS = Path("data/triplets")
SPLIT = Path("data/splits/splits.parquet")
TRAINED = Path("models/train")
OPERATING_POINT = Path("models/evaluate/operating_point.json")
FOLDER = Path("models/export")
REPORT = Path("reports/export.json")
FIGURES = Path("reports/export")

_FRAMEWORKS = ("torch", "onnx", "onnxruntime", "onnxscript")
_UNABLE = (ConfigError, DataSetError, MissingDependencyError)  # why an integer artifact cannot be made of this model, here


@dataclass(frozen=True, eq=False)
class Inputs:
    """What the stage reads."""

    network: nn.Module
    name: str
    normalization: str
    trained: Mapping[str, Any]
    point: Mapping[str, Any]
    digests: Mapping[str, str]
    parts: Mapping[str, Part]  # train, validation, test
    bench: Bench


@dataclass(frozen=True, eq=False)
class Candidates:
    """The integer artifacts with their scorers, and the sentences of those that could not be made, by target."""

    artifacts: Mapping[str, tuple[Artifact, Scorer]]  # by file
    left_out: dict[str, str]


def main() -> None:
    """Read models/train, models/evaluate, data/triplets and data/splits; write models/export, reports/export.json and reports/export.

    Nothing is written when ONNX Runtime and torch disagree by more than the configured limit. An integer artifact that cannot be made
    or loses too much is left out, and the report says why.
    """
    from astrid.export import folder, measure, parity
    from astrid.export.onnx import INPUT, to_onnx

    cfg = settings(ExportConfig, "export")
    inputs = read_inputs(cfg)
    content = to_onnx(inputs.network, opset=cfg.opset, metadata=_metadata(inputs), optimize=cfg.optimize)
    reference = parity.onnx_scorer(content, INPUT, threads=1)
    candidates = make_integers(inputs, content, cfg)
    scorers = {name: scorer for name, (_, scorer) in candidates.artifacts.items()}
    measured = measure.measure(inputs.bench, inputs.parts["test"], {folder.ONNX_FILE: reference, **scorers}, cfg)
    agreement = measured[folder.ONNX_FILE].parity
    parity.gate(agreement, cfg.parity.limit, artifact=folder.ONNX_FILE)
    kept = [replace(made, parity=measured[name].record()) for name, (made, _) in candidates.artifacts.items()]
    kept = [artifact for artifact in kept if not _refused(artifact, measured[artifact.file], candidates.left_out, cfg)]
    facts = folder.ModelFacts(
        name=inputs.name,
        normalization=inputs.normalization,
        threshold=inputs.bench.threshold,
        calibration=inputs.bench.calibration,
        metrics=inputs.point.get("metrics", {}),
        digests=inputs.digests,
        parity=measured[folder.ONNX_FILE].record() | {"limit": cfg.parity.limit},
        frameworks={name: importlib.metadata.version(name) for name in _FRAMEWORKS},
    )
    manifest = folder.manifest(facts, content, kept)
    folder.write_folder(FOLDER, manifest, content, kept)
    ratios = measure.times(inputs.bench, {artifact.file: scorers[artifact.file] for artifact in kept}, reference, cfg)
    write_json(REPORT, report(manifest, measured, ratios, candidates.left_out))
    write_figure(manifest, cfg)
    log.info("export: %s %s agrees within %.1e on %d stamps", inputs.name, manifest["version"], agreement.largest, agreement.stamps)
    log.info("export: %s", ", ".join(f"{name} ({entry['bytes'] / 1e6:.1f} MB)" for name, entry in manifest["artifacts"].items()))


def read_inputs(cfg: ExportConfig) -> Inputs:
    """Read and check what the stages before left. Raises `InputError` naming the first file that is missing or does not fit."""
    from astrid.export.measure import Bench
    from astrid.learning import models
    from astrid.learning.loader import select
    from astrid.learning.predict import probabilities

    trained, point = _read(TRAINED / "train.json", "train"), _read(OPERATING_POINT, "evaluate")
    weights = TRAINED / "model.pt"
    if not weights.is_file():
        raise InputError(f"{weights} does not exist; run the stage train.")
    digest = digest_file(weights)
    if point.get("model_digest", "") != digest:
        raise InputError(f"{OPERATING_POINT} was made for another network than {weights}; run the stage evaluate again.")
    network, model_cfg = models.load(weights.read_bytes(), source=str(weights))
    store = TripletStore.open(TRIPLETS)
    splits = read_table(SPLIT, SPLITS)

    def score(stamps: Stamps) -> np.ndarray[Any, np.dtype[np.float32]]:
        return probabilities(network, [stamps])

    return Inputs(
        network=network,
        name=model_cfg.name,
        normalization=model_cfg.normalization,
        trained=trained,
        point=point,
        digests={**trained["digests"], "training": trained["key"], "network": digest},
        parts={name: select(store.table, splits, name) for name in ("train", "validation", "test")},
        bench=Bench(store, score, model_cfg.normalization, point["calibration"], float(point["threshold"]), cfg.parity.batch),
    )


def make_integers(inputs: Inputs, content: bytes, cfg: ExportConfig) -> Candidates:
    """The integer artifacts of the network: int8 ONNX, and full-integer TFLite for every size of batch.

    Both are calibrated on the same triplets of the training part, drawn over the S/N plane.
    """
    from astrid.export import quantize

    table, rng = inputs.bench.store.table, rng_for(cfg.seed, "export", "calibration")
    made: dict[str, tuple[Artifact, Scorer]] = {}
    left_out: dict[str, str] = {}
    try:
        drawn = quantize.draw_over_plane(table, inputs.parts["train"].rows, cfg.integer.stamps, cfg.integer.plane, rng)
    except DataSetError as error:
        log.warning("export: no integer artifact is made: %s", error)
        return Candidates({}, {"onnx-int8": str(error), "tflite-int8": str(error)})
    stamps = np.concatenate(list(inputs.bench.triplets(drawn.rows)))
    for target, make in (("onnx-int8", _onnx_int8), ("tflite-int8", _tflite_int8)):
        try:
            made |= make(inputs, content, drawn, stamps, cfg)
        except _UNABLE as error:
            log.warning("export: no %s artifact is made: %s", target, error)
            left_out[target] = str(error)
    return Candidates(made, left_out)


def _onnx_int8(inputs: Inputs, content: bytes, drawn: Any, stamps: Stamps, cfg: ExportConfig) -> dict[str, tuple[Artifact, Scorer]]:
    from astrid.export import folder, parity
    from astrid.export.onnx import INPUT
    from astrid.export.onnx_int8 import describe_quantization, quantize_onnx

    size = inputs.bench.batch
    integers = quantize_onnx(content, (stamps[at : at + size] for at in range(0, len(stamps), size)), input_name=INPUT)
    artifact = folder.onnx_artifact(integers, target="onnx-int8", quantization=describe_quantization(integers, len(drawn.rows)))
    return {artifact.file: (artifact, parity.onnx_scorer(integers, INPUT, threads=1))}


def _tflite_int8(inputs: Inputs, _: bytes, drawn: Any, stamps: Stamps, cfg: ExportConfig) -> dict[str, tuple[Artifact, Scorer]]:
    from astrid.export import integer, tflite
    from astrid.export.measure import losses

    training = inputs.parts["train"].rows

    def draw(count: int, rng: np.random.Generator) -> Stamps:
        rows = np.sort(rng.choice(training, count, replace=count > len(training)))
        return np.concatenate(list(inputs.bench.triplets(rows)))

    built = integer.build(
        inputs.network,
        inputs.normalization,
        drawn=drawn,
        stamps=stamps,
        draw=draw,
        loss=lambda scorer: losses(inputs.bench, inputs.parts["validation"], scorer),
        cfg=cfg.integer,
        rng=rng_for(cfg.seed, "export", "tuning"),
    )
    return {artifact.file: (artifact, tflite.scorer(artifact.content)) for artifact in built.artifacts}


def report(
    manifest: Mapping[str, Any], measured: Mapping[str, Measured], ratios: Mapping[str, Mapping[str, float]], left_out: Mapping[str, str]
) -> dict[str, Any]:
    """What reports/export.json says: the graph's agreement case by case, and every target's numbers (its first file's)."""
    graph = manifest["artifacts"]["model.onnx"]
    targets: dict[str, Any] = {}
    for name, entry in sorted(manifest["artifacts"].items(), key=lambda item: (len(item[0]), item[0])):
        numbers = {"file": name, "bytes": entry["bytes"], **entry["parity"]}
        targets.setdefault(entry["target"], numbers | ({"latency_ratio": dict(ratios[name])} if name in ratios else {}))
    return {
        **{name: manifest["parity"][name] for name in ("largest_difference", "worst_case", "limit", "stamps")},
        "differences": measured["model.onnx"].parity.differences,
        "bytes": graph["bytes"],
        "version": manifest["version"],
        "targets": targets,
        "left_out": dict(left_out),
    }


def write_figure(manifest: Mapping[str, Any], cfg: ExportConfig) -> None:
    """Draw what the integer targets lose by S/N into reports/export; nothing where there is none."""
    from astrid.evaluation.style import png_bytes
    from astrid.export.figure import LOSSES_FILE, by_target, losses_by_snr

    losses = by_target(manifest["artifacts"])
    FIGURES.mkdir(parents=True, exist_ok=True)
    prune(FIGURES, [FIGURES / LOSSES_FILE] if losses else [])
    if losses:
        limits = {"recall_loss": cfg.onnx_int8.recall_loss, "aucpr_loss": cfg.onnx_int8.aucpr_loss}
        write_bytes(FIGURES / LOSSES_FILE, png_bytes(losses_by_snr(losses, limits)))


def _refused(artifact: Artifact, measured: Measured, left_out: dict[str, str], cfg: ExportConfig) -> bool:
    """Whether the int8 ONNX artifact loses too much; the TFLite one is judged by the registry's gates."""
    from astrid.export.compare import within

    if artifact.target != "onnx-int8":
        return False
    sentence = within(measured.comparison, aucpr=cfg.onnx_int8.aucpr_loss, recall=cfg.onnx_int8.recall_loss)
    if sentence:
        log.warning("export: %s is left out: %s", artifact.file, sentence)
        left_out[artifact.target] = sentence
    return bool(sentence)


def _metadata(inputs: Inputs) -> dict[str, str]:
    """What the ONNX file itself says, for a consumer that has lost its folder."""
    from astrid.datasets.normalize import CHANNELS, STAMP_SHAPE
    from astrid.export.folder import CLASSES, FORMAT, SIGN_CONVENTION

    values = {
        "format": FORMAT,
        "name": inputs.name,
        "normalization": inputs.normalization,
        "channels": list(CHANNELS),
        "stamp_size": STAMP_SHAPE[-1],
        "classes": list(CLASSES),
        "output": f"probability of {CLASSES[-1]!r} before calibration",
        "sign_convention": SIGN_CONVENTION,
        "threshold": inputs.point["threshold"],
        "calibration": inputs.point["calibration"],
        "digests": dict(inputs.digests),
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

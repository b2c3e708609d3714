"""The model folder: the artifacts of one model, what they need to be used rightly, and a card for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astrid.core.errors import InputError
from astrid.core.provenance import digest_bytes
from astrid.core.runtime import atomic_path, write_json
from astrid.datasets.normalize import CHANNELS, STAMP_SHAPE

ONNX_FILE = "model.onnx"
MANIFEST_FILE = "model.json"
CARD_FILE = "card.md"
FORMAT = "astrid-model/1"

CLASSES = ("bogus", "real")
SIGN_CONVENTION = "the difference stamp is multiplied by the candidate's sign (+1 brightened, -1 faded): the source is positive"
_VERSION_DIGITS = 12


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a trained model when it is exported."""

    name: str
    normalization: str
    threshold: float  # on the calibrated probability
    calibration: Mapping[str, Any]  # as evaluation.calibration writes it: {"method": ..., its parameters}
    metrics: Mapping[str, Any]
    digests: Mapping[str, str]  # of triplets, split, training
    parity: Mapping[str, Any]  # measured agreement
    frameworks: Mapping[str, str]  # versions; no part of the model's version


def manifest(facts: ModelFacts, onnx_bytes: bytes) -> dict[str, Any]:
    """The content of model.json. `digest` and `version` cover the graph and all else that changes a score or a decision.

    `files` holds the digest of each artifact's bytes (`core.provenance.digest_bytes`). No version of a framework counts.
    """
    core = {
        "name": facts.name,
        "normalization": facts.normalization,
        "channel_order": list(CHANNELS),
        "sign_convention": SIGN_CONVENTION,
        "stamp_size": STAMP_SHAPE[-1],
        "classes": list(CLASSES),
        "threshold": facts.threshold,
        "calibration": dict(facts.calibration),
        "data": dict(facts.digests),
        "files": {ONNX_FILE: digest_bytes(onnx_bytes)},
    }
    digest = digest_bytes(json.dumps(core, sort_keys=True).encode())
    return {
        "format": FORMAT,
        **core,
        "digest": digest,
        "version": digest[:_VERSION_DIGITS],
        "metrics": dict(facts.metrics),
        "parity": dict(facts.parity),
        "frameworks": dict(facts.frameworks),
    }


def write_folder(folder: Path, content: Mapping[str, Any], onnx_bytes: bytes) -> None:
    """Write the graph, the card and last the manifest, each atomically: a folder without model.json is no model."""
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    with atomic_path(folder / ONNX_FILE) as temporary:
        temporary.write_bytes(onnx_bytes)
    with atomic_path(folder / CARD_FILE) as temporary:
        temporary.write_text(card(content), encoding="utf-8")
    write_json(folder / MANIFEST_FILE, dict(content))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of a folder's model.json. Raises `InputError` when the folder is no model folder of this format."""
    path = folder / MANIFEST_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; run the stage export, or give a model folder.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not readable JSON ({error}); run the stage export again.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is not of the format {FORMAT}; run the stage export again.")
    return content


def card(content: Mapping[str, Any]) -> str:
    """A model card in Markdown: what the model is for, what it takes, how good it was and where it should not be used."""
    sections = [
        f"# {content['name']} {content['version']}",
        "Real/bogus classifier of AstrID: the probability that a detection in a difference image is an astrophysical source.",
        "## Use\n" + _usage(content),
        "## Measured\n" + _table(content["metrics"]),
        "## Data\n" + _table(content["data"]),
        "## Agreement of the ONNX graph with the trained network\n" + _table(content["parity"]),
        "## Limits\n"
        "The score says real or bogus, not which type of transient. It holds for surveys whose stamps look like those of the "
        "training set; elsewhere, measure it and choose the threshold anew. Moving objects are real on the sky.",
    ]
    return "\n\n".join(sections) + "\n"


def _usage(content: Mapping[str, Any]) -> str:
    size = content["stamp_size"]
    lines = [
        f"- input: float32 (n, 3, {size}, {size}), {', '.join(content['channel_order'])}, normalised by `{content['normalization']}`",
        f"- sign: {content['sign_convention']}",
        f"- output: probability of `{content['classes'][-1]}`, then calibrated by `{content['calibration']['method']}`",
        f"- real at or above the threshold {content['threshold']:.6g} of the calibrated probability",
    ]
    return "\n".join(lines)


def _table(values: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {_cell(value)} |" for name, value in sorted(_flat(values))]
    return "\n".join(["| name | value |", "|---|---|", *rows]) if rows else "Nothing recorded."


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in values.items():
        flat += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(f"{prefix}{name}", value)]
    return flat


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)

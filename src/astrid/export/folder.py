"""The model folder: the artifacts of one model, what they need to be used rightly, and a card for people.

`model.onnx` is the model; every other artifact is made from it for a target, and the manifest's `artifacts` says of each what it
takes, what it gives and how far it is from the network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astrid.core.errors import InputError
from astrid.core.provenance import digest_bytes
from astrid.core.runtime import write_bytes, write_json
from astrid.datasets.normalize import CHANNELS, STAMP_SHAPE

ONNX_FILE = "model.onnx"
MANIFEST_FILE = "model.json"
CARD_FILE = "card.md"
FORMAT = "astrid-model/1"

TARGETS = ("onnx", "onnx-int8", "tflite-int8", "edgetpu")
INTEGER_ONNX_FILE = "model.int8.onnx"

CLASSES = ("bogus", "real")
SIGN_CONVENTION = "the difference stamp is multiplied by the candidate's sign (+1 brightened, -1 faded): the source is positive"
_VERSION_DIGITS = 12
_TEST = "test."  # metrics of which part the card shows


@dataclass(frozen=True, eq=False)
class Artifact:
    """One file of a model folder that a runtime can score with.

    `input` and `output` describe the tensors (name, shape, dtype, layout; an output's `kind` is "probability" or "logit"),
    `quantization` the scales and how they were found (empty for float32), `parity` what was measured against the network.
    """

    file: str
    target: str  # one of TARGETS
    content: bytes
    input: Mapping[str, Any]
    output: Mapping[str, Any]
    quantization: Mapping[str, Any]
    parity: Mapping[str, Any]

    def entry(self) -> dict[str, Any]:
        """What model.json says of it; `sha256` is that of the file's bytes. Raises `InputError` for an unknown target."""
        if self.target not in TARGETS:
            raise InputError(f"{self.target!r} is no target of a model folder; choose one of {', '.join(TARGETS)}.")
        return {
            "file": self.file,
            "target": self.target,
            "sha256": hashlib.sha256(self.content).hexdigest(),
            "bytes": len(self.content),
            "input": dict(self.input),
            "output": dict(self.output),
            "quantization": dict(self.quantization),
            "parity": dict(self.parity),
        }


def onnx_artifact(content: bytes, *, target: str = "onnx", **measured: Mapping[str, Any]) -> Artifact:
    """An ONNX file as an artifact: float32 (n, 3, 63, 63) `triplets` in, float32 (n,) `probability` out, for either ONNX target."""
    file = ONNX_FILE if target == "onnx" else INTEGER_ONNX_FILE
    given = {"name": "triplets", "shape": ["n", *STAMP_SHAPE], "dtype": "float32", "layout": "NCHW"}
    asked = {"name": "probability", "shape": ["n"], "dtype": "float32", "kind": "probability"}
    return Artifact(file, target, content, given, asked, measured.get("quantization", {}), measured.get("parity", {}))


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


def manifest(facts: ModelFacts, onnx_bytes: bytes, others: Sequence[Artifact] = ()) -> dict[str, Any]:
    """The content of model.json. `digest` and `version` cover the graph and all else that changes a score or a decision.

    `files` holds the digest of the graph's bytes (`core.provenance.digest_bytes`). No version of a framework counts, and none of
    the `others`, the artifacts made from the graph: an integer file that is compiled later leaves the model its version, and
    what it scores carries its own digest beside it.
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
    artifacts = (onnx_artifact(onnx_bytes, parity=facts.parity), *others)
    return {
        "format": FORMAT,
        **core,
        "artifacts": {artifact.file: artifact.entry() for artifact in artifacts},
        "digest": digest,
        "version": digest[:_VERSION_DIGITS],
        "metrics": dict(facts.metrics),
        "parity": dict(facts.parity),
        "frameworks": dict(facts.frameworks),
    }


def write_folder(folder: Path, content: Mapping[str, Any], onnx_bytes: bytes, others: Sequence[Artifact] = ()) -> None:
    """Write the artifacts, the card and last the manifest, each atomically: a folder without model.json is no model.

    An artifact of an earlier model that `content` does not name is removed.
    """
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    for stale in (path for pattern in ("*.onnx", "*.tflite") for path in folder.glob(pattern)):
        if stale.name not in content["artifacts"]:
            stale.unlink()
    write_bytes(folder / ONNX_FILE, onnx_bytes)
    for artifact in others:
        write_bytes(folder / artifact.file, artifact.content)
    _describe(folder, content)


def add_artifact(folder: Path, artifact: Artifact) -> dict[str, Any]:
    """Put one more artifact into a finished folder, or replace it, and return the new manifest; the model keeps its version.

    The manifest is replaced last, so that it never names a file that is not there. Raises `InputError` where `folder` is no
    model folder, or the artifact is the graph itself.
    """
    if artifact.file == ONNX_FILE:
        raise InputError(f"{ONNX_FILE} is what the model's version is made of; export the model anew to change it.")
    content = read_manifest(folder)
    content["artifacts"] = {**content.get("artifacts", {}), artifact.file: artifact.entry()}
    write_bytes(folder / artifact.file, artifact.content)
    _describe(folder, content)
    return content


def _describe(folder: Path, content: Mapping[str, Any]) -> None:
    write_bytes(folder / CARD_FILE, card(content).encode())
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
        "## Measured on test\n" + _metrics(content["metrics"]),
        "## Data\n" + _table(content["data"]),
        "## Agreement of the ONNX graph with the trained network\n" + _table(content["parity"]),
        "## Artifacts\n" + _artifacts(content.get("artifacts", {})),
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


def _metrics(values: Mapping[str, Any]) -> str:
    """The metrics on test, each with its interval; the registry's card and reports/ say more."""
    names = sorted(name for name in values if name.startswith(_TEST) and not name.endswith(("_low", "_high")))
    rows = ["| metric | value | interval |", "|---|---|---|"]
    for name in names:
        low, high = (_cell(values.get(f"{name}_{end}")) for end in ("low", "high"))
        rows.append(f"| {name.removeprefix(_TEST)} | {_cell(values[name])} | {low} to {high} |")
    return "\n".join(rows).replace("– to –", "–") if names else "Nothing recorded."


def _artifacts(entries: Mapping[str, Any]) -> str:
    """The files, and what each costs against the network; the losses by S/N of those that have them."""
    rows = ["| file | target | bytes | largest difference of probability | AUCPR lost | recall lost |", "|---|---|---|---|---|---|"]
    tables = []
    for name, entry in sorted(entries.items()):
        measured = entry["parity"]
        numbers = [_cell(measured.get(key, "–")) for key in ("largest_difference", "aucpr_loss", "recall_loss")]
        rows.append(f"| `{name}` | {entry['target']} | {entry['bytes']} | {' | '.join(numbers)} |")
        if measured.get("by_snr"):
            tables.append(f"### `{name}` by S/N\n" + _records(measured["by_snr"]))
    return "\n\n".join(["\n".join(rows), *tables])


def _records(records: Sequence[Mapping[str, Any]]) -> str:
    names = list(records[0])
    head = [f"| {' | '.join(name.replace('_', ' ') for name in names)} |", "|" + "---|" * len(names)]
    return "\n".join([*head, *(f"| {' | '.join(_cell(record[name]) for name in names)} |" for record in records)])


def _table(values: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {_cell(value)} |" for name, value in sorted(_flat(values))]
    return "\n".join(["| name | value |", "|---|---|", *rows]) if rows else "Nothing recorded."


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list):  # a table has its own place
            flat.append((f"{prefix}{name}", value))
    return flat


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)

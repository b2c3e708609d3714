"""What a model folder says of itself, checked against what this AstrID knows: normalisation, channels, threshold, artifacts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astrid.core.errors import DataSetError, InputError
from astrid.core.provenance import digest_bytes
from astrid.datasets.normalize import CHANNELS, NORMALIZATIONS, STAMP_SHAPE
from astrid.evaluation.calibration import Calibration
from astrid.export.folder import MANIFEST_FILE, ONNX_FILE, TARGETS, read_manifest

_SHORT = 8  # digits of a digest in a version
_KINDS = ("probability", "logit")


@dataclass(frozen=True)
class ArtifactFile:
    """A file of the folder that a runtime can score with."""

    path: Path
    target: str  # one of export.folder.TARGETS
    sha256: str  # of the file's bytes; empty where the manifest holds only the graph's own digest
    output: str  # "probability" or "logit"

    def read(self, declared: str = "") -> bytes:
        """The file's bytes. Raises `InputError` where it is missing or is not the one that the manifest was written for.

        `declared`: the digest of the manifest's `files`, which counts part borders, for the graph; else `sha256` counts.
        """
        if not self.path.is_file():
            raise InputError(f"{self.path} does not exist; run the stage export, or give a whole model folder.")
        content = self.path.read_bytes()
        digest = digest_bytes(content) if self.target == "onnx" else hashlib.sha256(content).hexdigest()
        expected = declared if self.target == "onnx" else self.sha256
        if digest != expected:
            raise InputError(
                f"{self.path} has the digest {digest[:12]}, but its {MANIFEST_FILE} was written for {expected[:12]!r}; export anew."
            )
        return content


@dataclass(frozen=True)
class ModelDescription:
    """What `model.json` says that scoring needs."""

    version: str  # name@version, the version being a digest of everything that changes a score
    normalization: str
    threshold: float  # on the calibrated score
    calibration: Calibration
    artifacts: tuple[ArtifactFile, ...] = ()  # in the order of the targets
    graph_digest: str = ""  # of model.onnx, as the manifest's `files` has it

    def of(self, target: str) -> tuple[ArtifactFile, ...]:
        """The files of a target; several where it has sizes of batch."""
        return tuple(artifact for artifact in self.artifacts if artifact.target == target)

    def content(self, artifact: ArtifactFile) -> bytes:
        """A file's bytes, checked against the manifest. Raises `InputError`."""
        return artifact.read(self.graph_digest)

    def version_of(self, artifact: ArtifactFile) -> str:
        """What a score names as its model: the version, and for anything but the graph the target and the file's digest too."""
        return self.version if artifact.target == "onnx" else f"{self.version}+{artifact.target}.{artifact.sha256[:_SHORT]}"


def read_description(folder: Path) -> ModelDescription:
    """Read a folder's `model.json` and check it against this AstrID; its artifacts are not opened. Raises `InputError`."""
    content, where = read_manifest(folder), folder / MANIFEST_FILE
    normalization = _entry(content, "normalization", where)
    if normalization not in NORMALIZATIONS:
        raise InputError(
            f"{where} asks for the normalisation {normalization!r}; this AstrID knows {', '.join(NORMALIZATIONS)}, so update it."
        )
    channels = tuple(_entry(content, "channel_order", where))
    if channels != CHANNELS:
        raise InputError(
            f"{where} orders the channels {', '.join(map(str, channels))}; stamps come as {', '.join(CHANNELS)}, so export anew."
        )
    size = _entry(content, "stamp_size", where)
    if size != STAMP_SHAPE[-1]:
        raise InputError(f"{where} takes stamps of {size} pixels; AstrID cuts {STAMP_SHAPE[-1]}, so export anew.")
    threshold = _entry(content, "threshold", where)
    if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise InputError(f"{where} has the threshold {threshold!r}; a probability lies between 0 and 1, so evaluate and export anew.")
    try:
        calibration = Calibration.from_dict(_entry(content, "calibration", where))
    except DataSetError as error:
        raise InputError(f"{where}: {error}") from error
    version = f"{_entry(content, 'name', where)}@{_entry(content, 'version', where)}"
    files = _entry(content, "files", where)
    return ModelDescription(version, normalization, float(threshold), calibration, _artifacts(content, folder), files.get(ONNX_FILE, ""))


def describe(folder: Path) -> ModelDescription:
    """The same, with the graph and every artifact that is there checked against its digest. Raises `InputError`."""
    description = read_description(folder)
    for artifact in description.artifacts:
        if artifact.target == "onnx" or artifact.path.is_file():
            description.content(artifact)
    return description


def _artifacts(content: Mapping[str, Any], folder: Path) -> tuple[ArtifactFile, ...]:
    """The artifacts, by target; a manifest without any is one of the graph alone."""
    where = folder / MANIFEST_FILE
    entries = content.get("artifacts", {ONNX_FILE: {"file": ONNX_FILE, "target": "onnx", "sha256": "", "output": {}}})
    found = []
    for name, entry in sorted(entries.items(), key=lambda item: (len(item[0]), item[0])):  # batch sizes behind the file of one
        file, target = _entry(entry, "file", where), _entry(entry, "target", where)
        kind = _entry(entry, "output", where).get("kind", "probability")
        if Path(file).name != file or target not in TARGETS or kind not in _KINDS:
            raise InputError(
                f"{where} describes the artifact {name!r} as the file {file!r} for {target!r} that gives a {kind!r}; "
                f"this AstrID knows files of the folder for {', '.join(TARGETS)} that give a {' or a '.join(_KINDS)}, so update it."
            )
        found.append(ArtifactFile(folder / file, target, _entry(entry, "sha256", where), kind))
    return tuple(sorted(found, key=lambda artifact: TARGETS.index(artifact.target)))


def _entry(content: Mapping[str, Any], key: str, where: Path) -> Any:
    if key not in content:
        raise InputError(f"{where} lacks {key!r}; export the model anew.")
    return content[key]

"""Registration and promotion in MLflow's model registry, by aliases and tags.

A model is known by the digest of its `model.onnx` and `model.json`: the same model is registered once. Aliases: `candidate`
is the newest registered version, `onnx-champion` the one that consumers load, `previous-onnx-champion` the one before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from astrid.core.errors import RegistryError
from astrid.core.provenance import digest_bytes, digest_file
from astrid.export.folder import MANIFEST_FILE, ONNX_FILE
from astrid.registry.gates import Gate
from astrid.registry.store import client, load_mlflow, reaching, tracking_uri
from astrid.registry.tracking import Run

MODEL_NAME = "astrid-realbogus"
CANDIDATE = "candidate"
CHAMPION = "onnx-champion"
PREVIOUS = "previous-onnx-champion"
MODEL_FILES = (ONNX_FILE, MANIFEST_FILE)
DIGEST_TAG = "astrid.digest"
_REQUIREMENTS = ["onnx", "onnxruntime", "numpy"]
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_LISTED = ("version", "aliases", "aucpr", "threshold", "digest", "created")


@dataclass(frozen=True, slots=True)
class Version:
    """A registered version: its number, tags and aliases."""

    name: str
    version: int
    tags: Mapping[str, str]
    aliases: tuple[str, ...]

    def number(self, tag: str) -> float:
        """A tag's value as a number, NaN where the version has no such tag."""
        return float(self.tags.get(tag, "nan"))


def model_digest(folder: Path) -> str:
    """SHA-256 over the files that make a model what it is. Raises `RegistryError` when one is missing."""
    for name in MODEL_FILES:
        if not (folder / name).is_file():
            raise RegistryError(f"{folder} is no model folder: {name} is not in it; run the stage `export`.")
    return digest_bytes(*(digest_file(folder / name).encode() for name in MODEL_FILES))


def register(folder: Path, run: Run, *, tags: Mapping[str, Any], name: str = MODEL_NAME) -> Version:
    """Register a model folder as a version of `name` and give it the alias `candidate`.

    The folder is kept whole as an ONNX model of the run. A model that is registered already (same digest) keeps its version;
    its tags are brought up to date. `tags`: plain values, e.g. astrid.aucpr, astrid.threshold, astrid.test_digest.
    """
    digest = model_digest(folder)
    store = client()
    with reaching("register a model"):
        _ensure_model(store, name)
        known = _by_digest(store, name, digest)
        if known is None:
            model_id = _log_model(folder, run)
            source = f"models:/{model_id}"
            known = store.create_model_version(name, source, run_id=run.run_id, model_id=model_id, tags={DIGEST_TAG: digest})
        for tag, value in tags.items():
            store.set_model_version_tag(name, known.version, tag, str(value))
        store.set_registered_model_alias(name, CANDIDATE, known.version)
    return _version(store, name, known.version)


def promote(version: Version, gates: Sequence[Gate]) -> Version:
    """Make a version the champion when every gate passed, and keep the one before as `previous-onnx-champion`.

    Promoting the champion again changes nothing. Raises `RegistryError` when a gate did not pass.
    """
    closed = [gate for gate in gates if not gate.passed]
    if closed:
        raise RegistryError(f"version {version.version} of {version.name} is not promoted: {closed[0].sentence}")
    store = client()
    before = champion(version.name)
    with reaching("promote a model"):
        if before is not None and before.version != version.version:
            store.set_registered_model_alias(version.name, PREVIOUS, before.version)
        store.set_registered_model_alias(version.name, CHAMPION, version.version)
    return _version(store, version.name, version.version)


def describe(version: Version, text: str) -> None:
    """Set the description that the registry shows with a version (Markdown)."""
    store = client()
    with reaching("describe a version"):
        store.update_model_version(version.name, str(version.version), description=text)


def champion(name: str = MODEL_NAME) -> Version | None:
    """The version under `onnx-champion`, None where there is none yet."""
    store = client()
    with reaching("look for the champion"):
        number = _registered(store, name).get(CHAMPION)
    return None if number is None else _version(store, name, number)


def list_models(name: str = MODEL_NAME) -> pd.DataFrame:
    """Registered versions, the newest first: version, aliases, aucpr (test), threshold, digest (12 digits), created (UTC)."""
    store = client()
    with reaching("list models"):
        aliases = _aliases(store, name)
        rows = [_listing(found, aliases) for found in store.search_model_versions(f"name='{name}'")]
    frame = pd.DataFrame(rows, columns=list(_LISTED))
    return frame.sort_values("version", ascending=False, ignore_index=True)


def fetch(uri: str) -> Path:
    """The model folder behind `models:/NAME@ALIAS` or `models:/NAME/VERSION`, downloaded where the store is remote."""
    client()
    mlflow = load_mlflow()
    with reaching(f"fetch {uri}"):
        try:
            folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, tracking_uri=tracking_uri()))
        except mlflow.exceptions.MlflowException as error:
            if error.error_code not in _ABSENT:
                raise
            why = str(error).splitlines()[0].rstrip(".")
            raise RegistryError(f"{uri} names no registered model ({why}); `astrid registry list` shows what there is.") from error
    for name in MODEL_FILES:
        if not (folder / name).is_file():
            raise RegistryError(f"{uri} has no {name}, so it is not a model that AstrID registered; choose another version.")
    return folder


def _log_model(folder: Path, run: Run) -> str:
    """Keep the folder as an ONNX model of the run, with the folder's own bytes beside MLflow's description; returns its id."""
    mlflow = load_mlflow()
    import numpy as np
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    graph = onnx.load(str(folder / MODEL_FILES[0]))
    inputs = Schema([_tensor(value, np, TensorSpec) for value in graph.graph.input])
    outputs = Schema([_tensor(value, np, TensorSpec) for value in graph.graph.output])
    with mlflow.start_run(run_id=run.run_id, log_system_metrics=False):
        kept = mlflow.onnx.log_model(
            graph,
            name="model",
            signature=ModelSignature(inputs=inputs, outputs=outputs),
            pip_requirements=_REQUIREMENTS,
            save_as_external_data=False,
        )
    client().log_model_artifacts(kept.model_id, str(folder))
    return str(kept.model_id)


def _tensor(value: Any, np: Any, spec: Any) -> Any:
    shape = tuple(int(axis.dim_value) or -1 for axis in value.type.tensor_type.shape.dim)
    return spec(np.dtype(np.float32), shape, value.name)


def _ensure_model(store: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    if _registered(store, name) or store.search_registered_models(f"name='{name}'"):
        return
    try:
        store.create_registered_model(name, description="Real/bogus classifier of AstrID: ONNX, with its description and card.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _registered(store: Any, name: str) -> dict[str, int]:
    found = store.search_registered_models(f"name='{name}'")
    return {alias: int(version) for alias, version in found[0].aliases.items()} if found else {}


def _aliases(store: Any, name: str) -> dict[int, list[str]]:
    grouped: dict[int, list[str]] = {}
    for alias, version in sorted(_registered(store, name).items()):
        grouped.setdefault(version, []).append(alias)
    return grouped


def _by_digest(store: Any, name: str, digest: str) -> Any:
    versions = store.search_model_versions(f"name='{name}' and tags.`{DIGEST_TAG}`='{digest}'")
    return versions[0] if versions else None


def _version(store: Any, name: str, number: int) -> Version:
    with reaching("read a version"):
        found = store.get_model_version(name, str(number))
        aliases = tuple(_aliases(store, name).get(int(number), ()))
    return Version(name, int(number), dict(found.tags), aliases)


def _listing(found: Any, aliases: Mapping[int, Sequence[str]]) -> dict[str, Any]:
    number = int(found.version)
    return {
        "version": number,
        "aliases": ", ".join(aliases.get(number, ())),
        "aucpr": float(found.tags.get("astrid.aucpr", "nan")),
        "threshold": float(found.tags.get("astrid.threshold", "nan")),
        "digest": found.tags.get(DIGEST_TAG, "")[:12],
        "created": pd.Timestamp(found.creation_timestamp, unit="ms", tz="UTC").strftime("%Y-%m-%d %H:%M:%S"),
    }

"""Registered versions in MLflow's model registry: kept whole, found by number or alias, fetched as a model folder.

A model is known by the digest of what makes its scores (`model_digest`): the same model is registered once. A version keeps its
model folder, and under `evidence/` what its gates were judged on.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from astrid.core.errors import RegistryError
from astrid.core.provenance import digest_bytes, digest_file
from astrid.export.folder import MANIFEST_FILE, ONNX_FILE, read_manifest
from astrid.registry import journal
from astrid.registry.flavor import log_folder
from astrid.registry.store import client, load_mlflow, reaching, tracking_uri
from astrid.registry.tracking import Run

MODEL_NAME = "astrid-realbogus"
MODEL_FILES = (ONNX_FILE, MANIFEST_FILE)
DIGEST_TAG = "astrid.digest"
EVIDENCE = "evidence"  # folder of a version beside its model files
COMPILED = "edgetpu"  # target of the one artifact that may come later, and so is no part of what a model is
COMPILED_TAG = "astrid.compiled"  # digest of that artifact
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_LISTED = ("version", "aliases", "aucpr", "threshold", "digest", "created")


@dataclass(frozen=True, slots=True)
class Version:
    """A registered version: its number, tags and aliases; `source` is where its files are."""

    name: str
    version: int
    tags: Mapping[str, str]
    aliases: tuple[str, ...]
    source: str = ""

    @property
    def uri(self) -> str:
        """The version for `fetch` and for MLflow's own tools."""
        return f"models:/{self.name}/{self.version}"

    def number(self, tag: str) -> float:
        """A tag's value as a number, NaN where the version has no such tag."""
        return float(self.tags.get(tag, "nan"))


def model_digest(folder: Path) -> str:
    """SHA-256 over what makes a model what it is: its graph and its description, without the artifact compiled from it later.

    Raises `RegistryError` when a file is missing.
    """
    for name in MODEL_FILES:
        if not (folder / name).is_file():
            raise RegistryError(f"{folder} is no model folder: {name} is not in it; run the stage `export`.")
    content = read_manifest(folder)
    content["artifacts"] = {name: entry for name, entry in content.get("artifacts", {}).items() if entry.get("target") != COMPILED}
    return digest_bytes(digest_file(folder / ONNX_FILE).encode(), json.dumps(content, sort_keys=True).encode())


def keep(folder: Path, run: Run, *, tags: Mapping[str, Any], name: str = MODEL_NAME) -> Version:
    """Keep a model folder as a version of `name`, without moving an alias.

    The folder is kept whole as an ONNX model of the run. A model that is registered already (same digest) keeps its version; its
    tags are brought up to date. `tags`: plain values, e.g. astrid.aucpr, astrid.threshold.
    """
    digest = model_digest(folder)
    store = client()
    with reaching("register a model"):
        ensure_model(store, name)
        known = _by_digest(store, name, digest)
        if known is None:
            model_id = log_folder(folder, run.run_id)
            source = f"models:/{model_id}"
            known = store.create_model_version(name, source, run_id=run.run_id, model_id=model_id, tags={DIGEST_TAG: digest})
        for tag, value in tags.items():
            store.set_model_version_tag(name, known.version, tag, str(value))
    return version(name, known.version)


def add_files(target: Version, folder: Path, inside: str | None = None) -> None:
    """Add the files of a local folder to a version, under `inside` or beside its model files; equal names are replaced."""
    model_id = target.source.removeprefix("models:/")
    with reaching(f"keep files of version {target.version}"):
        client().log_model_artifacts(model_id, str(folder), inside)


@contextmanager
def part(one: Version, name: str) -> Iterator[Path | None]:
    """A folder of a version, in a temporary place while the block runs; None where the version has no such folder."""
    store = client()
    with tempfile.TemporaryDirectory(prefix="astrid-") as place:
        with reaching(f"fetch {name} of version {one.version}"):
            model_id = one.source.removeprefix("models:/")
            found = None
            if name in {entry.path for entry in store.list_logged_model_artifacts(model_id)}:
                uri = f"{one.uri}/{name}"
                found = Path(load_mlflow().artifacts.download_artifacts(artifact_uri=uri, tracking_uri=tracking_uri(), dst_path=place))
        yield found


def describe(target: Version, text: str) -> None:
    """Set the description that the registry shows with a version (Markdown)."""
    store = client()
    with reaching("describe a version"):
        store.update_model_version(target.name, str(target.version), description=text)


def set_tags(target: Version, tags: Mapping[str, Any]) -> None:
    """Set tags of a version, replacing those of the same name."""
    store = client()
    with reaching("tag a version"):
        for tag, value in tags.items():
            store.set_model_version_tag(target.name, str(target.version), tag, str(value))


def version(name: str, number: int) -> Version:
    """A version by its number. Raises `RegistryError` when there is none."""
    from mlflow.exceptions import MlflowException

    store = client()
    with reaching("read a version"):
        try:
            found = store.get_model_version(name, str(number))
        except MlflowException as error:
            if error.error_code not in _ABSENT:
                raise
            raise RegistryError(f"{name} has no version {number}; `astrid registry list` shows what there is.") from error
        aliases = tuple(_grouped(standing(name)).get(int(number), ()))
    return Version(name, int(number), dict(found.tags), aliases, str(found.source))


def find(name: str, which: str) -> Version:
    """A version by its number or by an alias. Raises `RegistryError` when there is none."""
    if which.isdigit():
        return version(name, int(which))
    aliases = standing(name)
    if which not in aliases:
        have = ", ".join(sorted(aliases)) or "none"
        raise RegistryError(f"{name} has no alias {which!r} (it has {have}); give one of them or a version's number.")
    return version(name, aliases[which])


def champion(name: str = MODEL_NAME, alias: str = "onnx-champion") -> Version | None:
    """The version under a champion's alias, None where there is none yet."""
    number = standing(name).get(alias)
    return None if number is None else version(name, number)


def standing(name: str) -> dict[str, int]:
    """Every alias of a registered model with its version, as the registry has them; empty where the model is unknown."""
    store = client()
    with reaching("look for aliases"):
        found = store.search_registered_models(f"name='{name}'")
    return {alias: int(number) for alias, number in found[0].aliases.items()} if found else {}


def list_models(name: str = MODEL_NAME) -> pd.DataFrame:
    """Registered versions, the newest first: version, aliases, aucpr (test), threshold, digest (12 digits), created (UTC)."""
    store = client()
    with reaching("list models"):
        aliases = _grouped(standing(name))
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


def ensure_model(store: Any, name: str) -> None:
    """Make the registered model with its journal; of two processes that make it at once, both go on with the first one's."""
    from mlflow.exceptions import MlflowException

    if store.search_registered_models(f"name='{name}'"):
        return
    tags = {journal.JOURNAL_TAG: journal.new_run(name)}
    try:
        store.create_registered_model(name, tags, "Real/bogus classifier of AstrID: a model folder with its description and card.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _grouped(aliases: Mapping[str, int]) -> dict[int, list[str]]:
    grouped: dict[int, list[str]] = {}
    for alias, number in sorted(aliases.items()):
        grouped.setdefault(number, []).append(alias)
    return grouped


def _by_digest(store: Any, name: str, digest: str) -> Any:
    found = store.search_model_versions(f"name='{name}' and tags.`{DIGEST_TAG}`='{digest}'")
    return min(found, key=lambda one: int(one.version)) if found else None


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

"""The last rung made later: the integer artifact of a registered version through the Edge TPU compiler, kept with the version."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path
from typing import Any

from astrid.core.errors import RegistryError
from astrid.core.provenance import digest_bytes
from astrid.export import edgetpu
from astrid.export.folder import MANIFEST_FILE, Artifact, add_artifact, read_manifest
from astrid.registry import evidence as evidences
from astrid.registry import promote as ladder
from astrid.registry import versions
from astrid.registry.gates import Artifact as Measured
from astrid.registry.versions import EVIDENCE, Version

_EDGE = versions.COMPILED
_INTEGER = "tflite-int8"


def artifact_entry(manifest: dict[str, Any], target: str) -> dict[str, Any]:
    """What model.json says of a target's artifact (that with the shortest name where there are several), empty where it has none."""
    entries = sorted(manifest.get("artifacts", {}).items(), key=lambda item: (len(item[0]), item[0]))
    return next((dict(entry) for _, entry in entries if entry.get("target") == target), {})


def compile_version(one: Version, compiler: Path, *, limit: float) -> edgetpu.CompilerLog:
    """Compile a version's integer artifact and keep the result, the compiler's log and its numbers with the version.

    No alias moves: that is for the gates (`decide.decide`). `limit`: seconds that the compiler may take. Raises `RegistryError` for
    a version without an integer artifact, and `GateError` when the compiler fails.
    """
    fetched = versions.fetch(one.uri)
    entry = artifact_entry(read_manifest(fetched), _INTEGER)
    if not entry:
        raise RegistryError(f"version {one.version} of {one.name} has no integer artifact to compile; export it with one and register it.")
    done = edgetpu.compile_model(compiler, (fetched / entry["file"]).read_bytes(), limit=limit)
    quantization = {**entry["quantization"], "from": entry["sha256"]}
    artifact = Artifact(
        edgetpu.COMPILED_FILE, _EDGE, done.content, entry["input"], entry["output"], quantization, {"compiler": edgetpu.summary(done.log)}
    )
    with tempfile.TemporaryDirectory(prefix="astrid-") as name:
        folder = Path(name)
        shutil.copyfile(fetched / MANIFEST_FILE, folder / MANIFEST_FILE)
        add_artifact(folder, artifact)
        edgetpu.store(folder, done)
        for path in folder.iterdir():
            if path.name not in (MANIFEST_FILE, edgetpu.COMPILED_FILE, edgetpu.LOG_FILE):
                path.unlink()  # the registered card says more than the folder's own
        _add_evidence(one, done)
        versions.add_files(one, folder)
    versions.set_tags(one, {versions.COMPILED_TAG: digest_bytes(done.content)})
    text = f"compiler {done.log.version}: {done.log.mapped} of {done.log.total} operators mapped"
    ladder.note(ladder.settle(one.name), one, "compile", _EDGE, (), text)
    return done.log


def measured(log: edgetpu.CompilerLog, size: int) -> Measured:
    """The numbers of a compiled artifact from the compiler's log; NaN where the log says nothing."""
    unknown = float("nan")
    return Measured(
        bytes=float(size),
        unmapped=float(log.total - log.mapped) if log.operators else unknown,
        streamed=float(log.off_chip) if log.off_chip >= 0 else unknown,
    )


def _add_evidence(one: Version, done: edgetpu.Compilation) -> None:
    found = evidences.read(one)
    artifacts = {**found.artifacts, _EDGE: measured(done.log, len(done.content))}
    with tempfile.TemporaryDirectory(prefix="astrid-") as name:
        evidences.write(dataclasses.replace(found, artifacts=artifacts), Path(name))
        versions.add_files(one, Path(name), EVIDENCE)

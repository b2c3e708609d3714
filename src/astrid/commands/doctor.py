"""`astrid doctor`: what this machine has, and in one line each what is missing and what that costs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from astrid.serving import runtimes

REQUIRED = (
    "numpy", "scipy", "pandas", "pyarrow", "astropy", "photutils", "reproject", "astroquery", "sep", "astroscrappy", "pyfftw",
    "galsim", "torch", "torchvision", "scikit-learn", "onnx", "onnxruntime", "onnxscript", "mlflow", "dvc", "hydra-core", "optuna",
    "fastavro", "cramjam",
)  # fmt: skip
TRAINING = ("torch", "mlflow", "dvc")  # without all of them this is no place for the pipeline, and need not be
SCORING = ("numpy", "astropy")


@dataclass(frozen=True)
class Finding:
    """One line of the report. `state`: "ok", "absent" (optional, said plainly) or "broken" (AstrID cannot work)."""

    topic: str
    state: str
    detail: str


def doctor() -> int:
    """Print the findings and return the exit code: 0 when everything that AstrID needs is there, 2 otherwise."""
    findings = [finding for check in CHECKS for finding in check()]
    _show(findings)
    return 2 if any(finding.state == "broken" for finding in findings) else 0


def _show(findings: list[Finding]) -> None:
    """A table on a terminal, one plain line a finding elsewhere."""
    if not sys.stdout.isatty() or importlib.util.find_spec("rich") is None:
        for finding in findings:
            print(f"{finding.topic}: {finding.state}: {finding.detail}")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=True, header_style="bold", box=None, pad_edge=False)
    for title in ("what", "state", "found"):
        table.add_column(title, overflow="fold")
    colours = {"ok": "green", "absent": "yellow", "broken": "red"}
    for finding in findings:
        table.add_row(finding.topic, f"[{colours[finding.state]}]{finding.state}[/]", finding.detail)
    Console().print(table)


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    yield Finding("machine", "ok", f"Python {platform.python_version()}, {cores} cores, {free:.0f} GB free here")


def _packages() -> Iterator[Finding]:
    versions, missing = [], []
    for name in REQUIRED:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    yield Finding("packages", "ok", ", ".join(versions))
    if not missing:
        return
    if set(TRAINING) <= set(missing) and not set(SCORING) & set(missing):
        yield Finding("pipeline", "absent", "this installation scores with a model folder only; `make setup` installs the whole")
    else:
        yield Finding("packages", "broken", f"missing: {', '.join(missing)}; run `make setup`")


def _accelerators() -> Iterator[Finding]:
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    if torch.cuda.is_available():
        yield Finding("GPU", "ok", torch.cuda.get_device_name(0))
    else:
        yield Finding("GPU", "absent", "torch sees no CUDA device; training runs on the CPU")


def _torchvision() -> Iterator[Finding]:
    if importlib.util.find_spec("torch") is None:
        return
    from astrid.learning.shim import ensure_torchvision

    shimmed = ensure_torchvision()
    yield Finding("torchvision", "ok", "imports with the operator schemas that AstrID declares" if shimmed else "imports as published")


def _runtimes() -> Iterator[Finding]:
    """What a model folder can be scored with; without any runtime nothing can."""
    onnx, tflite = runtimes.onnx_runtime(), runtimes.tflite_runtime()
    if onnx.there:
        providers = ", ".join(runtimes.load_onnx().get_available_providers())
        yield Finding(onnx.name, "ok", f"{onnx.detail}: {providers}")
    for found in (tflite,) if onnx.there else (onnx, tflite):
        yield _of(found)
    if not onnx.there and not tflite.there:
        yield Finding("scoring", "broken", "no runtime is here, so no model folder can be scored with; install one of the two")


def _edge() -> Iterator[Finding]:
    library = runtimes.delegate()
    yield _of(library, "" if library.there else " Integer models run on the CPU.")
    compiler = shutil.which("edgetpu_compiler")
    advice = "edgetpu_compiler is not on the path; promotion ends at the integer model, and `astrid registry compile` finishes it elsewhere"
    yield Finding("Edge TPU compiler", "ok" if compiler else "absent", compiler or advice)
    yield _of(runtimes.pycoral())


def _of(found: runtimes.Found, consequence: str = "") -> Finding:
    return Finding(found.name, "ok" if found.there else "absent", found.detail + consequence)


def _stores() -> Iterator[Finding]:
    if importlib.util.find_spec("mlflow") is None:
        return
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    database = Path("mlflow.db")
    if uri:
        yield Finding("tracking store", "ok", f"MLFLOW_TRACKING_URI is set ({uri.split('@')[-1]}); not asked")
    elif not database.exists():
        yield Finding("tracking store", "absent", "no mlflow.db here yet; the first training makes it")
    else:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            runs = connection.execute("select count(*) from runs").fetchone()[0]
        yield Finding("tracking store", "ok", f"mlflow.db with {runs} runs")
    remotes = _dvc_remotes()
    yield Finding("DVC remote", "ok" if remotes else "absent", remotes[0] if remotes else "none configured; products stay in the cache")


def _dvc_remotes() -> list[str]:
    if shutil.which("dvc") is None:
        return []
    done = subprocess.run(["dvc", "remote", "list"], capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else []


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (_machine, _packages, _accelerators, _torchvision, _runtimes, _edge, _stores)

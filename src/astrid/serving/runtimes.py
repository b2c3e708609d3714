"""What this machine can run a model with: ONNX Runtime, a TFLite runtime, the Edge TPU's library, Google's pycoral.

Looking is cheap: a package is looked up, not imported, until it is asked for.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astrid.core.errors import MissingDependencyError

TFLITE_RUNTIMES = {"ai_edge_litert": "ai-edge-litert", "tflite_runtime": "tflite-runtime"}  # module -> package; the first one found
DELEGATE = {"darwin": "libedgetpu.1.dylib", "win32": "edgetpu.dll"}.get(sys.platform, "libedgetpu.so.1")

NO_ONNX = "ONNX Runtime is not installed; run `pip install onnxruntime`."
NO_TFLITE = (
    "no TFLite runtime is installed; run `pip install ai-edge-litert`, or on a Coral device `pip install -r requirements-coral.txt`."
)
NO_DELEGATE = f"{DELEGATE} is not on this machine; install Google's libedgetpu from Coral's own package source."
NO_PYCORAL = "Google's pycoral is not installed; it comes from Coral's own package source, and the delegate does without it."
IMPOSTOR = (
    "the installed package pycoral{version} is another project of that name, from PyPI; run `pip uninstall pycoral` and, where "
    "pycoral is wanted, install Google's from Coral's own package source."
)


@dataclass(frozen=True)
class Found:
    """A runtime: `there`, with a `detail` (name and version, path), or not, with the sentence that says what is missing."""

    name: str
    there: bool
    detail: str


def onnx_runtime() -> Found:
    """ONNX Runtime, looked up and not imported."""
    there = importlib.util.find_spec("onnxruntime") is not None
    return Found("ONNX Runtime", there, _version("onnxruntime") if there else NO_ONNX)


def tflite_runtime() -> Found:
    """The TFLite runtime that would be used, looked up and not imported."""
    module = _tflite_module()
    return Found("TFLite runtime", module is not None, NO_TFLITE if module is None else _version(TFLITE_RUNTIMES[module]))


def delegate() -> Found:
    """The Edge TPU's shared library, loaded once to see that it can be; whether a device is attached shows when a model is opened."""
    try:
        ctypes.CDLL(DELEGATE)
    except OSError:
        return Found("Edge TPU delegate", False, NO_DELEGATE)
    return Found("Edge TPU delegate", True, DELEGATE)


def pycoral() -> Found:
    """Google's pycoral, told from the package of that name on PyPI by the file of its module `pycoral.utils.edgetpu`; not imported."""
    spec = importlib.util.find_spec("pycoral")
    if spec is None:
        return Found("pycoral", False, NO_PYCORAL)
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    if any((folder / "utils" / "edgetpu.py").is_file() for folder in folders):
        return Found("pycoral", True, f"Google's pycoral {_number('pycoral')}".rstrip())
    return Found("pycoral", False, IMPOSTOR.format(version=f" {_number('pycoral')}".rstrip()))


def edge_tpu() -> Found:
    """Whether a compiled model can be handed to an Edge TPU: the delegate and a TFLite runtime, or Google's pycoral."""
    if (coral := pycoral()).there:
        return Found("Edge TPU", True, coral.detail)
    library, runtime = delegate(), tflite_runtime()
    if library.there and runtime.there:
        return Found("Edge TPU", True, f"{library.detail} with {runtime.detail}")
    missing = [found.detail for found in (library, runtime) if not found.there]
    if "another project" in coral.detail:
        missing.append(coral.detail)
    return Found("Edge TPU", False, " ".join(sentence[0].upper() + sentence[1:] for sentence in missing))


def load_onnx() -> Any:
    """The module onnxruntime. Raises `MissingDependencyError`."""
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise MissingDependencyError(NO_ONNX) from error


def load_tflite() -> Any:
    """The module with `Interpreter` and `load_delegate` of the TFLite runtime. Raises `MissingDependencyError`."""
    module = _tflite_module()
    if module is None:
        raise MissingDependencyError(_sentence(NO_TFLITE))
    try:
        return importlib.import_module(f"{module}.interpreter")
    except ImportError as error:
        raise MissingDependencyError(
            f"{TFLITE_RUNTIMES[module]} is installed and cannot be imported ({str(error).splitlines()[0][:160]}); install it again."
        ) from error


def load_pycoral() -> Any:
    """The module `pycoral.utils.edgetpu` of Google. Raises `MissingDependencyError`, which names the impostor where that is there."""
    found = pycoral()
    if not found.there:
        raise MissingDependencyError(_sentence(found.detail))
    return importlib.import_module("pycoral.utils.edgetpu")


def _tflite_module() -> str | None:
    return next((name for name in TFLITE_RUNTIMES if importlib.util.find_spec(name) is not None), None)


def _number(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _version(package: str) -> str:
    return f"{package} {_number(package)}".rstrip()


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]

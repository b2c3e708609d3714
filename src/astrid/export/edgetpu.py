"""The Edge TPU: which operators of an integer model its compiler maps, how much of its memory they need, and the compiler itself.

The limits are those of Coral's pages "TensorFlow models on the Edge TPU" and "Edge TPU Compiler" (compiler 16, runtime 14);
operator versions are the ones that TensorFlow's converter writes for int8 models of that time.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from astrid.core.errors import GateError, InputError, MissingDependencyError
from astrid.core.runtime import write_bytes

COMPILER = "edgetpu_compiler"
COMPILED_FILE = "model_edgetpu.tflite"
LOG_FILE = "model_edgetpu.log"

MEMORY = 8 * 2**20  # bytes of SRAM ("roughly 8 MB")
RESERVED = 2**20  # bytes of it for the executable: published logs show 0.3 to 1.1 MiB

_VERSIONS = {  # operators without limits beyond those checked below -> newest version that an int8 model needs
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 4,
    "MAX_POOL_2D": 2,
    "AVERAGE_POOL_2D": 2,
    "RESHAPE": 1,
    "LOGISTIC": 2,
    "ADD": 2,
    "SUB": 2,
    "MUL": 2,
    "MAXIMUM": 2,
    "MINIMUM": 2,
    "PAD": 2,
    "TANH": 2,
    "RELU": 2,
    "RELU6": 2,
    "QUANTIZE": 1,
}
_MAPPED = "Mapped to Edge TPU"
_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SIZE = r"([\d.]+)(B|KiB|MiB|GiB)"
_OPERATOR = re.compile(r"^([A-Z][A-Z0-9_]*|[a-z][\w-]*)\s+(\d+)\s{2,}(\S.*?)\s*$", re.MULTILINE)
_PARAMETERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


@dataclass(frozen=True)
class OperatorFate:
    """One operator of a model and whether the compiler should map it; `reason` is empty where it should."""

    name: str
    version: int
    output: str
    mapped: bool
    reason: str


@dataclass(frozen=True)
class OperatorMap:
    """Every operator in the order of execution, and the memory that the model needs."""

    operators: tuple[OperatorFate, ...]
    parameters: int  # bytes of weights and biases, which the Edge TPU caches on the chip
    widest: int  # bytes of the largest inputs and output that one operator holds at once

    @property
    def mapped(self) -> int:
        """How many operators should run on the Edge TPU."""
        return sum(one.mapped for one in self.operators)

    @property
    def streamed(self) -> int:
        """Bytes of parameters that should not fit on the chip and be streamed for every triplet."""
        return max(self.parameters - (MEMORY - RESERVED), 0)

    def record(self) -> dict[str, Any]:
        """The map as plain values, for a report or a manifest."""
        return {
            "operators": [asdict(one) for one in self.operators],
            "mapped": self.mapped,
            "total": len(self.operators),
            "parameter_bytes": self.parameters,
            "expected_on_chip_bytes": self.parameters - self.streamed,
            "expected_streamed_bytes": self.streamed,
            "widest_operator_bytes": self.widest,
        }


@dataclass(frozen=True)
class CompilerLog:
    """What the compiler says of a model. Bytes are -1 where it says nothing."""

    version: str
    operators: tuple[tuple[str, int, str], ...]  # name, count, status
    on_chip: int  # bytes of parameters cached on the chip
    on_chip_left: int
    off_chip: int  # bytes of parameters streamed for every triplet
    subgraphs: int
    succeeded: bool

    @property
    def mapped(self) -> int:
        """How many operators run on the Edge TPU."""
        return sum(count for _, count, status in self.operators if status == _MAPPED)

    @property
    def total(self) -> int:
        """How many operators the model has."""
        return sum(count for _, count, _ in self.operators)


@dataclass(frozen=True)
class Compilation:
    """A finished compilation: the artifact's bytes and the compiler's word on it."""

    content: bytes
    log: CompilerLog
    text: str  # the compiler's output, whole
    seconds: float


def operator_map(content: bytes) -> OperatorMap:
    """What the compiler should make of a TFLite file, by its documented list of operators, versions and limits.

    Raises `InputError` for bytes that are no TFLite model and `MissingDependencyError` without ai-edge-litert.
    """
    from astrid.export.tflite import schema

    s = schema()
    if content[4:8] != b"TFL3":
        raise InputError("the file is no TFLite model; export it again.")
    model = s.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    names = {number: name for name, number in vars(s.BuiltinOperator).items() if not name.startswith("_")}
    fates: list[OperatorFate] = []
    parameters = widest = 0
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        name = names.get(max(code.builtinCode, code.deprecatedBuiltinCode), "CUSTOM")
        given, made = ([graph.tensors[i] for i in numbers if i >= 0] for numbers in (operator.inputs, operator.outputs))
        reason = _reason(s, name, code.version, operator.builtinOptions, given, made, model.buffers)
        if not reason and any(not one.mapped for one in fates):
            reason = "follows an operator that is not mapped; the compiler makes one subgraph"
        fates.append(OperatorFate(name, int(code.version), _text(made[0].name), not reason, reason))
        if name in _PARAMETERS:
            parameters += sum(_bytes(s, tensor) for tensor in given[1:])
        widest = max(widest, sum(_bytes(s, tensor) for tensor in (given[0], *made)))
    return OperatorMap(tuple(fates), parameters, widest)


def find_compiler(configured: str = "") -> Path | None:
    """The compiler: the configured path, else `edgetpu_compiler` on PATH, else None.

    Raises `MissingDependencyError` when a configured path is no executable file: then nothing else is tried.
    """
    if configured:
        path = Path(configured)
        if not (path.is_file() and os.access(path, os.X_OK)):
            raise MissingDependencyError(
                f"the configured Edge TPU compiler {path} is no executable file; correct its path or leave it empty."
            )
        return path.resolve()
    found = shutil.which(COMPILER)
    return Path(found) if found else None


def absent() -> str:
    """What to say where there is no compiler: the integer artifact is whole without it."""
    return (
        f"{COMPILER} is not on this machine, so the ladder ends at the integer artifact, which runs on any CPU; "
        "run `astrid registry compile` on a machine that has it."
    )


def compile_model(compiler: Path, content: bytes, *, limit: float, runtime: int | None = None) -> Compilation:
    """Compile an integer model for the Edge TPU.

    Parameters
    ----------
    compiler
        As `find_compiler` gives it.
    content
        The integer TFLite file of batch 1.
    limit
        Seconds after which the compiler and its children are ended.
    runtime
        Oldest Edge TPU runtime that has to run it; None = the compiler's own choice.

    Raises
    ------
    GateError
        When the compiler takes too long, fails, or says it succeeded and leaves no model; the sentence carries its complaint.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="astrid-edgetpu-") as folder:
        source = Path(folder, "model.tflite")
        source.write_bytes(content)
        options = [] if runtime is None else ["-m", str(runtime)]
        text, code = _run([str(compiler), "-s", "-o", folder, *options, str(source)], limit)
        made, written = Path(folder, "model_edgetpu.tflite"), Path(folder, "model_edgetpu.log")
        log = parse_log(text)
        if not log.operators and written.is_file():
            log = parse_log(f"{text}\n{written.read_text(errors='replace')}")
        if code != 0 or not made.is_file():
            raise GateError(f"the Edge TPU compiler {log.version} failed with exit status {code} ({_complaint(text)}); nothing is stored.")
        return Compilation(made.read_bytes(), log, text, time.monotonic() - started)


def store(folder: Path, compilation: Compilation) -> None:
    """Put the artifact and the compiler's log beside the integer model, each atomically."""
    write_bytes(folder / LOG_FILE, compilation.text.encode())
    write_bytes(folder / COMPILED_FILE, compilation.content)


def parse_log(text: str) -> CompilerLog:
    """Read the compiler's output (with `-s`) or its operation log; what is not there stays empty, -1 or False."""
    version = re.search(r"Edge TPU Compiler version (\S+)", text)
    subgraphs = re.search(r"Number of Edge TPU subgraphs: (\d+)", text)
    return CompilerLog(
        version=version.group(1) if version else "of unknown version",
        operators=tuple((name, int(count), status) for name, count, status in _OPERATOR.findall(text)),
        on_chip=_size(text, "On-chip memory used for caching model parameters"),
        on_chip_left=_size(text, "On-chip memory remaining for caching model parameters"),
        off_chip=_size(text, "Off-chip memory used for streaming uncached model parameters"),
        subgraphs=int(subgraphs.group(1)) if subgraphs else -1,
        succeeded="Model compiled successfully" in text,
    )


def summary(log: CompilerLog) -> Mapping[str, Any]:
    """The compiler's word as plain values, for a report or a manifest."""
    counts = {"mapped": log.mapped, "total": log.total, "unmapped": log.total - log.mapped}
    return {**asdict(log), "operators": [list(one) for one in log.operators], **counts}


def _reason(s: Any, name: str, version: int, options: Any, given: Sequence[Any], made: Sequence[Any], buffers: Sequence[Any]) -> str:
    """Why the compiler should not map an operator; empty where it should."""
    if name not in _VERSIONS:
        return "is not on the list of operators that it maps"
    if version > _VERSIONS[name]:
        return f"is newer than the version {_VERSIONS[name]} that it knows"
    for tensor in (*given, *made):
        why = _tensor_reason(s, tensor)
        if why:
            return f"has the tensor {_text(tensor.name)} that {why}"
    if name in _PARAMETERS:
        if any(buffers[tensor.buffer].data is None for tensor in given[1:]):
            return "has weights or a bias that are no constants"
        if name == "FULLY_CONNECTED" and (options.weightsFormat != s.FullyConnectedOptionsWeightsFormat.DEFAULT or _outer(made[0], 1) != 1):
            return "needs the default format of weights and an output of one dimension"
        if name == "FULLY_CONNECTED" and len(given[1].quantization.scale) != 1:
            return "has a scale a channel, where it takes one a tensor"
        if name != "FULLY_CONNECTED" and options.dilationWFactor != options.dilationHFactor:
            return "has another dilation in x than in y"
    if name.endswith("POOL_2D") and options.fusedActivationFunction != s.ActivationFunctionType.NONE:
        return "has a fused activation, which a pool must not have"
    return ""


def _tensor_reason(s: Any, tensor: Any) -> str:
    whole = (s.TensorType.INT8, s.TensorType.UINT8, s.TensorType.INT32)
    if tensor.type not in whole:
        return "is no 8-bit integer"
    if tensor.type != s.TensorType.INT32 and (tensor.quantization is None or tensor.quantization.scale is None):
        return "has no scale"
    signature = tensor.shapeSignature if tensor.shapeSignature is not None else tensor.shape
    if any(side < 1 for side in signature):
        return "has no constant size"
    if tensor.buffer == 0 and _outer(tensor, 3) != 1:  # weights may have four dimensions
        return f"has the shape {'x'.join(map(str, tensor.shape))}, of which only the three inner dimensions may exceed 1"
    return ""


def _outer(tensor: Any, inner: int) -> int:
    """How many slices of the `inner` last dimensions a tensor has."""
    return int(np.prod(tensor.shape[:-inner])) if len(tensor.shape) > inner else 1


def _bytes(s: Any, tensor: Any) -> int:
    width = {s.TensorType.INT8: 1, s.TensorType.UINT8: 1}.get(tensor.type, 4)
    return int(np.prod(tensor.shape)) * width


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _run(command: list[str], limit: float) -> tuple[str, int]:
    """Run a command in a session of its own, so that its children end with it. Its output and exit status."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True
    )
    try:
        text, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise GateError(f"the Edge TPU compiler was ended after {limit:g} s; give it more time or a smaller network.") from None
    return text, process.returncode


def _size(text: str, title: str) -> int:
    found = re.search(rf"{title}: {_SIZE}", text)
    return round(float(found.group(1)) * _UNITS[found.group(2)]) if found else -1


def _complaint(text: str) -> str:
    """The first line that names an error, else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "it said nothing")

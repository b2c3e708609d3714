"""Scoring with a TFLite runtime: full-integer files on the CPU, compiled ones on an Edge TPU. numpy and the runtime only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid.core.errors import InputError, MissingDependencyError
from astrid.datasets.normalize import STAMP_SHAPE
from astrid.serving import runtimes
from astrid.serving.description import ArtifactFile

_NHWC = (*STAMP_SHAPE[1:], STAMP_SHAPE[0])


class TfliteEngine:
    """TFLite files of one model, one a size of batch. `scores`: float32 (n, 3, 63, 63), normalised -> probability, float32 (n,).

    Triplets are turned to NHWC and quantised by the file's own scale and zero-point; what comes out is turned back by the
    output's. n triplets are taken by the largest batch that they fill, the rest by the next; what fills none is padded with zeros.
    """

    def __init__(self, files: Sequence[tuple[ArtifactFile, bytes]], *, threads: int) -> None:
        """Raises `MissingDependencyError` without a runtime or, for the Edge TPU, its library or device, `InputError` for a bad file."""
        on_device = files[0][0].target == "edgetpu"
        opened = _edge_interpreters(files) if on_device else _cpu_interpreters(files, threads)
        self.artifact = files[0][0]
        self.runtime = runtimes.edge_tpu().detail if on_device else f"{runtimes.tflite_runtime().detail}, CPU"
        graphs = [_Graph(interpreter, artifact) for interpreter, (artifact, _) in zip(opened, files, strict=True)]
        self._graphs = sorted(graphs, key=lambda graph: graph.batch, reverse=True)

    def scores(self, normalized: NDArray[np.float32]) -> NDArray[np.float32]:
        """See the class."""
        out = np.empty(len(normalized), dtype=np.float32)
        start = 0
        while start < len(normalized):
            left = len(normalized) - start
            graph = next((graph for graph in self._graphs if graph.batch <= left), self._graphs[-1])
            count = min(graph.batch, left)
            out[start : start + count] = graph.run(normalized[start : start + count])
            start += count
        return out


class _Graph:
    """One interpreter of a fixed batch."""

    def __init__(self, interpreter: Any, artifact: ArtifactFile) -> None:
        try:
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise _unreadable(artifact, error) from error
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        self._given, self._asked = inputs[0], outputs[0]
        shape = tuple(int(size) for size in self._given["shape"])
        if len(inputs) != 1 or len(outputs) != 1 or shape[1:] != _NHWC:
            raise InputError(
                f"{artifact.path} takes {len(inputs)} inputs of the shape {shape} and gives {len(outputs)} outputs; "
                f"a model of this house takes one of (batch, {', '.join(map(str, _NHWC))}) and gives one, so export anew."
            )
        for side, details in (("input", self._given), ("output", self._asked)):
            if details["dtype"] != np.float32 and not details["quantization"][0] > 0:
                raise InputError(f"{artifact.path} has no scale for its integer {side}; it was quantised without one, so export anew.")
        self.batch = shape[0]
        self._interpreter, self._logit = interpreter, artifact.output == "logit"
        self._buffer = np.zeros(shape, dtype=np.float32)

    def run(self, normalized: NDArray[np.float32]) -> NDArray[np.float32]:
        """At most `batch` triplets."""
        count = len(normalized)
        self._buffer[:count] = normalized.transpose(0, 2, 3, 1)
        self._buffer[count:] = 0
        self._interpreter.set_tensor(self._given["index"], quantize(self._buffer, self._given))
        self._interpreter.invoke()
        values = dequantize(self._interpreter.get_tensor(self._asked["index"]), self._asked).reshape(-1)[:count]
        return _sigmoid(values) if self._logit else values


def quantize(values: NDArray[np.float32], details: Mapping[str, Any]) -> NDArray[Any]:
    """float32 values as the integers of a tensor: value / scale, rounded to even, plus the zero-point, held to the type's range."""
    dtype = np.dtype(details["dtype"])
    if dtype == np.float32:
        return values
    scale, zero_point = details["quantization"]
    bounds = np.iinfo(dtype)
    codes = np.rint(values / np.float32(scale))
    codes += zero_point
    integers: NDArray[Any] = np.clip(codes, bounds.min, bounds.max, out=codes).astype(dtype)
    return integers


def dequantize(codes: NDArray[Any], details: Mapping[str, Any]) -> NDArray[np.float32]:
    """The integers of a tensor as float32 values: (code - zero-point) * scale."""
    if codes.dtype == np.float32:
        return codes
    scale, zero_point = details["quantization"]
    return (codes.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)


def _cpu_interpreters(files: Sequence[tuple[ArtifactFile, bytes]], threads: int) -> list[Any]:
    """On the CPU by TFLite's own integer kernels, which every runtime has and which agree to the last code. XNNPACK, the default of
    the newer ones, is faster and rounds otherwise (a code of the logit in one triplet of ten), so a score would depend on the runtime."""
    runtime = runtimes.load_tflite()
    kernels = runtime.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    made = {"num_threads": threads or None, "experimental_op_resolver_type": kernels}
    return [_open(artifact, runtime.Interpreter, model_content=content, **made) for artifact, content in files]


def _edge_interpreters(files: Sequence[tuple[ArtifactFile, bytes]]) -> list[Any]:
    """On the Edge TPU: by Google's pycoral where it is installed, else by the delegate and whichever TFLite runtime there is."""
    found = runtimes.edge_tpu()
    if not found.there:
        raise MissingDependencyError(f"No Edge TPU can be used here. {found.detail}")
    if runtimes.pycoral().there:
        make = runtimes.load_pycoral().make_interpreter
        return [_open(artifact, make, str(artifact.path)) for artifact, _ in files]
    runtime = runtimes.load_tflite()
    try:
        delegate = runtime.load_delegate(runtimes.DELEGATE)
    except (ValueError, OSError, RuntimeError, AttributeError) as error:  # AttributeError: a library without a delegate in it
        raise MissingDependencyError(
            f"{runtimes.DELEGATE} is installed but gives no Edge TPU ({str(error).splitlines()[0][:160]}); attach the device, "
            "and see that its user may use it."
        ) from error
    return [_open(artifact, runtime.Interpreter, model_content=content, experimental_delegates=[delegate]) for artifact, content in files]


def _open(artifact: ArtifactFile, make: Any, *given: Any, **named: Any) -> Any:
    try:
        return make(*given, **named)
    except (ValueError, RuntimeError) as error:
        raise _unreadable(artifact, error) from error


def _unreadable(artifact: ArtifactFile, error: Exception) -> InputError:
    first = (str(error).splitlines() or ["no reason given"])[0][:160]
    return InputError(f"{artifact.path} is not a model that the TFLite runtime can open ({first}); export or compile it anew.")

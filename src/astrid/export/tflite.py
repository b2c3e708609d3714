"""A graph as a TFLite flatbuffer: NHWC, static shapes, float32 or full integer, in the operators of TensorFlow's converter.

The file is written directly: no TensorFlow, and every scale is the one that calibration or training chose. Operators carry the
versions that TensorFlow writes for them, since the Edge TPU compiler and old runtimes refuse newer ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from astrid.core.errors import InputError, MissingDependencyError
from astrid.datasets.normalize import STAMP_SHAPE
from astrid.export.parity import Scorer, Stamps
from astrid.export.quantize import PROBABILITY, IntegerGraph, Output, Scale

if TYPE_CHECKING:
    from astrid.learning.graph import Graph, Operator

INPUT = "triplets"

_STAMP = (*STAMP_SHAPE[1:], STAMP_SHAPE[0])  # height, width, channels

_FORMAT = 3  # of the flatbuffer
_IDENTIFIER = b"TFL3"
_ALIGNMENT = 16  # bytes, of a buffer: schema.fbs asks for it
_DESCRIPTION = "AstrID real/bogus: normalised triplets, science, reference, difference"
_CODES = {  # kind -> name in the schema, version in float32, version in int8
    "conv": ("CONV_2D", 1, 3),
    "dense": ("FULLY_CONNECTED", 1, 4),
    "max_pool": ("MAX_POOL_2D", 1, 2),
    "mean_pool": ("AVERAGE_POOL_2D", 1, 2),
    "pad": ("PAD", 1, 2),
    "flatten": ("RESHAPE", 1, 1),
    "add": ("ADD", 1, 2),
    "logistic": ("LOGISTIC", 1, 2),
}


def schema() -> Any:
    """The flatbuffer schema of TFLite as Python classes. Raises `MissingDependencyError` without ai-edge-litert."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise MissingDependencyError(
            "ai-edge-litert is not installed, so no TFLite file can be written or read; run `pip install -e . -c constraints.txt`."
        ) from error
    return schema_py_generated


def write_float(graph: Graph, *, batch: int) -> bytes:
    """The graph in float32, to compare with: (batch, 63, 63, 3) float32 in, (batch, 1) probability float32 out."""
    writer = _Writer(batch)
    for number, shape in enumerate(graph.shapes):
        writer.tensor(_name(graph, number), shape, np.float32)
    output = writer.tensor("probability", (1,), np.float32)
    for number, operator in enumerate(graph.operators):
        constants = [] if operator.weights is None else [(operator.weights, None), (operator.bias, None)]
        writer.operator(operator.kind, operator, operator.inputs, number + 1, constants)
    writer.operator("logistic", None, (len(graph.operators),), output, [])
    return writer.content(output, "probability")


def write_int8(integers: IntegerGraph, *, batch: int) -> bytes:
    """The full-integer graph: (batch, 63, 63, 3) int8 in, (batch, 1) int8 out: the logit, or the probability before calibration.

    A probability has the scale 1/256 and the zero-point -128, a logit its own. The same integers give the same bytes.
    """
    graph = integers.graph
    writer = _Writer(batch, integer=True)
    for number, shape in enumerate(graph.shapes):
        writer.tensor(_name(graph, number), shape, np.int8, integers.values[number])
    output = len(graph.operators)
    if integers.output == "probability":
        output = writer.tensor("probability", (1,), np.int8, PROBABILITY)
    weighted = iter(integers.weights)
    for number, operator in enumerate(graph.operators):
        constants: list[tuple[NDArray[Any] | None, NDArray[Any] | None]] = []
        if operator.weights is not None:
            one = next(weighted)
            given = integers.values[operator.inputs[0]]
            constants = [(one.weights, one.scales), (one.bias, given.scale * one.scales.astype(np.float64))]
        writer.operator(operator.kind, operator, operator.inputs, number + 1, constants)
    if integers.output == "probability":
        writer.operator("logistic", None, (len(graph.operators),), output, [])
    return writer.content(output, integers.output)


def scorer(content: bytes, *, threads: int = 1) -> Scorer:
    """A scorer that runs a file of this module on the CPU: normalised triplets, float32 (n, 3, 63, 63) -> probability, float32 (n,).

    The file takes the triplets in groups of its batch, the last one filled up with zeros; of a logit the sigmoid is taken. The kernels
    are TFLite's own, as in serving: old and new runtimes agree on them to the last code, which XNNPACK's rounding does not.

    Raises `MissingDependencyError` without ai-edge-litert and `InputError` for a file that it cannot run.
    """
    schema()
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # the same codes on every runtime, which XNNPACK does not give
    try:
        interpreter = Interpreter(model_content=content, num_threads=threads, experimental_op_resolver_type=kernels)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise InputError(f"LiteRT cannot run the TFLite file ({str(error).splitlines()[0]}); export it again.") from error
    given, asked = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    batch, kind = int(given["shape"][0]), output_kind(content)

    def score(stamps: Stamps) -> NDArray[np.float32]:
        scores = np.empty(len(stamps), np.float32)
        filled = np.zeros((batch, *_STAMP), np.float32)
        for start in range(0, len(stamps), batch):
            count = min(batch, len(stamps) - start)
            filled[:count] = stamps[start : start + count].transpose(0, 2, 3, 1)
            interpreter.set_tensor(given["index"], to_codes(filled, given))
            interpreter.invoke()
            scores[start : start + count] = from_codes(interpreter.get_tensor(asked["index"]), asked).reshape(-1)[:count]
        return scores if kind == "probability" else (1 / (1 + np.exp(-scores.astype(np.float64)))).astype(np.float32)

    return score


def output_kind(content: bytes) -> Output:
    """Whether a file of this module gives the probability or the logit: the name of its output says so. Raises `InputError`."""
    s = schema()
    graph = s.ModelT.InitFromPackedBuf(content, 0).subgraphs[0]
    name = graph.tensors[graph.outputs[0]].name.decode()
    if name == "probability":
        return "probability"
    if name == "logit":
        return "logit"
    raise InputError(f"the TFLite file gives {name!r}, neither a probability nor a logit; export it again.")


def to_codes(values: NDArray[np.float32], details: Any) -> NDArray[Any]:
    """float32 values as the numbers that a tensor of an interpreter holds (`details`: its dtype and quantisation)."""
    if details["dtype"] == np.float32:
        return values
    scale, zero_point = details["quantization"]
    kind = np.iinfo(details["dtype"])
    codes: NDArray[Any] = np.clip(np.rint(values / np.float32(scale)) + zero_point, kind.min, kind.max).astype(details["dtype"])
    return codes


def from_codes(codes: NDArray[Any], details: Any) -> NDArray[np.float32]:
    """The numbers of a tensor of an interpreter as float32 values."""
    if details["dtype"] == np.float32:
        return np.asarray(codes, np.float32)
    scale, zero_point = details["quantization"]
    return (codes.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


def _name(graph: Graph, number: int) -> str:
    if number == 0:
        return INPUT
    return "logit" if number == len(graph.operators) else f"{graph.operators[number - 1].kind}_{number}"


@dataclass
class _Writer:
    """The growing flatbuffer model. Tensors of values come first, so that a value's number is its tensor's."""

    batch: int
    integer: bool = False
    tensors: list[Any] = field(default_factory=list)
    buffers: list[Any] = field(default_factory=list)
    operators: list[Any] = field(default_factory=list)
    codes: list[tuple[str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError(f"a batch of {self.batch} triplets cannot be written; give 1 or more.")
        self.s = schema()
        self.buffers.append(self.s.BufferT())  # 0: "no data"

    def tensor(self, name: str, shape: tuple[int, ...], dtype: type[np.generic], scale: Scale | None = None) -> int:
        """A value that is computed, (batch, *shape)."""
        tensor = self._append(name, (self.batch, *shape), dtype)
        if scale is not None:
            tensor.quantization = self._quantization([scale.scale], [scale.zero_point])
        return len(self.tensors) - 1

    def constant(self, name: str, data: NDArray[Any], scales: NDArray[Any] | None = None) -> int:
        """A tensor whose content is in the file; one scale, or one a slice along its first axis, with zero-points 0."""
        tensor = self._append(name, data.shape, data.dtype.type)
        buffer = _aligned(self.s.BufferT)()
        buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
        self.buffers.append(buffer)
        tensor.buffer = len(self.buffers) - 1
        if scales is not None:
            tensor.quantization = self._quantization([float(one) for one in scales], [0] * len(scales))
        return len(self.tensors) - 1

    def operator(self, kind: str, made_from: Operator | None, inputs: tuple[int, ...], output: int, constants: list[Any]) -> None:
        """An operator with its constant inputs (data, scales): weights and bias."""
        name, *versions = _CODES[kind]
        code = (name, versions[self.integer])
        if code not in self.codes:
            self.codes.append(code)
        extra = [self.constant(f"{kind}_{output}_{role}", *one) for role, one in zip(("weights", "bias"), constants, strict=False)]
        if made_from is not None and kind == "flatten":
            extra = [self.constant(f"{kind}_{output}_shape", np.array([self.batch, *made_from.shape], np.int32))]
        if made_from is not None and kind == "pad":
            edges = np.array([[0, 0], [made_from.margin] * 2, [made_from.margin] * 2, [0, 0]], np.int32)
            extra = [self.constant(f"{kind}_{output}_edges", edges)]
        one = self.s.OperatorT()
        one.opcodeIndex = self.codes.index(code)
        one.inputs, one.outputs = [*inputs, *extra], [output]
        if made_from is not None:
            one.builtinOptionsType, one.builtinOptions = self._options(made_from)
        self.operators.append(one)

    def content(self, output: int, kind: str) -> bytes:
        """The finished file; its input is tensor 0, its output named by what it is."""
        import flatbuffers

        graph = self.s.SubGraphT()
        graph.name, graph.tensors, graph.operators = "main", self.tensors, self.operators
        graph.inputs, graph.outputs = [0], [output]
        model = self.s.ModelT()
        model.version, model.description = _FORMAT, _DESCRIPTION
        model.operatorCodes = [self._code(name, version) for name, version in self.codes]
        model.subgraphs, model.buffers, model.signatureDefs = [graph], self.buffers, [self._signature(output, kind)]
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
        return bytes(builder.Output())

    def _append(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> Any:
        tensor = self.s.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name, list(shape), 0
        tensor.type = getattr(self.s.TensorType, np.dtype(dtype).name.upper())
        self.tensors.append(tensor)
        return tensor

    def _quantization(self, scales: list[float], zero_points: list[int]) -> Any:
        quantization = self.s.QuantizationParametersT()
        quantization.scale, quantization.zeroPoint, quantization.quantizedDimension = scales, zero_points, 0
        return quantization

    def _options(self, operator: Operator) -> tuple[int, Any]:
        s = self.s
        kinds, relu = s.BuiltinOptions, s.ActivationFunctionType.RELU if operator.relu else s.ActivationFunctionType.NONE
        options: Any
        match operator.kind:
            case "conv":
                kind, options = kinds.Conv2DOptions, s.Conv2DOptionsT()
                options.padding = s.Padding.SAME if operator.same else s.Padding.VALID
                options.strideW = options.strideH = operator.stride
                options.dilationWFactor = options.dilationHFactor = 1
                options.fusedActivationFunction = relu
            case "dense":
                kind, options = kinds.FullyConnectedOptions, s.FullyConnectedOptionsT()
                options.fusedActivationFunction = relu
            case "max_pool" | "mean_pool":
                kind, options = kinds.Pool2DOptions, s.Pool2DOptionsT()
                options.padding = s.Padding.VALID
                options.strideW = options.strideH = options.filterWidth = options.filterHeight = operator.size
            case "flatten":
                kind, options = kinds.ReshapeOptions, s.ReshapeOptionsT()
                options.newShape = [self.batch, *operator.shape]
            case "add":
                kind, options = kinds.AddOptions, s.AddOptionsT()
                options.fusedActivationFunction = relu
                options.potScaleInt16 = False
            case "pad":
                kind, options = kinds.PadOptions, s.PadOptionsT()
        return kind, options

    def _code(self, name: str, version: int) -> Any:
        code = self.s.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(self.s.BuiltinOperator, name)  # all below 127, where the old field ends
        code.version = version
        return code

    def _signature(self, output: int, kind: str) -> Any:
        signature = self.s.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0
        signature.inputs, signature.outputs = [self._map(INPUT, 0)], [self._map(kind, output)]
        return signature

    def _map(self, name: str, tensor: int) -> Any:
        mapped = self.s.TensorMapT()
        mapped.name, mapped.tensorIndex = name, tensor
        return mapped


def _aligned(base: Any) -> Any:
    """The schema's buffer, packed at a multiple of 16 bytes; the generated class leaves it at 4."""

    class Aligned(base):  # type: ignore[misc]
        def Pack(self, builder: Any) -> Any:
            builder.StartVector(1, len(self.data), _ALIGNMENT)
            builder.head -= len(self.data)
            builder.Bytes[builder.head : builder.head + len(self.data)] = self.data.tobytes()
            data = builder.EndVector()
            s = schema()
            s.BufferStart(builder)
            s.BufferAddData(builder, data)
            return s.BufferEnd(builder)

    return Aligned

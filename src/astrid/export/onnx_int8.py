"""The ONNX graph in int8 for CPUs: ONNX Runtime's static quantisation with QuantizeLinear and DequantizeLinear pairs.

Weights and values are signed, weights have one scale a channel, values one a tensor, between the smallest and the largest number
that the calibration triplets give (a moving average would cut off the bright ones). The last dense layer and the sigmoid stay in
float32: they cost nothing, and 256 steps of a probability would tie candidates that an astronomer ranks.
"""

from __future__ import annotations

import itertools
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from astrid.core.errors import DataSetError, MissingDependencyError
from astrid.export.parity import Stamps

_TAIL = ("Sigmoid", "Squeeze", "Reshape", "Flatten")  # behind the last dense layer; none of them computes in integers
_DENSE = ("Gemm", "MatMul")


def quantize_onnx(content: bytes, batches: Iterable[Stamps], *, input_name: str) -> bytes:
    """The int8 graph of a serialized float32 one, with the same input, output and metadata.

    Parameters
    ----------
    content : the graph of `export.onnx.to_onnx`.
    batches : normalised triplets, float32 (n, 3, 63, 63), that the ranges are measured on.
    input_name : of the graph.

    The same graph and triplets give the same bytes. Raises `DataSetError` without a triplet and `MissingDependencyError` where this
    ONNX Runtime has no quantisation tools.
    """
    import onnx

    try:
        from onnxruntime import quantization as tools
    except ImportError as error:
        raise MissingDependencyError(f"ONNX Runtime's quantisation tools cannot be imported ({error}); install it again.") from error
    proto = onnx.load_from_string(content)
    properties = {one.key: one.value for one in proto.metadata_props}
    reader = _reader(tools, batches, input_name)
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        tools.quantize_static(
            proto,
            str(path),
            reader,
            quant_format=tools.QuantFormat.QDQ,
            per_channel=True,
            activation_type=tools.QuantType.QInt8,
            weight_type=tools.QuantType.QInt8,
            calibrate_method=tools.CalibrationMethod.MinMax,
            nodes_to_exclude=_in_float(proto),
        )
        quantized = onnx.load(str(path))
    quantized.producer_name, quantized.producer_version = "astrid", ""
    del quantized.metadata_props[:]
    onnx.helper.set_model_props(quantized, dict(sorted(properties.items())))
    done: bytes = quantized.SerializeToString(deterministic=True)
    return done


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the advice to optimise the graph first, which it is; ONNX Runtime's tool writes it to the root logger."""
    root = logging.getLogger()

    def others(record: logging.LogRecord) -> bool:
        return "pre-processing" not in record.getMessage()

    root.addFilter(others)
    try:
        yield
    finally:
        root.removeFilter(others)


def describe_quantization(content: bytes, triplets: int) -> Mapping[str, Any]:
    """What the manifest says of an int8 graph: how it was made, and which operators compute in integers."""
    import onnx

    graph = onnx.load_from_string(content).graph
    dequantized = {output for node in graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    whole = sorted({node.op_type for node in graph.node if node.op_type != "QuantizeLinear" and set(node.input) & dequantized})
    return {
        "scheme": "int8 QDQ: weights a channel, values a tensor",
        "method": "smallest and largest number",
        "calibration_stamps": triplets,
        "integer_operators": whole,
    }


def _in_float(proto: Any) -> list[str]:
    """Names of the nodes from the last dense layer on."""
    nodes = list(proto.graph.node)
    last = max((index for index, node in enumerate(nodes) if node.op_type in _DENSE), default=len(nodes))
    return [node.name for index, node in enumerate(nodes) if index == last or (index > last and node.op_type in _TAIL)]


def _reader(tools: Any, batches: Iterable[Stamps], input_name: str) -> Any:
    """The calibration reader that ONNX Runtime asks for, a batch at a time."""
    stream = iter(batches)
    first = next(stream, None)
    if first is None or not len(first):
        raise DataSetError("no triplet was given to calibrate the int8 graph on; draw some of the training part.")
    feeds = ({input_name: batch} for batch in itertools.chain([first], stream))

    class Reader(tools.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Stamps] | None:
            return next(feeds, None)

    return Reader()

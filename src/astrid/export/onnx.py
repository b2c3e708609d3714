"""A trained network as an ONNX graph: normalised triplets in, probability out."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from astrid.core.errors import GateError
from astrid.datasets.normalize import STAMP_SHAPE

INPUT = "triplets"
OUTPUT = "probability"

_EXAMPLE = 2  # triplets in the traced batch; torch would fix a batch of one


class _Probability(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, triplets: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.network(triplets))


def to_onnx(model: nn.Module, *, opset: int, metadata: Mapping[str, str], optimize: bool = True) -> bytes:
    """The network as a serialized ONNX model with a dynamic batch.

    Input `triplets`: float32 (n, 3, 63, 63), normalised. Output `probability`: float32 (n,), the sigmoid before calibration.
    `metadata` becomes the model's metadata properties. The same weights and metadata give the same bytes: what the exporter
    notes about its own source files is removed. `optimize`: ONNX Runtime folds what is constant and joins what follows a
    convolution (batch normalisation, a bias), in standard operators alone, so that every runtime and converter reads the result.

    Raises `GateError` when the ONNX checker refuses the graph.
    """
    import onnx

    network = _Probability(model).cpu().eval()
    example = torch.zeros((_EXAMPLE, *STAMP_SHAPE), dtype=torch.float32)
    with _quiet():
        program: Any = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=opset,
            dynamic_shapes={"triplets": {0: torch.export.Dim("n", min=1)}},
            input_names=[INPUT],
            output_names=[OUTPUT],
            external_data=False,
            verbose=False,
        )
    proto = _optimized(program.model_proto) if optimize else program.model_proto
    _strip(proto)
    onnx.helper.set_model_props(proto, dict(sorted(metadata.items())))
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GateError(f"the ONNX checker refuses the exported graph ({error}); export with another opset.") from error
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _optimized(proto: Any) -> Any:
    """The graph as ONNX Runtime's basic level leaves it. The levels above write operators of its own, for one kind of machine."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3  # errors only
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        optimized = onnx.load(str(path))
    used = {node.domain for node in optimized.graph.node}
    kept = [one for one in optimized.opset_import if one.domain in used]  # it declares every domain that it knows
    del optimized.opset_import[:]
    optimized.opset_import.extend(kept)
    return optimized


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what torch's exporter and onnxscript say about themselves; errors still come through."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _strip(proto: Any) -> None:
    """Remove stack traces, source paths and versions of the exporter: they change the bytes and tell where it was built."""
    proto.producer_name, proto.producer_version, proto.doc_string = "astrid", "", ""
    del proto.metadata_props[:]
    graph = proto.graph
    graph.doc_string = ""
    for item in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        del item.metadata_props[:]
        item.doc_string = ""

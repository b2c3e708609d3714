"""A model folder of a few kilobytes whose scores can be computed by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from astrid.export.folder import ModelFacts, manifest, write_folder


def tiny_graph() -> bytes:
    """sigmoid(40 * mean of the difference stamp's middle 9x9 pixels): a source that is positive there scores high."""
    weights = np.zeros((3 * 63 * 63, 1), np.float32)
    window = np.zeros((3, 63, 63), bool)
    window[2, 27:36, 27:36] = True
    weights[window.ravel()] = 40 / 81
    helper = onnx.helper
    nodes = [
        helper.make_node("Flatten", ["triplets"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        helper.make_node("Squeeze", ["logits", "axis"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("triplets", onnx.TensorProto.FLOAT, ["n", 3, 63, 63])],
        [helper.make_tensor_value_info("probability", onnx.TensorProto.FLOAT, ["n"])],
        [onnx.numpy_helper.from_array(weights, "weights"), onnx.numpy_helper.from_array(np.array([1]), "axis")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def write_tiny_model(folder: Path, *, threshold: float = 0.5, normalization: str = "asinh_noise.v1") -> Path:
    facts = ModelFacts(
        name="tiny",
        normalization=normalization,
        threshold=threshold,
        calibration={"method": "platt", "slope": 2.0, "bias": 0.5},
        metrics={"test.aucpr": 0.95},
        digests={"triplets": "0" * 64},
        parity={"largest": 1e-7},
        frameworks={"onnx": onnx.__version__},
    )
    graph = tiny_graph()
    write_folder(folder, manifest(facts, graph), graph)
    return folder

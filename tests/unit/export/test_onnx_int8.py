import numpy as np
import onnx
import pytest

from astrid.core.errors import DataSetError
from astrid.datasets.normalize import normalize
from astrid.export.onnx import INPUT, OUTPUT, to_onnx
from astrid.export.onnx_int8 import describe_quantization, quantize_onnx
from astrid.export.parity import onnx_scorer

pytest.importorskip("ai_edge_litert", reason="the support module writes TFLite files too")
from support.integer_model import NORMALIZATION, raw_stamps, small_network


@pytest.fixture(scope="module")
def graph():
    return to_onnx(small_network(), opset=18, metadata={"astrid.normalization": NORMALIZATION})


@pytest.fixture(scope="module")
def calibration():
    return normalize(raw_stamps(24, seed=1), NORMALIZATION)


@pytest.fixture(scope="module")
def integers(graph, calibration):
    return quantize_onnx(graph, [calibration[:16], calibration[16:]], input_name=INPUT)


def test_convolutions_compute_in_integers_and_the_probability_does_not(integers):
    facts = describe_quantization(integers, 24)
    assert facts["calibration_stamps"] == 24
    assert "Conv" in facts["integer_operators"]
    assert "Sigmoid" not in facts["integer_operators"]
    initializers = {one.name: one for one in onnx.load_from_string(integers).graph.initializer}
    kernels = [one for one in initializers.values() if len(one.dims) == 4]
    assert kernels
    assert all(one.data_type == onnx.TensorProto.INT8 for one in kernels)


def test_ends_batch_and_metadata_are_the_float_graphs(integers):
    proto = onnx.load_from_string(integers)
    (entry,), (result,) = proto.graph.input, proto.graph.output
    assert (entry.name, result.name) == (INPUT, OUTPUT)
    assert entry.type.tensor_type.shape.dim[0].dim_param
    assert {one.key: one.value for one in proto.metadata_props} == {"astrid.normalization": NORMALIZATION}


def test_the_same_graph_and_triplets_give_the_same_bytes(graph, calibration, integers):
    assert quantize_onnx(graph, [calibration], input_name=INPUT) == integers


def test_the_scores_are_near_and_triplets_that_do_not_cover_the_plane_show(graph, calibration, integers):
    stamps = normalize(raw_stamps(40, seed=2), NORMALIZATION)
    expected = onnx_scorer(graph, INPUT)(stamps)
    right = np.abs(onnx_scorer(integers, INPUT)(stamps) - expected).max()
    empty = quantize_onnx(graph, [np.zeros_like(calibration[:4])], input_name=INPUT)
    wrong = np.abs(onnx_scorer(empty, INPUT)(stamps) - expected).max()
    assert right < 0.12
    assert wrong > 3 * right


@pytest.mark.parametrize("batches", [[], [np.zeros((0, 3, 63, 63), np.float32)]])
def test_no_triplet_is_refused(graph, batches):
    with pytest.raises(DataSetError, match="no triplet was given to calibrate the int8 graph on"):
        quantize_onnx(graph, batches, input_name=INPUT)

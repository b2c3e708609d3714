from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from astrid.config.schema.model import ModelConfig
from astrid.core.errors import InputError
from astrid.export import quantize, tflite
from astrid.learning import models
from astrid.learning.graph import Runner, from_network
from astrid.learning.predict import probabilities
from astrid.learning.qat import Imitation

STAMPS = np.random.default_rng(0).uniform(-1, 1, (5, 3, 63, 63)).astype(np.float32)


def network(name="astrid_cnn", width=4):
    torch.manual_seed(0)
    model = models.build(ModelConfig(name=name, normalization="asinh_noise.v1", width=width, dense=16, conv_dropout=0.0, dropout=0.0))
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.normal_(layer.bias, std=0.05)
    return model.eval()


def integers(model, output="logit", normalization="asinh_noise.v1"):
    return quantize.calibrate(from_network(model), [STAMPS], normalization, output)


@pytest.mark.parametrize(("name", "width"), [("astrid_cnn", 4), ("braai", 4), ("resnet18", 64)])
def test_the_float_file_gives_the_networks_probabilities(name, width):
    model = network(name, width)
    found = tflite.scorer(tflite.write_float(from_network(model), batch=1))(STAMPS[:2])
    np.testing.assert_allclose(found, probabilities(model, [STAMPS[:2]]), atol=1e-5)


@pytest.mark.parametrize("output", ["logit", "probability"])
@pytest.mark.parametrize(("name", "width"), [("astrid_cnn", 4), ("braai", 4), ("resnet18", 64)])
def test_the_integer_file_gives_them_within_its_steps(name, width, output):
    model = network(name, width)
    found = tflite.scorer(tflite.write_int8(integers(model, output), batch=1))(STAMPS[:3])
    np.testing.assert_allclose(found, probabilities(model, [STAMPS[:3]]), atol=0.04)


def test_the_imitation_of_training_gives_the_integer_files_logits():
    model = network()
    found = integers(model)
    with torch.inference_mode():
        imitated = Imitation(found.graph, [(one.scale, one.zero_point) for one in found.values]).eval()(torch.from_numpy(STAMPS))
        exact = Runner(found.graph).eval()(torch.from_numpy(STAMPS))
    scores = tflite.scorer(tflite.write_int8(found, batch=1))(STAMPS).astype(np.float64)
    logits = np.log(scores / (1 - scores))
    step = found.values[-1].scale
    assert np.abs(logits - imitated.numpy()).max() <= 2.01 * step
    assert np.abs(logits - imitated.numpy()).mean() < np.abs(logits - exact.numpy()).mean() + step / 2


@pytest.mark.parametrize("batch", [2, 8])
def test_sizes_of_batch_give_the_same_scores_with_a_last_group_that_is_not_full(batch):
    found = integers(network())
    one, many = (tflite.scorer(tflite.write_int8(found, batch=size)) for size in (1, batch))
    np.testing.assert_array_equal(one(STAMPS), many(STAMPS))
    assert many(STAMPS[:0]).shape == (0,)


def test_the_same_numbers_give_the_same_bytes():
    assert tflite.write_int8(integers(network()), batch=1) == tflite.write_int8(integers(network()), batch=1)


def test_input_and_output_are_int8_and_static():
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=tflite.write_int8(integers(network(), "probability"), batch=2))
    given, asked = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    assert (given["dtype"], asked["dtype"]) == (np.int8, np.int8)
    assert list(given["shape"]) == list(given["shape_signature"]) == [2, 63, 63, 3]
    assert given["quantization"] == (pytest.approx(1 / 127), 0)
    assert asked["quantization"] == (1 / 256, -128)


def test_constants_lie_at_multiples_of_sixteen_bytes():
    content = tflite.write_int8(integers(network()), batch=1)
    for one in integers(network()).weights:
        assert content.index(one.weights.tobytes()) % 16 == 0


def test_the_kind_of_output_is_read_from_the_file():
    assert tflite.output_kind(tflite.write_int8(integers(network()), batch=1)) == "logit"
    assert tflite.output_kind(tflite.write_float(from_network(network()), batch=1)) == "probability"


def test_what_is_no_model_and_an_empty_batch_are_refused():
    with pytest.raises(InputError, match="LiteRT cannot run the TFLite file"):
        tflite.scorer(b"nothing of the kind" * 100)
    with pytest.raises(InputError, match="a batch of 0 triplets"):
        tflite.write_float(from_network(network()), batch=0)


def test_the_peer_quantizer_finds_the_same_integers():
    """Google's quantizer on the float file, calibrated on one triplet (so that its moving average is the extremes themselves).

    It leaves the operators their versions of float32, which is why the files are not made with it.
    """
    quantizer = pytest.importorskip("ai_edge_quantizer.quantizer", reason="the peer needs ai-edge-quantizer")
    from ai_edge_quantizer import qtyping

    model = network()
    graph = from_network(model)
    peer = quantizer.Quantizer(bytearray(tflite.write_float(graph, batch=1)))
    every, per_tensor = qtyping.TFLOperationName, qtyping.QuantGranularity.TENSORWISE
    peer.add_static_config(".*", every.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8)
    peer.add_static_config(".*", every.FULLY_CONNECTED, activation_num_bits=8, weight_num_bits=8, weight_granularity=per_tensor)
    sample = {tflite.INPUT: np.ascontiguousarray(STAMPS[:1].transpose(0, 2, 3, 1))}
    theirs = bytes(peer.quantize(peer.calibrate({"serving_default": [sample]}, num_threads=1)).quantized_model)
    ours = tflite.write_int8(quantize.calibrate(graph, [STAMPS[:1]], "l2.v1", "probability"), batch=1)
    s = tflite.schema()
    tables = [s.ModelT.InitFromPackedBuf(one, 0) for one in (ours, theirs)]
    assert _operators(tables[0]) == _operators(tables[1])
    for name in ("conv_1", "conv_3", "conv_5", "dense_8", "dense_9"):
        for role in ("weights", "bias"):
            (a, scale_a), (b, scale_b) = (_constant(table, f"{name}_{role}") for table in tables)
            np.testing.assert_allclose(scale_a, scale_b, rtol=2e-2 if role == "bias" else 1e-5)
            if role == "weights":
                assert np.abs(a.view(np.int8).astype(int) - b.view(np.int8)).max() <= 1
    np.testing.assert_allclose(tflite.scorer(ours)(STAMPS), tflite.scorer(theirs)(STAMPS), atol=2.01 / 256)


def _operators(model):
    codes = [max(one.builtinCode, one.deprecatedBuiltinCode) for one in model.operatorCodes]
    return [codes[one.opcodeIndex] for one in model.subgraphs[0].operators]


def _constant(model, name):
    tensor = next(one for one in model.subgraphs[0].tensors if one.name.decode() == name)
    return np.asarray(model.buffers[tensor.buffer].data, np.uint8), np.asarray(tensor.quantization.scale)

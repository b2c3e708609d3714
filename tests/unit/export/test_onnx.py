from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from astrid.config.schema import ModelConfig
from astrid.core.errors import GateError
from astrid.export.onnx import INPUT, OUTPUT, to_onnx
from astrid.export.parity import compare, gate, hostile_inputs, hostile_stamps, normalized_cases, onnx_scorer
from astrid.learning import models
from astrid.learning.predict import probabilities


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    cfg = ModelConfig(name="braai", normalization="l2.v1", width=4, dense=8, conv_dropout=0.25, dropout=0.5)
    return models.build(cfg).eval()


@pytest.fixture(scope="module")
def content(network):
    return to_onnx(network, opset=18, metadata={"astrid.normalization": "l2.v1", "astrid.a": "1"})


def test_the_graph_has_named_ends_a_free_batch_and_metadata(content):
    proto = onnx.load_from_string(content)
    (entry,), (result,) = proto.graph.input, proto.graph.output
    assert (entry.name, result.name) == (INPUT, OUTPUT)
    dimensions = entry.type.tensor_type.shape.dim
    assert dimensions[0].dim_param
    assert [one.dim_value for one in dimensions[1:]] == [3, 63, 63]
    assert {one.key: one.value for one in proto.metadata_props} == {"astrid.normalization": "l2.v1", "astrid.a": "1"}


def test_the_same_network_gives_the_same_bytes_without_paths(network, content):
    assert to_onnx(network, opset=18, metadata={"astrid.a": "1", "astrid.normalization": "l2.v1"}) == content
    assert b".py" not in content


def test_onnx_runtime_agrees_on_hostile_stamps(network, content):
    rng = np.random.default_rng(0)
    cases = normalized_cases(hostile_stamps(rng), "l2.v1") | hostile_inputs(rng)
    parity = compare(lambda stamps: probabilities(network, [stamps]), onnx_scorer(content, INPUT), cases, batch=5)
    assert parity.stamps == 8 * len(cases)
    gate(parity, 1e-5, artifact="model.onnx")


def test_another_network_does_not_pass_the_gate(network, content):
    torch.manual_seed(1)
    other = models.build(ModelConfig(name="braai", normalization="l2.v1", width=4, dense=8, conv_dropout=0.0, dropout=0.0))
    cases = {"noise": np.random.default_rng(0).standard_normal((4, 3, 63, 63)).astype(np.float32)}
    parity = compare(lambda stamps: probabilities(other, [stamps]), onnx_scorer(content, INPUT), cases, batch=4)
    with pytest.raises(
        GateError, match=r"model\.onnx differs from the network by .* on the case 'noise' \(4 stamps compared, limit 1e-05\)"
    ):
        gate(parity, 1e-5, artifact="model.onnx")


def test_a_graph_that_the_checker_refuses_is_not_exported(network, monkeypatch):
    def refuse(proto, full_check):
        raise onnx.checker.ValidationError("bad node")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(GateError, match="the ONNX checker refuses the exported graph \\(bad node\\)"):
        to_onnx(network, opset=18, metadata={})


def test_optimising_joins_layers_in_standard_operators_and_changes_no_score():
    torch.manual_seed(2)
    layers = [torch.nn.Conv2d(3, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(2 * 61**2, 1)]
    network = torch.nn.Sequential(*layers, torch.nn.Flatten(0)).eval()
    plain, better = (to_onnx(network, opset=18, metadata={}, optimize=choice) for choice in (False, True))
    proto = onnx.load_from_string(better)
    assert {one.domain for one in proto.opset_import} == {""}
    assert all(not node.domain for node in proto.graph.node)
    assert len(proto.graph.node) <= len(onnx.load_from_string(plain).graph.node)
    assert not any(node.op_type == "BatchNormalization" for node in proto.graph.node)
    stamps = np.random.default_rng(0).standard_normal((3, 3, 63, 63)).astype(np.float32)
    np.testing.assert_allclose(onnx_scorer(better, INPUT)(stamps), onnx_scorer(plain, INPUT)(stamps), atol=1e-6)

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from astrid.config.schema.model import ModelConfig
from astrid.core.errors import ConfigError
from astrid.learning import models
from astrid.learning.graph import Runner, from_network


def network(name, width, normalization="asinh_noise.v1"):
    torch.manual_seed(0)
    model = models.build(ModelConfig(name=name, normalization=normalization, width=width, dense=16, conv_dropout=0.25, dropout=0.5)).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):  # as after training: statistics and gains that are not 0 and 1
            layer.running_mean.uniform_(-0.2, 0.2)
            layer.running_var.uniform_(0.5, 2.0)
            layer.weight.data.uniform_(0.5, 1.5)
            layer.bias.data.uniform_(-0.2, 0.2)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.normal_(layer.bias, std=0.1)
    return model


STAMPS = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (3, 3, 63, 63)).astype(np.float32))


@pytest.mark.parametrize(("name", "width"), [("astrid_cnn", 4), ("braai", 4), ("resnet18", 64)])
def test_the_graph_gives_the_networks_logits(name, width):
    model = network(name, width)
    with torch.inference_mode():
        expected, found = model(STAMPS), Runner(from_network(model)).eval()(STAMPS)
    assert found.shape == (3,)
    assert expected.max() > expected.min()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_relu_goes_before_its_pool_into_the_convolution():
    graph = from_network(network("astrid_cnn", 4))
    assert [one.kind for one in graph.operators] == ["conv", "max_pool"] * 3 + ["flatten", "dense", "dense"]
    assert [one.relu for one in graph.operators if one.weights is not None] == [True, True, True, True, False]
    assert graph.shapes[0] == (63, 63, 3)
    assert graph.shapes[-1] == (1,)


def test_a_stride_that_same_padding_would_shift_is_padded_openly():
    graph = from_network(network("resnet18", 64))
    assert graph.operators[0].same  # 63 -> 32 with one pixel on each side: TFLite's own
    strided = [one for one in graph.operators if one.kind == "conv" and one.stride == 2 and one.size == 3][1:]
    assert len(strided) == 3  # 32 -> 16 needs one pixel in front, where SAME has none
    assert not any(one.same for one in strided)
    assert sum(one.kind == "pad" for one in graph.operators) == 3


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (nn.Sequential(nn.Conv2d(3, 3, 3), nn.Sigmoid()), "the layer Sigmoid"),
        (nn.Sequential(nn.Conv2d(3, 3, 3, dilation=2)), "the layer Conv2d"),
        (nn.Sequential(nn.Conv2d(3, 3, 3), nn.MaxPool2d(3, stride=2)), "the layer MaxPool2d"),
        (nn.Sequential(nn.ReLU()), "a ReLU that follows no convolution"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 63 * 63, 2)), r"ends in the shape \(2,\)"),
        (nn.ModuleDict(), "the layer ModuleDict"),
    ],
)
def test_a_layer_without_an_integer_form_is_named(layers, said):
    with pytest.raises(ConfigError, match=said):
        from_network(layers)

from __future__ import annotations

import pytest
import torch

from astrid.core.errors import ConfigError, InputError
from astrid.learning import models


@pytest.mark.parametrize(("name", "weights"), [("astrid_cnn", 1_699_393), ("braai", 312_081), ("resnet18", 11_169_345)])
def test_a_network_gives_one_logit_a_triplet(make_model, name, weights):
    model = models.build(make_model(name)).eval()
    assert models.count_weights(model) == weights
    assert model(torch.randn(2, 3, 63, 63)).shape == (2,)


def test_the_architectures_of_the_papers_are_followed(make_model):
    shapes = [tuple(p.shape) for p in models.build(make_model("braai")).parameters() if p.ndim > 1]
    assert shapes == [(16, 3, 3, 3), (16, 16, 3, 3), (32, 16, 3, 3), (32, 32, 3, 3), (256, 32 * 36), (1, 256)]
    shapes = [tuple(p.shape) for p in models.build(make_model("astrid_cnn")).parameters() if p.ndim > 1]
    assert shapes == [(32, 3, 3, 3), (64, 32, 3, 3), (128, 64, 3, 3), (256, 128 * 49), (1, 256)]


@pytest.mark.parametrize("name", ["astrid_cnn", "braai"])
def test_relu_behind_the_pool_gives_the_values_and_gradients_of_relu_before_it(make_model, name):
    model = models.build(make_model(name, width=4, dense=8)).eval()
    layers = list(model.layers)
    pools = [place for place, layer in enumerate(layers) if isinstance(layer, torch.nn.MaxPool2d)]
    for place in pools:
        layers[place], layers[place + 1] = layers[place + 1], layers[place]
    assert all(isinstance(layers[place], torch.nn.ReLU) for place in pools)
    triplets, gradients = torch.randn(4, 3, 63, 63), []
    for network in (model.layers, torch.nn.Sequential(*layers)):
        gradients.append(torch.autograd.grad(network(triplets).sum(), list(model.parameters())))
    assert torch.equal(model.layers(triplets), torch.nn.Sequential(*layers)(triplets))
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_initial_weights_keep_the_scale_of_l2_normalised_stamps(make_model):
    torch.manual_seed(0)
    model = models.build(make_model("braai")).eval()
    unit_norm = torch.nn.functional.normalize(torch.randn(64, 3, 63 * 63), dim=2).reshape(64, 3, 63, 63)
    assert model(unit_norm).std() > 1e-3


def test_resnet18_takes_no_other_width(make_model):
    with pytest.raises(ConfigError, match=r"model\.width = 32 is not allowed for resnet18"):
        models.build(make_model("resnet18", width=32))


def test_a_dumped_network_comes_back_and_equal_weights_give_equal_bytes(make_model):
    cfg = make_model(width=2, dense=4)
    model = models.build(cfg).eval()
    content = models.dump(model, cfg)
    loaded, loaded_cfg = models.load(content, source="model.pt")
    triplets = torch.randn(3, 3, 63, 63)
    assert loaded_cfg == cfg
    assert torch.equal(loaded(triplets), model(triplets))
    assert models.dump(loaded, loaded_cfg) == content


def test_what_is_no_network_is_refused(make_model):
    cfg = make_model(width=2, dense=4)
    with pytest.raises(InputError, match=r"x\.pt is not a readable torch file"):
        models.load(b"not torch", source="x.pt")
    with pytest.raises(InputError, match="holds a list where a mapping belongs"):
        models.load(models.to_bytes([1]), source="x.pt")
    with pytest.raises(InputError, match="holds no AstrID network"):
        models.load(models.to_bytes({"a": 1}), source="x.pt")
    wide = models.from_bytes(models.dump(models.build(make_model(width=4, dense=4)), cfg), source="x.pt")
    with pytest.raises(InputError, match="does not fit the network astrid_cnn"):
        models.load(models.to_bytes(wide), source="x.pt")

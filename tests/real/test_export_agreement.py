"""The ONNX graph gives what torch gives on thousands of stamps: real alerts, simulated triplets, and both damaged in every way."""

import numpy as np
import pytest
import torch

from astrid.config.schema import ModelConfig
from astrid.core.records import Triplet
from astrid.export.onnx import INPUT, to_onnx
from astrid.export.parity import compare, damaged_stamps, gate, hostile_inputs, hostile_stamps, normalized_cases, onnx_scorer
from astrid.io.alerts import read_alerts
from astrid.learning import models
from astrid.learning.predict import probabilities


@pytest.fixture(scope="module")
def raw(shared_data):
    """Stamps by case: 756 real alerts as they are and damaged, sources on noise, adversarial ones."""
    rng = np.random.default_rng(0)
    alerts = np.stack([one.stamps for one in read_alerts([shared_data / "alerts"]) if isinstance(one, Triplet)])
    y, x = np.indices((63, 63)) - 31
    source = np.exp(-(x**2 + y**2) / (2 * rng.uniform(1, 3, (400, 1, 1)) ** 2)) * rng.uniform(5, 500, (400, 1, 1))
    simulated = rng.normal(100, 5, (400, 3, 63, 63))
    simulated[:, ::2] += source[:, None]
    return {"alerts": alerts, **damaged_stamps(alerts, rng), "simulated": simulated.astype(np.float32), **hostile_stamps(rng, 40)}


@pytest.mark.parametrize(("name", "width", "normalization"), [("astrid_cnn", 8, "asinh_noise.v1"), ("braai", 8, "l2.v1")])
def test_torch_and_onnx_agree_on_five_thousand_stamps(raw, name, width, normalization):
    torch.manual_seed(0)
    network = models.build(ModelConfig(name=name, normalization=normalization, width=width, dense=32, conv_dropout=0.1, dropout=0.5)).eval()
    scorer = onnx_scorer(to_onnx(network, opset=18, metadata={}), INPUT, threads=1)
    cases = normalized_cases(raw, normalization) | hostile_inputs(np.random.default_rng(1), 40)
    parity = compare(lambda stamps: probabilities(network, [stamps]), scorer, cases, batch=64)
    assert parity.stamps >= 5000
    gate(parity, 1e-5, artifact="model.onnx")

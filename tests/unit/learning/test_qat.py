from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from astrid.config.schema.integer import TuningConfig
from astrid.core.errors import DataSetError
from astrid.learning.graph import Runner, from_network
from astrid.learning.qat import Imitation, tune

COARSE = 0.5  # scale of the hidden values: half of their spread, so that rounding hurts


def small():
    torch.manual_seed(1)
    eye = [nn.Conv2d(3, 4, 3, stride=3), nn.ReLU(), nn.MaxPool2d(3)]
    return from_network(nn.Sequential(*eye, nn.Flatten(), nn.Linear(4 * 49, 8), nn.ReLU(), nn.Linear(8, 1)).eval())


def draw(count, rng):
    return rng.uniform(-1, 1, (count, 3, 63, 63)).astype(np.float32)


def settings(**changes):
    return TuningConfig(**{"steps": 200, "batch": 16, "learning_rate": 3e-3, "aucpr_loss": 0.0, "recall_loss": 0.0, **changes})


def scales(graph, hidden):
    return [(1 / 127, 0), *([(hidden, -128)] * (len(graph.operators) - 1)), (0.01, 0)]


def error(graph, reference, coarse):
    triplets = torch.from_numpy(draw(64, np.random.default_rng(9)))
    with torch.inference_mode():
        return float((Imitation(graph, coarse)(triplets) - Runner(reference)(triplets)).pow(2).mean().sqrt())


def test_training_with_rounding_loses_less_by_rounding():
    graph = small()
    coarse = scales(graph, COARSE)
    before = error(graph, graph, coarse)
    after = error(tune(graph, coarse, draw, settings(), np.random.default_rng(2)), graph, coarse)
    assert after < 0.7 * before


def test_the_same_draws_give_the_same_weights():
    graph = small()
    once, again = (tune(graph, scales(graph, COARSE), draw, settings(steps=2), np.random.default_rng(3)) for _ in range(2))
    for one, other in zip(once.operators, again.operators, strict=True):
        np.testing.assert_array_equal(one.weights, other.weights)


def test_fine_scales_change_nothing_but_the_weights_own_codes():
    graph = small()
    triplets = torch.from_numpy(draw(4, np.random.default_rng(4)))
    with torch.inference_mode():
        exact, rounded = Runner(graph)(triplets), Imitation(graph, scales(graph, 0.02))(triplets)
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.1)
    assert not torch.equal(rounded, exact)


def test_training_that_leaves_no_finite_number_is_refused():
    graph = small()

    def broken(count, rng):
        return np.full((count, 3, 63, 63), np.nan, np.float32)

    with pytest.raises(DataSetError, match=r"diverged at a learning rate of 0\.003; lower it"):
        tune(graph, scales(graph, 0.02), broken, settings(steps=2), np.random.default_rng(5))

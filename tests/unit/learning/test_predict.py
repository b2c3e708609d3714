from __future__ import annotations

import numpy as np
import pytest
import torch

from astrid.core.errors import DataSetError
from astrid.learning import models
from astrid.learning.predict import predict, predict_rows


@pytest.fixture
def model(make_model):
    torch.manual_seed(0)
    return models.build(make_model("braai", width=4, dense=8, normalization="l2.v1"))


def test_scores_are_probabilities_in_the_order_of_the_stamps(model, toy):
    scores = predict(model, toy.array, "l2.v1", batch=10)
    assert scores.shape == (64,)
    assert scores.dtype == np.float32
    assert ((scores > 0) & (scores < 1)).all()
    np.testing.assert_allclose(predict(model, toy.array[::-1], "l2.v1"), scores[::-1], atol=1e-6)
    np.testing.assert_allclose(predict_rows(model, toy, np.array([3, 60]), "l2.v1"), scores[[3, 60]], atol=1e-6)


def test_dropout_is_off_and_the_mode_is_left_as_it_was(model, toy):
    model.train()
    np.testing.assert_array_equal(predict(model, toy.array[:4], "l2.v1"), predict(model, toy.array[:4], "l2.v1"))
    assert model.training


def test_masked_and_empty_input_give_a_score_or_nothing(model):
    masked = np.full((2, 3, 63, 63), np.nan, dtype=np.float32)
    assert np.isfinite(predict(model, masked, "l2.v1")).all()
    assert predict(model, masked[:0], "l2.v1").shape == (0,)


def test_a_broken_network_is_said(model, toy):
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(DataSetError, match="no finite score for 4 of 4 triplets"):
        predict(model, toy.array[:4], "l2.v1")

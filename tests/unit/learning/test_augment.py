from __future__ import annotations

import numpy as np
import pytest
import torch

from astrid.config.schema.train import AugmentConfig
from astrid.learning.augment import Augmenter, move


@pytest.fixture
def batch():
    return torch.from_numpy(np.random.default_rng(0).standard_normal((8, 3, 63, 63)).astype(np.float32))


def test_turns_are_the_eight_elements_of_d4(batch):
    turned = move(batch, np.arange(8), np.zeros((8, 2), dtype=int)).numpy()
    for element in range(8):
        expected = np.rot90(batch[element].numpy(), element % 4, axes=(1, 2))
        expected = expected[:, :, ::-1] if element >= 4 else expected
        np.testing.assert_array_equal(turned[element], expected)
    same = batch[:1].expand(8, -1, -1, -1)
    images = move(same, np.arange(8), np.zeros((8, 2), dtype=int)).numpy()
    assert len({image.tobytes() for image in images}) == 8


def test_a_shift_moves_all_stamps_and_repeats_the_edge(batch):
    shifted = move(batch, np.zeros(8, dtype=int), np.tile([1, -2], (8, 1)))
    assert torch.equal(shifted[:, :, 1:, :-2], batch[:, :, :-1, 2:])
    assert torch.equal(shifted[:, :, 0, :-2], batch[:, :, 0, 2:])
    assert torch.equal(shifted[:, :, 1:, -1], batch[:, :, :-1, -1])


def test_draws_depend_on_the_generator_only(batch):
    augment = Augmenter(AugmentConfig(turns="d4", shift=1, noise=0.1))
    first, second, other = (augment(batch, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_everything_off_changes_nothing(batch):
    assert torch.equal(Augmenter(AugmentConfig(turns="none", shift=0, noise=0.0))(batch, np.random.default_rng(0)), batch)


def test_noise_has_the_asked_width(batch):
    noisy = Augmenter(AugmentConfig(turns="none", shift=0, noise=0.5))(batch, np.random.default_rng(0))
    assert float((noisy - batch).std()) == pytest.approx(0.5, rel=0.02)

from __future__ import annotations

import numpy as np
import pytest
import torch

from astrid.core.errors import ConfigError
from astrid.core.runtime import rng_for
from astrid.datasets.normalize import NORMALIZATIONS, normalize
from astrid.learning.augment import Augmenter, move, swap


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


def draws(seed):
    return lambda effect: rng_for(seed, effect)


def test_draws_depend_on_the_generators_only(batch, augment_config):
    augment = Augmenter(augment_config(turns="d4", shift=1, swap=0.5))
    first, second, other = (augment(batch, draws(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_each_augmentation_draws_for_itself(batch, augment_config):
    turned = Augmenter(augment_config(turns="d4"))(batch, draws(1))
    both = Augmenter(augment_config(turns="d4", swap=1.0))(batch, draws(1))
    assert torch.equal(both, turned[:, [1, 0, 2]])


def test_everything_off_changes_nothing(batch, augment_config):
    assert torch.equal(Augmenter(augment_config())(batch, draws(0)), batch)


@pytest.mark.parametrize("name", sorted(NORMALIZATIONS))
def test_swapped_epochs_are_the_triplet_of_the_fading_source(batch, name):
    """Science and reference taken the other way round give this triplet: the difference is turned so that the source is positive."""
    science, reference = batch[:, 0].numpy(), batch[:, 1].numpy()
    brightened = np.stack([science, reference, science - reference], axis=1)
    faded = np.stack([reference, science, -(reference - science)], axis=1)  # sign -1 times new science minus new reference
    swapped = swap(torch.from_numpy(normalize(brightened, name)), np.ones(8, dtype=bool))
    np.testing.assert_array_equal(swapped.numpy(), normalize(faded, name))


def test_swap_strikes_the_chosen_share(batch, augment_config):
    chosen = np.arange(8) % 3 == 0
    swapped = swap(batch, chosen)
    assert torch.equal(swapped[~chosen], batch[~chosen])
    assert torch.equal(swapped[chosen], batch[chosen][:, [1, 0, 2]])
    many = batch[:1].expand(2000, -1, -1, -1)[:, :, :2, :2]
    struck = (Augmenter(augment_config(swap=0.3))(many, draws(0)) != many).flatten(1).any(1)
    assert float(struck.float().mean()) == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("key", ["subpixel", "blur", "noise"])
def test_values_beyond_which_a_label_loses_its_meaning_are_refused(augment_config, key):
    with pytest.raises(ConfigError, match=rf"train\.augment\.{key}"):
        augment_config(**{key: 1.5})


def test_a_border_over_the_source_is_refused(augment_config):
    with pytest.raises(ConfigError, match=r"train\.augment\.border"):
        augment_config(border=28.0)

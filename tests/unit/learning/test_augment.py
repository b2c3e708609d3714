from __future__ import annotations

import numpy as np
import pytest

from astrid.core.errors import ConfigError
from astrid.core.runtime import rng_for
from astrid.datasets.normalize import NORMALIZATIONS, normalize
from astrid.learning.augment import Moves


def move(batch, turns=0, shifts=(0, 0), swapped=False):
    out = np.empty_like(batch)
    count = len(batch)
    moves = Moves(np.broadcast_to(turns, count), np.broadcast_to(shifts, (count, 2)), np.broadcast_to(swapped, count))
    moves.apply(enumerate(batch), out)
    return out


def augmented(batch, cfg, draw):
    out = np.empty_like(batch)
    Moves.draw(cfg, len(batch), draw).apply(enumerate(batch), out)
    return out


@pytest.fixture
def batch():
    return np.random.default_rng(0).standard_normal((8, 3, 63, 63)).astype(np.float32)


def test_turns_are_the_eight_elements_of_d4(batch):
    turned = move(batch, np.arange(8))
    for element in range(8):
        expected = np.rot90(batch[element], element % 4, axes=(1, 2))
        expected = expected[:, :, ::-1] if element >= 4 else expected
        np.testing.assert_array_equal(turned[element], expected)
    images = move(np.repeat(batch[:1], 8, axis=0), np.arange(8))
    assert len({image.tobytes() for image in images}) == 8


@pytest.mark.parametrize("turn", [0, 5])
@pytest.mark.parametrize("shift", [(1, -2), (-3, 0), (0, 2), (8, 8), (-8, -1)])
def test_a_shift_moves_all_stamps_and_repeats_the_edge(batch, shift, turn):
    down, right = shift
    wide = np.pad(move(batch, turn), ((0, 0), (0, 0), (8, 8), (8, 8)), mode="edge")
    expected = wide[:, :, 8 - down : 71 - down, 8 - right : 71 - right]
    np.testing.assert_array_equal(move(batch, turn, shift), expected)
    np.testing.assert_array_equal(move(batch, turn, shift, True), expected[:, [1, 0, 2]])


def test_images_go_to_their_places_in_any_order(batch):
    moves = Moves(np.arange(8), np.tile([1, -2], (8, 1)), np.arange(8) % 2 == 0)
    out, turned = np.empty_like(batch), np.empty_like(batch)
    moves.apply(enumerate(batch), out)
    moves.apply(((place, batch[place]) for place in (3, 7, 0, 1, 6, 2, 5, 4)), turned)
    np.testing.assert_array_equal(out, turned)


def draws(seed):
    return lambda effect: rng_for(seed, effect)


def test_draws_depend_on_the_generators_only(batch, augment_config):
    cfg = augment_config(turns="d4", shift=1, swap=0.5)
    first, second, other = (augmented(batch, cfg, draws(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_each_augmentation_draws_for_itself(batch, augment_config):
    turned = augmented(batch, augment_config(turns="d4"), draws(1))
    both = augmented(batch, augment_config(turns="d4", swap=1.0), draws(1))
    np.testing.assert_array_equal(both, turned[:, [1, 0, 2]])


def test_everything_off_changes_nothing(batch, augment_config):
    np.testing.assert_array_equal(augmented(batch, augment_config(), draws(0)), batch)


@pytest.mark.parametrize("name", sorted(NORMALIZATIONS))
def test_swapped_epochs_are_the_triplet_of_the_fading_source(batch, name):
    """Science and reference taken the other way round give this triplet: the difference is turned so that the source is positive."""
    science, reference = batch[:, 0], batch[:, 1]
    brightened = np.stack([science, reference, science - reference], axis=1)
    faded = np.stack([reference, science, -(reference - science)], axis=1)  # sign -1 times new science minus new reference
    np.testing.assert_array_equal(move(normalize(brightened, name), swapped=True), normalize(faded, name))


def test_swap_strikes_the_chosen_share(batch, augment_config):
    chosen = np.arange(8) % 3 == 0
    swapped = move(batch, swapped=chosen)
    np.testing.assert_array_equal(swapped[~chosen], batch[~chosen])
    np.testing.assert_array_equal(swapped[chosen], batch[chosen][:, [1, 0, 2]])
    many = np.repeat(batch[:1, :, :2, :2], 2000, axis=0)
    struck = (augmented(many, augment_config(swap=0.3), draws(0)) != many).any(axis=(1, 2, 3))
    assert struck.mean() == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("key", ["subpixel", "blur", "noise"])
def test_values_beyond_which_a_label_loses_its_meaning_are_refused(augment_config, key):
    with pytest.raises(ConfigError, match=rf"train\.augment\.{key}"):
        augment_config(**{key: 1.5})


def test_a_border_over_the_source_is_refused(augment_config):
    with pytest.raises(ConfigError, match=r"train\.augment\.border"):
        augment_config(border=28.0)

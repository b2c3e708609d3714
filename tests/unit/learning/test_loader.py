from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from astrid.config.schema.train import AugmentConfig
from astrid.config.validate import validate
from astrid.core.errors import DataSetError
from astrid.core.runtime import rng_for
from astrid.datasets.normalize import levels, normalize
from astrid.learning.augment import Moves
from astrid.learning.effects import distort, plan
from astrid.learning.loader import NormalizedStamps, batches, class_weights, epoch_order, open_stamps, select, stretch_of


def test_a_part_holds_labelled_scorable_rows_only(toy, splits):
    toy.table.loc[0, "label"] = -1
    toy.table.loc[1, "scorable"] = False
    part = select(toy.table, splits, "train")
    assert part.rows.tolist() == list(range(2, 48))
    assert (part.real, part.bogus) == (23, 23)


def test_an_empty_class_is_refused(toy, splits):
    toy.table["label"] = 0
    with pytest.raises(DataSetError, match="the part 'validation' holds 0 real and 16 bogus triplets"):
        select(toy.table, splits, "validation")


def test_a_split_of_other_triplets_is_refused(toy, splits):
    more = pd.concat([splits, pd.DataFrame({"candidate_id": ["elsewhere"], "part": ["train"], "group_id": [""]})])
    with pytest.raises(DataSetError, match="1 candidates of the part 'train' are not in the triplet table, 'elsewhere' first"):
        select(toy.table, more, "train")


@pytest.mark.parametrize("cache_bytes", [0, 1e9])
def test_stamps_are_normalised_alike_with_and_without_a_cache(toy, cache_bytes):
    rows = np.array([5, 9, 40])
    stamps = NormalizedStamps(toy, rows, "l2.v1", cache_bytes=cache_bytes)
    assert stamps.cached == (cache_bytes > 0)
    assert len(stamps) == 3
    np.testing.assert_array_equal(stamps.batch(np.array([2, 0])).numpy(), normalize(toy.array[[40, 5]], "l2.v1"))


def test_an_epoch_visits_every_triplet_once_unless_it_samples():
    labels = np.array([1.0] * 10 + [0.0] * 990, dtype=np.float32)
    order = epoch_order(labels, "loss", np.random.default_rng(0))
    assert sorted(order) == list(range(1000))
    sampled = epoch_order(labels, "sampling", np.random.default_rng(0))
    assert len(sampled) == 1000
    assert labels[sampled].mean() == pytest.approx(0.5, abs=0.05)


def test_class_weights_give_both_classes_the_same_sum():
    labels = np.array([1, 0, 0, 0], dtype=np.float32)
    bogus, real = class_weights(labels)
    assert real * 1 == pytest.approx(bogus * 3)
    assert bogus * 3 + real * 1 == pytest.approx(4)


def test_batches_cover_the_order():
    assert [list(one) for one in batches(np.arange(5), 2)] == [[0, 1], [2, 3], [4]]


def test_near_neighbours_are_read_together_and_still_shuffled():
    labels = np.zeros(20_000, dtype=np.float32)
    order = epoch_order(labels, "none", np.random.default_rng(0), stretch=64)
    assert sorted(order) == list(range(20_000))
    for batch in batches(order[:4096], 64):
        assert len(np.unique(batch // 64)) > 25  # a batch mixes many places of the store
    assert len(np.unique(order[:4096] // 64)) <= 65  # and a pool of batches reads few of them, whole
    again = epoch_order(labels, "none", np.random.default_rng(1), stretch=64)
    assert not np.array_equal(order, again)


def test_a_near_order_samples_like_any_other():
    labels = np.array([1.0] * 100 + [0.0] * 9900, dtype=np.float32)
    order = epoch_order(labels, "sampling", np.random.default_rng(0), stretch=64)
    assert labels[order].mean() == pytest.approx(0.5, abs=0.03)


def test_the_stretch_follows_from_where_the_stamps_are(toy):
    rows = np.arange(8)
    assert stretch_of(NormalizedStamps(toy, rows, "l2.v1", cache_bytes=1e9)) == 1
    assert stretch_of(NormalizedStamps(toy, rows, "l2.v1", cache_bytes=0)) > 1


def test_parts_share_the_memory_and_the_first_comes_first(toy, splits):
    parts = [select(toy.table, splits, name) for name in ("train", "validation")]
    each = 3 * 63 * 63 * 4 / 1e6  # MB
    for triplets, cached in ((64, [True, True]), (63, [True, False]), (47, [False, True]), (15, [False, False])):
        opened = open_stamps(toy, parts, "l2.v1", cache_mb=triplets * each * 1.0001)
        assert [stamps.cached for stamps in opened] == cached
        assert sum(stamps.nbytes for stamps in opened) <= triplets * each * 1.0001e6


@pytest.mark.parametrize("cache_bytes", [0, 1e9])
@pytest.mark.parametrize("name", ["asinh_noise.v1", "l2.v1", "asinh_int8.v1"])
def test_effects_act_on_raw_stamps_and_leave_the_others(toy, augment_config, cache_bytes, name):
    toy.table["sign"] = np.where(np.arange(64) % 3 == 0, -1, 1)
    rows = np.arange(10, 60)
    stamps = NormalizedStamps(toy, rows, name, cache_bytes=cache_bytes)
    positions = np.random.default_rng(0).permutation(50)
    cfg = augment_config(share=0.4, gain=0.05, noise=0.4, border=20.0)

    def draws(effect):
        return rng_for(3, effect)

    touched = plan(cfg, 50, draws).touched
    out = stamps.augmented(positions, cfg, draws).numpy()
    plain = stamps.batch(positions).numpy()
    untouched = np.setdiff1d(np.arange(50), touched)
    np.testing.assert_array_equal(out[untouched], plain[untouched])
    chosen = rows[positions[touched]]
    expected = toy.array[chosen]
    distort(expected, toy.table["sign"].to_numpy()[chosen], levels(expected), cfg, plan(cfg, 50, draws))
    np.testing.assert_array_equal(out[touched], normalize(expected, name))
    assert 5 < len(touched) < 40
    assert (out[touched] != plain[touched]).any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(stamps.batch(positions).numpy(), plain)  # what is kept in memory stays as it was measured


@pytest.mark.parametrize("cache_bytes", [0, 1e9])
def test_every_kind_of_augmentation_is_done_into_any_memory(toy, everything, cache_bytes):
    cfg = validate(AugmentConfig, everything, path="train.augment")
    stamps = NormalizedStamps(toy, np.arange(64), "asinh_noise.v1", cache_bytes=cache_bytes)
    order = np.random.default_rng(5).permutation(64)[:48]

    def draws(effect):
        return rng_for(3, effect, 5)

    made = stamps.augmented(order, cfg, draws).numpy().copy()
    given = np.full((50, 3, 63, 63), np.nan, dtype=np.float32)
    assert stamps.augmented(order, cfg, draws, given).data_ptr() == given.ctypes.data
    np.testing.assert_array_equal(given[:48], made)
    assert np.isnan(given[48:]).all()
    assert stamps.batch(order, given).data_ptr() == given.ctypes.data
    np.testing.assert_array_equal(given[:48], stamps.batch(order).numpy())

    plain = NormalizedStamps(toy, order, "asinh_noise.v1", cache_bytes=cache_bytes)
    expected = np.empty_like(made)
    off = dataclasses.replace(cfg, turns="none", shift=0, swap=0.0)
    Moves.draw(cfg, 48, draws).apply(enumerate(plain.augmented(np.arange(48), off, draws).numpy()), expected)
    np.testing.assert_array_equal(made, expected)


def test_a_batch_that_is_held_keeps_its_values_and_one_that_is_not_gives_its_memory_back(toy, everything):
    cfg = validate(AugmentConfig, everything, path="train.augment")
    stamps = NormalizedStamps(toy, np.arange(64), "l2.v1", cache_bytes=0)
    places = np.arange(32)
    held = stamps.batch(places)
    part = stamps.batch(places + 10)[3:5].numpy()[:, 1:]
    for number in range(5):
        stamps.augmented(places + number, cfg, lambda effect: rng_for(1, effect))
    np.testing.assert_array_equal(held.numpy(), normalize(toy.array[:32], "l2.v1"))
    np.testing.assert_array_equal(part, normalize(toy.array[13:15], "l2.v1")[:, 1:])
    address = held.data_ptr()
    del held
    assert stamps.batch(places).data_ptr() == address

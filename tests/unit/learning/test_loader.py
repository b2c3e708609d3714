from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from astrid.core.errors import DataSetError
from astrid.datasets.normalize import normalize
from astrid.learning.loader import NormalizedStamps, batches, class_weights, epoch_order, select


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

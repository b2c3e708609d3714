import numpy as np
import pandas as pd
import pytest

from astrid.core.errors import DataSetError
from astrid.datasets.joined import JoinedStores, as_training


class Store:
    """Triplets whose first pixel is their number."""

    def __init__(self, first, names, digest):
        self.table = pd.DataFrame({"candidate_id": names, "event_id": ["", *names[1:]], "label": 1})
        self.digest = digest
        self._first = first

    def stamps(self, indices, out=None):
        out = np.empty((len(indices), 3, 63, 63), np.float32) if out is None else out
        out[:] = 0
        out[:, 0, 0, 0] = self._first + np.asarray(indices)
        return out


def joined(digest="b"):
    splits = [pd.DataFrame({"candidate_id": ["x", "y"], "part": ["train", "test"], "group_id": ["g", ""]})] * 2
    return JoinedStores([(Store(0, ["x", "y"], "a"), splits[0]), (Store(10, ["x", "y"], digest), splits[1])])


def test_stamps_come_from_their_own_store_in_the_asked_order():
    both = joined()
    assert len(both) == 4
    assert both.stamps(np.array([3, 0, 2, 1]))[:, 0, 0, 0].tolist() == [11, 0, 10, 1]
    assert both.stamps(np.array([], int)).shape == (0, 3, 63, 63)
    memory = np.empty((2, 3, 63, 63), np.float32)
    assert both.stamps(np.array([1, 2]), memory) is memory
    assert memory[:, 0, 0, 0].tolist() == [1, 10]


def test_equal_names_of_two_stores_stay_apart():
    both = joined()
    assert both.table["candidate_id"].tolist() == ["0/x", "0/y", "1/x", "1/y"]
    assert both.splits["candidate_id"].tolist() == both.table["candidate_id"].tolist()
    assert both.table["event_id"].tolist() == ["", "0/y", "", "1/y"]
    assert both.splits["group_id"].tolist() == ["0/g", "", "1/g", ""]


def test_the_digest_covers_every_store():
    assert joined().digest == joined().digest != joined("c").digest


def test_parts_that_train_become_one():
    splits = pd.DataFrame({"candidate_id": list("abcd"), "part": ["train", "validation", "test", "unused"], "group_id": ""})
    assert as_training(splits, ("train",))["part"].tolist() == splits["part"].tolist()
    assert as_training(splits, ("train", "test"))["part"].tolist() == ["train", "validation", "train", "unused"]
    with pytest.raises(DataSetError, match="the part 'validation' cannot be trained on"):
        as_training(splits, ("train", "validation"))

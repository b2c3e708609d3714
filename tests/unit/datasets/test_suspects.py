"""Suspects: planted wrong labels are found, right ones are left alone, and folds keep groups whole."""

from __future__ import annotations

import numpy as np
import pytest

from astrid.core.errors import DataSetError
from astrid.datasets.suspects import find_suspects, folds


def planted(count: int = 4000, wrong: float = 0.05, lean: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Names, labels with a share of wrong ones, scores of an honest model, and which are wrong."""
    rng = np.random.default_rng(5)
    truth = (rng.random(count) < 0.4).astype(int)
    scores = np.clip(np.where(truth == 1, rng.beta(8, 2, count), rng.beta(2, 8, count)) + lean, 0, 1)
    flipped = rng.random(count) < wrong
    return np.array([f"c{n}" for n in range(count)]), np.where(flipped, 1 - truth, truth), scores, flipped


def test_planted_errors_are_counted_and_listed() -> None:
    names, labels, scores, flipped = planted()
    doubt = find_suspects(names, labels, scores)
    listed = np.isin(names, doubt.suspects["candidate_id"])
    assert doubt.share == pytest.approx(0.05, abs=0.01)
    assert doubt.joint.sum() == pytest.approx(1)
    assert flipped[listed].mean() > 0.9
    assert listed[flipped].mean() > 0.85
    assert flipped[np.isin(names, doubt.suspects["candidate_id"][:100])].all()
    assert (np.diff(doubt.suspects["margin"]) <= 0).all()


@pytest.mark.parametrize("lean", [-0.2, 0.2])
def test_a_score_that_leans_to_one_side_does_not_mislead(lean: float) -> None:
    names, labels, scores, flipped = planted(lean=lean)
    listed = np.isin(names, find_suspects(names, labels, scores).suspects["candidate_id"])
    assert flipped[listed].mean() > 0.8


def test_the_joint_follows_equations_1_to_3() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1])
    scores = np.array([0.1, 0.2, 0.3, 0.9, 0.8, 0.9, 0.1])
    doubt = find_suspects(np.arange(7).astype(str), labels, scores)
    np.testing.assert_allclose(doubt.thresholds, [0.625, 0.6])  # means of the own class's probability
    counts = np.array([[3, 1], [1, 2]])  # every row is sure of one class
    np.testing.assert_allclose(doubt.joint, counts / 7)
    assert list(doubt.suspects["candidate_id"]) == ["3", "6"]
    assert doubt.to_dict()["real_called_bogus"] == pytest.approx(1 / 7)


def test_clean_labels_leave_nothing_to_doubt() -> None:
    labels = np.array([0, 1] * 50)
    doubt = find_suspects(np.arange(100).astype(str), labels, np.where(labels == 1, 0.9, 0.1))
    assert (doubt.share, len(doubt.suspects)) == (0.0, 0)


def test_folds_keep_groups_whole_and_share_the_labels_out() -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat([f"g{n}" for n in range(60)], rng.integers(1, 40, 60))
    labels = rng.integers(0, 2, len(groups))
    got = folds(groups, labels, 5, seed=3)
    assert all(len(set(got[groups == name])) == 1 for name in set(groups))
    for label in (0, 1):
        share = np.bincount(got[labels == label], minlength=5) / (labels == label).sum()
        np.testing.assert_allclose(share, 0.2, atol=0.04)
    shuffled = rng.permutation(len(groups))
    np.testing.assert_array_equal(folds(groups[shuffled], labels[shuffled], 5, seed=3), got[shuffled])


def test_what_cannot_be_judged_is_refused() -> None:
    names, labels = ["a", "b"], [0, 1]
    with pytest.raises(DataSetError, match="2 candidates have 1 labels and 2 scores"):
        find_suspects(names, [0], [0.1, 0.2])
    with pytest.raises(DataSetError, match="1 of 2 labels are neither 1 nor 0"):
        find_suspects(names, [0, -1], [0.1, 0.2])
    for score in (1.5, np.nan):
        with pytest.raises(DataSetError, match="1 of 2 scores are no probabilities"):
            find_suspects(names, labels, [0.1, score])
    with pytest.raises(DataSetError, match="none of 2 rows is labelled bogus"):
        find_suspects(names, [1, 1], [0.1, 0.2])
    with pytest.raises(DataSetError, match="2 groups cannot be dealt to 3 folds"):
        folds(names, labels, 3, seed=1)

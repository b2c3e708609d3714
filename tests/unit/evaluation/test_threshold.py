import numpy as np
import pytest
from scipy.stats import binomtest

from astrid.core.errors import DataSetError
from astrid.evaluation.metrics import make_rows
from astrid.evaluation.threshold import choose_threshold, events_needed, lower_bound, threshold_curves


def chosen(rows, required=0.9, bound="clopper_pearson"):
    return choose_threshold(rows, required_recall=required, confidence=0.95, bound=bound)


def test_lower_bounds_equal_an_independent_implementation():
    for bound, method in (("clopper_pearson", "exact"), ("wilson", "wilson")):
        mine = lower_bound(np.array([0.0, 7, 93, 100]), 100, confidence=0.95, bound=bound)
        theirs = [binomtest(k, 100, alternative="greater").proportion_ci(0.95, method).low for k in (0, 7, 93, 100)]
        np.testing.assert_allclose(mine, theirs, atol=1e-9)


def test_enough_events_give_a_guarantee_and_the_largest_threshold_that_has_it():
    scores = np.linspace(0.01, 1, 400)
    rows = make_rows(np.ones(400, int), scores, np.arange(400))
    result = chosen(rows)
    assert result.guaranteed
    assert result.recall_low >= 0.9
    kept = round(result.recall * 400)
    assert binomtest(kept - 1, 400, alternative="greater").proportion_ci(0.95, "exact").low < 0.9
    assert "at least 0.90" in result.statement


def test_too_few_events_fall_back_and_say_so():
    rows = make_rows(np.ones(20, int), np.linspace(0.1, 1, 20), np.arange(20))
    result = chosen(rows)
    assert not result.guaranteed
    assert result.recall == pytest.approx(0.9)
    assert "could not be guaranteed" in result.statement
    assert "29 events" in result.statement
    assert events_needed(0.9, 0.95, "clopper_pearson") == 29
    assert events_needed(0.99, 0.95, "clopper_pearson") == 299


def test_an_event_seen_often_does_not_buy_a_guarantee():
    labels, scores = np.ones(1000, int), np.full(1000, 0.9)
    assert chosen(make_rows(labels, scores, np.arange(1000))).guaranteed
    assert not chosen(make_rows(labels, scores, np.zeros(1000, int))).guaranteed


@pytest.mark.parametrize("bound", ["clopper_pearson", "wilson"])
def test_bound_keeps_its_confidence_in_repeated_surveys(bound):
    """Scores are uniform, so the true recall at a threshold t is 1 - t: it falls short of 0.9 in at most 5 % of surveys."""
    rng = np.random.default_rng(6)
    short = 0
    for _ in range(400):
        result = chosen(make_rows(np.ones(150, int), rng.random(150), np.arange(150)), bound=bound)
        assert result.guaranteed
        short += 1 - result.value < 0.9
    assert short / 400 <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 400)


def test_threshold_keeps_the_recall_under_the_last_bits_of_another_runtime():
    rows = make_rows([1, 1, 0], [0.7, 0.9, 0.1], [0, 1, 2])
    result = chosen(rows)
    assert (rows.scores[rows.labels] - 1e-5 >= result.value).all()


def test_no_real_row_is_refused():
    with pytest.raises(DataSetError, match="no real row"):
        chosen(make_rows([0, 0], [0.1, 0.2], [0, 1]))


def test_curves_count_at_every_step():
    rows = make_rows([1, 1, 0, 0], [0.8, 0.3, 0.5, 0.1], [0, 1, 2, 3])
    curves = threshold_curves(rows, step=0.01, prevalence=0.5).set_index("step")
    assert len(curves) == 101
    assert curves.loc[0, ["recall", "fpr", "precision"]].tolist() == [1.0, 1.0, 0.5]
    assert curves.loc[50, ["recall", "fpr", "precision"]].tolist() == [0.5, 0.5, 0.5]
    assert curves.loc[80, ["recall", "fpr", "precision", "f1"]].tolist() == pytest.approx([0.5, 0.0, 1.0, 2 / 3])
    assert np.isnan(curves.loc[80, "precision_at_prevalence"])
    assert np.isnan(curves.loc[100, "precision"])

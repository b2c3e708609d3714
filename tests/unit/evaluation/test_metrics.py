import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from astrid.core.errors import DataSetError
from astrid.evaluation import metrics
from astrid.evaluation.metrics import MetricSettings, Rows, evaluate, make_rows

SETTINGS = MetricSettings(threshold=0.5, replicates=200, interval=0.95, prevalence=0.01, false_positive_rates=(0.01, 0.05), bins=10)


def some_rows(count=600, *, seed=0, prevalence=0.3, separation=2.0, ties=False) -> Rows:
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < prevalence).astype(int)
    scores = 1 / (1 + np.exp(-(rng.normal(0, 1, count) + separation * (labels - 0.5))))
    return make_rows(labels, np.round(scores, 1) if ties else scores, np.arange(count) // 3)


@pytest.mark.parametrize("ties", [False, True])
def test_point_values_equal_an_independent_implementation(ties):
    rows = some_rows(ties=ties)
    found = evaluate(rows, SETTINGS, np.random.default_rng(1))
    assert found["aucpr"].value == pytest.approx(average_precision_score(rows.labels, rows.scores), abs=1e-12)
    assert found["roc_auc"].value == pytest.approx(roc_auc_score(rows.labels, rows.scores), abs=1e-12)
    assert found["brier"].value == pytest.approx(brier_score_loss(rows.labels, rows.scores), abs=1e-12)
    assert metrics.average_precision(rows) == found["aucpr"].value


def test_confusion_and_threshold_metrics_agree_with_counting():
    rows = make_rows([1, 1, 1, 0, 0, 0, 0, 1], [0.9, 0.5, 0.2, 0.6, 0.4, 0.1, 0.3, 0.8], np.arange(8))
    assert metrics.confusion(rows, 0.5) == {"true_positive": 3, "false_negative": 1, "false_positive": 1, "true_negative": 3}
    found = evaluate(rows, SETTINGS, np.random.default_rng(1))
    assert found["precision"].value == 0.75
    assert found["recall"].value == 0.75
    assert found["f1"].value == 0.75
    assert found["fpr"].value == 0.25
    assert found["precision_at_prevalence"].value == pytest.approx(0.01 * 0.75 / (0.01 * 0.75 + 0.99 * 0.25))
    assert found["fnr_at_fpr_5pct"].value == 0.5  # the best bogus one scores 0.6, two of four real ones lie above it


def test_random_scores_have_the_positive_fraction_as_aucpr():
    rng = np.random.default_rng(4)
    labels = (rng.random(40_000) < 0.1).astype(int)
    rows = make_rows(labels, rng.random(40_000), np.arange(40_000))
    assert metrics.average_precision(rows) == pytest.approx(labels.mean(), abs=0.006)


def test_perfect_ranking_is_one_and_its_rates_keep_a_width():
    rows = make_rows(np.repeat([1, 0], 30), np.repeat([0.9, 0.1], 30), np.arange(60))
    found = evaluate(rows, SETTINGS, np.random.default_rng(1))
    assert found["aucpr"].value == 1.0
    assert found["roc_auc"].value == 1.0
    assert found["recall"].low == pytest.approx(0.025 ** (1 / 30))  # Clopper-Pearson closed form for n of n
    assert found["fpr"].high == pytest.approx(1 - 0.025 ** (1 / 30))
    assert found["precision_at_prevalence"].low < 0.1
    assert "30 events" in found["recall"].reason


@pytest.mark.parametrize(
    ("labels", "scores", "name", "reason"),
    [
        ([1, 1], [0.9, 0.8], "aucpr", "no bogus row"),
        ([1, 1], [0.9, 0.8], "precision", "no bogus row"),
        ([0, 0], [0.9, 0.8], "aucpr", "no real row"),
        ([0, 0], [0.9, 0.8], "recall", "no real row"),
        ([1, 0], [0.2, 0.1], "precision", "no row reaches the threshold"),
        ([], [], "aucpr", "no real row"),
    ],
)
def test_undefined_is_nan_with_a_reason(labels, scores, name, reason):
    found = evaluate(make_rows(labels, scores, np.arange(len(labels))), SETTINGS, np.random.default_rng(1))
    assert not found[name].defined
    assert found[name].reason == reason


def test_bootstrap_interval_covers_the_truth():
    """95 % intervals over events of the recall, whose truth is known, cover it in about 95 % of repeated surveys."""
    rng = np.random.default_rng(8)
    covered = 0
    for _ in range(200):
        chance = rng.beta(8, 2, 80)  # an event's own chance of being found, mean 0.8
        scores = np.where(rng.random((80, 4)) < chance[:, None], 0.9, 0.1).ravel()
        rows = make_rows(np.r_[np.ones(320, int), 0], np.r_[scores, 0.1], np.r_[np.repeat(np.arange(80), 4), 80])
        found = evaluate(rows, SETTINGS, rng)["recall"]
        covered += found.low <= 0.8 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_repeated_detections_of_an_event_do_not_narrow_the_interval():
    single = some_rows(200)
    events = np.arange(200)
    tenfold = make_rows(np.tile(single.labels, 10), np.tile(single.scores, 10), np.tile(events, 10))
    once = make_rows(single.labels, single.scores, events)
    wide = evaluate(once, SETTINGS, np.random.default_rng(2))["aucpr"]
    same = evaluate(tenfold, SETTINGS, np.random.default_rng(2))["aucpr"]
    assert same.value == pytest.approx(wide.value, abs=0.01)
    assert (same.high - same.low) == pytest.approx(wide.high - wide.low, rel=0.1)


def test_chunked_replicates_equal_unchunked_ones(monkeypatch):
    rows = some_rows(90)
    whole = evaluate(rows, SETTINGS, np.random.default_rng(3))["aucpr"]
    monkeypatch.setattr(metrics, "_CHUNK_ELEMENTS", 90 * 7)
    assert evaluate(rows, SETTINGS, np.random.default_rng(3))["aucpr"] == whole


def test_gain_is_zero_against_itself_and_positive_against_noise():
    rows = some_rows()
    rng = np.random.default_rng(5)
    same = metrics.compare_aucpr(rows, rows.scores, SETTINGS, rng)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    assert metrics.compare_aucpr(rows, rng.random(600), SETTINGS, rng).low > 0
    one_class = make_rows([1, 1], [0.5, 0.6], [0, 1])
    assert metrics.compare_aucpr(one_class, [0.1, 0.2], SETTINGS, rng).reason == "no bogus row"


def test_curves_start_and_end_where_they_must():
    rows = some_rows()
    curve = metrics.precision_recall_frame(rows, SETTINGS, np.random.default_rng(1))
    assert (np.diff(curve.precision) <= 1e-12).all()
    assert curve.precision.iloc[-1] == pytest.approx(rows.labels.mean(), abs=0.05)
    assert ((curve.low <= curve.precision + 1e-9) & (curve.high >= curve.precision - 0.05)).all()
    roc = metrics.roc_frame(rows)
    assert roc[["fpr", "recall"]].iloc[0].tolist() == [0.0, 0.0]
    assert roc[["fpr", "recall"]].iloc[-1].tolist() == [1.0, 1.0]
    assert metrics.precision_recall_frame(rows.where(rows.labels), SETTINGS, np.random.default_rng(1)).precision.isna().all()


def test_rows_without_an_event_are_their_own_events():
    assert metrics.event_codes(["a", "", "a", ""]).tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize(
    ("labels", "scores", "events", "match"),
    [
        ([1, 0], [0.5], ["a", "b"], "differ in shape"),
        ([1, 2], [0.5, 0.5], ["a", "b"], "1 of 2 rows are not labelled"),
        ([1, 0], [0.5, 1.5], ["a", "b"], "1 of 2 scores are not in"),
        ([1, 0], [0.5, np.nan], ["a", "b"], "1 of 2 scores are not in"),
    ],
)
def test_bad_rows_are_refused(labels, scores, events, match):
    with pytest.raises(DataSetError, match=match):
        make_rows(labels, scores, events)

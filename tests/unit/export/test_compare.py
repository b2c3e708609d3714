import time

import numpy as np
import pytest

from astrid.core.errors import DataSetError, GateError
from astrid.export.compare import CompareSettings, TestSet, compare_scores, latency_ratio, within

SETTINGS = CompareSettings(replicates=200, interval=0.95, snr_edges=(8.0, 20.0))
COUNT = 400


@pytest.fixture(scope="module")
def drawn():
    """Labels, events of two rows, S/N, and the network's probabilities: better where S/N is high."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, COUNT)
    events = np.array([f"e{number // 2}" for number in range(COUNT)])
    snr = rng.uniform(5, 40, COUNT)
    logit = (2 * labels - 1) * snr / 10 + rng.normal(0, 1.2, COUNT)
    return labels, events, snr, (1 / (1 + np.exp(-logit))).astype(np.float32)


def frozen(drawn, **changed):
    given = {"calibration": {"method": "platt", "slope": 2.0, "bias": 0.1}, "threshold": 0.4} | changed
    return TestSet.of(*drawn, **given)


def test_an_artifact_that_gives_the_same_loses_nothing(drawn):
    found = compare_scores(frozen(drawn), drawn[3], SETTINGS, np.random.default_rng(1))
    assert (found.largest, found.decisions_changed, found.aucpr_loss.value, found.recall_loss.value) == (0, 0, 0, 0)
    assert (found.recall_loss.low, found.recall_loss.high) == (0, 0)
    assert within(found, aucpr=0, recall=0) == ""
    assert sum(record["rows"] for record in found.by_snr) == COUNT


def test_losses_are_those_of_the_calibrated_decisions(drawn):
    labels, _, _, raw = drawn
    worse = raw.copy()
    reals = np.flatnonzero(labels == 1)[:20]
    worse[reals] = 0.01
    test = frozen(drawn)
    found = compare_scores(test, worse, SETTINGS, np.random.default_rng(1))
    kept = test.rows.scores[reals] >= 0.4
    assert found.recall_loss.value == pytest.approx(kept.sum() / (labels == 1).sum())
    assert found.decisions_changed == kept.sum()
    assert found.aucpr_loss.low > 0
    assert found.aucpr_loss.low < found.aucpr_loss.value < found.aucpr_loss.high
    assert found.recall + found.recall_loss.value == pytest.approx((test.rows.scores[labels == 1] >= 0.4).mean())
    assert found.largest == pytest.approx(np.abs(raw - worse).max())


def test_the_table_shows_at_which_snr_an_artifact_fails(drawn):
    labels, _, snr, raw = drawn
    worse = np.where((snr < 8) & (labels == 1), np.float32(0.01), raw)
    low, middle, high = compare_scores(frozen(drawn), worse, SETTINGS, np.random.default_rng(1)).by_snr
    assert (low["snr"], middle["snr"], high["snr"]) == ("< 8", "8 to 20", "≥ 20")
    assert low["recall_loss"] > 0.3
    assert low["aucpr_loss"] > 0.1
    assert middle["recall_loss"] == high["recall_loss"] == 0
    assert middle["largest_difference"] == high["largest_difference"] == 0


def test_the_same_draws_are_used_for_both_so_the_interval_of_a_loss_is_narrow(drawn):
    shaken = (drawn[3] + np.random.default_rng(2).normal(0, 0.01, COUNT)).clip(0, 1).astype(np.float32)
    found = compare_scores(frozen(drawn), shaken, SETTINGS, np.random.default_rng(1))
    assert found.aucpr_loss.high - found.aucpr_loss.low < 0.3 * (found.aucpr.high - found.aucpr.low)


def test_limits_name_what_is_lost_and_an_undefined_loss_is_within_none(drawn):
    labels, events, snr, raw = drawn
    worse = np.where(labels == 1, np.float32(0.01), raw)
    found = compare_scores(frozen(drawn), worse, SETTINGS, np.random.default_rng(1))
    assert within(found, aucpr=0.002, recall=0.003).startswith("it loses ")
    assert "of AUCPR on 400 test rows, and 0.0020 is allowed" in within(found, aucpr=0.002, recall=0.003)
    assert "of recall at the threshold" in within(found, aucpr=1.0, recall=0.003)
    bogus = np.zeros(COUNT, int)
    nothing = compare_scores(frozen((bogus, events, snr, raw)), raw, SETTINGS, np.random.default_rng(1))
    assert "loses nan of AUCPR" in within(nothing, aucpr=1, recall=1)
    assert nothing.record()["by_snr"][0]["recall"] is None


@pytest.mark.parametrize("wrong", [np.nan, 1.5])
def test_scores_that_are_no_probabilities_are_refused(drawn, wrong):
    broken = drawn[3].copy()
    broken[3] = wrong
    test = frozen(drawn, calibration={"method": "none"})
    with pytest.raises(DataSetError, match=r"1 of 400 scores are not in \[0, 1\]"):
        compare_scores(test, broken, SETTINGS, np.random.default_rng(1))


def test_a_time_is_a_ratio_of_medians_measured_in_turns():
    def slow(_):
        time.sleep(0.006)

    def quick(_):
        time.sleep(0.002)

    assert 1.5 < latency_ratio(slow, quick, np.zeros(1), repeats=5) < 6
    with pytest.raises(GateError, match="no ratio of times can be given"):
        latency_ratio(slow, quick, np.zeros(1), repeats=0)

"""Paired differences: two equal models differ by nothing, a planted loss is found where it was planted."""

from dataclasses import replace

import numpy as np
import pytest

from astrid.core.errors import RegistryError
from astrid.registry.compare import differences, losses, quality, rows_digest, slices
from support.registry import frame


@pytest.fixture
def limits(registry_config):
    return replace(registry_config.gates.champion, replicates=300)


def by_name(found):
    return {(one.name, one.metric): one for one in found}


def worsened(table, mask):
    """The scores of the chosen rows in reverse: a model that knows nothing there."""
    scores = table["score"].to_numpy().copy()
    scores[mask] = np.random.default_rng(0).permutation(scores[mask])
    return table.assign(score=scores, raw_score=scores)


def test_a_model_differs_from_itself_by_nothing(limits):
    table = frame(0.3)
    found = differences(table, table.sample(frac=1, random_state=1), (0.5, 0.5), limits, np.random.default_rng(0))
    assert max(abs(number) for one in found for number in (one.value, one.low, one.high)) < 1e-12
    assert [one.name for one in found] == ["all", "all", "bright hosts", "faint", "survey deep", "survey wide"]


def test_a_worse_model_is_worse_with_certainty_and_the_other_way_round(limits):
    good, bad = frame(0.1), frame(1.5)
    worse = by_name(differences(bad, good, (0.5, 0.5), limits, np.random.default_rng(0)))["all", "aucpr"]
    better = by_name(differences(good, bad, (0.5, 0.5), limits, np.random.default_rng(0)))["all", "aucpr"]
    assert worse.high < -0.02 < 0.02 < better.low
    assert worse.value == pytest.approx(-better.value)


def test_the_pairing_narrows_the_interval(limits):
    """The rows that both models find hard cancel: the interval of the difference is narrower than that of one AUCPR."""
    from astrid.evaluation.metrics import MetricSettings, evaluate
    from astrid.registry.compare import rows_of

    one, other = frame(0.1), frame(0.2, seed=3)
    found = by_name(differences(one, other, (0.5, 0.5), limits, np.random.default_rng(0)))["all", "aucpr"]
    settings = MetricSettings(threshold=0.5, replicates=300, interval=0.95, prevalence=0.5, false_positive_rates=(), bins=10)
    alone = evaluate(rows_of(one), settings, np.random.default_rng(0))["aucpr"]
    assert found.high - found.low < 0.5 * (alone.high - alone.low)


@pytest.mark.parametrize("hit", ["survey wide", "faint", "bright hosts"])
def test_a_loss_in_one_slice_is_found_there(limits, hit):
    table = frame(0.1, rows=1200)
    masks = dict(slices(table, limits))
    found = by_name(differences(worsened(table, masks[hit]), table, (0.5, 0.5), limits, np.random.default_rng(0)))
    assert found[hit, "aucpr"].high < -limits.slice_margin
    if hit == "survey wide":
        assert found["survey deep", "aucpr"].value == pytest.approx(0, abs=1e-12)


def test_recall_is_taken_at_each_models_own_threshold(limits):
    table = frame(0.1)
    lifted = table.assign(score=np.clip(table["score"] * 0.5, 0, 1))
    same = by_name(differences(lifted, table, (0.25, 0.5), limits, np.random.default_rng(0)))["all", "recall"]
    lower = by_name(differences(lifted, table, (0.5, 0.5), limits, np.random.default_rng(0)))["all", "recall"]
    assert same.value == 0
    assert lower.high < -0.5


def test_losses_are_the_parents_numbers_less_ones_own():
    parent, child = frame(0.1), frame(0.8)
    aucpr, recall = losses(child, parent, 0.5)
    one, other = quality(parent, 0.5, 10), quality(child, 0.5, 10)
    assert aucpr == pytest.approx(one["aucpr"] - other["aucpr"])
    assert recall == pytest.approx(one["recall"] - other["recall"])
    assert aucpr > 0.01


def test_other_rows_labels_or_stamps_are_other_test_rows(limits):
    table = frame(0.1)
    assert rows_digest(table) == rows_digest(table.sample(frac=1, random_state=0).assign(score=0.0))
    flipped = table.assign(label=1 - table["label"])
    for other in (table.iloc[1:], flipped, table.assign(stamp_digest="x")):
        assert rows_digest(other) != rows_digest(table)
        with pytest.raises(RegistryError, match="the scores are of other test rows"):
            differences(table, other, (0.5, 0.5), limits, np.random.default_rng(0))

import numpy as np
import pandas as pd
import pytest

from astrid.evaluation.metrics import MetricSettings, make_rows
from astrid.evaluation.slices import SliceSettings, bin_names, recall_by_snr, slice_metrics

METRICS = MetricSettings(threshold=0.5, replicates=50, interval=0.95, prevalence=0.01, false_positive_rates=(0.01,), bins=10)
SETTINGS = SliceSettings(snr_edges=(6.0, 10.0), dlr_edges=(1.0,), metrics=METRICS)


@pytest.fixture
def sliced():
    table = pd.DataFrame(
        {
            "survey": ["deep"] * 4 + ["wide"] * 2,
            "detector": ["A"] * 6,
            "filter": ["g", "g", "r", "r", "r", "r"],
            "snr": [5.5, 7.0, 12.0, 7.0, 5.5, 100.0],
            "host_dlr": [0.5, np.nan, 2.0, 0.1, np.nan, 0.2],
            "sign": [1, 1, 1, -1, 1, 1],
            "kind": ["SN Ia", "dipole", "SN Ia", "cosmic_ray", "", "dipole"],
        }
    )
    rows = make_rows([1, 0, 1, 0, 0, 0], [0.9, 0.6, 0.4, 0.1, 0.2, 0.3], ["a", "b", "a", "c", "d", "e"])
    frame = slice_metrics(rows, table, SETTINGS, np.random.default_rng(0))
    return frame.set_index(["slice", "group", "metric"]).sort_index(), rows, table


def test_counts_and_values_of_a_group(sliced):
    line = sliced[0].loc[("survey", "deep", "recall")]
    assert (line.rows, line.positives, line.negatives, line.events) == (4, 2, 2, 3)
    assert line.value == 0.5


def test_a_slice_of_one_class_is_nan_with_its_reason(sliced):
    for metric in ("aucpr", "precision", "recall"):
        line = sliced[0].loc[("survey", "wide", metric)]
        assert np.isnan(line.value)
        assert line.reason == "no real row"
    assert sliced[0].loc[("survey", "wide", "fpr"), "value"] == 0.0


def test_bogus_kinds_have_false_positive_rates_and_transient_kinds_recalls(sliced):
    frame = sliced[0]
    assert frame.loc[("bogus kind", "dipole", "fpr"), "value"] == 0.5
    assert frame.loc[("bogus kind", "cosmic_ray", "fpr"), "value"] == 0.0
    assert frame.loc[("bogus kind", "unknown", "fpr"), "rows"] == 1
    assert frame.loc[("transient kind", "SN Ia", "recall"), "value"] == 0.5


def test_detectors_of_two_surveys_stay_apart(sliced):
    assert set(sliced[0].loc["detector"].index.get_level_values("group")) == {"deep A", "wide A"}


def test_bins_are_open_at_both_ends_and_missing_values_have_their_own():
    values, names = bin_names([1.0, 6.0, 9.9, 10.0, np.nan], (6.0, 10.0), missing="none")
    assert names == ["< 6", "6 to 10", "≥ 10", "none"]
    assert values.tolist() == ["< 6", "6 to 10", "6 to 10", "≥ 10", "none"]


def test_recall_by_snr_leaves_empty_bins_out(sliced):
    _, rows, table = sliced
    frame = recall_by_snr(rows, table, SETTINGS, np.random.default_rng(0))
    assert frame.positives.tolist() == [1, 1]
    assert frame.recall.tolist() == [1.0, 0.0]
    assert (frame.high - frame.low > 0.5).all()

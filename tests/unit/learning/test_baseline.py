from __future__ import annotations

import numpy as np
import pytest

from astrid.core.errors import DataSetError
from astrid.learning.baseline import fit_baseline, score_baseline
from astrid.learning.features import FEATURES, feature_matrix


def test_features_are_finite_or_missing_and_never_a_place(toy):
    matrix = feature_matrix(toy.table)
    assert matrix.shape == (64, len(FEATURES))
    assert matrix.dtype == np.float32
    assert not np.isinf(matrix).any()
    assert np.isnan(matrix[:, FEATURES.index("host_dlr")]).all()
    assert not {"x", "y", "s_ra", "s_dec", "mjd", "label"} & set(FEATURES)


def test_distances_are_clipped_and_widths_are_relative(toy):
    toy.table["fwhm"], toy.table["psf_fwhm"] = 6.0, 3.0
    toy.table.loc[0, "psf_fwhm"] = 0.0
    matrix = feature_matrix(toy.table)
    assert set(matrix[:, FEATURES.index("edge_distance")]) == {64.0}
    assert set(matrix[:, FEATURES.index("star_distance")]) == {64.0}
    ratio = matrix[:, FEATURES.index("fwhm_ratio")]
    assert np.isnan(ratio[0])
    assert (ratio[1:] == 2).all()


def test_a_table_without_a_feature_is_refused(toy):
    with pytest.raises(DataSetError, match="lacks the feature column 'chi2'"):
        feature_matrix(toy.table.drop(columns="chi2"))


def test_the_forest_finds_the_telling_feature_and_repeats(toy, splits, make_train):
    cfg = make_train()
    first, second = (fit_baseline(toy.table, splits, cfg) for _ in range(2))
    assert first.validation_aucpr == 1.0
    assert next(iter(first.importances)) == "symmetry"
    assert sum(first.importances.values()) == pytest.approx(1)
    scores = score_baseline(first.forest, toy.table)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, score_baseline(second.forest, toy.table))
    assert score_baseline(first.forest, toy.table.iloc[:0]).shape == (0,)

"""Out-of-fold scores: no row is scored by a forest that has seen it or its group."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from astrid.config.schema.split import SuspectsConfig
from astrid.core.errors import DataSetError
from astrid.datasets.suspects import find_suspects, folds
from astrid.learning.features import CLIPPED, MEASURED
from astrid.learning.outoffold import score_out_of_fold

CFG = SuspectsConfig(folds=4, trees=40, min_leaf=2, tree_rows=200)


def rows(count: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    label = rng.integers(0, 2, count)
    table = pd.DataFrame({name: rng.normal(size=count) for name in (*MEASURED, *CLIPPED, "fwhm")})
    return table.assign(sharpness=label + rng.normal(0, 0.2, count), psf_fwhm=3.0, label=label, group=np.repeat(np.arange(count // 10), 10))


def test_planted_errors_stand_out_and_the_seed_repeats() -> None:
    table = rows()
    wrong = np.arange(0, 400, 37)
    table.loc[wrong, "label"] = 1 - table.loc[wrong, "label"]
    fold = folds(table["group"].astype(str), table["label"], 4, seed=1)
    scores = score_out_of_fold(table, fold, CFG, seed=1)
    suspects = find_suspects(table.index.astype(str), table["label"], scores).suspects
    found = np.isin(wrong.astype(str), suspects["candidate_id"])
    assert found.mean() > 0.8
    assert len(suspects) < 2 * len(wrong)
    np.testing.assert_array_equal(scores, score_out_of_fold(table, fold, CFG, seed=1))


def test_a_row_is_not_scored_by_a_forest_that_saw_its_group() -> None:
    table = rows().assign(**dict.fromkeys((*MEASURED, *CLIPPED, "fwhm"), 1.0))
    group = table["group"]
    table["chi2"] = group * 1.0  # names the group, and
    table["label"] = (np.random.default_rng(0).random(group.max() + 1) < 0.5).astype(int)[group]  # the group the label
    aligned = score_out_of_fold(table, folds(group.astype(str), table["label"], 4, seed=1), CFG, seed=1)
    scattered = score_out_of_fold(table, np.arange(len(table)) % 4, CFG, seed=1)
    right = [np.mean((scores > 0.5) == table["label"]) for scores in (aligned, scattered)]
    assert right[1] > 0.95
    assert right[0] < 0.75


def test_a_fold_that_takes_a_class_away_is_refused() -> None:
    table = rows(100)
    with pytest.raises(DataSetError, match=r"the \d+ rows outside fold \d hold one class only"):
        score_out_of_fold(table, table["label"].to_numpy(dtype=np.int64), CFG, seed=1)

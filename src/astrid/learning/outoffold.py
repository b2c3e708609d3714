"""Scores of rows by forests that have not seen them, nor anything of their group."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astrid.config.schema.split import SuspectsConfig
from astrid.core.errors import DataSetError
from astrid.core.runtime import rng_for
from astrid.learning.features import feature_matrix

_SEED_RANGE = 2**31


def score_out_of_fold(table: pd.DataFrame, fold: NDArray[np.int64], cfg: SuspectsConfig, seed: int) -> NDArray[np.float32]:
    """The share of votes for real of each row, float32 (n,), from a random forest fitted on the other folds.

    `table`: labelled TRIPLETS rows; `fold`: (n,) of each. Both classes weigh the same (Breiman 2001). Raises `DataSetError` when the
    rows outside a fold lack a class.
    """
    from sklearn.ensemble import RandomForestClassifier

    features, labels = feature_matrix(table), table["label"].to_numpy(dtype=np.int64)
    scores = np.zeros(len(table), dtype=np.float32)
    for number in np.unique(fold):
        outside = fold != number
        if len(np.unique(labels[outside])) < 2:
            raise DataSetError(f"the {int(outside.sum())} rows outside fold {number} hold one class only; use fewer folds.")
        forest = RandomForestClassifier(
            n_estimators=cfg.trees,
            min_samples_leaf=cfg.min_leaf,
            max_samples=min(cfg.tree_rows, int(outside.sum())),
            class_weight="balanced_subsample",
            random_state=int(rng_for(seed, "out of fold", int(number)).integers(_SEED_RANGE)),
            n_jobs=1,
        )
        forest.fit(features[outside], labels[outside])
        scores[~outside] = forest.predict_proba(features[~outside])[:, 1]
    return scores

"""The baseline: a random forest on the candidates' measured features (Breiman 2001), trained on the same parts as the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astrid.config.schema.train import TrainConfig
from astrid.core.runtime import rng_for, worker_count
from astrid.learning.features import FEATURES, feature_matrix
from astrid.learning.loader import select

_SEED_RANGE = 2**31


@dataclass(frozen=True, eq=False)
class Baseline:
    """A fitted forest and what it is worth."""

    forest: Any  # sklearn.ensemble.RandomForestClassifier, to be kept with joblib
    validation_aucpr: float
    importances: dict[str, float]  # mean decrease of impurity by feature, sums to 1, largest first


def fit_baseline(table: pd.DataFrame, splits: pd.DataFrame, cfg: TrainConfig) -> Baseline:
    """Fit the forest on the part "train" of `table` (TRIPLETS) and measure its AUCPR on "validation".

    Both classes weigh the same. Raises `DataSetError` for a part that lacks a class or a table that lacks a feature.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import average_precision_score

    training, validation = (select(table, splits, part) for part in ("train", "validation"))
    forest = RandomForestClassifier(
        n_estimators=cfg.baseline.trees,
        min_samples_leaf=cfg.baseline.min_leaf,
        class_weight="balanced",
        random_state=int(rng_for(cfg.seed, "baseline").integers(_SEED_RANGE)),
        n_jobs=worker_count(cfg.threads),
    )
    forest.fit(feature_matrix(table.iloc[training.rows]), training.labels.astype(np.int64))
    scores = score_baseline(forest, table.iloc[validation.rows])
    ranked = sorted(zip(FEATURES, forest.feature_importances_, strict=True), key=lambda pair: -pair[1])
    return Baseline(forest, float(average_precision_score(validation.labels, scores)), {name: float(value) for name, value in ranked})


def score_baseline(forest: Any, table: pd.DataFrame) -> NDArray[np.float32]:
    """The forest's share of votes for real, float32 (n,), for rows of a CANDIDATES or TRIPLETS table."""
    if table.empty:
        return np.zeros(0, dtype=np.float32)
    votes: NDArray[np.float64] = forest.predict_proba(feature_matrix(table))
    return votes[:, 1].astype(np.float32)

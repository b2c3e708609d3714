"""Two models on the same frozen test rows: scores that are kept with a version, and paired differences over events.

A detection's scores by two models move together, so the models are compared on the same draws of the events (paired bootstrap,
Efron & Tibshirani 1993, ch. 16): the interval of a difference is narrower than the two intervals beside each other.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astrid.config.schema.registry import ChampionLimits
from astrid.core.errors import RegistryError
from astrid.core.provenance import digest_bytes
from astrid.evaluation.metrics import (
    MetricSettings,
    Rows,
    average_precision,
    bootstrap,
    compare_aucpr,
    confusion,
    evaluate,
    make_rows,
    percentile_interval,
)
from astrid.io.tables import Column, Table
from astrid.registry.gates import MISSING, Difference

TEST_SCORES = Table(
    "scores of a version on the frozen test rows",
    (
        Column("candidate_id", "str", "", "row of the triplet table"),
        Column("event_id", "str", "", "rows of one event are drawn together"),
        Column("label", "int", "", "1 real, 0 bogus"),
        Column("survey", "str", "", "survey of the exposure"),
        Column("snr", "float", "", "S/N of the detection"),
        Column("host_dlr", "float", "", "distance from the host in directional light radii; NaN without one"),
        Column("reference_snr", "float", "", "S/N of the reference at the place"),
        Column("stamp_digest", "str", "", "content of the triplet"),
        Column("raw_score", "float", "", "the artifact's probability before calibration"),
        Column("score", "float", "", "calibrated probability of being real"),
    ),
    ("candidate_id", "event_id", "label", "survey", "snr", "raw_score", "score"),
)
_FROZEN = ("candidate_id", "event_id", "label", "stamp_digest")
_DIGITS = 16


def rows_digest(frame: pd.DataFrame) -> str:
    """What the frozen test rows are: a digest over candidates, events, labels and stamps, in any order; 16 hex digits."""
    ordered = frame.sort_values("candidate_id")
    parts = [part.encode() for name in _FROZEN for part in (name, *ordered[name].astype(str))]
    return digest_bytes(*parts)[:_DIGITS]


def rows_of(frame: pd.DataFrame) -> Rows:
    """The frame of `TEST_SCORES` as labelled rows under the calibrated score."""
    return make_rows(frame["label"].to_numpy(), frame["score"].to_numpy(), frame["event_id"].to_numpy())


def quality(frame: pd.DataFrame, threshold: float, bins: int) -> dict[str, float]:
    """aucpr, recall at the threshold and ece of a frame of `TEST_SCORES`."""
    settings = MetricSettings(threshold=threshold, replicates=1, interval=0.95, prevalence=0.5, false_positive_rates=(), bins=bins)
    found = evaluate(rows_of(frame), settings, np.random.default_rng(0))
    return {name: found[name].value for name in ("aucpr", "recall", "ece")}


def losses(frame: pd.DataFrame, parent: pd.DataFrame, threshold: float) -> tuple[float, float]:
    """AUCPR and recall at the threshold that `frame` loses against its float `parent` on the same rows; negative is a gain."""
    ours, theirs = rows_of(frame), rows_of(_aligned(parent, frame))
    return average_precision(theirs) - average_precision(ours), _recall(theirs, threshold) - _recall(ours, threshold)


def differences(
    frame: pd.DataFrame, champion: pd.DataFrame, thresholds: tuple[float, float], limits: ChampionLimits, rng: np.random.Generator
) -> list[Difference]:
    """A model minus the champion: AUCPR and recall over all rows, and AUCPR in every slice that may not regress.

    `frame`, `champion`: `TEST_SCORES` of the same rows; `thresholds`: of the model and of the champion, on the calibrated score.
    Raises `RegistryError` when the champion's scores are of other rows.
    """
    rows, other = rows_of(frame), rows_of(_aligned(champion, frame))
    out = [_aucpr("all", rows, other, limits, rng), _recall_difference(rows, other, thresholds, limits, rng)]
    for name, mask in slices(frame, limits):
        out.append(_aucpr(name, rows.where(mask), other.where(mask), limits, rng))
    return out


def slices(frame: pd.DataFrame, limits: ChampionLimits) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """The slices that may not regress, those with rows in them: bright hosts, faint, each survey."""
    bright = (frame["host_dlr"] <= limits.host_dlr) & (frame["reference_snr"] >= limits.host_snr)
    faint = frame["snr"].abs() < limits.faint_snr
    surveys = {f"survey {name}": frame["survey"] == name for name in sorted(frame["survey"].unique())}
    for name, mask in {"bright hosts": bright, "faint": faint, **surveys}.items():
        if mask.any():
            yield name, mask.to_numpy(dtype=bool)


def _aligned(other: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """`other` in the order of `frame`."""
    if rows_digest(other) != rows_digest(frame):
        raise RegistryError(
            f"the scores are of other test rows ({len(other)} of {rows_digest(other)} against {len(frame)} of {rows_digest(frame)}); "
            "run the stage register, which scores the champion on these."
        )
    return other.set_index("candidate_id").loc[frame["candidate_id"]].reset_index()


def _aucpr(name: str, rows: Rows, other: Rows, limits: ChampionLimits, rng: np.random.Generator) -> Difference:
    positives = int(rows.labels.sum())
    settings = MetricSettings(
        threshold=0.5, replicates=limits.replicates, interval=limits.interval, prevalence=0.5, false_positive_rates=(), bins=1
    )
    found = compare_aucpr(rows, other.scores, settings, rng)
    return Difference(name, "aucpr", found.value, found.low, found.high, positives, rows.labels.size - positives)


def _recall_difference(
    rows: Rows, other: Rows, thresholds: tuple[float, float], limits: ChampionLimits, rng: np.random.Generator
) -> Difference:
    real = rows.labels.astype(np.float64)
    gained = real * ((rows.scores >= thresholds[0]).astype(np.float64) - (other.scores >= thresholds[1]))

    def statistic(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        total = weights @ real
        return {"recall": np.divide(weights @ gained, total, out=np.full(len(weights), np.nan), where=total > 0)}

    positives = int(real.sum())
    value = float(gained.sum() / positives) if positives else MISSING
    low, high = percentile_interval(bootstrap(rows, statistic, limits.replicates, rng)["recall"], limits.interval)
    return Difference("all", "recall", value, low, high, positives, rows.labels.size - positives)


def _recall(rows: Rows, threshold: float) -> float:
    counts = confusion(rows, threshold)
    real = counts["true_positive"] + counts["false_negative"]
    return counts["true_positive"] / real if real else MISSING

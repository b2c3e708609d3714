"""Metrics of a real/bogus ranking, each with a percentile interval from a bootstrap over events.

Detections of one object are not independent, so the bootstrap draws events (all rows that share an `event_id`) with
replacement (Efron & Tibshirani 1993, ch. 13). A replicate is a vector of row weights, so that all of them are computed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta

from astrid.core.errors import DataSetError

Floats = NDArray[np.float64]

_CHUNK_ELEMENTS = 200_000  # row weights held at once: 1.6 MB, so that the temporaries stay in the cache
_NO_POSITIVES = "no real row"
_NO_NEGATIVES = "no bogus row"
_NONE_FLAGGED = "no row reaches the threshold"
_ECE_NOTE = "resampling adds noise to the bins, so the interval leans upwards"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval; `value` is NaN with a `reason` where it is undefined."""

    value: float
    low: float = float("nan")
    high: float = float("nan")
    reason: str = ""

    @property
    def defined(self) -> bool:
        """True when there is a value."""
        return bool(np.isfinite(self.value))


@dataclass(frozen=True, slots=True)
class MetricSettings:
    """What the metrics need beside the rows."""

    threshold: float
    replicates: int
    interval: float
    prevalence: float
    false_positive_rates: tuple[float, ...]
    bins: int


@dataclass(frozen=True, eq=False)
class Rows:
    """Labelled rows. `labels`: bool (n,); `scores`: float64 (n,) in [0, 1]; `events`: int64 (n,) codes from 0."""

    labels: NDArray[np.bool_]
    scores: Floats
    events: NDArray[np.int64]

    @property
    def n_events(self) -> int:
        """Number of distinct events."""
        return int(self.events.max()) + 1 if self.events.size else 0

    def where(self, mask: NDArray[np.bool_]) -> Rows:
        """The rows where `mask`, bool (n,), is true, with events numbered anew."""
        return make_rows(self.labels[mask], self.scores[mask], self.events[mask])

    def with_scores(self, scores: ArrayLike) -> Rows:
        """The same rows under other scores, float (n,)."""
        return make_rows(self.labels, scores, self.events)


def make_rows(labels: ArrayLike, scores: ArrayLike, events: ArrayLike) -> Rows:
    """Check and pack labels (0 or 1), scores in [0, 1] and event names, each (n,).

    A row with an empty event name is its own event. Raises `DataSetError` for unequal lengths, other labels or scores
    outside [0, 1] or not finite.
    """
    label = np.asarray(labels).astype(np.int64)
    score = np.asarray(scores, dtype=np.float64)
    name = np.asarray(events)
    if not (label.shape == score.shape == name.shape) or label.ndim != 1:
        raise DataSetError(f"Labels {label.shape}, scores {score.shape} and events {name.shape} differ in shape; give one of each a row.")
    if not np.isin(label, (0, 1)).all():
        raise DataSetError(
            f"{int((~np.isin(label, (0, 1))).sum())} of {label.size} rows are not labelled 0 or 1; leave them out before evaluation."
        )
    bad = ~((score >= 0) & (score <= 1))
    if bad.any():
        raise DataSetError(f"{int(bad.sum())} of {score.size} scores are not in [0, 1]; the model's output is broken, train it anew.")
    return Rows(label == 1, score, event_codes(name))


def event_codes(events: ArrayLike) -> NDArray[np.int64]:
    """Event names (n,) -> codes from 0, int64 (n,); a row with an empty name is an event of its own."""
    names = np.asarray(events)
    if names.dtype.kind in "iu":
        return np.unique(names, return_inverse=True)[1].astype(np.int64)
    text = [str(name) if name else f"\x00{index}" for index, name in enumerate(names)]
    return np.asarray(pd.factorize(np.array(text, dtype=object))[0], dtype=np.int64)


def evaluate(rows: Rows, settings: MetricSettings, rng: np.random.Generator) -> dict[str, Estimate]:
    """Every metric with its interval, AUCPR first.

    Returns the keys aucpr, positive_fraction (the AUCPR of a random ranking), roc_auc, precision, recall, f1, fpr, fnr,
    fnr_at_fpr_<percent>pct, precision_at_prevalence, brier and ece. A metric that the rows do not define is NaN with a reason.
    """
    point = _metrics(rows, np.ones((1, rows.labels.size)), settings)
    replicates = bootstrap(rows, lambda weights: _metrics(rows, weights, settings), settings.replicates, rng)
    reasons = _reasons(rows, settings.threshold)
    border = _border_intervals(rows, settings)
    out = {}
    for name, value in point.items():
        reason = reasons.get(name, "")
        if reason or not np.isfinite(value[0]):
            out[name] = Estimate(float("nan"), reason=reason or "undefined for these rows")
            continue
        low, high = percentile_interval(replicates[name], settings.interval)
        exact = border.get(name) if low == high else None
        out[name] = exact or Estimate(float(value[0]), low, high, _ECE_NOTE if name == "ece" else "")
    return out


def confusion(rows: Rows, threshold: float) -> dict[str, int]:
    """Counts at `score >= threshold`: true_positive, false_negative, false_positive, true_negative."""
    flagged = rows.scores >= threshold
    return {
        "true_positive": int((flagged & rows.labels).sum()),
        "false_negative": int((~flagged & rows.labels).sum()),
        "false_positive": int((flagged & ~rows.labels).sum()),
        "true_negative": int((~flagged & ~rows.labels).sum()),
    }


def average_precision(rows: Rows) -> float:
    """AUCPR as average precision, sum over thresholds of (recall step x precision); NaN without both classes."""
    if not rows.labels.any() or rows.labels.all():
        return float("nan")
    return float(_ranking(_Order(rows), np.ones((1, rows.labels.size)))["aucpr"][0])


def compare_aucpr(rows: Rows, other: ArrayLike, settings: MetricSettings, rng: np.random.Generator) -> Estimate:
    """AUCPR of `rows` minus that of `other` scores, float (n,), on the same replicates of the same rows."""
    if not rows.labels.any() or rows.labels.all():
        return Estimate(float("nan"), reason=_NO_NEGATIVES if rows.labels.any() else _NO_POSITIVES)
    ours, theirs = _Order(rows), _Order(rows.with_scores(other))

    def difference(weights: Floats) -> dict[str, Floats]:
        return {"difference": _ranking(ours, weights)["aucpr"] - _ranking(theirs, weights)["aucpr"]}

    point = difference(np.ones((1, rows.labels.size)))["difference"][0]
    low, high = percentile_interval(bootstrap(rows, difference, settings.replicates, rng)["difference"], settings.interval)
    return Estimate(float(point), low, high)


def bootstrap(
    rows: Rows, statistic: Callable[[Floats], Mapping[str, Floats]], replicates: int, rng: np.random.Generator
) -> dict[str, Floats]:
    """Values of `statistic` over `replicates` draws of events with replacement.

    `statistic` takes row weights, float64 (r, n), and returns arrays whose first axis is r; so do the returned arrays, with
    r = `replicates`. The weights are made in chunks, so memory does not grow with the replicates.
    """
    n_events = rows.n_events
    step = max(1, _CHUNK_ELEMENTS // max(1, rows.labels.size))
    parts: dict[str, list[Floats]] = {}
    for start in range(0, replicates, step):
        count = min(step, replicates - start)
        draws = rng.multinomial(n_events, np.full(n_events, 1.0 / n_events), size=count) if n_events else np.zeros((count, 0))
        for name, values in statistic(draws.astype(np.float64)[:, rows.events]).items():
            parts.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}


def percentile_interval(values: Floats, coverage: float) -> tuple[float, float]:
    """The central percentile interval of the defined values along the only axis; NaN when none is defined."""
    defined = values[np.isfinite(values)]
    if not defined.size:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - coverage) / 2, (1 + coverage) / 2])
    return float(low), float(high)


def binomial_interval(successes: float, trials: float, coverage: float) -> tuple[float, float]:
    """Clopper & Pearson (1934) interval of a proportion, both sides (1 - coverage) / 2; NaN without trials."""
    if trials <= 0:
        return float("nan"), float("nan")
    tail = (1 - coverage) / 2
    low = 0.0 if successes <= 0 else float(beta.ppf(tail, successes, trials - successes + 1))
    high = 1.0 if successes >= trials else float(beta.ppf(1 - tail, successes + 1, trials - successes))
    return low, high


def precision_at(recall: ArrayLike, fpr: ArrayLike, prevalence: float) -> Floats:
    """Precision where a fraction `prevalence` of the rows is real: pi R / (pi R + (1 - pi) FPR); NaN where nothing is flagged."""
    real = prevalence * np.asarray(recall, dtype=np.float64)
    return _ratio(real, real + (1 - prevalence) * np.asarray(fpr, dtype=np.float64))


def precision_recall_frame(rows: Rows, settings: MetricSettings, rng: np.random.Generator, *, points: int = 201) -> pd.DataFrame:
    """Precision over a grid of recall, with its interval: columns recall, precision, low, high (floats, `points` rows).

    Precision at a recall is the best that any threshold with at least that recall gives, as in the interpolated curve.
    """
    grid = np.linspace(0, 1, points)
    order = _Order(rows)

    def curve(weights: Floats) -> dict[str, Floats]:
        found = _ranking(order, weights)
        best = np.maximum.accumulate(np.nan_to_num(found["precision"])[:, ::-1], axis=1)[:, ::-1]
        last = best.shape[1] - 1
        index = np.stack([np.searchsorted(row, grid - 1e-12) for row in np.nan_to_num(found["recall"])])
        return {"precision": np.take_along_axis(best, np.minimum(index, last), axis=1)}

    if not rows.labels.any() or rows.labels.all():
        return pd.DataFrame({"recall": grid, "precision": np.nan, "low": np.nan, "high": np.nan})
    replicates = bootstrap(rows, curve, settings.replicates, rng)["precision"]
    low, high = np.quantile(replicates, [(1 - settings.interval) / 2, (1 + settings.interval) / 2], axis=0)
    return pd.DataFrame({"recall": grid, "precision": curve(np.ones((1, rows.labels.size)))["precision"][0], "low": low, "high": high})


def roc_frame(rows: Rows) -> pd.DataFrame:
    """The ROC curve at every distinct score: columns threshold, fpr, recall; from (0, 0) to (1, 1)."""
    order = _Order(rows)
    found = _ranking(order, np.ones((1, rows.labels.size)))
    return pd.DataFrame(
        {
            "threshold": np.concatenate([[np.inf], order.thresholds]),
            "fpr": np.concatenate([[0.0], found["fpr"][0]]),
            "recall": np.concatenate([[0.0], found["recall"][0]]),
        }
    )


class _Order:
    """Rows by falling score, and where a run of equal scores ends."""

    def __init__(self, rows: Rows) -> None:
        self.index = np.argsort(-rows.scores, kind="stable")
        ordered = rows.scores[self.index]
        self.ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], np.ones(min(1, ordered.size), dtype=bool)))
        self.thresholds = ordered[self.ends]
        self.labels = rows.labels[self.index].astype(np.float64)


def _ratio(top: Floats, bottom: Floats) -> Floats:
    """top / bottom, NaN where the bottom is zero."""
    shape = np.broadcast_shapes(np.shape(top), np.shape(bottom))
    out = np.full(shape, np.nan)
    np.divide(top, bottom, out=out, where=np.broadcast_to(np.asarray(bottom) > 0, shape))
    return out


def _ranking(order: _Order, weights: Floats) -> dict[str, Floats]:
    """Metrics of the order alone. `weights`: (r, n); returns aucpr and roc_auc (r,), precision, recall and fpr (r, thresholds)."""
    ordered = weights[:, order.index]
    true = np.cumsum(ordered * order.labels, axis=1)[:, order.ends]
    flagged = np.cumsum(ordered, axis=1)[:, order.ends]
    false = flagged - true
    positives, negatives = true[:, -1:], false[:, -1:]
    precision = _ratio(true, flagged)
    recall, fpr = _ratio(true, positives), _ratio(false, negatives)
    both = ((positives > 0) & (negatives > 0))[:, 0]
    steps = np.diff(true, axis=1, prepend=0.0)
    area = np.sum(np.where(steps > 0, steps * precision, 0.0), axis=1)
    under = np.sum(np.diff(false, axis=1, prepend=0.0) * (true - steps / 2), axis=1)
    aucpr = np.where(both, _ratio(area, positives[:, 0]), np.nan)
    roc = np.where(both, _ratio(under, (positives * negatives)[:, 0]), np.nan)
    return {"aucpr": aucpr, "roc_auc": roc, "precision": precision, "recall": recall, "fpr": fpr}


def _metrics(rows: Rows, weights: Floats, settings: MetricSettings) -> dict[str, Floats]:
    if not rows.labels.size:
        names = ["aucpr", "positive_fraction", "precision", "recall", "brier", "ece"]
        return {name: np.full(len(weights), np.nan) for name in names}
    ranking = _ranking(_Order(rows), weights)
    labels = rows.labels.astype(np.float64)
    flagged = (rows.scores >= settings.threshold).astype(np.float64)
    total, positives, chosen = weights.sum(axis=1), weights @ labels, weights @ flagged
    true = weights @ (labels * flagged)
    recall, fpr = _ratio(true, positives), _ratio(chosen - true, total - positives)
    out = {
        "aucpr": ranking["aucpr"],
        "positive_fraction": _ratio(positives, total),
        "roc_auc": ranking["roc_auc"],
        "precision": _ratio(true, chosen),
        "recall": recall,
        "f1": _ratio(2 * true, chosen + positives),
        "fpr": fpr,
        "fnr": 1 - recall,
    }
    for rate in settings.false_positive_rates:
        reached = np.where(ranking["fpr"] <= rate, ranking["recall"], 0.0).max(axis=1)
        out[fnr_name(rate)] = np.where(np.isfinite(ranking["roc_auc"]), 1 - reached, np.nan)
    out["precision_at_prevalence"] = precision_at(recall, fpr, settings.prevalence)
    out["brier"] = _ratio(weights @ (rows.scores - labels) ** 2, total)
    out["ece"] = _ece(rows, weights, settings.bins)
    return out


def fnr_name(rate: float) -> str:
    """The name of the false-negative rate at a false-positive rate, e.g. fnr_at_fpr_1pct."""
    return f"fnr_at_fpr_{100 * rate:g}pct".replace(".", "p")


def _ece(rows: Rows, weights: Floats, bins: int) -> Floats:
    """Expected calibration error over equal-width bins (Guo et al. 2017, eq. 3)."""
    member = np.zeros((rows.labels.size, bins))
    member[np.arange(rows.labels.size), np.minimum((rows.scores * bins).astype(int), bins - 1)] = 1.0
    gap = weights @ (member * (rows.labels - rows.scores)[:, None])
    return _ratio(np.abs(gap).sum(axis=1), weights.sum(axis=1))


def _reasons(rows: Rows, threshold: float) -> dict[str, str]:
    """Why a metric is undefined for these rows; absent where it is defined."""
    both = ["aucpr", "roc_auc", "precision", "f1", "precision_at_prevalence"]
    if not rows.labels.any():
        return dict.fromkeys([*both, "recall", "fnr"], _NO_POSITIVES)
    if rows.labels.all():
        return dict.fromkeys([*both, "fpr"], _NO_NEGATIVES)
    if not (rows.scores >= threshold).any():
        return dict.fromkeys(["precision", "precision_at_prevalence"], _NONE_FLAGGED)
    return {}


def _border_intervals(rows: Rows, settings: MetricSettings) -> dict[str, Estimate]:
    """Exact intervals over events for proportions of 0 or 1, where no resample varies and the bootstrap would claim certainty."""
    flagged = rows.scores >= settings.threshold
    masks: dict[str, tuple[Any, Any]] = {
        "recall": (rows.labels, flagged),
        "fnr": (rows.labels, ~flagged),
        "fpr": (~rows.labels, flagged),
        "precision": (flagged, rows.labels),
    }
    out: dict[str, Estimate] = {}
    for name, (among, hit) in masks.items():
        events = np.unique(rows.events[among]).size
        if not events or (share := float(hit[among].mean())) not in (0.0, 1.0):
            continue
        low, high = binomial_interval(share * events, events, settings.interval)
        out[name] = Estimate(share, low, high, f"exact interval over {events} events")
    if "fpr" in out and flagged[rows.labels].any():
        recall = float(flagged[rows.labels].mean())
        worst = float(precision_at(recall, out["fpr"].high, settings.prevalence))
        value = float(precision_at(recall, out["fpr"].value, settings.prevalence))
        out["precision_at_prevalence"] = Estimate(value, worst, value, "lower end from the exact interval of the false-positive rate")
    return out

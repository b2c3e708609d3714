"""The recall-first threshold: missing an event is worse than looking at a false alarm.

Detections of one event are not independent, so the bound on the recall counts events: an event contributes the share of its
detections that the threshold keeps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import beta, norm

from astrid.core.errors import DataSetError
from astrid.evaluation.metrics import Floats, Rows, precision_at

Bound = Literal["clopper_pearson", "wilson"]

# The threshold lies this fraction below the score it was chosen at, so that the last bits of another runtime flip no decision.
_MARGIN = 1e-4


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold and what validation says about it; a row is called real when score >= `value`."""

    value: float
    recall: float  # of validation's rows at the threshold
    event_recall: float  # mean over events of the share of detections kept
    recall_low: float  # one-sided lower bound of event_recall
    guaranteed: bool  # recall_low reaches the required recall
    events: int  # real events in validation
    rows: int  # real rows in validation
    statement: str  # one sentence: what is and what is not guaranteed


def choose_threshold(rows: Rows, *, required_recall: float, confidence: float, bound: Bound) -> Threshold:
    """The largest threshold whose recall has a one-sided lower bound of at least `required_recall`, from validation.

    Where validation holds too few events for any threshold to have such a bound, the largest threshold that keeps the recall
    itself is taken and the statement says so. Raises `DataSetError` when there is no real row.
    """
    if not rows.labels.any():
        raise DataSetError("Validation holds no real row, so no threshold can keep a recall; change the split.")
    scores = rows.scores[rows.labels]
    events = np.unique(rows.events[rows.labels], return_inverse=True)[1]
    count = int(events.max()) + 1
    levels, recall, event_recall = _recall_levels(scores, events, count)
    low = lower_bound(event_recall * count, count, confidence=confidence, bound=bound)
    kept = (recall >= required_recall - 1e-12) & (event_recall >= required_recall - 1e-12)
    bounded = kept & (low >= required_recall)
    guaranteed = bool(bounded.any())
    index = int(np.flatnonzero(bounded if guaranteed else kept)[0])
    return Threshold(
        value=float(levels[index] * (1 - _MARGIN)),
        recall=float(recall[index]),
        event_recall=float(event_recall[index]),
        recall_low=float(low[index]),
        guaranteed=guaranteed,
        events=count,
        rows=int(scores.size),
        statement=_statement(guaranteed, float(low[index]), count, required_recall, confidence, bound),
    )


def lower_bound(successes: Floats, trials: int, *, confidence: float, bound: Bound) -> Floats:
    """One-sided lower bounds of proportions. `successes`: float (n,), need not be whole; returns float64 (n,).

    clopper_pearson: the beta quantile of Clopper & Pearson (1934), which never covers less than `confidence` for whole
    counts; wilson: Wilson (1927), which covers it on average.
    """
    counts = np.asarray(successes, dtype=np.float64)
    if bound == "clopper_pearson":
        inside = np.maximum(counts, np.finfo(float).tiny)
        return np.where(counts > 0, beta.ppf(1 - confidence, inside, trials - inside + 1), 0.0)
    z = float(norm.ppf(confidence))
    share = counts / trials
    centre = share + z**2 / (2 * trials)
    half = z * np.sqrt(np.maximum(share * (1 - share) / trials + z**2 / (4 * trials**2), 0.0))
    return np.asarray(np.maximum(0.0, (centre - half) / (1 + z**2 / trials)), dtype=np.float64)


def events_needed(required_recall: float, confidence: float, bound: Bound) -> int:
    """The fewest events, all of them kept, whose recall is bounded below by `required_recall`."""
    if bound == "clopper_pearson":
        return math.ceil(math.log(1 - confidence) / math.log(required_recall))
    z = float(norm.ppf(confidence))
    return math.ceil(required_recall * z**2 / (1 - required_recall))


def threshold_curves(rows: Rows, *, step: float, prevalence: float) -> pd.DataFrame:
    """Precision, recall, F1 and the rest over thresholds 0 to 1.

    Returns the columns step (round(100 * threshold)), threshold, precision, recall, f1, fpr, fnr, flagged (fraction of all
    rows) and precision_at_prevalence; NaN where a value is undefined or, for the last one, where no false positive is left.
    """
    grid = np.round(np.arange(0, round(1 / step) + 1) * step, 10)
    positives, negatives = int(rows.labels.sum()), int((~rows.labels).sum())
    true = positives - np.searchsorted(np.sort(rows.scores[rows.labels]), grid, side="left")
    false = negatives - np.searchsorted(np.sort(rows.scores[~rows.labels]), grid, side="left")
    flagged = true + false
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = true / np.float64(positives)
        fpr = false / np.float64(negatives)
        precision = true / flagged.astype(np.float64)
        f1 = 2 * true / (flagged + positives) if positives else np.full(grid.size, np.nan)
    columns = {"precision": precision, "recall": recall, "f1": f1, "fpr": fpr, "fnr": 1 - recall}
    flagged_share = flagged / max(1, rows.labels.size)
    frame = pd.DataFrame({"step": np.round(100 * grid).astype(np.int64), "threshold": grid, **columns, "flagged": flagged_share})
    # Without a false positive the rows cannot resolve the rate that a rare class depends on: NaN, not a perfect precision.
    frame["precision_at_prevalence"] = np.where(false > 0, precision_at(recall, fpr, prevalence), np.nan)
    return frame


def _recall_levels(scores: Floats, events: np.ndarray[tuple[int], np.dtype[np.int64]], count: int) -> tuple[Floats, Floats, Floats]:
    """Distinct scores of real rows from the highest, with the recall of rows and the mean recall of events at each."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    share = 1.0 / np.bincount(events, minlength=count)
    recall = (ends + 1.0) / scores.size
    event_recall = np.cumsum(share[events][order])[ends] / count
    return ordered[ends], recall, np.minimum(event_recall, 1.0)


def _statement(guaranteed: bool, low: float, events: int, required: float, confidence: float, bound: Bound) -> str:
    method = "Clopper-Pearson" if bound == "clopper_pearson" else "Wilson"
    if guaranteed:
        return (
            f"With {100 * confidence:g} % confidence the recall is at least {low:.4f} (required {required:g}): "
            f"{method} lower bound over {events} real events of validation."
        )
    return (
        f"A recall of {required:g} could not be guaranteed: over the {events} real events of validation the {100 * confidence:g} % "
        f"{method} lower bound is {low:.4f}, and at least {events_needed(required, confidence, bound)} events, all kept, are needed; "
        "the threshold is the largest that keeps the required recall on validation itself."
    )

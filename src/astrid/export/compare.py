"""What an artifact costs against the network it was made from: ranking, decisions and the same by S/N, on the same test rows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid.core.errors import GateError
from astrid.evaluation.calibration import Calibration
from astrid.evaluation.metrics import (
    Estimate,
    MetricSettings,
    Rows,
    average_precision,
    bootstrap,
    compare_aucpr,
    evaluate,
    make_rows,
    percentile_interval,
)
from astrid.evaluation.slices import bin_names
from astrid.export.parity import Scorer, Stamps

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CompareSettings:
    """How artifacts are compared: bootstrap replicates over events, coverage of the intervals, inner edges of the S/N bins (sigma)."""

    replicates: int
    interval: float
    snr_edges: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class TestSet:
    """The frozen test rows under the network: `rows` with its calibrated probabilities, `raw` float32 (n,) before calibration,
    `snr` float64 (n,), |S_corr| at the peak."""

    __test__ = False  # no test of pytest's

    rows: Rows
    raw: NDArray[np.float32]
    snr: Floats
    calibration: Calibration
    threshold: float  # on the calibrated probability

    @classmethod
    def of(
        cls,
        labels: NDArray[Any],
        events: NDArray[Any],
        snr: Floats,
        raw: NDArray[np.float32],
        *,
        calibration: Mapping[str, Any],
        threshold: float,
    ) -> TestSet:
        """Pack labels (0 or 1), event names, S/N and the network's sigmoid, each (n,). Raises `DataSetError` for what does not fit."""
        known = Calibration.from_dict(calibration)
        return cls(make_rows(labels, known.apply(raw), events), raw, np.abs(np.asarray(snr, dtype=np.float64)), known, threshold)


@dataclass(frozen=True, eq=False)
class Comparison:
    """One artifact against the network on the test rows; losses are network minus artifact, positive where the artifact is worse."""

    rows: int
    largest: float  # |difference of probability| before calibration
    mean: float
    aucpr: Estimate
    aucpr_loss: Estimate
    recall: float  # at the threshold
    recall_loss: Estimate
    decisions_changed: int  # rows on the other side of the threshold
    by_snr: tuple[Mapping[str, Any], ...]  # records of plain values, a bin of S/N each

    def record(self) -> dict[str, Any]:
        """The numbers for a report or a manifest; what is undefined is NaN."""
        return {
            "rows": self.rows,
            "mean_difference": self.mean,
            "aucpr": self.aucpr.value,
            "aucpr_low": self.aucpr.low,
            "aucpr_high": self.aucpr.high,
            "aucpr_loss": self.aucpr_loss.value,
            "aucpr_loss_low": self.aucpr_loss.low,
            "aucpr_loss_high": self.aucpr_loss.high,
            "recall": self.recall,
            "recall_loss": self.recall_loss.value,
            "recall_loss_low": self.recall_loss.low,
            "recall_loss_high": self.recall_loss.high,
            "decisions_changed": self.decisions_changed,
            "by_snr": [dict(record) for record in self.by_snr],
        }


def compare_scores(test: TestSet, artifact: NDArray[np.float32], settings: CompareSettings, rng: np.random.Generator) -> Comparison:
    """Compare an artifact's probabilities before calibration, float32 (n,), with the network's on the rows of `test`.

    Both go through the same calibration and threshold. Intervals are percentiles over draws of whole events, the same draws for
    both (paired), since a detection's two scores move together. Raises `DataSetError` for scores outside [0, 1].
    """
    network, found = test.rows, test.rows.with_scores(test.calibration.apply(artifact))
    metric = MetricSettings(test.threshold, settings.replicates, settings.interval, 0.5, (), 1)
    differences = np.abs(test.raw.astype(np.float64) - artifact)
    ours, theirs = network.scores >= test.threshold, found.scores >= test.threshold
    return Comparison(
        rows=len(artifact),
        largest=float(differences.max(initial=0.0)),
        mean=float(differences.mean()) if len(differences) else 0.0,
        aucpr=evaluate(found, metric, rng)["aucpr"],
        aucpr_loss=compare_aucpr(network, found.scores, metric, rng),
        recall=_share(theirs, found.labels),
        recall_loss=_recall_loss(network, ours, theirs, settings, rng),
        decisions_changed=int((ours != theirs).sum()),
        by_snr=_by_snr(test, found, differences, settings.snr_edges),
    )


def within(comparison: Comparison, *, aucpr: float, recall: float) -> str:
    """Empty where the losses are within the limits, else the sentence that says which is not; a loss that is undefined is within none."""
    losses = (("AUCPR", comparison.aucpr_loss.value, aucpr), ("recall at the threshold", comparison.recall_loss.value, recall))
    for name, loss, limit in losses:
        if not loss <= limit:
            return f"it loses {loss:.4f} of {name} on {comparison.rows} test rows, and {limit:.4f} is allowed"
    return ""


def latency_ratio(artifact: Scorer, reference: Scorer, stamps: Stamps, *, repeats: int) -> float:
    """How long an artifact takes over what the reference takes for the same normalised triplets: medians of `repeats` turns each.

    The two take turns, so that what else the machine does falls on both. Raises `GateError` where a clock shows nothing.
    """
    taken: dict[str, list[float]] = {"artifact": [], "reference": []}
    for turn in range(repeats + 1):
        for name, score in (("artifact", artifact), ("reference", reference)):
            start = time.perf_counter()
            score(stamps)
            if turn:  # the first one warms up
                taken[name].append(time.perf_counter() - start)
    below = statistics.median(taken["reference"]) if repeats else 0.0
    if not below > 0:
        raise GateError(f"the reference took {below} s in {repeats} turns, so no ratio of times can be given; measure with more triplets.")
    return statistics.median(taken["artifact"]) / below


def _share(flagged: NDArray[np.bool_], among: NDArray[np.bool_]) -> float:
    return float(flagged[among].mean()) if among.any() else float("nan")


def _recall_loss(
    rows: Rows, ours: NDArray[np.bool_], theirs: NDArray[np.bool_], settings: CompareSettings, rng: np.random.Generator
) -> Estimate:
    if not rows.labels.any():
        return Estimate(float("nan"), reason="no real row")
    lost = (ours.astype(np.float64) - theirs) * rows.labels
    real = rows.labels.astype(np.float64)

    def loss(weights: Floats) -> dict[str, Floats]:
        positives = weights @ real
        return {"loss": np.divide(weights @ lost, positives, out=np.full(len(weights), np.nan), where=positives > 0)}

    low, high = percentile_interval(bootstrap(rows, loss, settings.replicates, rng)["loss"], settings.interval)
    return Estimate(float(lost.sum() / real.sum()), low, high)


def _by_snr(test: TestSet, found: Rows, differences: Floats, edges: tuple[float, ...]) -> tuple[Mapping[str, Any], ...]:
    """A record a bin that holds rows."""
    bins, names = bin_names(test.snr, edges, missing="no S/N")
    records = []
    for name in names:
        inside = np.asarray(bins == name)
        if not inside.any():
            continue
        ours, theirs, real = test.rows.where(inside), found.where(inside), test.rows.labels[inside]
        flagged, kept = ours.scores >= test.threshold, theirs.scores >= test.threshold
        records.append(
            {
                "snr": name,
                "rows": int(inside.sum()),
                "real": int(real.sum()),
                "largest_difference": float(differences[inside].max()),
                "aucpr_loss": _number(average_precision(ours) - average_precision(theirs)),
                "recall": _number(_share(flagged, real)),
                "recall_loss": _number(_share(flagged, real) - _share(kept, real)),
                "decisions_changed": int((flagged != kept).sum()),
            }
        )
    return tuple(records)


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None

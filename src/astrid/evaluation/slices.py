"""Where a model is strong and where it is weak: metrics by S/N, host offset, filter, detector, survey, sign and kind."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from astrid.evaluation.metrics import Estimate, MetricSettings, Rows, evaluate

COLUMNS = ("slice", "group", "metric", "value", "low", "high", "rows", "positives", "negatives", "events", "reason")
_SHOWN = ("aucpr", "recall", "precision", "fpr", "precision_at_prevalence")


@dataclass(frozen=True, slots=True)
class SliceSettings:
    """Bin edges (inner; the outer bins are open) and the settings of the metrics in a slice."""

    snr_edges: tuple[float, ...]
    dlr_edges: tuple[float, ...]
    metrics: MetricSettings


def slice_metrics(rows: Rows, table: pd.DataFrame, settings: SliceSettings, rng: np.random.Generator) -> pd.DataFrame:
    """Metrics of every slice, one line a slice, group and metric.

    `table`: the triplet columns survey, detector, filter, snr, host_dlr, sign and kind, in the order of `rows`. Surveys,
    detectors, filters, bins and signs get AUCPR, recall, precision, false-positive rate and precision at the stream's
    prevalence; a bogus kind gets its false-positive rate, a transient kind its recall. A metric that a slice does not
    define is NaN with a reason. Returns a frame with `COLUMNS`.
    """
    lines: list[tuple[object, ...]] = []
    for name, group, mask, metrics in _slices(rows, table, settings):
        part = rows.where(mask)
        found = evaluate(part, settings.metrics, rng)
        positives = int(part.labels.sum())
        counts = (int(mask.sum()), positives, int(mask.sum()) - positives, part.n_events)
        for metric in metrics:
            estimate = found.get(metric, Estimate(float("nan"), reason="no row"))
            lines.append((name, group, metric, estimate.value, estimate.low, estimate.high, *counts, estimate.reason))
    return pd.DataFrame(lines, columns=list(COLUMNS))


def bin_names(values: ArrayLike, edges: Sequence[float], *, missing: str) -> tuple[NDArray[np.object_], list[str]]:
    """The bin of each value and the bins in order. `values`: float (n,); NaN falls in the bin `missing`, which comes last."""
    numbers = np.asarray(values, dtype=np.float64)
    inner = [f"{edge:g}" for edge in edges]
    names = [f"< {inner[0]}", *(f"{low} to {high}" for low, high in itertools.pairwise(inner)), f"≥ {inner[-1]}"]
    index = np.digitize(numbers, np.asarray(edges))
    index[~np.isfinite(numbers)] = len(names)
    names.append(missing)
    return np.array(names, dtype=object)[index], names


def _slices(rows: Rows, table: pd.DataFrame, settings: SliceSettings) -> Iterator[tuple[str, str, NDArray[np.bool_], tuple[str, ...]]]:
    """Slice name, group, rows of the group and the metrics that mean something there."""
    yield "all", "all", np.ones(len(table), dtype=bool), _SHOWN
    for name in ("survey", "detector", "filter"):
        values = _detectors(table) if name == "detector" else table[name].astype(str).to_numpy(dtype=object)
        for group in sorted(set(values)):
            yield name, group, values == group, _SHOWN
    binned = {
        "S/N": bin_names(table["snr"], settings.snr_edges, missing="no S/N"),
        "host offset (DLR)": bin_names(table["host_dlr"], settings.dlr_edges, missing="no host"),
    }
    for name, (values, order) in binned.items():
        for group in order:
            if (values == group).any():
                yield name, group, values == group, _SHOWN
    sign = table["sign"].to_numpy()
    for group, value in (("brightened", 1), ("faded", -1)):
        if (sign == value).any():
            yield "sign", group, sign == value, _SHOWN
    kinds = table["kind"].astype(str).replace("", "unknown").to_numpy(dtype=object)
    for name, among, metrics in (("bogus kind", ~rows.labels, ("fpr",)), ("transient kind", rows.labels, ("recall",))):
        for group in sorted(set(kinds[among])):
            yield name, group, among & (kinds == group), metrics


def _detectors(table: pd.DataFrame) -> NDArray[np.object_]:
    """Survey and detector together: two surveys may use one name."""
    names: NDArray[np.object_] = (table["survey"].astype(str) + " " + table["detector"].astype(str)).to_numpy(dtype=object)
    return names


def recall_by_snr(rows: Rows, table: pd.DataFrame, settings: SliceSettings, rng: np.random.Generator) -> pd.DataFrame:
    """Recall of real rows over S/N bins: columns low_snr, high_snr, median_snr, recall, low, high, positives; empty bins are left out."""
    snr = table["snr"].to_numpy(dtype=np.float64)
    edges = np.concatenate([[0.0], settings.snr_edges, [np.inf]])
    lines = []
    for start, stop in itertools.pairwise(edges):
        mask = rows.labels & (snr >= start) & (snr < stop)
        if mask.any():
            found = evaluate(rows.where(mask), settings.metrics, rng)["recall"]
            lines.append((start, stop, float(np.median(snr[mask])), found.value, found.low, found.high, int(mask.sum())))
    return pd.DataFrame(lines, columns=["low_snr", "high_snr", "median_snr", "recall", "low", "high", "positives"])

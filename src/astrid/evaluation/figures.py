"""Figures of a ranking and of the data it stands on; each function returns a matplotlib figure and touches no file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from astrid.evaluation.metrics import Estimate, Floats, Rows
from astrid.evaluation.style import BASELINE, BOGUS, GOLD, GREEN, INK, MUTED, PURPLE, REAL, SERIES, new_figure, styled

_ALIGNMENT_TARGET = 0.1  # px, RMS of matched stars (docs: science, Alignment)


def _unit_axes(axes: Any, *, x: str, y: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.03), xlabel=x, ylabel=y)


@styled
def precision_recall(
    model: pd.DataFrame,
    baseline: pd.DataFrame,
    aucpr: Estimate,
    baseline_aucpr: Estimate,
    positive_fraction: float,
    operating: tuple[float, float],
) -> Figure:
    """Precision against recall with intervals, the random forest and the random ranking. `operating`: (recall, precision)."""
    figure = new_figure(5.6, 4.1)
    axes = figure.add_subplot()
    axes.fill_between(model.recall, model.low, model.high, color=REAL, alpha=0.16, lw=0)
    axes.plot(baseline.recall, baseline.precision, color=BASELINE, ls=(0, (5, 2)), label=f"random forest, AUCPR {baseline_aucpr.value:.3f}")
    axes.plot(model.recall, model.precision, color=REAL, label=f"network, AUCPR {aucpr.value:.3f} [{aucpr.low:.3f}, {aucpr.high:.3f}]")
    axes.axhline(positive_fraction, color=BOGUS, lw=1.2, ls=":", label=f"random ranking, {positive_fraction:.3f}")
    if np.isfinite(operating).all():
        axes.plot(*operating, "o", color=INK, ms=7, mfc=GOLD, mew=1.2, label="chosen threshold", zorder=5)
    _unit_axes(axes, x="Recall (fraction of real detections kept)", y="Precision (fraction of kept detections that are real)")
    axes.legend(loc="lower left")
    return figure


@styled
def roc(model: pd.DataFrame, baseline: pd.DataFrame, rates: Sequence[float], floor: float) -> Figure:
    """ROC with a logarithmic false-positive rate; `floor` is the smallest rate that the rows resolve, 1 / bogus rows."""
    figure = new_figure(5.6, 4.1)
    axes = figure.add_subplot()
    for frame, colour, style, label in ((baseline, BASELINE, (0, (5, 2)), "random forest"), (model, REAL, "-", "network")):
        axes.step(np.maximum(frame.fpr, floor / 2), frame.recall, where="post", color=colour, ls=style, label=label)
    grid = np.geomspace(floor / 2, 1, 100)
    axes.plot(grid, grid, color=BOGUS, lw=1.2, ls=":", label="random ranking")
    for rate in rates:
        axes.axvline(rate, color=MUTED, lw=0.8, ls="--")
        axes.text(rate, 1.03, f" {100 * rate:g} %", color=MUTED, fontsize=8, ha="left", va="top")
    axes.set(xscale="log", xlim=(floor / 2, 1), ylim=(-0.01, 1.04))
    axes.set(xlabel="False-positive rate (fraction of bogus detections kept)", ylabel="Recall (fraction of real detections kept)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


@styled
def threshold_curves(curves: pd.DataFrame, threshold: float, prevalence: float) -> Figure:
    """Precision, recall, F1, false-positive rate and the precision at the stream's prevalence over the threshold."""
    figure = new_figure(5.6, 4.1)
    axes = figure.add_subplot()
    shown = (
        ("recall", "recall", REAL, "-"),
        ("precision", "precision", BOGUS, "-"),
        ("f1", "F1", GREEN, "-"),
        ("fpr", "false-positive rate", PURPLE, (0, (5, 2))),
        ("precision_at_prevalence", f"precision at {100 * prevalence:g} % prevalence", GOLD, (0, (1, 1))),
    )
    for column, label, colour, style in shown:
        axes.plot(curves.threshold, curves[column], color=colour, ls=style, label=label)
    axes.axvline(threshold, color=INK, lw=1.1)
    axes.annotate(
        f"threshold {threshold:.3g}", (threshold, 0.5), xytext=(5 if threshold < 0.6 else -5, 0), textcoords="offset points", rotation=90,
        va="center", ha="left" if threshold < 0.6 else "right", fontsize=8,
    )  # fmt: skip
    _unit_axes(axes, x="Threshold (calibrated probability of being real)", y="Value")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


@styled
def confusion_matrix(counts: Mapping[str, int], threshold: float) -> Figure:
    """Counts and row fractions at the threshold."""
    figure = new_figure(5.6, 4.1)
    axes = figure.add_subplot()
    table = np.array([[counts["true_positive"], counts["false_negative"]], [counts["false_positive"], counts["true_negative"]]])
    share = table / np.maximum(1, table.sum(axis=1, keepdims=True))
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
    names = (("found", "missed"), ("false alarm", "rejected"))
    for i in range(2):
        for j in range(2):
            colour = "white" if share[i, j] > 0.6 else INK
            axes.text(j, i - 0.06, f"{table[i, j]:,}", ha="center", va="center", fontsize=17, fontweight="bold", color=colour)
            axes.text(j, i + 0.2, f"{names[i][j]}, {100 * share[i, j]:.1f} %", ha="center", va="center", fontsize=9, color=colour)
    axes.grid(visible=False)
    axes.set_xticks([0, 1], ["called real", "called bogus"])
    axes.set_yticks([0, 1], ["real", "bogus"], rotation=90, va="center")
    axes.tick_params(length=0, labelsize=9.5)
    axes.spines[:].set_visible(False)
    axes.set_title(f"Threshold {threshold:.3g}")
    return figure


def reliability_frame(rows: Rows, bins: int) -> pd.DataFrame:
    """Equal-width bins of the probability: columns bin_low, bin_high, predicted, observed, rows; empty bins are NaN with rows 0."""
    index = np.minimum((rows.scores * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    safe = np.where(count > 0, count, np.nan)
    edges = np.linspace(0, 1, bins + 1)
    return pd.DataFrame(
        {
            "bin_low": edges[:-1],
            "bin_high": edges[1:],
            "predicted": np.bincount(index, weights=rows.scores, minlength=bins) / safe,
            "observed": np.bincount(index, weights=rows.labels.astype(float), minlength=bins) / safe,
            "rows": count,
        }
    )


@styled
def reliability(calibrated: pd.DataFrame, raw: pd.DataFrame, ece: Estimate) -> Figure:
    """Observed fraction of real rows against the predicted probability, before and after calibration, with the counts below."""
    figure = new_figure(5.6, 4.1)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    top.plot([0, 1], [0, 1], color=MUTED, lw=1, ls=":", label="perfect")
    for frame, colour, marker, label in ((raw, BASELINE, "s", "raw score"), (calibrated, REAL, "o", f"calibrated, ECE {ece.value:.3f}")):
        filled = frame[frame.rows > 0]
        top.plot(filled.predicted, filled.observed, marker=marker, ms=5, color=colour, label=label)
    _unit_axes(top, x="", y="Observed fraction real")
    top.legend(loc="upper left")
    width = float(calibrated.bin_high.iloc[0])
    bottom.bar(calibrated.bin_low, calibrated.rows, width=0.92 * width, align="edge", color=REAL, alpha=0.75)
    bottom.set(yscale="log", ylabel="Rows", xlabel="Predicted probability of being real")
    return figure


@styled
def score_histogram(rows: Rows, threshold: float) -> Figure:
    """Calibrated scores of real and bogus rows, counts on a logarithmic axis."""
    figure = new_figure(5.6, 4.1)
    axes = figure.add_subplot()
    edges = np.linspace(0, 1, 41).tolist()
    for mask, colour, label in ((~rows.labels, BOGUS, "bogus"), (rows.labels, REAL, "real")):
        axes.hist(rows.scores[mask], edges, color=colour, alpha=0.28, lw=0)
        axes.hist(rows.scores[mask], edges, color=colour, histtype="step", lw=1.6, label=f"{label} ({int(mask.sum()):,})")
    axes.axvline(threshold, color=INK, lw=1.1, label=f"threshold {threshold:.3g}")
    axes.set(yscale="log", xlim=(0, 1), xlabel="Calibrated probability of being real", ylabel="Detections a bin")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


@styled
def training_history(history: pd.DataFrame, best_epoch: int) -> Figure:
    """Loss and validation AUCPR by epoch; every column that ends in `loss` or `aucpr` is drawn."""
    figure = new_figure(5.6, 4.4)
    axes = figure.subplots(2, 1, sharex=True)
    epochs = history["epoch"] if "epoch" in history else pd.Series(np.arange(1, len(history) + 1))
    for axis, ending, label in zip(axes, ("loss", "aucpr"), ("Loss (cross-entropy)", "AUCPR"), strict=True):
        for column, colour in zip([name for name in history if str(name).endswith(ending)], SERIES, strict=False):
            axis.plot(epochs, history[column], color=colour, marker="o", ms=3, label=str(column).replace("_", " "))
        axis.axvline(best_epoch, color=MUTED, lw=1, ls="--", label=f"best epoch {best_epoch}")
        axis.set(ylabel=label)
        axis.legend()
    axes[-1].set_xlabel("Epoch")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    return figure


@styled
def recall_by_snr(frame: pd.DataFrame, required: float) -> Figure:
    """Recall at the threshold in bins of S/N, with intervals and the counts of real detections."""
    figure = new_figure(5.6, 4.1)
    axes = figure.add_subplot()
    if len(frame):
        errors = np.clip([frame.recall - frame.low, frame.high - frame.recall], 0, None)
        axes.errorbar(frame.median_snr, frame.recall, yerr=errors, color=REAL, marker="o", ms=6, capsize=3, elinewidth=1.3)
        floor = max(0.0, float(np.nanmin(frame.low)) - 0.16)
        for line in frame.itertuples():
            axes.text(line.median_snr, floor + 0.02 * (1 - floor), f"{line.positives}", ha="center", fontsize=8, color=MUTED)
        axes.set_ylim(floor, 1.02 + 0.02 * (1 - floor))
    axes.axhline(required, color=MUTED, lw=1, ls="--", label=f"recall required on validation, {required:g}")
    axes.set(xscale="log", xlabel="S/N at the peak of S_corr (sigma); below, the number of real detections", ylabel="Recall")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left")
    return figure


@styled
def slice_bars(slices: pd.DataFrame, metric: str, label: str, names: Sequence[str]) -> Figure:
    """One metric as horizontal bars with intervals, a block a slice; undefined groups are named without a bar."""
    shown = slices[(slices["metric"] == metric) & slices["slice"].isin(names)]
    figure = new_figure(5.6, max(2.0, 0.27 * len(shown) + 0.34 * shown["slice"].nunique() + 0.8))
    axes = figure.add_subplot()
    position, ticks, texts = 0.0, [], []
    for colour, name in zip(cycle(SERIES), names, strict=False):
        block = shown[shown["slice"] == name]
        if block.empty:
            continue
        axes.text(0.0, position - 0.78, name, fontweight="bold", fontsize=8.8, va="center", color=colour, clip_on=False)
        for line in block.itertuples():
            _slice_bar(axes, line, position, colour)
            ticks.append(position)
            texts.append(f"{str(line.group).replace('_', ' ')}  ({line.rows})")
            position += 1
        position += 1.1
    axes.set_yticks(ticks, texts)
    axes.set(ylim=(position - 1.2, -1.4), xlim=(0, 1.02), xlabel=label)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    return figure


def _slice_bar(axes: Any, line: Any, position: float, colour: str) -> None:
    if not np.isfinite(line.value):
        axes.text(0.01, position, f"not defined: {line.reason}", va="center", fontsize=8, color=MUTED, style="italic")
        return
    axes.barh(position, line.value, height=0.66, color=colour, alpha=0.8)
    if np.isfinite(line.low):
        axes.plot([line.low, line.high], [position, position], color=INK, lw=1.2, marker="|", ms=5)


@styled
def importances(names: Sequence[str], values: Floats, *, most: int = 15) -> Figure:
    """Feature importances of the random forest, the largest first."""
    order = np.argsort(-np.asarray(values), kind="stable")[:most]
    figure = new_figure(5.6, 0.235 * len(order) + 0.75)
    axes = figure.add_subplot()
    axes.barh(np.arange(len(order)), np.asarray(values)[order], color=BASELINE, height=0.7)
    axes.set_yticks(np.arange(len(order)), [str(names[index]).replace("_", " ") for index in order])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("Importance (share of impurity decrease)")
    return figure


@styled
def quality(pairs: pd.DataFrame, panels: Sequence[tuple[str, str, float]]) -> Figure:
    """Histograms of pair quality by survey. `panels`: (column, label with unit, target drawn as a line; NaN for none)."""
    figure = new_figure(2.95 * len(panels), 3.4)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    surveys = sorted(pairs["survey"].astype(str).unique())
    if len(surveys) > len(SERIES):  # more than there are colours to tell apart
        pairs, surveys = pairs.assign(survey="all surveys"), ["all surveys"]
    for axes, (column, label, target) in zip(grid, panels, strict=True):
        values = pd.to_numeric(pairs[column]).to_numpy(dtype=np.float64)
        finite = values[np.isfinite(values)]
        span = [*finite, target] if np.isfinite(target) else list(finite)
        edges: Any = np.linspace(min(span), max(span), 25) if span and max(span) > min(span) else 12
        for colour, survey in zip(SERIES, surveys, strict=False):
            chosen = values[(pairs["survey"].astype(str) == survey).to_numpy() & np.isfinite(values)]
            axes.hist(chosen, edges, histtype="stepfilled", color=colour, alpha=0.22)
            axes.hist(
                chosen,
                edges,
                histtype="step",
                color=colour,
                lw=1.5,
                label=f"{survey} (median {np.median(chosen):.3g})" if len(chosen) else survey,
            )
        if np.isfinite(target):
            axes.axvline(target, color=INK, lw=1.1, ls="--")
        axes.set(xlabel=label, ylabel="Pairs a bin" if axes is grid[0] else "")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), fontsize=8)
    return figure


def quality_panels(pairs: pd.DataFrame) -> list[tuple[str, str, float]]:
    """Which quality panels the pairs table can show, with units and targets; a column that is absent or empty gives none."""
    known = (
        ("q_registration_rms_px", "Registration RMS of stars (px)", _ALIGNMENT_TARGET),
        ("q_score_std_raw", "Width of S_corr as computed (sigma)", 1.0),
        ("q_score_std", "Width of S_corr as delivered (sigma)", 1.0),
        ("q_overlap", "Overlap with reference (fraction)", float("nan")),
    )
    return [panel for panel in known if panel[0] in pairs and pairs[panel[0]].notna().any()]

"""The report that a person reads: measured results -> a plain context -> one HTML page beside its pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd

from astrid.evaluation.metrics import Estimate
from astrid.evaluation.threshold import Threshold

# Key, title, title in the navigation, and what the section tells.
SECTIONS = (
    (
        "ranking",
        "Ranking and probabilities",
        "Ranking",
        "How well the score puts real detections before bogus ones, and whether 0.8 means eight of ten.",
    ),
    (
        "operating",
        "Operating point",
        "Operating point",
        "What the threshold, chosen on validation, keeps and lets through on the test part.",
    ),
    ("slices", "Where it is strong, where it is weak", "Slices", "The same metrics by brightness, host offset, instrument and kind."),
    ("gallery", "Gallery", "Gallery", "Science, reference and difference of test detections, with the score that they got."),
    ("data", "Images underneath", "Images", "Alignment and subtraction of the pairs that the detections come from."),
    ("training", "Training", "Training", "How the network learnt, and what the random forest leans on."),
)

_SPLITS = {
    "temporal": "split by time",
    "cross_instrument": "split by instrument",
    "cross_survey": "split by survey",
    "training_only": "nothing held out",
    "random_grouped": "split at random by whole groups",
}

METRIC_NAMES = {
    "aucpr": "AUCPR",
    "positive_fraction": "AUCPR of a random ranking (positive fraction)",
    "roc_auc": "ROC AUC",
    "precision": "Precision at the threshold",
    "recall": "Recall at the threshold",
    "f1": "F1 at the threshold",
    "fpr": "False-positive rate at the threshold",
    "fnr": "False-negative rate at the threshold",
    "precision_at_prevalence": "Precision at the stream's prevalence",
    "brier": "Brier score",
    "ece": "Expected calibration error",
}
_FNR_PREFIX = "fnr_at_fpr_"


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure of the report. `file`: relative to the page; `shape`: "" for half the width, "wide" for all, "tall" for a column."""

    section: str
    file: str
    title: str
    caption: str
    shape: str = ""


@dataclass(frozen=True)
class ReportInputs:
    """What was measured, in plain records; `build_context` turns it into text."""

    model: str
    surveys: Sequence[str]
    split: str  # strategy
    label_sources: Mapping[str, int]  # labelled rows by source
    parts: pd.DataFrame  # columns part, rows, real, bogus, events
    metrics: Mapping[str, Estimate]
    validation: Mapping[str, Estimate]
    baseline: Mapping[str, Estimate]
    gain: Estimate  # AUCPR of the network minus that of the random forest
    threshold: Threshold
    calibration: Mapping[str, Any]
    slices: pd.DataFrame
    pictures: Sequence[Picture]
    lineage: Mapping[str, Mapping[str, str]]  # group -> name -> value
    prevalence: float
    interval: float
    replicates: int

    @property
    def simulated(self) -> bool:
        """True when every label comes from a simulation's truth table."""
        return set(self.label_sources) == {"truth"}


def build_context(inputs: ReportInputs) -> dict[str, Any]:
    """The page's content as plain values, JSON-ready; everything is formatted, so the template only places it."""
    return {
        "title": "AstrID: real or bogus",
        "model": inputs.model,
        "lead": _lead(inputs),
        "simulated": inputs.simulated,
        "cards": _cards(inputs),
        "notes": _notes(inputs),
        "sections": _sections(inputs.pictures),
        "parts": inputs.parts.to_dict("records"),
        "metric_rows": metric_rows(inputs.metrics, inputs.validation, inputs.baseline),
        "slice_tables": slice_tables(inputs.slices),
        "lineage": {group: dict(values) for group, values in inputs.lineage.items()},
    }


def render(context: Mapping[str, Any]) -> str:
    """The report page for a context of `build_context`, as HTML text."""
    return str(_templates().get_template("report.html.j2").render(**context))


def render_alerts(context: Mapping[str, Any]) -> str:
    """The page of scored real alerts from the context of `evaluation.alerts.alert_context`."""
    return str(_templates().get_template("alerts.html.j2").render(**context))


def render_pairs(context: Mapping[str, Any]) -> str:
    """The page of subtracted pairs from the context of `evaluation.pairs.pairs_context`."""
    return str(_templates().get_template("pairs.html.j2").render(**context))


def render_transfer(context: Mapping[str, Any]) -> str:
    """The page of compared training sets from the context of `evaluation.transfer.transfer_context`."""
    return str(_templates().get_template("transfer.html.j2").render(**context))


def render_data(context: Mapping[str, Any]) -> str:
    """The page of a data set from the context of `evaluation.datapage.data_context`."""
    return str(_templates().get_template("data.html.j2").render(**context))


def render_acquire(context: Mapping[str, Any]) -> str:
    """The page of an acquisition from the context of `evaluation.acquirepage.acquire_context`."""
    return str(_templates().get_template("acquire.html.j2").render(**context))


@cache
def _templates() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("astrid.evaluation"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def number(value: float) -> str:
    """A fraction or count for a person: three decimals, more for small values, a dash for NaN."""
    if not math.isfinite(value):
        return "–"
    if value == 0 or abs(value) >= 0.01:
        return f"{value:.3f}"
    return f"{value:.2g}"


def cell(estimate: Estimate | None) -> dict[str, str]:
    """Value, interval and reason of an estimate as text."""
    if estimate is None:
        return {"value": "–", "interval": "", "reason": "not measured"}
    interval = f"{number(estimate.low)} to {number(estimate.high)}" if math.isfinite(estimate.low) else ""
    return {"value": number(estimate.value), "interval": interval, "reason": estimate.reason}


def metric_rows(
    metrics: Mapping[str, Estimate], validation: Mapping[str, Estimate], baseline: Mapping[str, Estimate]
) -> list[dict[str, Any]]:
    """Lines of the metrics table: name, and the cells of test, validation and the random forest on test."""
    return [
        {"name": metric_name(key), "cells": [cell(metrics[key]), cell(validation.get(key)), cell(baseline.get(key))]} for key in metrics
    ]


def metric_name(key: str) -> str:
    """A metric's name for a person."""
    if key.startswith(_FNR_PREFIX):
        rate = key.removeprefix(_FNR_PREFIX).removesuffix("pct").replace("p", ".")
        return f"False-negative rate at {rate} % false positives"
    return METRIC_NAMES.get(key, key.replace("_", " "))


def slice_tables(slices: pd.DataFrame) -> list[dict[str, Any]]:
    """One table a slice: the groups down, the metrics across."""
    tables = []
    for name, block in slices[slices["slice"] != "all"].groupby("slice", sort=False):
        metrics = list(dict.fromkeys(block["metric"]))
        lines = []
        for group, part in block.groupby("group", sort=False):
            first = part.iloc[0]
            by_metric = {
                row["metric"]: cell(Estimate(row["value"], row["low"], row["high"], row["reason"])) for row in part.to_dict("records")
            }
            counts = [int(first[column]) for column in ("rows", "positives", "negatives", "events")]
            lines.append({"group": str(group), "counts": counts, "cells": [by_metric.get(metric, cell(None)) for metric in metrics]})
        tables.append({"name": str(name), "metrics": [_short(metric) for metric in metrics], "lines": lines})
    return tables


def _short(metric: str) -> str:
    return {"aucpr": "AUCPR", "recall": "Recall", "precision": "Precision", "fpr": "False-positive rate"}.get(metric, metric_name(metric))


def _sections(pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    out = []
    for key, title, short, text in SECTIONS:
        own = [{"file": p.file, "title": p.title, "caption": p.caption, "shape": p.shape} for p in pictures if p.section == key]
        out.append({"id": key, "title": title, "short": short, "text": text, "pictures": own})
    return out


def _cards(inputs: ReportInputs) -> list[dict[str, str]]:
    test = inputs.parts[inputs.parts["part"] == "test"].iloc[0]
    shown = (
        ("aucpr", "AUCPR", f"a random ranking has {number(inputs.metrics['positive_fraction'].value)}"),
        ("recall", "Recall", f"at the threshold {inputs.threshold.value:.3g}"),
        ("precision", "Precision", f"at the threshold {inputs.threshold.value:.3g}"),
        ("ece", "Calibration error", "ECE of the calibrated score"),
    )
    cards = []
    for key, label, hint in shown:
        text = cell(inputs.metrics[key])
        cards.append({"label": label, "value": text["value"], "interval": text["interval"], "hint": hint})
    events = {"label": "Test events", "value": f"{int(test['events']):,}", "interval": f"{int(test['rows']):,} detections"}
    return [*cards, {**events, "hint": f"{int(test['real']):,} real, {int(test['bogus']):,} bogus"}]


def _lead(inputs: ReportInputs) -> str:
    kind = "simulated exposures" if inputs.simulated else "exposures"
    surveys = _listed(inputs.surveys)
    return (
        f"{inputs.model} looks at science, reference and difference stamps of detections in {kind} of {surveys}, "
        f"{_SPLITS.get(inputs.split, 'split as recorded')}, and says which are real."
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "no survey"


def _notes(inputs: ReportInputs) -> list[str]:
    notes = []
    if inputs.simulated:
        notes.append("Every number on this page comes from simulated images. It says how the method works, not how it does on a real sky.")
    counts = ", ".join(f"{name} {count:,}" for name, count in sorted(inputs.label_sources.items()))
    injected = " Injected sources are simulated transients in real images." if "injection" in inputs.label_sources else ""
    notes.append(f"Labels by source: {counts}.{injected}")
    method = inputs.calibration["method"]
    notes.append(f"The test part was read once, after training. Calibration ({method}) and threshold come from validation alone.")
    notes.append(inputs.threshold.statement)
    fraction = inputs.metrics["positive_fraction"].value
    rate = cell(inputs.metrics["precision_at_prevalence"])
    spread = f" ({rate['interval']})" if rate["interval"] else ""
    notes.append(
        f"{100 * fraction:.1f} % of the test detections are real. In a stream with {100 * inputs.prevalence:g} % real ones the same "
        f"threshold has a precision of {rate['value']}{spread}."
    )
    notes.append(
        f"Intervals hold {100 * inputs.interval:g} % and come from {inputs.replicates:,} bootstrap replicates over events: "
        "all detections of one object are drawn together."
    )
    if inputs.gain.defined:
        verdict = "better than" if inputs.gain.low > 0 else "worse than" if inputs.gain.high < 0 else "not told apart from"
        notes.append(
            f"On the same detections the network is {verdict} a random forest on catalogue features: "
            f"AUCPR {inputs.gain.value:+.3f} ({inputs.gain.low:+.3f} to {inputs.gain.high:+.3f})."
        )
    return notes

"""The page of real alerts: how the scores rank them, against what, and where score and evidence disagree most."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from astrid.evaluation.gallery import Example, gallery
from astrid.evaluation.metrics import Estimate
from astrid.evaluation.ranking import FALSE_ALARM_RATES, INTERVAL, PEER, PEER_LIMIT, REPLICATES, disagreements, join_evidence, roc_curves
from astrid.evaluation.report import cell
from astrid.evaluation.style import BOGUS, GOLD, INK, MUTED, PURPLE, REAL, new_figure, png_bytes, styled

Stamps = Callable[[pd.DataFrame], Mapping[Any, NDArray[np.float32]]]  # rows of joined evidence -> stamps by row label

EACH = 6  # alerts a gallery
_BINS = 30  # of the score
_COLOURS = {"strong": REAL, "weak": GOLD, "peer_low": BOGUS}
_WORDS = {"strong": "strong evidence", "weak": "weak evidence", "peer_low": f"braai below {PEER_LIMIT:g}"}
_CURVES = (("strong", REAL, "-"), ("strong, faded", PURPLE, (0, (1, 1))), ("weak", GOLD, (0, (5, 2))))
_GALLERIES = (
    ("missed", "Evidence says real, the score is low", "Strong evidence of being real, lowest scores first."),
    ("claimed", "braai is low, the score is high", "No evidence and braai below the limit, highest scores first: some may well be real."),
    ("agreed_real", "Evidence and score agree on real", "Strong evidence, highest scores first."),
    ("agreed_low", "braai and score agree on bogus", "braai below the limit, lowest scores first."),
)


def alert_context(
    result: Mapping[str, Any], scores: pd.DataFrame, evidence: pd.DataFrame, stamps: Stamps, *, threshold: float, trained_on: str
) -> dict[str, Any]:
    """What the page shows.

    `result`: of `ranking.rank_alerts` with `model`; `scores`, `evidence`: the tables that it was made from; `stamps`: fetches
    stamps for the galleries; `threshold`: of the model; `trained_on`: a sentence, empty where it is not known.
    """
    joined = join_evidence(scores, evidence)
    shown = disagreements(joined, EACH)
    found = stamps(pd.concat(list(shown.values())))
    pictures = [
        picture(roc(roc_curves(joined)), "Ranking", "Share of the alerts with evidence that score above a threshold, against the share of "
                 "peer-low alerts that do. Logarithmic axis: a watcher of the stream lives at its left end."),
        picture(scores_by_group(joined, threshold), "Scores", "The calibrated score in each group; the line is the threshold."),
        picture(against_peer(joined, threshold), "Against the peer", "Score against braai d6_m7's, an alert a point. They disagree in the "
                 "upper left and the lower right corner."),
        *(album(shown[key], found, title, text) for key, title, text in _GALLERIES if len(shown[key])),
    ]  # fmt: skip
    return {
        "title": "Real alerts",
        "model": result["model"],
        "cards": _cards(result, scores),
        "notes": _notes(result, trained_on),
        "ranking": [_line(record) for record in result["ranking"]],
        "counts": result["counts"],
        "rates": [f"{100 * rate:g} %" for rate in FALSE_ALARM_RATES],
        "pictures": pictures,
    }


def _cards(result: Mapping[str, Any], scores: pd.DataFrame) -> list[dict[str, str]]:
    strong = next(record for record in result["ranking"] if record["evidence"] == "strong")
    cards = [{"label": "ROC AUC", **_cell(strong, "roc_auc"), "hint": "strong evidence against peer-low; 0.5 is chance"}]
    for rate in FALSE_ALARM_RATES:
        hint = f"of the strong ones, where {100 * rate:g} % of the peer-low score higher"
        cards.append({"label": f"Recall at {100 * rate:g} %", **_cell(strong, f"recall_at_fpr_{100 * rate:g}pct"), "hint": hint})
    scored = int(scores["score"].notna().sum())
    hint = "every other alert has its reason in the table of scores"
    return [*cards, {"label": "Alerts scored", "value": f"{scored:,}", "interval": f"of {len(scores):,}, all surveys", "hint": hint}]


def _notes(result: Mapping[str, Any], trained_on: str) -> list[str]:
    counts = result["counts"]
    negatives = counts["peer_low"]
    return [
        *([trained_on] if trained_on else []),
        result["statement"],
        f"{negatives} alerts stand for bogus. At a false-alarm rate of 1 % that is {max(1, round(0.01 * negatives))} of them, so the "
        "figures at the left end of the curve rest on very few alerts, and one real alert among them moves the numbers.",
        f"{counts['other']:,} further alerts have no evidence and no low braai score; they are scored and take no part in the ranking.",
        f"Intervals hold {100 * INTERVAL:g} % and come from {REPLICATES:,} bootstrap replicates over objects. They hold the chance of the "
        "draw, not the doubt about the negatives.",
    ]


def _line(record: Mapping[str, Any]) -> dict[str, Any]:
    names = ("roc_auc", *(f"recall_at_fpr_{100 * rate:g}pct" for rate in FALSE_ALARM_RATES))
    plain = {key: record[key] for key in ("evidence", "positives", "negatives", "objects")}
    return {**plain, "cells": [_cell(record, name) for name in names]}


def _cell(record: Mapping[str, Any], name: str) -> dict[str, str]:
    return cell(Estimate(record[name], record[f"{name}_low"], record[f"{name}_high"]))


def picture(figure: Figure, title: str, caption: str, shape: str = "") -> dict[str, str]:
    """A figure as the page holds it: the image in its address, title, caption, and "wide" or nothing as its shape."""
    content = base64.b64encode(png_bytes(figure)).decode()
    return {"uri": f"data:image/png;base64,{content}", "title": title, "caption": caption, "shape": shape}


def album(rows: pd.DataFrame, found: Mapping[Any, NDArray[np.float32]], title: str, text: str) -> dict[str, str]:
    """A gallery of alerts, `rows` of joined evidence, whose stamps were found."""
    examples = []
    for row in rows[rows.index.isin(list(found))].itertuples():
        faded = ", faded" if row.sign < 0 else ""
        label = f"score {row.score:.3f}, braai {getattr(row, PEER):.3f}{faded}"
        examples.append(Example(found[row.Index], label, f"{row.objectId}  {_evidence(row)}"))
    return picture(gallery(examples), title, f"{text} Each: science, reference, difference.", "wide")


def _evidence(row: Any) -> str:
    if str(row.solar_system_match_5arcsec).lower() == "true":
        return "Solar System object"
    for value, origin in ((row.tnsclass, "TNS"), (row.simbad_class, "SIMBAD")):
        if isinstance(value, str) and value:
            return f"{value.removeprefix('(TNS) ')} ({origin})"
    return "no evidence"


@styled
def roc(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """ROC curves with a logarithmic false-alarm rate and the two rates that the table reads."""
    figure = new_figure(5.6, 4.1)
    axes = figure.add_subplot()
    known: Sequence[tuple[str, str, Any]] = [curve for curve in _CURVES if curve[0] in curves]
    floor = min((frame.fpr[frame.fpr > 0].min() for frame in curves.values()), default=0.01)
    for name, colour, style in known:
        frame = curves[name]
        axes.step(np.maximum(frame.fpr, floor / 2), frame.recall, where="post", color=colour, ls=style, label=name)
    grid = np.geomspace(floor / 2, 1, 100)
    axes.plot(grid, grid, color=MUTED, lw=1.0, ls=":", label="chance")
    for rate in FALSE_ALARM_RATES:
        axes.axvline(rate, color=MUTED, lw=0.8, ls="--")
        axes.text(rate, 1.03, f" {100 * rate:g} %", color=MUTED, fontsize=8, ha="left", va="top")
    axes.set(xscale="log", xlim=(floor / 2, 1), ylim=(-0.01, 1.04))
    axes.set(xlabel="Share of peer-low alerts above the threshold", ylabel="Share of alerts with evidence above it")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return figure


@styled
def scores_by_group(joined: pd.DataFrame, threshold: float) -> Figure:
    """Histograms of the score, each group summing to one."""
    figure = new_figure(5.6, 4.1)
    axes = figure.add_subplot()
    for group, colour in _COLOURS.items():
        values = joined["score"][(joined["group"] == group) & joined["score"].notna()].to_numpy()
        if len(values):
            share = np.full(len(values), 1 / len(values))
            counts, edges = np.histogram(values, _BINS, (0, 1), weights=share)
            axes.stairs(counts, edges, fill=True, color=colour, alpha=0.18)
            axes.stairs(counts, edges, color=colour, lw=1.6, label=f"{_WORDS[group]}, {len(values)}")
    axes.axvline(threshold, color=INK, lw=1.1, label="threshold")
    axes.set(xlim=(0, 1), xlabel="Score (calibrated probability of being real)", ylabel="Share of the group")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


@styled
def against_peer(joined: pd.DataFrame, threshold: float) -> Figure:
    """Scatter of the score against the peer's, by group."""
    figure = new_figure(11.4, 4.1)
    axes = figure.add_subplot()
    shown = {"other": "#B9C0CA", **_COLOURS}
    for group, colour in shown.items():
        rows = joined[(joined["group"] == group) & joined["score"].notna()]
        axes.scatter(rows[PEER], rows["score"], s=16, color=colour, alpha=0.7, lw=0, label=f"{_WORDS.get(group, 'neither')}, {len(rows)}")
    axes.axhline(threshold, color=INK, lw=1.0)
    axes.axvline(PEER_LIMIT, color=INK, lw=1.0, ls="--")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.02, 1.02), xlabel="braai d6_m7", ylabel="Score")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return figure

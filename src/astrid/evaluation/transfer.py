"""How training sets compare on real alerts: the same network, the same evidence, several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from astrid.core.runtime import rng_for
from astrid.evaluation.alerts import Stamps, album, picture
from astrid.evaluation.metrics import Estimate
from astrid.evaluation.ranking import FALSE_ALARM_RATES, SURVEY, join_evidence, rank_alerts, roc_curves
from astrid.evaluation.report import cell
from astrid.evaluation.style import MUTED, SERIES, new_figure, styled

Outcome = tuple[str, int, pd.DataFrame]  # training set, seed, alerts with their scores

_STRONG = "strong"
_NAMES = ("roc_auc", *(f"recall_at_fpr_{100 * rate:g}pct" for rate in FALSE_ALARM_RATES))
_RATE = FALSE_ALARM_RATES[0]  # at which a disagreement is counted


def compare(outcomes: Sequence[Outcome], evidence: pd.DataFrame) -> dict[str, Any]:
    """Rank the evidence with every network.

    Returns plain values: `statement`; `ranking`, a record a training set, seed and kind of evidence (see `ranking.rank_alerts`);
    `summary`, a record a training set for the strong evidence: of each measure the median over the seeds, the least and the most, and
    the bootstrap interval of the seed in the middle of that measure; `surveys`, the median score of the alerts of each other survey.
    """
    ranking, statement = [], ""
    for name, seed, scores in outcomes:
        ranked = rank_alerts(scores, evidence, rng_for(seed, "rank"))
        statement = ranked["statement"]
        ranking += [{"training": name, "seed": seed, **record} for record in ranked["ranking"]]
    table = pd.DataFrame(ranking)
    summary = [_summary(name, rows) for name, rows in table[table["evidence"] == _STRONG].groupby("training", sort=False)]
    return {"statement": statement, "ranking": ranking, "summary": summary, "surveys": _surveys(outcomes)}


def _summary(name: Any, rows: pd.DataFrame) -> dict[str, Any]:
    out: dict[str, Any] = {"training": str(name), "seeds": len(rows), "middle_seed": int(_in_the_middle(rows, _NAMES[0])["seed"])}
    for measure in _NAMES:
        middle = _in_the_middle(rows, measure)
        out[measure] = float(rows[measure].median())
        out |= {f"{measure}_least": float(rows[measure].min()), f"{measure}_most": float(rows[measure].max())}
        out |= {f"{measure}_{end}": float(middle[f"{measure}_{end}"]) for end in ("low", "high")}
    return out


def _in_the_middle(rows: pd.DataFrame, measure: str) -> pd.Series:
    """The row whose measure is the median of all; the lower of two."""
    return rows.sort_values(measure, kind="stable").iloc[(len(rows) - 1) // 2]


def _surveys(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Alerts of surveys without evidence: how many there are and their median score."""
    rows = []
    for name, seed, scores in outcomes:
        for survey, part in scores[scores["survey"] != SURVEY].groupby("survey"):
            rows.append(
                {"training": name, "seed": seed, "survey": str(survey), "alerts": len(part), "median": float(part["score"].median())}
            )
    return rows


def transfer_context(result: Mapping[str, Any], outcomes: Sequence[Outcome], evidence: pd.DataFrame, stamps: Stamps) -> dict[str, Any]:
    """What the page shows of `compare`'s result, with every alert on which the best network and the peers disagree."""
    best = max(result["summary"], key=lambda record: record[_NAMES[0]])
    joined = {name: join_evidence(scores, evidence) for name, seed, scores in outcomes if seed == _middle(result, name)}
    missed, claimed = disagreement(joined[best["training"]])
    found = stamps(pd.concat([missed, claimed]))
    curves = {name: roc_curves(rows)[_STRONG] for name, rows in joined.items()}
    pictures = [
        picture(roc_by_training(curves), "Ranking", "Strong evidence against alerts that the peer calls bogus; of each training set the "
                "seed in the middle."),
        picture(seeds_figure(pd.DataFrame(result["ranking"])), "Seeds", "ROC area of every training, a point each; the bar is the 95 % "
                "interval of the draw of alerts for the seed in the middle."),
        *(album(rows, found, title, text) for rows, title, text in (
            (missed, "Missed", f"Strong evidence, yet below the score that {100 * _RATE:g} % of the peer-low alerts exceed: every one."),
            (claimed, "Claimed", "No evidence and low for the peer, yet above that score: every one. Some may well be real."),
        ) if len(rows)),
    ]  # fmt: skip
    return {
        "title": "What transfers",
        "network": result["model"],
        "statement": result["statement"],
        "best": best["training"],
        "trainings": result["trainings"],
        "parts": result["parts"],
        "summary": [_line(record) for record in result["summary"]],
        "rates": [f"{100 * rate:g} %" for rate in FALSE_ALARM_RATES],
        "surveys": result["surveys"],
        "pictures": pictures,
    }


def disagreement(joined: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Strong alerts below the score that 5 % of the peer-low ones exceed, lowest first, and those peer-low ones, highest first."""
    scored = joined[joined["score"].notna()].sort_values(["score", "candid"], kind="stable")
    strong, low = scored[scored["group"] == _STRONG], scored[scored["group"] == "peer_low"]
    limit = float(np.quantile(low["score"], 1 - _RATE, method="higher")) if len(low) else float("inf")
    return strong[strong["score"] < limit], low[low["score"] >= limit].iloc[::-1]


def _middle(result: Mapping[str, Any], name: str) -> int:
    return int(next(record["middle_seed"] for record in result["summary"] if record["training"] == name))


def _line(record: Mapping[str, Any]) -> dict[str, Any]:
    cells = [
        {**cell(Estimate(record[name], record[f"{name}_low"], record[f"{name}_high"])),
         "seeds": f"{record[f'{name}_least']:.3f} to {record[f'{name}_most']:.3f}"}
        for name in _NAMES
    ]  # fmt: skip
    return {"training": record["training"], "seeds": record["seeds"], "cells": cells}


@styled
def roc_by_training(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """ROC curves of the strong evidence, one a training set, with a logarithmic false-alarm rate."""
    figure = new_figure(5.6, 4.1)
    axes = figure.add_subplot()
    floor = min((frame.fpr[frame.fpr > 0].min() for frame in curves.values()), default=0.01)
    for (name, frame), colour in zip(curves.items(), cycle(SERIES), strict=False):
        axes.step(np.maximum(frame.fpr, floor / 2), frame.recall, where="post", color=colour, label=name)
    for rate in FALSE_ALARM_RATES:
        axes.axvline(rate, color=MUTED, lw=0.8, ls="--")
    axes.set(xscale="log", xlim=(floor / 2, 1), ylim=(-0.01, 1.04))
    axes.set(xlabel="Share of peer-low alerts above the threshold", ylabel="Share of strong alerts above it")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return figure


@styled
def seeds_figure(ranking: pd.DataFrame) -> Figure:
    """ROC area by training set: seeds as points, the interval of the middle one as a bar."""
    figure = new_figure(5.6, 4.1)
    axes = figure.add_subplot()
    strong = ranking[ranking["evidence"] == _STRONG]
    names = list(dict.fromkeys(strong["training"]))
    for place, name in enumerate(names):
        rows = strong[strong["training"] == name].sort_values("roc_auc", kind="stable")
        middle = rows.iloc[(len(rows) - 1) // 2]
        axes.vlines(place, middle["roc_auc_low"], middle["roc_auc_high"], color=SERIES[place % len(SERIES)], lw=6, alpha=0.25)
        axes.plot(np.full(len(rows), place), rows["roc_auc"], "o", ms=5, color=SERIES[place % len(SERIES)])
    axes.set_xticks(range(len(names)), names)
    axes.set(ylabel="ROC area", xlim=(-0.6, len(names) - 0.4))
    return figure

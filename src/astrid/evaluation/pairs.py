"""The report of many subtracted pairs: how near each is to the gate's limits, which get a page, and the table of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from astrid.evaluation.style import BOGUS, GREEN, INK, MUTED, SERIES, new_figure, styled

Floats = NDArray[np.float64]
Limits = Mapping[str, Any]  # the section imaging.difference.gate as plain values


@dataclass(frozen=True)
class Measure:
    """One quality figure of a pair: a column of the table, and how it compares with the gate."""

    column: str
    short: str  # column head
    label: str  # with its unit
    digits: str  # format of its value
    upper: str = ""  # keys of the gate's limits; empty = none
    lower: str = ""
    ideal: float | None = None  # a ratio, best at this value, whose distance counts by its logarithm
    panel: bool = True  # has a histogram


MEASURES = (
    Measure("q_registration_rms_px", "RMS, px", "Registration RMS of stars (px)", ".3f", upper="max_registration_rms_px"),
    Measure("q_n_matched", "stars", "Matched stars", ".0f", lower="min_matched", panel=False),
    Measure("fwhm_ratio", "PSF ratio", "Broader PSF over the narrower (FWHM)", ".2f", upper="max_fwhm_ratio", ideal=1.0),
    Measure("psf_residual", "PSF fit", "Residual of the worse PSF (RMS over flux)", ".4f"),
    Measure("q_flux_scatter", "flux scatter", "Scatter of the stars' flux ratio", ".3f", upper="max_flux_scatter", panel=False),
    Measure(
        "q_score_std_raw",
        "width",
        "Width of S_corr on blank sky, as computed",
        ".3f",
        upper="max_score_std",
        lower="min_score_std",
        ideal=1.0,
    ),
    Measure("q_score_mean", "offset", "Median of S_corr on blank sky (sigma)", "+.3f", panel=False),
    Measure("q_score_tail", "tail", "Blank sky beyond 5 sigma (fraction)", ".1e", upper="max_score_tail"),
    Measure("q_overlap", "overlap", "Overlap with the reference (fraction)", ".3f", lower="min_overlap"),
    Measure("q_masked_fraction", "masked", "Masked (fraction)", ".3f", upper="max_masked_fraction", panel=False),
    Measure("q_star_residual", "residual", "Left of bright stars (fraction of flux)", ".4f"),
    Measure("q_star_score", "star score", "Median |S_corr| at bright stars (sigma)", ".2f", upper="max_star_score", panel=False),
)


def with_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """The pair table with the columns `fwhm_ratio`, broader over narrower PSF, and `psf_residual`, the larger of both images."""
    out = table.copy()
    for name, stem in (("fwhm_ratio", "q_fwhm"), ("psf_residual", "q_psf_residual")):
        columns = [f"{stem}_science", f"{stem}_reference"]
        if set(columns) <= set(table.columns):
            both = table[columns].astype(float)
            out[name] = both.max(axis=1) / both.min(axis=1) if name == "fwhm_ratio" else both.max(axis=1)
    return out


def known(table: pd.DataFrame) -> list[Measure]:
    """The measures that the table holds a value of."""
    return [measure for measure in MEASURES if measure.column in table and table[measure.column].notna().any()]


def closeness(table: pd.DataFrame, limits: Limits) -> Floats:
    """How much of the gate's limits a pair uses up, float64 (n,): 1 at the limit that it is nearest to; 0 where nothing was measured.

    Ratios count by |ln(value)| over |ln(limit)|, other figures by value over limit (or limit over value, for a lower one).
    """
    table = with_ratios(table)
    used = np.zeros(len(table))
    for measure in known(table):
        values = pd.to_numeric(table[measure.column]).to_numpy(dtype=np.float64)
        for key, direction in ((measure.upper, 1.0), (measure.lower, -1.0)):
            limit = limits.get(key)
            if isinstance(limit, int | float) and limit > 0:
                used = np.fmax(used, _share(values, float(limit), direction, measure.ideal))
    return used


def _share(values: Floats, limit: float, direction: float, ideal: float | None) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        if ideal is not None:
            distance = direction * np.log(values / ideal) / max(direction * np.log(limit / ideal), 1e-9)
            return np.asarray(np.maximum(distance, 0.0))
        return np.asarray((values / limit) ** direction)


def marked(table: pd.DataFrame) -> NDArray[np.bool_]:
    """True where a subtracted pair is beyond a limit of the gate, bool (n,)."""
    if "q_reasons" not in table:
        return np.zeros(len(table), bool)
    return np.asarray((table["status"] == "ok") & table["q_reasons"].fillna("").astype(str).ne(""), dtype=bool)


def chosen_pairs(table: pd.DataFrame, limits: Limits, *, worst: int, most: int) -> list[str]:
    """The pair_id of each pair that gets a page: every marked one and the `worst` beside them, at most `most`, the worst first."""
    done = (table["status"] == "ok").to_numpy()
    used, names = closeness(table, limits), table["pair_id"].astype(str).to_numpy()
    order = sorted(np.flatnonzero(done), key=lambda index: (-used[index], names[index]))
    marks = marked(table)
    first = [index for index in order if marks[index]]
    rest = [index for index in order if not marks[index]][:worst]
    return [str(names[index]) for index in [*first, *rest][:most]]


# The figure


@styled
def overview(table: pd.DataFrame, limits: Limits) -> Figure:
    """How many pairs were subtracted, by survey, and the distributions of what was measured, with the gate's limits dashed."""
    table = with_ratios(table)
    if table["survey"].nunique() > len(SERIES):  # more than there are colours to tell apart
        table = table.assign(survey=f"{table['survey'].nunique()} surveys")
    measures = [measure for measure in known(table) if measure.panel]
    columns = 4
    rows = -(-(len(measures) + 1) // columns)
    figure = new_figure(13.0, 2.75 * rows)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    _yield(grid[0], table)
    surveys = sorted(table["survey"].astype(str).unique())
    for axes, measure in zip(grid[1:], measures, strict=False):
        _distribution(axes, table, measure, surveys, limits)
    for axes in grid[len(measures) + 1 :]:
        axes.set_axis_off()
    if len(surveys) > 1:
        swatches = [Patch(color=colour, alpha=0.6) for colour in SERIES[: len(surveys)]]
        figure.legend(swatches, surveys, loc="outside upper right", ncols=len(surveys))
    return figure


_FATES = (("subtracted", GREEN), ("marked", "#E0A800"), ("refused", BOGUS), ("quarantined", MUTED))


def fates(table: pd.DataFrame) -> NDArray[np.str_]:
    """What became of each pair: subtracted, marked, refused or quarantined, (n,)."""
    status = table["status"].astype(str).to_numpy()
    return np.where(marked(table), "marked", np.where(status == "ok", "subtracted", status)).astype(str)


def _yield(axes: Any, table: pd.DataFrame) -> None:
    counts = pd.crosstab(table["survey"].astype(str), fates(table))
    left = np.zeros(len(counts))
    for name, colour in _FATES:
        if name in counts:
            values = counts[name].to_numpy(dtype=np.float64)
            axes.barh(
                np.arange(len(counts)), values, left=left, color=colour, height=0.6, alpha=0.85, label=f"{name} {int(values.sum()):,}"
            )
            left += values
    axes.set_yticks(np.arange(len(counts)), list(counts.index))
    axes.set(xlabel="Pairs", ylim=(-0.6, len(counts) + 0.55))
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    if len(counts):
        axes.legend(loc="upper left", ncols=2, fontsize=7.5, columnspacing=0.8, handlelength=1.0, borderpad=0)


def _distribution(axes: Any, table: pd.DataFrame, measure: Measure, surveys: Sequence[str], limits: Limits) -> None:
    values = pd.to_numeric(table[measure.column]).to_numpy(dtype=np.float64)
    finite = values[np.isfinite(values)]
    bounds = [float(limit) for key in (measure.upper, measure.lower) if isinstance(limit := limits.get(key), int | float)]
    low, high = float(finite.min()), float(finite.max())
    spread = (high - low) or max(abs(high), 1e-6)
    near = [bound for bound in bounds if low - 1.5 * spread <= bound <= high + 1.5 * spread]
    edges = np.linspace(low - 0.02 * spread, high + 0.02 * spread, 25)
    groups = [values[(table["survey"].astype(str) == name).to_numpy() & np.isfinite(values)] for name in surveys]
    axes.hist(groups, edges, stacked=True, color=list(SERIES[: len(surveys)]), alpha=0.6)
    for bound in near:
        axes.axvline(bound, color=BOGUS, lw=1.2, ls="--")
    if measure.ideal is not None and low - spread <= measure.ideal <= high + spread:
        axes.axvline(measure.ideal, color=INK, lw=0.9, ls=":")
    axes.set_xlabel(measure.label, fontsize=8.5)
    axes.set_title(f"median {np.median(finite):{measure.digits}}", fontsize=9, fontweight="normal", pad=3)
    axes.locator_params(axis="x", nbins=5)


# The page


def pairs_context(table: pd.DataFrame, limits: Limits, *, figure: str, pages: Mapping[str, str]) -> dict[str, Any]:
    """The content of the index page as plain values. `figure`, `pages`: file names relative to it, the latter by pair_id."""
    table = with_ratios(table).reset_index(drop=True)
    used, what, measures = closeness(table, limits), fates(table), known(table)
    order = np.lexsort((table["pair_id"].astype(str).to_numpy(), -used, what == "subtracted"))
    counts = {name: int((what == name).sum()) for name, _ in _FATES}
    return {
        "title": "Subtracted pairs",
        "lead": f"{len(table):,} pairs of science and reference exposures: what became of each, and how good its difference is.",
        "cards": _cards(table, counts),
        "figure": figure,
        "heads": [{"short": measure.short, "label": measure.label} for measure in measures],
        "lines": [_line(table.iloc[index], what[index], used[index], measures, limits, pages) for index in order],
        "pages": len(pages),
        "fates": [name for name, _ in _FATES if counts[name]],
    }


def _cards(table: pd.DataFrame, counts: Mapping[str, int]) -> list[dict[str, str]]:
    total, done = len(table), counts["subtracted"] + counts["marked"]
    share = f"{100 * done / total:.1f} % of {total:,}" if total else "no pair"
    cards = [
        {"label": "Subtracted", "value": f"{done:,}", "hint": share},
        {"label": "Marked by the gate", "value": f"{counts['marked']:,}", "hint": "beyond at least one limit"},
        {
            "label": "Refused, quarantined",
            "value": f"{counts['refused'] + counts['quarantined']:,}",
            "hint": "with the reason, in the table",
        },
    ]
    for column, label in (("q_registration_rms_px", "Registration RMS, px"), ("q_score_std_raw", "Width of S_corr")):
        if column in table and table[column].notna().any():
            low, middle, high = np.nanpercentile(table[column].astype(float), [10, 50, 90])
            cards.append({"label": label, "value": f"{middle:.3f}", "hint": f"median; {low:.3f} to {high:.3f} hold 80 %"})
    return cards


def _line(row: pd.Series, fate: str, used: float, measures: Sequence[Measure], limits: Limits, pages: Mapping[str, str]) -> dict[str, Any]:
    name = str(row["pair_id"])
    reasons = str(row.get("q_reasons") or "") if fate == "marked" else str(row["reason"] or "")
    return {
        "name": name,
        "page": pages.get(name, ""),
        "survey": str(row["survey"]),
        "filter": str(row["filter"]),
        "fate": fate,
        "used": f"{100 * used:.0f}" if fate in ("subtracted", "marked") else "",
        "cells": [_cell(row[measure.column], measure, limits) for measure in measures],
        "reasons": reasons,
    }


def _cell(value: Any, measure: Measure, limits: Limits) -> dict[str, Any]:
    number = float(value)
    if not np.isfinite(number):
        return {"text": "", "sort": "", "beyond": False}
    upper, lower = float(limits.get(measure.upper, np.inf)), float(limits.get(measure.lower, -np.inf))
    return {"text": f"{number:{measure.digits}}", "sort": f"{number:.9g}", "beyond": not lower <= number <= upper}

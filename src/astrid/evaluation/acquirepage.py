"""The page of an acquisition: how far the events came, which pairs there are by mission, filter and year, and why others are missing."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from astrid.evaluation.datafigures import SHADES
from astrid.evaluation.style import INK, MUTED, SERIES, new_figure, png_bytes, styled
from astrid.sky.choose import WHYS

_STAGES = ("asked", "found", "chosen", "fetched", "paired")
_STAGE_NAMES = {
    "asked": "asked for",
    "found": "observations found",
    "chosen": "a pair chosen",
    "fetched": "files fetched",
    "paired": "a usable pair",
}
_EXAMPLES = 3  # of each reason
_MOST_ROWS, _LEAST_YEARS, _MOST_YEARS = 40, 9, 40  # of the yield picture
_DARK = 0.6  # of the scale of shades; ink on darker ones is white
_DAY_ZERO = np.datetime64("1858-11-17")  # MJD 0


@dataclass(frozen=True, eq=False)
class Acquisition:
    """What the stage has in hand at its end."""

    kind: str  # of the source: simulated, folder, archive, alerts
    exposures: pd.DataFrame  # EXPOSURES
    pairs: pd.DataFrame  # PAIRS
    outcomes: pd.DataFrame  # OUTCOMES; empty where no archive was asked
    problems: Sequence[tuple[str, str]]  # source and reason of what was set aside
    alerts: int = 0  # usable ones; only where the source is alert packets


def yields(pairs: pd.DataFrame) -> pd.DataFrame:
    """Usable pairs by mission, filter and year of the science exposure: columns mission, filter, year, pairs; sorted."""
    usable = pairs[pairs["status"] == "ok"]
    frame = pd.DataFrame({"mission": usable["survey"], "filter": usable["filter"], "year": usable["mjd"].map(_year)})
    counted = frame.groupby(["mission", "filter", "year"]).size().rename("pairs").reset_index()
    return counted.sort_values(["mission", "filter", "year"], ignore_index=True)


def _year(mjd: float) -> int:
    return int(str(_DAY_ZERO + np.timedelta64(int(np.floor(mjd)), "D"))[:4]) if np.isfinite(mjd) else 0


def acquire_summary(data: Acquisition) -> dict[str, Any]:
    """Counts for reports/acquire.json: plain values, no time of the run among them."""
    status = data.pairs["status"].value_counts()
    found: dict[str, Any] = {
        "exposures": len(data.exposures),
        "quarantined": len(data.problems),
        "pairs": int(status.get("ok", 0)),
        "refused": int(status.sum() - status.get("ok", 0)),
        "pairs_by_mission": _tree(yields(data.pairs)),
    }
    if data.kind == "alerts":
        found["alerts"] = data.alerts
    if len(data.outcomes):
        found["events"] = int(data.outcomes["object_id"].nunique())
        found["events_with_pairs"] = int(data.outcomes.loc[data.outcomes["pairs"] > 0, "object_id"].nunique())
        found["missions"] = {mission: _funnel(rows) for mission, rows in data.outcomes.groupby("mission")}
        found["reasons"] = {why: len(rows) for why, rows in _by_why(data.outcomes)}
    return found


def _tree(table: pd.DataFrame) -> dict[str, dict[str, int]]:
    out: dict[str, dict[str, int]] = {}
    for (mission, band), rows in table.groupby(["mission", "filter"]):
        out.setdefault(str(mission), {})[str(band)] = int(rows["pairs"].sum())
    return out


def _funnel(outcomes: pd.DataFrame) -> dict[str, int]:
    """Events that came at least as far as each stage."""
    reached = outcomes["stage"].map(_STAGES.index)
    return {stage: int((reached >= number).sum()) for number, stage in enumerate(_STAGES)}


def _by_why(outcomes: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    without = outcomes[outcomes["pairs"] == 0]
    return [(why, rows) for why in WHYS if len(rows := without[without["why"] == why])]


@styled
def yield_figure(table: pd.DataFrame) -> Figure:
    """Pairs by mission and filter (rows) and year (columns). `table`: of `yields`; of more rows or years the fullest are shown."""
    rows = table.groupby(["mission", "filter"])["pairs"].sum().nlargest(_MOST_ROWS, keep="all").sort_index().index[:_MOST_ROWS]
    first, last = (int(table["year"].min()), int(table["year"].max())) if len(table) else (2000, 2000)
    beside = max(_LEAST_YEARS - (last - first + 1), 0)
    years = np.arange(first - beside // 2, last + 1 + beside - beside // 2)[-_MOST_YEARS:]
    grid = np.zeros((len(rows), len(years)))
    place = {key: number for number, key in enumerate(rows)}
    for line in table.itertuples():
        if (line.mission, line.filter) in place and line.year in years:
            grid[place[line.mission, line.filter], int(line.year - years[0])] = line.pairs
    figure = new_figure(11.4, 1.1 + 0.34 * max(len(rows), 2))
    axes = figure.add_subplot()
    shade = LogNorm(0.5, max(grid.max(initial=1), 2.0))
    axes.imshow(np.where(grid > 0, grid, np.nan), cmap=SHADES, norm=shade, aspect="auto")
    for row, column in zip(*np.nonzero(grid), strict=True):
        ink = "white" if shade(grid[row, column]) > _DARK else INK
        axes.text(column, row, f"{int(grid[row, column])}", ha="center", va="center", fontsize=8, color=ink)
    totals = grid.sum(axis=1).astype(int)
    axes.set_yticks(range(len(rows)), [f"{mission} {band}   {total:,}" for (mission, band), total in zip(rows, totals, strict=True)])
    step = max(1, len(years) // 20)
    axes.set_xticks(range(0, len(years), step), [str(year) for year in years[::step]])
    axes.set_xticks(np.arange(-0.5, len(years)), minor=True)
    axes.set_yticks(np.arange(-0.5, len(rows)), minor=True)
    axes.grid(visible=False)
    axes.grid(visible=True, which="minor")
    axes.tick_params(which="both", length=0)
    axes.set_xlabel("Year of the science exposure")
    return figure


@styled
def funnel_figure(missions: Mapping[str, Mapping[str, int]]) -> Figure:
    """Events by mission that came as far as each step. `missions`: mission -> stage -> events."""
    figure = new_figure(11.4, 1.2 + 0.18 * len(_STAGES) * (1 + len(missions)))
    axes = figure.add_subplot()
    height = 0.8 / max(len(missions), 1)
    most = max((count for counts in missions.values() for count in counts.values()), default=1)
    for index, (mission, counts) in enumerate(missions.items()):
        place = np.arange(len(_STAGES)) + (index - (len(missions) - 1) / 2) * height
        values = [counts[stage] for stage in _STAGES]
        axes.barh(place, values, height=0.9 * height, color=SERIES[index % len(SERIES)], label=mission)
        for at, value in zip(place, values, strict=True):
            axes.text(value + 0.008 * most, at, f"{value:,}", va="center", fontsize=8, color=MUTED)
    axes.set_yticks(range(len(_STAGES)), [_STAGE_NAMES[stage] for stage in _STAGES])
    axes.set(xlabel="Events", xlim=(0, 1.08 * most))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=6)
    return figure


def acquire_context(data: Acquisition) -> dict[str, Any]:
    """What the template shows, plain and formatted; the pictures are in it."""
    summary = acquire_summary(data)
    table = yields(data.pairs)
    pictures = {"funnel": "", "yield": ""}
    if len(data.outcomes):
        pictures["funnel"] = _embedded(funnel_figure(summary["missions"]))
    if len(table):
        pictures["yield"] = _embedded(yield_figure(table))
    return {
        "title": "Acquisition",
        "kind": data.kind,
        "lead": _lead(data, summary),
        "cards": _cards(data, summary),
        "pictures": pictures,
        "missions": list(summary.get("missions", {})),
        "reasons": [_reason(why, rows, list(summary["missions"])) for why, rows in _by_why(data.outcomes)] if len(data.outcomes) else [],
        "refused": _grouped([(str(row.science_id), str(row.reason)) for row in data.pairs[data.pairs["status"] != "ok"].itertuples()]),
        "aside": _grouped(data.problems),
    }


def _embedded(figure: Figure) -> str:
    return "data:image/png;base64," + base64.b64encode(png_bytes(figure)).decode()


def _lead(data: Acquisition, summary: Mapping[str, Any]) -> str:
    if data.kind == "alerts":
        return f"{_counted(data.alerts, 'usable alert')}, which bring their stamps; {summary['quarantined']:,} set aside, with the reason."
    pairs = _counted(summary["pairs"], "usable pair")
    if len(data.outcomes):
        missions = ", ".join(summary["missions"])
        without = f"{summary['events'] - summary['events_with_pairs']:,}"
        return f"{pairs} from {_counted(summary['events'], 'event')} that {missions} was asked for; {without} without one, with the reason."
    sources = {"simulated": "the simulated survey", "folder": "a folder"}
    return f"{pairs} from {_counted(summary['exposures'], 'exposure')} of {sources.get(data.kind, data.kind)}."


def _counted(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def _cards(data: Acquisition, summary: Mapping[str, Any]) -> list[dict[str, str]]:
    cards = [
        ("Pairs", f"{summary['pairs']:,}", f"{_counted(summary['refused'], 'science exposure')} without a reference"),
        ("Exposures", f"{summary['exposures']:,}", "read, with role, filter and date"),
        ("Set aside", f"{summary['quarantined']:,}", "each with its reason"),
    ]
    if data.kind == "alerts":
        cards[:2] = [("Alerts", f"{data.alerts:,}", "with all three stamps")]
    if len(data.outcomes):
        share = summary["events_with_pairs"] / max(summary["events"], 1)
        cards[1:1] = [("Events with a pair", f"{summary['events_with_pairs']:,}", f"of {summary['events']:,}: {share:.0%}")]
    return [{"label": label, "value": value, "hint": hint} for label, value, hint in cards]


def _reason(why: str, rows: pd.DataFrame, missions: Sequence[str]) -> dict[str, Any]:
    by_mission = Counter(rows["mission"])
    examples = [{"name": f"{row.object_id}, {row.mission}", "reason": row.reason} for row in rows.head(_EXAMPLES).itertuples()]
    return {"why": why, "count": len(rows), "counts": [by_mission[mission] for mission in missions], "examples": examples}


def _grouped(entries: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Reasons that differ in names and numbers only are one line: how many, and the first of them."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for source, reason in entries:
        shape = re.sub(r"\S*[/\d]\S*|'[^']*'", "#", reason)
        groups.setdefault(shape, []).append((source, reason))
    ranked = sorted(groups.values(), key=lambda group: (-len(group), group[0]))
    return [{"count": len(group), "name": group[0][0], "reason": group[0][1]} for group in ranked[:_MOST_ROWS]]

"""Figures of the data set's page: what there is, where it lies in brightness, host and time, and what the tags see of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure

from astrid.evaluation.style import BOGUS, GOLD, GREEN, INK, MUTED, REAL, new_figure, styled

_PARTS = {"train": REAL, "validation": GREEN, "test": GOLD, "unused": "#B9C0CA"}
_LEAST_SNR, _LARGEST_SNR, _DLR_RANGE = 3.0, 1e4, (0.03, 30.0)
_LEAST_REACH = 10  # triplets that an axis of counts reaches at least
_BINS = 40
_MOST_GROUPS = 24  # named bars of a figure
SHADES = LinearSegmentedColormap.from_list("blues", ["#EEF4F9", "#9CC7E4", REAL, "#0B2F4F"])


@styled
def kinds_figure(table: pd.DataFrame) -> Figure:
    """Triplets of each kind, real ones left and bogus ones right, on logarithmic axes."""
    counts = [table.loc[table["label"] == label, "kind"].astype(object).value_counts() for label in (1, 0)]
    figure = new_figure(11.4, 0.9 + 0.27 * max(4, *(len(found) for found in counts)))
    grid = figure.subplots(1, 2)
    for axes, found, colour, name in zip(grid, counts, (REAL, BOGUS), ("Real", "Bogus"), strict=True):
        _bars(axes, [str(kind) or "no kind given" for kind in found.index], found.to_numpy(), colour)
        axes.set_title(f"{name}: {int(found.sum()):,}")
    return figure


def _bars(axes: Any, names: Sequence[str], values: Any, colour: str) -> None:
    place = np.arange(len(names))
    axes.barh(place, values, color=colour, height=0.72)
    axes.set_yticks(place, [name.replace("_", " ") for name in names])
    axes.set(xscale="log", xlim=(0.8, 3.0 * max([_LEAST_REACH, *values])), xlabel="Triplets")
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    for row, value in zip(place, values, strict=True):
        axes.text(value * 1.06, row, f"{int(value):,}", va="center", fontsize=8, color=MUTED)


@styled
def significance_figure(table: pd.DataFrame) -> Figure:
    """Histograms of the significance of brightened and faded real ones, and of the bogus ones."""
    figure = new_figure(5.6, 4.1)
    axes = figure.add_subplot()
    edges = np.geomspace(max(1.0, float(np.fmin.reduce(table["snr"], initial=_LEAST_SNR))), _LARGEST_SNR, _BINS + 1)
    real, faded = table["label"] == 1, table["sign"] < 0
    groups = {"real, brightened": (real & ~faded, REAL), "real, faded": (real & faded, "#56B4E9"), "bogus": (table["label"] == 0, BOGUS)}
    for name, (rows, colour) in groups.items():
        values = table["snr"][rows].clip(upper=_LARGEST_SNR * 0.999).to_numpy()
        if len(values):
            axes.stairs(np.histogram(values, edges)[0], edges, color=colour, lw=1.6, label=f"{name}, {len(values):,}")
    axes.set(xscale="log", xlim=(edges[0], _filled(table["snr"])), xlabel="S/N of the detection", ylabel="Triplets a bin", ylim=(0, None))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


def _filled(values: pd.Series) -> float:
    finite = values[np.isfinite(values)]
    return float(min(_LARGEST_SNR, max(100.0, finite.max() * 1.1))) if len(finite) else 100.0


@styled
def host_plane_figure(table: pd.DataFrame) -> Figure:
    """Real ones over S/N and host offset; those without a host in a strip of their own below."""
    figure = new_figure(5.6, 4.1)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(6, 1))
    real = table.loc[table["label"] == 1, ["snr", "host_dlr"]]
    has = np.isfinite(real["host_dlr"])
    snr_edges = np.geomspace(_LEAST_SNR, _filled(table["snr"]), 31)
    dlr_edges = np.geomspace(*_DLR_RANGE, 25)
    dlr = real["host_dlr"][has].clip(_DLR_RANGE[0] * 1.001, _DLR_RANGE[1] * 0.999)
    plane, _, _ = np.histogram2d(dlr, real["snr"][has].clip(1.001 * _LEAST_SNR), (dlr_edges, snr_edges))
    strip, _ = np.histogram(real["snr"][~has].clip(1.001 * _LEAST_SNR), snr_edges)
    norm = LogNorm(1, max(2.0, plane.max(initial=1), strip.max(initial=1)))
    upper.pcolormesh(snr_edges, dlr_edges, np.where(plane > 0, plane, np.nan), norm=norm, cmap=SHADES)
    shown = lower.pcolormesh(snr_edges, [0, 1], np.where(strip > 0, strip, np.nan)[None, :], norm=norm, cmap=SHADES)
    upper.axhline(1, color=MUTED, lw=0.9, ls="--")
    upper.set(xscale="log", yscale="log", ylabel="Host offset (light radii)")
    lower.set(xscale="log", xlabel="S/N of the detection", yticks=[])
    lower.set_ylabel("no host", rotation=0, ha="right", va="center")
    figure.colorbar(shown, ax=[upper, lower], label="Real triplets a cell", pad=0.02)
    return figure


@styled
def time_figure(table: pd.DataFrame, parts: pd.Series) -> Figure:
    """Triplets over time, stacked by part of the split. `parts`: of the table's rows."""
    figure = new_figure(11.4, 3.1)
    axes = figure.add_subplot()
    finite = np.isfinite(table["mjd"]).to_numpy()
    mjd = table["mjd"].to_numpy()[finite]
    first, last = (float(mjd.min()) - 0.5, float(mjd.max()) + 0.5) if len(mjd) else (0.0, 1.0)
    edges = np.linspace(first, last, 61)
    below = np.zeros(len(edges) - 1)
    for part, colour in _PARTS.items():
        mine = (parts == part).to_numpy()
        counts, _ = np.histogram(mjd[mine[finite]], edges)
        if counts.any():
            axes.stairs(below + counts, edges, baseline=below, fill=True, color=colour, label=f"{part}, {int(mine.sum()):,}")
            below = below + counts
    axes.set(xlabel="Date of the science exposure (MJD)", ylabel="Triplets a bin", xlim=(first, last))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return figure


@styled
def groups_figure(counts: Mapping[str, Mapping[str, Mapping[str, int]]], names: Mapping[str, str]) -> Figure:
    """Real and bogus ones by property, a panel each. `counts`: property -> value -> label -> rows; `names`: property -> title.

    More than 24 values stand in the order of their size, three of them named.
    """
    figure = new_figure(11.4, 0.9 + 0.24 * max(4, *(min(len(counts[key]), _MOST_GROUPS) for key in names)))
    for axes, key in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        found, many = counts[key], len(counts[key]) > _MOST_GROUPS
        order = sorted(found, key=lambda value: -sum(found[value].values())) if many else list(found)
        real, bogus = (np.array([found[value][label] for value in order], dtype=float) for label in ("real", "bogus"))
        place, height = np.arange(len(order)), 1.0 if many else 0.72
        axes.barh(place, real, color=REAL, height=height, label="real")
        axes.barh(place, bogus, left=real, color=BOGUS, height=height, label="bogus")
        named = [0, len(order) // 2, len(order) - 1] if many else place
        axes.set_yticks(named, [order[row] for row in named], fontsize=7.8)
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.set_title(f"{names[key]} ({len(order)})" if many else names[key])
        axes.grid(visible=False, axis="y")
        axes.locator_params(axis="x", nbins=4)
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper right", ncols=2)
    return figure


@styled
def tags_figure(tags: Mapping[str, Mapping[str, Any]], order: Sequence[str]) -> Figure:
    """Share of the candidates of each kind of truth (rows, in `order`) that carry each tag; framed: the tags that name the kind."""
    words = [*sorted({word for record in tags.values() for word in record["tags"]}), "untagged"]
    figure = new_figure(11.4, 1.6 + 0.31 * len(order))
    axes = figure.add_subplot()
    counts = np.array(
        [[tags[kind]["untagged"] if word == "untagged" else tags[kind]["tags"].get(word, 0) for word in words] for kind in order]
    )
    total = np.array([tags[kind]["candidates"] for kind in order])
    share = counts / np.maximum(total, 1)[:, None]
    axes.imshow(share, cmap=SHADES, vmin=0, vmax=1, aspect="auto")
    for row, kind in enumerate(order):
        for column, word in enumerate(words):
            if counts[row, column]:
                ink = "white" if share[row, column] > 0.55 else INK
                axes.text(column, row, f"{share[row, column]:.0%}", ha="center", va="center", fontsize=7.8, color=ink)
            if word in tags[kind]["expected"]:
                axes.add_patch(_frame(column, row))
    axes.set_xticks(range(len(words)), [word.replace("_", " ") for word in words], rotation=35, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(len(order)), [f"{kind.replace('_', ' ')} ({count:,})" for kind, count in zip(order, total, strict=True)])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure


def _frame(column: int, row: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.47, row - 0.45), 0.94, 0.9, fill=False, edgecolor=BOGUS, lw=1.6)

"""A figure of what the integer targets lose against the network in bins of S/N."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from astrid.evaluation.style import BOGUS, GREEN, INK, MUTED, PURPLE, REAL, new_figure, styled

LOSSES_FILE = "losses_by_snr.png"

_PANELS = {"recall_loss": "Recall lost at the threshold", "aucpr_loss": "AUCPR lost"}
_COLOURS = (REAL, BOGUS, GREEN, PURPLE)
_SPREAD = 0.18  # between the points of two targets, in bins


def by_target(artifacts: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """The table by S/N of each integer target's first file. `artifacts`: those of a manifest."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for _, entry in sorted(artifacts.items(), key=lambda item: (len(item[0]), item[0])):
        if entry["target"] != "onnx" and entry["parity"].get("by_snr"):
            found.setdefault(entry["target"], list(entry["parity"]["by_snr"]))
    return found


@styled
def losses_by_snr(targets: Mapping[str, Sequence[Mapping[str, Any]]], limits: Mapping[str, float]) -> Figure:
    """Recall and AUCPR lost in every bin, network minus artifact, a colour a target.

    `targets`: records with snr, rows, real, recall_loss, aucpr_loss (None where the bin does not define it), the same bins for each;
    `limits`: what the loss on all rows may be. Below the bins stand their real detections: one of them is the step of a recall.
    """
    figure = new_figure(8.4, 2.9)
    first = next(iter(targets.values()))
    places = np.arange(len(first), dtype=np.float64)
    for axes, (key, label) in zip(figure.subplots(1, len(_PANELS)), _PANELS.items(), strict=True):
        axes.axhline(0, color=INK, lw=0.8)
        axes.axhline(limits[key], color=MUTED, lw=1, ls="--", label="limit on all rows")
        for number, (target, records) in enumerate(targets.items()):
            values = np.array([np.nan if record[key] is None else record[key] for record in records], dtype=np.float64)
            shift = _SPREAD * (number - (len(targets) - 1) / 2)
            axes.vlines(places + shift, 0, values, color=_COLOURS[number], lw=2.2)
            axes.plot(places + shift, values, "o", ms=5, color=_COLOURS[number], label=target)
        axes.set_xticks(places, [f"{record['snr']}\n{record['real']}" for record in first])
        axes.set(xlabel="S/N (sigma); below, the real detections", ylabel=label)
        axes.set_xlim(-0.5, len(first) - 0.5)
        axes.margins(y=0.18)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=len(targets) + 1)
    return figure

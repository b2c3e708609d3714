"""The one look of every figure: Okabe-Ito colours, quiet axes, no state shared with pyplot."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Arguments = ParamSpec("Arguments")

# Okabe & Ito (2008): told apart by every common kind of colour vision.
REAL = "#0072B2"
BOGUS = "#D55E00"
BASELINE = "#7A7F87"
GREEN = "#009E73"
GOLD = "#B07D00"
PURPLE = "#AA4A8B"
SERIES = (REAL, BOGUS, GREEN, PURPLE, GOLD, "#56B4E9", BASELINE, "#000000")
INK = "#1B2330"
MUTED = "#5B6573"
GRID = "#E6E9EE"
DPI = 150

_ALONE = threading.RLock()  # matplotlib's settings are the process's, not the thread's

_RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#A9B1BC",
    "axes.linewidth": 0.8,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
}


def styled(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Draw under the house style, and leave matplotlib's settings as they were."""

    @wraps(draw)
    def inner(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Figure:
        with _ALONE, matplotlib.rc_context(_RC):
            return draw(*args, **kwargs)

    return inner


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches with an Agg canvas."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png_bytes(figure: Figure) -> bytes:
    """The figure as PNG, the same bytes for the same figure: neither a date nor a version is written."""
    buffer = io.BytesIO()
    with _ALONE, matplotlib.rc_context(_RC):
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()

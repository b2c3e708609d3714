"""Pictures of triplets and of one difference product, in stretches that show what the network sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray

from astrid.evaluation.style import INK, MUTED, new_figure, styled

FloatArray = NDArray[np.float32]

_MASKED = (0.80, 0.82, 0.85)  # pixels without data
_GAP = 2  # px between the stamps of a triplet
_SOFTENING = 3.0  # noise RMS at which the asinh stretch turns from linear to logarithmic
_PANELS = ("Science", "Reference", "Difference", "Score (S_corr, sigma)")


@dataclass(frozen=True, slots=True)
class Example:
    """One triplet to show. `stamps`: float32 (3, 63, 63), un-normalised, NaN where there is no data."""

    stamps: FloatArray
    title: str
    caption: str
    colour: str = INK


def noise(image: NDArray[Any]) -> tuple[float, float]:
    """Median and robust RMS (1.4826 x median absolute deviation) of the finite pixels; (0, 1) where there is none."""
    finite = image[np.isfinite(image)]
    if not finite.size:
        return 0.0, 1.0
    level = float(np.median(finite))
    spread = 1.4826 * float(np.median(np.abs(finite - level)))
    return level, spread if spread > 0 else max(float(np.std(finite)), 1e-12)


def triplet_image(stamps: FloatArray) -> NDArray[np.float64]:
    """The three stamps side by side as RGB in [0, 1], float64 (ny, 3 nx + 2 gap, 3).

    Science and reference share one asinh stretch, so that the flux relation between them is seen; the difference has a
    symmetric asinh stretch about zero, red brighter and blue fainter.
    """
    science, reference, difference = (np.asarray(plane, dtype=np.float64) for plane in stamps)
    both = np.concatenate([science.ravel(), reference.ravel()])
    level, _ = noise(both)
    rms = float(np.mean([noise(science)[1], noise(reference)[1]]))
    top = _percentile(both, 99.8, level + 10 * rms)
    grey = [
        _map(_asinh(plane - level, rms), -_SOFTENING / 2, float(_asinh(np.array(top - level), rms)), "gray")
        for plane in (science, reference)
    ]
    rms_d = noise(difference)[1]
    peak = max(6.0 * rms_d, _percentile(np.abs(difference), 99.9, 6.0 * rms_d))
    limit = float(_asinh(np.array(peak), rms_d))
    colour = _map(_asinh(difference, rms_d), -limit, limit, "RdBu_r")
    gap = np.ones((science.shape[0], _GAP, 3))
    return np.concatenate([grey[0], gap, grey[1], gap, colour], axis=1)


@styled
def gallery(examples: Sequence[Example], *, columns: int = 3) -> Figure:
    """Triplets in a grid: science, reference and difference, with a title and a caption each."""
    lines = max(1, -(-len(examples) // columns))
    figure = new_figure(3.35 * columns, 1.62 * lines)
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for axes, example in zip(grid.ravel(), examples, strict=False):
        axes.imshow(triplet_image(example.stamps), origin="lower", interpolation="nearest")
        axes.set_title(example.title, fontsize=8.8, pad=3, color=example.colour)
        axes.text(0.0, -0.04, example.caption, transform=axes.transAxes, fontsize=7.6, color=MUTED, va="top")
    return figure


@styled
def pair_sheet(planes: Sequence[FloatArray], title: str, marks: NDArray[np.float64], *, largest: int = 512) -> Figure:
    """Science, reference, difference and S_corr of one pair. `planes`: four images (ny, nx); `marks`: (n, 2) x, y of real detections, px.

    Images larger than `largest` pixels a side are shown by every k-th pixel.
    """
    figure = new_figure(11.0, 3.25)
    grid = figure.subplots(1, 4)
    step = max(1, -(-max(planes[0].shape) // largest))
    height, width = planes[0].shape
    for index, (axes, plane) in enumerate(zip(grid, planes, strict=True)):
        level, rms = noise(plane)
        shown = np.asarray(plane[::step, ::step], dtype=np.float64)
        if index < 2:
            picture = _map(_asinh(shown - level, rms), -1.0, float(_asinh(np.array(_percentile(shown, 99.7, rms) - level), rms)), "gray")
        else:
            picture = _map(shown / rms, -6.0, 6.0, "RdBu_r")
        axes.imshow(picture, origin="lower", interpolation="nearest", extent=(-0.5, width - 0.5, -0.5, height - 0.5))
        if len(marks):
            axes.scatter(marks[:, 0], marks[:, 1], s=70, facecolors="none", edgecolors="#F0E442" if index < 2 else INK, linewidths=1.0)
        axes.set_title(_PANELS[index], fontsize=9.5)
        axes.grid(visible=False)
        axes.set(xlabel="x (px)", ylabel="y (px)" if index == 0 else "")
        axes.tick_params(labelsize=7.5)
    figure.suptitle(title, x=0.01, ha="left", fontsize=9.5, color=MUTED)
    return figure


def _asinh(values: NDArray[np.float64], rms: float) -> NDArray[np.float64]:
    return np.arcsinh(values / (_SOFTENING * rms)) * _SOFTENING


def _percentile(values: NDArray[Any], percent: float, otherwise: float) -> float:
    finite = values[np.isfinite(values)]
    return float(np.percentile(finite, percent)) if finite.size else otherwise


def _map(values: NDArray[np.float64], low: float, high: float, name: str) -> NDArray[np.float64]:
    """Colours of the values between low and high; the masked colour where they are NaN."""
    scaled = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    picture = np.asarray(colormaps[name](np.nan_to_num(scaled)))[..., :3].astype(np.float64)
    picture[~np.isfinite(values)] = _MASKED
    return picture

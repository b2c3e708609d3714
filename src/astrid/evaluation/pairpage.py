"""One page that shows what a subtracted pair is worth: the images, the noise, what is left of stars, and the numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import AsinhNorm, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from astrid.core.records import Difference, FloatImage, Psf
from astrid.evaluation.residuals import BlankScore, blank_score, bright_stars, level_and_noise
from astrid.evaluation.style import BASELINE, BOGUS, GOLD, INK, MUTED, REAL, styled

Axes = Any

_WIDTH, _HEIGHT, _DPI = 13.0, 9.6, 110  # inches
_LARGEST = 640  # px a side that are drawn; larger images are binned
_SCENE_TICKS = (0.0, 10.0, 100.0, 1000.0)  # sigma above the sky
_LINEAR = 3.0  # sigma of the sky, where the scene's asinh scale turns from linear to logarithmic
_DARK = -3.0  # sigma of the sky, black
_BRIGHT = 99.9  # percentile of the science pixels, white
_SCORE_RANGE = 8.0  # sigma, of the score's colours and histogram
_DIFFERENCE_RANGE = 6.0  # robust sigma, of the difference's grey scale
_NO_VALUE = "#b9a3cf"
_ARROW_SNR = 30.0  # S/N of a star whose shift is drawn
_TABLE_COLUMNS, _TABLE_LEFT = 4, 0.045
_TITLE_SIZE, _TITLE_LETTERS = 13.0, 95  # points; letters that fit across the page at that size
_LETTERS = 19  # of a table's text value


@styled
def pair_page(product: Difference) -> Figure:
    """The page of one difference product, 13 x 9.6 inches.

    Science and reference share one asinh scale, the difference has a linear one of its own and the score runs from -8 to 8 sigma;
    an image of more than 640 px a side is binned (means; the score shows the extreme of each bin). Below: the score on blank sky
    against N(0, 1), what is left of bright stars against their S/N, the shifts that the difference shows there, the PSFs, and
    every quality scalar of the product.
    """
    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI)
    figure.set_layout_engine("none")  # every place is given below
    FigureCanvasAgg(figure)
    _heading(figure, product)
    _images(figure, product)
    stars = bright_stars(product)
    panels: tuple[tuple[Callable[..., None], Any], ...] = (
        (_histogram, blank_score(product, limit=_SCORE_RANGE)),
        (_left_at_stars, stars),
        (_shifts, (stars, product.score.shape)),
        (_profiles, (product.psf_science, product.psf_reference, product.psf_difference)),
    )
    for column, (draw, what) in enumerate(panels):
        draw(figure.add_axes((0.055 + 0.243 * column, 0.335, 0.185, 0.205)), what)
    _table(figure, product.quality)
    return figure


def _heading(figure: Figure, product: Difference) -> None:
    new, old = product.info, product.reference_info
    title = f"{new.exposure_id}  minus  {old.exposure_id}"
    size = min(_TITLE_SIZE, _TITLE_SIZE * _TITLE_LETTERS / len(title))
    figure.text(0.02, 0.975, title, fontsize=size, fontweight="bold", va="center")
    about = f"{new.survey} {new.instrument} {new.detector}, filter {new.filter}; MJD {new.mjd:.3f} minus {old.mjd:.3f}"
    figure.text(0.02, 0.952, about, fontsize=9, color=MUTED, va="center")
    reasons = str(product.quality.get("q_reasons") or "")
    verdict, colour = (f"marked: {reasons}", BOGUS) if reasons else ("within every limit of the gate", MUTED)
    figure.text(0.98, 0.952, verdict, fontsize=9, color=colour, ha="right", va="center")


# The images


def _images(figure: Figure, product: Difference) -> None:
    ny, nx = product.score.shape
    step = max(1, -(-max(nx, ny) // _LARGEST))
    science, reference, difference = (binned(plane, step) for plane in (product.science, product.reference, product.difference))
    sky, noise = level_and_noise(science)
    white = max(float(np.nanpercentile(science, _BRIGHT)) if np.isfinite(science).any() else 1.0, sky + 10.0 * noise)
    scene = AsinhNorm(_LINEAR * noise, sky + _DARK * noise, white)
    ticks = [(sky + noise * tick, f"{tick:g}") for tick in _SCENE_TICKS if sky + noise * tick <= white]
    spread = _DIFFERENCE_RANGE * level_and_noise(difference)[1]
    unit = product.info.unit or "image unit"
    extreme = f", extremes of {step} x {step} px" if step > 1 else ""
    score = np.where(np.isfinite(difference), binned(product.score, step, extreme=True), np.nan)
    above = f"above the sky, in its sigma of {noise:.3g} {unit}"
    panels = (
        ("science", science, scene, "gray", above, ticks),
        ("reference", reference, scene, "gray", above, ticks),
        ("proper difference", difference, Normalize(-spread, spread), "gray", unit, None),
        (f"score{extreme}", score, Normalize(-_SCORE_RANGE, _SCORE_RANGE), "RdBu_r", "sigma", None),
    )
    marks = _truth(product)
    for column, (title, plane, norm, colours, label, at) in enumerate(panels):
        axes = figure.add_axes((0.035 + 0.243 * column, 0.625, 0.215, 0.215 * _WIDTH / _HEIGHT))
        shown = axes.imshow(
            plane, origin="lower", cmap=colours, norm=norm, interpolation="nearest", extent=(-0.5, nx - 0.5, -0.5, ny - 0.5)
        )
        axes.set_title(title, fontsize=10, pad=4)
        axes.set_facecolor(_NO_VALUE)
        axes.grid(visible=False)
        axes.tick_params(labelsize=7, labelleft=column == 0)
        axes.locator_params(nbins=5)
        if len(marks):
            axes.scatter(marks[:, 0], marks[:, 1], s=60, facecolors="none", edgecolors="#F0E442" if column < 2 else GOLD, linewidths=0.9)
        bar = figure.colorbar(shown, ax=axes, orientation="horizontal", fraction=0.04, pad=0.07, aspect=40, extend="both")
        if at is not None:
            bar.set_ticks([value for value, _ in at], labels=[label for _, label in at])
            bar.minorticks_off()
        bar.set_label(label, fontsize=7.5, labelpad=1)
        bar.ax.tick_params(labelsize=7)


def binned(plane: FloatImage, step: int, *, extreme: bool = False) -> NDArray[np.float32]:
    """A plane at a step-th of its size: means of the finite pixels of each bin, or the value farthest from zero."""
    if step == 1:
        return np.asarray(plane[:, :], np.float32)
    ny, nx = (size // step for size in plane.shape)
    out = np.full((ny, nx), np.nan, np.float32)
    for row in range(ny):  # one row of bins at a time: the plane may lie on disk
        block = np.asarray(plane[row * step : (row + 1) * step, : nx * step]).reshape(step, nx, step)
        cells = block.transpose(1, 0, 2).reshape(nx, step * step)
        known = np.isfinite(cells)
        filled = np.where(known, cells, 0)
        value = filled[np.arange(nx), np.abs(filled).argmax(axis=1)] if extreme else filled.sum(axis=1) / np.maximum(1, known.sum(axis=1))
        out[row] = np.where(known.any(axis=1), value, np.nan)
    return out


def _truth(product: Difference) -> NDArray[np.int64]:
    """(n, 2) x, y of the known transients."""
    if product.truth is None:
        return np.zeros((0, 2), np.int64)
    rows, columns = np.nonzero(product.truth[:, :])
    return np.stack([columns, rows], axis=1)


# What is measured


def _histogram(axes: Axes, blank: BlankScore) -> None:
    _title(axes, "score on blank sky", "sigma", "pixels a bin")
    if not blank.pixels:
        _nothing(axes, "no blank sky")
        return
    centres, step = (blank.edges[1:] + blank.edges[:-1]) / 2, blank.edges[1] - blank.edges[0]
    normal = blank.pixels * step * np.exp(-(centres**2) / 2) / np.sqrt(2 * np.pi)
    axes.stairs(blank.counts, blank.edges, fill=True, color=REAL, alpha=0.35)
    axes.stairs(blank.counts, blank.edges, color=REAL, lw=1.2, label=f"width {blank.width:.3f}, median {blank.mean:+.3f}")
    axes.plot(centres, normal, color=INK, lw=1.2, ls="--", label="N(0, 1)")
    axes.set(yscale="log", ylim=(0.5, 8 * blank.counts.max()), xlim=(-_SCORE_RANGE, _SCORE_RANGE))
    axes.minorticks_off()
    axes.legend(loc="upper left", fontsize=7.5, borderpad=0.1)


def _left_at_stars(axes: Axes, stars: NDArray[Any]) -> None:
    _title(axes, "left of bright stars", "S/N of the star", "|flux left| over flux")
    stars = stars[np.isfinite(stars["left"])]
    if not len(stars):
        _nothing(axes, "no bright star")
        return
    left = np.abs(stars["left"] / stars["flux"])
    axes.plot(stars["snr"], np.maximum(left, 1e-5), "o", ms=3.2, color=REAL, alpha=0.7, mew=0)
    span = np.geomspace(stars["snr"].min() / 1.3, stars["snr"].max() * 1.3, 50)
    axes.plot(span, 1 / span, color=INK, lw=1.1, ls="--", label="noise, 1 sigma")
    axes.plot(span, 3 / span, color=MUTED, lw=0.9, ls=":", label="3 sigma")
    axes.set(xscale="log", yscale="log", xlim=(span[0], span[-1]), ylim=(1e-4, max(1.0, 2 * float(left.max()))))
    axes.set_xticks(_round_numbers(span[0], span[-1]), labels=[f"{value:g}" for value in _round_numbers(span[0], span[-1])])
    axes.minorticks_off()
    axes.legend(loc="lower left", fontsize=7.5, borderpad=0.1)


def _round_numbers(low: float, high: float) -> list[float]:
    """Round numbers, five a decade, between two positive ones."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    return [value for decade in decades for step in (1, 2, 3, 5, 7) if low <= (value := step * 10.0**decade) <= high]


def _shifts(axes: Axes, what: tuple[NDArray[Any], tuple[int, int]]) -> None:
    stars, (ny, nx) = what
    _title(axes, "shifts that are left", "x, px", "y, px")
    axes.set(xlim=(0, nx), ylim=(0, ny))
    axes.grid(visible=False)
    shown = stars[stars["snr"] >= _ARROW_SNR]
    if not len(shown):
        _nothing(axes, "no bright star")
        return
    rms = float(np.sqrt(np.mean(shown["dx"] ** 2 + shown["dy"] ** 2)))
    key = float(f"{max(rms, 1e-4):.0e}")
    size = 0.12 * max(nx, ny) / key  # the key is drawn an eighth of the image long
    arrows = axes.quiver(
        shown["x"], shown["y"], shown["dx"], shown["dy"], angles="xy", scale_units="xy", scale=1 / size, width=0.006, color=BOGUS
    )
    axes.plot(shown["x"], shown["y"], ".", ms=2.5, color=INK)
    axes.quiverkey(arrows, 0.89, 1.06, key, f"{key:g} px", labelpos="W", coordinates="axes", fontproperties={"size": 7.5})
    error = float(np.sqrt(2) * np.median(shown["error"]))
    axes.text(
        0.02, 0.02, f"RMS {rms:.3f} px, noise explains {error:.3f}", transform=axes.transAxes, fontsize=7.5, color=MUTED,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0},
    )  # fmt: skip


def _profiles(axes: Axes, psfs: tuple[Psf, Psf, Psf]) -> None:
    _title(axes, "PSFs, centred", "radius, px", "over the peak")
    reach = 0.0
    for psf, name, colour in zip(psfs, ("science", "reference", "difference"), (REAL, BOGUS, BASELINE), strict=True):
        radius, value = radial_profile(psf.stamp)
        width = f", FWHM {psf.fwhm:.2f} px ({psf.method})" if np.isfinite(psf.fwhm) else ""
        axes.plot(
            radius,
            np.maximum(value / value[0], 1e-6),
            color=colour,
            lw=1.4,
            ls="--" if name == "difference" else "-",
            label=f"{name}{width}",
        )
        reach = max(reach, 4.0 * psf.fwhm if np.isfinite(psf.fwhm) else 0.0)
    axes.set(yscale="log", ylim=(1e-4, 30), xlim=(0, reach or None))
    axes.minorticks_off()
    axes.legend(loc="upper right", fontsize=7, borderpad=0.1)


def radial_profile(stamp: FloatImage) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(radius in px, mean value in rings of one px) of a centred stamp."""
    half = stamp.shape[0] // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    radius = np.hypot(x, y)
    ring = np.rint(radius).astype(int).ravel()
    inside = ring <= half
    count = np.bincount(ring[inside])
    mean_radius, mean = (np.bincount(ring[inside], weights=values.ravel()[inside]) / count for values in (radius, stamp))
    return mean_radius, mean


def _title(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10, pad=5)
    axes.set_xlabel(x, fontsize=8, labelpad=2)
    axes.set_ylabel(y, fontsize=8, labelpad=2)
    axes.tick_params(labelsize=7.5)


def _nothing(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=MUTED, fontsize=9)


# The numbers


def _table(figure: Figure, quality: Mapping[str, Any]) -> None:
    """Every scalar of the product, name and value, in columns."""
    lines = [(name.removeprefix("q_").replace("_", " "), quantity(value)) for name, value in quality.items() if name != "q_reasons"]
    rows = -(-len(lines) // _TABLE_COLUMNS) or 1
    width, step = (0.98 - _TABLE_LEFT) / _TABLE_COLUMNS, min(0.024, 0.24 / rows)
    size = min(8.0, 8.0 * step / 0.021)
    for index, (name, value) in enumerate(lines):
        x, y = _TABLE_LEFT + width * (index // rows), 0.262 - step * (index % rows)
        figure.text(x, y, name, fontsize=size, color=MUTED, va="center")
        figure.text(x + 0.92 * width, y, value, fontsize=size, ha="right", va="center")


def quantity(value: Any) -> str:
    """A scalar of the quality record for a person."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{int(value):,}"
    if isinstance(value, float | np.floating):
        return f"{float(value):.4g}" if np.isfinite(value) else "–"
    text = str(value)
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"

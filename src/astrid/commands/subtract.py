"""`astrid subtract`: the whole imaging chain for one pair of FITS images, outside any pipeline."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from astrid.commands.exposure import load
from astrid.commands.paths import check_outputs
from astrid.config.schema.calibrate import CalibrateConfig
from astrid.config.schema.imaging import DifferenceConfig
from astrid.core.errors import InputError
from astrid.core.records import Calibrated, Difference, FloatImage, Psf
from astrid.core.runtime import atomic_path

_INCHES, _TITLE_INCHES, _DPI = 11.0, 0.6, 110
_LABEL_WIDTH = 12  # characters, of the names in the printed summary
_PANELS_HIGH = 0.9  # height of the panels over the figure's width, for a square image
_SCENE_TICKS = (-3.0, 0.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)  # sigma above the sky
_LINEAR_SIGMAS = 3.0  # sigma of the sky, where the scene's asinh scale turns from linear to logarithmic
_BRIGHT_PERCENTILE = 99.9  # of the science pixels, white
_SCORE_RANGE = 8.0  # sigma, of the score's grey scale
_DIFFERENCE_RANGE = 6.0  # robust sigma, of the difference's grey scale
_MAD_TO_SIGMA = 1.4826


def subtract(
    science: Path,
    reference: Path,
    output: Path,
    *,
    calibrate: CalibrateConfig,
    difference: DifferenceConfig,
    science_psf: Path | None = None,
    reference_psf: Path | None = None,
    science_noise: Path | None = None,
    reference_noise: Path | None = None,
    science_mask: Path | None = None,
    reference_mask: Path | None = None,
    picture: Path | None = None,
) -> None:
    """Calibrate, align and subtract a pair; write the difference product, print its quality and the seconds.

    Nothing is written when the pair cannot be subtracted.

    Raises
    ------
    InputError
        A file is missing or broken, or both names are one file, or the output would replace an input.
    ImagingError
        The pair cannot be calibrated, aligned or subtracted.
    """
    from astrid.imaging.pair import subtract_pair
    from astrid.io.fits import write_difference

    _check_pair(science, reference)
    companions = (science_psf, reference_psf, science_noise, reference_noise, science_mask, reference_mask)
    check_outputs([science, reference, *companions], [output, picture])
    start = time.perf_counter()
    new = load(science, calibrate, role="science", psf=science_psf, noise=science_noise, mask=science_mask)
    old = load(reference, calibrate, role="reference", psf=reference_psf, noise=reference_noise, mask=reference_mask)
    calibrated = time.perf_counter()
    product = subtract_pair(new, old, difference)
    subtracted = time.perf_counter()
    write_difference(output, product)
    seconds = (calibrated - start, subtracted - calibrated, time.perf_counter() - subtracted)
    print(_summary(new, old, product, seconds))
    print(f"difference -> {output}")
    if picture is not None:
        draw(product, picture)
        print(f"picture -> {picture}")


def _check_pair(science: Path, reference: Path) -> None:
    for path in (science, reference):
        if not path.is_file():
            raise InputError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; give a FITS file.")
    if science.samefile(reference):
        raise InputError(f"science and reference are the same file, {science}; a difference needs two exposures.")


def _psf(psf: Psf) -> str:
    return psf.method if psf.method == "given" else f"{psf.method}, {psf.n_stars} stars"


def _summary(new: Calibrated, old: Calibrated, product: Difference, seconds: tuple[float, float, float]) -> str:
    q = product.quality
    rows = [
        ("", "science", "reference"),
        ("exposure", new.info.exposure_id, old.info.exposure_id),
        ("size, px", f"{new.data.shape[1]} x {new.data.shape[0]}", f"{old.data.shape[1]} x {old.data.shape[0]}"),
        ("PSF", _psf(product.psf_science), _psf(product.psf_reference)),
        ("FWHM, px", f"{q['q_fwhm_science']:.2f}", f"{q['q_fwhm_reference']:.2f}"),
        ("sky RMS", f"{new.sky_rms:.4g}", f"{old.sky_rms:.4g}"),
    ]
    width = [max(len(str(row[column])) for row in rows) for column in range(3)]
    width[0] = _LABEL_WIDTH
    lines = ["  ".join(str(cell).ljust(size) for cell, size in zip(row, width, strict=True)).rstrip() for row in rows]
    lines += [
        f"registration  {q['q_registration_method']}, RMS {q['q_registration_rms_px']:.3f} px "
        f"({q['q_registration_rms_arcsec'] * 1000:.1f} mas) of {q['q_n_matched']} stars; "
        f"their centroids explain {q['q_registration_centroid_px']:.3f} px",
        f"flux scale    {q['q_flux_ratio']:.4g} from {q['q_flux_method']} ({q['q_n_flux_stars']} stars, scatter {q['q_flux_scatter']:.3g})",
        f"overlap       {q['q_overlap']:.1%} of the science image; {q['q_masked_fraction']:.2%} masked",
        f"score         width {q['q_score_std']:.3f} on blank sky"
        + (f", {q['q_score_std_raw']:.3f} before it was renormalised" if q["q_score_renormalised"] else ""),
    ]
    if q.get("q_reasons"):
        lines.append(f"gate          {q['q_reasons']}")
    lines.append("seconds       " + ", ".join(f"{n} {s:.2f}" for n, s in zip(("calibrate", "subtract", "write"), seconds, strict=True)))
    return "\n".join(lines)


def draw(product: Difference, path: Path) -> None:
    """Write a PNG of science, reference (both on one asinh scale), difference and score, with a colour bar each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import AsinhNorm, Normalize
    from matplotlib.figure import Figure

    ny, nx = product.score.shape
    figure = Figure(figsize=(_INCHES, _PANELS_HIGH * _INCHES * ny / nx + _TITLE_INCHES), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    new, old = product.info, product.reference_info
    unit = new.unit or "image unit"
    sky, noise = _sky(product.science)
    steps = sky + noise * np.array(_SCENE_TICKS)
    white = max(_bright(product.science), float(steps[2]))
    scene, ticks = AsinhNorm(_LINEAR_SIGMAS * noise, float(steps[0]), white), steps[steps <= white]
    spread = _DIFFERENCE_RANGE * _sky(product.difference)[1]
    widths = [f"FWHM {psf.fwhm:.2f} px ({psf.method} PSF)" for psf in (product.psf_science, product.psf_reference)]
    score = f"score, sky width {product.quality['q_score_std']:.2f}"
    panels = (
        (f"science, {widths[0]}", product.science, scene, "gray", f"{unit} (asinh)", ticks),
        (f"reference, {widths[1]}", product.reference, scene, "gray", f"{unit} (asinh)", ticks),
        ("proper difference", product.difference, Normalize(-spread, spread), "gray", unit, None),
        (score, product.score, Normalize(-_SCORE_RANGE, _SCORE_RANGE), "RdBu_r", "S_corr, sigma", None),
    )
    for axes, (title, plane, norm, colours, label, marks) in zip(figure.subplots(2, 2, sharex=True, sharey=True).flat, panels, strict=True):
        shown = axes.imshow(plane, origin="lower", cmap=colours, norm=norm, interpolation="nearest")
        axes.set_title(title, fontsize=10)
        axes.tick_params(labelsize=8)
        axes.set_facecolor("tab:purple")  # what has no value
        bar = figure.colorbar(shown, ax=axes, fraction=0.046, pad=0.02, extend="both")
        if marks is not None:
            bar.set_ticks(list(marks), labels=[f"{value:.2g}" for value in marks])
            bar.minorticks_off()
        bar.set_label(label, fontsize=8)
        bar.ax.tick_params(labelsize=7)
    figure.supxlabel("x, px", fontsize=9)
    figure.supylabel("y, px", fontsize=9)
    figure.suptitle(f"{new.exposure_id}  (MJD {new.mjd:.3f})\nminus  {old.exposure_id}  (MJD {old.mjd:.3f})", fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _sky(plane: FloatImage) -> tuple[float, float]:
    """Median and robust sigma of the finite pixels; (0, 1) where there is none or no spread."""
    values = plane[np.isfinite(plane)]
    if not values.size:
        return 0.0, 1.0
    level = float(np.median(values))
    return level, float(_MAD_TO_SIGMA * np.median(np.abs(values - level))) or 1.0


def _bright(plane: FloatImage) -> float:
    return float(np.nanpercentile(plane, _BRIGHT_PERCENTILE)) if np.isfinite(plane).any() else 1.0

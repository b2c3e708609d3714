"""`astrid subtract`: the whole imaging chain for one pair of FITS images, outside any pipeline."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from astrid.commands.exposure import load
from astrid.config.schema.calibrate import CalibrateConfig
from astrid.config.schema.imaging import DifferenceConfig
from astrid.core.errors import InputError
from astrid.core.records import Calibrated, Difference
from astrid.core.runtime import atomic_path

_INCHES, _DPI = 13.0, 110
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

    _check_paths(science, reference, output)
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


def _check_paths(science: Path, reference: Path, output: Path) -> None:
    for path in (science, reference):
        if not path.is_file():
            raise InputError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; give a FITS file.")
        if output.exists() and output.samefile(path):
            raise InputError(f"the output {output} is the input {path}; choose another name.")
    if science.samefile(reference):
        raise InputError(f"science and reference are the same file, {science}; a difference needs two exposures.")


def _summary(new: Calibrated, old: Calibrated, product: Difference, seconds: tuple[float, float, float]) -> str:
    q = product.quality
    rows = [
        ("", "science", "reference"),
        ("exposure", new.info.exposure_id, old.info.exposure_id),
        ("size, px", f"{new.data.shape[1]} x {new.data.shape[0]}", f"{old.data.shape[1]} x {old.data.shape[0]}"),
        ("PSF", f"{product.psf_science.method}, {new.psf.n_stars if new.psf else 0} stars", q["q_psf_method_reference"]),
        ("FWHM, px", f"{q['q_fwhm_science']:.2f}", f"{q['q_fwhm_reference']:.2f}"),
        ("sky RMS", f"{new.sky_rms:.4g}", f"{old.sky_rms:.4g}"),
    ]
    width = [max(len(str(row[column])) for row in rows) for column in range(3)]
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
    """Write a PNG of science, reference, difference and score."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_INCHES, _INCHES * product.score.shape[0] / product.score.shape[1] / 4 + 0.6), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    low, high = _zscale(product.science)
    values = product.difference[np.isfinite(product.difference)]
    spread = _DIFFERENCE_RANGE * _MAD_TO_SIGMA * float(np.median(np.abs(values - np.median(values)))) if values.size else 1.0
    panels = (
        ("science", product.science, low, high, "gray"),
        ("reference", product.reference, low, high, "gray"),
        ("difference", product.difference, -spread, spread, "gray"),
        ("score, sigma", product.score, -_SCORE_RANGE, _SCORE_RANGE, "RdBu_r"),
    )
    for axes, (title, plane, lowest, highest, colours) in zip(figure.subplots(1, 4), panels, strict=True):
        axes.imshow(plane, origin="lower", cmap=colours, vmin=lowest, vmax=highest, interpolation="nearest")
        axes.set_title(title, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle(f"{product.info.exposure_id}  -  {product.reference_info.exposure_id}", fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _zscale(plane: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> tuple[float, float]:
    from astropy.visualization import ZScaleInterval

    low, high = ZScaleInterval().get_limits(plane[np.isfinite(plane)])
    return float(low), float(high)

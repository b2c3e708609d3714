"""`astrid subtract`: the whole imaging chain for one pair of FITS images, outside any pipeline."""

from __future__ import annotations

import time
from pathlib import Path

from astrid.commands.exposure import load, split_extension
from astrid.commands.paths import check_outputs
from astrid.config.schema.calibrate import CalibrateConfig
from astrid.config.schema.imaging import DifferenceConfig
from astrid.core.errors import InputError
from astrid.core.records import Calibrated, Difference, Psf
from astrid.core.runtime import write_bytes

_LABEL_WIDTH = 12  # characters, of the names in the printed summary


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
    from astrid.io.planes import scratch_beside

    _check_pair(science, reference)
    companions = (science_psf, reference_psf, science_noise, reference_noise, science_mask, reference_mask)
    check_outputs([science, reference, *companions], [output, picture])
    start = time.perf_counter()
    new = load(science, calibrate, role="science", psf=science_psf, noise=science_noise, mask=science_mask)
    old = load(reference, calibrate, role="reference", psf=reference_psf, noise=reference_noise, mask=reference_mask)
    calibrated = time.perf_counter()
    with scratch_beside(output) as scratch:
        product = subtract_pair(new, old, difference, allocate=scratch)
        subtracted = time.perf_counter()
        write_difference(output, product)
        seconds = (calibrated - start, subtracted - calibrated, time.perf_counter() - subtracted)
        print(_summary(new, old, product, seconds))
        print(f"difference -> {output}")
        if picture is not None:
            _draw(product, picture)


def _draw(product: Difference, picture: Path) -> None:
    from astrid.evaluation.pairpage import pair_page
    from astrid.evaluation.style import png_bytes

    write_bytes(picture, png_bytes(pair_page(product)))
    print(f"picture -> {picture}")


def _check_pair(science: Path, reference: Path) -> None:
    """Both name a file, and not the same image; "name.fits[2]" names one extension."""
    files = [split_extension(path) for path in (science, reference)]
    for path, _ in files:
        if not path.is_file():
            raise InputError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; give a FITS file.")
    if files[0][0].samefile(files[1][0]) and files[0][1] == files[1][1]:
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

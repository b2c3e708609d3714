"""`astrid subtract`: the whole imaging chain for one pair of FITS images, outside any pipeline."""

from __future__ import annotations

import time
from pathlib import Path

from astrid.commands.exposure import NO_COMPANIONS, PairCompanions, check_pair, load_pair
from astrid.commands.paths import check_outputs
from astrid.config.schema.calibrate import CalibrateConfig
from astrid.config.schema.imaging import DifferenceConfig
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
    companions: PairCompanions = NO_COMPANIONS,
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

    check_pair(science, reference)
    check_outputs([science, reference, *companions.files], [output, picture])
    start = time.perf_counter()
    new, old = load_pair(science, reference, calibrate, companions)
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

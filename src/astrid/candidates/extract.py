"""One difference image -> its table of candidates."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astrid.candidates.host import nearest_host, reference_sources, star_distance
from astrid.candidates.measure import measure
from astrid.candidates.peaks import Peaks, find_peaks, psf_fwhm
from astrid.candidates.stamps import STAMP_SIZE, judge
from astrid.candidates.tags import tag
from astrid.config.schema.candidates import CandidatesConfig
from astrid.core.errors import ImagingError
from astrid.core.records import Difference
from astrid.core.runtime import log
from astrid.io.tables import CANDIDATES, conform

_ARCSEC = 3600.0


def find_candidates(difference: Difference, cfg: CandidatesConfig, *, pair_id: str) -> pd.DataFrame:
    """Detect, measure, tag and judge the candidates of one difference image.

    Returns a CANDIDATES frame in raster order, empty where nothing was found; `frame.attrs["dropped"]` counts detections
    beyond `cfg.extract.max_candidates`. Raises `ImagingError` when the planes differ in shape.
    """
    _check(difference, pair_id)
    peaks = find_peaks(difference, cfg.extract)
    if peaks.dropped:
        log.warning("%s: %d detections beyond max_candidates = %d were dropped", pair_id, peaks.dropped, cfg.extract.max_candidates)
    frame = _describe(difference, peaks, cfg, pair_id) if len(peaks) else CANDIDATES.empty()
    frame.attrs["dropped"] = peaks.dropped
    return frame


def _describe(difference: Difference, peaks: Peaks, cfg: CandidatesConfig, pair_id: str) -> pd.DataFrame:
    features = measure(difference, peaks, cfg.measure)
    sources = reference_sources(difference, cfg.host)
    star = star_distance(difference, peaks, sources)
    scale = pixel_scale(difference)
    scorable, reasons = judge(difference, peaks.x, peaks.y, size=STAMP_SIZE, max_masked=cfg.stamps.max_masked)
    ra, dec = difference.wcs.all_pix2world(peaks.x, peaks.y, 0)
    info, reference = difference.info, difference.reference_info
    x_reference, y_reference = _on_reference(difference, peaks)
    columns: dict[str, object] = {
        "candidate_id": [f"{pair_id}:{number:05d}" for number in range(len(peaks))],
        "pair_id": pair_id,
        "exposure_id": info.exposure_id,
        "reference_id": reference.exposure_id,
        "survey": info.survey,
        "instrument": info.instrument,
        "detector": info.detector,
        "filter": info.filter,
        "field_id": info.field_id,
        "mjd": info.mjd,
        "x": peaks.x,
        "y": peaks.y,
        "x_reference": x_reference,
        "y_reference": y_reference,
        "reference_detector": reference.detector,
        "s_ra": ra,
        "s_dec": dec,
        "sign": peaks.sign,
        "snr": peaks.snr,
        **features.columns,
        "star_distance": star[0],
        **nearest_host(peaks, sources, cfg.host, pixel_scale=scale),
        "psf_fwhm": psf_fwhm(difference.psf_science),
        "pixel_scale": scale,
        "scorable": scorable,
        "reason": reasons,
    }
    frame = pd.DataFrame(columns)
    frame["tags"] = pd.Series(tag(difference, peaks, features, sources, star, cfg.tags), dtype=object)
    return conform(frame, CANDIDATES, source=pair_id)


def _on_reference(difference: Difference, peaks: Peaks) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the peaks (n,) lie on the reference exposure, px; NaN where the product does not say, or for another instrument's."""
    info, reference = difference.info, difference.reference_info
    if difference.to_reference is None or (info.survey, info.instrument) != (reference.survey, reference.instrument):
        return np.full(len(peaks), np.nan), np.full(len(peaks), np.nan)
    return difference.to_reference(peaks.x, peaks.y)


def pixel_scale(difference: Difference) -> float:
    """Arcsec a pixel: the root of the pixel's area at the WCS's reference point."""
    from astropy.wcs.utils import proj_plane_pixel_scales

    scales: NDArray[np.float64] = proj_plane_pixel_scales(difference.wcs.celestial)
    return float(np.sqrt(np.prod(scales)) * _ARCSEC)


def _check(difference: Difference, pair_id: str) -> None:
    shape = difference.score.shape
    for name in ("science", "reference", "difference", "flux", "flux_err", "dq"):
        other = getattr(difference, name).shape
        if other != shape:
            raise ImagingError(
                f"{pair_id}: the plane {name} has the shape {other} and the score {shape}; make the difference product again."
            )

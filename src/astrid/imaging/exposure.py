"""One exposure as the subtraction sees it: its PSF, its sources, and the points that registration matches."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid.config.schema.psf import PsfConfig
from astrid.core.errors import ImagingError
from astrid.core.records import Calibrated, DQImage, FloatImage, Psf
from astrid.imaging.alignment.astrometry import Points
from astrid.imaging.stars.find import StarFlag, find_stars, usable_pixels
from astrid.imaging.stars.psf import estimate_psf, given_psf
from astrid.imaging.stars.sizes import FWHM_PER_SIGMA
from astrid.imaging.stars.sources import measure_sources

_SHARE = 1.0 / np.sqrt(2.0)  # of a star's error along both axes, that is along one
_SAMPLE_SIDE = 450  # samples a side of an image that its noise and level are taken from
_MAD = 1.4826  # median absolute deviation -> sigma of a Gaussian


@dataclass(frozen=True, eq=False)
class Measured:
    """An exposure with what one look at it gives, in its own pixels."""

    image: Calibrated
    psf: Psf
    sources: NDArray[Any]  # everything that was found, `imaging.stars.sources.SOURCE_DTYPE`
    points: Points  # what registration matches
    rows: NDArray[np.intp]  # of `sources`, that `points` are
    level: float  # of the sky that calibration left, unit
    noise: float  # RMS of the blank sky by the variance plane, unit

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.image.data.shape[0]), int(self.image.data.shape[1])


def measure(image: Calibrated, config: PsfConfig, *, min_stars: int) -> Measured:
    """PSF and sources of an exposure: those it carries, else from its pixels.

    `min_stars` star fits are needed for registration to stand on them alone; below it the centroids of every clean, compact
    source are given.

    Raises
    ------
    ImagingError
        When no pixel of the exposure is usable.
    """
    level, noise = _sky(image)
    psf, sources = None if image.psf is None else _checked(image.psf), image.sources
    if psf is None or sources is None:
        psf, sources = psf_and_sources(image.data, image.variance, image.dq, psf, config)
    rows, points = _points(sources, config, min_stars)
    return Measured(image, psf, sources, points, rows, level, noise)


def psf_and_sources(data: FloatImage, variance: FloatImage, dq: DQImage, psf: Psf | None, config: PsfConfig) -> tuple[Psf, NDArray[Any]]:
    """The PSF, estimated from the image's stars where it is not known, and the image's sources; stars are searched for once."""
    found = find_stars(data, variance, dq, config.stars, psf=psf)
    if psf is None:
        psf = estimate_psf(data, variance, dq, config, stars=found)
    return psf, measure_sources(data, variance, dq, psf, config, found=found)


def _checked(psf: Psf) -> Psf:
    """A PSF that comes with the exposure, its stamp square, odd and of unit sum."""
    if psf.terms is not None:
        return psf
    return dataclasses.replace(given_psf(psf.stamp), method=psf.method, n_stars=psf.n_stars, residual=psf.residual)


def _sky(image: Calibrated) -> tuple[float, float]:
    ny, nx = image.data.shape
    thin = (slice(None, None, max(1, ny // _SAMPLE_SIDE)), slice(None, None, max(1, nx // _SAMPLE_SIDE)))
    data, variance, dq = np.asarray(image.data[thin]), np.asarray(image.variance[thin]), np.asarray(image.dq[thin])
    good = usable_pixels(data, variance, dq)
    if not good.any():
        raise ImagingError(f"{image.info.exposure_id} has no usable pixel of {good.size} looked at; check its mask and calibration.")
    return clipped_median(data[good]), float(np.sqrt(clipped_median(variance[good])))


def clipped_median(values: FloatImage) -> float:
    """Median of a sample after five rounds of clipping at three robust sigma."""
    sample = np.asarray(values, dtype=np.float64)
    for _ in range(5):
        middle = np.median(sample)
        width = _MAD * np.median(np.abs(sample - middle))
        kept = sample[np.abs(sample - middle) <= 3.0 * width]
        if len(kept) == len(sample) or len(kept) == 0:
            break
        sample = kept
    return float(np.median(sample))


def _points(sources: NDArray[Any], config: PsfConfig, min_stars: int) -> tuple[NDArray[np.intp], Points]:
    """PSF-fit positions of the stars; where stars are too few, windowed centroids of every clean, compact source."""
    rows = np.flatnonzero(sources["good"])
    if len(rows) >= min_stars:
        chosen = sources[rows]
        return rows, Points(chosen["x_fit"], chosen["y_fit"], np.hypot(chosen["error_x"], chosen["error_y"]) * _SHARE, chosen["flux_fit"])
    clean = (sources["flags"] & np.uint32(~StarFlag.NOT_STAR_LIKE & 0xFFFFFFFF)) == 0
    rows = np.flatnonzero(clean & (sources["elongation"] <= config.stars.max_elongation))
    chosen = sources[rows]
    error = chosen["fwhm"] / FWHM_PER_SIGMA / chosen["snr"]
    return rows, Points(chosen["x"].astype(float), chosen["y"].astype(float), error, chosen["flux"].astype(float))

"""What a subtracted pair is worth: a record of scalars for the product and the table, and the gate on it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrid.config.schema.imaging import GateConfig
from astrid.core.records import FloatImage

_MAD = 1.4826  # median absolute deviation -> sigma of a Gaussian
_BLANK_VARIANCE = 1.1  # blank sky: V(S) at most this many times its sky value ...
_BLANK_SNR = 5.0  # ... and the science scene below this many times the scene's own robust width
_HALF_NORMAL = 0.6745  # median of |x| for a Gaussian of unit width
_CHANGED = 5.0  # widths of the score, beyond which something has changed ...
_CHANGED_RIM = 2.0  # ... out to where its light sinks below this, and a FWHM farther
_MIN_BLANK = 1000  # px, fewer than this say nothing about the score's width
_TAIL = 5.0  # sigma
BRIGHT_SNR = 100.0  # S/N of the stars whose residuals are reported


@dataclass(frozen=True)
class PairQuality:
    """Scalars of one pair; pixels are science pixels. NaN where it could not be measured."""

    registration_method: str  # affine, shift or header
    registration_rms_px: float
    registration_rms_arcsec: float
    registration_median_px: float
    registration_centroid_px: float  # RMS that the stars' own centroid errors explain
    registration_corner_max_px: float  # largest of the four quadrants' median residuals
    registration_sigma_x_px: float  # what entered the score's variance
    registration_sigma_y_px: float
    n_matched: int
    flux_method: str  # stars or exposure_time
    flux_ratio: float  # science over reference
    flux_ratio_error: float  # relative
    flux_scatter: float  # relative, beyond the photon noise
    n_flux_stars: int
    background_offset: float  # unit of science, taken off the reference
    noise_correlation_science: float  # power of its noise at the PSF's scale over that of white noise of its variance
    noise_correlation_reference: float
    noise_response: float  # power of the reference's noise that resampling leaves at the PSF's scale
    fwhm_science: float  # px
    fwhm_reference: float  # px, on the science grid
    psf_method_science: str
    psf_method_reference: str
    psf_stars_science: int
    psf_stars_reference: int
    psf_residual_science: float  # RMS of (star - model) / flux over the stars' cores
    psf_residual_reference: float
    psf_misfit_science: float  # kappa of `imaging.stars.misfit`, 0 where the stars show none
    psf_misfit_reference: float
    overlap: float  # fraction of the science pixels with reference data
    masked_fraction: float  # of the science pixels, in the difference
    score_mean: float  # on blank sky
    score_std_raw: float  # on blank sky, before any renormalisation
    score_std: float  # on blank sky, as delivered
    score_renormalised: bool
    score_tail: float  # fraction of the blank sky beyond 5 sigma, as delivered; 5.7e-7 for Gaussian noise
    n_blank: int  # px of blank sky that these figures stand on
    star_residual: float  # median |difference| over the flux of bright stars, as PSF fluxes
    star_score: float  # median |score| at bright stars

    def scalars(self) -> dict[str, Any]:
        """The record as columns `q_<name>`."""
        return {f"q_{key}": value for key, value in dataclasses.asdict(self).items()}


@dataclass(frozen=True)
class ScoreStatistics:
    """Robust mean and width of the score on blank sky, the fraction beyond 5 sigma and the number of pixels."""

    mean: float
    std: float
    tail: float
    n: int


def blank_sky(variance_ratio: FloatImage, snr_science: FloatImage, usable: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """True where the score's variance is that of the sky alone and the science image shows no source."""
    quiet = usable & (variance_ratio <= _BLANK_VARIANCE)
    if not quiet.any():
        return quiet
    width = max(1.0, float(np.median(snr_science[quiet])) / _HALF_NORMAL)  # above 1 where the variance plane is too small
    return np.asarray(quiet & (snr_science < _BLANK_SNR * width))


def still_sky(score: FloatImage, blank: NDArray[np.bool_], fwhm: float) -> NDArray[np.bool_]:
    """The blank sky without what has changed: the skirts of transients lie below the science image's limit and widen the score.

    Taken out are connected pixels of |score| beyond 2 that reach 5 somewhere, on blank sky or off it, in units of the score's own
    width, with a FWHM around them. What noise alone loses by that is a few pixels in a million.
    """
    if not blank.any():
        return blank
    width = max(1.0, _MAD * float(np.median(np.abs(score[blank]))))
    size = np.abs(score)
    peaks = size > _CHANGED * width
    if not peaks.any():
        return blank
    groups, _ = ndimage.label(size > _CHANGED_RIM * width, structure=np.ones((3, 3)))
    changed = np.zeros(int(groups.max()) + 1, np.uint8)
    changed[groups[peaks]] = 1
    return np.asarray(blank & (ndimage.maximum_filter(changed[groups], size=2 * round(fwhm) + 1) == 0))


def score_statistics(values: FloatImage, still: NDArray[np.bool_]) -> ScoreStatistics:
    """Mean and width of the score on still sky, the width from its median absolute deviation; the tail on all values.

    NaN with fewer than 1000 values of still sky.
    """
    calm = values[still]
    if len(calm) < _MIN_BLANK:
        nan = float("nan")
        return ScoreStatistics(nan, nan, nan, len(values))
    mean = float(np.median(calm))
    std = _MAD * float(np.median(np.abs(calm - np.float32(mean))))
    return ScoreStatistics(mean, std, float(np.mean(np.abs(values) > _TAIL)), len(values))


def gate(quality: PairQuality, limits: GateConfig) -> list[str]:
    """The reasons, one sentence each with its numbers, why a pair is beyond the limits; empty when it is within."""
    reasons: list[str] = []

    def above(value: float, limit: float, what: str) -> None:
        if value > limit:
            reasons.append(f"{what} {value:.3g} is above {limit:.3g}")

    above(quality.registration_rms_px, limits.max_registration_rms_px, "registration RMS in px")
    if quality.n_matched < limits.min_matched:
        reasons.append(f"matched stars {quality.n_matched} are fewer than {limits.min_matched}")
    widths = (quality.fwhm_science, quality.fwhm_reference)
    above(max(widths) / min(widths), limits.max_fwhm_ratio, "PSF width ratio")
    above(quality.flux_scatter, limits.max_flux_scatter, "relative scatter of the flux ratio")
    above(quality.score_std_raw, limits.max_score_std, "score width on blank sky")
    if quality.score_std_raw < limits.min_score_std:
        reasons.append(f"score width on blank sky {quality.score_std_raw:.3g} is below {limits.min_score_std:.3g}")
    above(quality.score_tail, limits.max_score_tail, "fraction of the blank sky beyond 5 sigma")
    above(quality.star_score, limits.max_star_score, "median score left on bright stars")
    above(quality.masked_fraction, limits.max_masked_fraction, "masked fraction")
    return reasons

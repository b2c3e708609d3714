"""The ratio of the two images' flux scales, from stars measured in both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from astrid.config.schema.imaging import FluxScaleConfig
from astrid.core.errors import ImagingError, TooFewStarsError
from astrid.core.records import ExposureInfo

Floats = NDArray[np.float64]

_MAD = 1.4826  # median absolute deviation -> sigma of a Gaussian
_ROUNDS = 10
_CHANCE = 0.05  # that photon noise scatters so much, below which a scatter beyond it is believed
_COUNTS = ("electron", "electrons", "e-", "e", "adu", "dn", "count", "counts", "ct", "")
_PER_AREA = ("/sr", "/arcsec", "sr-1", "sr**-1", "arcsec-2", "arcsec**-2")


@dataclass(frozen=True)
class FluxScale:
    """F_n / F_r: what the reference is multiplied by to stand on the science image's flux scale."""

    ratio: float
    error: float  # 1 sigma of the ratio, relative; NaN for the fallback
    scatter: float  # relative scatter of the stars beyond their photon noise, 0 where that explains it; NaN for the fallback
    n_stars: int
    method: str  # "stars", "exposure_time" or "unit"


def flux_scale(science: Floats, science_error: Floats, reference: Floats, reference_error: Floats, config: FluxScaleConfig) -> FluxScale:
    """Robust ratio science / reference of the fluxes of matched stars.

    Parameters
    ----------
    science, science_error, reference, reference_error
        (n,) PSF fluxes and their errors, each in its image's unit, of the same stars.
    config
        Least number of stars, and clipping.

    Returns
    -------
    FluxScale
        The weighted mean of ln(science / reference) after clipping, with the excess scatter in the weights.

    Raises
    ------
    TooFewStarsError
        When fewer than `config.min_stars` stars are usable or they disagree too much; `header_scale` is the way on.
    """
    use = (science > 0) & (reference > 0) & (science_error > 0) & (reference_error > 0)
    if use.sum() < config.min_stars:
        raise TooFewStarsError(
            f"only {int(use.sum())} stars are measured in both images, fewer than {config.min_stars}; use the headers' scale."
        )
    log = np.log(science[use] / reference[use])
    error = np.hypot(science_error[use] / science[use], reference_error[use] / reference[use])
    keep = np.ones(len(log), bool)
    centre, excess = _weighted_median(log, 1.0 / (error**2 + np.median(error) ** 2)), 0.0  # no single bright star decides
    for _ in range(_ROUNDS):
        spread = np.hypot(error, excess)
        kept = np.abs(log - centre) <= config.clip * np.maximum(spread, _MAD * np.median(np.abs(log - centre)) * (excess == 0))
        if kept.sum() < config.min_stars:
            break
        excess = _excess(log[kept] - centre, error[kept])
        weight = 1.0 / (error[kept] ** 2 + excess**2)
        centre = float(np.average(log[kept], weights=weight))
        if np.array_equal(kept, keep):
            break
        keep = kept
    uncertainty = float(np.sqrt(1.0 / np.sum(1.0 / (error[keep] ** 2 + excess**2))))
    if uncertainty > config.max_error:
        raise TooFewStarsError(
            f"{int(keep.sum())} stars give the flux ratio to {uncertainty:.1%} only, worse than {config.max_error:.1%}; "
            "use the headers' scale."
        )
    chance = float(stats.chi2.sf(np.sum(((log[keep] - centre) / error[keep]) ** 2), int(keep.sum()) - 1))
    return FluxScale(float(np.exp(centre)), uncertainty, excess if chance < _CHANCE else 0.0, int(keep.sum()), "stars")


def header_scale(science: ExposureInfo, reference: ExposureInfo, area_ratio: float) -> FluxScale:
    """The ratio that the two headers imply for a reference resampled with its counts conserved.

    Counts (electrons, ADU) scale with the exposure time; rates and fluxes of one unit are on one scale; surface brightnesses
    of one unit as well, once the area ratio (reference pixels a science pixel) that resampling put in is taken out.

    Raises
    ------
    ImagingError
        When the units differ, or are counts without usable exposure times.
    """
    nan = float("nan")
    unit = science.unit.strip().lower()
    if unit != reference.unit.strip().lower():
        raise ImagingError(
            f"{science.exposure_id} is in {science.unit!r} and {reference.exposure_id} in {reference.unit!r}, with too few shared stars to "
            "tie them; convert them to one unit."
        )
    if unit in _COUNTS:
        times = (science.exptime, reference.exptime)
        if not all(time > 0 for time in times):
            raise ImagingError(f"with too few shared stars the exposure times tie the images, and they are {times} s; mend the headers.")
        return FluxScale(science.exptime / reference.exptime, nan, nan, 0, "exposure_time")
    if any(mark in unit for mark in _PER_AREA):
        return FluxScale(1.0 / area_ratio, nan, nan, 0, "unit")
    return FluxScale(1.0, nan, nan, 0, "unit")


def _weighted_median(values: Floats, weights: Floats) -> float:
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(cumulative, 0.5 * cumulative[-1])])


def _excess(residual: Floats, error: Floats) -> float:
    """Scatter that, added in quadrature to the errors, brings chi^2 to one a star."""

    def surplus(s: float) -> float:
        return float(np.mean(residual**2 / (error**2 + s**2)) * len(residual) / max(len(residual) - 1, 1) - 1.0)

    if surplus(0.0) <= 0:
        return 0.0
    return float(optimize.brentq(surplus, 0.0, 2.0 * float(np.sqrt(np.sum(residual**2))) + 1e-12, xtol=1e-7))

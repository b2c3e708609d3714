"""Cosmic rays in a single exposure: L.A.Cosmic, with a guard that keeps the cores of undersampled stars."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from astrid.config.schema.calibrate import CosmicsConfig
from astrid.core.records import FloatImage

FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))
_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))  # the four directions through a pixel


def find_cosmics(
    data: FloatImage, variance: FloatImage, mask: NDArray[np.bool_], fwhm: float, config: CosmicsConfig
) -> NDArray[np.bool_]:
    """Find cosmic rays by their edges, sharper than the PSF allows.

    L.A.Cosmic (van Dokkum 2001, PASP 113, 1420) compares the Laplacian with the noise and with the fine structure. Where
    stars are undersampled it also takes their cores, so a group of its pixels is kept only when one of them stands out from
    its two neighbours, in some direction, by more than a point source of this FWHM can (`point_source_sharpness`).

    Parameters
    ----------
    data, variance
        (ny, nx) float32, sky included; electrons and electrons^2, or any unit that belongs together.
    mask
        (ny, nx) True where pixels are saturated or bad: they are neither found nor used.
    fwhm
        px, of point sources.

    Returns
    -------
    bool (ny, nx), True on cosmic rays.
    """
    import astroscrappy

    found, _ = astroscrappy.detect_cosmics(
        np.ascontiguousarray(data, dtype=np.float32),
        inmask=np.ascontiguousarray(mask),
        invar=np.ascontiguousarray(variance, dtype=np.float32),
        sigclip=config.sigma,
        sigfrac=config.neighbour_fraction,
        objlim=config.object_contrast,
        gain=1.0,
        readnoise=0.0,
        satlevel=np.inf,
        niter=config.iterations,
        sepmed=True,
        cleantype="medmask",
        fsmode="median",
    )
    return _sharper_than_stars(data, variance, found & ~mask, mask, fwhm, config)


def point_source_sharpness(fwhm: float) -> float:
    """Largest (p - (a + b) / 2) / p of a pixel p and its two opposite neighbours a, b, for a Gaussian PSF of `fwhm` px.

    It is reached when the source is centred on the pixel: 1 - P(1) / P(0) with P the Gaussian integrated over a pixel;
    along a diagonal, where the neighbours are farther, it is 1 - (P(1) / P(0))^2.
    """
    return 1.0 - _neighbour_ratio(fwhm)


def _neighbour_ratio(fwhm: float) -> float:
    scale = FWHM_PER_SIGMA / (fwhm * np.sqrt(2.0))
    centre = special.erf(0.5 * scale)
    return float((special.erf(1.5 * scale) - centre) / 2.0 / centre)


def _sharper_than_stars(
    data: FloatImage, variance: FloatImage, found: NDArray[np.bool_], mask: NDArray[np.bool_], fwhm: float, config: CosmicsConfig
) -> NDArray[np.bool_]:
    groups, count = ndimage.label(found, np.ones((3, 3)))
    if count == 0:
        return found
    ratio = _neighbour_ratio(fwhm)
    y, x = np.nonzero(found)
    padded = np.pad(np.where(mask, np.nan, data - np.median(data[~mask])), 1, constant_values=np.nan)
    noise = np.sqrt(variance[y, x])
    peak = padded[y + 1, x + 1]
    sharp = np.zeros(len(y), bool)
    for dy, dx in _DIRECTIONS:
        allowed = ratio**2 if dx and dy else ratio
        beside = 0.5 * (padded[y + 1 + dy, x + 1 + dx] + padded[y + 1 - dy, x + 1 - dx])
        excess = (allowed - config.sharpness_margin) * peak - beside
        sharp |= np.nan_to_num(excess, nan=-np.inf) > config.sharpness_sigma * noise
    # A weak group, too faint to be told from noise by its sharpness, stays out: it is no transient at 5 sigma of a matched filter.
    kept = np.unique(groups[y[sharp], x[sharp]])
    return np.isin(groups, kept[kept > 0])

"""Cosmic rays in a single exposure: L.A.Cosmic, with a guard that keeps the cores of undersampled stars."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from astrid.config.schema.calibrate import CosmicsConfig
from astrid.core.records import FloatImage
from astrid.imaging.stars.sizes import FWHM_PER_SIGMA

_RIM_PX = 2  # px, how far a ray is grown ...
_RIM_SIGMA = 2.0  # ... through pixels this far above the sky
_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))  # the four directions through a pixel


def find_cosmics(data: FloatImage, variance: FloatImage, mask: NDArray[np.bool_], fwhm: float, config: CosmicsConfig) -> NDArray[np.bool_]:
    """Find cosmic rays by their edges, sharper than the PSF allows: `sharp_edges`, then `sharper_than_stars`.

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
    return sharper_than_stars(data, variance, sharp_edges(data, variance, mask, config), mask, fwhm, config)


def sharp_edges(data: FloatImage, variance: FloatImage, mask: NDArray[np.bool_], config: CosmicsConfig) -> NDArray[np.bool_]:
    """L.A.Cosmic (van Dokkum 2001, PASP 113, 1420): pixels whose Laplacian exceeds the noise and the fine structure.

    Where stars are undersampled their cores are among them. Arguments as for `find_cosmics`.
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
    edges: NDArray[np.bool_] = found & ~mask
    return edges


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


def sharper_than_stars(
    data: FloatImage, variance: FloatImage, found: NDArray[np.bool_], mask: NDArray[np.bool_], fwhm: float, config: CosmicsConfig
) -> NDArray[np.bool_]:
    """The groups of `found` with a pixel that no point source of this FWHM explains.

    Such a pixel stands out from its two neighbours, in some direction, by more than `point_source_sharpness` and the
    configured margin and noise allow. A group too weak to be told from a star by this is left out.
    """
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
    kept = np.unique(groups[y[sharp], x[sharp]])
    return _with_rims(np.isin(groups, kept[kept > 0]), padded[1:-1, 1:-1], variance)


def _with_rims(rays: NDArray[np.bool_], above: FloatImage, variance: FloatImage) -> NDArray[np.bool_]:
    """Rays with the pixels beside them that stand above the sky: the faint rims and ends of tracks that have no sharp edge themselves."""
    standing = np.nan_to_num(above, nan=-np.inf) > _RIM_SIGMA * np.sqrt(variance)
    return np.asarray(ndimage.binary_dilation(rays, np.ones((3, 3)), iterations=_RIM_PX, mask=rays | standing))

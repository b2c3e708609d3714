"""Correlated noise of one image: what drizzling and resampling did to its neighbours, seen at the scale of its PSF.

A variance plane says nothing of correlation, and a matched filter adds up neighbours: noise of the autocorrelation rho leaves in the
score rho's sum over the filter's own autocorrelation A times what white noise leaves,

    c^2 = sum over lags of rho(lag) A(lag),    rho(0) = A(0) = 1.

rho is measured on the blank sky of the image itself. Its mean at lags beyond the filter's reach, which is what a sky that is not quite
flat leaves, is taken off. rho(0) = 1 whatever the variance plane says: an error of that plane still shows in the score's width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from astrid.core.records import Calibrated, FloatImage
from astrid.imaging.sizes import FWHM_PER_SIGMA
from astrid.imaging.stars import usable_pixels

_BLOCK = 384  # px, side of the parts of a large image that are looked at
_BLOCKS = 3  # of them along an axis, at most
_MAD = 1.4826  # median absolute deviation -> sigma of a Gaussian
_SOURCE = 4.0  # sigma of the smoothed image, beyond which lies a source
_LEAST_BLANK = 5000  # px, fewer than this say nothing
_REACH_FWHMS = 2.5  # FWHM, lags at which the filter still has some autocorrelation
_BASE_FWHMS = 4.0  # FWHM, lags up to which the level of rho is taken
_SIGNIFICANT = 3.0  # sigma, by which c^2 must exceed one

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Correlation:
    """Power of an image's noise at the PSF's scale over that of white noise of the same variance."""

    power: float  # c^2; 1 where it is not significantly more
    measured: float  # c^2 as measured; NaN on too little sky
    error: float  # 1 sigma


def noise_correlation(image: Calibrated, stamp: FloatImage, level: float, fwhm: float) -> Correlation:
    """Measure c^2 of an image under the filter `stamp` (odd, centred: the image's PSF).

    Parameters
    ----------
    image
        The exposure; `level` is that of its sky.
    stamp
        (k, k), what the noise is filtered with.
    fwhm
        px, of the PSF.
    """
    base = max(4, round(_BASE_FWHMS * fwhm))
    total, count = np.zeros((2 * base + 1,) * 2), np.zeros((2 * base + 1,) * 2)
    for rows in _parts(image.data.shape[0]):
        for columns in _parts(image.data.shape[1]):
            products, pairs = _lagged(image, (rows, columns), level, fwhm, base)
            total += products
            count += pairs
    known = count[base, base]
    if known < _LEAST_BLANK:
        return Correlation(1.0, float("nan"), float("nan"))
    rho = total / np.maximum(count, 1.0)
    rho /= rho[base, base]
    lag = np.hypot(*np.indices(rho.shape) - float(base))
    near = (lag <= max(3.0, _REACH_FWHMS * fwhm)) & (lag > 0)
    far = (lag > max(3.0, _REACH_FWHMS * fwhm)) & (lag <= base)
    weight = _autocorrelation(stamp, base)
    power = 1.0 + float(np.sum(((rho - rho[far].mean()) * weight)[near]))
    error = float(np.sqrt(2.0 * np.sum(weight[near] ** 2 / count[near]))) * power
    return Correlation(power if power > 1.0 + _SIGNIFICANT * error else 1.0, power, error)


def _parts(length: int) -> list[slice]:
    """The whole of a short axis; of a long one, a few evenly spread parts."""
    number = min(_BLOCKS, -(-length // _BLOCK))
    side = min(_BLOCK, length)
    return [slice(int(start), int(start) + side) for start in np.linspace(0, length - side, number)]


def _lagged(image: Calibrated, window: tuple[slice, slice], level: float, fwhm: float, base: int) -> tuple[Floats, Floats]:
    """Sums of products of blank pixels by lag, and how many they are; both (2 base + 1, 2 base + 1)."""
    data, variance, dq = (np.asarray(plane[window]) for plane in (image.data, image.variance, image.dq))
    good = usable_pixels(data, variance, dq)
    if not good.any():
        return np.zeros((2 * base + 1,) * 2), np.zeros((2 * base + 1,) * 2)
    scaled = np.where(good, (data - level) / np.sqrt(np.where(good, variance, 1.0)), 0.0)
    blank = good & ~_sources(scaled, good, fwhm)
    if not blank.any():
        return np.zeros((2 * base + 1,) * 2), np.zeros((2 * base + 1,) * 2)
    value = np.where(blank, scaled - scaled[blank].mean(), 0.0)
    shape = tuple(int(fft.next_fast_len(side + base, real=True)) for side in value.shape)
    keep = np.ix_(np.arange(-base, base + 1) % shape[0], np.arange(-base, base + 1) % shape[1])
    products, pairs = (
        np.asarray(fft.irfft2(np.abs(fft.rfft2(plane, shape)) ** 2, shape)[keep]) for plane in (value, blank.astype(np.float64))
    )
    return products, np.rint(pairs)


def _sources(scaled: Floats, good: NDArray[np.bool_], fwhm: float) -> NDArray[np.bool_]:
    """Where the image smoothed to the PSF's scale shows something, grown by a FWHM."""
    smooth = ndimage.gaussian_filter(scaled, fwhm / FWHM_PER_SIGMA)
    middle = np.median(smooth[good])
    width = _MAD * np.median(np.abs(smooth[good] - middle))
    seen = (np.abs(smooth - middle) > _SOURCE * width).astype(np.uint8)
    return np.asarray(ndimage.maximum_filter(seen, size=2 * round(fwhm) + 1) > 0)


def _autocorrelation(stamp: FloatImage, base: int) -> Floats:
    """Of a filter, normalised to 1 at lag 0; (2 base + 1, 2 base + 1)."""
    side = int(fft.next_fast_len(2 * stamp.shape[0] + 2 * base, real=True))
    plane = fft.irfft2(np.abs(fft.rfft2(stamp.astype(np.float64), (side, side))) ** 2, (side, side))
    lags = np.arange(-base, base + 1) % side
    return np.asarray(plane[np.ix_(lags, lags)] / plane[0, 0])

"""Correlated noise of one image: what drizzling and resampling did to its neighbours, seen at the scale of its PSF.

A variance plane says nothing of correlation, and a matched filter adds up neighbours: noise of the autocorrelation rho leaves in the
score rho's sum over the filter's own autocorrelation A times what white noise leaves,

    c^2 = sum over lags of rho(lag) A(lag),    A(0) = 1.

rho is measured on the blank sky of the image itself, where rho(0) = 1 whatever the variance plane says: an error of that plane still shows
in the score's width. What resampling correlates lies within a few pixels. Sources too faint to be told from sky correlate as A does, and
a sky that is not flat over many pixels; both are fitted at the lags beyond and taken off: sources cancel in a difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from astrid.core.records import Calibrated, FloatImage
from astrid.imaging.stars.find import usable_pixels
from astrid.imaging.stars.sizes import FWHM_PER_SIGMA

_BLOCK = 384  # px, side of the parts of a large image that are looked at
_BLOCKS = 3  # of them along an axis, at most
_MAD = 1.4826  # median absolute deviation -> sigma of a Gaussian
_SOURCE = 4.0  # sigma of the smoothed image, beyond which lies a source
_LEAST_BLANK = 5000  # px, fewer than this say nothing, ...
_LEAST_SHARE = 0.6  # ... nor does a smaller share of the usable pixels: in a crowded field there is no sky between the sources
_SKEW = 0.5  # skewness of the blank pixels, beyond which they hold stars or single photons
_KERNEL_PX = 3.0  # px, lags to which drizzling and resampling correlate
_TOLD_APART = 0.35  # of A at those lags: a PSF so much broader than a resampling kernel tells faint sources from correlated noise
_LEAST_NOISE = 0.6  # of the variance of blank pixels that is noise, at least: beyond, the sky is crowded and says nothing
_BASE_FWHMS = 4.0  # FWHM, lags up to which faint sources and an uneven sky are fitted
_SIGNIFICANT = 3.0  # sigma, by which c^2 must exceed one ...
_LEAST_EXCESS = 0.05  # ... and by this: faint sources that the fit leaves look like as much

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
    base = max(8, round(_BASE_FWHMS * fwhm))
    total, count, usable = np.zeros((2 * base + 1,) * 2), np.zeros((2 * base + 1,) * 2), np.zeros(2)
    for rows in _parts(image.data.shape[0]):
        for columns in _parts(image.data.shape[1]):
            products, pairs, sums = _lagged(image, (rows, columns), level, fwhm, base)
            total, count, usable = total + products, count + pairs, usable + sums
    known = float(count[base, base])
    if known < max(_LEAST_BLANK, _LEAST_SHARE * usable[0]) or abs(usable[1]) / known > _SKEW * (total[base, base] / known) ** 1.5:
        return Correlation(1.0, float("nan"), float("nan"))
    rho: Floats = np.divide(total, np.maximum(count, 1.0))
    rho /= rho[base, base]
    weight = _autocorrelation(stamp, base)
    rows, columns = np.indices(rho.shape) - float(base)
    lag = np.hypot(rows, columns)
    near, far = lag <= _KERNEL_PX, (lag > _KERNEL_PX) & (lag <= base)
    told = weight[base, base + round(_KERNEL_PX)] > _TOLD_APART
    terms = np.stack([np.ones_like(lag), lag, weight] if told else [np.ones_like(lag), lag])
    spread = np.linalg.inv(terms[:, far] @ terms[:, far].T)
    flat = np.tensordot(spread @ (terms[:, far] @ rho[far]), terms, axes=1)
    white = 1.0 - float(flat[base, base])  # the noise's share of the pixels' variance
    if white < _LEAST_NOISE:
        return Correlation(1.0, float("nan"), float("nan"))
    power = float(np.sum(((rho - flat) * weight)[near])) / white
    lever = terms[:, near] @ weight[near]  # what the fit's errors do; every rho has the variance 1 / known, and its mirror is itself
    error = float(np.sqrt(2.0 / known * (np.sum(weight[near & (lag > 0)] ** 2) + lever @ spread @ lever)))
    believed = power > 1.0 + max(_SIGNIFICANT * error, _LEAST_EXCESS)
    return Correlation(power if believed else 1.0, power, error)


def _parts(length: int) -> list[slice]:
    """The whole of a short axis; of a long one, a few evenly spread parts."""
    number = min(_BLOCKS, max(1, length // _BLOCK))
    side = min(_BLOCK, length) if number > 1 else min(2 * _BLOCK, length)
    return [slice(int(start), int(start) + side) for start in np.linspace(0, length - side, number)]


def _lagged(image: Calibrated, window: tuple[slice, slice], level: float, fwhm: float, base: int) -> tuple[Floats, Floats, Floats]:
    """Sums of products of blank pixels by lag and how many they are, both (2 base + 1, 2 base + 1).

    Third, how many pixels are usable and the sum of the blank ones' cubes.
    """
    data, variance = (np.asarray(plane[window], dtype=np.float32) for plane in (image.data, image.variance))
    dq = np.asarray(image.dq[window], dtype=np.uint32)
    good = usable_pixels(data, variance, dq)
    scaled = np.where(good, (data - level) / np.sqrt(np.where(good, variance, 1.0)), 0.0)
    blank = good & ~_sources(scaled, good, fwhm) if good.any() else good
    value = np.where(blank, scaled - (scaled[blank].mean() if blank.any() else 0.0), 0.0)
    shape = tuple(int(fft.next_fast_len(side + base, real=True)) for side in value.shape)
    keep = np.ix_(np.arange(-base, base + 1) % shape[0], np.arange(-base, base + 1) % shape[1])
    products, pairs = (
        np.asarray(fft.irfft2(np.abs(fft.rfft2(plane, shape)) ** 2, shape)[keep]) for plane in (value, blank.astype(np.float64))
    )
    return products, np.rint(pairs), np.array([np.count_nonzero(good), np.sum(value**3)])


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

"""PSF flux at sub-pixel positions, from the FLUX plane of a difference product.

FLUX is the matched filter's flux of a point source centred on each pixel (Zackay, Ofek & Gal-Yam 2016, eq. 40-41). Between
pixels it is interpolated: the profile f A(q - p) that a source at p leaves in it, A the autocorrelation of the difference's PSF,
is taken off the pixels q, the rest is interpolated by a quintic cardinal B-spline, and f is added back. Masked pixels have no
rest. That keeps the peak between pixels, which the nearest pixel would lose, for a point source down to the sampling limit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import fft2, ifft2
from scipy.interpolate import BSpline

from astrid.candidates.peaks import autocorrelation
from astrid.candidates.planes import stamps
from astrid.core.records import Difference, FloatImage

Floats = NDArray[np.float64]
_HALF = 8  # px, half of the interpolation's window; the spline's weights fall by 0.43 a pixel
_FIT = 1.6  # px, pixels this near to the position give the flux of the profile that is taken off
_LEAST = 0.25  # of the smallest variance beside a position: the astrometric term has its zero on a source, between the pixels
_TOGETHER = 16  # positions whose PSFs are moved together: 7 MB for PSFs 100 px wide
_BASIS = BSpline.basis_element(np.arange(-3.0, 4.0), extrapolate=False)  # the quintic B-spline on integer knots


def psf_flux(difference: Difference, stamp: FloatImage, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """PSF flux and its 1-sigma error, unit of the product, at positions (n,), px; NaN where no usable pixel is near.

    `stamp`: the difference's PSF there.
    """
    ix, iy = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
    dx, dy = x - ix, y - iy
    weights, radius = _geometry(dx, dy)
    flux, error = (stamps(plane, iy, ix, _HALF, outside=np.nan).astype(np.float64) for plane in (difference.flux, difference.flux_err))
    known = np.isfinite(flux) & np.isfinite(error) & (error > 0)
    profile = shifted_psf(autocorrelation(stamp).astype(np.float32), dx, dy, _HALF)
    used = known & (radius <= _FIT)
    enough = np.asarray(used.any(axis=(1, 2)))
    share = np.where(used, profile, 0.0)
    amount = (share * np.where(known, flux, 0.0)).sum(axis=(1, 2))
    first = np.divide(amount, np.square(share).sum(axis=(1, 2)), out=np.full(len(x), np.nan), where=enough)
    rest = np.where(known, flux - first[:, None, None] * profile, 0.0)
    value = first + np.einsum("nij,ni,nj->n", np.nan_to_num(rest), *weights)
    return value, np.sqrt(_variance(np.where(known, np.square(error), np.nan), used, enough, weights))


def _variance(variance: Floats, used: NDArray[np.bool_], enough: NDArray[np.bool_], weights: tuple[Floats, Floats]) -> Floats:
    """The variance at the positions, interpolated as its mean nearby and the rest; NaN where `enough` is false."""
    seen = np.nan_to_num(variance)
    total = np.where(used, seen, 0.0).sum(axis=(1, 2))
    typical = np.divide(total, used.sum(axis=(1, 2)), out=np.full(len(total), np.nan), where=enough)
    rest = np.where(np.isfinite(variance), seen - typical[:, None, None], 0.0)
    value = typical + np.einsum("nij,ni,nj->n", np.nan_to_num(rest), *weights)
    low, high = np.where(used, seen, np.inf).min(axis=(1, 2)), np.where(used, seen, 0.0).max(axis=(1, 2))
    return np.asarray(np.where(enough, np.clip(value, _LEAST * low, high), np.nan))


def _geometry(dx: Floats, dy: Floats) -> tuple[tuple[Floats, Floats], Floats]:
    """Interpolation weights (n, window) along y and x, and the distance of the window's pixels from each position."""
    reach = np.arange(-_HALF, _HALF + 1, dtype=np.float64)
    inverse = np.linalg.inv(np.nan_to_num(_BASIS(reach[:, None] - reach)))
    down, across = (np.nan_to_num(_BASIS(shift[:, None] - reach)) @ inverse for shift in (dy, dx))
    return (down, across), np.hypot(reach - dx[:, None, None], reach[:, None] - dy[:, None, None])


def shifted_psf(stamp: FloatImage, dx: Floats, dy: Floats, half: int) -> Floats:
    """The PSF moved by (dx, dy) px through the Fourier shift theorem, cut or padded with 0 to (n, 2 half + 1, 2 half + 1)."""
    reach = max(half, stamp.shape[0] // 2) + 2  # a rim keeps what wraps around out of the stamp
    size = 2 * reach + 1
    spectrum = fft2(np.pad(stamp.astype(np.float64), reach - stamp.shape[0] // 2))
    frequency = np.fft.fftfreq(size)
    inner = slice(reach - half, reach + half + 1)
    moved = np.empty((len(dx), 2 * half + 1, 2 * half + 1))
    for first in range(0, len(dx), _TOGETHER):
        some = slice(first, first + _TOGETHER)
        phase_x, phase_y = (np.exp(-2j * np.pi * frequency * shift[some, None]) for shift in (dx, dy))
        moved[some] = ifft2(spectrum * phase_y[:, :, None] * phase_x[:, None, :], axes=(1, 2)).real[:, inner, inner]
    return moved

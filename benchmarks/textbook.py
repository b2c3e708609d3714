"""ZOGY by the book (Zackay, Ofek & Gal-Yam 2016, arXiv:1601.02655), written apart from AstrID's.

It is the benchmarks' theory and their plainest peer. Fourteen full-size transforms, no padding, no masks.
`Optimum` holds what the matched filter reaches by theory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Optimum:
    """Theory of one pair of PSFs and sky noises, for unit flux scales."""

    flux_error: float  # of a PSF flux on blank sky
    square_n: Floats  # k_n^2, k_r^2 about the centre
    square_r: Floats
    blank: float  # V(S) of blank sky
    own: float  # V(S) that a source of unit flux adds at its place, electrons

    def variance_ratio(self, variance_n: Floats, variance_r: Floats) -> Floats:
        """V(S) over its blank-sky value, from noiseless variances on the science grid."""
        total = signal.oaconvolve(variance_n, self.square_n, mode="same") + signal.oaconvolve(variance_r, self.square_r, mode="same")
        edge = signal.oaconvolve(np.ones_like(variance_n), self.square_n, mode="same").clip(1e-3 * self.square_n.sum())
        return np.asarray(total / self.blank * self.square_n.sum() / edge)

    def flux_of(self, snr: Floats, ratio: Floats) -> Floats:
        """Flux whose S/N is `snr` where the scene without it has the variance `ratio`: f^2 = snr^2 (error^2 ratio + own f)."""
        own = self.own / self.blank * self.flux_error**2
        return np.asarray(0.5 * snr**2 * (own + np.sqrt(own**2 + 4.0 * self.flux_error**2 * ratio / snr**2)))


def optimum(psf_n: NDArray[np.float32], psf_r: NDArray[np.float32], sigma_n: float, sigma_r: float) -> Optimum:
    """The theory for two PSF stamps and the RMS of their skies."""
    side = 256
    hat_n, hat_r = (fft.fft2(_centred(stamp, (side, side))) for stamp in (psf_n, psf_r))
    square = sigma_n**2 * np.abs(hat_r) ** 2 + sigma_r**2 * np.abs(hat_n) ** 2
    gain = float(np.sum(np.abs(hat_n * hat_r) ** 2 / square)) / side**2
    kernels = [
        fft.ifft2(np.conj(hat_n) * np.abs(hat_r) ** 2 / square).real,
        fft.ifft2(np.conj(hat_r) * np.abs(hat_n) ** 2 / square).real,
    ]
    blank = float(sigma_n**2 * np.sum(kernels[0] ** 2) + sigma_r**2 * np.sum(kernels[1] ** 2))
    own = float(np.sum(np.roll(kernels[0][::-1, ::-1], (1, 1), (0, 1)) ** 2 * _centred(psf_n, (side, side))))
    middle, half = side // 2, 20
    squares = [fft.fftshift(kernel**2)[middle - half : middle + half + 1, middle - half : middle + half + 1] for kernel in kernels]
    scale = [float(np.sum(kernel**2) / cut.sum()) for kernel, cut in zip(kernels, squares, strict=True)]
    return Optimum(np.sqrt(blank) / gain, squares[0] * scale[0], squares[1] * scale[1], blank, own)


@dataclass(frozen=True, eq=False)
class Image:
    """One side of a pair; `sigma` is the RMS of its blank sky."""

    data: NDArray[np.float32]
    variance: NDArray[np.float32]
    psf: NDArray[np.float32]
    sigma: float


def _centred(stamp: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    plane = np.zeros(shape, np.float32)
    plane[: stamp.shape[0], : stamp.shape[1]] = stamp
    return np.roll(plane, (-(stamp.shape[0] // 2), -(stamp.shape[1] // 2)), axis=(0, 1))


def zogy(n_side: Image, r_side: Image, astrometry: float = 0.0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """S_corr and D of two aligned images with unit flux scales; `astrometry` px RMS an axis, one number for the image."""
    shape = n_side.data.shape
    hat_n, hat_r = fft.rfft2(_centred(n_side.psf, shape)), fft.rfft2(_centred(r_side.psf, shape))
    n, r = fft.rfft2(n_side.data), fft.rfft2(r_side.data)
    sigma = (n_side.sigma, r_side.sigma)
    square = np.float32(sigma[0] ** 2) * np.abs(hat_r) ** 2 + np.float32(sigma[1] ** 2) * np.abs(hat_n) ** 2
    root = np.sqrt(square)
    flux_d = np.float32(1.0 / np.hypot(*sigma))
    d = (hat_r * n - hat_n * r) / root
    psf_d = hat_n * hat_r / (flux_d * root)
    score = fft.irfft2(flux_d * d * np.conj(psf_d), s=shape)
    k_n, k_r = np.conj(hat_n) * np.abs(hat_r) ** 2 / square, np.conj(hat_r) * np.abs(hat_n) ** 2 / square
    spread = np.zeros(shape, np.float32)
    for kernel, plane, variance in ((k_n, n, n_side.variance), (k_r, r, r_side.variance)):
        squared = fft.rfft2(fft.irfft2(kernel, s=shape) ** 2)
        spread += fft.irfft2(fft.rfft2(variance) * squared, s=shape)
        if astrometry:
            part = fft.irfft2(kernel * plane, s=shape)
            spread += np.float32(astrometry**2 / 2) * sum(np.square(slope) for slope in np.gradient(part))
    return score / np.sqrt(spread), fft.irfft2(d, s=shape)

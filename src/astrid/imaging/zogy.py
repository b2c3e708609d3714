"""Proper image subtraction: Zackay, Ofek & Gal-Yam 2016 (ZOGY, ApJ 830, 27; arXiv:1601.02655).

Eight full-size transforms a pair (forward N, R, V(N), V(R); inverse D, S_n, S_r, V(S)); the PSFs' and the squared kernels'
transforms are dense matrix products, since their stamps are small. All in float32 on one thread: pairs run in parallel, not
transforms.
"""

from __future__ import annotations

import dataclasses
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid.core.errors import ImagingError
from astrid.core.records import FloatImage

Hat = NDArray[np.complex64]

_ROWS = 32  # rows worked on at once: a block of every plane in use stays in the processor's cache
_LEAST_VARIANCE = 1e-6  # of the blank sky's V(S): keeps rounding from making it negative
_TINY = 1e-12  # of the denominator at frequency 0: keeps 0 / 0 away where neither PSF has power


@dataclass(frozen=True, eq=False)
class Side:
    """One image of the pair, sky-subtracted and finite everywhere, on the common grid.

    `data` (ny, nx); `variance` (ny, nx), unit^2, with source noise; `psf` (k, k), odd, unit sum; `sigma`, unit, RMS of the blank
    sky; `flux` = F, the image's flux scale; `astrometry` = (sigma_x, sigma_y), px, this image's share of the registration
    scatter; `photometry`, its share of the relative scatter of the stars' fluxes.
    """

    data: FloatImage
    variance: FloatImage
    psf: FloatImage
    sigma: float
    flux: float = 1.0
    astrometry: tuple[float, float] = (0.0, 0.0)
    photometry: float = 0.0


@dataclass(frozen=True, eq=False)
class Subtraction:
    """What a proper subtraction yields; planes are float32 (ny, nx)."""

    difference: FloatImage  # D, equation 13; white noise of unit variance where the inputs' noise is white
    flux_difference: float  # F_D, equation 15
    flux_score: float  # F_S, what a source of unit flux leaves in S
    psf: FloatImage  # P_D, equation 14; odd stamp of unit sum
    score: FloatImage  # S_corr, equation 25
    flux: FloatImage  # alpha = S / F_S, the PSF flux
    flux_error: FloatImage  # sqrt(V(S)) / F_S
    snr_science: FloatImage  # |S_n| / sqrt(its blank-sky variance): how bright the scene is, for telling blank sky
    variance_ratio: FloatImage  # V(S) over its blank-sky value


@dataclass(frozen=True, eq=False)
class Kernels:
    """Transforms on the padded grid, half plane, with the constants that belong to them."""

    shape: tuple[int, int]  # px, padded
    difference_n: Hat  # N's factor in D^
    difference_r: Hat  # R's factor in D^
    score_n: Hat  # k_n^
    score_r: Hat  # k_r^
    square_n: Hat  # transform of k_n^2
    square_r: Hat
    flux_score: float  # F_S
    flux_difference: float  # F_D
    blank_n: float  # sum of k_n^2
    blank_r: float
    psf: FloatImage  # P_D


class _Transform:
    """Planned real transforms of one shape, with their buffers."""

    def __init__(self, shape: tuple[int, int]) -> None:
        import pyfftw

        self.shape = shape
        self.spectrum_shape = (shape[0], shape[1] // 2 + 1)
        self._real = pyfftw.zeros_aligned(shape, dtype="float32")
        self._hat = pyfftw.zeros_aligned(self.spectrum_shape, dtype="complex64")
        flags = ("FFTW_ESTIMATE", "FFTW_DESTROY_INPUT")
        self._forward = pyfftw.FFTW(self._real, self._hat, axes=(0, 1), direction="FFTW_FORWARD", flags=flags, threads=1)
        self._inverse = pyfftw.FFTW(self._hat, self._real, axes=(0, 1), direction="FFTW_BACKWARD", flags=flags, threads=1)

    def forward(self, image: FloatImage, fill: float) -> Hat:
        """Transform of an image padded with `fill`."""
        self._real[:] = fill
        self._real[: image.shape[0], : image.shape[1]] = image
        self._forward.execute()
        return np.array(self._hat)

    def inverse(self, hat: Hat, shape: tuple[int, int]) -> FloatImage:
        """Inverse transform, cropped to `shape`."""
        self._hat[:] = hat
        self._inverse.execute()
        scale = np.float32(1.0 / (self.shape[0] * self.shape[1]))
        return np.asarray(self._real[: shape[0], : shape[1]] * scale)


_LOCK = threading.Lock()


@lru_cache(maxsize=2)
def _transform(shape: tuple[int, int]) -> _Transform:
    return _Transform(shape)


def padded_shape(shape: tuple[int, int], reach: int) -> tuple[int, int]:
    """The least fast transform lengths that keep `reach` px of padding."""
    import pyfftw

    def fast(length: int) -> int:
        good = int(pyfftw.next_fast_len(length + reach))
        while good % 2:
            good = int(pyfftw.next_fast_len(good + 1))
        return good

    return fast(shape[0]), fast(shape[1])


def stamp_transform(stamp: NDArray[Any], shape: tuple[int, int]) -> NDArray[np.complex64]:
    """Half-plane transform of a centred odd stamp padded to `shape`, as two small matrix products. (ny, nx // 2 + 1) complex64."""
    left, right = _factors(stamp, shape)
    return np.asarray(left @ right)


def _factors(stamp: NDArray[Any], shape: tuple[int, int]) -> tuple[Hat, Hat]:
    """Two matrices, (ny, k) and (k, nx // 2 + 1), whose product is the stamp's transform."""
    half_y, half_x = (stamp.shape[0] - 1) // 2, (stamp.shape[1] - 1) // 2
    fy = np.arange(shape[0])[:, None] * np.arange(-half_y, half_y + 1)[None, :] % shape[0]
    fx = np.arange(-half_x, half_x + 1)[:, None] * np.arange(shape[1] // 2 + 1)[None, :] % shape[1]
    left = (_turns(shape[0])[fy] @ stamp.astype(np.complex128)).astype(np.complex64)
    return left, _turns(shape[1])[fx].astype(np.complex64)


def _turns(length: int) -> NDArray[np.complex128]:
    """exp(-2 pi i k / length) for k = 0 to length - 1."""
    return np.asarray(np.exp(-2j * np.pi / length * np.arange(length)))


def subtract(new: Side, ref: Side, kernels: Kernels | None = None) -> Subtraction:
    """Subtract `ref` from `new`; `kernels` of an earlier pair of the same shape, PSFs, noise and flux scales may be given again.

    D^ = (F_r P_r^ N^ - F_n P_n^ R^) / sqrt(sigma_n^2 F_r^2 |P_r^|^2 + sigma_r^2 F_n^2 |P_n^|^2)   (13)
    F_D = F_r F_n / sqrt(sigma_n^2 F_r^2 + sigma_r^2 F_n^2)                                          (15)
    P_D^ = F_r F_n P_r^ P_n^ / (F_D sqrt(...))                                                       (14)
    S^ = F_D D^ conj(P_D^) = k_n^ N^ - k_r^ R^                                                       (12 and 17)
    V(S) = V(N) * k_n^2 + V(R) * k_r^2 + V_ast + V_phot
    S_corr = S / sqrt(V(S))                                                                          (25)
    alpha = S / F_S, F_S = sum F_n^2 F_r^2 |P_n^|^2 |P_r^|^2 / (...)

    The numbers are those of the equations in arXiv:1601.02655; V(S) and alpha follow its sections on source and astrometric noise
    and on PSF photometry. V_ast = sigma_x^2 (dS_n/dx)^2 + sigma_y^2 (dS_n/dy)^2 + the same for S_r; V_phot, of AstrID's own, is the
    square of the relative flux scatter times S_n^2, plus the same for S_r. Each image brings its own share of the relative scatter.

    Raises
    ------
    ImagingError
        When shapes differ, a plane is not finite, or a noise level is not positive.
    """
    _check(new, ref)
    shape = (int(new.data.shape[0]), int(new.data.shape[1]))
    with _LOCK:
        kernels = kernels_for(new, ref) if kernels is None else kernels
        transform = _transform(kernels.shape)
        hat_n, hat_r = transform.forward(new.data, 0.0), transform.forward(ref.data, 0.0)
        difference = transform.inverse(kernels.difference_n * hat_n - kernels.difference_r * hat_r, shape)
        np.multiply(hat_n, kernels.score_n, out=hat_n)
        score_n = transform.inverse(hat_n, shape)
        np.multiply(hat_r, kernels.score_r, out=hat_r)
        score_r = transform.inverse(hat_r, shape)
        hat_v = transform.forward(new.variance, new.sigma**2)
        hat_v *= kernels.square_n
        hat_w = transform.forward(ref.variance, ref.sigma**2)
        hat_w *= kernels.square_r
        hat_v += hat_w
        variance = transform.inverse(hat_v, shape)
    return _assemble(new, ref, kernels, difference, score_n, score_r, variance)


def _assemble(
    new: Side, ref: Side, kernels: Kernels, difference: FloatImage, score_n: FloatImage, score_r: FloatImage, variance: FloatImage
) -> Subtraction:
    """Score, flux and errors from S_n, S_r and V(S), in blocks of rows that stay in the cache; the planes are overwritten."""
    blank_n = new.sigma**2 * kernels.blank_n
    blank = blank_n + ref.sigma**2 * kernels.blank_r
    scale = np.float32(1.0 / kernels.flux_score)
    score, flux, error, ratio = (np.empty_like(variance) for _ in range(4))
    for start in range(0, len(variance), _ROWS):
        rows = slice(start, start + _ROWS)
        block = np.maximum(variance[rows], np.float32(_LEAST_VARIANCE * blank))
        _add_model_variance(block, score_n, start, new)
        _add_model_variance(block, score_r, start, ref)
        np.multiply(block, np.float32(1.0 / blank), out=ratio[rows])
        root = np.sqrt(block, out=block)
        raw = score_n[rows] - score_r[rows]
        np.divide(raw, root, out=score[rows])
        np.multiply(raw, scale, out=flux[rows])
        np.multiply(root, scale, out=error[rows])
    np.abs(score_n, out=score_n)
    score_n *= np.float32(1.0 / np.sqrt(blank_n))
    return Subtraction(
        difference=difference,
        flux_difference=kernels.flux_difference,
        flux_score=kernels.flux_score,
        psf=kernels.psf,
        score=score,
        flux=flux,
        flux_error=error,
        snr_science=score_n,
        variance_ratio=ratio,
    )


def shift_level(result: Subtraction, level: float) -> Subtraction:
    """Take a constant off the background of D (in its own unit), and what follows from it off the score and the flux.

    A constant passes the matched filter as F_D times itself, since P_D has unit sum.
    """
    score_level = np.float32(result.flux_difference * level / result.flux_score)
    return dataclasses.replace(
        result,
        difference=result.difference - np.float32(level),
        score=result.score - score_level / result.flux_error,
        flux=result.flux - score_level,
    )


def _add_model_variance(block: FloatImage, score: FloatImage, start: int, side: Side) -> None:
    """Add the astrometric term and the photometric one to rows `start` and on of V(S), in place."""
    sigma_x, sigma_y = (np.float32(sigma) for sigma in side.astrometry)
    stop = start + len(block)
    here = score[start:stop]
    if sigma_x > 0:
        slope = _slope(here.T).T
        slope *= sigma_x
        block += np.square(slope, out=slope)
    if sigma_y > 0:
        low, high = max(start - 1, 0), min(stop + 1, len(score))
        slope = _slope(score[low:high])[start - low : stop - low]
        slope *= sigma_y
        block += np.square(slope, out=slope)
    if side.photometry > 0:
        block += np.square(np.float32(side.photometry) * here)


def _slope(plane: FloatImage) -> FloatImage:
    """Central differences along the first axis, one-sided in the first and the last row."""
    out = np.empty_like(plane)
    np.subtract(plane[2:], plane[:-2], out=out[1:-1])
    out[1:-1] *= np.float32(0.5)
    out[0] = plane[1] - plane[0]
    out[-1] = plane[-1] - plane[-2]
    return out


def kernels_for(new: Side, ref: Side) -> Kernels:
    """The kernels that `subtract` needs for this pair: they hang on the shape, the PSFs, the sky's noise and the flux scales alone."""
    shape = (int(new.data.shape[0]), int(new.data.shape[1]))
    return _kernels(new, ref, padded_shape(shape, max(new.psf.shape[0], ref.psf.shape[0])))


def _kernels(new: Side, ref: Side, shape: tuple[int, int]) -> Kernels:
    """Transforms of every kernel on the padded grid, with F_S, F_D and P_D; in blocks of rows that stay in the cache."""
    noise_n, noise_r = (new.sigma * ref.flux) ** 2, (ref.sigma * new.flux) ** 2
    (left_n, right_n), (left_r, right_r) = (_factors(side.psf * np.float32(side.flux), shape) for side in (new, ref))
    width = shape[1] // 2 + 1
    difference_n, difference_r, score_n, score_r = (np.empty((shape[0], width), np.complex64) for _ in range(4))
    tiny = np.float32(_TINY * (noise_n + noise_r))
    sums = np.zeros((3, width))
    for start in range(0, shape[0], _ROWS):
        rows = slice(start, start + _ROWS)
        hat_n, hat_r = left_n[rows] @ right_n, left_r[rows] @ right_r  # F_n P_n^, F_r P_r^
        power_n, power_r = _power(hat_n), _power(hat_r)
        inverse = np.float32(new.sigma**2) * power_r + np.float32(ref.sigma**2) * power_n
        inverse += tiny
        np.reciprocal(inverse, out=inverse)
        root = np.sqrt(inverse)
        np.multiply(hat_r, root, out=difference_n[rows])
        np.multiply(hat_n, root, out=difference_r[rows])
        both = power_n * power_r * inverse
        power_n *= inverse
        power_r *= inverse
        np.multiply(np.conj(hat_n, out=hat_n), power_r, out=score_n[rows])
        np.multiply(np.conj(hat_r, out=hat_r), power_n, out=score_r[rows])
        sums += [plane.sum(axis=0, dtype=np.float64) for plane in (both, both * power_r, both * power_n)]
    weights = np.full(width, 2.0)  # of the half plane's columns in a sum over the whole
    weights[0] = weights[-1] = 1.0
    flux_score, blank_n, blank_r = (float(total) for total in sums @ weights / (shape[0] * shape[1]))
    flux_difference = ref.flux * new.flux / float(np.sqrt(noise_n + noise_r))
    squares, psf = _compact(new, ref, flux_difference)
    return Kernels(
        shape=shape,
        difference_n=difference_n,
        difference_r=difference_r,
        score_n=score_n,
        score_r=score_r,
        square_n=stamp_transform(squares[0] * (blank_n / squares[0].sum()), shape),
        square_r=stamp_transform(squares[1] * (blank_r / squares[1].sum()), shape),
        flux_score=flux_score,
        flux_difference=flux_difference,
        blank_n=blank_n,
        blank_r=blank_r,
        psf=psf,
    )


def _power(hat: Hat) -> NDArray[np.float32]:
    return np.asarray(hat.real * hat.real + hat.imag * hat.imag)


def score_weight(new: Side, ref: Side, side: int) -> NDArray[np.float64]:
    """|k_r^|^2 on a (side, side) grid of frequencies: where in frequency the score looks at the reference's noise."""
    hat_n, hat_r, square = _small(new, ref, side)
    return np.asarray(np.abs(new.flux**2 * ref.flux * np.conj(hat_r) * np.abs(hat_n) ** 2 / square) ** 2)


def _small(new: Side, ref: Side, side: int) -> tuple[NDArray[np.complex128], NDArray[np.complex128], NDArray[np.float64]]:
    """P_n^, P_r^ and the square of the denominator on a small full-plane grid."""
    hats = []
    for stamp in (new.psf, ref.psf):
        half = min((stamp.shape[0] - 1) // 2, (side - 1) // 2)
        middle = (stamp.shape[0] - 1) // 2
        core = stamp[middle - half : middle + half + 1, middle - half : middle + half + 1].astype(np.float64)
        plane = np.zeros((side, side))
        plane[: 2 * half + 1, : 2 * half + 1] = core
        hats.append(np.fft.fft2(np.roll(plane, (-half, -half), axis=(0, 1))))
    square = (new.sigma * ref.flux) ** 2 * np.abs(hats[1]) ** 2 + (ref.sigma * new.flux) ** 2 * np.abs(hats[0]) ** 2
    return hats[0], hats[1], square + _TINY * square.max()


def _compact(new: Side, ref: Side, flux_difference: float) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], FloatImage]:
    """k_n^2, k_r^2 and P_D as odd stamps, made on a grid of twice the PSFs' size."""
    stamp = max(new.psf.shape[0], ref.psf.shape[0])
    side = 2 * stamp + 2
    hat_n, hat_r, square = _small(new, ref, side)
    kernel_n = new.flux * ref.flux**2 * np.conj(hat_n) * np.abs(hat_r) ** 2 / square
    kernel_r = new.flux**2 * ref.flux * np.conj(hat_r) * np.abs(hat_n) ** 2 / square
    psf_hat = new.flux * ref.flux * hat_n * hat_r / (flux_difference * np.sqrt(square))
    middle, half = side // 2, (stamp - 1) // 2

    def centred(hat: NDArray[np.complex128]) -> NDArray[np.float64]:
        plane = np.fft.fftshift(np.fft.ifft2(hat).real)
        return np.asarray(plane[middle - half : middle + half + 1, middle - half : middle + half + 1])

    psf = centred(psf_hat)
    return (centred(kernel_n) ** 2, centred(kernel_r) ** 2), (psf / psf.sum()).astype(np.float32)


def _check(new: Side, ref: Side) -> None:
    shapes = {new.data.shape, new.variance.shape, ref.data.shape, ref.variance.shape}
    if len(shapes) != 1:
        raise ImagingError(f"the planes of a pair have the shapes {sorted(shapes)}; bring them onto one grid first.")
    for name, side in (("science", new), ("reference", ref)):
        if not (side.sigma > 0 and side.flux > 0 and np.isfinite(side.sigma) and np.isfinite(side.flux)):
            raise ImagingError(f"the {name} has noise {side.sigma} and flux scale {side.flux}; both must be positive and finite.")
        if not (np.isfinite(side.data).all() and np.isfinite(side.variance).all()):
            raise ImagingError(f"the {name} holds pixels that are not finite; fill them before the transform.")

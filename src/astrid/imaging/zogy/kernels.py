"""The kernels of the proper subtraction: what they are made of, and the numbers that belong to them.

Zackay, Ofek & Gal-Yam 2016 (ZOGY, ApJ 830, 27; arXiv:1601.02655).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid.core.errors import ImagingError
from astrid.core.records import FloatImage
from astrid.imaging.zogy.transforms import Hat, workspace

Scatter = float | FloatImage

FLOOR = 1e-3  # of a PSF's transform at frequency 0: where neither PSF reaches it, both count as equal
TAPER = 8  # px beyond the larger PSF stamp that the kernels reach, to 1e-4 of their norm
KEPT = 2  # pairs of PSFs, noise and flux scales whose kernels are kept
_RECIPES = 64  # recipes that are kept: they are small
_ROWS = 64  # rows worked on at once: a block of every plane in use stays in the processor's cache


@dataclass(frozen=True, eq=False)
class Side:
    """One image of the pair, sky-subtracted and finite everywhere, on the common grid.

    `data` (ny, nx); `variance` (ny, nx), unit^2, with source noise, not clipped; `psf` (k, k), odd, unit sum; `sigma`, unit, RMS of
    the blank sky; `flux` = F, the image's flux scale; `astrometry` = (sigma_x, sigma_y), px, this image's share of the registration
    scatter, numbers or planes over the pixels that are asked for; `photometry`, its share of the relative scatter of the stars'
    fluxes.
    """

    data: FloatImage
    variance: FloatImage
    psf: FloatImage
    sigma: float
    flux: float = 1.0
    astrometry: tuple[Scatter, Scatter] = (0.0, 0.0)
    photometry: float = 0.0


@dataclass(frozen=True, eq=False)
class Recipe:
    """The numbers and small stamps of a pair's kernels; they hang on the PSFs, the sky's noise and the flux scales alone."""

    flux_score: float  # F_S, what a source of unit flux leaves in S
    flux_difference: float  # F_D, equation 15
    blank_n: float  # sum of k_n^2
    blank_r: float
    square_n: FloatImage  # k_n^2 / F_S^2 as an odd stamp
    square_r: FloatImage
    psf: FloatImage  # P_D, equation 14; odd stamp of unit sum


@dataclass(frozen=True, eq=False)
class Kernels:
    """Transforms on the half plane of one shape, with everything that scales what they give folded in."""

    shape: tuple[int, int]  # px, of the arrays that are transformed
    difference_n: Hat  # N's factor in D^
    difference_r: Hat  # R's factor in D^
    score_n: Hat  # k_n^ / F_S
    score_r: Hat  # k_r^ / F_S
    square_n: Hat  # transform of k_n^2 / F_S^2
    square_r: Hat
    recipe: Recipe


def reach(*stamps: FloatImage) -> int:
    """How far the kernels of a pair reach, px: beyond it lies less than 1e-4 of their norm (a few 1e-4 where a PSF is 6 px wide)."""
    return max(int(stamp.shape[0]) for stamp in stamps) // 2 + TAPER


@dataclass(frozen=True)
class Optics:
    """What kernels hang on, hashable: the PSF stamps as bytes with their sides, the noise and the flux scales of N and R."""

    stamps: tuple[bytes, bytes]
    sides: tuple[int, int]
    sigmas: tuple[float, float]
    fluxes: tuple[float, float]

    def psf(self, index: int) -> FloatImage:
        """The PSF stamp of N (0) or R (1)."""
        side = self.sides[index]
        return np.frombuffer(self.stamps[index], np.float32).reshape(side, side)


def optics_of(new: Side, ref: Side) -> Optics:
    """What the kernels of a pair hang on."""
    stamps = [np.ascontiguousarray(side.psf, np.float32).tobytes() for side in (new, ref)]
    return Optics(
        (stamps[0], stamps[1]),
        (new.psf.shape[0], ref.psf.shape[0]),
        (float(new.sigma), float(ref.sigma)),
        (float(new.flux), float(ref.flux)),
    )


def tile_kernels(new: Side, ref: Side, shape: tuple[int, int]) -> Kernels:
    """The kernels of a pair for arrays of one shape; those of the last pairs are kept, and found by what they hang on.

    Raises
    ------
    ImagingError
        When a PSF stamp is larger than the arrays.
    """
    if max(new.psf.shape[0], ref.psf.shape[0]) > min(shape):
        raise ImagingError(f"PSF stamps of {new.psf.shape} and {ref.psf.shape} px do not fit into arrays of {shape} px; use larger tiles.")
    return _kernels(optics_of(new, ref), shape)


@lru_cache(maxsize=KEPT)
def _kernels(optics: Optics, shape: tuple[int, int]) -> Kernels:
    """Transforms of every kernel, with 1 / (ny nx) and 1 / F_S folded in; in blocks of rows that stay in the cache."""
    recipe, space = recipe_for(optics), workspace(shape)
    (sigma_n, sigma_r), (flux_n, flux_r) = optics.sigmas, optics.fluxes
    norm = 1.0 / (shape[0] * shape[1])
    stamps = (optics.psf(0), optics.psf(1), recipe.square_n * np.float32(norm), recipe.square_r * np.float32(norm))
    difference_r, difference_n, square_n, square_r = (
        space.forward(wrapped(stamp, shape, space.staging[0]), space.new_hat(), space.staging[0]) for stamp in stamps
    )
    score_n, score_r = np.empty_like(difference_n), np.empty_like(difference_r)
    noise_n, noise_r = (sigma_n * flux_r) ** 2, (sigma_r * flux_n) ** 2
    unit = noise_n + noise_r  # kept out of the planes, whose range is that of float32
    scale = flux_n * flux_r * norm / recipe.flux_score / unit
    for start in range(0, shape[0], _ROWS):
        rows = slice(start, start + _ROWS)
        hat_n, hat_r = difference_r[rows], difference_n[rows]  # P_n^ and P_r^, until they are overwritten
        floor = power(hat_n)
        floor += power(hat_r)
        floor += np.float32(FLOOR**2)
        np.divide(np.float32(FLOOR**3), floor, out=floor)
        hat_n += floor
        hat_r += floor
        power_n, power_r = power(hat_n), power(hat_r)
        inverse = np.float32(noise_n / unit) * power_r + np.float32(noise_r / unit) * power_n
        np.reciprocal(inverse, out=inverse)
        root = np.sqrt(inverse)
        root *= np.float32(norm / np.sqrt(unit))
        inverse *= np.float32(scale)
        power_r *= inverse
        power_r *= np.float32(flux_r)
        power_n *= inverse
        power_n *= np.float32(flux_n)
        np.multiply(np.conj(hat_n), power_r, out=score_n[rows])
        np.multiply(np.conj(hat_r), power_n, out=score_r[rows])
        hat_n *= root * np.float32(flux_n)
        hat_r *= root * np.float32(flux_r)
    return Kernels(shape, difference_n, difference_r, score_n, score_r, square_n, square_r, recipe)


def power(hat: NDArray[Any]) -> NDArray[Any]:
    """|hat|^2, in the precision of `hat`."""
    out: NDArray[Any] = np.square(hat.real)
    out += np.square(hat.imag)
    return out


@lru_cache(maxsize=_RECIPES)
def recipe_for(optics: Optics) -> Recipe:
    """The numbers of a pair's kernels, in float64 on a grid of twice the PSFs' size."""
    stamp = max(optics.sides)
    side = 2 * stamp + 2
    (sigma_n, sigma_r), (flux_n, flux_r) = optics.sigmas, optics.fluxes
    true_n, hat_n, hat_r, square = _small(optics, side)
    kernel_n = flux_n * flux_r**2 * np.conj(hat_n) * power(hat_r) / square
    kernel_r = flux_n**2 * flux_r * np.conj(hat_r) * power(hat_n) / square
    flux_difference = flux_n * flux_r / float(np.hypot(sigma_n * flux_r, sigma_r * flux_n))
    psf = _centred(flux_n * flux_r * true_n * hat_r / (flux_difference * np.sqrt(square)), side, stamp)
    flux_score = _mean((kernel_n * true_n).real * flux_n)
    blank_n, blank_r = _mean(power(kernel_n)), _mean(power(kernel_r))
    squares = []
    for kernel, blank in ((kernel_n, blank_n), (kernel_r, blank_r)):
        compact = _centred(kernel, side, stamp) ** 2
        squares.append((compact * (blank / compact.sum() / flux_score**2)).astype(np.float32))
    return Recipe(flux_score, flux_difference, blank_n, blank_r, squares[0], squares[1], (psf / psf.sum()).astype(np.float32))


def score_weight(new: Side, ref: Side, side: int) -> NDArray[np.float64]:
    """|k_r^|^2 on a (side, side) grid of frequencies, side even: where in frequency the score looks at the reference's noise."""
    _, hat_n, hat_r, square = _small(optics_of(new, ref), side)
    half = power(hat_r) * (new.flux**2 * ref.flux * power(hat_n) / square) ** 2
    mirror = -np.arange(side) % side
    return np.concatenate([half, half[mirror, 1 : side // 2][:, ::-1]], axis=1)


_Small = tuple[NDArray[np.complex128], NDArray[np.complex128], NDArray[np.complex128], NDArray[np.float64]]


def _small(optics: Optics, side: int) -> _Small:
    """P_n^ as it is, P_n^ and P_r^ with the floor, and the square of the denominator, on a small half plane."""
    true_n, true_r = (np.fft.rfft2(wrapped(_crop(optics.psf(index), side), (side, side))) for index in (0, 1))
    floor = FLOOR**3 / (FLOOR**2 + power(true_n) + power(true_r))
    hat_n, hat_r = true_n + floor, true_r + floor
    (sigma_n, sigma_r), (flux_n, flux_r) = optics.sigmas, optics.fluxes
    return true_n, hat_n, hat_r, (sigma_n * flux_r) ** 2 * power(hat_r) + (sigma_r * flux_n) ** 2 * power(hat_n)


def _crop(stamp: FloatImage, side: int) -> NDArray[np.float64]:
    middle, half = stamp.shape[0] // 2, min(stamp.shape[0] // 2, (side - 1) // 2)
    window = slice(middle - half, middle + half + 1)
    return stamp[window, window].astype(np.float64)


def wrapped(stamp: NDArray[Any], shape: tuple[int, int], out: NDArray[Any] | None = None) -> NDArray[Any]:
    """A centred odd stamp on a plane of zeros, with its centre at pixel (0, 0) and wrapped around."""
    plane = np.zeros(shape, stamp.dtype) if out is None else out
    if out is not None:
        plane[...] = 0
    half_y, half_x = stamp.shape[0] // 2, stamp.shape[1] // 2
    plane[: half_y + 1, : half_x + 1] = stamp[half_y:, half_x:]
    plane[: half_y + 1, shape[1] - half_x :] = stamp[half_y:, :half_x]
    plane[shape[0] - half_y :, : half_x + 1] = stamp[:half_y, half_x:]
    plane[shape[0] - half_y :, shape[1] - half_x :] = stamp[:half_y, :half_x]
    return plane


def _centred(hat: NDArray[np.complex128], side: int, stamp: int) -> NDArray[np.float64]:
    """The inverse transform as a centred odd stamp."""
    plane = np.fft.fftshift(np.fft.irfft2(hat, (side, side)))
    window = slice(side // 2 - stamp // 2, side // 2 + stamp // 2 + 1)
    return np.asarray(plane[window, window])


def _mean(half: NDArray[np.float64]) -> float:
    """Mean over all frequencies of what a half plane of an even side holds."""
    columns = half.sum(axis=0)
    return float((columns[0] + columns[-1] + 2.0 * columns[1:-1].sum()) / half.shape[0] ** 2)

"""What the effects on triplets are made of: planes, white noise, weights of the centre, matrices that shift and blur a line of pixels."""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from astrid.core.runtime import rng_for
from astrid.datasets.normalize import STAMP_SHAPE

Stamps = NDArray[np.float32]
Rows = NDArray[np.intp]

SIDE = STAMP_SHAPE[1]
CENTRE = SIDE // 2
INNER = slice(CENTRE - 9, CENTRE + 10)  # px where the weight of the centre is above 1e-8
WIDE = slice(CENTRE - 14, CENTRE + 15)  # the same after the largest blur
STEPS = 32  # of a sub-pixel shift, a pixel
WIDTHS = 16  # of a blur, from none to the largest

_CORE = 1.5  # px, sigma of the Gaussian weight of the centre
_HALF_WIDTH = 14  # px, of the interpolation kernel
_SHAPE = 5.0  # of its Kaiser window
_NORMALS = 2**20  # numbers in the table of white noise: 4 MB
_FIELD = 512  # px, side of the periodic fields of the noise that each width of a blur takes: 21 MB


def planes(angle: NDArray[np.float64], slope: NDArray[np.float64]) -> Stamps:
    """The slope times the distance in px from the centre along each angle: (k, 3969)."""
    return np.asarray(np.stack([slope * np.sin(angle), slope * np.cos(angle)], axis=1).astype(np.float32) @ _places())


@cache
def _places() -> Stamps:
    """Place of every pixel in px down and to the right of the centre, (2, 3969)."""
    return (np.indices((SIDE, SIDE), dtype=np.float32) - CENTRE).reshape(2, -1)


def white(strength: Stamps, starts: Rows) -> Stamps:
    """White Gaussian noise of the strengths (k,), (k, 3969), cut out of a fixed table at `starts`, drawn anew each time.

    Within an image all numbers are independent. Two images share some of theirs, displaced, in 1 of 130 cases, and a billion
    triplets see the same million numbers in ever other places: right for augmentation, wrong for measuring tails beyond 5
    sigma. A number costs a hundredth of a drawn one.
    """
    normals = _normals()
    drawn = np.empty((len(strength), SIDE * SIDE), dtype=np.float32)
    for out, start, one in zip(drawn, starts.tolist(), strength, strict=True):
        np.multiply(normals[start : start + SIDE * SIDE], one, out=out)
    return drawn


def places_of_white(count: int, rng: np.random.Generator) -> Rows:
    """Where `white` is to begin in its table, (count,)."""
    return rng.integers(_NORMALS - SIDE * SIDE + 1, size=count)


@cache
def _normals() -> Stamps:
    return rng_for(0, "learning", "effects", "normals").standard_normal(_NORMALS, dtype=np.float32)


def centred(inner: Stamps) -> Stamps:
    """Flux (k,) of the inner parts of images, (k, 19, 19), within the Gaussian of the centre."""
    flux: Stamps = np.einsum("kyx,yx->k", inner, inner_weight())
    return flux


@cache
def inner_weight() -> Stamps:
    """The Gaussian of the centre, (19, 19), of the part INNER."""
    along = _centre_weight()[INNER]
    return np.outer(along, along).astype(np.float32)


def _centre_weight() -> NDArray[np.float64]:
    weight: NDArray[np.float64] = np.exp(-((np.arange(SIDE) - CENTRE) ** 2) / (2 * _CORE**2))
    return weight


def _sigmas(largest: float) -> NDArray[np.float64]:
    return np.linspace(0, largest, WIDTHS + 1)


@lru_cache(maxsize=4)
def gaussians(largest: float) -> tuple[Stamps, Stamps]:
    """Matrices that blur a mirrored line of 63 px, (17, 63, 63), and the weight of the centre blurred by each, (17, 29).

    Products in the space of the cosines of a mirrored line (DCT-II), so that every width has the transfer function of its Gaussian.
    """
    number = np.arange(SIDE)
    cosines = np.sqrt(2 / SIDE) * np.cos(np.pi * number[:, None] * (number + 0.5) / SIDE)
    cosines[0] /= np.sqrt(2)
    transfer = np.exp(-((_sigmas(largest)[:, None] * np.pi * number / SIDE) ** 2) / 2)
    matrices = cosines.T @ (transfer[:, :, None] * cosines)
    return matrices.astype(np.float32), (matrices @ _centre_weight())[:, WIDE].astype(np.float32)


def places_of_lost(count: int, rng: np.random.Generator) -> Rows:
    """Where images are to be cut out of a field of `lost_noise`, (count, 2): first row and column."""
    return rng.integers(_FIELD, size=(count, 2))


@lru_cache(maxsize=4)
def lost_noise(largest: float) -> Stamps:
    """For each width of a blur, noise with the power 1 - K^2 that the blur K takes of white noise: (17, 574, 574), periodic by 512 px.

    Two images cut out of it share some of their numbers, displaced, in 1 of 17 cases.
    """
    flat = np.fft.rfft2(rng_for(0, "learning", "effects", "lost noise").standard_normal((_FIELD, _FIELD)))
    down, right = 2 * np.pi * np.fft.fftfreq(_FIELD)[:, None], 2 * np.pi * np.fft.rfftfreq(_FIELD)
    out = np.empty((WIDTHS + 1, _FIELD + SIDE - 1, _FIELD + SIDE - 1), dtype=np.float32)
    for field, sigma in zip(out, _sigmas(largest), strict=True):
        lost = np.fft.irfft2(flat * np.sqrt(-np.expm1(-(sigma**2) * (down**2 + right**2))), s=(_FIELD, _FIELD))
        field[:] = np.pad(lost, (0, SIDE - 1), mode="wrap")
    return out


@cache
def interpolation() -> Stamps:
    """Matrices that shift a mirrored line of 63 px by -1 to 1 px in steps of 1/32: (65, 63, 63)."""
    shifts = np.arange(-STEPS, STEPS + 1) / STEPS
    at = np.arange(SIDE)
    inside = at[:, None] - at  # output minus input pixel; beyond the first and the last pixel the line is mirrored
    images = (inside, at[:, None] + at + 1, at[:, None] + at + 1 - 2 * SIDE)
    matrices = np.sum([_windowed_sinc(image - shifts[:, None, None]) for image in images], axis=0)
    unit: Stamps = (matrices / matrices.sum(axis=2, keepdims=True)).astype(np.float32)
    return unit


def _windowed_sinc(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = np.clip(1 - (distance / (_HALF_WIDTH + 1)) ** 2, 0, None)
    return np.sinc(distance) * np.where(inside > 0, np.i0(_SHAPE * np.sqrt(inside)) / np.i0(_SHAPE), 0)

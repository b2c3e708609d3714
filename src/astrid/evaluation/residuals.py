"""What a subtraction left: the score of the blank sky, and at bright stars the flux and the shift that remain.

Everything is read from the product through windows of rows, so that an image of any size takes a bounded amount of memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrid.core.dq import unusable
from astrid.core.records import Difference, FloatImage, Psf

Floats = NDArray[np.float64]

MAD = 1.4826  # median absolute deviation -> sigma of a Gaussian
_WINDOW = 1 << 22  # px that are looked at together
_MOST_WINDOWS = 8  # of a large image, evenly spaced
_BLANK_VARIANCE = 1.1  # the flux error's square, over that of the sky
_SOURCE = 5.0  # sigma of the smoothed scene, above which there is a source
_PEAK = 12.0  # sigma of the sky, a star's brightest pixel at least
_MOST_STARS = 250
_CORE = 1.5  # FWHM, half the side of the box that is fitted
_SHAPE = 0.2  # RMS of what the PSF does not explain, over what it does: above this it is no star
_NOISY = 1.5  # sigma of the sky, which a faint star's RMS may reach beside that
_SHIFT = 1.0  # px, a peak's star lies within this

STAR = np.dtype([(name, "f8") for name in ("x", "y", "flux", "snr", "left", "score", "dx", "dy", "error")])


@dataclass(frozen=True, eq=False)
class BlankScore:
    """The score on blank sky as a histogram."""

    edges: Floats  # (n + 1,), sigma
    counts: NDArray[np.int64]  # (n,)
    mean: float  # median
    width: float  # robust sigma; NaN without blank sky
    pixels: int


def level_and_noise(plane: NDArray[Any]) -> tuple[float, float]:
    """Median and robust sigma of the finite pixels; (0, 1) where there is none or no spread."""
    values = plane[np.isfinite(plane)]
    if not values.size:
        return 0.0, 1.0
    level = float(np.median(values))
    return level, float(MAD * np.median(np.abs(values - level))) or 1.0


def windows(shape: tuple[int, int], margin: int) -> Iterator[tuple[slice, slice]]:
    """(rows to read, rows of them that count) over an image, all of it or evenly spaced parts of a large one."""
    ny, nx = shape
    height = max(1, min(ny, _WINDOW // nx))
    starts = range(0, ny, height)
    for start in starts[:: max(1, -(-len(starts) // _MOST_WINDOWS))]:
        stop = min(ny, start + height)
        first = max(0, start - margin)
        yield slice(first, min(ny, stop + margin)), slice(start - first, stop - first)


def blank_score(product: Difference, *, limit: float = 8.0, bins: int = 96) -> BlankScore:
    """Histogram of S_corr where neither image shows a source and no mask lies: N(0, 1) when the noise model is right."""
    fwhm = max(_width(product.psf_science), _width(product.psf_reference))
    edges = np.linspace(-limit, limit, bins + 1)
    counts = np.zeros(bins, np.int64)
    sample: list[FloatImage] = []
    for rows, inner in windows(product.score.shape, round(2 * fwhm)):
        score = product.score[rows, :][inner]
        values = score[_blank(product, rows, fwhm)[inner]]
        counts += np.histogram(np.clip(values, -limit, np.nextafter(limit, 0)), edges)[0]
        sample.append(values[:: max(1, values.size // 400_000)])
    values = np.concatenate(sample) if sample else np.zeros(0, np.float32)
    if not values.size:
        return BlankScore(edges, counts, float("nan"), float("nan"), 0)
    level = float(np.median(values))
    return BlankScore(edges, counts, level, MAD * float(np.median(np.abs(values - level))), int(counts.sum()))


def _blank(product: Difference, rows: slice, fwhm: float) -> NDArray[np.bool_]:
    everything = slice(None)
    error = product.flux_err[rows, everything]
    blank = ~unusable(product.dq[rows, everything]) & np.isfinite(error)
    if product.truth is not None:
        blank &= ~ndimage.binary_dilation(product.truth[rows, everything] != 0, iterations=round(2 * fwhm))
    if not blank.any():
        return blank
    for plane in (product.science, product.reference):
        scene = np.nan_to_num(plane[rows, everything])
        smooth = ndimage.uniform_filter(scene, max(3, round(fwhm)))
        level, noise = level_and_noise(smooth[blank])
        blank &= ~ndimage.maximum_filter(smooth > level + _SOURCE * noise, size=2 * round(1.5 * fwhm) + 1)
    sky = float(np.median(error[blank])) if blank.any() else 0.0
    return np.asarray(blank & (error**2 <= _BLANK_VARIANCE * sky**2))


def bright_stars(product: Difference) -> NDArray[Any]:
    """What is left at the brightest stars, structured (n,) of `STAR`, the brightest first.

    `x`, `y` in px; `flux` in the unit of science; `snr`: that flux over the error of the difference's PSF flux there; `left`: the
    difference's PSF flux; `score`; `dx`, `dy`: the shift of science against reference in px that its difference shows, and its
    `error`. For a star moved by delta, D = -flux delta . grad P_D to first order (Zackay, Ofek & Gal-Yam 2016, eq. 13).
    """
    found = [row for x, y, noise in _peaks(product) if (row := _star(product, x, y, noise)) is not None]
    table = np.array(found, dtype=STAR)
    return table[np.argsort(-table["flux"], kind="stable")]


def _width(psf: Psf) -> float:
    """FWHM in px, from the stamp's effective area where it is not known."""
    return psf.fwhm if np.isfinite(psf.fwhm) else float(0.66 / np.sqrt(np.sum(np.square(psf.stamp, dtype=np.float64))))


def _peaks(product: Difference) -> list[tuple[int, int, float]]:
    """(x, y, noise of the sky) of the brightest local maxima of the science image, away from masks and known transients."""
    size = 2 * round(_width(product.psf_science)) + 1
    found: list[tuple[float, int, int, float]] = []
    for rows, inner in windows(product.science.shape, size):
        scene = np.nan_to_num(product.science[rows, :])
        bad = unusable(product.dq[rows, :])
        level, noise = level_and_noise(scene[~bad])
        top = (scene >= level + _PEAK * noise) & (scene == ndimage.maximum_filter(scene, size))
        top &= ~ndimage.binary_dilation(bad, iterations=2)
        if product.truth is not None:
            top &= ~ndimage.binary_dilation(product.truth[rows, :] != 0, iterations=size)
        ys, xs = np.nonzero(top[inner])
        values = scene[inner][ys, xs]
        first = rows.start + inner.start
        found += [(float(v), int(x), int(y) + first, noise) for v, x, y in zip(values, xs, ys, strict=True)]
    found.sort(reverse=True)
    return [(x, y, noise) for _, x, y, noise in found[:_MOST_STARS]]


def _star(product: Difference, x: int, y: int, sky_noise: float) -> tuple[float, ...] | None:
    half = max(2, round(_CORE * _width(product.psf_science)))
    ny, nx = product.science.shape
    if not (half <= x < nx - half and half <= y < ny - half):
        return None
    box = slice(y - half, y + half + 1), slice(x - half, x + half + 1)
    scene, left = np.asarray(product.science[box], np.float64), np.asarray(product.difference[box], np.float64)
    use = ~unusable(product.dq[box]) & np.isfinite(scene) & np.isfinite(left)
    error, psf = np.asarray(product.flux_err[box])[half, half], product.psf_difference.at(x, y)
    if use.mean() < 0.9 or not error > 0:
        return None
    place = _place(scene, use, product.psf_science.at(x, y), half, sky_noise)
    if place is None:
        return None
    flux, sx, sy = place
    model, slope_x, slope_y = _box(psf.stamp, sx, sy, half)
    basis = np.stack([model[use], -flux * slope_x[use], -flux * slope_y[use]], axis=1)
    normal = np.linalg.pinv(basis.T @ basis)
    _, dx, dy = normal @ (basis.T @ left[use])
    # What the PSF flux's error says of the pixels' noise: sigma(flux) = sigma(pixel) / sqrt(sum P_D^2).
    noise = error * np.sqrt(np.sum(np.square(psf.stamp, dtype=np.float64)))
    sigma = noise * np.sqrt((normal[1, 1] + normal[2, 2]) / 2)
    at = (slice(y, y + 1), slice(x, x + 1))
    score, remains = (float(np.asarray(plane[at])[0, 0]) for plane in (product.score, product.flux))
    return x + sx, y + sy, flux, flux / error, remains, score, dx, dy, sigma


def _place(scene: Floats, use: NDArray[np.bool_], psf: Psf, half: int, noise: float) -> tuple[float, float, float] | None:
    """(flux, x and y from the box's centre) of a star by a PSF fit with a constant beneath it; None for what is no star."""
    sx = sy = flux = 0.0
    model, unexplained = scene, float("inf")
    for _ in range(4):
        model, slope_x, slope_y = _box(psf.stamp, sx, sy, half)
        basis = np.stack([model[use], -slope_x[use], -slope_y[use], np.ones(int(use.sum()))], axis=1)
        answer, *_ = np.linalg.lstsq(basis, scene[use], rcond=None)
        flux = float(answer[0])
        if not flux > 0:
            return None
        unexplained = float(np.sqrt(np.mean((scene[use] - basis @ answer) ** 2)))
        sx, sy = sx + float(answer[1]) / flux, sy + float(answer[2]) / flux
        if max(abs(sx), abs(sy)) > _SHIFT:
            return None
    explained = flux * float(np.sqrt(np.mean(model[use] ** 2)))
    return (flux, sx, sy) if unexplained <= np.hypot(_SHAPE * explained, _NOISY * noise) else None


def _box(stamp: FloatImage, sx: float, sy: float, half: int) -> tuple[Floats, Floats, Floats]:
    """The PSF moved by (sx, sy) px and its slopes along x and y, cut or padded to (2 half + 1) px a side.

    By its Fourier transform: finite differences of a PSF of two px FWHM are a tenth too flat.
    """
    wide = np.pad(np.asarray(stamp, np.float64), max(1, half + 1 - stamp.shape[0] // 2))
    size = wide.shape[0]  # odd, so there is no Nyquist frequency
    ky = 2j * np.pi * np.fft.fftfreq(size)[:, None]
    kx = 2j * np.pi * np.fft.rfftfreq(size)
    moved = np.fft.rfft2(wide) * np.exp(-(kx * sx + ky * sy))
    cut = slice(size // 2 - half, size // 2 + half + 1)
    model, slope_x, slope_y = (np.fft.irfft2(moved * factor, s=wide.shape)[cut, cut] for factor in (1.0, kx, ky))
    return model, slope_x, slope_y

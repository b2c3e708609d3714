"""Peaks of the score: where |S_corr| passes the threshold, the local maxima of both signs, one a physical source.

S_corr decides what is detected. Its variance has source, astrometric and photometric terms that flatten it on bright sources,
so shapes and positions are taken from the linear matched filter T = FLUX / (median of FLUX_ERR), which is S_corr on blank sky:
a point source of S/N t leaves the profile t * A in it, A the autocorrelation of the difference's PSF (Zackay, Ofek & Gal-Yam
2016). What A explains of a peak belongs to its stronger neighbour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.ndimage import maximum_filter
from scipy.spatial import cKDTree

from astrid.candidates import finders
from astrid.candidates.planes import Pixels, bands, pick, sample, stamps, window
from astrid.config.schema.candidates import ExtractConfig
from astrid.core.dq import unusable
from astrid.core.records import Difference, FloatImage, Psf

FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))
_NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
_SADDLE_STEPS = np.linspace(0.0, 1.0, 13)[1:-1]  # samples of the line between two peaks, both left out
_CROWD = 10  # so many times max_candidates are compared pairwise; weaker ones of a broken image are dropped and counted


@dataclass(frozen=True, eq=False)
class Peaks:
    """Detections of one difference image, in raster order; every array has the shape (n,)."""

    x: NDArray[np.float64]  # px, sub-pixel
    y: NDArray[np.float64]  # px, sub-pixel
    ix: NDArray[np.int64]  # px, the peak's pixel
    iy: NDArray[np.int64]
    sign: NDArray[np.int64]  # +1 brightened, -1 faded
    snr: NDArray[np.float64]  # |S_corr| of the peak's pixel
    strength: NDArray[np.float64]  # |T| of the peak's pixel: S/N against blank sky alone
    dropped: int = 0  # detections that fell to the limit of a pair

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: NDArray[np.int64], *, dropped: int = 0) -> Peaks:
        """The peaks at `rows`, int (m,); `dropped` adds to the count of those that fell to the limit."""
        kept = (self.x[rows], self.y[rows], self.ix[rows], self.iy[rows], self.sign[rows], self.snr[rows], self.strength[rows])
        return Peaks(*kept, dropped=self.dropped + dropped)


def psf_width(stamp: FloatImage) -> float:
    """FWHM, px, of the Gaussian that has the stamp's noise-equivalent area 1 / sum(P^2) = 4 pi sigma^2. `stamp`: (k, k), sum 1."""
    area = float(np.sum(stamp, dtype=np.float64) ** 2 / np.sum(np.square(stamp, dtype=np.float64)))
    return float(FWHM_PER_SIGMA * np.sqrt(area / (4.0 * np.pi)))


def psf_fwhm(psf: Psf) -> float:
    """The PSF's FWHM, px: as measured where it was, else from the stamp's noise-equivalent area."""
    return psf.fwhm if np.isfinite(psf.fwhm) and psf.fwhm > 0 else psf_width(psf.stamp)


def blank_error(difference: Difference) -> float:
    """1-sigma error of the PSF flux on blank sky: the median of FLUX_ERR over a sample, unit of the flux; NaN without any."""
    known = sample(difference.flux_err)
    known = known[known > 0]
    return float(np.median(known)) if known.size else float("nan")


def autocorrelation(stamp: FloatImage) -> NDArray[np.float64]:
    """A(d) = sum_x P(x) P(x + d) / sum P^2, float64 (2k - 1, 2k - 1), 1 at the centre: a point source in S_corr."""
    size = 2 * stamp.shape[0] - 1
    shape = (next_fast_len(size, real=True),) * 2
    spectrum = rfft2(stamp.astype(np.float64), shape)
    full = np.roll(irfft2(np.abs(spectrum) ** 2, shape), (size // 2, size // 2), axis=(0, 1))[:size, :size]
    return np.asarray(full / full[size // 2, size // 2])


def find_peaks(difference: Difference, cfg: ExtractConfig) -> Peaks:
    """Detections of `difference` by `cfg.method`, in raster order, at most `cfg.max_candidates`.

    Unusable pixels (core.dq) and pixels without a score are never peaks; a peak beside them is kept. The planes are read by bands
    of rows (but by the methods `sep` and `daofind`, which hold them whole).
    """
    linear = Linear(difference)
    if cfg.method == "sep":
        iy, ix, sign = finders.sep_positions(difference, cfg.threshold)
    elif cfg.method == "daofind":
        iy, ix, sign = finders.daofind_positions(difference, cfg.threshold, psf_width(difference.psf_difference.stamp))
    else:
        iy, ix, sign = _maxima(linear, cfg.threshold)
    x, y = _subpixel(linear, iy, ix, sign)
    snr, strength = (np.abs(values).astype(np.float64) for values in (pick(difference.score, iy, ix), linear.at(iy, ix)))
    found = Peaks(x, y, ix, iy, sign, snr, strength)
    if cfg.method == "peaks":
        found = _strongest(found, _CROWD * cfg.max_candidates)
        found = found.take(_distinct(found, linear, difference, cfg))
    found = _strongest(found, cfg.max_candidates)
    return found.take(np.lexsort((found.sign, found.ix, found.iy)))


class Linear:
    """The linear matched filter T, float32: 0 where a pixel is unusable, has no score or no flux. Read where it is asked for."""

    def __init__(self, difference: Difference) -> None:
        self.difference = difference
        self.shape = difference.score.shape
        self.scale = np.float32(1.0 / blank_error(difference))

    def at(self, iy: Pixels, ix: Pixels) -> FloatImage:
        """T at pixels inside the image."""
        product = self.difference
        return self._masked(*(pick(plane, iy, ix) for plane in (product.flux, product.score, product.dq)))

    def about(self, iy: Pixels, ix: Pixels, half: int) -> FloatImage:
        """T in stamps (n, 2 half + 1, 2 half + 1) about pixels; 0 outside the image."""
        product = self.difference
        return self._masked(*(stamps(plane, iy, ix, half, outside=0) for plane in (product.flux, product.score, product.dq)))

    def _masked(self, flux: NDArray[Any], score: NDArray[Any], dq: NDArray[Any]) -> FloatImage:
        known = ~unusable(dq) & np.isfinite(score) & (score != 0) & np.isfinite(flux)
        return np.where(known, flux, np.float32(0)) * self.scale


def _strongest(peaks: Peaks, limit: int) -> Peaks:
    excess = len(peaks) - limit
    if excess <= 0:
        return peaks
    return peaks.take(_by_strength(peaks)[:limit], dropped=excess)


def _by_strength(peaks: Peaks) -> NDArray[np.int64]:
    return np.lexsort((peaks.ix, peaks.iy, -peaks.strength))


def _maxima(linear: Linear, threshold: float) -> tuple[Pixels, Pixels, Pixels]:
    """Pixels of |S_corr| beyond the threshold whose T no such neighbour of the 8 exceeds in the pixel's own sign.

    Of equal neighbours the first in raster order is taken. Only pixels beyond the threshold are looked at again: they are
    scattered onto a band of zeros, compared with what lies beside them, and taken off it.
    """
    parts = [(np.zeros(0, dtype=np.int64),) * 3]
    score, (ny, nx) = linear.difference.score, linear.shape
    board = np.zeros(0, dtype=np.float32)
    for rows in bands(linear.shape):
        top, bottom = max(rows.start - 1, 0), min(rows.stop + 1, ny)  # a row of the neighbours on either side
        flat = _beyond(window(score, slice(top, bottom)), threshold)
        if not len(flat):
            continue
        row, ix = np.divmod(flat, nx)
        values = linear.at(row + top, ix)
        place = (row + 1) * (nx + 2) + ix + 1  # on the board, which has a rim of one pixel
        if len(board) < (bottom - top + 2) * (nx + 2):
            board = np.zeros((bottom - top + 2) * (nx + 2), dtype=np.float32)
        board[place] = values
        sign = np.where(values > 0, 1, -1).astype(np.int64)
        strength = np.abs(values)
        peak = (strength > 0) & (row + top >= rows.start) & (row + top < rows.stop)
        peak &= sign == np.where(pick(score, row + top, ix) > 0, 1, -1)  # T must have the score's sign
        for dy, dx in _NEIGHBOURS:
            beside = board[place + dy * (nx + 2) + dx] * sign
            peak &= (strength > beside) if (dy, dx) < (0, 0) else (strength >= beside)
        board[place] = 0
        parts.append((row[peak] + top, ix[peak], sign[peak]))
    iy, ix, sign = (np.concatenate(column) for column in zip(*parts, strict=True))
    return iy, ix, sign


def _beyond(score: FloatImage, threshold: float) -> Pixels:
    """Flat indices of the pixels of a band with |score| >= threshold; NaN is never beyond."""
    flat = score.ravel()
    return np.flatnonzero(np.abs(flat) >= np.float32(threshold))


def _subpixel(linear: Linear, iy: Pixels, ix: Pixels, sign: Pixels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Vertex of the parabola through the peak and its two neighbours along x and along y, in the logarithm where all are positive.

    The logarithm makes it exact for a Gaussian profile. An axis with a neighbour outside or masked keeps the pixel's centre.
    """
    about = linear.about(iy, ix, 1).astype(np.float64) * sign[:, None, None]

    def vertex(before: NDArray[np.float64], centre: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
        positive = (before > 0) & (centre > 0) & (after > 0)
        known = (before != 0) & (after != 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            low, mid, high = (np.where(positive, np.log(v), v) for v in (before, centre, after))
            shift = 0.5 * (high - low) / (2.0 * mid - low - high)
        return np.clip(np.where(known & np.isfinite(shift), shift, 0.0), -0.5, 0.5)

    return ix + vertex(*about[:, 1, :].T), iy + vertex(*about[:, :, 1].T)


def _distinct(peaks: Peaks, linear: Linear, difference: Difference, cfg: ExtractConfig) -> NDArray[np.int64]:
    """Rows of the peaks that are sources of their own, strongest first.

    A weaker peak j falls to a stronger one i of strength t_i when it has i's sign and is nearer than the separation or has no
    saddle between, or when |T_j| < threshold + t_i * max(A), A's maximum (in the sign that links them) taken over the 3 x 3 pixels about j.
    """
    if len(peaks) < 2:
        return np.arange(len(peaks))
    template = autocorrelation(difference.psf_difference.stamp)
    lifted, sunk = maximum_filter(template, 3), maximum_filter(-template, 3)
    half = template.shape[0] // 2
    fwhm = psf_fwhm(difference.psf_science)
    pairs = cKDTree(np.column_stack([peaks.ix, peaks.iy])).query_pairs(max(half, cfg.saddle_fwhm * fwhm), output_type="ndarray")
    rank = np.empty(len(peaks), dtype=np.int64)
    order = _by_strength(peaks)
    rank[order] = np.arange(len(peaks))
    strong, weak = np.where(rank[pairs[:, 0]] < rank[pairs[:, 1]], pairs.T, pairs.T[::-1])
    dx, dy = peaks.ix[weak] - peaks.ix[strong], peaks.iy[weak] - peaks.iy[strong]
    distance = np.hypot(peaks.x[weak] - peaks.x[strong], peaks.y[weak] - peaks.y[strong])
    same = peaks.sign[weak] == peaks.sign[strong]
    inside = (np.abs(dx) <= half) & (np.abs(dy) <= half)
    cell = (np.clip(dy + half, 0, 2 * half), np.clip(dx + half, 0, 2 * half))
    expected = np.where(inside, np.where(same, lifted[cell], sunk[cell]), 0.0).clip(min=0.0) * peaks.strength[strong]
    falls = inside & (expected > 0) & (peaks.strength[weak] < cfg.threshold + expected)
    falls |= same & (distance < cfg.separation_fwhm * fwhm)
    near = np.flatnonzero(same & ~falls & (distance < cfg.saddle_fwhm * fwhm))
    if len(near):
        falls[near] = _saddle(peaks, linear, strong[near], weak[near]) > peaks.strength[weak[near]] - cfg.saddle_depth
    return _greedy(order, strong[falls], weak[falls], rank)


def _saddle(peaks: Peaks, linear: Linear, strong: Pixels, weak: Pixels) -> NDArray[np.float64]:
    """The lowest T, in the peaks' sign, on the straight line between each pair, bilinear between pixels; shape (pairs,)."""
    x = peaks.ix[strong, None] + (peaks.ix[weak] - peaks.ix[strong])[:, None] * _SADDLE_STEPS
    y = peaks.iy[strong, None] + (peaks.iy[weak] - peaks.iy[strong])[:, None] * _SADDLE_STEPS
    left, low = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    right, high = np.minimum(left + 1, linear.shape[1] - 1), np.minimum(low + 1, linear.shape[0] - 1)
    u, v = x - left, y - low
    lower = linear.at(low, left) * (1 - u) + linear.at(low, right) * u
    upper = linear.at(high, left) * (1 - u) + linear.at(high, right) * u
    line = (lower * (1 - v) + upper * v) * peaks.sign[strong, None]
    return np.asarray(line.min(axis=1), dtype=np.float64)


def _greedy(order: NDArray[np.int64], strong: NDArray[np.int64], weak: NDArray[np.int64], rank: NDArray[np.int64]) -> NDArray[np.int64]:
    """Strongest first: a peak that still stands fells the weaker ones tied to it."""
    stands = np.ones(len(order), dtype=bool)
    by_strong = np.argsort(rank[strong], kind="stable")
    strong, weak = strong[by_strong], weak[by_strong]
    first, starts = np.unique(rank[strong], return_index=True)
    for place, felled in zip(first, np.split(weak, starts[1:]), strict=True) if len(strong) else ():
        if stands[order[place]]:
            stands[felled] = False
    return order[stands[order]]

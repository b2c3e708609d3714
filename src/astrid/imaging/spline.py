"""Interpolation of an image by a cardinal B-spline on a slightly turned grid, one axis after the other."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import BSpline

from astrid.core.records import FloatImage
from astrid.imaging.mesh import Floats

PAD = 4  # px, mirrored border that the taps may reach into
_CHUNK = 16384  # values that are worked on at a time: stays in the cache
_REACH = 20  # px, of the inverse filter: 0.43^20 is below the rounding of float32
_BAND = 32  # lines that one product filters


@lru_cache
def tap_weights(order: int) -> NDArray[np.float32]:
    """(order + 1, order + 1): row k holds the powers of s = t - 1/2 that give tap k's weight at the phase t in [0, 1).

    The taps of the position i + t are the pixels i - (order - 1) / 2 + k, and their weights the pieces of the centred B-spline of
    that degree (Unser, Aldroubi & Eden 1993, IEEE Trans. Signal Process. 41, 821, eq. 2.2).
    """
    basis = BSpline.basis_element(np.arange(order + 2.0))
    nodes = np.cos((2 * np.arange(order + 1) + 1) * np.pi / (2 * order + 2)) / 2
    powers = np.vander(nodes, order + 1, increasing=True)
    pieces = [np.linalg.solve(powers, basis(order - k + nodes + 0.5)) for k in range(order + 1)]
    return np.asarray(pieces, np.float32)


def padded(plane: FloatImage, axis: int, reach: int = PAD) -> FloatImage:
    """The plane with `reach` mirrored pixels on both ends of an axis."""
    width = [(0, 0), (0, 0)]
    width[axis] = (reach, reach)
    return np.pad(plane, width, mode="reflect" if plane.shape[axis] > 1 else "edge")


def coefficients(plane: FloatImage, order: int, axis: int) -> FloatImage:
    """Spline coefficients along one axis, with `PAD` mirrored pixels on both ends.

    The inverse of the sampled B-spline (Unser, Aldroubi & Eden 1993, eq. 2.6) decays by 0.43 a pixel for the quintic, so that it is
    applied as a finite filter, by products with a banded matrix: five times faster than the recursion.
    """
    if order < 2:
        return padded(plane, axis)
    source = padded(plane, axis, PAD + _REACH)
    band = _inverse_band(order)
    n = plane.shape[axis] + 2 * PAD
    out = np.empty((n, plane.shape[1]) if axis == 0 else (plane.shape[0], n), np.float32)
    for start in range(0, n, _BAND):
        size = min(_BAND, n - start)
        lines, reads = slice(start, start + size), slice(start, start + size + 2 * _REACH)
        if axis == 0:
            np.matmul(band[:size, : size + 2 * _REACH], source[reads], out=out[lines])
        else:
            np.matmul(source[:, reads], band[:size, : size + 2 * _REACH].T, out=out[:, lines])
    return out


@lru_cache
def _inverse_band(order: int) -> FloatImage:
    impulse = np.zeros(8 * _REACH + 1)
    impulse[4 * _REACH] = 1.0
    inverse = ndimage.spline_filter1d(impulse, order)[3 * _REACH : 5 * _REACH + 1]
    band = np.zeros((_BAND, _BAND + 2 * _REACH), np.float32)
    for line in range(_BAND):
        band[line, line : line + 2 * _REACH + 1] = inverse / inverse.sum()
    return band


class _Pass:
    """Interpolates a signal plane (spline) and a noise plane (linear) along one axis of a flat, padded buffer."""

    def __init__(self, signal: FloatImage, noise: FloatImage, order: int, stride: int, length: int) -> None:
        self._signal, self._noise = signal.ravel(), noise.ravel()
        self._order, self._stride, self._length = order, stride, length
        self._weights = tap_weights(order)
        self._half = (order - 1) // 2

    def __call__(self, positions: Floats, offsets: Floats, signal: FloatImage, noise: FloatImage) -> None:
        """Write the values at `positions` (px along the axis, before padding) into `signal` and `noise`.

        `offsets` is the index in the flat buffer of position -PAD of each sample's line. `positions` is used as scratch.
        """
        np.clip(positions, -1.0, self._length, out=positions)
        floor = np.floor(positions)
        s = (positions - floor).astype(np.float32)
        s -= np.float32(0.5)
        floor += PAD - self._half
        if self._stride != 1:
            floor *= self._stride
        floor += offsets
        index = floor.astype(np.intp)
        powers = np.empty((self._order + 1, *s.shape), np.float32)
        powers[0] = 1.0
        for k in range(self._order):
            np.multiply(powers[k], s, out=powers[k + 1])
        weights = np.matmul(self._weights, powers.reshape(self._order + 1, -1)).reshape(powers.shape)
        for k in range(self._order + 1):
            np.take(self._signal[k * self._stride :], index, out=powers[k], mode="wrap")  # never wraps; the fastest mode
        weights *= powers
        np.add.reduce(weights, axis=0, out=signal)
        low, high = powers[0], powers[1]
        np.take(self._noise[self._half * self._stride :], index, out=low, mode="wrap")
        np.take(self._noise[(self._half + 1) * self._stride :], index, out=high, mode="wrap")
        s += np.float32(0.5)
        high -= low
        high *= s
        np.add(low, high, out=noise)


def along_rows(signal: FloatImage, noise: FloatImage, positions: tuple[Floats, Floats], order: int) -> tuple[FloatImage, FloatImage]:
    """Interpolate every row at its own positions.

    Parameters
    ----------
    signal, noise
        (m, k); the signal by a spline, the noise linearly.
    positions
        Factors (m, r) and (r, n) of the (m, n) positions along the rows, px.

    Returns
    -------
    Two planes (m, n).
    """
    m, k = signal.shape
    n = positions[1].shape[1]
    run = _Pass(coefficients(signal, order, 1), padded(noise, 1), order, 1, k)
    out = (np.empty((m, n), np.float32), np.empty((m, n), np.float32))
    step = max(1, _CHUNK // n)
    lines = np.arange(m, dtype=np.float64)[:, None] * (k + 2 * PAD)
    for start in range(0, m, step):
        rows = slice(start, start + step)
        run(positions[0][rows] @ positions[1], lines[rows], out[0][rows], out[1][rows])
    return out


def along_columns(signal: FloatImage, noise: FloatImage, positions: tuple[Floats, Floats], order: int) -> tuple[FloatImage, FloatImage]:
    """Interpolate every column of (m, n) planes at its own positions: factors (k, r) and (r, n), px along the column; gives (k, n)."""
    m, n = signal.shape
    run = _Pass(coefficients(signal, order, 0), padded(noise, 0), order, n, m)
    k = positions[0].shape[0]
    out = (np.empty((k, n), np.float32), np.empty((k, n), np.float32))
    step = max(1, _CHUNK // n)
    columns = np.arange(n, dtype=np.float64)[None, :]
    for start in range(0, k, step):
        rows = slice(start, start + step)
        run(positions[0][rows] @ positions[1], columns, out[0][rows], out[1][rows])
    return out


def anywhere(
    signal: FloatImage, noise: FloatImage, positions: tuple[tuple[Floats, Floats], tuple[Floats, Floats]], order: int
) -> tuple[FloatImage, FloatImage]:
    """Interpolate at arbitrary positions, all taps at once: the factors of (k, n) positions along y, then along x, px."""
    both = coefficients(coefficients(signal, order, 0), order, 1)
    k, n = positions[0][0].shape[0], positions[0][1].shape[1]
    out = (np.empty((k, n), np.float32), np.empty((k, n), np.float32))
    step = max(1, _CHUNK // n)
    for start in range(0, k, step):
        rows = slice(start, start + step)
        where = [factors[0][rows] @ factors[1] for factors in positions]
        out[1][rows] = _bilinear(noise, where[0], where[1])
        shifted = [axis + PAD for axis in where]
        ndimage.map_coordinates(both, shifted, order=order, mode="constant", prefilter=False, output=out[0][rows])
    return out


def _bilinear(plane: FloatImage, y: Floats, x: Floats) -> FloatImage:
    """Values at (y, x), clamped to the plane, which is at least two pixels a side."""
    corner, phase = [], []
    for axis, n in zip((y, x), plane.shape, strict=True):
        inside = np.clip(axis, 0.0, n - 1.0)
        first = np.minimum(np.floor(inside), n - 2.0)
        phase.append((inside - first).astype(np.float32))
        corner.append(first)
    index = (corner[0] * plane.shape[1] + corner[1]).astype(np.intp)
    flat = plane.ravel()
    rows = []
    for start in (0, plane.shape[1]):
        low, high = (np.take(flat[start + k :], index, mode="wrap") for k in (0, 1))
        high -= low
        high *= phase[1]
        rows.append(np.add(low, high, out=low))
    return np.asarray(rows[0] + phase[0] * (rows[1] - rows[0]))

"""Interpolation of an image by a cardinal B-spline of odd degree, on a slightly turned grid one axis after the other."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline

from astrid.core.records import FloatImage
from astrid.imaging.alignment.mesh import Floats

PAD = 6  # px, mirrored border that the taps may reach into: those of degree 9, a pixel beyond the image
_CHUNK = 16384  # values that are worked on at a time: stays in the cache
_ROUNDING = 6e-8  # of float32: what the inverse filter may leave out
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


@lru_cache
def inverse_filter(order: int) -> Floats:
    """(2 r + 1,) inverse of the B-spline of odd degree sampled at the pixels, up to where it falls below the rounding of float32.

    Unser, Aldroubi & Eden (1993), eq. 2.6. It decays by 0.27, 0.43, 0.54 and 0.61 a pixel for the degrees 3, 5, 7 and 9.
    """
    ring = np.zeros(512)
    half = order // 2
    ring[np.arange(-half, half + 1)] = BSpline.basis_element(np.arange(order + 2.0))((order + 1) / 2 + np.arange(-half, half + 1))
    inverse = np.fft.irfft(1.0 / np.fft.rfft(ring).real, len(ring))
    reach = max(order, int(np.flatnonzero(np.abs(inverse[: len(ring) // 2]) > _ROUNDING).max()))
    return np.asarray(inverse[np.arange(-reach, reach + 1)])


def reach(order: int) -> int:
    """Pixels to which an interpolated value depends on its surroundings, beyond its taps."""
    return len(inverse_filter(order)) // 2


def cardinal(distance: Floats, order: int) -> Floats:
    """The interpolation's kernel: weight of a pixel at `distance` px, 1 at 0 and 0 at other whole pixels; zero beyond its reach."""
    inverse = inverse_filter(order)
    knots = np.arange(len(inverse) + order + 1) - (len(inverse) + order) / 2
    return np.asarray(np.nan_to_num(BSpline(knots, inverse, order, extrapolate=False)(distance)))


def padded(plane: FloatImage, axis: int, reach: int = PAD) -> FloatImage:
    """The plane with `reach` mirrored pixels on both ends of an axis."""
    width = [(0, 0), (0, 0)]
    width[axis] = (reach, reach)
    return np.pad(plane, width, mode="reflect" if plane.shape[axis] > 1 else "edge")


def coefficients(plane: FloatImage, order: int, axis: int) -> FloatImage:
    """Spline coefficients along one axis, with `PAD` mirrored pixels on both ends.

    The inverse of the sampled B-spline is short, so that it is applied as a finite filter, by products with a banded matrix: for
    the quintic five times faster than the recursion.
    """
    if order < 2:
        return padded(plane, axis)
    band, far = _inverse_band(order), reach(order)
    source = padded(plane, axis, PAD + far)
    n = plane.shape[axis] + 2 * PAD
    out = np.empty((n, plane.shape[1]) if axis == 0 else (plane.shape[0], n), np.float32)
    for start in range(0, n, _BAND):
        size = min(_BAND, n - start)
        lines, reads = slice(start, start + size), slice(start, start + size + 2 * far)
        if axis == 0:
            np.matmul(band[:size, : size + 2 * far], source[reads], out=out[lines])
        else:
            np.matmul(source[:, reads], band[:size, : size + 2 * far].T, out=out[:, lines])
    return out


@lru_cache
def _inverse_band(order: int) -> FloatImage:
    inverse = inverse_filter(order)
    band = np.zeros((_BAND, _BAND + len(inverse) - 1), np.float32)
    for line in range(_BAND):
        band[line, line : line + len(inverse)] = inverse / inverse.sum()
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
        out[0][rows] = at_points(both, where[0], where[1], order)
        out[1][rows] = _bilinear(noise, where[0], where[1])
    return out


def at_points(both: FloatImage, y: Floats, x: Floats, order: int) -> FloatImage:
    """Values at scattered points (any shape), px of the plane whose `coefficients` along both axes are given; clamped beside it."""
    half, taps = (order - 1) // 2, order + 1
    corner, weights = [], []
    for axis, n in zip((y, x), both.shape, strict=True):
        inside = np.clip(axis, -1.0, n - 2.0 * PAD)
        first = np.floor(inside)
        phase = (inside - first - 0.5).astype(np.float32).ravel()
        weights.append(tap_weights(order) @ np.vander(phase, taps, increasing=True).T)
        corner.append(first.ravel() + (PAD - half))
    index = (corner[0] * both.shape[1] + corner[1]).astype(np.intp)
    flat = both.ravel()
    out, line, value = (np.zeros(index.shape, np.float32) for _ in range(3))
    for row in range(taps):
        line[:] = 0.0
        for column in range(taps):
            np.take(flat[row * both.shape[1] + column :], index, out=value, mode="wrap")  # never wraps; the fastest mode
            value *= weights[1][column]
            line += value
        line *= weights[0][row]
        out += line
    return out.reshape(y.shape)


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

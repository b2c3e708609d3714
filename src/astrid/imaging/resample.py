"""The reference on the science grid: data, variance, DQ and PSF."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrid.config.schema.imaging import ResampleConfig
from astrid.core.dq import DQ
from astrid.core.records import DQImage, FloatImage, Psf
from astrid.imaging.astrometry import Floats, Mapping
from astrid.imaging.profile import profile_of, stamp_fwhm
from astrid.imaging.stars import usable_pixels

_ROWS = 256  # science rows that are interpolated at a time: bounds memory
_PHASES = 8  # sub-pixel offsets at which the kernel's response is evaluated
_IMPULSE = 64  # px, length of the line on which the kernel's response is evaluated


@dataclass(frozen=True, eq=False)
class Resampled:
    """The reference on the science grid; `data` in reference units a science pixel. Masked pixels hold a local fill."""

    data: FloatImage
    variance: FloatImage
    dq: DQImage  # with DQ.REFERENCE beside every cause, NO_COVERAGE outside the footprint
    overlap: float  # fraction of the science pixels with reference data
    area_ratio: float  # reference pixels a science pixel, at the centre


def fill_local(data: FloatImage, good: NDArray[np.bool_], sigma: float) -> FloatImage:
    """Replace unusable pixels by a Gaussian-weighted mean of the usable ones near them, 0 where there are none.

    `sigma` px, width of the weights; the result is finite everywhere, so that neither a spline nor a transform rings.
    """
    if good.all():
        return data.astype(np.float32, copy=True)
    values = np.where(good, data, np.float32(0)).astype(np.float32)
    filled = values.copy()
    for rows, columns in _patches(~good, int(np.ceil(6 * sigma))):
        weight = ndimage.gaussian_filter(good[rows, columns].astype(np.float32), sigma, mode="nearest", truncate=5.0)
        mean = ndimage.gaussian_filter(values[rows, columns], sigma, mode="nearest", truncate=5.0)
        hole = ~good[rows, columns]
        known = weight > 1e-4
        filled[rows, columns][hole] = np.where(known, mean / np.where(known, weight, 1), 0.0)[hole]
    return filled


def _patches(bad: NDArray[np.bool_], margin: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of the image that hold bad pixels, each with a margin; blocks without any are skipped."""
    size = 128
    ny, nx = bad.shape
    for top in range(0, ny, size):
        for left in range(0, nx, size):
            block = bad[top : top + size, left : left + size]
            if not block.any():
                continue
            rows = np.flatnonzero(block.any(axis=1))
            columns = np.flatnonzero(block.any(axis=0))
            low, high = max(0, top + rows[0] - margin), min(ny, top + rows[-1] + 1 + margin)
            yield slice(low, high), slice(max(0, left + columns[0] - margin), min(nx, left + columns[-1] + 1 + margin))


def to_grid(
    data: FloatImage, variance: FloatImage, dq: DQImage, mapping: Mapping, shape: tuple[int, int], config: ResampleConfig
) -> Resampled:
    """Resample the reference onto the science grid, conserving flux.

    Counts a pixel are surface brightness times area, so the interpolated value is multiplied by the local ratio of pixel areas
    (reference pixels a science pixel). Where science pixels are much the larger, several points of each are averaged. The
    variance is that of white noise of the same power at the scales of the PSF (see `interpolation_response`): the area ratio
    times the interpolated variance; the caller multiplies by the kernel's response once the PSFs are known.

    Parameters
    ----------
    data, variance, dq
        (my, mx) reference.
    mapping
        Science to reference pixels, evaluated every `config.mesh_px` and interpolated between by a quintic spline.
    shape
        (ny, nx) of the science grid.
    """
    good = usable_pixels(data, variance, dq)
    smooth = fill_local(data, good, 1.5)
    noise = fill_local(variance, good, 1.5)
    coefficients = ndimage.spline_filter(smooth, order=config.order, output=np.float32, mode="mirror") if config.order > 1 else smooth
    causes = _spread(np.where(good, dq & ~np.uint32(DQ.NOT_FINITE), dq | _cause(data, dq, good)))
    mesh = _Mesh(mapping, shape, config.mesh_px)
    area = abs(np.linalg.det(mapping.jacobian((shape[1] - 1) / 2, (shape[0] - 1) / 2)))
    points = max(1, int(np.ceil(np.sqrt(area) - 0.25))) if np.isfinite(area) else 1
    out = np.zeros(shape, np.float32)
    out_variance = np.ones(shape, np.float32)
    out_dq = np.full(shape, np.uint32(DQ.NO_COVERAGE | DQ.REFERENCE))
    for start in range(0, shape[0], _ROWS):
        rows = np.arange(start, min(start + _ROWS, shape[0]))
        rx, ry, ratio = mesh.at(rows)
        covered = (rx >= -0.5) & (ry >= -0.5) & (rx <= data.shape[1] - 0.5) & (ry <= data.shape[0] - 0.5)
        if not covered.any():
            continue
        value = _interpolate(coefficients, mesh, rows, points, config.order)
        spread = np.maximum(1.0, ratio / points**2)
        sampled = ndimage.map_coordinates(noise, [ry, rx], order=1, mode="nearest", output=np.float32)
        out[rows] = np.where(covered, value * ratio, 0.0)
        out_variance[rows] = np.where(covered, sampled * ratio * spread, 1.0)
        ix = np.clip(np.round(np.where(covered, rx, 0)), 0, data.shape[1] - 1).astype(np.intp)
        iy = np.clip(np.round(np.where(covered, ry, 0)), 0, data.shape[0] - 1).astype(np.intp)
        bits = causes[iy, ix]
        bits = np.where(bits != 0, bits | np.uint32(DQ.REFERENCE), bits)
        out_dq[rows] = np.where(covered, bits, out_dq[rows])
    overlap = float(np.mean((out_dq & np.uint32(DQ.NO_COVERAGE)) == 0))
    return Resampled(out, out_variance, out_dq, overlap, float(area))


def _cause(data: FloatImage, dq: DQImage, good: NDArray[np.bool_]) -> DQImage:
    """NOT_FINITE for an unusable pixel that names no cause of its own."""
    return np.where(good | (dq != 0), np.uint32(0), np.uint32(DQ.NOT_FINITE)).astype(np.uint32)


def _spread(dq: DQImage) -> DQImage:
    """Every bit also on the eight neighbours, since the interpolation reaches them."""
    out = dq.astype(np.uint32, copy=True)
    out[1:] |= dq[:-1]
    out[:-1] |= dq[1:]
    rows = out.copy()
    out[:, 1:] |= rows[:, :-1]
    out[:, :-1] |= rows[:, 1:]
    return out


class _Mesh:
    """The mapping and its area ratio, evaluated on a coarse grid and interpolated by splines along each axis."""

    def __init__(self, mapping: Mapping, shape: tuple[int, int], step: int) -> None:
        from scipy.interpolate import RectBivariateSpline

        self._nx = shape[1]
        y = np.linspace(-1.0, shape[0], max(6, -(-shape[0] // step) + 1))
        x = np.linspace(-1.0, shape[1], max(6, -(-shape[1] // step) + 1))
        gx, gy = np.meshgrid(x, y)
        rx, ry = mapping(gx.ravel(), gy.ravel())
        self._lost = not (np.isfinite(rx).all() and np.isfinite(ry).all())
        rx, ry = np.nan_to_num(rx, nan=-1e6).reshape(gx.shape), np.nan_to_num(ry, nan=-1e6).reshape(gx.shape)
        degree = 1 if self._lost else 5
        self._x = RectBivariateSpline(y, x, rx, kx=degree, ky=degree)
        self._y = RectBivariateSpline(y, x, ry, kx=degree, ky=degree)
        dxx, dxy = np.gradient(rx, x, axis=1), np.gradient(rx, y, axis=0)
        dyx, dyy = np.gradient(ry, x, axis=1), np.gradient(ry, y, axis=0)
        self._area = RectBivariateSpline(y, x, np.abs(dxx * dyy - dxy * dyx), kx=1, ky=1)

    def at(self, rows: NDArray[np.intp], offset: tuple[float, float] = (0.0, 0.0)) -> tuple[Floats, Floats, Floats]:
        """Reference x, y and area ratio of the science rows, each (rows, nx), at an offset (dy, dx) within the pixels."""
        y, x = rows + offset[0], np.arange(self._nx) + offset[1]
        return self._x(y, x), self._y(y, x), self._area(y, x)


def _interpolate(coefficients: FloatImage, mesh: _Mesh, rows: NDArray[np.intp], points: int, order: int) -> NDArray[np.float32]:
    steps = (np.arange(points) + 0.5) / points - 0.5
    total = np.zeros((len(rows), mesh._nx), np.float32)
    for dy in steps:
        for dx in steps:
            rx, ry, _ = mesh.at(rows, (dy, dx))
            total += ndimage.map_coordinates(coefficients, [ry, rx], order=order, mode="mirror", prefilter=False, output=np.float32)
    return total / np.float32(points**2)


def interpolation_response(mapping: Mapping, shape: tuple[int, int], weight: NDArray[np.float64], order: int) -> float:
    """Power that interpolation leaves of white noise, averaged over frequencies with the matched filter's weight.

    Interpolated noise is correlated: its variance a pixel drops, but at the scales of the PSF, where the score looks, its power
    stays near that of the original. `weight` is (m, m), |k_r^|^2 on the frequencies of `numpy.fft.fftfreq`; the response of
    the cardinal spline is measured at the mapping's own sub-pixel phases. 1 for a shift by whole pixels.
    """
    ny, nx = shape
    gy, gx = np.meshgrid(np.linspace(0, ny - 1, 24), np.linspace(0, nx - 1, 24), indexing="ij")
    rx, ry = mapping(gx.ravel(), gy.ravel())
    power = [_phase_power(values[np.isfinite(values)], weight.shape[0], order) for values in (ry, rx)]
    total = float(weight.sum())
    return float(power[0] @ weight @ power[1] / total) if total > 0 else 1.0


def _phase_power(positions: Floats, length: int, order: int) -> Floats:
    """|transfer function|^2 of the interpolation, averaged over the positions' sub-pixel phases, on `length` frequencies."""
    phases, counts = np.unique(np.round((positions % 1.0) * _PHASES) % _PHASES, return_counts=True)
    impulse = np.zeros(_IMPULSE)
    impulse[_IMPULSE // 2] = 1.0
    grid = np.arange(_IMPULSE, dtype=float)
    power = np.zeros(length)
    for phase, count in zip(phases, counts, strict=True):
        kernel = ndimage.map_coordinates(impulse, [grid - phase / _PHASES], order=order, mode="grid-wrap")
        response = np.abs(np.fft.fft(kernel)) ** 2
        power += count * np.interp(np.abs(np.fft.fftfreq(length)), np.arange(_IMPULSE // 2 + 1) / _IMPULSE, response[: _IMPULSE // 2 + 1])
    return np.asarray(power / max(int(counts.sum()), 1))


def map_psf(psf: Psf, jacobian: Floats) -> Psf:
    """A reference PSF as it looks on the science grid: its stamp through the local affine d(reference) / d(science).

    The result has odd side, unit sum, and keeps method, number of stars and residual of the original.
    """
    profile = profile_of(psf)
    linear = float(np.sqrt(abs(np.linalg.det(jacobian))))
    half = max(3, int(np.ceil((psf.stamp.shape[0] - 1) / 2 / linear)))
    offset = np.arange(-half, half + 1, dtype=float)
    dy, dx = np.meshgrid(offset, offset, indexing="ij")
    points = max(1, int(np.ceil(linear - 0.25)))
    steps = (np.arange(points) + 0.5) / points - 0.5
    stamp = np.zeros(dy.shape)
    for sy in steps:
        for sx in steps:
            rx = jacobian[0, 0] * (dx + sx) + jacobian[0, 1] * (dy + sy)
            ry = jacobian[1, 0] * (dx + sx) + jacobian[1, 1] * (dy + sy)
            stamp += profile(ry, rx)
    stamp = stamp / stamp.sum()
    return Psf(stamp.astype(np.float32), psf.method, psf.n_stars, stamp_fwhm(stamp), psf.residual)

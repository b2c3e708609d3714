"""The reference on the science grid: data, variance, DQ and PSF."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from astrid.config.schema.imaging import ResampleConfig
from astrid.core.dq import DQ, UNUSABLE
from astrid.core.records import DQImage, FloatImage, Psf
from astrid.imaging.alignment.astrometry import Mapping
from astrid.imaging.alignment.fill import fill_local as fill_local
from astrid.imaging.alignment.fill import fill_planes, spread_causes
from astrid.imaging.alignment.mesh import Floats, MappingMesh, row_crossings
from astrid.imaging.alignment.spline import along_columns, along_rows, anywhere, at_points, cardinal, coefficients, reach
from astrid.imaging.stars.find import usable_pixels
from astrid.imaging.stars.profile import stamp_fwhm

_BLOCK = 1024  # science px (points of them), about the side of what is resampled at a time: bounds memory
_CHUNK = 32768  # science px that are finished at a time: stays in the cache
_MARGIN = 8  # reference px beyond what the spline needs around a window: the reach of the fill
_MAX_TILT = 0.4  # tangent of the turn up to which the axes are interpolated one after the other
_NODES = 32  # px between the nodes on which the crossings of rows and columns are solved for
_FILL_SIGMA = 1.5  # px, of the weights that fill unusable pixels before the interpolation
_FOOTPRINT = 128  # positions a side of the estimate of the overlap
_RESPONSE_SIDE = 24  # positions a side that sample the sub-pixel phases of a window
_PHASES = 64  # sub-pixel phases at which the response is tabulated
_LAGS = 20  # px, reach of the noise's autocorrelation
_OUTPUTS = 48  # science px over which it is averaged


class Plane(Protocol):
    """A two-dimensional image of which windows are read: an array, or a plane on disk."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, window: Any, /) -> Any: ...


@dataclass(frozen=True, eq=False)
class Resampled:
    """The reference on the science grid; `data` in reference units a science pixel. Masked pixels hold a local fill."""

    data: FloatImage
    variance: FloatImage
    dq: DQImage  # with DQ.REFERENCE beside every cause, NO_COVERAGE outside the footprint
    overlap: float  # fraction of the science pixels with reference data
    area_ratio: float  # reference pixels a science pixel, at the centre


class Resampler:
    """The reference on any window of the science grid, conserving flux; only the section under the window is read.

    Counts a pixel are surface brightness times area, so the interpolated value is multiplied by the local ratio of pixel areas
    (reference pixels a science pixel). Where science pixels are much the larger, several points of each are averaged. The
    variance is that of white noise of the same power at the scales of the PSF (see `response`): the area ratio times the
    interpolated variance; the caller multiplies by the interpolation's response once the PSFs are known.

    The interpolating spline of degree n is evaluated along the rows first, where science columns cross them, and then along the
    columns (Catmull & Smith 1980, SIGGRAPH 14, 279): 2 (n + 1) taps instead of (n + 1)^2. Grids that are turned by more than 22
    degrees (from the nearest quarter turn) take all the taps at once.

    Parameters
    ----------
    data, variance, dq
        (my, mx) reference; anything that gives an array when sliced by [rows, columns].
    mapping
        Science (x, y) to reference (x, y), px; evaluated every `config.mesh_px` and interpolated between by a quintic spline.
    shape
        (ny, nx) of the science grid.
    """

    def __init__(self, data: Plane, variance: Plane, dq: Plane, mapping: Mapping, shape: tuple[int, int], config: ResampleConfig) -> None:
        self._planes = (data, variance, dq)
        self._extent = (int(data.shape[0]), int(data.shape[1]))
        self._shape, self._order = shape, config.order
        self._mesh = MappingMesh(mapping, shape, config.mesh_px)
        linear = self._mesh.linear((shape[0] - 1) / 2, (shape[1] - 1) / 2)
        self.area_ratio = float(abs(np.linalg.det(linear)))  # reference pixels a science pixel, at the centre
        self.points = max(1, int(np.ceil(np.sqrt(self.area_ratio) - 0.25))) if self._mesh.complete else 1  # a science pixel and axis

    def footprint(self) -> float:
        """Fraction of the science grid that lies on the reference's area, from positions every few pixels; masks do not count."""
        y, x = (np.linspace(0, n - 1, min(n, _FOOTPRINT)) for n in self._shape)
        rx, ry = (np.matmul(*surface.on(y, x)) for surface in (self._mesh.x, self._mesh.y))
        return float(np.mean(self._covered(rx, ry)))

    def window(self, rows: slice, columns: slice) -> Resampled:
        """The reference on the window [rows, columns] of the science grid, of plain bounds within it."""
        out = _blank((rows.stop - rows.start, columns.stop - columns.start))
        side = max(_BLOCK // self.points, 1)
        for row in _cuts(rows, side):
            for column in _cuts(columns, side):
                part = (
                    slice(row.start - rows.start, row.stop - rows.start),
                    slice(column.start - columns.start, column.stop - columns.start),
                )
                self._block(row, column, [plane[part] for plane in out])
        overlap = float(np.mean((out[2] & np.uint32(DQ.NO_COVERAGE)) == 0))
        return Resampled(*out, overlap, self.area_ratio)

    def response(self, weight: NDArray[np.float64], rows: slice, columns: slice) -> float:
        """Power that the interpolation leaves of white noise in a window, under the matched filter (`noise_response`).

        `weight` is (m, m), |k_r^|^2 on the frequencies of `numpy.fft.fftfreq`, of the science grid.
        """
        y, x = (np.rint(np.linspace(w.start, w.stop - 1, min(_RESPONSE_SIDE, w.stop - w.start))) for w in (rows, columns))
        rx, ry = (np.matmul(*surface.on(y, x)) for surface in (self._mesh.x, self._mesh.y))
        linear = self._mesh.linear(float(np.mean(y)), float(np.mean(x)))
        return noise_response(rx.ravel(), ry.ravel(), linear, weight, self._order, self.points)

    def _covered(self, rx: Floats, ry: Floats) -> NDArray[np.bool_]:
        my, mx = self._extent
        return np.asarray((rx >= -0.5) & (ry >= -0.5) & (rx <= mx - 0.5) & (ry <= my - 0.5))

    def _block(self, rows: slice, columns: slice, out: list[NDArray[Any]]) -> None:
        y, x = (np.arange(w.start, w.stop, dtype=np.float64) for w in (rows, columns))
        ends = [np.linspace(axis[0] - 0.5, axis[-1] + 0.5, max(2, len(axis) // 16)) for axis in (y, x)]
        bounds = self._mesh.bounds(ends[0], ends[1])
        margin = reach(self._order) + _MARGIN
        low = [max(0, int(np.floor(max(bounds[k], -1.0))) - margin) for k in (0, 2)]
        high = [min(n, int(np.ceil(min(bounds[k], n))) + margin + 1) for k, n in ((1, self._extent[1]), (3, self._extent[0]))]
        if high[0] <= low[0] or high[1] <= low[1]:
            return
        section = _Section(self._planes, slice(low[1], high[1]), slice(low[0], high[0]), self._order)
        value, noise = self._interpolate(section, y, x)
        inside = bounds[0] >= 0 and bounds[1] <= self._extent[1] - 1 and bounds[2] >= 0 and bounds[3] <= self._extent[0] - 1
        self._deliver(section, (value, noise), y, x, out, inside=inside)

    def _interpolate(self, section: _Section, y: Floats, x: Floats) -> tuple[FloatImage, FloatImage]:
        """Mean signal and noise of the points of every science pixel."""
        p = self.points
        steps = (np.arange(p) + 0.5) / p - 0.5
        fine = [(axis[:, None] + steps).ravel() for axis in (y, x)]
        linear = self._mesh.linear(float(y.mean()), float(x.mean()))
        turned = abs(linear[0, 0] * linear[1, 1]) < abs(linear[0, 1] * linear[1, 0])
        along, across = linear[::-1] if turned else linear
        if self._mesh.complete and abs(along[1]) <= _MAX_TILT * abs(across[1]) and abs(across[0]) <= _MAX_TILT * abs(along[0]):
            value, noise = self._two_passes(section, fine[0], fine[1], turned=bool(turned))
        else:
            where = [surface.on(fine[0], fine[1]) for surface in (self._mesh.y, self._mesh.x)]
            origin = (section.top, section.left)
            shifted = [_shifted(factors, -start) for factors, start in zip(where, origin, strict=True)]
            value, noise = anywhere(section.signal, section.noise, (shifted[0], shifted[1]), self._order)
        if p > 1:
            value, noise = (plane.reshape(len(y), p, len(x), p).mean(axis=(1, 3), dtype=np.float32) for plane in (value, noise))
        return value, noise

    def _two_passes(self, section: _Section, y: Floats, x: Floats, *, turned: bool) -> tuple[FloatImage, FloatImage]:
        signal, noise = (section.signal.T, section.noise.T) if turned else (section.signal, section.noise)
        first, second = (section.left, section.top) if turned else (section.top, section.left)
        count = signal.shape[0]
        ends = ((first, first + count - 1), (x[0], x[-1]))
        nodes = [np.linspace(start, stop, max(6, int(stop - start) // _NODES + 2)) for start, stop in ends]
        crossing = row_crossings(self._mesh, nodes[0], nodes[1], transposed=turned)
        lines = np.arange(first, first + count, dtype=np.float64)
        signal, noise = along_rows(signal, noise, _shifted(crossing.on(lines, x), -second), self._order)
        across = self._mesh.x if turned else self._mesh.y
        return along_columns(signal, noise, _shifted(across.on(y, x), -first), self._order)

    def _deliver(
        self, section: _Section, values: tuple[FloatImage, FloatImage], y: Floats, x: Floats, out: list[NDArray[Any]], *, inside: bool
    ) -> None:
        """Areas, DQ and coverage into the planes of the block, a few rows at a time."""
        factors = [surface.on(y, x) for surface in (self._mesh.area, self._mesh.x, self._mesh.y)]
        step = max(1, _CHUNK // len(x))
        for start in range(0, len(y), step):
            rows = slice(start, start + step)
            ratio = (factors[0][0][rows] @ factors[0][1]).astype(np.float32)
            value, noise = (plane[rows] * ratio for plane in values)
            if ratio.max() > self.points**2:
                noise *= np.maximum(np.float32(1.0), ratio / np.float32(self.points**2))
            bits: NDArray[Any] = np.zeros(ratio.shape, np.uint32)
            if section.causes is not None or not inside:
                rx, ry = (first[rows] @ second for first, second in factors[1:])
                bits = section.bits(rx, ry)
                covered = self._covered(rx, ry)
                if not covered.all():
                    value, noise = np.where(covered, value, np.float32(0)), np.where(covered, noise, np.float32(1))
                    bits = np.where(covered, bits, np.uint32(DQ.NO_COVERAGE | DQ.REFERENCE))
            out[0][rows], out[1][rows], out[2][rows] = value, noise, bits


class _Section:
    """The reference's planes under a window: holes filled, causes spread; `top`, `left` are its first row and column."""

    def __init__(self, planes: tuple[Plane, Plane, Plane], rows: slice, columns: slice, order: int) -> None:
        data, variance, dq = (np.asarray(plane[rows, columns]) for plane in planes)
        self.top, self.left = rows.start, columns.start
        good = usable_pixels(data, variance, dq)
        bad = np.flatnonzero(~good)
        filled = [np.asarray(plane, np.float32) for plane in (data, variance)]
        self.signal, self.noise = fill_planes(filled, good, _FILL_SIGMA) if len(bad) else filled
        nameless = bad[(np.take(dq, bad) & np.uint32(UNUSABLE)) == 0]
        if len(nameless):
            dq = dq.copy()
            np.put(dq, nameless, np.uint32(DQ.NOT_FINITE))
        self.causes = spread_causes(dq, self.signal, self.noise, good, order)

    def bits(self, rx: Floats, ry: Floats) -> DQImage:
        """Causes at the nearest pixels, with REFERENCE beside every one."""
        if self.causes is None:
            return np.zeros(rx.shape, np.uint32)
        ny, nx = self.causes.shape
        row = np.clip(np.rint(ry) - self.top, 0, ny - 1)
        row *= nx
        row += np.clip(np.rint(rx) - self.left, 0, nx - 1)
        bits: DQImage = np.take(self.causes, row.astype(np.intp), mode="wrap")
        bits[bits != 0] |= np.uint32(DQ.REFERENCE)
        return bits


def _cuts(whole: slice, side: int) -> list[slice]:
    """The slice in even parts of about `side`."""
    edges = np.linspace(whole.start, whole.stop, max(1, round((whole.stop - whole.start) / side)) + 1).astype(int)
    return [slice(int(start), int(stop)) for start, stop in pairwise(edges)]


def _shifted(factors: tuple[Floats, Floats], shift: float) -> tuple[Floats, Floats]:
    """Factors whose product is larger by `shift`: basis splines sum to one, so every coefficient moves by it."""
    return factors[0] + shift, factors[1]


def _blank(shape: tuple[int, int]) -> tuple[FloatImage, FloatImage, DQImage]:
    """Planes of a window without coverage."""
    return np.zeros(shape, np.float32), np.ones(shape, np.float32), np.full(shape, np.uint32(DQ.NO_COVERAGE | DQ.REFERENCE))


def to_grid(
    data: FloatImage, variance: FloatImage, dq: DQImage, mapping: Mapping, shape: tuple[int, int], config: ResampleConfig
) -> Resampled:
    """Resample the whole reference onto the science grid of shape (ny, nx): see `Resampler`."""
    return Resampler(data, variance, dq, mapping, shape, config).window(slice(0, shape[0]), slice(0, shape[1]))


def noise_response(rx: Floats, ry: Floats, linear: Floats, weight: NDArray[np.float64], order: int, points: int) -> float:
    """Power that resampling leaves of white noise, averaged over frequencies with the matched filter's weight.

    Interpolated noise is correlated: its variance a pixel drops, but at the scales of the PSF, where the score looks, its power
    stays near that of the original. An output sample is a weighted sum of reference pixels; the weights' autocorrelation along
    either axis, at the sub-pixel phases and the scale of the mapping, gives the power spectrum of the output's noise, relative
    to white noise of the variance that `Resampler` states. 1 for a shift by whole pixels.

    Parameters
    ----------
    rx, ry
        (n,) reference positions that sample the phases, px; those that are not finite are left out.
    linear
        (2, 2) d(reference x, y) / d(science x, y).
    weight
        (m, m), |k_r^|^2 on the frequencies of `numpy.fft.fftfreq` of the science grid.
    order, points
        Degree of the spline, and points of a science pixel along each axis that are averaged.
    """
    known = np.isfinite(rx) & np.isfinite(ry)
    total = float(weight.sum())
    if not known.any() or total <= 0:
        return 1.0
    if abs(linear[0, 0] * linear[1, 1]) < abs(linear[0, 1] * linear[1, 0]):
        rx, ry = ry, rx
        linear = linear[::-1]
    scales = [round(float(np.hypot(*row)), 3) for row in linear]
    tables = [_phase_power(scale, weight.shape[0], order, points) for scale in scales]
    chosen = [np.rint(axis[known] * _PHASES).astype(np.intp) % _PHASES for axis in (rx, ry)]
    power_x, power_y = tables[0][chosen[0]], tables[1][chosen[1]]
    return float(np.mean(np.einsum("nm,nm->n", power_y @ weight, power_x)) / total)


@lru_cache(maxsize=64)
def _phase_power(scale: float, length: int, order: int, points: int) -> Floats:
    """(phases, length) power spectra of resampled unit white noise along one axis, relative to `scale` (or to what is averaged).

    Row p: outputs at the positions p / phases + scale * i.
    """
    lags, outputs = min(_LAGS, length // 2), _OUTPUTS
    steps = (np.arange(points) + 0.5) / points - 0.5
    far = reach(order) + order
    pixels = np.arange(-far, int(np.ceil(scale * outputs)) + far + 1)
    fourier = np.cos(2 * np.pi * np.fft.fftfreq(length)[None, :] * np.arange(lags)[:, None]) * np.where(np.arange(lags) > 0, 2, 1)[:, None]
    out = np.empty((_PHASES, length))
    for phase in range(_PHASES):
        place = phase / _PHASES + scale * (np.arange(outputs)[:, None] + steps[None, :])
        rows = scale * cardinal(place[:, :, None] - pixels, order).mean(axis=1)
        gram = rows @ rows.T
        out[phase] = np.array([np.trace(gram, lag) / (outputs - lag) for lag in range(lags)]) @ fourier
    return out / (scale * max(1.0, scale / points))


def map_psf(psf: Psf, jacobian: Floats, order: int) -> Psf:
    """A reference PSF as it looks on the science grid: its stamp through the local affine d(reference) / d(science).

    Interpolated by the spline of degree `order` that resamples the image, so that it suffers what the stars suffer. The result has
    odd side, unit sum, and keeps method, number of stars and residual of the original.
    """
    middle = (psf.stamp.shape[0] - 1) / 2
    both = coefficients(coefficients(psf.stamp.astype(np.float32), order, 0), order, 1)
    linear = float(np.sqrt(abs(np.linalg.det(jacobian))))
    half = max(3, int(np.ceil(middle / linear)))
    points = max(1, int(np.ceil(linear - 0.25)))
    steps = (np.arange(points) + 0.5) / points - 0.5
    offset = (np.arange(-half, half + 1)[:, None] + steps).ravel()
    dy, dx = np.meshgrid(offset, offset, indexing="ij")
    rx, ry = (row[0] * dx + row[1] * dy for row in jacobian)
    inside = np.maximum(abs(rx), abs(ry)) <= middle + 0.5
    fine = np.where(inside, at_points(both, ry + middle, rx + middle, order), 0.0)
    stamp = fine.reshape(2 * half + 1, points, 2 * half + 1, points).sum(axis=(1, 3))
    stamp = stamp / stamp.sum()
    return Psf(stamp.astype(np.float32), psf.method, psf.n_stars, stamp_fwhm(stamp), psf.residual)

"""A smooth mapping between two pixel grids, tabulated on a coarse mesh and evaluated by matrix products."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline, RectBivariateSpline

from astrid.core.records import PixelMap

Floats = NDArray[np.float64]
Function = Callable[[Floats, Floats], tuple[Floats, Floats]]

_DEGREE = 5  # of the splines through the mesh's nodes
_LOST = -1e6  # px, stands for a position that the projection cannot give
_ROUNDS = 5  # of the inversion; each gains the relative variation of the slope, some 1e-3


def tabulate(mapping: Function, shape: tuple[int, int], step: int) -> PixelMap:
    """A mapping of science to reference pixels at nodes at most `step` px apart, for a product to carry; `shape`: (ny, nx) of its grid."""
    y, x = (np.linspace(0.0, size - 1.0, -(-max(size - 1, 1) // step) + 1) for size in shape)
    gx, gy = np.meshgrid(x, y)
    return PixelMap(np.stack([values.reshape(gx.shape) for values in mapping(gx.ravel(), gy.ravel())]), shape)


class Surface:
    """A tensor-product interpolating spline through values on a grid, (len(y), len(x))."""

    def __init__(self, y: Floats, x: Floats, values: Floats, degree: int) -> None:
        self._spline = RectBivariateSpline(y, x, values, kx=degree, ky=degree)
        self._degree = degree
        ty, tx, coefficients = self._spline.tck[:3]
        self._knots = (np.asarray(ty), np.asarray(tx))
        self._coefficients = np.asarray(coefficients).reshape(len(ty) - degree - 1, len(tx) - degree - 1)

    def on(self, y: Floats, x: Floats) -> tuple[Floats, Floats]:
        """Factors (len(y), m) and (m, len(x)) whose product is the surface on the grid of `y` and `x`; clamped to the nodes.

        Left as factors so that a caller forms the rows that it needs, a few at a time: m multiplications a value.
        """
        by, rows = self._basis(y, 0)
        bx, columns = self._basis(x, 1)
        return np.ascontiguousarray(by @ self._coefficients[rows, columns]), np.ascontiguousarray(bx.T)

    def at(self, y: Floats, x: Floats) -> Floats:
        """Values at scattered points; clamped to the nodes."""
        return np.asarray(self._spline.ev(y, x))

    def _basis(self, points: Floats, axis: int) -> tuple[Floats, slice]:
        knots, k = self._knots[axis], self._degree
        matrix = BSpline.design_matrix(np.clip(points, knots[0], knots[-1]), knots, k)
        first, last = int(matrix.indices.min()), int(matrix.indices.max()) + 1
        return matrix[:, first:last].toarray(), slice(first, last)


class MappingMesh:
    """Science to reference pixels over a science grid of shape (ny, nx): positions and the area of a science pixel.

    Parameters
    ----------
    mapping
        (x, y) of science to (x, y) of reference, vectorised, px.
    shape
        (ny, nx), px.
    step
        Science px between nodes. Where the mapping has no answer for a node (NaN), the splines become linear and the
        positions nearby land far outside any image.
    """

    def __init__(self, mapping: Function, shape: tuple[int, int], step: int) -> None:
        ny, nx = shape
        y = np.linspace(-1.0 - step, ny + step, max(6, -(-(ny + 2 * step) // step) + 1))
        x = np.linspace(-1.0 - step, nx + step, max(6, -(-(nx + 2 * step) // step) + 1))
        gx, gy = np.meshgrid(x, y)
        rx, ry = mapping(gx.ravel(), gy.ravel())
        self.complete = bool(np.isfinite(rx).all() and np.isfinite(ry).all())
        rx, ry = rx.reshape(gx.shape), ry.reshape(gx.shape)
        slopes = [np.gradient(values, nodes, axis=axis) for values in (rx, ry) for nodes, axis in ((x, 1), (y, 0))]
        area = np.abs(slopes[0] * slopes[3] - slopes[1] * slopes[2])
        if not self.complete:
            area = np.where(np.isfinite(area), area, np.median(area[np.isfinite(area)]) if np.isfinite(area).any() else 1.0)
        rx, ry = np.nan_to_num(rx, nan=_LOST), np.nan_to_num(ry, nan=_LOST)
        degree = _DEGREE if self.complete else 1
        self.x = Surface(y, x, rx, degree)
        self.y = Surface(y, x, ry, degree)
        self.area = Surface(y, x, area, 1)
        self._limits = (y[0], y[-1], x[0], x[-1])

    def bounds(self, y: Floats, x: Floats) -> tuple[float, float, float, float]:
        """Least and greatest reference x, then y, over the grid of `y` and `x`."""
        values = [np.matmul(*surface.on(y, x)) for surface in (self.x, self.y)]
        return float(values[0].min()), float(values[0].max()), float(values[1].min()), float(values[1].max())

    def linear(self, y: float, x: float) -> Floats:
        """(2, 2) derivative d(reference x, y) / d(science x, y)."""
        step = 0.5
        py, px = np.array([y, y, y - step, y + step]), np.array([x - step, x + step, x, x])
        rx, ry = self.x.at(py, px), self.y.at(py, px)
        return np.array([[rx[1] - rx[0], rx[3] - rx[2]], [ry[1] - ry[0], ry[3] - ry[2]]])


def row_crossings(mesh: MappingMesh, rows: Floats, x: Floats, *, transposed: bool) -> Surface:
    """Where the curve of a science column crosses a reference row: reference x as a surface over (reference row, science x).

    For the reference row v and the science column x, solves Y(x, y) = v for y and gives X(x, y), by chord iterations on the
    nodes `rows` x `x`. `transposed` exchanges the axes of the reference: Y is then its x, and v one of its columns.
    """
    along, across = (mesh.y, mesh.x) if transposed else (mesh.x, mesh.y)
    low, high = mesh._limits[:2]
    gv, gx = np.meshgrid(rows, x, indexing="ij")
    ends = [across.at(np.full(len(x), end), x) for end in (low, high)]
    slope = ((ends[1] - ends[0]) / (high - low))[None, :]
    y = low + (gv - ends[0][None, :]) / slope
    for _ in range(_ROUNDS):
        inside = np.clip(y, low, high)
        y += (gv - across.at(inside.ravel(), gx.ravel()).reshape(gx.shape) - (y - inside) * slope) / slope
    inside = np.clip(y, low, high)
    tilt = (along.at(np.full(len(x), high), x) - along.at(np.full(len(x), low), x)) / (high - low)
    values = along.at(inside.ravel(), gx.ravel()).reshape(gx.shape) + (y - inside) * tilt[None, :]
    return Surface(rows, x, values, _DEGREE)

"""The continuous PSF of one image: an elliptical Moffat, free wings and a free core that may vary over the field.

The free parts are cubic B-splines on square grids of knots, found by least squares over the pixels of all stars, each at its own
sub-pixel offset (the effective PSF of Anderson & King 2000, PASP 112, 1360). On the pixels of one star the basis is a product of
a row and a column matrix; so its normal matrix takes three small matrix products, and with the monomials of the star's place
it serves every degree of spatial variation (PSFEx, Bertin 2011).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from astrid.imaging.stars.profile import Cutouts, Floats, Moffat, cubic_matrix, field_monomials

_BAND = 4  # knots a cubic B-spline overlaps with, itself and to one side
_CHUNK = 64  # stars whose normal matrices are built at once


@dataclass(frozen=True, eq=False)
class Knots:
    """Cubic B-splines on a square grid centred on the star: `side` knots (odd) a side, `spacing` px apart."""

    side: int
    spacing: float
    free: NDArray[np.bool_]  # (side, side) knots that may be non-zero

    def matrices(self, offset: Floats) -> tuple[Floats, Floats]:
        """(n, k, side) weights of the knots at (n, k) offsets from the star, px, and their slopes, 1/px."""
        value, slope = cubic_matrix(offset / self.spacing + (self.side - 1) / 2, self.side)
        return value, slope / self.spacing


def knots_within(radius: float, spacing: float) -> Knots:
    """Knots whose splines vanish beyond `radius` px."""
    half = max(2, int(np.floor(radius / spacing)))
    axis = np.arange(-half, half + 1)
    distance = np.hypot(axis[:, None], axis[None, :]) * spacing
    return Knots(2 * half + 1, spacing, distance <= max(radius - spacing, 1.5 * spacing))


@dataclass(frozen=True, eq=False)
class Layer:
    """A free part of the PSF: coefficients of the constant and of each spatial term."""

    knots: Knots
    coefficients: Floats  # (1 + m, side, side)
    frame: tuple[float, float, float]  # x0, y0, scale, px

    def at(self, x: Floats, y: Floats) -> Floats:
        """(n or 1, side, side): coefficients at each place."""
        if len(self.coefficients) == 1:
            return self.coefficients
        weights = np.c_[np.ones(len(x)), field_monomials(x, y, self.frame, len(self.coefficients) - 1)]
        return np.tensordot(weights, self.coefficients, axes=1)

    def planes(self, cutouts: Cutouts, y: Floats, x: Floats) -> Floats:
        """As `profile.Field.planes`."""
        rows, row_slopes = self.knots.matrices(cutouts.y[:, :, 0] - y[:, None])
        columns, column_slopes = self.knots.matrices(cutouts.x[:, 0, :] - x[:, None])
        local = self.at(x, y)
        across, slopes = local @ columns.swapaxes(1, 2), local @ column_slopes.swapaxes(1, 2)
        return np.stack([rows @ across, -(rows @ slopes), -(row_slopes @ across)], axis=1)


@dataclass(frozen=True, eq=False)
class Shape:
    """Moffat plus free layers; a `profile.Field`."""

    base: Moffat
    layers: tuple[Layer, ...] = ()

    def planes(self, cutouts: Cutouts, y: Floats, x: Floats) -> Floats:
        """As `profile.Field.planes`."""
        total = self.base.planes(cutouts, y, x)
        for layer in self.layers:
            total += layer.planes(cutouts, y, x)
        return total

    def stamps(self, half: int, terms: int, centre: tuple[float, float]) -> Floats:
        """(1 + terms, k, k): values at pixel centres about `centre` (dy, dx), of the constant and of each spatial term."""
        offset = np.arange(-half, half + 1, dtype=float)
        dy, dx = offset + centre[0], offset + centre[1]
        out = np.zeros((1 + terms, len(offset), len(offset)))
        out[0] = self.base(dy[:, None], dx[None, :])
        for layer in self.layers:
            rows, columns = layer.knots.matrices(dy[None])[0][0], layer.knots.matrices(dx[None])[0][0]
            out[: len(layer.coefficients)] += rows @ layer.coefficients @ columns.T
        return out

    def __call__(self, dy: Floats, dx: Floats) -> Floats:
        """The constant part on a grid of offsets, px."""
        total = np.array(self.base(dy, dx))
        for layer in self.layers:
            rows = layer.knots.matrices(dy[:, :1].T)[0][0]
            columns = layer.knots.matrices(dx[:1])[0][0]
            total += rows @ layer.coefficients[0] @ columns.T
        return total


@dataclass(frozen=True, eq=False)
class Evidence:
    """What n stars say about a layer: residuals of unit flux, their weights and the basis at their pixels."""

    knots: Knots
    residual: Floats  # (n, k, k), (star - the other parts) / flux
    weight: Floats  # (n, k, k)
    rows: Floats  # (n, k, side)
    columns: Floats  # (n, k, side)
    x: Floats
    y: Floats

    def part(self, chosen: NDArray[np.bool_]) -> Evidence:
        """Some of the stars."""
        names = ("residual", "weight", "rows", "columns", "x", "y")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})

    def chi2(self, layer: Layer) -> Floats:
        """(n,) weighted squared residuals that a layer leaves."""
        left = self.residual - self.rows @ layer.at(self.x, self.y) @ self.columns.swapaxes(1, 2)
        return np.asarray((self.weight * left * left).sum(axis=(1, 2)))


@dataclass(frozen=True, eq=False)
class _Normal:
    """Each star's normal matrix (its upper half, by the offsets of the second knot) and right side."""

    matrix: Floats  # (n, 4 side, 7 side): (row offset, row), (column offset, column)
    right: Floats  # (n, side, side)


def evidence(cutouts: Cutouts, x: Floats, y: Floats, residual: Floats, weight: Floats, knots: Knots) -> Evidence:
    """Join residuals with the basis of a layer."""
    rows, _ = knots.matrices(cutouts.y[:, :, 0] - y[:, None])
    columns, _ = knots.matrices(cutouts.x[:, 0, :] - x[:, None])
    return Evidence(knots, residual, weight, rows, columns, x, y)


def solve(seen: Evidence, prior: Prior, terms: int, frame: tuple[float, float, float]) -> Layer:
    """The layer with `terms` spatial terms that follows the evidence, held smooth and small by the prior."""
    return _solved(_normal(seen), seen, prior, terms, frame)


@dataclass(frozen=True, eq=False)
class Prior:
    """What is believed of a layer before the stars: its second differences and its coefficients are about zero."""

    roughness: float  # 1 sigma of a second difference between knots
    size: Floats  # (side, side) 1 sigma of a coefficient
    variation: float = 1.0  # both, of a spatial term relative to the constant


def _normal(seen: Evidence) -> _Normal:
    n, _, side = seen.rows.shape
    matrix = np.zeros((n, _BAND * side, (2 * _BAND - 1) * side))
    for low in range(0, n, _CHUNK):
        at = slice(low, low + _CHUNK)
        down = _pairs(seen.rows[at], range(_BAND))
        across = _pairs(seen.columns[at], range(1 - _BAND, _BAND))
        matrix[at] = down.swapaxes(1, 2) @ (seen.weight[at] @ across)
    right = seen.rows.swapaxes(1, 2) @ (seen.weight * seen.residual) @ seen.columns
    return _Normal(matrix, right)


def _pairs(basis: Floats, offsets: range) -> Floats:
    """(n, k, offsets * side): products of each knot's spline with those at the offsets from it."""
    n, k, side = basis.shape
    out = np.zeros((n, k, len(offsets), side))
    for index, offset in enumerate(offsets):
        first, second = slice(max(0, -offset), side - max(0, offset)), slice(max(0, offset), side - max(0, -offset))
        out[:, :, index, first] = basis[:, :, first] * basis[:, :, second]
    return out.reshape(n, k, len(offsets) * side)


def _solved(normal: _Normal, seen: Evidence, prior: Prior, terms: int, frame: tuple[float, float, float]) -> Layer:
    """Banded Cholesky solution; unknowns are ordered by row, column, term."""
    side, count = seen.knots.side, 1 + terms
    weights = np.c_[np.ones(len(seen.x)), field_monomials(seen.x, seen.y, frame, terms)]
    products = (weights[:, :, None] * weights[:, None, :]).reshape(len(weights), -1)
    shape = (count, count, _BAND, side, 2 * _BAND - 1, side)
    full = (products.T @ normal.matrix.reshape(len(weights), -1)).reshape(shape)
    believed = _belief(prior, seen.knots).reshape(_BAND, side, 2 * _BAND - 1, side)
    for term in range(count):
        full[term, term] += believed if term == 0 else believed / prior.variation**2
    right = np.tensordot(weights, normal.right, axes=(0, 0))  # (count, side, side)
    band = _banded(full, side, count)
    solution = linalg.solveh_banded(band, right.transpose(1, 2, 0).ravel(), lower=True, overwrite_ab=True, check_finite=False)
    return Layer(seen.knots, np.ascontiguousarray(solution.reshape(side, side, count).transpose(2, 0, 1)), frame)


def _banded(full: Floats, side: int, count: int) -> Floats:
    """Lower banded form of the symmetric matrix given by terms, row offset, row, column offset and column."""
    size = side * side * count
    band = np.zeros((((_BAND - 1) * side + _BAND) * count, size))
    row, column = np.arange(side)[:, None], np.arange(side)[None, :]
    for down in range(_BAND):
        for index, across in enumerate(range(1 - _BAND, _BAND)):
            inside = (row + down < side) & (column + across >= 0) & (column + across < side)
            at = ((row * side + column) * count)[inside]
            for first in range(count):
                for second in range(count):
                    step = (down * side + across) * count + second - first
                    if step >= 0:
                        band[step, at + first] = full[first, second, down, :, index, :][inside]
    return band


def _belief(prior: Prior, knots: Knots) -> Floats:
    """The prior as a quadratic form, in the layout of a star's normal matrix; knots that are not free are pinned to zero."""
    side = knots.side
    out = np.zeros((_BAND, side, 2 * _BAND - 1, side))
    second = np.diff(np.eye(side), n=2, axis=0)
    square = second.T @ second / prior.roughness**2
    centre = _BAND - 1
    for offset in range(3):
        diagonal = np.pad(np.diagonal(square, offset), (0, offset))
        out[offset, :, centre, :] += diagonal[:, None]
        out[0, :, centre + offset, :] += diagonal[None, :]
        if offset:
            out[0, :, centre - offset, :] += np.roll(diagonal, offset)[None, :]
    out[0, :, centre, :] += 1.0 / prior.size**2
    out[0, :, centre, :] += np.where(knots.free, 0.0, 1e6 * (out[0, :, centre, :].max() + 1.0))
    return out

"""Affine and low-order polynomial transformations fitted to matched stars, and the scatter that they leave."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize, stats

Floats = NDArray[np.float64]

_CHI2_CAP = 9.0  # a residual counts at most this in the chi^2 that tells the scatter
_NODES = 17  # nodes a side of the tabulated scatter
_NEIGHBOURS = 40.0  # effective stars that tell the scatter of a place
_PRIOR = 3.0  # stars that the scatter of the whole image counts as, beside them
_CELL_STARS = 15  # stars a cell, in the test whether the scatter varies
_MOST_CELLS = 6  # cells a side


@dataclass(frozen=True, eq=False)
class Transform:
    """moved = centre + matrix @ d + shift + terms, d = point - centre.

    The terms are the monomials of degree 2 and more of (u, v) = d / scale, clamped to the box of the stars that they were
    fitted to, so that the transformation goes on as an affine one beyond them.
    """

    matrix: Floats  # (2, 2)
    shift: Floats  # (2,), px
    centre: Floats  # (2,), px
    degree: int = 1
    coefficients: Floats | None = None  # (m, 2), px
    scale: float = 1.0  # px
    box: tuple[float, float, float, float] = (-1.0, 1.0, -1.0, 1.0)  # least and greatest u, then v

    def __call__(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Moved positions, px."""
        dx, dy = x - self.centre[0], y - self.centre[1]
        cx = self.centre[0] + self.matrix[0, 0] * dx + self.matrix[0, 1] * dy + self.shift[0]
        cy = self.centre[1] + self.matrix[1, 0] * dx + self.matrix[1, 1] * dy + self.shift[1]
        if self.coefficients is None:
            return cx, cy
        terms = self.terms(dx, dy)
        extra = np.tensordot(terms, self.coefficients, axes=([0], [0]))
        return cx + extra[..., 0], cy + extra[..., 1]

    def points(self, points: Floats) -> Floats:
        """The same of (n, 2) points."""
        x, y = self(points[:, 0], points[:, 1])
        return np.asarray(np.stack((x, y), axis=-1))

    def terms(self, dx: Floats, dy: Floats) -> Floats:
        """(m, ...) monomials of degree 2 to `degree` at offsets from the centre, px."""
        u = np.clip(dx / self.scale, self.box[0], self.box[1])
        v = np.clip(dy / self.scale, self.box[2], self.box[3])
        return monomials(u, v, self.degree)

    def design(self, points: Floats) -> Floats:
        """(n, 3 + m) rows of the linear model at (n, 2) points: constant, u, v and the terms."""
        offset = points - self.centre
        rows = [np.ones((1, len(points))), offset.T / self.scale, self.terms(offset[:, 0], offset[:, 1])]
        return np.ascontiguousarray(np.concatenate(rows).T)


def monomials(u: Floats, v: Floats, degree: int) -> Floats:
    """(m, ...) products u^a v^b with 2 <= a + b <= degree."""
    out = [np.prod(chosen, axis=0) for d in range(2, degree + 1) for chosen in combinations_with_replacement((u, v), d)]
    return np.asarray(out) if out else np.zeros((0, *np.shape(u)))


def fit_polynomial(source: Floats, target: Floats, weight: Floats, centre: Floats, degree: int) -> Transform:
    """Weighted least squares of target = transform(source), (n, 2) each, px; degree 1 is affine."""
    scale = max(float(np.abs(source - centre).max()), 1.0)
    low, high = (source - centre).min(axis=0) / scale, (source - centre).max(axis=0) / scale
    frame = Transform(np.eye(2), np.zeros(2), centre, degree, None, scale, (low[0], high[0], low[1], high[1]))
    root = np.sqrt(weight)[:, None]
    solution = np.asarray(np.linalg.lstsq(frame.design(source) * root, (target - centre) * root, rcond=None)[0], np.float64)
    coefficients = solution[3:] if degree > 1 else None
    return Transform(solution[1:3].T / scale, solution[0], centre, degree, coefficients, scale, frame.box)


def significantly_better(source: Floats, target: Floats, weight: Floats, low: Transform, high: Transform, level: float) -> bool:
    """F-test of two nested weighted fits to the same stars: does the higher degree lower chi^2 by more than noise does?

    With Gaussian errors of any common scale, noise alone passes with the probability `level`.
    """
    chi2 = [float(np.sum(weight[:, None] * (target - fit.points(source)) ** 2)) for fit in (low, high)]
    parameters = [2 * fit.design(source[:1]).shape[1] for fit in (low, high)]
    free = 2 * len(source) - parameters[1]
    if free < 1 or chi2[1] <= 0:
        return False
    ratio = (chi2[0] - chi2[1]) / (parameters[1] - parameters[0]) / (chi2[1] / free)
    return bool(stats.f.sf(ratio, parameters[1] - parameters[0], free) < level)


def excess(residual: Floats, error: Floats) -> float:
    """The Gaussian scatter s that, added in quadrature to the errors, makes the (capped) chi^2 a residual one."""

    def surplus(s: float) -> float:
        return float(np.mean(np.minimum(residual**2 / (error**2 + s**2), _CHI2_CAP)) - 1.0)

    if len(residual) < 2 or surplus(0.0) <= 0:
        return 0.0
    top = 2.0 * float(np.max(np.abs(residual))) + 1e-12
    return float(optimize.brentq(surplus, 0.0, top, xtol=1e-5)) if surplus(top) < 0 else top


@dataclass(frozen=True, eq=False)
class ScatterField:
    """Scatter along x and y on an even grid of nodes over an image; linear between them, constant beyond."""

    x: Floats  # (k,), px
    y: Floats  # (k,), px
    sigma: Floats  # (2, k, k), px: of x and of y, by (row, column)

    def at(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """(sigma_x, sigma_y) at pixel positions, px."""
        x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
        column = (x - self.x[0]) / (self.x[1] - self.x[0])
        row = (y - self.y[0]) / (self.y[1] - self.y[0])
        values = [ndimage.map_coordinates(plane, [row.ravel(), column.ravel()], order=1, mode="nearest") for plane in self.sigma]
        return values[0].reshape(x.shape), values[1].reshape(x.shape)


def scatter_field(
    shape: tuple[int, int], fit: Transform, where: Floats, residual: Floats, error: Floats, beyond: tuple[float, float], level: float
) -> ScatterField:
    """Scatter beyond the centroid errors, with the error of the fit, over an image of shape (ny, nx).

    Parameters
    ----------
    fit
        The fitted transformation; its design gives the error of the fit at any place.
    where, residual, error
        (n, 2) stars, px; (n, 2) residuals with their degrees of freedom made good, px; (n,) centroid errors, px.
    beyond
        Scatter beyond the errors over the whole image, along x and y, px.
    level
        Chance that a scatter that is the same everywhere counts as varying (Kruskal & Wallis 1952, on the residuals' lengths by
        cells). Where it varies, it is a Gaussian-weighted mean over some 40 stars, drawn to the image's by three more.
    """
    x, y = (np.linspace(0.0, max(n - 1, 1), _NODES) for n in shape[::-1])
    gx, gy = (axis.ravel() for axis in np.meshgrid(x, y))
    nodes = np.c_[gx, gy]
    variance = [np.full(len(nodes), value**2) for value in beyond]
    if _varies(where, residual / np.sqrt(error[:, None] ** 2 + np.square(beyond)), level):
        variance = _smoothed(nodes, where, residual, error, beyond)
    design, stars = fit.design(nodes), fit.design(where)
    sigma = []
    for axis in (0, 1):
        weight = 1.0 / (error**2 + beyond[axis] ** 2)
        covariance = np.linalg.pinv(stars.T @ (stars * weight[:, None]))
        of_fit = np.einsum("np,pq,nq->n", design, covariance, design)
        sigma.append(np.sqrt(variance[axis] + np.maximum(of_fit, 0.0)).reshape(_NODES, _NODES))
    return ScatterField(x, y, np.asarray(sigma))


def _varies(where: Floats, residual: Floats, level: float) -> bool:
    """Do the lengths of the (n, 2) residuals, in units of their expected scatter, differ over the cells of the field?"""
    side = min(_MOST_CELLS, int(np.sqrt(len(where) / _CELL_STARS)))
    if side < 2:
        return False
    low, high = where.min(axis=0), where.max(axis=0)
    cell = np.clip((side * (where - low) / np.maximum(high - low, 1e-9)).astype(int), 0, side - 1)
    length = np.hypot(residual[:, 0], residual[:, 1])
    if np.ptp(length) == 0:
        return False
    index = cell[:, 0] * side + cell[:, 1]
    groups = [length[index == value] for value in np.unique(index)]
    return len(groups) > 1 and float(stats.kruskal(*groups).pvalue) < level


def _smoothed(nodes: Floats, where: Floats, residual: Floats, error: Floats, beyond: tuple[float, float]) -> list[Floats]:
    """Excess variance along x and y at the nodes."""
    area = float(np.prod(np.ptp(where, axis=0)))
    width = np.sqrt(_NEIGHBOURS * area / (4.0 * np.pi * len(where)))
    apart = np.sum((nodes[:, None, :] - where[None, :, :]) ** 2, axis=2)
    kernel = np.exp(-0.5 * (apart - apart.min(axis=1, keepdims=True)) / width**2)
    share = kernel / kernel.sum(axis=1, keepdims=True)
    effective = 1.0 / np.sum(share**2, axis=1)
    out = []
    for axis in (0, 1):
        local = share @ (residual[:, axis] ** 2 - error**2)
        out.append(np.maximum((effective * local + _PRIOR * beyond[axis] ** 2) / (effective + _PRIOR), 0.0))
    return out

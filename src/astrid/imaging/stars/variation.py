"""How a PSF changes over its field: polynomials in the place, of the few ways in which a PSF is likely to change.

To first order a PSF is stretched and sheared, blurred by another small kernel, and skewed; the modes are those derivatives of the PSF
itself. A few numbers a term, instead of a free image, can be told from a few dozen stars.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrid.imaging.stars.profile import Floats, field_monomials
from astrid.imaging.stars.shape import Evidence, Layer, Shape

_FOLDS = 4  # of the cross-validation
_FIRST, _MANY = 3, 40  # modes that fewer stars than so many are asked for: stretch and shear
_HELD = 2.0  # of the median size of a gain, where it is held
_STEP = 0.5  # knots, of the derivatives
_SIZE = 0.05  # 1 sigma of a mode's coefficient; a mode of 1 changes the PSF by as much as its peak


@dataclass(frozen=True, eq=False)
class _Sums:
    """Each star's normal matrix of the modes and its right side."""

    matrix: Floats  # (n, K, K)
    right: Floats  # (n, K)
    chi2: Floats  # (n,) without any mode
    x: Floats
    y: Floats


def modes(shape: Shape, layer: Layer) -> Floats:
    """(K, side, side) spline coefficients of the modes of a PSF, each with the peak of the PSF.

    Stretch and shear x P_x, y P_y, x P_y + y P_x (with 2 P, so that the flux stays), blur P_xx, P_xy, P_yy, skew P_xxx, P_xxy,
    P_xyy, P_yyy.
    """
    knots = layer.knots
    step = _STEP * knots.spacing
    axis = (np.arange(2 * knots.side + 5, dtype=np.float64) - (2 * knots.side + 4) / 2) * step
    y, x = np.meshgrid(axis, axis, indexing="ij")
    psf = shape(y, x)
    down, across = (np.gradient(psf, step, axis=which) for which in (0, 1))
    yy, xy, xx = np.gradient(down, step, axis=0), np.gradient(down, step, axis=1), np.gradient(across, step, axis=1)
    skews = (np.gradient(xx, step, axis=1), np.gradient(xx, step, axis=0), np.gradient(yy, step, axis=1), np.gradient(yy, step, axis=0))
    planes = (psf + x * across, psf + y * down, x * down + y * across, xx, xy, yy, *skews)
    out = []
    for plane in planes:
        sampled = np.where(knots.free, plane[3:-2:2, 3:-2:2], 0.0)
        out.append(ndimage.spline_filter(sampled * (psf.max() / np.abs(sampled).max()), order=3, mode="mirror"))
    return np.stack(out)


def vary(seen: Evidence, layer: Layer, shapes: Floats, candidates: list[int], significance: float) -> Layer:
    """A constant layer with the number of spatial terms that predicts stars best which it was not made from.

    Parameters
    ----------
    seen
        What the stars say about the layer.
    layer
        The constant layer.
    shapes
        (K, side, side) output of `modes`; few stars are asked for the first three alone.
    candidates
        Numbers of spatial terms to choose from, ascending.
    significance
        Going up the ladder, more terms are taken when they lower the chi^2 of left-out stars (four-fold cross-validation) by more
        than so many standard errors (see `_significance`).
    """
    if candidates == [0]:
        return layer
    if len(seen.x) < _MANY:
        shapes = shapes[:_FIRST]
    sums = _sums(seen, layer, shapes)
    chosen = _choose(sums, layer.frame, candidates, significance)
    if chosen == 0:
        return layer
    amounts = _amounts(sums, chosen, layer.frame)
    coefficients = np.tensordot(amounts, shapes, axes=1)
    coefficients[0] += layer.coefficients[0]
    return replace(layer, coefficients=coefficients)


def _choose(sums: _Sums, frame: tuple[float, float, float], candidates: list[int], significance: float) -> int:
    chosen = candidates[0]
    if len(candidates) > 1:
        fold = np.arange(len(sums.x)) % _FOLDS
        best = _left_out(sums, chosen, frame, fold)
        for terms in candidates[1:]:
            trial = _left_out(sums, terms, frame, fold)
            if _significance(best - trial) > significance:
                chosen, best = terms, trial
    return chosen


def _sums(seen: Evidence, layer: Layer, shapes: Floats) -> _Sums:
    left = seen.residual - seen.rows @ layer.at(seen.x, seen.y) @ seen.columns.swapaxes(1, 2)
    n = len(seen.x)
    planes = (seen.rows[:, None] @ shapes[None] @ seen.columns.swapaxes(1, 2)[:, None]).reshape(n, len(shapes), -1)
    weighted = planes * seen.weight.reshape(n, 1, -1)
    flat = left.reshape(n, -1, 1)
    return _Sums(weighted @ planes.swapaxes(1, 2), (weighted @ flat)[:, :, 0], (seen.weight * left * left).sum(axis=(1, 2)), seen.x, seen.y)


def _amounts(sums: _Sums, terms: int, frame: tuple[float, float, float], kept: NDArray[np.bool_] | None = None) -> Floats:
    """(1 + terms, K) coefficients of the modes, of the constant and of each term, from the kept stars."""
    use = np.ones(len(sums.x), bool) if kept is None else kept
    weights = np.c_[np.ones(int(use.sum())), field_monomials(sums.x[use], sums.y[use], frame, terms)]
    count = sums.right.shape[1]
    normal = np.einsum("na,nb,nij->aibj", weights, weights, sums.matrix[use], optimize=True).reshape((1 + terms) * count, -1)
    right = (weights.T @ sums.right[use]).ravel()
    return np.asarray(np.linalg.solve(normal + np.eye(len(normal)) / _SIZE**2, right)).reshape(1 + terms, count)


def _left_out(sums: _Sums, terms: int, frame: tuple[float, float, float], fold: NDArray[np.int_]) -> Floats:
    """(n,) chi^2 of each star under the modes that the other folds give."""
    chi2 = np.zeros(len(sums.x))
    for part in range(_FOLDS):
        out = fold == part
        weights = np.c_[np.ones(int(out.sum())), field_monomials(sums.x[out], sums.y[out], frame, terms)]
        own = weights @ _amounts(sums, terms, frame, ~out)
        chi2[out] = sums.chi2[out] - 2.0 * (own * sums.right[out]).sum(axis=1) + np.einsum("ni,nij,nj->n", own, sums.matrix[out], own)
    return chi2


def _significance(gain: Floats) -> float:
    """Mean gain of a star over its standard error, large gains and losses held so that a few bright stars do not decide."""
    limit = _HELD * float(np.median(np.abs(gain)))
    held = np.clip(gain, -limit, limit)
    error = float(held.std()) / np.sqrt(len(held))
    return float(held.mean()) / error if error > 0 else 0.0

"""Continuous star profiles, and the fit of position, flux and background of many stars at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrid.core.records import DQImage, FloatImage, Psf
from astrid.imaging.sizes import FWHM_PER_SIGMA
from astrid.imaging.stars import usable_pixels

_STEP = 0.05  # px, of the derivative of a profile
_MAX_MOVE = 0.5  # px, the most a position moves in one round
_LEAST_KNOWN = 0.5  # of a cutout's pixels that must be usable
_MAX_DRIFT = 1.5  # px, a fit that ends farther than this from its start is discarded

Floats = NDArray[np.float64]


class Profile(Protocol):
    """A star of unit flux as a function of the offset from its centre, integrated over pixels."""

    def __call__(self, dy: Floats, dx: Floats) -> Floats: ...


@dataclass(frozen=True)
class Moffat:
    """An elliptical Moffat profile (1 + q)^-beta of unit flux; q is a quadratic form of the offset.

    `alpha` px, radius along the major axis; `ratio` minor over major; `angle` rad from x to the major axis.
    """

    alpha: float
    beta: float
    ratio: float = 1.0
    angle: float = 0.0

    def __call__(self, dy: Floats, dx: Floats) -> Floats:
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        along, across = cos * dx + sin * dy, cos * dy - sin * dx
        q = (along**2 + (across / self.ratio) ** 2) / self.alpha**2
        peak = (self.beta - 1.0) / (np.pi * self.alpha**2 * self.ratio)
        return np.asarray(peak * (1.0 + q) ** -self.beta)

    @property
    def fwhm(self) -> float:
        """Geometric mean of the full widths at half maximum, px."""
        return float(2.0 * self.alpha * np.sqrt(self.ratio * (2.0 ** (1.0 / self.beta) - 1.0)))


@dataclass(frozen=True, eq=False)
class SplineProfile:
    """A B-spline on a square grid of knots centred on the star: zero outside it."""

    coefficients: Floats  # (m, m), m odd
    spacing: float  # px
    order: int

    def __call__(self, dy: Floats, dx: Floats) -> Floats:
        centre = (self.coefficients.shape[0] - 1) / 2
        where = np.stack([np.ravel(dy), np.ravel(dx)]) / self.spacing + centre
        values = ndimage.map_coordinates(self.coefficients, where, order=self.order, mode="constant", prefilter=False)
        return np.asarray(values).reshape(np.shape(dy))


@dataclass(frozen=True, eq=False)
class SumProfile:
    """Base profile plus a correction that fades out between `inner` and `outer` px from the centre."""

    base: Profile
    correction: Profile
    inner: float
    outer: float

    def __call__(self, dy: Floats, dx: Floats) -> Floats:
        total = np.array(self.base(dy, dx))
        taper = np.clip((self.outer - np.hypot(dy, dx)) / (self.outer - self.inner), 0.0, 1.0)
        core = taper > 0
        smooth = taper[core] * taper[core] * (3.0 - 2.0 * taper[core])
        total[core] += smooth * self.correction(dy[core], dx[core])
        return total


def profile_of(psf: Psf) -> SplineProfile:
    """A PSF stamp as a continuous profile (quintic interpolating spline)."""
    return SplineProfile(ndimage.spline_filter(psf.stamp.astype(np.float64), order=5, mode="mirror"), 1.0, 5)


def stamp_fwhm(stamp: NDArray[Any]) -> float:
    """FWHM of a PSF stamp in px: diameter of the circle at half its peak, from the area above half maximum on a fine grid."""
    fine = 8
    profile = SplineProfile(ndimage.spline_filter(stamp.astype(np.float64), order=3, mode="mirror"), 1.0, 3)
    centre = (stamp.shape[0] - 1) / 2
    axis = np.arange(-centre, centre + 0.5 / fine, 1.0 / fine)
    reach = np.abs(axis) <= centre
    dy, dx = np.meshgrid(axis[reach], axis[reach], indexing="ij")
    values = profile(dy, dx)
    return float(2.0 * np.sqrt((values > 0.5 * values.max()).sum() / np.pi) / fine)


def windowed_centre(profile: Profile, fwhm: float) -> tuple[float, float]:
    """(dy, dx) of a profile's Gaussian-windowed centroid, px; the window's FWHM is that of the profile."""
    sigma = fwhm / FWHM_PER_SIGMA
    axis = np.arange(-4.0 * sigma, 4.0 * sigma + 1e-9, sigma / 4.0)
    gy, gx = np.meshgrid(axis, axis, indexing="ij")
    window = np.exp(-(gy**2 + gx**2) / (2.0 * sigma**2))
    y = x = 0.0
    for _ in range(20):
        weight = window * profile(gy + y, gx + x)
        total = weight.sum()
        step_y, step_x = 2.0 * (weight * gy).sum() / total, 2.0 * (weight * gx).sum() / total
        y, x = y + step_y, x + step_x
        if max(abs(step_y), abs(step_x)) < 1e-6:
            break
    return float(y), float(x)


@dataclass(frozen=True, eq=False)
class Cutouts:
    """Square cutouts of n stars: values, inverse variances (0 = unusable) and the pixel grid of each."""

    data: Floats  # (n, k, k)
    weight: Floats  # (n, k, k)
    y: Floats  # (n, k, 1), px of the image
    x: Floats  # (n, 1, k)


def cut_out(data: FloatImage, variance: FloatImage, dq: DQImage, x: Floats, y: Floats, half: int) -> Cutouts:
    """Cut (2 half + 1)-sided squares about the nearest pixels; pixels outside the image get zero weight."""
    ny, nx = data.shape
    offset = np.arange(-half, half + 1)
    rows = np.round(y).astype(int)[:, None, None] + offset[None, :, None]
    columns = np.round(x).astype(int)[:, None, None] + offset[None, None, :]
    inside = (rows >= 0) & (rows < ny) & (columns >= 0) & (columns < nx)
    at = (np.clip(rows, 0, ny - 1), np.clip(columns, 0, nx - 1))
    values, noise = data[at], variance[at]
    good = usable_pixels(values, noise, dq[at]) & inside
    weight = np.where(good, 1.0 / np.where(good, noise, 1.0), 0.0)
    return Cutouts(np.where(good, values, 0.0).astype(np.float64), weight.astype(np.float64), rows.astype(float), columns.astype(float))


@dataclass(frozen=True, eq=False)
class StarFit:
    """Least-squares position, flux and background of n stars, with 1-sigma errors; `good` where the fit converged."""

    x: Floats
    y: Floats
    flux: Floats
    background: Floats  # unit a pixel
    error_x: Floats
    error_y: Floats
    error_flux: Floats
    chi2: Floats  # a degree of freedom
    good: NDArray[np.bool_]


def fit_stars(cutouts: Cutouts, x: Floats, y: Floats, profile: Profile, *, iterations: int = 4, model_error: float = 0.01) -> StarFit:
    """Fit flux * profile(offset) + background to every cutout by Gauss-Newton from the given positions.

    `model_error` is the relative error of the profile that, in quadrature to the pixels' noise, keeps the brightest pixels of
    the brightest stars from steering the fit; the reported errors use the pixels' noise alone.
    """
    n = len(x)
    if n == 0:
        none = np.zeros(0)
        return StarFit(none, none, none, none, none, none, none, none, np.zeros(0, bool))
    px, py = x.astype(float).copy(), y.astype(float).copy()
    weight = cutouts.weight
    solution, design, residual = np.zeros((n, 4)), np.zeros((n, 4, 1)), np.zeros_like(cutouts.data)
    for _ in range(iterations):
        design = _design(cutouts, px, py, profile)
        solution = _solve(design, weight, cutouts.data)[0]
        flux = np.where(solution[:, 0] > 0, solution[:, 0], np.inf)
        px += np.clip(solution[:, 1] / flux, -_MAX_MOVE, _MAX_MOVE)
        py += np.clip(solution[:, 2] / flux, -_MAX_MOVE, _MAX_MOVE)
        model = solution[:, 0, None, None] * design[:, 0].reshape(cutouts.data.shape)
        weight = np.where(cutouts.weight > 0, 1.0 / (1.0 / np.maximum(cutouts.weight, 1e-300) + (model_error * model) ** 2), 0.0)
    design = _design(cutouts, px, py, profile)
    solution, inverse = _solve(design, weight, cutouts.data)
    pixel = np.einsum("nij,njp,np,nkp->nik", inverse, design, (weight**2 / np.maximum(cutouts.weight, 1e-300)).reshape(n, -1), design)
    covariance = np.einsum("nik,njk->nij", pixel, inverse)
    model = np.einsum("ni,nip->np", solution, design).reshape(cutouts.data.shape)
    residual = cutouts.data - model
    freedom = np.maximum((cutouts.weight > 0).sum(axis=(1, 2)) - 4, 1)
    chi2 = (weight * residual**2).sum(axis=(1, 2)) / freedom
    flux = solution[:, 0]
    error = np.sqrt(np.maximum(np.einsum("nii->ni", covariance), 0.0))
    good = (flux > 0) & (np.hypot(px - x, py - y) < _MAX_DRIFT) & np.isfinite(chi2) & (error[:, 0] > 0) & _whole(cutouts)
    scale = np.where(flux > 0, flux, np.inf)
    return StarFit(px, py, flux, solution[:, 3], error[:, 1] / scale, error[:, 2] / scale, error[:, 0], chi2, good)


def _whole(cutouts: Cutouts) -> NDArray[np.bool_]:
    """True for stars whose innermost 3 x 3 px are all usable and most of the rest as well."""
    known = cutouts.weight > 0
    middle = known.shape[1] // 2
    core = known[:, middle - 1 : middle + 2, middle - 1 : middle + 2].all(axis=(1, 2))
    return np.asarray(core & (known.mean(axis=(1, 2)) > _LEAST_KNOWN))


def _design(cutouts: Cutouts, x: Floats, y: Floats, profile: Profile) -> Floats:
    """(n, 4, pixels): the profile, minus its slopes along x and y, and one."""
    dy = np.broadcast_to(cutouts.y - y[:, None, None], cutouts.data.shape)
    dx = np.broadcast_to(cutouts.x - x[:, None, None], cutouts.data.shape)
    n = len(x)
    slope_x = (profile(dy, dx - _STEP) - profile(dy, dx + _STEP)) / (2.0 * _STEP)
    slope_y = (profile(dy - _STEP, dx) - profile(dy + _STEP, dx)) / (2.0 * _STEP)
    planes = (profile(dy, dx), slope_x, slope_y, np.ones_like(dy))
    return np.stack([plane.reshape(n, -1) for plane in planes], axis=1)


def _solve(design: Floats, weight: Floats, data: Floats) -> tuple[Floats, Floats]:
    n = len(data)
    weighted = design * weight.reshape(n, 1, -1)
    normal = weighted @ np.swapaxes(design, 1, 2)
    diagonal = np.einsum("nii->ni", normal)
    scale = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    scaled = normal / (scale[:, :, None] * scale[:, None, :]) + 1e-9 * np.eye(4)
    inverse = np.linalg.inv(scaled) / (scale[:, :, None] * scale[:, None, :])
    right = np.einsum("nip,np->ni", weighted, data.reshape(n, -1))
    return np.einsum("nij,nj->ni", inverse, right), inverse

"""Continuous star profiles, and the fit of position, flux and background of many stars at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrid.core.records import DQImage, FloatImage, Psf, monomials
from astrid.imaging.stars.find import Plane, usable_pixels
from astrid.imaging.stars.sizes import FWHM_PER_SIGMA

_MAX_MOVE = 0.5  # px, the most a position moves in one round
_LEAST_KNOWN = 0.5  # of a cutout's pixels that must be usable
_MAX_DRIFT = 1.5  # px, a fit that ends farther than this from its start is discarded
_REACH = 6  # px beyond a cutout that a stamp's spline needs: its support, and the drift of a position
_CHUNK = 512  # stars fitted at once

_FINE = 25  # points a px, of the area above half maximum
_MOST_POINTS = 401  # a side, of that grid
_HALF_REACH = 0.3  # of the peak; the contour at half maximum lies within the pixels above this

Floats = NDArray[np.float64]


class Profile(Protocol):
    """A star of unit flux as a function of the offset from its centre, integrated over pixels."""

    def __call__(self, dy: Floats, dx: Floats) -> Floats: ...


class Field(Protocol):
    """Stars of unit flux at many places of an image, on the pixels of their cutouts."""

    def planes(self, cutouts: Cutouts, y: Floats, x: Floats) -> Floats:
        """(n, 3, k, k): the profile of stars at (x, y), px, at the cutouts' pixels, and its derivatives by the star's x and y."""
        ...


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
        along, across = self._axes(dy, dx)
        return np.asarray(self._peak * (1.0 + along**2 + across**2) ** -self.beta)

    def planes(self, cutouts: Cutouts, y: Floats, x: Floats) -> Floats:
        """As `Field.planes`."""
        along, across = self._axes(cutouts.y - y[:, None, None], cutouts.x - x[:, None, None])
        base = 1.0 + along**2 + across**2
        value = self._peak * base**-self.beta
        slope = 2.0 * self.beta * value / base / self.alpha
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        across = across / self.ratio
        return np.stack([value, slope * (along * cos - across * sin), slope * (along * sin + across * cos)], axis=1)

    def _axes(self, dy: Floats, dx: Floats) -> tuple[Floats, Floats]:
        """Offsets along the major and the minor axis in units of their radii."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return (cos * dx + sin * dy) / self.alpha, (cos * dy - sin * dx) / (self.alpha * self.ratio)

    @property
    def _peak(self) -> float:
        return float((self.beta - 1.0) / (np.pi * self.alpha**2 * self.ratio))

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
class StampField:
    """A PSF's stamps as continuous profiles at many places at once: quintic splines of the stamp and of each spatial term.

    On the pixels of a cutout a spline with knots a pixel apart is a separable sum over six knots a side, with one set of weights a
    star; so a star costs two small matrix products and its slopes are exact.
    """

    coefficients: Floats  # (1 + m, K, K)
    frame: tuple[float, float, float]  # x0, y0, scale, px

    def planes(self, cutouts: Cutouts, y: Floats, x: Floats) -> Floats:
        """(n, 3, k, k): the profile at the cutouts' pixels and its derivatives by the star's x and y."""
        reach = cutouts.data.shape[1] // 2 + _REACH
        middle = self.coefficients.shape[1] // 2
        low, high = max(0, middle - reach), middle + reach + 1
        near = self.coefficients[:, low:high, low:high]
        stamps = near[:1] if len(near) == 1 else np.tensordot(self._weights(x, y), near, axes=1)
        centre, side = float(middle - low), near.shape[1]
        rows, row_slopes = _quintic_matrix(cutouts.y[:, :, 0] - y[:, None] + centre, side)
        columns, column_slopes = _quintic_matrix(cutouts.x[:, 0, :] - x[:, None] + centre, side)
        across, slopes = stamps @ columns.swapaxes(1, 2), stamps @ column_slopes.swapaxes(1, 2)
        return np.asarray(np.stack([rows @ across, -(rows @ slopes), -(row_slopes @ across)], axis=1))

    def values(self, cutouts: Cutouts, y: Floats, x: Floats) -> Floats:
        """(n, k, k): the profile alone, of stars that may lie outside their cutouts."""
        stamps = self.coefficients[:1] if len(self.coefficients) == 1 else np.tensordot(self._weights(x, y), self.coefficients, axes=1)
        middle, side = self.coefficients.shape[1] // 2, self.coefficients.shape[1]
        rows = _quintic_matrix(cutouts.y[:, :, 0] - y[:, None] + middle, side)[0]
        columns = _quintic_matrix(cutouts.x[:, 0, :] - x[:, None] + middle, side)[0]
        return np.asarray(rows @ stamps @ columns.swapaxes(1, 2))

    def _weights(self, x: Floats, y: Floats) -> Floats:
        """(n, 1 + m): one, and the monomials of each place."""
        return np.column_stack([np.ones(len(x)), field_monomials(x, y, self.frame, len(self.coefficients) - 1)])


def field_monomials(x: Floats, y: Floats, frame: tuple[float, float, float], count: int) -> Floats:
    """(n, count) monomials u, v, u^2, ... of places in a PSF's frame, as `core.records.Psf.at` evaluates them."""
    x0, y0, scale = frame
    u, v = (np.clip((np.asarray(value, dtype=np.float64) - origin) / scale, -1.0, 1.0) for value, origin in ((x, x0), (y, y0)))
    return np.array([monomials(a, b, count) for a, b in zip(u, v, strict=True)]).reshape(len(u), count)


def field_of(psf: Psf) -> StampField:
    """A PSF, constant or varying, as continuous profiles over its image."""
    stamps = psf.stamp[None] if psf.terms is None else np.concatenate([psf.stamp[None], psf.terms])
    return StampField(np.stack([ndimage.spline_filter(stamp.astype(np.float64), order=5, mode="mirror") for stamp in stamps]), psf.frame)


def cubic_matrix(position: Floats, side: int) -> tuple[Floats, Floats]:
    """(n, k, side) weights of cubic B-splines with knots at 0 ... side - 1, at (n, k) positions, and their slopes."""
    distance = position[:, :, None] - np.arange(side)
    size = np.abs(distance)
    far, near = np.maximum(2.0 - size, 0.0), np.maximum(1.0 - size, 0.0)
    far2, near2 = far * far, near * near
    return (far2 * far - 4.0 * near2 * near) / 6.0, np.sign(distance) * (4.0 * near2 - far2) / 2.0


def _quintic_matrix(position: Floats, side: int) -> tuple[Floats, Floats]:
    """The same for quintic B-splines."""
    distance = position[:, :, None] - np.arange(side)
    size = np.abs(distance)
    far, middle, near = (np.maximum(reach - size, 0.0) for reach in (3.0, 2.0, 1.0))
    fourth = tuple(np.square(np.square(reach)) for reach in (far, middle, near))
    value = (far * fourth[0] - 6.0 * middle * fourth[1] + 15.0 * near * fourth[2]) / 120.0
    return value, np.sign(distance) * (-fourth[0] + 6.0 * fourth[1] - 15.0 * fourth[2]) / 24.0


def profile_of(psf: Psf) -> SplineProfile:
    """A PSF stamp as a continuous profile (quintic interpolating spline)."""
    return SplineProfile(ndimage.spline_filter(psf.stamp.astype(np.float64), order=5, mode="mirror"), 1.0, 5)


def stamp_fwhm(stamp: NDArray[Any]) -> float:
    """FWHM of a PSF stamp in px: diameter of the circle at half its peak, from the area above half maximum on a fine grid."""
    profile = SplineProfile(ndimage.spline_filter(stamp.astype(np.float64), order=3, mode="mirror"), 1.0, 3)
    middle = (stamp.shape[0] - 1) / 2
    rows, columns = np.nonzero(stamp > _HALF_REACH * stamp.max())
    reach = min(middle, 1.0 + max(np.abs(rows - middle).max(), np.abs(columns - middle).max()))
    step = max(1.0 / _FINE, 2.0 * reach / _MOST_POINTS)
    axis = np.arange(-reach, reach + 0.5 * step, step)
    values = profile(*np.meshgrid(axis, axis, indexing="ij"))
    return float(2.0 * np.sqrt((values > 0.5 * values.max()).sum() / np.pi) * step)


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

    def part(self, chosen: slice | NDArray[Any]) -> Cutouts:
        """Some of the stars."""
        return Cutouts(self.data[chosen], self.weight[chosen], self.y[chosen], self.x[chosen])


def cut_out(data: Plane, variance: Plane, dq: Plane, x: Floats, y: Floats, half: int) -> Cutouts:
    """Cut (2 half + 1)-sided squares about the nearest pixels; pixels outside the image get zero weight."""
    offset = np.arange(-half, half + 1)
    rows = np.round(y).astype(int)[:, None, None] + offset[None, :, None]
    columns = np.round(x).astype(int)[:, None, None] + offset[None, None, :]
    values, noise, bits, inside = _gather(data, variance, dq, rows, columns)
    good = usable_pixels(values, noise, bits) & inside
    weight = np.where(good, 1.0 / np.where(good, noise, 1.0), 0.0)
    return Cutouts(np.where(good, values, 0.0).astype(np.float64), weight.astype(np.float64), rows.astype(float), columns.astype(float))


def _gather(
    data: Plane, variance: Plane, dq: Plane, rows: NDArray[np.int_], columns: NDArray[np.int_]
) -> tuple[FloatImage, FloatImage, DQImage, NDArray[np.bool_]]:
    """The planes at (n, k, 1) rows and (n, 1, k) columns, and which of them lie inside."""
    ny, nx = data.shape[0], data.shape[1]
    inside = (rows >= 0) & (rows < ny) & (columns >= 0) & (columns < nx)
    down, across = np.clip(rows, 0, ny - 1), np.clip(columns, 0, nx - 1)
    if all(isinstance(plane, np.ndarray) for plane in (data, variance, dq)):
        at = (down, across)
        return data[at], variance[at], dq[at], inside
    shape = inside.shape
    out = (np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.uint32))
    for star in range(shape[0]):
        top, left = int(down[star].min()), int(across[star].min())
        window = (slice(top, int(down[star].max()) + 1), slice(left, int(across[star].max()) + 1))
        local = (down[star] - top, across[star] - left)
        for plane, target in zip((data, variance, dq), out, strict=True):
            target[star] = np.asarray(plane[window])[local]
    return *out, inside


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


def fit_stars(
    cutouts: Cutouts,
    x: Floats,
    y: Floats,
    field: Field,
    *,
    iterations: int = 4,
    model_error: float = 0.01,
    background_error: float = np.inf,
) -> StarFit:
    """Fit flux * profile(offset) + background to every cutout by Gauss-Newton from the given positions.

    `model_error` is the relative error of the profile that, in quadrature to the pixels' noise, keeps the brightest pixels of
    the brightest stars from steering the fit; the reported errors use the pixels' noise alone. `background_error` (unit a pixel)
    is how well the background is known to be 0; infinite = not at all.
    """
    parts = [
        _fit(cutouts.part(at), x[at].astype(float), y[at].astype(float), field, iterations, model_error, background_error**-2)
        for at in (slice(low, low + _CHUNK) for low in range(0, max(len(x), 1), _CHUNK))
    ]
    return StarFit(*(np.concatenate([getattr(part, name) for part in parts]) for name in StarFit.__dataclass_fields__))


def _fit(cutouts: Cutouts, x: Floats, y: Floats, field: Field, iterations: int, model_error: float, prior: float) -> StarFit:
    n = len(x)
    if n == 0:
        none = np.zeros(0)
        return StarFit(none, none, none, none, none, none, none, none, np.zeros(0, bool))
    px, py, weight = x.copy(), y.copy(), cutouts.weight
    for _ in range(iterations):
        design = _design(cutouts, px, py, field)
        solution = _solve(design, weight, cutouts.data, prior)[0]
        flux = np.where(solution[:, 0] > 0, solution[:, 0], np.inf)
        px += np.clip(solution[:, 1] / flux, -_MAX_MOVE, _MAX_MOVE)
        py += np.clip(solution[:, 2] / flux, -_MAX_MOVE, _MAX_MOVE)
        model = solution[:, 0, None, None] * design[:, 0].reshape(cutouts.data.shape)
        weight = np.where(cutouts.weight > 0, 1.0 / (1.0 / np.maximum(cutouts.weight, 1e-300) + (model_error * model) ** 2), 0.0)
    design = _design(cutouts, px, py, field)
    solution, inverse = _solve(design, weight, cutouts.data, prior)
    noise = (weight**2 / np.maximum(cutouts.weight, 1e-300)).reshape(n, 1, -1)
    covariance = inverse @ ((design * noise) @ design.swapaxes(1, 2)) @ inverse
    residual = cutouts.data - (solution[:, None, :] @ design).reshape(cutouts.data.shape)
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


def _design(cutouts: Cutouts, x: Floats, y: Floats, field: Field) -> Floats:
    """(n, 4, pixels): the profile, its derivatives by the star's x and y, and one."""
    n, pixels = len(x), cutouts.data.shape[1] * cutouts.data.shape[2]
    return np.concatenate([field.planes(cutouts, y, x).reshape(n, 3, pixels), np.ones((n, 1, pixels))], axis=1)


def _solve(design: Floats, weight: Floats, data: Floats, prior: float) -> tuple[Floats, Floats]:
    """Solutions (n, 4) and inverse normal matrices; `prior` is the background's, 1 / sigma^2."""
    n = len(data)
    weighted = design * weight.reshape(n, 1, -1)
    normal = weighted @ np.swapaxes(design, 1, 2)
    normal[:, 3, 3] += prior
    diagonal = np.einsum("nii->ni", normal)
    scale = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    scaled = normal / (scale[:, :, None] * scale[:, None, :]) + 1e-9 * np.eye(4)
    inverse = np.linalg.inv(scaled) / (scale[:, :, None] * scale[:, None, :])
    right = weighted @ data.reshape(n, -1, 1)
    return (inverse @ right)[:, :, 0], inverse

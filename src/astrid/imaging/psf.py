"""The PSF of one image as a stamp: from its own stars where they allow it, down a ladder of fallbacks.

The empirical PSF follows the effective-PSF idea of Anderson & King 2000 (PASP 112, 1360): the pixels of all stars, each at its
own sub-pixel offset, sample one continuous profile that already contains the pixel's response. Here that profile is an
elliptical Moffat plus a cubic B-spline correction of the core, found by penalised least squares, so that undersampled
stars need no interpolation and the wings stay free of noise.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize, sparse
from scipy.spatial import cKDTree

from astrid.config.schema.psf import PsfConfig
from astrid.core.errors import ImagingError
from astrid.core.records import DQImage, FloatImage, Psf
from astrid.imaging.profile import (
    Cutouts,
    Floats,
    Moffat,
    Profile,
    SplineProfile,
    StarFit,
    SumProfile,
    cut_out,
    fit_stars,
    profile_of,
    stamp_fwhm,
    windowed_centre,
)
from astrid.imaging.sizes import FWHM_PER_SIGMA
from astrid.imaging.stars import find_stars

_MODEL_ERROR = 0.02  # relative, keeps a few bright stars from deciding the shape alone
_WING_FWHMS = 0.75  # FWHM beyond the core that the Moffat wings are fitted to
_FIT_ROUNDS = 2  # of positions and fluxes between two updates of the shape
_CLIP = 5.0  # sigma, pixels of a star beyond this (neighbours, cosmic rays) do not shape the PSF
_CLIP_PEAK = 0.02  # of the star's peak, added to the noise when clipping
_MOFFAT_START = 3.0  # beta
_MOFFAT_BOUNDS = ([0.2, 1.2, 0.5, -np.pi], [200.0, 60.0, 1.0, np.pi])  # alpha px, beta, ratio, angle
_MAX_SAMPLES = 8000  # pixels that the Moffat fit sees


@dataclass(frozen=True, eq=False)
class _Sample:
    """Stars under work: their cutouts, current fit and the pixels that may shape the PSF."""

    cutouts: Cutouts
    fit: StarFit
    use: NDArray[np.bool_]  # (n, k, k)


def gaussian_psf(fwhm: float, half: int) -> Psf:
    """A circular Gaussian, sampled at pixel centres. `fwhm` px; the stamp's side is 2 half + 1."""
    axis = np.arange(-half, half + 1)
    one = np.exp(-(axis**2) / (2.0 * (fwhm / FWHM_PER_SIGMA) ** 2))
    stamp = np.outer(one, one)
    return Psf((stamp / stamp.sum()).astype(np.float32), "gaussian", fwhm=fwhm)


def given_psf(stamp: NDArray[Any]) -> Psf:
    """A PSF from outside, made square, odd, finite and of unit sum.

    Raises
    ------
    ImagingError
        When the stamp is not 2-D or has no positive sum.
    """
    if stamp.ndim != 2 or not np.isfinite(stamp).all() or stamp.sum() <= 0:
        raise ImagingError(
            f"the given PSF has shape {stamp.shape} and sum {np.nansum(stamp):.3g}; give a finite 2-D stamp of positive sum."
        )
    side = max(stamp.shape) | 1
    padded = np.zeros((side, side))
    top, left = (side - stamp.shape[0]) // 2, (side - stamp.shape[1]) // 2
    padded[top : top + stamp.shape[0], left : left + stamp.shape[1]] = stamp
    return Psf((padded / padded.sum()).astype(np.float32), "given", fwhm=stamp_fwhm(padded))


def estimate_psf(data: FloatImage, variance: FloatImage, dq: DQImage, config: PsfConfig, *, stars: NDArray[Any] | None = None) -> Psf:
    """Estimate the PSF of a sky-subtracted image.

    Parameters
    ----------
    data, variance, dq
        (ny, nx) image, variance and DQ plane.
    config
        Star selection, stamp size and the ladder: empirical (at least `min_empirical` stars), Moffat (`min_moffat`), Gaussian as wide
        as the few star-like sources, Gaussian of `fallback_fwhm`.
    stars
        The output of `find_stars`, when it is already there.

    Returns
    -------
    Psf
        Odd, centred stamp of unit sum; `method` names the rung and `n_stars` what it stands on, `residual` is the median over the
        stars of the RMS of (star - model) / flux over the core.
    """
    found = find_stars(data, variance, dq, config.stars) if stars is None else stars
    chosen = select_stars(found, config)
    if len(chosen) < config.min_moffat:
        return _by_size(found, config)
    fwhm = float(np.median(chosen["fwhm"]))
    profile, sample = _shape(data, variance, dq, chosen, fwhm, config)
    if len(sample.fit.x) < config.min_moffat:
        return _by_size(found, config)
    return _stamp(profile, sample, config)


def _by_size(found: NDArray[Any], config: PsfConfig) -> Psf:
    """The last rung: a Gaussian as wide as the few star-like sources there are (`n_stars`), or of `fallback_fwhm` without any."""
    alike = found["fwhm"][found["flags"] == 0] if len(found) else np.zeros(0)
    fwhm = float(np.median(alike)) if len(alike) else config.fallback_fwhm
    return dataclasses.replace(gaussian_psf(fwhm, _half(fwhm, config)), n_stars=len(alike))


def select_stars(found: NDArray[Any], config: PsfConfig) -> NDArray[Any]:
    """The brightest isolated stars of a `find_stars` list, at most `config.max_stars`.

    Stars fainter than `config.min_snr` count only where the brighter ones are too few for a Moffat fit.
    """
    if len(found) == 0:
        return found
    chosen = _isolated(found, (found["flags"] == 0) & (found["snr"] >= config.min_snr), config)
    return chosen if len(chosen) >= config.min_moffat else _isolated(found, found["flags"] == 0, config)


def _isolated(found: NDArray[Any], star: NDArray[np.bool_], config: PsfConfig) -> NDArray[Any]:
    if not star.any():
        return found[:0]
    tree = cKDTree(np.c_[found["x"], found["y"]])
    radius = config.isolation_fwhms * float(np.median(found["fwhm"][star]))
    kept = []
    for index in np.flatnonzero(star):
        near = [other for other in tree.query_ball_point([found["x"][index], found["y"][index]], radius) if other != index]
        if not np.any(found["flux"][near] > config.isolation_ratio * found["flux"][index]):
            kept.append(index)
    chosen = found[kept]
    return chosen[np.argsort(-chosen["flux"], kind="stable")][: config.max_stars]


def refit_stars(data: FloatImage, variance: FloatImage, dq: DQImage, stars: NDArray[Any], psf: Psf) -> StarFit:
    """PSF-fit positions and fluxes of the given stars, from the stamp as a continuous profile."""
    cutouts = cut_out(data, variance, dq, stars["x"], stars["y"], max(3, int(np.ceil(1.5 * psf.fwhm))))
    return fit_stars(cutouts, stars["x"].astype(float), stars["y"].astype(float), profile_of(psf))


def _half(fwhm: float, config: PsfConfig) -> int:
    return max(3, int(np.ceil(config.stamp_fwhms * fwhm)))


def _shape(
    data: FloatImage, variance: FloatImage, dq: DQImage, chosen: NDArray[Any], fwhm: float, config: PsfConfig
) -> tuple[Profile, _Sample]:
    """Alternate between the stars' positions and fluxes and the common shape."""
    half = int(np.ceil((config.core_fwhms + _WING_FWHMS) * fwhm))
    x, y = chosen["x"].astype(float), chosen["y"].astype(float)
    moffat = Moffat(fwhm / (2.0 * np.sqrt(2.0 ** (1.0 / _MOFFAT_START) - 1.0)), _MOFFAT_START)
    profile: Profile = moffat
    sample = _measure(cut_out(data, variance, dq, x, y, half), x, y, profile)
    for _ in range(config.iterations):
        sample = _drop_outliers(sample, profile, fwhm, config)
        if len(sample.fit.x) < config.min_moffat:
            break
        moffat = _fit_moffat(sample, moffat)
        profile = moffat
        if len(sample.fit.x) >= config.min_empirical:
            profile = _with_core(sample, moffat, config)
        sample = _measure(sample.cutouts, sample.fit.x, sample.fit.y, profile)
    return profile, sample


def _measure(cutouts: Cutouts, x: Floats, y: Floats, profile: Profile) -> _Sample:
    fit = fit_stars(cutouts, x, y, profile, iterations=_FIT_ROUNDS, model_error=_MODEL_ERROR)
    scaled = fit.flux[:, None, None] * profile(*_offsets(cutouts, fit))
    residual = cutouts.data - fit.background[:, None, None] - scaled
    noise = np.sqrt(1.0 / np.maximum(cutouts.weight, 1e-300))
    peak = scaled.max(axis=(1, 2), keepdims=True)
    use = (cutouts.weight > 0) & (np.abs(residual) < _CLIP * (noise + _CLIP_PEAK * peak))
    return _Sample(cutouts, fit, use)


def _offsets(cutouts: Cutouts, fit: StarFit) -> tuple[Floats, Floats]:
    shape = cutouts.data.shape
    dy = np.broadcast_to(cutouts.y - fit.y[:, None, None], shape)
    dx = np.broadcast_to(cutouts.x - fit.x[:, None, None], shape)
    return dy, dx


def _residuals(sample: _Sample, profile: Profile, fwhm: float) -> Floats:
    """RMS of (star - model) / flux over each star's core (within one FWHM)."""
    dy, dx = _offsets(sample.cutouts, sample.fit)
    model = sample.fit.flux[:, None, None] * profile(dy, dx) + sample.fit.background[:, None, None]
    core = (np.hypot(dy, dx) <= fwhm) & (sample.cutouts.weight > 0)
    square = np.where(core, (sample.cutouts.data - model) ** 2, 0.0).sum(axis=(1, 2)) / np.maximum(core.sum(axis=(1, 2)), 1)
    return np.asarray(np.sqrt(square) / np.where(sample.fit.flux > 0, sample.fit.flux, np.nan))


def _drop_outliers(sample: _Sample, profile: Profile, fwhm: float, config: PsfConfig) -> _Sample:
    """Keep the stars whose fit converged and whose core follows the common shape about as well as the others' do."""
    good = sample.fit.good.copy()
    excess = np.sqrt(sample.fit.chi2)
    if good.any():
        good &= excess <= config.max_residual * np.median(excess[good])
    fit = StarFit(*(getattr(sample.fit, name)[good] for name in StarFit.__dataclass_fields__))
    c = sample.cutouts
    return _Sample(Cutouts(c.data[good], c.weight[good], c.y[good], c.x[good]), fit, sample.use[good])


def _samples(sample: _Sample) -> tuple[Floats, Floats, Floats, Floats]:
    """(dy, dx, value / flux, weight) of every pixel that may shape the PSF; weights include the model error."""
    dy, dx = _offsets(sample.cutouts, sample.fit)
    flux = sample.fit.flux[:, None, None]
    value = (sample.cutouts.data - sample.fit.background[:, None, None]) / flux
    noise = 1.0 / (np.maximum(sample.cutouts.weight, 1e-300) * flux**2)
    peak = np.maximum(value.max(axis=(1, 2), keepdims=True), 0.0)
    weight = 1.0 / (noise + (_MODEL_ERROR * np.maximum(value, 0.02 * peak)) ** 2)
    use = sample.use
    return dy[use], dx[use], value[use], weight[use]


def _fit_moffat(sample: _Sample, start: Moffat) -> Moffat:
    dy, dx, value, weight = _samples(sample)
    step = max(1, len(value) // _MAX_SAMPLES)
    dy, dx, value, root = dy[::step], dx[::step], value[::step], np.sqrt(weight[::step])

    def residual(p: Floats) -> Floats:
        shape = Moffat(*p[:4])(dy, dx)
        return np.asarray(root * (p[4] * shape + p[5] - value))

    lower, upper = _MOFFAT_BOUNDS
    ratio = min(start.ratio, 0.98)
    first = np.clip([start.alpha, start.beta, ratio, start.angle], np.array(lower) * 1.001, np.array(upper) * 0.999)
    found = optimize.least_squares(
        residual, [*first, 1.0, 0.0], bounds=([*lower, 0.1, -1.0], [*upper, 10.0, 1.0]), x_scale=[1, 1, 0.1, 1, 1, 0.01], max_nfev=30
    )
    return Moffat(*(float(value) for value in found.x[:4]))


def _with_core(sample: _Sample, moffat: Moffat, config: PsfConfig) -> SumProfile:
    """Moffat plus the penalised B-spline of what the stars show beyond it within the core."""
    outer = config.core_fwhms * moffat.fwhm
    dy, dx, value, weight = _samples(sample)
    core = np.hypot(dy, dx) <= outer
    dy, dx, value, weight = dy[core], dx[core], value[core], weight[core]
    spacing = max(moffat.fwhm / config.knots_per_fwhm, 0.4)
    half = int(np.ceil(outer / spacing)) + 1
    side = 2 * half + 1
    matrix = _basis(dy / spacing + half, dx / spacing + half, side)
    scaled = sparse.diags_array(weight) @ matrix
    normal = (matrix.T @ scaled).toarray()
    penalty = _roughness(side)
    strength = config.smoothness * np.trace(normal) / max(np.trace(penalty), 1e-300)
    right = matrix.T @ (weight * (value - moffat(dy, dx)))
    solved = linalg.solve(normal + strength * penalty + 1e-9 * np.trace(normal) / side**2 * np.eye(side**2), right, assume_a="pos")
    return SumProfile(moffat, SplineProfile(solved.reshape(side, side), spacing, 3), 0.7 * outer, outer)


def _basis(row: Floats, column: Floats, side: int) -> Any:
    """Sparse (samples, side^2) matrix of cubic B-spline products at fractional knot positions."""
    weights, starts = zip(*(_cubic(position) for position in (row, column)), strict=True)
    values = (weights[0][:, :, None] * weights[1][:, None, :]).reshape(len(row), 16)
    at_row = starts[0][:, None, None] + np.arange(4)[None, :, None]
    at_column = starts[1][:, None, None] + np.arange(4)[None, None, :]
    inside = (at_row >= 0) & (at_row < side) & (at_column >= 0) & (at_column < side)
    index = np.where(inside, at_row * side + at_column, 0).reshape(len(row), 16)
    values = np.where(inside.reshape(len(row), 16), values, 0.0)
    pointer = np.arange(0, 16 * len(row) + 1, 16)
    return sparse.csr_array((values.ravel(), index.ravel(), pointer), shape=(len(row), side**2))


def _cubic(position: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """The four cubic B-spline weights at each position, and the first knot they belong to."""
    base = np.floor(position)
    t = position - base
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6.0
    return weights, base.astype(np.intp) - 1


def _roughness(side: int) -> Floats:
    """Sum of squared second differences along both axes, as a quadratic form of the (side^2) coefficients."""
    second = np.diff(np.eye(side), n=2, axis=0)
    square = second.T @ second
    one = np.eye(side)
    return np.asarray(np.kron(square, one) + np.kron(one, square))


def _stamp(profile: Profile, sample: _Sample, config: PsfConfig) -> Psf:
    count = len(sample.fit.x)
    method = "empirical" if isinstance(profile, SumProfile) else "moffat"
    width = profile.base.fwhm if isinstance(profile, SumProfile) and isinstance(profile.base, Moffat) else getattr(profile, "fwhm", 0.0)
    half = _half(width, config)
    centre_y, centre_x = windowed_centre(profile, width)
    offset = np.arange(-half, half + 1, dtype=float)
    dy, dx = np.meshgrid(offset + centre_y, offset + centre_x, indexing="ij")
    stamp = profile(dy, dx)
    residual = float(np.nanmedian(_residuals(sample, profile, width)))
    stamp = stamp / stamp.sum()
    return Psf(stamp.astype(np.float32), method, count, stamp_fwhm(stamp), residual)

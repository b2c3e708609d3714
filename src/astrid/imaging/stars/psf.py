"""The PSF of one image as stamps over its field: from its own stars where they allow it, down a ladder of fallbacks.

The pixels of all stars, each at its own sub-pixel offset, sample one continuous profile that already contains the pixel's
response (Anderson & King 2000, PASP 112, 1360): undersampled stars need no interpolation. `imaging.stars.shape` holds the model.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from scipy.spatial import cKDTree

from astrid.config.schema.psf import PsfConfig
from astrid.core.errors import ImagingError
from astrid.core.records import Psf
from astrid.imaging.stars.find import Plane, StarFlag, find_stars
from astrid.imaging.stars.profile import (
    Cutouts,
    Floats,
    Moffat,
    StarFit,
    cut_out,
    fit_stars,
    stamp_fwhm,
    windowed_centre,
)
from astrid.imaging.stars.shape import Evidence, Layer, Prior, Shape, evidence, knots_within, solve
from astrid.imaging.stars.sizes import FWHM_PER_SIGMA
from astrid.imaging.stars.surroundings import distances, star_levels, without_neighbours
from astrid.imaging.stars.variation import modes, vary

_MODEL_ERROR = 0.02  # relative, keeps a few bright stars from deciding the shape alone
_MODEL_FLOOR = 0.02  # of the peak, least value that this error is taken of
_MOFFAT_ERROR, _MOFFAT_FLOOR = 0.05, 0.5  # the same for the Moffat, which has neither rings nor spikes
_FIT_ROUNDS = 2  # of positions and fluxes between two updates of the shape
_CLIP = 5.0  # sigma, pixels of a star beyond this (neighbours, cosmic rays) do not shape the PSF
_CLIP_PEAK = 0.02  # of the star's peak, added to the noise when clipping
_MOFFAT_START = 3.0  # beta
_MOFFAT_BOUNDS = ([0.2, 1.2, 0.5, -np.pi], [200.0, 60.0, 1.0, np.pi])  # alpha px, beta, ratio, angle
_MAX_SAMPLES = 8000  # pixels that the Moffat fit sees
_WING_KNOTS = 1.0  # FWHM between the knots of the wings
_WING_BEYOND = 2.0  # FWHM beyond the stamp that the knots of the wings reach, so that the wings may end anywhere
_WING_FROM = 1.0  # FWHM, pixels nearer to the star than this do not shape the wings
_WING_SIZE = 3.0  # 1 sigma of a wing's coefficient, in units of the Moffat there ...
_WING_LEAST = 1e-5  # ... and of the peak
_CORE_SIZE = 0.3  # 1 sigma of a core's coefficient, in units of the peak
_CHOOSE_AT = 1  # the round, from 0, that decides how the PSF varies; the later ones keep to it
_LEAST_PHASES = 3  # stars besides the brightest, each at its own sub-pixel offset, that a free core needs at least
_EASE = (1.0, 5.0, 25.0)  # steps by which `isolation_ratio` is loosened while too few stars are isolated


@dataclass(frozen=True, eq=False)
class _Sample:
    """Stars under work: their cutouts without background, current fit and the pixels that may shape the PSF."""

    cutouts: Cutouts
    fit: StarFit
    use: NDArray[np.bool_]  # (n, k, k)
    model: Floats  # (n, k, k), the stars of unit flux


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


def estimate_psf(data: Plane, variance: Plane, dq: Plane, config: PsfConfig, *, stars: NDArray[Any] | None = None) -> Psf:
    """Estimate the PSF of a sky-subtracted image from its isolated stars.

    Parameters
    ----------
    data, variance, dq
        (ny, nx) image, variance and DQ plane: arrays, or objects as `find_stars` takes them.
    config
        Star selection, stamp size and the ladder: empirical with as many spatial terms as the stars support (`max_degree`,
        `stars_per_term`, `significance`), empirical and constant (at least `min_empirical` stars), Moffat (`min_moffat`), Gaussian
        as wide as the few star-like sources, Gaussian of `fallback_fwhm`.
    stars
        The output of `find_stars`, when it is already there.

    Returns
    -------
    Psf
        Odd, centred stamp of unit sum; `method` names the rung and `n_stars` what it stands on, `terms` its variation, `residual` is
        the median over the stars of the RMS of (star - model) / flux over the core, `quadrants` the same by quadrant of the image.
    """
    found = find_stars(data, variance, dq, config.stars) if stars is None else stars
    chosen = select_stars(found, config)
    if len(chosen) < config.min_moffat:
        return _by_size(found, config)
    fwhm = float(np.median(chosen["fwhm"]))
    frame = ((data.shape[1] - 1) / 2, (data.shape[0] - 1) / 2, max(data.shape) / 2)
    cutouts = without_neighbours(cut_out(data, variance, dq, chosen["x"], chosen["y"], _half(fwhm, config)), chosen, found, fwhm)
    shape, sample = _shape(cutouts, chosen, fwhm, frame, config)
    if len(sample.fit.x) < config.min_moffat:
        return _by_size(found, config)
    return _stamp(shape, sample, frame, config)


def _by_size(found: NDArray[Any], config: PsfConfig) -> Psf:
    """The last rung: a Gaussian as wide as the few star-like sources there are (`n_stars`), or of `fallback_fwhm` without any."""
    alike = found["fwhm"][found["flags"] == 0] if len(found) else np.zeros(0)
    fwhm = float(np.median(alike)) if len(alike) else config.fallback_fwhm
    return dataclasses.replace(gaussian_psf(fwhm, _half(fwhm, config)), n_stars=len(alike))


def select_stars(found: NDArray[Any], config: PsfConfig) -> NDArray[Any]:
    """The brightest isolated stars of a `find_stars` list, at most `config.max_stars`.

    Where these are fewer than `config.min_empirical`, stars count that were cut out of a blend, but for which the parts cut off (spikes,
    halos) are faint, and then stars with brighter and brighter neighbours, up to 25 times `config.isolation_ratio`. Stars fainter than
    `config.min_snr` count only where the brighter ones are too few for a Moffat fit.
    """
    if len(found) == 0:
        return found
    alone = found["flags"] == 0
    blended = (found["flags"] & np.uint32(~StarFlag.BLENDED & 0xFFFFFFFF)) == 0
    bright = found["snr"] >= config.min_snr
    chosen = found[:0]
    for star, ratio in ((alone, config.isolation_ratio), *((blended, ease * config.isolation_ratio) for ease in _EASE)):
        chosen = _isolated(found, star & bright, ratio, config)
        if len(chosen) >= config.min_empirical:
            break
    return chosen if len(chosen) >= config.min_moffat else _isolated(found, alone, config.isolation_ratio, config)


def _isolated(found: NDArray[Any], star: NDArray[np.bool_], ratio: float, config: PsfConfig) -> NDArray[Any]:
    if not star.any():
        return found[:0]
    places = np.c_[found["x"], found["y"]]
    radius = config.isolation_fwhms * float(np.median(found["fwhm"][star]))
    pairs = cKDTree(places).query_pairs(radius, output_type="ndarray")
    both = np.concatenate([pairs, pairs[:, ::-1]])
    crowded = np.zeros(len(found), bool)
    crowded[both[found["flux"][both[:, 1]] > ratio * found["flux"][both[:, 0]], 0]] = True
    chosen = found[star & ~crowded]
    return np.asarray(chosen[np.argsort(-chosen["flux"], kind="stable")][: config.max_stars])


def _half(fwhm: float, config: PsfConfig) -> int:
    return max(3, int(np.ceil(config.stamp_fwhms * fwhm)))


def _shape(
    cutouts: Cutouts, chosen: NDArray[Any], fwhm: float, frame: tuple[float, float, float], config: PsfConfig
) -> tuple[Shape, _Sample]:
    """Alternate between the stars' backgrounds, positions and fluxes, and the common shape."""
    shape = Shape(Moffat(fwhm / (2.0 * np.sqrt(2.0 ** (1.0 / _MOFFAT_START) - 1.0)), _MOFFAT_START))
    start = fit_stars(_core(cutouts, fwhm, config), chosen["x"].astype(float), chosen["y"].astype(float), shape, iterations=_FIT_ROUNDS)
    sample = _measure(cutouts, start, shape, fwhm, config)
    terms: list[int] = [0]
    for turn in range(config.iterations):
        sample = _drop_outliers(sample, fwhm, config)
        if len(sample.fit.x) < config.min_moffat:
            break
        base = _fit_moffat(sample, shape.base)
        shape = Shape(base)
        if _rich(sample, config):
            wings = _wings(sample, base, frame, config)
            ladder = _ladder(len(sample.fit.x), config) if turn == _CHOOSE_AT else terms
            core = _free_core(sample, Shape(base, (wings,)), frame, config, ladder)
            terms = [len(core.coefficients) - 1]
            shape = Shape(base, (wings, core))
        sample = _measure(sample.cutouts, sample.fit, shape, fwhm, config)
    return shape, sample


def _rich(sample: _Sample, config: PsfConfig) -> bool:
    """Whether the stars allow a free core: by their number, or, where there are some, by the light of all but the brightest."""
    if len(sample.fit.x) >= config.min_empirical:
        return True
    snr = np.sort(sample.fit.flux / sample.fit.error_flux)[:-1]
    return len(snr) >= _LEAST_PHASES and float(np.sqrt((snr**2).sum())) >= config.empirical_snr


def _ladder(stars: int, config: PsfConfig) -> list[int]:
    """Numbers of spatial terms that so many stars may support, ascending from 0."""
    counts = [(degree + 1) * (degree + 2) // 2 for degree in range(config.max_degree + 1)]
    return [0, *(count - 1 for count in counts[1:] if stars >= config.stars_per_term * count)]


def _crop(cutouts: Cutouts, half: int) -> Cutouts:
    cut = max(0, cutouts.data.shape[1] // 2 - half)
    inner = slice(cut, cutouts.data.shape[1] - cut)
    return Cutouts(cutouts.data[:, inner, inner], cutouts.weight[:, inner, inner], cutouts.y[:, inner], cutouts.x[:, :, inner])


def _core(cutouts: Cutouts, fwhm: float, config: PsfConfig) -> Cutouts:
    return _crop(cutouts, int(np.ceil(config.core_fwhms * fwhm)))


def _measure(cutouts: Cutouts, fit: StarFit, shape: Shape, fwhm: float, config: PsfConfig) -> _Sample:
    """Backgrounds from the outer parts of the cutouts, then positions and fluxes from the core, then the pixels to be used."""
    level = star_levels(cutouts, fit, shape)
    level = np.where(np.isfinite(level), level, fit.background)
    flat = Cutouts(cutouts.data - level[:, None, None], cutouts.weight, cutouts.y, cutouts.x)
    again = fit_stars(
        _core(flat, fwhm, config), fit.x, fit.y, shape, iterations=_FIT_ROUNDS, model_error=_MODEL_ERROR, background_error=1e-9
    )
    model = shape.planes(flat, again.y, again.x)[:, 0]
    scaled = again.flux[:, None, None] * model
    noise = np.sqrt(1.0 / np.maximum(flat.weight, 1e-300))
    peak = scaled.max(axis=(1, 2), keepdims=True)
    use = (flat.weight > 0) & (np.abs(flat.data - scaled) < _CLIP * (noise + _CLIP_PEAK * peak))
    return _Sample(flat, again, use, model)


def _drop_outliers(sample: _Sample, fwhm: float, config: PsfConfig) -> _Sample:
    """Keep the stars whose fit converged and whose core follows the common shape about as well as the others' do.

    A star is dropped when it stands out both against its noise and relative to its flux: bright stars always show what a shape
    lacks, faint ones always scatter.
    """
    good = sample.fit.good.copy()
    excess, relative = np.sqrt(sample.fit.chi2), _residuals(sample, fwhm)
    if good.any():
        limits = (config.max_residual * np.median(excess[good]), config.max_residual * np.median(relative[good]))
        good &= (excess <= limits[0]) | (relative <= limits[1])
    fit = StarFit(*(getattr(sample.fit, name)[good] for name in StarFit.__dataclass_fields__))
    return _Sample(sample.cutouts.part(good), fit, sample.use[good], sample.model[good])


def _scaled(sample: _Sample, error: float = _MODEL_ERROR, least: float = _MODEL_FLOOR) -> tuple[Floats, Floats]:
    """(n, k, k) values of unit flux and their weights, 0 where a pixel may not shape the PSF.

    The weights include the error of the shape, a fraction of its value, which is taken to be at least a fraction `least` of its peak.
    """
    flux = sample.fit.flux[:, None, None]
    noise = 1.0 / (np.maximum(sample.cutouts.weight, 1e-300) * flux**2)
    floor = least * sample.model.max(axis=(1, 2), keepdims=True)
    weight = np.where(sample.use, 1.0 / (noise + (error * np.maximum(sample.model, floor)) ** 2), 0.0)
    return sample.cutouts.data / flux, weight


def _fit_moffat(sample: _Sample, start: Moffat) -> Moffat:
    value, weight = _scaled(sample, _MOFFAT_ERROR, _MOFFAT_FLOOR)
    use = weight > 0
    dy = np.broadcast_to(sample.cutouts.y - sample.fit.y[:, None, None], use.shape)[use]
    dx = np.broadcast_to(sample.cutouts.x - sample.fit.x[:, None, None], use.shape)[use]
    step = max(1, int(use.sum()) // _MAX_SAMPLES)
    dy, dx, value, root = dy[::step], dx[::step], value[use][::step], np.sqrt(weight[use][::step])

    def residual(p: Floats) -> Floats:
        return np.asarray(root * (p[4] * Moffat(*p[:4])(dy, dx) - value))

    lower, upper = _MOFFAT_BOUNDS
    ratio = min(start.ratio, 0.98)
    first = np.clip([start.alpha, start.beta, ratio, start.angle], np.array(lower) * 1.001, np.array(upper) * 0.999)
    found = optimize.least_squares(residual, [*first, 1.0], bounds=([*lower, 0.1], [*upper, 10.0]), x_scale=[1, 1, 0.1, 1, 1], max_nfev=30)
    return Moffat(*(float(value) for value in found.x[:4]))


def _wings(sample: _Sample, base: Moffat, frame: tuple[float, float, float], config: PsfConfig) -> Layer:
    """What the stars show beyond the Moffat outside their cores, on a coarse grid; the same everywhere."""
    knots = knots_within((config.stamp_fwhms + _WING_BEYOND) * base.fwhm, _WING_KNOTS * base.fwhm)
    value, weight = _scaled(sample)
    residual = value - base.planes(sample.cutouts, sample.fit.y, sample.fit.x)[:, 0]
    weight = np.where(distances(sample.cutouts, sample.fit) > _WING_FROM * base.fwhm, weight, 0.0)
    seen = evidence(sample.cutouts, sample.fit.x, sample.fit.y, residual, weight, knots)
    axis: Floats = (np.arange(knots.side, dtype=np.float64) - (knots.side - 1) / 2) * knots.spacing
    there = base(axis[:, None], axis[None, :])
    size = _WING_SIZE * np.minimum(there, base(np.array([0.0]), np.array([_WING_FROM * base.fwhm]))) + _WING_LEAST * there.max()
    return solve(seen, Prior(config.roughness * there.max(), size), 0, frame)


def _free_core(sample: _Sample, rest: Shape, frame: tuple[float, float, float], config: PsfConfig, ladder: list[int]) -> Layer:
    """What the stars show beyond the rest within their cores, varying over the field if they say so."""
    fwhm = rest.base.fwhm
    knots = knots_within(config.core_fwhms * fwhm, max(fwhm / config.knots_per_fwhm, 0.4))
    value, weight = _scaled(sample)
    cut = max(0, sample.cutouts.data.shape[1] // 2 - int(np.ceil(config.core_fwhms * fwhm)) - 1)
    inner = slice(cut, value.shape[1] - cut)
    cutouts = _crop(sample.cutouts, value.shape[1] // 2 - cut)
    residual = value[:, inner, inner] - rest.planes(cutouts, sample.fit.y, sample.fit.x)[:, 0]
    seen: Evidence = evidence(cutouts, sample.fit.x, sample.fit.y, residual, weight[:, inner, inner], knots)
    peak = float(rest.base(np.zeros(1), np.zeros(1))[0])
    prior = Prior(config.roughness * peak, np.full((knots.side, knots.side), _CORE_SIZE * peak))
    constant = solve(seen, prior, 0, frame)
    return vary(seen, constant, modes(Shape(rest.base, (*rest.layers, constant)), constant), ladder, config.significance)


def _stamp(shape: Shape, sample: _Sample, frame: tuple[float, float, float], config: PsfConfig) -> Psf:
    """Sample the shape about its windowed centre, every place of unit sum."""
    width = shape.base.fwhm
    half = _half(width, config)
    count = len(shape.layers[-1].coefficients) - 1 if shape.layers else 0
    stamps = shape.stamps(half, count, windowed_centre(shape, width))
    sums = stamps.sum(axis=(1, 2))
    stamp = stamps[0] / sums[0]
    terms = (stamps[1:] - sums[1:, None, None] * stamp) / sums[0]
    residual = _residuals(sample, width)
    return Psf(
        stamp.astype(np.float32),
        "empirical" if shape.layers else "moffat",
        len(sample.fit.x),
        stamp_fwhm(stamp),
        float(np.nanmedian(residual)),
        terms.astype(np.float32) if count else None,
        frame,
        _by_quadrant(residual, sample.fit, frame),
    )


def _by_quadrant(residual: Floats, fit: StarFit, frame: tuple[float, float, float]) -> tuple[float, ...]:
    right, upper = fit.x > frame[0], fit.y > frame[1]
    parts = [residual[part] for part in (~right & ~upper, right & ~upper, ~right & upper, right & upper)]
    return tuple(float(np.median(part)) if len(part) else float("nan") for part in parts)


def _residuals(sample: _Sample, fwhm: float) -> Floats:
    """(n,) RMS of (star - model) / flux over each star's core (within one FWHM)."""
    flux = np.where(sample.fit.flux > 0, sample.fit.flux, np.nan)
    core = (distances(sample.cutouts, sample.fit) <= fwhm) & (sample.cutouts.weight > 0)
    square = np.where(core, (sample.cutouts.data / flux[:, None, None] - sample.model) ** 2, 0.0).sum(axis=(1, 2))
    return np.asarray(np.sqrt(square / np.maximum(core.sum(axis=(1, 2)), 1)))

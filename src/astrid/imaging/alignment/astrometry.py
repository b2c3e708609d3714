"""The science-to-reference mapping: header world coordinates, refined by matched stars."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from astrid.config.schema.imaging import RegistrationConfig
from astrid.core.errors import NoOverlapError
from astrid.imaging.alignment.distortion import ScatterField, Transform, excess, fit_polynomial, scatter_field, significantly_better
from astrid.imaging.alignment.matching import Pose, attainable, chance_of, commonest_pose, commonest_shift, mutual

if TYPE_CHECKING:
    from astropy.wcs import WCS

Floats = NDArray[np.float64]
Pairs = tuple[NDArray[np.intp], NDArray[np.intp]]  # indices of the science and of the reference list

_MAD = 1.4826  # median absolute deviation -> sigma of a Gaussian
_ROUNDS = 8  # of matching and fitting
_MODEL_PX = 0.002  # px, least centroid error of any star
_LEAST_RADIUS = 0.5  # px, least match radius
_REACH = 3.0  # times the residual that 95 % of the coordinates stay below: six sigma, the next match radius
_NEIGHBOURS = 30  # couples around one whose scatter tells whether it is to be clipped
_CONTENT = 0.5  # of the stars that could match; a shift that explains fewer is not taken without a look at other poses
_FEW = 24  # matches, fewer than this are fitted by an affine map only where it pays
_STARS_A_TERM = 4  # matches needed for every term of a polynomial
_METHODS = ("affine", "quadratic", "cubic", "quartic")
_NO_PAIRS: Pairs = (np.zeros(0, np.intp), np.zeros(0, np.intp))


@dataclass(frozen=True, eq=False)
class Points:
    """Source positions of one image. x, y: px; error: px, 1-sigma a coordinate; flux: unit of the image."""

    x: Floats
    y: Floats
    error: Floats
    flux: Floats


@dataclass(frozen=True, eq=False)
class Mapping:
    """Science pixel -> reference pixel: a fitted correction in science pixels, then the two headers' world coordinates.

    corrected = centre + matrix @ (pixel - centre) + shift, or the `polynomial` in its place.
    """

    wcs_science: WCS
    wcs_reference: WCS
    matrix: Floats  # (2, 2), acts on (x, y)
    shift: Floats  # (2,), px
    centre: Floats  # (2,), px
    polynomial: Transform | None = None  # the same affine part, with terms of a higher degree

    def __call__(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Reference pixel coordinates (x, y) of science pixel coordinates; NaN where the projection has no answer."""
        correction = self.polynomial or Transform(self.matrix, self.shift, self.centre)
        return header_mapping(self.wcs_science, self.wcs_reference, *correction(x, y))

    def jacobian(self, x: float, y: float) -> Floats:
        """(2, 2) derivative d(reference x, y) / d(science x, y) at a science pixel."""
        step = 0.5
        rx, ry = self(np.array([x - step, x + step, x, x]), np.array([y, y, y - step, y + step]))
        return np.array([[rx[1] - rx[0], rx[3] - rx[2]], [ry[1] - ry[0], ry[3] - ry[2]]])


@dataclass(frozen=True, eq=False)
class Registration:
    """A mapping with what is known of its quality; residuals are in science pixels, per matched star."""

    mapping: Mapping
    method: str  # "header", "shift", "similarity", "affine", "quadratic", "cubic" or "quartic"
    n_matched: int
    rms_px: float  # RMS length of the residual vectors; NaN without matches
    median_px: float  # median length
    centroid_px: float  # what the stars' own centroid errors alone would give as RMS
    corners_px: tuple[float, float, float, float]  # median length by quadrant: lower left, lower right, upper left, upper right
    sigma_x: float  # px, registration scatter beyond the centroid errors, with the error of the fit
    sigma_y: float
    scale_arcsec: float  # arcsec a science pixel
    index_science: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, np.intp))  # matched sources
    index_reference: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, np.intp))

    scatter: ScatterField | None = None  # over the image, where the matches allow it

    def scatter_at(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Scatter beyond the centroid errors, with the fit's own error, at science pixels: (sigma_x, sigma_y) of their shape, px."""
        if self.scatter is not None:
            return self.scatter.at(x, y)
        shape = np.broadcast_shapes(np.shape(x), np.shape(y))
        return np.full(shape, self.sigma_x), np.full(shape, self.sigma_y)


def header_mapping(wcs_from: WCS, wcs_to: WCS, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Pixels of one world coordinate system to pixels of another, 0-based; NaN where it has no answer."""
    from astropy.wcs import NoConvergence

    lon, lat = wcs_from.all_pix2world(x, y, 0)
    try:
        px, py = wcs_to.all_world2pix(lon, lat, 0)
    except NoConvergence as failure:
        px, py = failure.best_solution[:, 0].copy(), failure.best_solution[:, 1].copy()
        lost = np.union1d(
            failure.divergent if failure.divergent is not None else [], failure.slow_conv if failure.slow_conv is not None else []
        )
        px[lost.astype(int)], py[lost.astype(int)] = np.nan, np.nan
    return np.asarray(px, float), np.asarray(py, float)


def pixel_scale(wcs: WCS) -> float:
    """Geometric mean size of a pixel, arcsec."""
    from astropy.wcs.utils import proj_plane_pixel_area

    return float(np.sqrt(proj_plane_pixel_area(wcs)) * 3600.0)


def refine(
    science: Points, reference: Points, wcs_science: WCS, wcs_reference: WCS, shape: tuple[int, int], config: RegistrationConfig
) -> Registration:
    """Refine the header mapping with the stars that both images share.

    The stars are matched from the commonest shift of the headers' positions or, where that explains too few of them, from the
    commonest turn, mirror, scale and shift. Then an affine correction is fitted, and polynomials of growing degree as long as
    an F-test says that they fit more than noise.

    Parameters
    ----------
    science, reference
        Stars of the two images, each in its own pixels.
    wcs_science, wcs_reference
        Headers' world coordinates.
    shape
        (ny, nx) of the science image.
    config
        Search radius, clipping, significance, and the ladder: polynomial, affine (`min_affine` matches), shift (`min_shift`), header.

    Returns
    -------
    Registration
        `sigma_x`, `sigma_y`, and by place `scatter_at`, are the scatter of the residuals beyond the centroid errors, for the
        astrometric term of S_corr.

    Raises
    ------
    NoOverlapError
        When the reference's header places none of its sources, nor any of its sky, on the projection of the science image.
    """
    scale = pixel_scale(wcs_science)
    centre = np.array([(shape[1] - 1) / 2.0, (shape[0] - 1) / 2.0])
    header = _by_header(wcs_science, wcs_reference, centre, scale, config)
    if not config.refine or len(reference.x) == 0 or len(science.x) == 0:
        return header
    target_x, target_y = header_mapping(wcs_reference, wcs_science, reference.x, reference.y)
    known = np.flatnonzero(np.isfinite(target_x) & np.isfinite(target_y))
    if len(known) == 0:
        raise NoOverlapError("none of the reference's sources falls on the science image's projection; check the two headers' coordinates.")
    ratio = np.sqrt(abs(np.linalg.det(_header_jacobian(wcs_reference, wcs_science, reference.x[known[0]], reference.y[known[0]]))))
    lists = _Lists(
        np.c_[science.x, science.y],
        np.c_[target_x[known], target_y[known]],
        (science.flux, reference.flux[known]),
        (science.error, reference.error[known] * ratio),
    )
    fit = _best_fit(lists, centre, config)
    if fit is None:
        return header
    mapping = Mapping(wcs_science, wcs_reference, fit.transform.matrix, fit.transform.shift, centre)
    if fit.transform.coefficients is not None:
        mapping = replace(mapping, polynomial=fit.transform)
    return _summary(mapping, fit, lists, known, shape, scale, config)


@dataclass(frozen=True, eq=False)
class _Lists:
    """The stars of both images, in science pixels."""

    source: Floats  # (n, 2)
    target: Floats  # (m, 2), through the two headers
    flux: tuple[Floats, Floats]
    error: tuple[Floats, Floats]  # centroid errors a coordinate, science px

    def errors(self, pairs: Pairs) -> Floats:
        """Centroid errors of the couples' differences, px."""
        return np.asarray(np.sqrt(self.error[0][pairs[0]] ** 2 + self.error[1][pairs[1]] ** 2 + _MODEL_PX**2))


@dataclass(frozen=True, eq=False)
class _Fit:
    transform: Transform
    pairs: Pairs
    method: str
    parameters: float  # an axis
    radius: float  # px, of the last match


def _header_jacobian(wcs_from: WCS, wcs_to: WCS, x: float, y: float) -> Floats:
    return Mapping(wcs_from, wcs_to, np.eye(2), np.zeros(2), np.zeros(2)).jacobian(float(x), float(y))


def _by_header(wcs_science: WCS, wcs_reference: WCS, centre: Floats, scale: float, config: RegistrationConfig) -> Registration:
    mapping = Mapping(wcs_science, wcs_reference, np.eye(2), np.zeros(2), centre)
    nan = float("nan")
    sigma = config.error_header_px
    return Registration(mapping, "header", 0, nan, nan, nan, (nan, nan, nan, nan), sigma, sigma, scale)


def _best_fit(lists: _Lists, centre: Floats, config: RegistrationConfig) -> _Fit | None:
    """From the commonest shift; where that explains less than half of the stars, from the commonest pose if that explains more."""
    stars = (lists.source, lists.flux[0], lists.target, lists.flux[1])
    pose = commonest_shift(*stars, config.search_px)
    best = None if pose is None else _from_pose(lists, pose, centre, config)
    if best is None or len(best.pairs[0]) < _CONTENT * attainable(lists.source, lists.target, config.search_px):
        pose = commonest_pose(*stars, centre, config.search_px, config.scale_tolerance)
        other = None if pose is None else _from_pose(lists, pose, centre, config)
        if other is not None and (best is None or len(other.pairs[0]) > len(best.pairs[0])):
            best = other
    return best if best is None else _distorted(lists, best, config)


def _from_pose(lists: _Lists, pose: Pose, centre: Floats, config: RegistrationConfig) -> _Fit | None:
    """Alternate between mutual nearest neighbours and an affine fit (a shift, when they are few), with a shrinking radius.

    None when the matches are too few, or as many as chance gives with the probability `config.significance`.
    """
    fit = _Fit(Transform(pose.matrix, pose.shift, centre), _NO_PAIRS, "shift", 1.0, config.match_px)
    tree = cKDTree(lists.target)
    for _ in range(_ROUNDS):
        pairs = mutual(fit.transform.points(lists.source), lists.target, tree, fit.radius)
        pairs = _unclipped(lists, fit.transform, pairs, config.clip)
        if len(pairs[0]) < config.min_shift:
            return None
        fit = _fitted(lists, fit.transform, pairs, 1 if len(pairs[0]) >= config.min_affine else 0, config)
    fit = _thrifty(lists, fit, pose, centre)
    moved = fit.transform.points(lists.source)
    if chance_of(len(fit.pairs[0]), fit.parameters, moved, lists.target, fit.radius, pose.trials) > config.significance:
        return None
    return fit


def _thrifty(lists: _Lists, fit: _Fit, pose: Pose, centre: Floats) -> _Fit:
    """Of few stars, the affine fit or the moved pose, whichever predicts better (Mallows 1973, Technometrics 15, 661: F > 2).

    An affine fit to eight stars triples the variance of a shift, while headers of one camera seldom need more than that.
    """
    turned = not np.array_equal(pose.matrix, np.eye(2))
    cheap = replace(fit, method="similarity" if turned else "shift", parameters=2.0 if turned else 1.0)
    if fit.method == "shift" or len(fit.pairs[0]) >= _FEW:
        return cheap if fit.method == "shift" else fit
    source, target = lists.source[fit.pairs[0]], lists.target[fit.pairs[1]]
    weight = _weights(lists, fit.transform, fit.pairs)[:, None]
    still = Transform(pose.matrix, np.zeros(2), centre)
    still = replace(still, shift=np.sum(weight * (target - still.points(source)), axis=0) / weight.sum())
    chi2 = [float(np.sum(weight * (target - transform.points(source)) ** 2)) for transform in (still, fit.transform)]
    more, free = 2.0 * (fit.parameters - cheap.parameters), max(2.0 * (len(source) - fit.parameters), 1.0)
    return fit if chi2[0] - chi2[1] > 2.0 * more * chi2[1] / free else replace(cheap, transform=still)


def _distorted(lists: _Lists, affine: _Fit, config: RegistrationConfig) -> _Fit:
    """Polynomials of growing degree, each kept where an F-test against the best so far shows that it is no fit of noise."""
    best = affine
    tree = cKDTree(lists.target)
    for degree in range(2, config.max_degree + 1):
        fit, radius = best, config.match_px
        needed = _STARS_A_TERM * (degree + 1) * (degree + 2) / 2
        for turn in range(_ROUNDS):
            pairs = mutual(fit.transform.points(lists.source), lists.target, tree, radius)
            pairs = pairs if turn == 0 else _unclipped(lists, fit.transform, pairs, config.clip)
            if len(pairs[0]) < needed:
                return best
            fit = _fitted(lists, fit.transform, pairs, degree, config)
            radius = fit.radius
        source, target = lists.source[fit.pairs[0]], lists.target[fit.pairs[1]]
        weight = _weights(lists, fit.transform, fit.pairs)
        lower = fit_polynomial(source, target, weight, fit.transform.centre, best.transform.degree)
        if significantly_better(source, target, weight, lower, fit.transform, config.significance / (config.max_degree - 1)):
            best = fit
    return best


def _weights(lists: _Lists, transform: Transform, pairs: Pairs) -> Floats:
    delta = lists.target[pairs[1]] - transform.points(lists.source[pairs[0]])
    error = lists.errors(pairs)
    return np.asarray(1.0 / (error**2 + excess((delta - np.median(delta, axis=0)).ravel(), np.repeat(error, 2)) ** 2))


def _fitted(lists: _Lists, before: Transform, pairs: Pairs, degree: int, config: RegistrationConfig) -> _Fit:
    """The next transformation through the couples; degree 0 moves the one before. The radius follows its scatter."""
    source, target = lists.source[pairs[0]], lists.target[pairs[1]]
    weight = _weights(lists, before, pairs)
    if degree == 0:
        move = np.average(target - before.points(source), axis=0, weights=weight)
        transform, method, parameters = replace(before, shift=before.shift + move), "shift", 1.0
    else:
        transform = fit_polynomial(source, target, weight, before.centre, degree)
        method, parameters = _METHODS[degree - 1], (degree + 1) * (degree + 2) / 2
    reach = _REACH * float(np.percentile(np.abs(target - transform.points(source)), 95))
    return _Fit(transform, pairs, method, parameters, float(np.clip(reach, _LEAST_RADIUS, config.match_px)))


def _unclipped(lists: _Lists, transform: Transform, pairs: Pairs, clip: float) -> Pairs:
    """The couples whose residuals are within `clip` sigma of the median, along both axes; sigma is that of the couples around."""
    if len(pairs[0]) == 0:
        return pairs
    source = lists.source[pairs[0]]
    delta = lists.target[pairs[1]] - transform.points(source)
    size = np.abs(delta - np.median(delta, axis=0))
    scatter = np.broadcast_to(_MAD * np.median(size, axis=0), size.shape)
    if len(source) >= 2 * _NEIGHBOURS:
        _, near = cKDTree(source).query(source, k=_NEIGHBOURS)
        scatter = np.maximum(scatter, _MAD * np.median(size[near], axis=1))
    limit = clip * np.sqrt(scatter**2 + lists.errors(pairs)[:, None] ** 2)
    keep = np.all(size <= limit, axis=1)
    return pairs[0][keep], pairs[1][keep]


def _summary(
    mapping: Mapping,
    fit: _Fit,
    lists: _Lists,
    known: NDArray[np.intp],
    shape: tuple[int, int],
    scale: float,
    config: RegistrationConfig,
) -> Registration:
    where = lists.source[fit.pairs[0]]
    residual = lists.target[fit.pairs[1]] - fit.transform.points(where)
    error = lists.errors(fit.pairs)
    length = np.hypot(residual[:, 0], residual[:, 1])
    n = len(length)
    dof = max(n - fit.parameters, 0.5) / n
    right, upper = where[:, 0] > mapping.centre[0], where[:, 1] > mapping.centre[1]
    quadrants = (~right & ~upper, right & ~upper, ~right & upper, right & upper)
    corners = [float(np.median(length[q])) if q.any() else float("nan") for q in quadrants]
    beyond = [excess(residual[:, axis] / np.sqrt(dof), error) for axis in (0, 1)]
    of_fit = [np.sqrt(fit.parameters / np.sum(1.0 / (error**2 + value**2))) for value in beyond]
    sigma = [float(max(np.hypot(a, b), config.error_floor_px)) for a, b in zip(beyond, of_fit, strict=True)]
    field_of = None
    if fit.method not in ("shift", "similarity"):
        field_of = scatter_field(shape, fit.transform, where, residual / np.sqrt(dof), error, (beyond[0], beyond[1]), config.significance)
        field_of = replace(field_of, sigma=np.maximum(field_of.sigma, config.error_floor_px))
    return Registration(
        mapping=mapping,
        method=fit.method,
        n_matched=n,
        rms_px=float(np.sqrt(np.mean(length**2) / dof)),
        median_px=float(np.median(length)),
        centroid_px=float(np.sqrt(2.0 * np.mean(error**2))),
        corners_px=(corners[0], corners[1], corners[2], corners[3]),
        sigma_x=sigma[0],
        sigma_y=sigma[1],
        scale_arcsec=scale,
        index_science=fit.pairs[0],
        index_reference=known[fit.pairs[1]],
        scatter=field_of,
    )

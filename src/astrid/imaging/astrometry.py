"""The science-to-reference mapping: header world coordinates, refined by matched stars."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize
from scipy.spatial import cKDTree

from astrid.config.schema.imaging import RegistrationConfig
from astrid.core.errors import NoOverlapError

if TYPE_CHECKING:
    from astropy.wcs import WCS

Floats = NDArray[np.float64]

_BRIGHT = 150  # sources of each image that vote for the shift
_BIN = 1.0  # px, of the histogram of shifts
_MAD = 1.4826  # median absolute deviation -> sigma of a Gaussian
_ROUNDS = 8  # of matching and fitting
_VOTES_SIGMA = 5.0  # significance of the shift's peak above the background of chance pairs
_MODEL_PX = 0.002  # px, least centroid error of any star


@dataclass(frozen=True, eq=False)
class Points:
    """Source positions of one image. x, y: px; error: px, 1-sigma a coordinate; flux: unit of the image."""

    x: Floats
    y: Floats
    error: Floats
    flux: Floats


@dataclass(frozen=True, eq=False)
class Mapping:
    """Science pixel -> reference pixel: an affine correction in science pixels, then the two headers' world coordinates.

    corrected = centre + matrix @ (pixel - centre) + shift
    """

    wcs_science: WCS
    wcs_reference: WCS
    matrix: Floats  # (2, 2), acts on (x, y)
    shift: Floats  # (2,), px
    centre: Floats  # (2,), px

    def __call__(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Reference pixel coordinates (x, y) of science pixel coordinates; NaN where the projection has no answer."""
        dx, dy = x - self.centre[0], y - self.centre[1]
        cx = self.centre[0] + self.matrix[0, 0] * dx + self.matrix[0, 1] * dy + self.shift[0]
        cy = self.centre[1] + self.matrix[1, 0] * dx + self.matrix[1, 1] * dy + self.shift[1]
        return header_mapping(self.wcs_science, self.wcs_reference, cx, cy)

    def jacobian(self, x: float, y: float) -> Floats:
        """(2, 2) derivative d(reference x, y) / d(science x, y) at a science pixel."""
        step = 0.5
        rx, ry = self(np.array([x - step, x + step, x, x]), np.array([y, y, y - step, y + step]))
        return np.array([[rx[1] - rx[0], rx[3] - rx[2]], [ry[1] - ry[0], ry[3] - ry[2]]])


@dataclass(frozen=True, eq=False)
class Registration:
    """A mapping with what is known of its quality; residuals are in science pixels, per matched star."""

    mapping: Mapping
    method: str  # "affine", "shift" or "header"
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

    Parameters
    ----------
    science, reference
        Stars of the two images, each in its own pixels.
    wcs_science, wcs_reference
        Headers' world coordinates.
    shape
        (ny, nx) of the science image.
    config
        Search radius, clipping, and the ladder: affine (`min_affine` matches), shift (`min_shift`), header.

    Returns
    -------
    Registration
        `sigma_x`, `sigma_y` are the scatter of the residuals beyond the centroid errors, for the astrometric term of S_corr.

    Raises
    ------
    NoOverlapError
        When the reference's header places none of its sources, nor any of its sky, on the projection of the science image.
    """
    scale = pixel_scale(wcs_science)
    centre = np.array([(shape[1] - 1) / 2.0, (shape[0] - 1) / 2.0])
    if len(reference.x) == 0 or len(science.x) == 0:
        return _by_header(wcs_science, wcs_reference, centre, scale, config)
    target_x, target_y = header_mapping(wcs_reference, wcs_science, reference.x, reference.y)
    known = np.flatnonzero(np.isfinite(target_x) & np.isfinite(target_y))
    if len(known) == 0:
        raise NoOverlapError("none of the reference's sources falls on the science image's projection; check the two headers' coordinates.")
    target = np.c_[target_x[known], target_y[known]]
    source = np.c_[science.x, science.y]
    first = _vote(source, science.flux, target, reference.flux[known], config.search_px)
    if first is None:
        return _by_header(wcs_science, wcs_reference, centre, scale, config)
    ratio = np.sqrt(abs(np.linalg.det(_header_jacobian(wcs_reference, wcs_science, reference.x[known[0]], reference.y[known[0]]))))
    errors = (science.error, reference.error[known] * ratio)
    fit = _match_and_fit(source, target, errors, first, centre, config)
    if fit is None:
        return _by_header(wcs_science, wcs_reference, centre, scale, config)
    matrix, shift, pairs, method = fit
    mapping = Mapping(wcs_science, wcs_reference, matrix, shift, centre)
    residual = target[pairs[1]] - _apply(matrix, shift, centre, source[pairs[0]])
    error = np.hypot(errors[0][pairs[0]], errors[1][pairs[1]])
    return _summary(mapping, method, residual, error, source[pairs[0]], (pairs[0], known[pairs[1]]), scale, config)


def _header_jacobian(wcs_from: WCS, wcs_to: WCS, x: float, y: float) -> Floats:
    return Mapping(wcs_from, wcs_to, np.eye(2), np.zeros(2), np.zeros(2)).jacobian(float(x), float(y))


def _by_header(wcs_science: WCS, wcs_reference: WCS, centre: Floats, scale: float, config: RegistrationConfig) -> Registration:
    mapping = Mapping(wcs_science, wcs_reference, np.eye(2), np.zeros(2), centre)
    nan = float("nan")
    sigma = config.error_header_px
    return Registration(mapping, "header", 0, nan, nan, nan, (nan, nan, nan, nan), sigma, sigma, scale)


def _apply(matrix: Floats, shift: Floats, centre: Floats, points: Floats) -> Floats:
    return np.asarray(centre + (points - centre) @ matrix.T + shift)


def _vote(source: Floats, flux_s: Floats, target: Floats, flux_t: Floats, radius: float) -> Floats | None:
    """The commonest shift target - source among the brightest, or None when no shift stands out."""
    a = source[np.argsort(-flux_s, kind="stable")[:_BRIGHT]]
    inside = np.all((target > source.min(axis=0) - radius) & (target < source.max(axis=0) + radius), axis=1)
    if not inside.any():
        return None
    b = target[inside][np.argsort(-flux_t[inside], kind="stable")[:_BRIGHT]]
    delta = (b[None, :, :] - a[:, None, :]).reshape(-1, 2)
    delta = delta[np.hypot(delta[:, 0], delta[:, 1]) <= radius]
    if len(delta) == 0:
        return None
    edges = np.arange(-radius - _BIN, radius + 1.5 * _BIN, _BIN)
    counts, _, _ = np.histogram2d(delta[:, 0], delta[:, 1], bins=[edges, edges])
    smooth = ndimage.uniform_filter(counts, 3, mode="constant") * 9.0
    ix, iy = np.unravel_index(int(np.argmax(smooth)), smooth.shape)
    peak = np.array([edges[ix] + _BIN / 2, edges[iy] + _BIN / 2])
    near = delta[np.max(np.abs(delta - peak), axis=1) <= 1.5 * _BIN]
    chance = 9.0 * (len(delta) - len(near)) / max(counts.size * np.pi / 4, 1.0)
    if len(near) < 3 or len(near) < chance + _VOTES_SIGMA * np.sqrt(chance):
        return None
    return np.asarray(np.median(near, axis=0))


def _match_and_fit(
    source: Floats, target: Floats, errors: tuple[Floats, Floats], first: Floats, centre: Floats, config: RegistrationConfig
) -> tuple[Floats, Floats, tuple[NDArray[np.intp], NDArray[np.intp]], str] | None:
    """Alternate between mutual nearest neighbours and a weighted, clipped fit, with a shrinking match radius."""
    tree = cKDTree(target)
    matrix, shift, radius = np.eye(2), first.copy(), config.match_px
    pairs: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None
    method = "shift"
    for _ in range(_ROUNDS):
        moved = _apply(matrix, shift, centre, source)
        pairs = _mutual(moved, target, tree, radius)
        if len(pairs[0]) < config.min_shift:
            return None
        error = np.sqrt(errors[0][pairs[0]] ** 2 + errors[1][pairs[1]] ** 2 + _MODEL_PX**2)
        delta = target[pairs[1]] - moved[pairs[0]]
        keep = _unclipped(delta, error, config.clip)
        pairs = (pairs[0][keep], pairs[1][keep])
        if len(pairs[0]) < config.min_shift:
            return None
        spread = np.sqrt(error[keep] ** 2 + _excess(delta[keep].ravel(), np.repeat(error[keep], 2)) ** 2)
        method = "affine" if len(pairs[0]) >= config.min_affine else "shift"
        matrix, shift = _solve(source[pairs[0]] - centre, target[pairs[1]] - centre, 1.0 / spread**2, method)
        scatter = _MAD * float(np.median(np.abs(delta[keep] - np.median(delta[keep], axis=0))))
        radius = float(np.clip(6.0 * scatter, 0.5, config.match_px))
    if pairs is None:
        return None
    return matrix, shift, pairs, method


def _mutual(moved: Floats, target: Floats, tree: cKDTree, radius: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    distance, nearest = tree.query(moved, distance_upper_bound=radius)
    own = np.flatnonzero(np.isfinite(distance))
    _, back = cKDTree(moved).query(target[nearest[own]])
    mutual = own[back == own]
    return mutual, nearest[mutual]


def _unclipped(delta: Floats, error: Floats, clip: float) -> NDArray[np.bool_]:
    centred = delta - np.median(delta, axis=0)
    scatter = _MAD * np.median(np.abs(centred), axis=0)
    limit = clip * np.sqrt(np.maximum(scatter**2, 0.0)[None, :] + error[:, None] ** 2)
    return np.asarray(np.all(np.abs(centred) <= limit, axis=1))


def _solve(source: Floats, target: Floats, weight: Floats, method: str) -> tuple[Floats, Floats]:
    """Weighted least squares of target = matrix @ source + shift (matrix = 1 for a shift)."""
    if method == "shift":
        return np.eye(2), np.asarray(np.average(target - source, axis=0, weights=weight))
    root = np.sqrt(weight)[:, None]
    reach = max(float(np.abs(source).max()), 1.0)
    design = np.c_[source / reach, np.ones(len(source))]
    solution = np.linalg.lstsq(design * root, target * root, rcond=None)[0]
    return solution[:2].T / reach, solution[2]


def _excess(residual: Floats, error: Floats) -> float:
    """The Gaussian scatter s that, added in quadrature to the errors, makes the (clipped) chi^2 a residual one."""

    def surplus(s: float) -> float:
        return float(np.mean(np.minimum(residual**2 / (error**2 + s**2), 9.0)) - 1.0)

    if len(residual) < 2 or surplus(0.0) <= 0:
        return 0.0
    top = 2.0 * float(np.max(np.abs(residual))) + 1e-12
    return float(optimize.brentq(surplus, 0.0, top, xtol=1e-5)) if surplus(top) < 0 else top


def _summary(
    mapping: Mapping,
    method: str,
    residual: Floats,
    error: Floats,
    where: Floats,
    pairs: tuple[NDArray[np.intp], NDArray[np.intp]],
    scale: float,
    config: RegistrationConfig,
) -> Registration:
    length = np.hypot(residual[:, 0], residual[:, 1])
    n = len(length)
    dof = max(2 * n - (6 if method == "affine" else 2), 1) / (2 * n)
    right, upper = where[:, 0] > mapping.centre[0], where[:, 1] > mapping.centre[1]
    quadrants = (~right & ~upper, right & ~upper, ~right & upper, right & upper)
    corners = [float(np.median(length[q])) if q.any() else float("nan") for q in quadrants]
    floor = np.sqrt(error**2 + _MODEL_PX**2)
    sigma = []
    for axis in (0, 1):
        beyond = _excess(residual[:, axis] / np.sqrt(dof), floor)
        spread = np.sqrt(floor**2 + beyond**2)
        fit_error = np.sqrt((3.0 if method == "affine" else 1.0) / np.sum(1.0 / spread**2))
        sigma.append(float(max(np.hypot(beyond, fit_error), config.error_floor_px)))
    return Registration(
        mapping=mapping,
        method=method,
        n_matched=n,
        rms_px=float(np.sqrt(np.mean(length**2) / dof)),
        median_px=float(np.median(length)),
        centroid_px=float(np.sqrt(2.0 * np.mean(error**2))),
        corners_px=(corners[0], corners[1], corners[2], corners[3]),
        sigma_x=sigma[0],
        sigma_y=sigma[1],
        scale_arcsec=scale,
        index_science=pairs[0],
        index_reference=pairs[1],
    )

"""The error of a PSF model as noise: what it leaves of bright stars beyond their photon noise, and where light of any shape will have it.

A model that is not quite right leaves of a star of flux f the residual f e(x), which no shift or flux explains. Its size falls off more
slowly than the star's light P, much like the root of P (so it does for stars whose width hangs on their brightness, and for a profile too
simple for them). Light L, star or galaxy, is given the variance

    V_psf = kappa^2 B^2,    B = max(L * (G_1 - G_2), 0),

G_1 and G_2 being Gaussians of 1.5 and 4 FWHM of unit sum: a star seen through both PSF and G_1 falls as the root of P does over the first
two FWHM, and what is smooth over several FWHM, which a misfit of zero sum cannot touch, drops out. L is what both images of a pair show.

kappa is that which makes the stars' residuals agree with V_psf in the score. With A the star's profile, its slopes and a constant, d the
pixels, V their variance, W = 1 / V, R = 1 - A (A^T W A)^-1 A^T W, which takes the fit off, and F the matched filter P over the root of
the variance of what it yields, u = F R d is what the star leaves in a score, and

    kappa^2 = (|u|^2 - tr(F R V R^T F^T)) / tr(F R diag(B^2) R^T F^T):

photon noise and the freedom of the fit are taken out, and neighbouring residuals of one sign count with the weight that the score
gives them. The stars' weighted median
is taken: of many bright stars some have a companion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from astrid.core.records import Calibrated, FloatImage, Psf
from astrid.imaging.stars.profile import Floats, cut_out, field_of
from astrid.imaging.stars.sizes import FWHM_PER_SIGMA

_NARROW, _WIDE = 1.5, 4.0  # FWHM of the PSF, of G_1 and G_2
_RADIUS_FWHMS = 2.0  # FWHM, within which a star's residual is looked at
_MOST_PX = 10  # px, half the side of the pixels of a star that are looked at: of a broader PSF, every second, third ...
_MOST_STARS = 20  # the brightest
_LEAST_SNR = 20.0  # of a star that is looked at
_APART_FWHMS = 4.0  # FWHM, within which a neighbour disturbs ...
_NEIGHBOUR = 0.003  # ... from this share of the star's flux on
_LEAST_KNOWN = 0.75  # of a star's pixels that must be usable
_SIGNIFICANT = 3.0  # sigma, by which kappa^2 must differ from none
_LEAST_STARS = 2  # a single one may be a blend
_MEDIAN_ERROR = 1.25  # of a median over that of a mean


@dataclass(frozen=True)
class Misfit:
    """Relative error of an image's PSF model."""

    kappa: float  # 0 where the stars do not show it significantly
    error: float  # 1 sigma of kappa^2 from photon noise alone; NaN without a bright star
    stars: int  # that it stands on


def spread_light(light: FloatImage, fwhm: float) -> FloatImage:
    """B of the module's text: light, its masks filled, through G_1 - G_2, never negative."""
    wide = ndimage.gaussian_filter(light, _WIDE * fwhm / FWHM_PER_SIGMA, truncate=3.0)
    narrow = ndimage.gaussian_filter(light, _NARROW * fwhm / FWHM_PER_SIGMA, truncate=3.0)
    return np.asarray(np.maximum(narrow - wide, np.float32(0)))


def common_light(science: FloatImage, reference: FloatImage, fwhm: float) -> FloatImage:
    """B of what both images of a pair show, on one flux scale: a transient is in one of them, and adds no misfit to its own error."""
    return np.minimum(spread_light(science, fwhm), spread_light(reference, fwhm))


def psf_misfit(image: Calibrated, psf: Psf, sources: NDArray[Any], level: float, correlation: float = 1.0) -> Misfit:
    """kappa of an exposure from its brightest stars.

    Parameters
    ----------
    image, psf, sources
        The exposure, its PSF, and its sources with PSF fits.
    level
        Of the sky.
    correlation
        Power of its noise at the PSF's scale over that of white noise (`detector.correlation`): it is taken for noise, not for misfit.
    """
    stars = _lone(sources, _APART_FWHMS * psf.fwhm)
    if len(stars) == 0:
        return Misfit(0.0, float("nan"), 0)
    step = max(1, int(np.ceil(_RADIUS_FWHMS * psf.fwhm / _MOST_PX)))
    half = step * max(2, int(np.ceil(_RADIUS_FWHMS * psf.fwhm / step)))
    x, y = stars["x_fit"], stars["y_fit"]
    cutouts = cut_out(image.data, image.variance, image.dq, x, y, half)
    design = field_of(psf).planes(cutouts, y, x)
    place = np.stack([y - cutouts.y[:, half, 0], x - cutouts.x[:, 0, half]], axis=1)
    samples = _Samples(half, step, psf.stamp.astype(np.float64), _broad_profile(psf))
    parts = []
    for k in range(len(stars)):
        flux = float(stars["flux_fit"][k])
        parts.append(samples.of(cutouts.data[k] - level, cutouts.weight[k] / correlation, design[k], flux, place[k]))
    known = np.array([part for part in parts if np.isfinite(part).all()]).reshape(-1, 2)
    return _typical(known[:, 0], known[:, 1])


def _lone(sources: NDArray[Any], apart: float) -> NDArray[Any]:
    """The brightest stars without a neighbour that matters."""
    if len(sources) == 0:
        return sources
    bright = sources["good"] & (sources["flags"] == 0) & (sources["flux_fit"] > _LEAST_SNR * sources["error_flux"])
    pairs = cKDTree(np.c_[sources["x"], sources["y"]]).query_pairs(apart, output_type="ndarray")
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    matters = sources["flux"][pairs[:, 1]] > _NEIGHBOUR * sources["flux"][pairs[:, 0]]
    bright[pairs[matters, 0]] = False
    stars = sources[bright]
    order = np.argsort(-stars["flux_fit"] / stars["error_flux"], kind="stable")
    return np.asarray(stars[order[:_MOST_STARS]])


def _broad_profile(psf: Psf) -> Floats:
    """B of a star of unit flux, an odd stamp."""
    room = int(np.ceil(_WIDE * psf.fwhm))
    return spread_light(np.pad(psf.stamp, room), psf.fwhm).astype(np.float64)


class _Samples:
    """The pixels of a star that are looked at, and what its residual and V_psf leave on them in the score."""

    def __init__(self, half: int, step: int, stamp: Floats, broad: Floats) -> None:
        axis = np.arange(-half, half + 1, step)
        dy, dx = (grid.ravel() for grid in np.meshgrid(axis, axis, indexing="ij"))
        inside = np.hypot(dy, dx) <= half
        self.dy, self.dx = dy[inside], dx[inside]
        self._at = (self.dy + half) * (2 * half + 1) + self.dx + half
        reach = stamp.shape[0] // 2
        apart = [np.clip(line[:, None] - line, -reach - 1, reach + 1) + reach + 1 for line in (self.dy, self.dx)]
        self._filter = np.pad(stamp, 1)[apart[0], apart[1]]
        self._broad = broad

    def of(self, data: Floats, weight: Floats, planes: Floats, flux: float, place: Floats) -> tuple[float, float]:
        """kappa^2 of a star and the variance that photon noise gives it; NaN where a quarter of its pixels is unusable.

        `planes` (3, k, k): the star of unit flux and its slopes; `place`: its centre, y and x, from the middle pixel.
        """
        weight = weight.ravel()[self._at]
        use = weight > 0
        if use.mean() < _LEAST_KNOWN:
            return float("nan"), float("nan")
        pixels, weight, variance = data.ravel()[self._at][use], weight[use], 1.0 / weight[use]
        design = np.c_[planes.reshape(3, -1)[:, self._at[use]].T, np.ones(len(pixels))]
        normal = design.T * weight
        filters = self._filter[np.ix_(use, use)]
        filters = filters / np.sqrt(np.square(filters) @ variance)[:, None]
        through = filters - (filters @ design) @ np.linalg.solve(normal @ design, normal)
        middle = self._broad.shape[0] // 2
        where = [self.dy[use] + middle - place[0], self.dx[use] + middle - place[1]]
        model = np.square(flux * ndimage.map_coordinates(self._broad, where, order=1))
        noise = (through * variance) @ through.T
        left = float(np.sum(np.square(through @ pixels)) - np.trace(noise))
        scale = float(np.sum(np.square(through) @ model))
        return left / scale, 2.0 * float(np.sum(np.square(noise))) / scale**2


def _typical(squares: Floats, variance: Floats) -> Misfit:
    """Weighted median of the stars' kappa^2, weights 1 / sigma; none where photon noise explains it, or one star alone says so."""
    if len(squares) < _LEAST_STARS:
        return Misfit(0.0, float("nan"), len(squares))
    order = np.argsort(squares, kind="stable")
    shares = np.cumsum(1.0 / np.sqrt(variance[order]))
    middle = float(squares[order][np.searchsorted(shares, 0.5 * shares[-1])])
    error = _MEDIAN_ERROR / float(np.sqrt(np.sum(1.0 / variance)))
    return Misfit(float(np.sqrt(middle)) if middle > _SIGNIFICANT * error else 0.0, error, len(squares))

"""The score beside bright sources whose registration is imperfect: the shift of a source is one vector, not noise in each pixel.

S_corr (Zackay, Ofek & Gal-Yam 2016, ApJ 830, 27, equation 25) adds V_ast = sigma_x^2 (dS/dx)^2 + sigma_y^2 (dS/dy)^2 to the
score's variance, as if every pixel were shifted anew. A source that lies (dx, dy) off leaves in D, whose noise is white,

    D = noise + G a,    G = (dM/dx, dM/dy),    a = -(dx, dy) ~ N(0, Lambda),

M being its light as either image brings it into D, so the noise of D around it has the covariance V + G Lambda G^T: V diagonal and
two coherent patterns. Given D, the amplitudes are a = B G^T W D with the covariance B = (Lambda^-1 + G^T W G)^-1, W = 1 / V
(Woodbury). The matched filter sees the patterns as c = (G matched to P_D) / F_S, and a source of unit flux adds h = F_D P_D^T W G to
G^T W D. With alpha and v the flux and the variance of the plain filter, both without V_ast,

    score = (alpha - c^T a) / sqrt(v - c^T B c),    flux = (alpha - c^T a) / (1 - c^T B h),    error = sqrt(v - c^T B c) / (1 - c^T B h).

Where the patterns are weak this is S_corr; what is taken off v is what a transient there shares with a shift.

Sources in one window share out its light by star-like profiles and shift on their own. What is beyond first order is taken off at
the most probable shift (one Gauss-Newton step), and the patterns are those of the source shifted so. The scatter of the sources'
fluxes is one more pattern, M itself. M is the best mean of both images at every frequency. What no shift explains, such as a PSF
that does not quite fit, is measured from the residuals of all bright sources and enters the error in proportion to the light.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.spatial import cKDTree

from astrid.core.records import FloatImage
from astrid.imaging.zogy.coherent_filter import REACH_FWHMS, Batch, Filters, Look, filter_windows, filters_for, look_of
from astrid.imaging.zogy.engine import Subtraction, Window
from astrid.imaging.zogy.kernels import Side, optics_of

CLAIMANTS = 128  # sources that share the light of a window, at most
COLUMNS = 4  # sources of a window with shifts of their own, at most; the light of the others is left to S_corr
LEAST_SNR = 5.0  # of a peak of the reference; below it is noise
_SIDES_FWHMS = (10.4, 12.8, 14.5, 22.0, 32.0, 48.0)  # FWHM of P_D, the sides of the windows, tried in turn
_SEPARATION_FWHMS = 0.7  # FWHM, within which only the sharpest peak counts
_SHARPNESS = 3.0  # of a peak's Laplacian, over that of the blank sky's noise
_CLAIM_SNR = 2.0  # S/N of its light at the nearest pixel of a window, for a source to have a claim in it
_COLUMN_FWHMS = 2.5  # FWHM around a window's source, within which another's shift must matter for a column of its own
_TAPER_SNR = 1.5  # S/N of the light at which a pixel counts half in the fit of the shifts: below, it is noise that is shifted
_BROADER = 0.7  # of a distance: a star is that much broader in the score than in D
_MISFIT_SNR = 30.0  # of the light in both images, of a source whose residual is looked at for what the shifts leave
_UNEXPLAINED = 0.01  # of V_ast + V_phot, that stays in the error: what PSFs that are not quite right leave beside shifted sources
_MISFIT_SOURCES = 8  # of them, at least
_MISFIT_SIGMAS = 2.5  # above its own error, that the median residual counts
_MEDIAN_OF_SQUARE = 0.455  # median of the square of a standard normal number
_CORE = 0.3  # of a source's peak, down to which it is its core
_CHUNK_PX = 1 << 16  # px of windows worked on at once
_LEAST_VARIANCE = 0.3  # of the blank sky's: what is left of V(S) without V_ast, at least


@dataclass(frozen=True, eq=False)
class _Scene:
    """What the windows are cut from; planes are (ny, nx)."""

    result: Subtraction
    light: FloatImage  # S_r / F_S, the reference's share of the flux
    reference: FloatImage  # R
    sides: tuple[Side, Side]
    share: float
    look: Look


@dataclass(frozen=True, eq=False)
class _Peaks:
    """Bright places of the reference."""

    place: NDArray[np.intp]  # (n, 2): y, x
    snr: NDArray[np.float32]  # over the blank sky's noise of the score
    sigma: NDArray[np.float32]  # (n, 2, 2): px, of (x, y) for each image
    photometry: tuple[float, float]  # relative, of each image


def coherent_score(new: Side, ref: Side, result: Subtraction, inner: Window | None = None, *, share: float = 0.25) -> Subtraction:
    """Score, flux and its error with the coherent noise of registration and flux scale around the bright sources.

    Parameters
    ----------
    new, ref
        What was subtracted; `astrometry` and `photometry` are each image's share of the scatter.
    result
        Its subtraction with V_ast, by `subtract` or `subtract_tile`.
    inner
        The window of the planes of `new` and `ref` that `result` shows; None = all of it.
    share
        Least (V_ast + V_phot) / V(S) of a pixel, or of a neighbour within half a FWHM, that is replaced.

    Returns
    -------
    Subtraction
        `result` itself, with `score`, `flux` and `flux_error` overwritten there. The outermost `border` px stay as they are.
    """
    optics = optics_of(new, ref)
    scene = _Scene(result, result.scene - result.flux, ref.data if inner is None else ref.data[inner], (new, ref), share, look_of(optics))
    peaks = _find_peaks(scene)
    reach, first = border(new, ref), _first_size(scene, peaks)
    left, found = np.empty(0, np.intp), list[_Found]()
    for size, factor in enumerate(_SIDES_FWHMS):
        side = _even(round(factor * scene.look.fwhm))
        if side > min(scene.light.shape):
            break
        chosen = np.sort(np.concatenate([left, np.flatnonzero(first == size)]))
        left = _work_through(scene, peaks, chosen, filters_for(optics, side), reach, last=factor == _SIDES_FWHMS[-1], found=found)
    misfit = _misfit(found, result.blank_error)
    for part in found:  # not before: windows overlap
        error = np.sqrt(np.square(part.error) + np.float32(misfit) * np.square(part.light) + np.float32(_UNEXPLAINED) * part.scatter)
        result.score[part.place], result.flux[part.place], result.flux_error[part.place] = part.flux / error, part.flux, error
    return result


def border(new: Side, ref: Side) -> int:
    """How near to the border of the planes nothing is replaced, px; tiles overlap by this and half the size of a bright source."""
    return int(np.ceil(REACH_FWHMS * look_of(optics_of(new, ref)).fwhm))


def _even(length: int) -> int:
    """The least fast, even transform length."""
    return 2 * int(fft.next_fast_len(-(-length // 2), real=True))


def _find_peaks(scene: _Scene) -> _Peaks:
    """Peaks of the reference's light that could reach the wanted share on a dark sky if they were stars.

    They are peaks of minus its Laplacian: a faint source in the wing of a bright one is no maximum of the smooth light.
    """
    sigma = [[np.asarray(value, np.float32) for value in side.astrometry] for side in scene.sides]
    photometry = (scene.sides[0].photometry, scene.sides[1].photometry)
    most = max(np.hypot(sigma[0][axis].max(), sigma[1][axis].max()) for axis in (0, 1)) * scene.look.steepest
    scatter = max(float(most), *photometry)
    needed = np.sqrt(scene.share) / scatter if scatter > 0 else np.inf
    reach = max(1, round(_SEPARATION_FWHMS * scene.look.fwhm))
    sharp = -ndimage.laplace(scene.light)
    bright = scene.light > max(LEAST_SNR, needed) * scene.result.blank_error
    bright &= sharp > _SHARPNESS * scene.look.roughness * scene.result.blank_error
    y, x = np.nonzero(bright[reach:-reach, reach:-reach])
    y, x = y + reach, x + reach
    height = sharp[y, x]
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            other = sharp[y + dy, x + dx]
            keep = (height > other) if (dy, dx) > (0, 0) else (height >= other)
            y, x, height = y[keep], x[keep], height[keep]
    here = np.empty((len(y), 2, 2), np.float32)
    for image in (0, 1):
        for axis in (0, 1):
            plane = sigma[image][axis]
            here[:, image, axis] = plane[y, x] if plane.ndim else plane
    return _Peaks(np.stack([y, x], axis=1), scene.light[y, x] / np.float32(scene.result.blank_error), here, photometry)


def _first_size(scene: _Scene, peaks: _Peaks) -> NDArray[np.intp]:
    """The least window that holds what is wanted around each peak if it is a star."""
    half = (np.array(_SIDES_FWHMS) / 2 - REACH_FWHMS - 0.5) * scene.look.fwhm
    radius = half[:, None] * _BROADER
    fall = _profile(np.square(radius), scene.look.fwhm)
    slope = 6.0 * radius / scene.look.fwhm**2 * fall ** (4 / 3)
    scatter = np.sqrt(np.square(peaks.sigma).sum(axis=1).max(axis=1))
    share = peaks.snr * np.maximum(slope * scatter, fall * np.hypot(*peaks.photometry))
    return np.asarray(np.minimum((share > np.sqrt(scene.share)).sum(axis=0), len(half) - 1))


@dataclass(frozen=True, eq=False)
class _Claims:
    """Who claims light in each of n windows: the window's own source first, then the others, the most serious first."""

    source: NDArray[np.intp]  # (n, most), indices of the peaks
    count: NDArray[np.intp]  # (n,), how many of them there are
    columns: NDArray[np.intp]  # (n,), how many of them have shifts that matter
    alone: NDArray[np.bool_]  # (n,), whether the window holds its own source's light alone, and all of it

    def of(self, rows: NDArray[np.intp]) -> _Claims:
        """Those of some windows."""
        return _Claims(self.source[rows], self.count[rows], self.columns[rows], self.alone[rows])


def _claims(scene: _Scene, peaks: _Peaks, chosen: NDArray[np.intp], side: int) -> _Claims:
    """The sources whose light matters most around each chosen one."""
    fwhm = scene.look.fwhm
    brightest = float(peaks.snr.max())
    distance = side + fwhm * np.sqrt(max(0.0, (brightest / _CLAIM_SNR) ** (1 / 3) - 1.0))
    corner = _corners(scene, peaks.place[chosen], side)[:, None]
    tree = cKDTree(peaks.place)
    apart, source = tree.query(peaks.place[chosen], k=min(CLAIMANTS, len(peaks.place)), distance_upper_bound=distance)
    apart, source = apart.reshape(len(chosen), -1), source.reshape(len(chosen), -1)
    found = np.isfinite(apart)
    source, apart = np.where(found, source, 0), np.where(found, apart, 0.0)
    snr = np.where(found, peaks.snr[source], 0.0)
    place = peaks.place[source]
    outside = np.maximum(np.maximum(corner - place, place - (corner + side - 1)), 0)
    known = snr * _profile(np.square(outside).sum(axis=2), fwhm) >= _CLAIM_SNR
    near = snr * _profile(np.square(np.maximum(apart - _COLUMN_FWHMS * fwhm, 0.0)), fwhm)
    slope = np.hypot(peaks.sigma[:, 0], peaks.sigma[:, 1]).max(axis=1)[source] * scene.look.steepest
    matters = known & (near * np.maximum(slope, np.hypot(*peaks.photometry)) > np.sqrt(scene.share))
    own = (source == chosen[:, None]) & found
    known |= own
    rank = np.where(own, np.inf, np.where(known, near, -1.0))
    order = np.argsort(-rank, axis=1, kind="stable")[:, : known.sum(axis=1).max()]
    columns = np.clip((matters | own).sum(axis=1), 1, COLUMNS)
    whole = (corner[:, 0] == peaks.place[chosen] - side // 2).all(axis=1)
    return _Claims(np.take_along_axis(source, order, axis=1), known.sum(axis=1), columns, whole & (known.sum(axis=1) == 1))


def _profile(square: NDArray[Any], fwhm: float) -> NDArray[Any]:
    """How a star's light falls with the square of the distance in px^2: by this, sources share out light."""
    fall = 1.0 + square * np.float32(1.0 / fwhm**2)
    return np.asarray(1.0 / (fall * fall * fall))


def _work_through(
    scene: _Scene, peaks: _Peaks, chosen: NDArray[np.intp], filters: Filters, reach: int, *, last: bool, found: list[_Found]
) -> NDArray[np.intp]:
    """Append what is found around the chosen peaks whose surroundings fit in these windows; returns those that need larger ones."""
    if len(chosen) == 0:
        return chosen
    claims = _claims(scene, peaks, chosen, filters.side)
    order = np.lexsort((claims.count, claims.columns))
    claims = claims.of(order)
    larger = [np.empty(0, np.intp)]
    step = max(1, _CHUNK_PX // filters.side**2)
    for count, alone in ((count, alone) for count in range(1, COLUMNS + 1) for alone in (True, False)):
        rows = np.flatnonzero((claims.columns == count) & (claims.alone == alone))
        for part in (rows[start : start + step] for start in range(0, len(rows), step)):
            group = _Group.of(scene, peaks, claims.of(part), filters.side)
            spills = np.zeros(len(part), bool) if last else group.spills(reach, scene.light.shape)
            larger.append(chosen[order[part[spills]]])
            inside = (slice(None), slice(reach, -reach), slice(reach, -reach))
            members = np.flatnonzero(~spills & group.wanted[inside].any(axis=(1, 2)))
            if len(members):
                found.append(_filtered(scene, group, members, count, filters, reach))
    return np.sort(np.concatenate(larger))


@dataclass(frozen=True, eq=False)
class _Found:
    """What replaces the plain filter's values, and where."""

    place: tuple[NDArray[np.intp], NDArray[np.intp]]  # y, x
    flux: FloatImage
    error: FloatImage
    light: FloatImage  # that both images have, the most within a pixel
    scatter: FloatImage  # V_ast + V_phot, that the plain filter has there
    source: NDArray[np.intp]  # whose pixel it is


@dataclass(frozen=True, eq=False)
class _Group:
    """Windows of one side, whose light is in them, and what of them is to be replaced; planes (b, side, side)."""

    peaks: _Peaks
    claims: _Claims
    corner: NDArray[np.intp]  # (b, 2): y, x of the windows' first pixels
    side: int
    light: FloatImage
    variance: FloatImage  # V(S) / F_S^2 without V_ast and V_phot
    scatter: FloatImage  # V_ast + V_phot, over F_S^2
    shares: FloatImage | None  # (b, c, side, side), of each claimant in the light; they sum to 1; None = there is but one
    wanted: NDArray[np.bool_]  # the source's own pixels where its scatter is a large enough share of V(S)

    @classmethod
    def of(cls, scene: _Scene, peaks: _Peaks, claims: _Claims, side: int) -> _Group:
        """Windows about the claims' own sources."""
        own = claims.source[:, 0]
        corner = _corners(scene, peaks.place[own], side)
        light = _cut(scene.light, corner, side)
        model = np.zeros_like(light)
        for image, share in ((scene.sides[1], light), (scene.sides[0], _cut(scene.result.scene, corner, side))):
            _add_scatter(model, share, image, corner)
        total = np.square(_cut(scene.result.flux_error, corner, side))
        size = 2 * round(scene.look.fwhm / 2) + 1
        wanted = ndimage.maximum_filter(model > np.float32(scene.share) * total, size=(1, size, size))
        shares = _shared_light(peaks, claims, corner, side, scene.look.fwhm)
        if shares is not None:
            wanted &= shares[:, 0] >= shares.max(axis=1)
        total -= model
        np.maximum(total, np.float32(_LEAST_VARIANCE * scene.result.blank_error**2), out=total)
        return cls(peaks, claims, corner, side, light, total, model, shares, wanted)

    def spills(self, reach: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Whether wanted pixels reach the border of what a window can replace, unless the image ends there."""
        last = self.side - 1 - reach
        rims = (self.wanted[:, reach], self.wanted[:, :, reach], self.wanted[:, last], self.wanted[:, :, last])
        open_ = [*(self.corner > 0).T, *(self.corner + self.side < np.array(shape)).T]
        return np.asarray(np.any([rim.any(axis=1) & free for rim, free in zip(rims, open_, strict=True)], axis=0))


def _add_scatter(model: FloatImage, light: FloatImage, image: Side, corner: NDArray[np.intp]) -> None:
    """Add the variance of registration and flux scatter that `subtract` put into V(S) for one image, in place."""
    side = light.shape[1]
    slopes = (light[:, :, 2:] - light[:, :, :-2], light[:, 2:] - light[:, :-2])
    within = ((slice(None), slice(None), slice(1, -1)), (slice(None), slice(1, -1)))
    for slope, sigma, inside in zip(slopes, image.astrometry, within, strict=True):
        slope *= np.float32(0.5) * (_cut(sigma, corner, side)[inside] if isinstance(sigma, np.ndarray) else np.float32(sigma))
        model[inside] += np.square(slope)
    if image.photometry > 0:
        model += np.square(np.float32(image.photometry) * light)


def _shared_light(peaks: _Peaks, claims: _Claims, corner: NDArray[np.intp], side: int, fwhm: float) -> FloatImage | None:
    """Each claimant's share: its star-like profile over the sum of all; (b, c, side, side)."""
    if claims.alone.all():
        return None
    most = int(claims.count.max())
    shares = np.empty((len(corner), most, side, side), np.float32)
    steps = np.arange(side, dtype=np.float32)
    for c in range(most):
        source = claims.source[:, c]
        centre = (peaks.place[source] - corner).astype(np.float32)
        dy, dx = (np.square(steps[None, :] - centre[:, k, None]) for k in (0, 1))
        height = np.where(c < claims.count, peaks.snr[source], np.float32(0))
        np.multiply(height[:, None, None], _profile(dy[:, :, None] + dx[:, None, :], fwhm), out=shares[:, c])
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


def _corners(scene: _Scene, place: NDArray[np.intp], side: int) -> NDArray[np.intp]:
    """First pixels (y, x) of windows about places, moved into the image where they would leave it; (n, 2)."""
    return np.asarray(np.clip(place - side // 2, 0, np.array(scene.light.shape) - side))


def _cut(plane: FloatImage, corner: NDArray[np.intp], side: int) -> FloatImage:
    """Windows of a plane, (b, side, side)."""
    return np.asarray(sliding_window_view(plane, (side, side))[corner[:, 0], corner[:, 1]])


def _filtered(scene: _Scene, group: _Group, members: NDArray[np.intp], count: int, filters: Filters, reach: int) -> _Found:
    """What is wanted of some windows of a group; `count` sources in each have shifts of their own."""
    corner, light, variance = group.corner[members], group.light[members], group.variance[members]
    blank = scene.result.blank_error**2
    bright = np.square(np.maximum(light, np.float32(0)))
    sigma = group.peaks.sigma[group.claims.source[members, :count]].astype(np.float64)
    batch = Batch(
        difference=_cut(scene.result.difference, corner, group.side),
        reference=_cut(scene.reference, corner, group.side),
        flux=_cut(scene.result.flux, corner, group.side),
        variance=variance,
        snr=group.peaks.snr[group.claims.source[members, :count]].max(axis=1),
        weight=bright / ((bright + np.float32(_TAPER_SNR**2 * blank)) * variance) * (filters.edge * np.float32(blank)),
        shares=None if group.shares is None else group.shares[members, :count],
        sigma=np.hypot(sigma[:, :, 0], sigma[:, :, 1]),
        photometry=float(np.hypot(*group.peaks.photometry)),
    )
    values = filter_windows(batch, filters, scene.look.fwhm)
    inside = slice(reach, -reach)
    window, row, column = np.nonzero(values.counts[:, inside, inside] & group.wanted[members, inside, inside])
    row, column = row + reach, column + reach
    place = (row + corner[window, 0], column + corner[window, 1])
    common = np.minimum(light, _cut(scene.result.scene, corner, group.side))
    most = ndimage.maximum_filter(common, size=(1, 3, 3))[window, row, column]
    scatter = group.scatter[members[window], row, column]
    own = group.claims.source[members[window], 0]
    return _Found(place, values.flux[window, row, column], values.error[window, row, column], most, scatter, own)


def _misfit(found: list[_Found], blank_error: float) -> float:
    """Square of the relative misfit that the shifts leave in the cores of bright sources, as the median of them has it; 0 if it is noise.

    PSFs that are not quite right leave residuals in proportion to the light, which no shift explains. It is the light that both images
    have: what one of them lacks is a transient, and its light no measure of how well the other's fits.
    """
    if not any(len(part.source) for part in found):
        return 0.0
    source = np.concatenate([part.source for part in found])
    flux, error, light = (np.concatenate([getattr(part, name) for part in found]) for name in ("flux", "error", "light"))
    height = np.zeros(source.max() + 1, np.float32)
    np.maximum.at(height, source, light)
    core = (light > np.float32(_CORE) * height[source]) & (height[source] > np.float32(_MISFIT_SNR * blank_error))
    excess, weight = (
        np.bincount(source[core], values, minlength=len(height))
        for values in (np.square(flux[core] / error[core]) - 1.0, np.square(light[core] / error[core]))
    )
    each = np.sort(excess[weight > 0] / weight[weight > 0])
    if len(each) < _MISFIT_SOURCES:
        return 0.0
    low, middle = (float(value) for value in np.quantile(each, (0.16, 0.5)))
    doubt = 1.25 * (middle - low) / np.sqrt(len(each))  # from below: what has a misfit spreads upwards
    return middle / _MEDIAN_OF_SQUARE if middle > _MISFIT_SIGMAS * doubt else 0.0

"""Features of candidates: core cubes are cut around many peaks at once and reduced along their pixels.

Radii are in FWHM of the science PSF (`MeasureConfig`). f is the PSF flux, s the sign, P the difference's PSF shifted to the
candidate's sub-pixel position, and sigma the pixel noise of D, white in a proper difference (Zackay, Ofek & Gal-Yam 2016),
measured in the ring about the candidate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid.candidates.peaks import FWHM_PER_SIGMA, Peaks, autocorrelation, psf_fwhm, psf_width
from astrid.candidates.photometry import psf_flux, shifted_psf
from astrid.candidates.planes import sample, stamps
from astrid.candidates.runs import distance, regions, runs_of
from astrid.config.schema.candidates import MeasureConfig
from astrid.core.dq import DQ, unusable
from astrid.core.records import Difference, FloatImage, Psf

Cube = NDArray[np.float64]  # (n, k, k)
_MAD_TO_SIGMA = 1.4826
_EIGEN_RANGE = (0.02, 0.96)  # of the window's variance: keeps the deconvolution of the window finite
_AXIS_WINDOW, _ALONG_WINDOW = 1.5, 3.0  # PSF sigma of the windows that give a candidate's long axis and its width across
_REACH = 2.5  # sigma to which the longer of these windows reaches
_CELLS = 4  # a side: cells of the field in each of which a varying PSF is taken as constant
_GROUP = 256  # peaks that are measured together: bounds the cubes in memory


@dataclass(frozen=True, eq=False)
class Features:
    """Measured columns, each float64 (n,), and the evidence that the tags read beside them."""

    columns: dict[str, NDArray[np.float64]]
    sharpness_err: NDArray[np.float64]
    neighbour_ratio: NDArray[np.float64]  # brightest of the 8 neighbours over what the PSF predicts for it
    core_bits: NDArray[np.uint32]  # DQ bits of the core, or-ed
    psf_moment_fwhm: NDArray[np.float64]  # px, the difference PSF in the measure of the column fwhm
    across: NDArray[np.float64]  # squared width across the long axis over the PSF's, see `_across`
    across_err: NDArray[np.float64]  # its 1-sigma error


def _cut(plane: Any, peaks: Peaks, half: int, *, outside: float) -> NDArray[Any]:
    return stamps(plane, peaks.iy, peaks.ix, half, outside=outside)


def measure(difference: Difference, peaks: Peaks, cfg: MeasureConfig) -> Features:
    """Every feature column that needs no catalogue of sources, of one peak or more.

    flux, flux_err   FLUX and FLUX_ERR at the sub-pixel position, see `photometry`
    sharpness     highest s D of the 3 x 3 pixels about the peak / highest s f P there
    chi2          sum (D - f P)^2 / sigma^2 over the core's usable pixels, divided by their number less 3; sigma holds no
                  photon noise of the source, so it rises above 1 where that outshines the sky's
    symmetry      sum of the opposite-sign score beyond lobe_sigma / the same of the own sign, within lobe_fwhm, at most 1; the
                  negative side lobes that a point source of this S/N has in the score do not count
    fwhm, elongation, roundness   see `_shape`
    science_snr, reference_snr    see `_aperture_snr`
    bad_fraction  unusable or absent share of the core
    edge_distance see `edge_distance`

    Where the difference's PSF varies over the image, P and A are those of the candidate's cell of the field.
    """
    sky = {name: _global_sky(getattr(difference, name)) for name in ("science", "reference", "difference")}
    groups = list(psf_groups(difference.psf_difference, peaks.x, peaks.y))
    parts = [_measured(replace(difference, psf_difference=psf), peaks.take(rows), sky, cfg) for psf, rows in groups]
    back = np.argsort(np.concatenate([rows for _, rows in groups]))

    def joined(pieces: list[NDArray[Any]]) -> NDArray[Any]:
        return np.asarray(np.concatenate(pieces)[back])

    columns = {name: joined([part.columns[name] for part in parts]) for name in parts[0].columns}
    return Features(
        columns | {"edge_distance": edge_distance(difference, peaks.x, peaks.y)},
        joined([part.sharpness_err for part in parts]),
        joined([part.neighbour_ratio for part in parts]),
        joined([part.core_bits for part in parts]),
        joined([part.psf_moment_fwhm for part in parts]),
        joined([part.across for part in parts]),
        joined([part.across_err for part in parts]),
    )


def psf_groups(psf: Psf, x: NDArray[np.float64], y: NDArray[np.float64]) -> Iterator[tuple[Psf, NDArray[np.int64]]]:
    """Positions (n,) by the cells of the field in which a varying PSF is taken as constant: (its PSF, rows), at most `_GROUP` rows."""
    if psf.terms is None:
        cells = np.zeros(len(x), dtype=np.int64)
    else:
        x0, y0, scale = psf.frame
        column, row = (np.clip(np.floor((value / scale + 1.0) * _CELLS / 2), 0, _CELLS - 1).astype(np.int64) for value in (x - x0, y - y0))
        cells = row * _CELLS + column
    for cell in np.unique(cells):
        members = np.flatnonzero(cells == cell)
        here = psf.at(float(x[members].mean()), float(y[members].mean()))
        for first in range(0, len(members), _GROUP):
            yield here, members[first : first + _GROUP]


def _measured(difference: Difference, peaks: Peaks, sky: dict[str, tuple[float, float]], cfg: MeasureConfig) -> Features:
    """The features of some peaks under one PSF."""
    fwhm = psf_fwhm(difference.psf_science)
    half = int(np.ceil(cfg.annulus_outer_fwhm * fwhm))
    dx, dy = peaks.x - peaks.ix, peaks.y - peaks.iy
    flux, flux_err = psf_flux(difference, difference.psf_difference.stamp, peaks.x, peaks.y)
    dq = _cut(difference.dq, peaks, half, outside=int(DQ.NO_COVERAGE))
    core = _Core(peaks, dx, dy, half, fwhm, ~unusable(dq))
    columns = {
        "flux": flux,
        "flux_err": flux_err,
        "symmetry": _symmetry(difference, core, cfg),
        "science_snr": _aperture_snr(difference.science, core, sky["science"], cfg),
        "reference_snr": _aperture_snr(difference.reference, core, sky["reference"], cfg),
    }
    noise = _local_sky(difference.difference, core, sky["difference"], cfg)[1]
    small = core.shrink(int(np.ceil(max(cfg.core_fwhm, cfg.aperture_fwhm) * fwhm)) + 1)
    data = _filled(_cut(difference.difference, peaks, small.half, outside=0.0), small)
    model = shifted_psf(difference.psf_difference.stamp, dx, dy, small.half)
    inside = small.radius <= cfg.core_fwhm * fwhm
    columns["bad_fraction"] = 1.0 - (small.usable & inside).sum(axis=(1, 2)) / inside.sum(axis=(1, 2))
    columns["chi2"] = _chi2(data - flux[:, None, None] * model, small.usable & inside, noise)
    shape, psf_moment_fwhm = _shapes(data, small, difference)
    columns |= shape
    stamp = difference.psf_difference.stamp
    pixel_error = flux_err * np.sqrt(np.sum(np.square(stamp, dtype=np.float64)))  # of D, from var(f) = sigma^2 / sum(P^2)
    sharpness, error, neighbour = _sharpness(data, flux[:, None, None] * model, small, np.fmax(noise, pixel_error), stamp)
    columns["sharpness"] = sharpness
    across = _across(difference, core, np.fmax(noise, pixel_error))
    first = small.half
    bits = np.where(inside, dq[:, half - first : half + first + 1, half - first : half + first + 1], 0)
    return Features(
        columns,
        error,
        neighbour,
        np.bitwise_or.reduce(bits.reshape(len(peaks), -1), axis=1).astype(np.uint32),
        np.full(len(peaks), psf_moment_fwhm),
        *across,
    )


class _Core:
    """The common geometry of a cube: which pixels are usable and how far they lie from the sub-pixel position."""

    def __init__(
        self, peaks: Peaks, dx: NDArray[np.float64], dy: NDArray[np.float64], half: int, fwhm: float, usable: NDArray[np.bool_]
    ) -> None:
        self.peaks, self.dx, self.dy, self.half, self.fwhm, self.usable = peaks, dx, dy, half, fwhm, usable
        reach = np.arange(-half, half + 1)
        self.x = np.broadcast_to(reach - dx[:, None, None], usable.shape)
        self.y = np.broadcast_to(reach[:, None] - dy[:, None, None], usable.shape)
        self.radius = np.hypot(self.x, self.y)

    def shrink(self, half: int) -> _Core:
        half = min(half, self.half)
        inner = slice(self.half - half, self.half + half + 1)
        return _Core(self.peaks, self.dx, self.dy, half, self.fwhm, self.usable[:, inner, inner])


def _filled(seen: NDArray[Any], core: _Core) -> Cube:
    return np.where(core.usable & np.isfinite(seen), seen, 0.0).astype(np.float64)


def _symmetry(difference: Difference, core: _Core, cfg: MeasureConfig) -> NDArray[np.float64]:
    peaks, half = core.peaks, core.half
    own = _filled(_cut(difference.score, peaks, half, outside=0.0), core) * peaks.sign[:, None, None]
    template = autocorrelation(difference.psf_difference.stamp)
    centre = template.shape[0] // 2
    reach = min(half, centre)
    lobes = np.zeros((2 * half + 1, 2 * half + 1))
    lobes[half - reach : half + reach + 1, half - reach : half + reach + 1] = template[
        centre - reach : centre + reach + 1, centre - reach : centre + reach + 1
    ].clip(max=0.0)
    inside = core.radius <= cfg.lobe_fwhm * core.fwhm
    opposite = np.where(inside, (-own + peaks.strength[:, None, None] * lobes - cfg.lobe_sigma).clip(min=0.0), 0.0).sum(axis=(1, 2))
    positive = np.where(inside, (own - cfg.lobe_sigma).clip(min=0.0), 0.0).sum(axis=(1, 2))
    return np.asarray(opposite / np.maximum(np.maximum(positive, opposite), np.finfo(np.float64).tiny))


def _chi2(residual: Cube, used: NDArray[np.bool_], noise: NDArray[np.float64]) -> NDArray[np.float64]:
    squares = np.where(used, np.square(residual), 0.0).sum(axis=(1, 2))
    expected = np.square(noise) * np.maximum(used.sum(axis=(1, 2)) - 3, 1)
    return np.asarray(np.divide(squares, expected, out=np.zeros(len(squares)), where=expected > 0))


def _sharpness(
    data: Cube, model: Cube, core: _Core, noise: NDArray[np.float64], stamp: FloatImage
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Sharpness, its 1-sigma error from the noise of one pixel, and the brightest neighbour over the PSF's.

    The neighbours are the 8 pixels about the highest; both maxima are read from the data and from the model at the same pixels.
    """
    half, sign = core.half, core.peaks.sign[:, None, None]
    near = slice(half - 1, half + 2)
    inner = (sign * data)[:, near, near].reshape(len(data), -1)
    predicted = (sign * model)[:, near, near].reshape(len(data), -1)
    peak = predicted.max(axis=1)
    safe = np.where(peak > 0, peak, np.inf)
    error = noise / safe
    row, column = np.divmod(inner.argmax(axis=1), 3)
    every = np.arange(len(data))
    beside = np.full(len(data), -np.inf)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            if (dy, dx) != (0, 0):
                y, x = half - 1 + row + dy, half - 1 + column + dx
                beside = np.maximum(beside, sign[:, 0, 0] * data[every, y, x])
    centred = stamp[stamp.shape[0] // 2 - 1 : stamp.shape[0] // 2 + 2, stamp.shape[1] // 2 - 1 : stamp.shape[1] // 2 + 2].astype(np.float64)
    share = float(np.sort(centred.ravel())[-2] / centred.max())
    highest = inner.max(axis=1)
    ratio = np.divide(beside, highest * share, out=np.ones(len(data)), where=highest > 0)
    return highest / safe, error, ratio


def _shape(data: Cube, core: _Core, window: float) -> dict[str, NDArray[np.float64]]:
    """Second moments under a Gaussian window of variance w^2, freed of the window.

    M = sum(g d r r^T) / sum(g d) over the usable pixels; C = (M^-1 - I / w^2)^-1 is exact for a Gaussian source (as in Kaiser,
    Squires & Broadhurst 1995, windowed moments). With eigenvalues a >= b of C: fwhm = 2.355 (a b)^(1/4), elongation =
    sqrt(a / b), roundness = (sqrt(C_xx) - sqrt(C_yy)) / mean of both.
    """
    weight = np.exp(-0.5 * np.square(core.radius / window)) * data
    total = weight.sum(axis=(1, 2))
    whole = total > 0
    total = np.where(whole, total, 1.0)
    xx = np.where(whole, (weight * core.x**2).sum(axis=(1, 2)) / total, window**2 / 2)
    yy = np.where(whole, (weight * core.y**2).sum(axis=(1, 2)) / total, window**2 / 2)
    xy = np.where(whole, (weight * core.x * core.y).sum(axis=(1, 2)) / total, 0.0)
    mean, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    low, high = (bound * window**2 for bound in _EIGEN_RANGE)
    major, minor = np.clip(mean + spread, low, high), np.clip(mean - spread, low, high)
    major, minor = (value * window**2 / (window**2 - value) for value in (major, minor))
    angle = 0.5 * np.arctan2(2 * xy, xx - yy)
    sigma_x = np.sqrt(major * np.cos(angle) ** 2 + minor * np.sin(angle) ** 2)
    sigma_y = np.sqrt(major * np.sin(angle) ** 2 + minor * np.cos(angle) ** 2)
    return {
        "fwhm": FWHM_PER_SIGMA * (major * minor) ** 0.25,
        "elongation": np.sqrt(major / minor),
        "roundness": 2 * (sigma_x - sigma_y) / (sigma_x + sigma_y),
    }


def _across(difference: Difference, core: _Core, noise: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Second moment across the long axis over that of the PSF at the same pixels, and its 1-sigma error from the noise of one pixel.

    M = sum(g d t^2) / sum(g d), t the distance from the long axis, which the moments under a Gaussian of `_AXIS_WINDOW` times the
    PSF's sigma give; g has that sigma across and `_ALONG_WINDOW` times it along, so that a track speaks with all its pixels.
    1 is as wide as the PSF; 0 a line. An infinite error where there is no flux to measure.
    """
    stamp = difference.psf_difference.stamp
    width = psf_width(stamp) / FWHM_PER_SIGMA
    core = core.shrink(int(np.ceil(_REACH * _ALONG_WINDOW * width)))
    data = _filled(_cut(difference.difference, core.peaks, core.half, outside=0.0), core) * core.peaks.sign[:, None, None]
    weight = np.exp(-0.5 * np.square(core.radius / (_AXIS_WINDOW * width))) * data
    xx, yy, xy = ((weight * product).sum(axis=(1, 2)) for product in (core.x**2, core.y**2, core.x * core.y))
    angle = 0.5 * np.arctan2(2 * xy, xx - yy)[:, None, None]
    along, across = core.x * np.cos(angle) + core.y * np.sin(angle), core.y * np.cos(angle) - core.x * np.sin(angle)
    window = np.exp(-0.5 * (np.square(across / width) + np.square(along / (_ALONG_WINDOW * width)))) * core.usable
    model = window * shifted_psf(stamp, core.dx, core.dy, core.half)
    expected = (model * across**2).sum(axis=(1, 2)) / np.maximum(model.sum(axis=(1, 2)), np.finfo(np.float64).tiny)
    total = (window * data).sum(axis=(1, 2))
    known = (total > 0) & (expected > 0)
    total, expected = np.where(known, total, np.inf), np.where(known, expected, 1.0)
    moment = (window * data * across**2).sum(axis=(1, 2)) / total
    error = noise * np.sqrt(np.square(window * (across**2 - moment[:, None, None])).sum(axis=(1, 2))) / total
    return np.where(known, moment / expected, 1.0), np.where(known, error / expected, np.inf)


def _shapes(data: Cube, core: _Core, difference: Difference) -> tuple[dict[str, NDArray[np.float64]], float]:
    """Shapes of the candidates and, in the same window, the FWHM of the difference's PSF."""
    stamp = difference.psf_difference.stamp
    window = psf_width(stamp) / FWHM_PER_SIGMA
    shape = _shape(data * core.peaks.sign[:, None, None], core, window)
    zero, pixel = np.zeros(1), np.zeros(1, dtype=np.int64)
    half = core.half
    one = Peaks(zero, zero, pixel, pixel, pixel + 1, zero, zero)
    ideal = _Core(one, zero, zero, half, core.fwhm, np.ones((1, 2 * half + 1, 2 * half + 1), dtype=bool))
    return shape, float(_shape(shifted_psf(stamp, zero, zero, half), ideal, window)["fwhm"][0])


def _aperture_snr(plane: FloatImage, core: _Core, whole: tuple[float, float], cfg: MeasureConfig) -> NDArray[np.float64]:
    """S/N of the aperture sum over the local sky: (sum_ap - n b) / (sigma sqrt(n + n^2 pi / (2 m))).

    b is the median and sigma the scaled MAD of the m usable ring pixels (the plane's own where the ring is empty or has no
    spread), n the usable pixels of the aperture. Sky-limited: it holds no source noise, and neighbouring pixels that resampling
    has correlated make it too high in the reference by the square root of the noise-equivalent kernel.
    """
    seen = _cut(plane, core.peaks, core.half, outside=np.nan).astype(np.float64)
    good = core.usable & np.isfinite(seen)
    sky, sigma, count = _local_sky(plane, core, whole, cfg)
    aperture = (core.radius <= cfg.aperture_fwhm * core.fwhm) & good
    pixels = aperture.sum(axis=(1, 2))
    signal = np.where(aperture, seen, 0.0).sum(axis=(1, 2)) - pixels * sky
    error = sigma * np.sqrt(pixels + np.pi / 2 * np.square(pixels) / np.maximum(count, 1))
    return np.asarray(np.divide(signal, error, out=np.zeros(len(signal)), where=error > 0))


def _local_sky(
    plane: FloatImage, core: _Core, whole: tuple[float, float], cfg: MeasureConfig
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Median, sigma (scaled MAD) and number of the usable ring pixels; the `whole` plane's where the ring has none or no spread."""
    seen = _cut(plane, core.peaks, core.half, outside=np.nan).astype(np.float64)
    ring = (core.radius >= cfg.annulus_inner_fwhm * core.fwhm) & (core.radius <= cfg.annulus_outer_fwhm * core.fwhm)
    sky, sigma, count = _ring_sky(np.where(ring & core.usable & np.isfinite(seen), seen, np.nan))
    level, noise = whole
    return np.where(count > 0, sky, level), np.where((count > 0) & (sigma > 0), sigma, noise), count


def _ring_sky(rings: Cube) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    flat = rings.reshape(len(rings), -1)
    flat = flat[:, np.isfinite(flat).any(axis=0)] if len(flat) else flat
    count = np.isfinite(flat).sum(axis=1)
    sky = _median(flat, count)
    return sky, _MAD_TO_SIGMA * _median(np.abs(flat - sky[:, None]), count), count


def _median(values: NDArray[np.float64], count: NDArray[np.int64]) -> NDArray[np.float64]:
    """Median of each row's `count` finite values; NaN, which sorts last, where there is none."""
    if not values.size:
        return np.full(len(values), np.nan)
    ordered = np.sort(values, axis=1)
    every = np.arange(len(values))
    return np.asarray(0.5 * (ordered[every, (np.maximum(count, 1) - 1) // 2] + ordered[every, np.minimum(count // 2, values.shape[1] - 1)]))


def _global_sky(plane: FloatImage) -> tuple[float, float]:
    values = sample(plane)
    if not values.size:
        return 0.0, 0.0
    level = float(np.median(values))
    return level, float(_MAD_TO_SIGMA * np.median(np.abs(values - level)))


def edge_distance(difference: Difference, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance, px, from each position to the image's border or to the nearest pixel outside the footprint, float64 (n,).

    Outside are connected regions without coverage or without a finite value that touch the border; holes inside are no edge.
    """
    ny, nx = difference.dq.shape
    border = np.asarray(np.minimum.reduce([x + 0.5, nx - 0.5 - x, y + 0.5, ny - 0.5 - y]))
    void = runs_of(difference.dq, lambda band: (band & np.uint32(DQ.NO_COVERAGE | DQ.NOT_FINITE)) != 0)
    rim = (void.row == 0) | (void.row == ny - 1) | (void.start == 0) | (void.stop == nx)
    if not rim.any():
        return border
    number = regions(void, diagonal=False)
    return np.asarray(np.minimum(border, distance(void.take(np.isin(number, number[rim])), x, y)[0]))

"""What constant sources leave in a difference: a change that the sources around share, and one beside the centre of a star."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from astrid.candidates.host import Sources
from astrid.candidates.peaks import FWHM_PER_SIGMA, Peaks, psf_fwhm
from astrid.candidates.planes import pick, sample, stamps
from astrid.config.schema.candidates import TagsConfig
from astrid.core.dq import unusable
from astrid.core.records import Difference

_MEDIAN_ERROR = 1.2533  # of a median over that of a mean, for Gaussian noise
_MAD_TO_SIGMA = 1.4826
_APART = 2.0  # FWHM between a candidate and the sources that it is compared with
_GROUP = 1024  # places whose stamps are held at once

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def on_constant(difference: Difference, peaks: Peaks, flux: Floats, sources: Sources, cfg: TagsConfig) -> tuple[Mask, Mask]:
    """Peaks whose change is a constant source's, bool (n,) each; `flux`: signed PSF flux of the peaks in D, float64 (n,).

    scale   the change is the share of its light by which the sources around change too: PSF flux of D over the light of the
            reference in an aperture of one FWHM, at the peak and at the `scale_members` nearest sources beyond two FWHM. Their
            median is beyond `scale_sigma` of its error and `scale_least`, and the peak's own share agrees within `scale_factor`.
    offset  beside the centre of a star, by more than the error of its place (FWHM / 2.355 / S/N), with a small share of its light:
            one lobe of a shifted or badly matched star whose other lobe is hidden.
    """
    scale, offset = np.zeros(len(peaks), dtype=bool), np.zeros(len(peaks), dtype=bool)
    if not len(peaks) or not len(sources.x):
        return scale, offset
    fwhm = psf_fwhm(difference.psf_science)
    level = float(np.median(sample(difference.reference)))
    light = _light(difference, peaks.x, peaks.y, fwhm, level)
    share = np.divide(flux, light, out=np.full(len(peaks), np.inf), where=light > 0)
    around, error = _shared(difference, peaks, sources, fwhm, level, cfg)
    agrees = (share > around / cfg.scale_factor) & (share < around * cfg.scale_factor)
    agrees |= (share < around / cfg.scale_factor) & (share > around * cfg.scale_factor)  # both negative
    seen = light > cfg.scale_snr * _at(difference.flux_err, peaks.x, peaks.y)
    scale = seen & agrees & (np.abs(around) > np.maximum(cfg.scale_sigma * error, cfg.scale_least))
    return scale, _beside_star(difference, peaks, share, sources, fwhm, cfg)


def _beside_star(difference: Difference, peaks: Peaks, share: Floats, sources: Sources, fwhm: float, cfg: TagsConfig) -> Mask:
    distance, place = cKDTree(np.column_stack([sources.x, sources.y])).query(np.column_stack([peaks.x, peaks.y]))
    near, far = cfg.offset_fwhm
    placed = cfg.offset_sigma / (FWHM_PER_SIGMA * peaks.snr)  # FWHM, by which a source's own place is uncertain
    round_star = (sources.major[place] < cfg.offset_size * fwhm) & (sources.peak[place] > cfg.offset_snr * sources.sky_sigma)
    beside = (distance > np.maximum(near, placed) * fwhm) & (distance < far * fwhm)
    return np.asarray(round_star & beside & (np.abs(share) < cfg.offset_share))


def _shared(difference: Difference, peaks: Peaks, sources: Sources, fwhm: float, level: float, cfg: TagsConfig) -> tuple[Floats, Floats]:
    """Median share by which the sources around each peak change, and its error, float64 (n,) each; 0 and infinite where too few are."""
    nothing = np.zeros(len(peaks)), np.full(len(peaks), np.inf)
    light, error = _light(difference, sources.x, sources.y, fwhm, level), _at(difference.flux_err, sources.x, sources.y)
    change = _at(difference.flux, sources.x, sources.y)
    clean = ~unusable(_at(difference.dq, sources.x, sources.y))
    used = np.flatnonzero(clean & np.isfinite(change) & np.isfinite(error) & (light > cfg.scale_snr * error))
    if len(used) < cfg.scale_members // 2 + 1:
        return nothing
    share, noise = change[used] / light[used], error[used] / light[used]
    tree = cKDTree(np.column_stack([sources.x[used], sources.y[used]]))
    reach = min(2 * cfg.scale_members, len(used))
    distance, place = tree.query(np.column_stack([peaks.x, peaks.y]), k=reach)
    apart = distance > _APART * fwhm
    kept = apart & (np.cumsum(apart, axis=1) <= cfg.scale_members)
    shares = np.where(kept, share[place], np.nan)
    enough = kept.sum(axis=1) >= cfg.scale_members // 2
    shares[~enough] = 0.0  # of any value: they are not used
    middle = np.nanmedian(shares, axis=1)
    spread = _MAD_TO_SIGMA * np.nanmedian(np.abs(shares - middle[:, None]), axis=1)
    expected = np.median(noise[place], axis=1)
    error_of_median = _MEDIAN_ERROR * np.maximum(spread, expected) / np.sqrt(np.maximum(kept.sum(axis=1), 1))
    return np.where(enough, middle, 0.0), np.where(enough, error_of_median, np.inf)


def _light(difference: Difference, x: Floats, y: Floats, radius: float, level: float) -> Floats:
    """Sum of the reference above `level` within `radius`, px, of places (n,), float64 (n,); absent pixels count as empty."""
    half = int(np.ceil(radius)) + 1
    iy, ix = _pixels(difference.reference.shape, x, y)
    reach = np.arange(-half, half + 1)
    out = np.empty(len(x))
    for first in range(0, len(x), _GROUP):
        part = slice(first, first + _GROUP)
        seen = stamps(difference.reference, iy[part], ix[part], half, outside=np.nan) - level
        inside = np.hypot(reach - (x - ix)[part, None, None], reach[:, None] - (y - iy)[part, None, None]) <= radius
        out[part] = np.where(inside & np.isfinite(seen), seen, 0.0).sum(axis=(1, 2), dtype=np.float64)
    return out


def _at(plane: Any, x: Floats, y: Floats) -> NDArray[Any]:
    return pick(plane, *_pixels(plane.shape, x, y))


def _pixels(shape: tuple[int, ...], x: Floats, y: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pixels (iy, ix) that hold places inside a plane of this shape."""
    iy, ix = (np.rint(value).astype(np.int64).clip(0, length - 1) for value, length in ((y, shape[0]), (x, shape[1])))
    return iy, ix

"""Marks of the detector's readout in a difference image: flags of one epoch, charge along columns, steps between amplifiers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d, uniform_filter1d

from astrid.candidates.light import Light
from astrid.candidates.peaks import Peaks, psf_fwhm
from astrid.candidates.planes import bands, stamps, window
from astrid.config.schema.candidates import TagsConfig
from astrid.core.dq import DQ, unusable
from astrid.core.records import Difference

_MAD_TO_SIGMA = 1.4826
_CLIP = 4.0  # sigma of a pixel of D, so that no star weighs more than a few pixels of sky
_STRIPS = 4  # parts of a line's length that must agree
_AGREE = 3  # of them
_STRIP_SIGMA = 2.0
_KNOWN = 0.3  # usable share of a line in a strip
_TOGETHER = 32  # peaks whose columns are looked at together
_TWIN = 0.6  # an opposite jump this strong, a few widths away, makes a bright line of a step

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def on_flagged(difference: Difference, peaks: Peaks, bit: DQ, reach: float) -> Mask:
    """True for peaks that lie on a pixel, or have one within `reach` (px), that carries a bit of the epoch that fits their sign, bool (n,).

    What brightens a pixel of the science image makes a positive peak; of the reference, which DQ.REFERENCE marks, a negative one;
    of both, DQ.BOTH, either.
    """
    half = int(np.ceil(reach)) + 1
    dq = stamps(difference.dq, peaks.iy, peaks.ix, half, outside=0)
    fits = (((dq & np.uint32(DQ.REFERENCE)) != 0) == (peaks.sign < 0)[:, None, None]) | ((dq & np.uint32(DQ.BOTH)) != 0)
    offset = np.arange(-half, half + 1)
    x, y = offset - (peaks.x - peaks.ix)[:, None], offset - (peaks.y - peaks.iy)[:, None]
    near = (np.hypot(x[:, None, :], y[:, :, None]) <= reach) | ((offset == 0) & (offset == 0)[:, None])
    return np.asarray((fits & near & ((dq & np.uint32(bit)) != 0)).any(axis=(1, 2)))


def on_column(difference: Difference, light: Light, peaks: Peaks, cfg: TagsConfig) -> Mask:
    """True for peaks on a line of excess charge along their column: a leaking column or what a bleeding star left behind, bool (n,).

    The three columns about the peak are compared with those on either side over `column_length_fwhm` above and below, without the
    peak's own light; the excess must be beyond `column_sigma` on the stronger side and of the peak's sign.
    """
    if not len(peaks):
        return np.zeros(0, dtype=bool)
    fwhm = psf_fwhm(difference.psf_science)
    half, hole = int(np.ceil(cfg.column_length_fwhm * fwhm)), int(np.ceil(1.5 * fwhm))
    level, sigma = light.level, light.sigma
    if not sigma > 0:
        return np.zeros(len(peaks), dtype=bool)
    best = np.zeros(len(peaks))
    for first in range(0, len(peaks), _TOGETHER):
        rows = slice(first, first + _TOGETHER)
        data = stamps(difference.difference, peaks.iy[rows], peaks.ix[rows], half, outside=np.nan).astype(np.float64)
        bad = unusable(stamps(difference.dq, peaks.iy[rows], peaks.ix[rows], half, outside=int(DQ.NO_COVERAGE))) | ~np.isfinite(data)
        data = np.where(bad, np.nan, np.clip((data - level) / sigma, -_CLIP, _CLIP)) * peaks.sign[rows, None, None]
        best[rows] = np.maximum(_arm(data[:, : half - hole], half, hole), _arm(data[:, half + hole + 1 :], half, hole))
    return best > cfg.column_sigma


def _arm(data: Floats, half: int, gap: int) -> Floats:
    """The excess along an arm of a column: the weaker of its two halves, so that no single source makes a line."""
    middle = data.shape[1] // 2
    return np.minimum(_excess(data[:, :middle], half, gap), _excess(data[:, middle:], half, gap))


def _excess(data: Floats, half: int, gap: int) -> Floats:
    """Sigma by which the middle columns of stamps (n, k, m) outshine those beside them."""
    middle = data[:, :, half - 1 : half + 2]
    sides = np.concatenate([data[:, :, half - 2 * gap : half - gap + 1], data[:, :, half + gap : half + 2 * gap + 1]], axis=2)
    levels, counts = [], []
    for part in (middle, sides):
        known = np.isfinite(part).sum(axis=(1, 2))
        counts.append(known)
        levels.append(np.nansum(part, axis=(1, 2)) / np.maximum(known, 1))
    error = np.sqrt(1.0 / np.maximum(counts[0], 1) + 1.0 / np.maximum(counts[1], 1))
    return np.where((counts[0] > 0) & (counts[1] > 0), (levels[0] - levels[1]) / error, 0.0)


def on_step(difference: Difference, light: Light, peaks: Peaks, share: Floats, wide: Mask, cfg: TagsConfig) -> Mask:
    """True for peaks beside a straight border across the image at which the level of D jumps, bool (n,).

    Two amplifiers whose gains or offsets drift apart leave a step along a whole column or row. A peak that is no wider than the PSF and
    owes less than `step_share` of its strength to even light about it (`share`, see `light.diffuse_share`) is a source of its own.
    """
    reach = cfg.step_fwhm * psf_fwhm(difference.psf_science)
    on = np.zeros(len(peaks), dtype=bool)
    width = max(2, round(cfg.step_width_fwhm * psf_fwhm(difference.psf_science)))
    for place, profile in zip((peaks.x, peaks.y), profiles(difference, light), strict=True):
        for border in find_steps(*profile, width, cfg):
            on |= np.abs(place - border) <= reach
    return on & (wide | (share > cfg.step_share))


def find_steps(total: Floats, count: Floats, width: int, cfg: TagsConfig) -> list[float]:
    """Places (px) at which the level jumps along an axis. `total`, `count`: of `profiles`; `width`: px on either side.

    The mean of clipped D over some columns right of a border less that left of it, in each of four strips of the border's length;
    its noise is the scatter of the same number over all borders of the strip.
    """
    if total.shape[1] < 8 * width:
        return []
    left, right = (_side(total, width, side) / np.maximum(_side(count, width, side), 1.0) for side in (0, 1))
    known = (np.minimum(_side(count, 1, 0), _side(count, 1, 1)) >= _KNOWN * count.max()) & (count.max() > 0)
    known[:, : width - 1], known[:, -width:] = False, False
    jump = np.where(known, right - left, 0.0)
    noise = np.array([_scatter(row[there]) for row, there in zip(jump, known, strict=True)])[:, None]
    z = np.divide(jump, noise, out=np.zeros_like(jump), where=known & (noise > 0))
    whole = z.sum(axis=0) / np.sqrt(_STRIPS)
    agree = (z * np.sign(whole) > _STRIP_SIGMA).sum(axis=0) >= _AGREE
    height = np.abs(whole)
    top = (height > cfg.step_sigma) & agree & (height == maximum_filter1d(height, 2 * width + 1))
    found = []
    for border in np.flatnonzero(top).tolist():
        near = whole[max(border - 2 * width, 0) : border + 2 * width + 1] * -np.sign(whole[border])
        if near.max() < _TWIN * height[border]:
            found.append(border + 0.5)
    return found


def _side(values: Floats, width: int, side: int) -> Floats:
    """Sum over `width` entries before (0, ending at each) or after (1, starting behind each) along the second axis."""
    shift = (width - 1) // 2 if side == 0 else -(width // 2) - 1
    return np.asarray(np.roll(uniform_filter1d(values, width, axis=1, mode="constant"), shift, axis=1) * width)


def _scatter(values: Floats) -> float:
    return float(_MAD_TO_SIGMA * np.median(np.abs(values - np.median(values)))) if len(values) else 0.0


def profiles(difference: Difference, light: Light) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """Sum of clipped D in its sigma and number of usable pixels: ((strips, columns) twice, (strips, rows) twice)."""
    ny, nx = difference.difference.shape
    along_x, along_y = ((np.zeros((_STRIPS, n)), np.zeros((_STRIPS, n))) for n in (nx, ny))
    tops, lefts = (np.linspace(0, length, _STRIPS + 1).astype(int) for length in (ny, nx))
    if not light.sigma > 0:
        return along_x, along_y
    for rows in bands((ny, nx)):
        data = (window(difference.difference, rows) - np.float32(light.level)) / np.float32(light.sigma)
        good = ~unusable(window(difference.dq, rows)) & np.isfinite(data)
        data = np.where(good, np.clip(data, -_CLIP, _CLIP), np.float32(0))
        for plane, whole_x, whole_y in zip((data, good.astype(np.float32)), along_x, along_y, strict=True):
            for strip in range(_STRIPS):
                part = slice(max(tops[strip] - rows.start, 0), max(tops[strip + 1] - rows.start, 0))
                whole_x[strip] += plane[part].sum(axis=0)
                whole_y[strip, rows] += plane[:, lefts[strip] : lefts[strip + 1]].sum(axis=1)
    return along_x, along_y

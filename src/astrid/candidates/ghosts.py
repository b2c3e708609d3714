"""Ghosts: out-of-focus reflections of bright stars, found as smooth discs or rings of low surface brightness in the difference.

A reflection between optical surfaces lands where the star's ray is mirrored about the optical axis, or beside the star itself
when the surfaces are plane and near the focus; it moves against a dither, so that a pair never cancels it. The evidence asked
for here: a connected region of D in blocks of one FWHM that is large, round, filled like a disc or a ring, evenly bright, and
has a bright star where its light can come from. A star outside the image, an arc of a broken ring and a ghost that several
reflections have stretched are not recognised.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_fill_holes, find_objects, label

from astrid.candidates.host import Sources, saturated
from astrid.candidates.light import CLIP as _CLIP
from astrid.candidates.light import Light
from astrid.candidates.peaks import Peaks, psf_fwhm
from astrid.candidates.runs import regions
from astrid.config.schema.candidates import TagsConfig
from astrid.core.records import Difference

_CLIPPED = 0.2  # of a region's blocks that may reach it: beyond, it is no low surface brightness and its shape is not known
_CONNECTED = np.ones((3, 3), dtype=int)


@dataclass(frozen=True, eq=False)
class Ghost:
    """One reflection: centre and radius in px, mean brightness, and the star it belongs to."""

    x: float
    y: float
    radius: float
    sign: int  # -1: it lies in the reference
    brightness: float  # sigma of D a pixel
    smoothness: float  # median over mean of its blocks
    elongation: float
    star_x: float
    star_y: float
    mirrored: bool  # about the optical axis; else the star is beside it
    top: int  # first row and column of `mask`, in blocks
    left: int
    mask: NDArray[np.bool_]  # its blocks, holes filled and one block grown
    block: int  # px

    def holds(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
        """True for positions (n,) on the ghost."""
        row, column = (np.floor((value + 0.5) / self.block).astype(np.int64) for value in (y, x))
        row, column = row - self.top, column - self.left
        inside = (row >= 0) & (row < self.mask.shape[0]) & (column >= 0) & (column < self.mask.shape[1])
        return np.asarray(inside & self.mask[row.clip(0, self.mask.shape[0] - 1), column.clip(0, self.mask.shape[1] - 1)])


def on_ghost(
    difference: Difference, light: Light, peaks: Peaks, wide: NDArray[np.bool_], sources: Sources, cfg: TagsConfig
) -> NDArray[np.bool_]:
    """True for peaks of a ghost's sign that its light explains, bool (n,).

    A flat brightness of b sigma a pixel gives T = b / sqrt(sum(P^2)) everywhere; a peak that stands `ghost_sigma` above that and is no
    wider than the PSF (`wide` false) is a source of its own in front of the ghost.
    """
    on = np.zeros(len(peaks), dtype=bool)
    root = float(np.sqrt(np.sum(np.square(difference.psf_difference.stamp, dtype=np.float64))))
    for ghost in find_ghosts(difference, light, sources, cfg):
        own = ~wide & (peaks.strength > abs(ghost.brightness) / root + cfg.ghost_sigma)
        on |= (peaks.sign == ghost.sign) & ghost.holds(peaks.x, peaks.y) & ~own
    return on


def find_ghosts(difference: Difference, light: Light, sources: Sources, cfg: TagsConfig) -> list[Ghost]:
    """The reflections in D that a bright star of the image explains; none where there is no bright star."""
    star_x, star_y = _bright_stars(difference, sources)
    if not len(star_x):
        return []
    fwhm = psf_fwhm(difference.psf_science)
    block, mean, significance = light.block, light.mean, light.significance
    found = []
    for sign in (1, -1):
        number, _ = label(significance * sign > cfg.ghost_sigma, structure=_CONNECTED)
        for index, box in enumerate(find_objects(number), start=1):
            ghost = _judged(number[box] == index, mean[box], sign, (box[0].start, box[1].start), block, fwhm, cfg)
            star = _star_of(ghost, star_x, star_y, difference.score.shape, cfg) if ghost is not None else None
            if ghost is not None and star is not None and not _explained(ghost, sources):
                found.append(_with_star(ghost, *star))
    return found


def _bright_stars(difference: Difference, sources: Sources) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bright stars of the reference and the centres of saturated regions, px."""
    full = saturated(difference)
    number = regions(full, diagonal=True)
    y, x, run = full.pixels()
    count = np.bincount(number[run]) if len(run) else np.zeros(0)
    centres = [np.bincount(number[run], weights=value) / count if len(run) else np.zeros(0) for value in (x, y)]
    return np.concatenate([sources.x[sources.star], centres[0]]), np.concatenate([sources.y[sources.star], centres[1]])


def _judged(
    region: NDArray[np.bool_], mean: NDArray[np.float64], sign: int, corner: tuple[int, int], block: int, fwhm: float, cfg: TagsConfig
) -> Ghost | None:
    """The region as a ghost without a star yet; None where its size, shape or light is not that of a disc or ring."""
    least, most = cfg.ghost_radius_fwhm
    if max(region.shape) * block < least * fwhm:
        return None
    filled = binary_fill_holes(region)
    radius = float(np.sqrt(filled.sum() / np.pi)) * block
    if not least * fwhm <= radius <= most * fwhm:
        return None
    rows, columns = np.nonzero(filled)
    minor, major = np.sqrt(np.linalg.eigvalsh(np.cov(np.stack([columns, rows]).astype(np.float64))).clip(1e-9))
    spread = 4.0 * np.pi * major * minor / filled.sum()  # 1 for a filled ellipse, more for a ragged region
    light = sign * mean[region]
    smoothness = float(np.median(light) / max(light.mean(), np.finfo(np.float64).tiny))
    if np.mean(light > 0.9 * _CLIP) > _CLIPPED:
        return None
    if major > cfg.ghost_elongation * minor or spread > cfg.ghost_raggedness or smoothness < cfg.ghost_smoothness:
        return None
    top, left = corner
    return Ghost(
        x=(left + columns.mean() + 0.5) * block - 0.5,
        y=(top + rows.mean() + 0.5) * block - 0.5,
        radius=radius,
        sign=sign,
        brightness=float(sign * light.mean()),
        smoothness=smoothness,
        elongation=float(major / minor),
        star_x=np.nan,
        star_y=np.nan,
        mirrored=False,
        top=top - 1,
        left=left - 1,
        mask=np.asarray(binary_dilation(np.pad(filled, 1), structure=_CONNECTED)),
        block=block,
    )


def _star_of(
    ghost: Ghost, x: NDArray[np.float64], y: NDArray[np.float64], shape: tuple[int, ...], cfg: TagsConfig
) -> tuple[float, float, bool] | None:
    """The bright star that explains a ghost: mirrored about the optical axis, on the line through it, or else beside the ghost."""
    axis_x, axis_y = cfg.ghost_axis[0] * (shape[1] - 1), cfg.ghost_axis[1] * (shape[0] - 1)
    gx, gy, sx, sy = ghost.x - axis_x, ghost.y - axis_y, x - axis_x, y - axis_y
    low, high = cfg.ghost_scale
    length = np.maximum(np.hypot(sx, sy), np.finfo(np.float64).tiny)
    along, across = (gx * sx + gy * sy) / length, np.abs(gx * sy - gy * sx) / length
    slack = cfg.ghost_tolerance * ghost.radius
    off = np.hypot(across, np.maximum(np.maximum(-along - high * length, low * length + along), 0.0))
    if off.min() <= slack:
        star = int(off.argmin())
        return float(x[star]), float(y[star]), True
    gap = np.hypot(x - ghost.x, y - ghost.y)
    star = int(gap.argmin())
    return (float(x[star]), float(y[star]), False) if gap[star] <= cfg.ghost_near * ghost.radius else None


def _explained(ghost: Ghost, sources: Sources) -> bool:
    """True where a galaxy of the reference has the ghost's centre in its light: a change of the galaxy, not a reflection."""
    reach = np.hypot(sources.x - ghost.x, sources.y - ghost.y)
    return bool(np.any(sources.extended & (reach < 2.0 * sources.major) & (4.0 * sources.major > ghost.radius)))


def _with_star(ghost: Ghost, x: float, y: float, mirrored: bool) -> Ghost:
    return replace(ghost, star_x=x, star_y=y, mirrored=mirrored)

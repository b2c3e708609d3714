"""Ghosts without a known star: round regions that D fills with light of low surface brightness, of either sign or of both.

A reflection lies elsewhere in either exposure of a dithered pair, so the difference shows two crescents of opposite sign that make
a disc or ring together. The evidence asked for: blocks of one FWHM in a disc are lit, those in the ring around it are not, the light
is not that of a star or galaxy in the disc's middle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.ndimage import maximum_filter

from astrid.candidates.host import Sources
from astrid.candidates.light import CLIP, Light
from astrid.candidates.peaks import Peaks
from astrid.config.schema.candidates import TagsConfig

_BIN = 2  # blocks a side that are looked at together
_STEP = 1.3  # from one radius to the next
_CLEAR = (1.25, 1.75)  # the ring that must be dark, in radii
_COVERED = 0.5  # share of the disc that must be known
_COVERED_RING = 0.3  # and of the ring
_CLIPPED = 0.2  # of the blocks of light of one sign that may reach the limit of a pixel: beyond, its shape is not known
_BOTH = 0.2  # share of the rarer sign from which a disc is no change of one galaxy (which the reference's own reflection looks like)
_MOST = 40  # discs of one image
_RIM = 1.15  # radii that a disc's light reaches

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Disc:
    """A lit disc: centre and radius in px, and the share of its light that has the rarer sign."""

    x: float
    y: float
    radius: float
    minority: float


def on_disc(light: Light, peaks: Peaks, share: Floats, wide: Mask, sources: Sources, cfg: TagsConfig) -> Mask:
    """True for peaks that the light of a disc explains, bool (n,); `share`: see `light.diffuse_share`.

    A peak that is wider than the PSF needs half of `ghost_share`, since the light's own edges make it.
    """
    on = np.zeros(len(peaks), dtype=bool)
    discs = find_discs(light, sources, cfg)
    if not discs or not len(peaks):
        return on
    for disc in discs:
        on |= np.hypot(peaks.x - disc.x, peaks.y - disc.y) <= _RIM * disc.radius
    return on & ((wide & (share > 0.5 * cfg.ghost_share)) | (share > cfg.ghost_share))


def find_discs(light: Light, sources: Sources, cfg: TagsConfig) -> list[Disc]:
    """The lit discs of an image, the clearest first."""
    block = _BIN * light.block
    mean, known, lit = (_binned(plane) for plane in (light.mean, light.mean != 0.0, np.abs(light.significance) > cfg.ghost_sigma))
    least, most = (radius / _BIN for radius in cfg.ghost_radius_fwhm)
    radii = [least * _STEP**n for n in range(64) if least * _STEP**n <= min(most, min(mean.shape) / 4)]
    radii = [radius for radius in radii if cfg.ghost_filled * _COVERED * np.pi * radius**2 <= lit.sum()]  # else too little is lit
    if not radii:
        return []
    found = []
    maps = _Maps(known, lit, int(np.ceil(_CLEAR[1] * radii[-1])))
    for radius in radii:
        inside, outside, covered = maps.shares(radius)
        score = np.where((inside > cfg.ghost_filled) & (outside < cfg.ghost_clear) & (covered > _COVERED), inside - outside, 0.0)
        row, column = np.nonzero((score > 0) & (score == maximum_filter(score, 2 * int(radius / 2) + 1)))
        found += [(float(score[y, x]) * radius, radius, y, x) for y, x in zip(row.tolist(), column.tolist(), strict=True)]
    discs: list[Disc] = []
    for _, radius, y, x in sorted(found, key=lambda entry: (-entry[0], -entry[1], entry[2], entry[3])):
        disc = _judged(mean, lit, radius, (y, x), block, cfg)
        if disc is None or _explained(disc, sources) or any(np.hypot(disc.x - d.x, disc.y - d.y) < d.radius / 2 for d in discs):
            continue
        discs.append(disc)
        if len(discs) == _MOST:
            break
    return discs


def _binned(plane: NDArray[Any]) -> Floats:
    """Means over 2 x 2 blocks; an odd last row or column is left out."""
    ny, nx = (length // _BIN for length in plane.shape)
    return np.asarray(plane[: ny * _BIN, : nx * _BIN].reshape(ny, _BIN, nx, _BIN).mean(axis=(1, 3)), dtype=np.float64)


class _Maps:
    """Sums of two masks over discs of any radius."""

    def __init__(self, known: Floats, lit: Floats, reach: int) -> None:
        self.shape = known.shape
        self.padded = tuple(next_fast_len(length + reach, real=True) for length in known.shape)
        self.spectra = [rfft2(plane.astype(np.float32), self.padded) for plane in (known, lit)]
        y, x = (np.fft.fftfreq(length) * length for length in self.padded)
        self.away = np.hypot(y[:, None], x[None, :])

    def shares(self, radius: float) -> tuple[Floats, Floats, Floats]:
        """Lit share of the disc, of the ring around it, and known share of the disc, about every block."""
        inner = self.away <= radius
        outer = (self.away > _CLEAR[0] * radius) & (self.away <= _CLEAR[1] * radius)
        ny, nx = self.shape
        sums = []
        for kernel in (inner, outer):
            weight = rfft2(kernel.astype(np.float32))
            sums += [irfft2(spectrum * weight, self.padded)[:ny, :nx] for spectrum in self.spectra]
        inside = sums[1] / np.maximum(sums[0], 1.0)
        outside = np.where(sums[2] > _COVERED_RING * outer.sum(), sums[3] / np.maximum(sums[2], 1.0), 1.0)
        return inside, outside, sums[0] / inner.sum()


def _judged(mean: Floats, lit: Floats, radius: float, place: tuple[int, int], block: int, cfg: TagsConfig) -> Disc | None:
    """The disc about a block, with the signs of its light; None where the light is a line or has a peak."""
    y, x = place
    reach = int(np.ceil(_CLEAR[1] * radius))
    rows, columns = (slice(max(at - reach, 0), min(at + reach + 1, length)) for at, length in zip(place, mean.shape, strict=True))
    dy, dx = np.arange(rows.start, rows.stop) - y, np.arange(columns.start, columns.stop) - x
    away = np.hypot(dy[:, None], dx[None, :])
    shown = lit[rows, columns] > 0.5
    light = mean[rows, columns][(away <= radius) & shown]
    row, column = np.nonzero((away <= _CLEAR[1] * radius) & shown)
    if len(light) < 3:
        return None
    minority = float(min(np.mean(light > 0), np.mean(light < 0)))
    even = cfg.ghost_smoothness if minority >= _BOTH else 0.5 * (1.0 + cfg.ghost_smoothness)  # one sign alone may be a peak's wings
    clipped = np.mean(np.abs(light) > 0.9 * CLIP) > _CLIPPED and minority < _BOTH
    if clipped or np.median(np.abs(light)) < even * np.mean(np.abs(light)):
        return None
    minor, major = np.sqrt(np.linalg.eigvalsh(np.cov(np.stack([column, row]).astype(np.float64))).clip(1e-9))
    if major > cfg.ghost_elongation * minor:
        return None
    return Disc((x + 0.5) * block - 0.5, (y + 0.5) * block - 0.5, radius * block, minority)


def _explained(disc: Disc, sources: Sources) -> bool:
    """True where a bright star or a galaxy of that size sits in the middle: its halo or its change, not a reflection."""
    away = np.hypot(sources.x - disc.x, sources.y - disc.y)
    galaxy = sources.extended & (away < 2.0 * sources.major) & (4.0 * sources.major > disc.radius)
    one_sign = disc.minority < _BOTH
    return bool(np.any((galaxy & one_sign) | (sources.star & (away < 0.5 * disc.radius))))

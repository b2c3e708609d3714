"""Light of low surface brightness in the difference: D in blocks of one FWHM, and what of a candidate it explains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from astrid.candidates.peaks import Peaks, psf_fwhm
from astrid.candidates.planes import bands, sample, window
from astrid.core.dq import unusable
from astrid.core.records import Difference, FloatImage

CLIP = 12.0  # sigma of a pixel of D, so that a point source is no large region
_MAD_TO_SIGMA = 1.4826
_AROUND = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3) if max(abs(dy), abs(dx)) == 2]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Light:
    """D in blocks of one FWHM of the science PSF, for everything that looks for light spread over many of them."""

    block: int  # px
    mean: Floats  # sigma of a pixel of D; 0 where a block is not known
    significance: Floats  # of 3 x 3 blocks
    level: float  # median of D
    sigma: float  # of a pixel of D
    root: float  # sqrt(sum P^2) of the difference's PSF: b sigma a pixel give a strength of b / root


def light_of(difference: Difference) -> Light:
    """The blocks of a difference image."""
    values = sample(difference.difference)
    level = float(np.median(values)) if values.size else 0.0
    sigma = _MAD_TO_SIGMA * float(np.median(np.abs(values - level))) if values.size else 0.0
    block = max(2, round(psf_fwhm(difference.psf_science)))
    root = float(np.sqrt(np.sum(np.square(difference.psf_difference.stamp, dtype=np.float64))))
    return Light(block, *_blocks(difference, block, level, sigma), level, sigma, root)


def diffuse_share(light: Light, peaks: Peaks) -> Floats:
    """Share of each peak's strength that even light about it gives, float64 (n,); some 0 for a point source on blank sky.

    b, the median of the 16 blocks of one FWHM that lie two blocks away, in sigma of a pixel of D, gives T = b / sqrt(sum(P^2)).
    """
    block, mean = light.block, light.mean
    row, column = (np.floor((value + 0.5) / block).astype(np.int64) for value in (peaks.y, peaks.x))
    padded = np.pad(np.where(mean != 0.0, mean, np.nan), 2, constant_values=np.nan)
    row, column = row.clip(0, mean.shape[0] - 1), column.clip(0, mean.shape[1] - 1)
    around = np.stack([padded[row + 2 + dy, column + 2 + dx] for dy, dx in _AROUND], axis=1)
    known = np.isfinite(around).any(axis=1)
    level = np.zeros(len(peaks))
    level[known] = np.nanmedian(around[known], axis=1)
    return np.asarray(level * peaks.sign / light.root / np.maximum(peaks.strength, 1.0))


def _blocks(difference: Difference, block: int, level: float, sigma: float) -> tuple[Floats, Floats]:
    """Mean of D over blocks in its sigma, and the significance over 3 x 3 of them; 0 where less than half of a block is usable."""
    ny, nx = (length // block for length in difference.difference.shape)
    total, count = np.zeros((ny, nx)), np.zeros((ny, nx))
    if not sigma > 0:
        return total, total
    for rows in bands((ny, nx * block * block)):
        pixels = slice(rows.start * block, rows.stop * block)
        data = window(difference.difference, pixels, slice(0, nx * block)) - np.float32(level)
        bad = unusable(window(difference.dq, pixels, slice(0, nx * block))) | ~np.isfinite(data)
        np.clip(data, -CLIP * sigma, CLIP * sigma, out=data)
        count[rows] = block * block
        if bad.any():
            data[bad] = 0
            count[rows] -= _block_sums(bad.astype(np.float32), block)
        total[rows] = _block_sums(data, block)
    known = count >= 0.5 * block * block
    total, count = np.where(known, total, 0.0), np.where(known, count, 0.0)
    spread = sigma * np.sqrt(9.0 * np.maximum(uniform_filter(count, 3, mode="constant"), 1.0 / 9.0))
    significance = 9.0 * uniform_filter(total, 3, mode="constant") / spread
    return total / (sigma * np.maximum(count, 1.0)), np.where(known, significance, 0.0)


def _block_sums(band: FloatImage, block: int) -> FloatImage:
    height, width = band.shape
    lines = band.reshape(height // block, block, width).sum(axis=1)
    return np.asarray(lines.reshape(height // block, width // block, block).sum(axis=2))

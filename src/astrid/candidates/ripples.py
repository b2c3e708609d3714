"""Fringes: coherent ripples of low surface brightness in the difference, found as narrow peaks of its local power spectrum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from astrid.candidates.light import Light
from astrid.candidates.peaks import Peaks
from astrid.config.schema.candidates import TagsConfig

_SIDE = 32  # blocks, side of a window; windows overlap by half
_CLIP = 3.0  # sigma of a block, so that no source makes the power
_WIDTH = 1.6  # modes, half width of a peak under the taper
_TAPER = np.outer(np.hanning(_SIDE + 2)[1:-1], np.hanning(_SIDE + 2)[1:-1])
_KNOWN = 0.5  # usable share of a window
_MAD_TO_SIGMA = 1.4826

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def on_fringe(light: Light, peaks: Peaks, cfg: TagsConfig) -> Mask:
    """True for peaks on a crest of their sign, in a part of the image that carries fringes, bool (n,).

    A window of D in blocks of about one FWHM carries fringes where one mode of its power spectrum, with a wavelength within
    `fringe_spacing`, holds `fringe_contrast` times the mean power of the modes of that range, and its harmonic along the same
    direction holds little (a line has power in all of them). The crest is the sum of the modes about that peak, and must give more
    than `fringe_share` of the candidate's strength: a source on a crest has its own.
    """
    on = np.zeros(len(peaks), dtype=bool)
    block, mean = light.block, light.mean
    if not len(peaks) or min(mean.shape) < _SIDE:
        return on
    row, column = (np.floor((value + 0.5) / block).astype(np.int64) for value in (peaks.y, peaks.x))
    flat = mean[mean != 0.0]
    noise = _MAD_TO_SIGMA * float(np.median(np.abs(flat - np.median(flat)))) if flat.size else 0.0
    if not noise > 0:
        return on
    clipped = np.where(mean != 0.0, np.clip(mean - np.median(flat), -_CLIP * noise, _CLIP * noise), 0.0)
    modes = _modes(block, cfg)
    for top, left in ((top, left) for top in _starts(mean.shape[0]) for left in _starts(mean.shape[1])):
        rows = np.flatnonzero((row >= top) & (row < top + _SIDE) & (column >= left) & (column < left + _SIDE))
        crest = _crest(clipped[top : top + _SIDE, left : left + _SIDE], modes, cfg) if len(rows) else None
        if crest is not None:
            height = crest[row[rows] - top, column[rows] - left] * peaks.sign[rows]
            on[rows] |= height / light.root > cfg.fringe_share * peaks.strength[rows]
    return on


def _starts(length: int) -> list[int]:
    return sorted({*range(0, length - _SIDE + 1, _SIDE // 2), length - _SIDE})


@dataclass(frozen=True, eq=False)
class _Modes:
    """The modes of a window: whole cycles along y and x, their length, and which have a wavelength within the range."""

    cycles: Floats
    away: Floats
    inside: Mask


def _modes(block: int, cfg: TagsConfig) -> _Modes:
    cycles = np.asarray(np.fft.fftfreq(_SIDE) * _SIDE, dtype=np.float64)
    away = np.hypot(cycles[:, None], cycles[None, :])
    wavelength = _SIDE * block / np.maximum(away, 1e-9)
    short, long = cfg.fringe_spacing
    return _Modes(cycles, away, (wavelength >= short) & (wavelength <= long) & (away > _WIDTH))


def _crest(part: Floats, modes: _Modes, cfg: TagsConfig) -> Floats | None:
    """The ripple in a window of blocks (sigma of a pixel), or None where no mode stands out."""
    if np.mean(part != 0.0) < _KNOWN or not modes.inside.any():
        return None
    spectrum = np.fft.fft2((part - part.mean()) * _TAPER)
    power = np.abs(spectrum) ** 2
    y, x = np.unravel_index(int(np.where(modes.inside, power, 0.0).argmax()), power.shape)
    v, u = float(modes.cycles[y]), float(modes.cycles[x])
    rows, columns = modes.cycles[:, None], modes.cycles[None, :]
    beside = (np.hypot(rows - v, columns - u) < _WIDTH) | (np.hypot(rows + v, columns + u) < _WIDTH)
    rest, longer = modes.inside & ~beside, (modes.away < np.hypot(v, u) - _WIDTH) & (modes.away > 0)
    if longer.any() and power[longer].max() > power[y, x]:  # a gradient or the edge of a patch of light
        return None
    harmonic = max(float(power[round(n * v) % _SIDE, round(n * u) % _SIDE]) for n in (1.5, 2.0))
    if not rest.any() or power[y, x] < cfg.fringe_contrast * power[rest].mean() or harmonic > 0.25 * power[y, x]:
        return None
    return np.asarray(np.real(np.fft.ifft2(np.where(beside, spectrum, 0.0))) / np.maximum(_TAPER, 0.25))

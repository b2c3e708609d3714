"""Light that fills the field unevenly (gradients, scattered moonlight, stray light, fringes), and clouds that dim it unevenly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from astrid.config.schema.simulate import WeatherSpec
from astrid.sky.simulate.optics import Conditions

Floats = NDArray[np.float64]

_KOLMOGOROV = -11.0 / 3.0  # index of the power spectrum of a cloud's column density
_MOTION = -8.0 / 3.0  # the same of image motion, whose variance between two stars grows with the 2/3 power of their distance
_COARSE = 64  # cells a side of the random fields
_FINEST = 0.2  # cycles a cell: finer structure of a cloud or of silicon is left out
_MOTION_FINEST = 5.0  # the same of image motion: as fine as the cells are
_GLOW_BEND = 1.5  # e-foldings of scattered moonlight from the centre to the corner
_FRINGE_RED = (700.0, 900.0)  # nm: no fringes below, the full amplitude at
_FRINGE_SPACING = (18.0, 45.0)  # pixel, range of detectors' fringes
_FRINGE_SCATTER = 0.3  # sigma of the log of their strength, as the sky's emission lines vary


def random_field(size: int, index: float, rng: np.random.Generator, finest: float = _FINEST) -> Floats:
    """A Gaussian random field of zero mean and unit RMS with the power spectrum k^index, smooth beyond `finest` (cycles a cell,
    of which a side has 64): (size, size)."""
    fy, fx = fft.fftfreq(2 * _COARSE), fft.rfftfreq(2 * _COARSE)
    k = np.hypot(fy[:, None], fx[None, :])
    k[0, 0] = np.inf
    amplitude = k ** (index / 2) * np.exp(-((k / finest) ** 2))
    wild = fft.irfft2(amplitude * fft.rfft2(rng.normal(size=(2 * _COARSE, 2 * _COARSE))), s=(2 * _COARSE, 2 * _COARSE))
    smooth = ndimage.zoom(wild[:_COARSE, :_COARSE], size / _COARSE, order=3, mode="nearest", grid_mode=True)[:size, :size]
    smooth = smooth - smooth.mean()
    return np.asarray(smooth / smooth.std())


def sky_plane(spec: WeatherSpec, size: int, level: float, conditions: Conditions, rng: np.random.Generator) -> Floats:
    """Electrons of sky in each pixel: a linear gradient, and moonlight that falls exponentially from one side (Krisciunas &
    Schaefer 1991, PASP 103, 1033, over the few arcminutes of a field): (size, size)."""
    position = np.linspace(-1, 1, size)
    gx, gy = conditions.gradient
    plane = level * (1.0 + gx * position[None, :] + gy * position[:, None])
    turn = rng.uniform(0, 2 * np.pi)
    if spec.moon_glow and conditions.moonlight:
        towards = (np.cos(turn) * position[None, :] + np.sin(turn) * position[:, None]) / np.sqrt(2)
        plane += level * spec.moon_glow * conditions.moonlight * np.expm1(_GLOW_BEND * towards) / np.expm1(_GLOW_BEND)
    return np.asarray(plane)


def stray_light(spec: WeatherSpec, size: int, level: float, conditions: Conditions, rng: np.random.Generator) -> Floats | None:
    """Arcs of moonlight that the baffles reflect, with edges of a few pixels (electrons, (size, size)); None without."""
    count = int(rng.poisson(spec.stray_light * conditions.moonlight))
    if not count:
        return None
    light = np.zeros((size, size))
    y, x = np.mgrid[0:size, 0:size].astype(float)
    for _ in range(count):
        px, py, turn = rng.uniform(0.1, 0.9) * size, rng.uniform(0.1, 0.9) * size, rng.uniform(0, 2 * np.pi)
        radius, width, soft = rng.uniform(0.5, 2.0) * size, rng.uniform(6.0, 30.0), rng.uniform(0.8, 4.0)
        height = level * spec.stray_level * conditions.moonlight * float(rng.lognormal(0.0, 0.4))
        away = np.hypot(x - px + radius * np.cos(turn), y - py + radius * np.sin(turn)) - radius
        light += height * 0.25 * (1 + np.tanh(away / soft)) * (1 - np.tanh((away - width) / soft))
    return light


def cloud_map(spec: WeatherSpec, size: int, conditions: Conditions, rng: np.random.Generator) -> Floats | None:
    """Transparency of each pixel over the exposure's mean, (size, size); None for an even sky.

    A cloud's extinction follows a Kolmogorov field about its mean; structure of some hundredths of a magnitude within a field is
    what thin cirrus shows (Ivezic et al. 2007, AJ 134, 973; Burke et al. 2014, AJ 147, 19).
    """
    mean = -2.5 * np.log10(conditions.transparency)
    if not spec.cloud_patches or mean <= 0:
        return None
    extinction = np.maximum(mean * (1.0 + spec.cloud_patches * random_field(size, _KOLMOGOROV, rng)), 0.0)
    return np.asarray(10 ** (-0.4 * (extinction - mean)))


def image_motion(spec: WeatherSpec, size: int, pixel_scale: float, frames: int, rng: np.random.Generator) -> Floats | None:
    """Displacement (pixel, x and y) of stars at each pixel of an exposure, float64 (2, size, size); None without.

    Turbulence moves the images of a field together only as far as they lie together: for half a minute and ten minutes of arc the
    rest is some 0.05 arcsec, and falls with the root of the time (Lindegren 1980, A&A 89, 41; Zacharias 1996, PASP 108, 1135), so
    with that of the number of averaged frames. No smooth registration follows its small scales.
    """
    if not spec.image_motion:
        return None
    rms = spec.image_motion / pixel_scale / np.sqrt(frames)
    return np.asarray(rms * np.stack([random_field(size, _MOTION, rng, _MOTION_FINEST) for _ in range(2)]))


def fringe_pattern(size: int, rng: np.random.Generator) -> Floats:
    """A detector's fringes, -1 to 1: contours of the silicon's thickness, strong in some parts and weak in others: (size, size)."""
    spacing = rng.uniform(*_FRINGE_SPACING)
    turn = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:size, 0:size] / spacing
    phase = x * np.cos(turn) + y * np.sin(turn) + 0.12 * size / spacing * random_field(size, 2 * _KOLMOGOROV, rng)
    envelope = 1.0 / (1.0 + np.exp(-1.5 * random_field(size, _KOLMOGOROV, rng)))
    return np.asarray(np.cos(2 * np.pi * phase) * envelope / envelope.max())


def fringes(amplitude: float, pattern: Floats, sky: Floats, wavelength: float, rng: np.random.Generator) -> Floats | None:
    """Interference of the sky's emission lines in the silicon (electrons, (size, size)); None without.

    `amplitude` is relative to the sky at 900 nm; it grows linearly from 700 nm on, and varies with the airglow from exposure to
    exposure, so that two exposures do not cancel (Howell 2012, PASP 124, 263; Medford et al. 2021, PASP 133, 064503).
    """
    red = np.clip((wavelength - _FRINGE_RED[0]) / (_FRINGE_RED[1] - _FRINGE_RED[0]), 0.0, 1.0)
    strength = amplitude * float(red) * float(rng.lognormal(0.0, _FRINGE_SCATTER))
    return strength * pattern * sky if strength > 0 else None

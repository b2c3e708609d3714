"""The sensor: what turns photons into integers, and the calibration frames that describe it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from astrid.config.schema.simulate import SimulateConfig
from astrid.core.runtime import rng_for

Floats = NDArray[np.float64]

_ADU_MAX = 65535
_SATURATE_AT = 0.97  # of the full well: where the header says that a pixel is saturated
_HOT_SCATTER = 0.9  # sigma of the log of hot pixels' charge
_DEAD_RESPONSE = 0.02  # sensitivity of a dead pixel
_FLAT_LEVEL = 0.5  # of the full well: exposure of a flat frame


@dataclass(frozen=True, eq=False)
class Detector:
    """One sensor. Images are (size, size), without the overscan."""

    name: str
    gain: float  # electron/ADU
    read_noise: float  # electron
    bias: float  # ADU
    structure: Floats  # ADU, fixed pattern added to the bias
    flat: Floats  # relative response, median 1
    hot_x: NDArray[np.int64]
    hot_y: NDArray[np.int64]
    hot_rate: Floats  # electron/s
    mask: NDArray[np.uint8]  # the observatory's bad-pixel mask: 1 where it knows of a defect
    full_well: float  # electron

    @property
    def saturation(self) -> float:
        """Level of a raw pixel, ADU, from which on it is saturated."""
        return min(self.bias + _SATURATE_AT * self.full_well / self.gain, _ADU_MAX - 1.0)

    @property
    def unmasked(self) -> NDArray[np.bool_]:
        """Which of the hot pixels the mask does not know; bool (n,)."""
        return np.asarray(self.mask[self.hot_y, self.hot_x] == 0)


def make_detector(cfg: SimulateConfig, survey: str, name: str) -> Detector:
    """Build a sensor: a pure function of the seed, the survey and the detector's name."""
    spec, size = cfg.surveys[survey].detector, cfg.image_size
    rng = rng_for(cfg.seed, survey, name, "detector")
    flat, columns = _flat(cfg, survey, rng), rng.choice(size, min(spec.bad_columns, size), replace=False)
    mask = np.zeros((size, size), np.uint8)
    dead = rng.random((size, size)) < spec.dead_pixels / 1e6
    flat[dead] = _DEAD_RESPONSE
    for column in columns:
        top = int(rng.integers(size // 4, size))
        flat[:top, column] *= 0.3  # a trap low in the column: charge from above it is lost on the way
        mask[:top, column] = 1
    mask[dead] = 1
    count = int(rng.poisson(spec.hot_pixels * size**2 / 1e6))
    hot_x, hot_y = rng.integers(0, size, count), rng.integers(0, size, count)
    rate = spec.hot_charge * rng.lognormal(0.0, _HOT_SCATTER, count) / cfg.surveys[survey].exptime
    known = rng.random(count) >= spec.hot_unmasked
    mask[hot_y[known], hot_x[known]] = 1
    return Detector(
        name=name,
        gain=spec.gain * float(rng.uniform(0.95, 1.05)),
        read_noise=spec.read_noise * float(rng.uniform(0.93, 1.07)),
        bias=spec.bias * float(rng.uniform(0.97, 1.03)),
        structure=_structure(spec.bias_structure, size, rng),
        flat=flat,
        hot_x=hot_x,
        hot_y=hot_y,
        hot_rate=rate,
        mask=mask,
        full_well=spec.full_well,
    )


def _flat(cfg: SimulateConfig, survey: str, rng: np.random.Generator) -> Floats:
    spec, size = cfg.surveys[survey].detector, cfg.image_size
    y, x = np.mgrid[0:size, 0:size] / (size - 1) - 0.5
    centre = rng.normal(0.0, 0.05, 2)
    radius2 = (x - centre[0]) ** 2 + (y - centre[1]) ** 2
    flat = 1.0 - spec.vignetting * (radius2 / 0.5) ** 1.5
    for _ in range(spec.dust):
        px, py = rng.uniform(-0.45, 0.45, 2)
        inner, depth = rng.uniform(6, 14) / size, rng.uniform(0.01, 0.05)
        distance = np.hypot(x - px, y - py)
        flat *= 1.0 - depth * np.exp(-0.5 * ((distance - inner) / (0.35 * inner)) ** 2)
    flat *= 1.0 + rng.normal(0.0, spec.flat_scatter, (size, size))
    return np.asarray(flat / np.median(flat))


def _structure(amplitude: float, size: int, rng: np.random.Generator) -> Floats:
    """A gradient along the rows, a ripple and columns of their own level."""
    position = np.linspace(-1, 1, size)
    ripple = 0.3 * np.sin(2 * np.pi * (rng.uniform(2, 5) * position + rng.random()))
    columns = rng.normal(0.0, 0.25, size)
    return np.asarray(amplitude * (rng.normal(0, 0.5) * position[:, None] + ripple[:, None] + columns[None, :]))


def bleed(electrons: Floats, full_well: float) -> NDArray[np.bool_]:
    """Clip an image (in place) at the full well and let the excess of each run of full pixels run up and down its column.

    Charge is conserved but for what leaves the sensor. Returns the pixels that are full.
    """
    for column in np.flatnonzero((electrons > full_well).any(axis=0)):
        line = electrons[:, column]
        excess = np.flatnonzero(line > full_well)
        for run in np.split(excess, np.flatnonzero(np.diff(excess) > 1) + 1):
            surplus = float((line[run] - full_well).sum())
            line[run] = full_well
            _spill(line, int(run[0]) - 1, -1, surplus / 2, full_well)
            _spill(line, int(run[-1]) + 1, 1, surplus / 2, full_well)
    return np.asarray(electrons >= full_well)


def _spill(line: Floats, start: int, step: int, surplus: float, full_well: float) -> None:
    row = start
    while 0 <= row < len(line) and surplus > 0:
        taken = min(surplus, max(0.0, full_well - line[row]))
        line[row] += taken
        surplus -= taken
        row += step


def expose(detector: Detector, photons: Floats, exptime: float, rng: np.random.Generator) -> Floats:
    """Charge (electrons) that light of the expected level `photons` (electrons in a pixel of unit response) leaves, with shot noise."""
    expected = photons * detector.flat
    np.add.at(expected, (detector.hot_y, detector.hot_x), detector.hot_rate * exptime)
    return rng.poisson(expected.clip(min=0.0)).astype(np.float64)


def read_out(detector: Detector, electrons: Floats, overscan: int, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Raw integers with the overscan columns on the right: uint16 (ny, nx + overscan)."""
    height, width = electrons.shape
    raw = np.empty((height, width + overscan))
    level = detector.bias + rng.normal(0.0, 0.5)  # the bias level drifts; the overscan follows it
    raw[:, :width] = electrons / detector.gain + detector.structure
    raw[:, width:] = 0.0
    raw += level + rng.normal(0.0, detector.read_noise / detector.gain, raw.shape)
    return np.clip(np.rint(raw), 0, _ADU_MAX).astype(np.uint16)


def bias_frame(detector: Detector, rng: np.random.Generator) -> Floats:
    """One bias frame, ADU, without overscan and digitised."""
    noise = rng.normal(0.0, detector.read_noise / detector.gain, detector.flat.shape)
    return np.rint(detector.bias + detector.structure + noise)


def flat_frame(detector: Detector, rng: np.random.Generator) -> Floats:
    """One flat frame, ADU, without overscan and digitised, at half the full well."""
    charge = rng.poisson(_FLAT_LEVEL * detector.full_well * detector.flat)
    noise = rng.normal(0.0, detector.read_noise / detector.gain, charge.shape)
    return np.rint(detector.bias + detector.structure + charge / detector.gain + noise)


def master_bias(detector: Detector, frames: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Mean of bias frames less their overscan level: the fixed pattern, ADU, float32 (ny, nx)."""
    mean = np.mean([bias_frame(detector, rng) for _ in range(frames)], axis=0)
    return np.asarray(mean - detector.bias, np.float32)


def master_flat(detector: Detector, frames: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Mean of bias-subtracted flat frames over its median: relative response, float32 (ny, nx)."""
    mean = np.mean([flat_frame(detector, rng) for _ in range(frames)], axis=0) - detector.bias - detector.structure
    return np.asarray(mean / np.median(mean), np.float32)

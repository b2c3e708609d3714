"""The sensor: what turns photons into integers, and the calibration frames that describe it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from astrid.config.schema.simulate import DetectorSpec, SimulateConfig
from astrid.core.runtime import rng_for
from astrid.sky.simulate.electronics import HotColumns, brighter_fatter, brighter_fatter_strength, draw_columns
from astrid.sky.simulate.marks import Mark, thinned
from astrid.sky.simulate.weather import fringe_pattern

Floats = NDArray[np.float64]

_ADU_MAX = 65535
_SATURATE_AT = 0.97  # of the full well: where the header says that a pixel is saturated
_HOT_SCATTER = 0.9  # sigma of the log of hot pixels' charge
_DEAD_RESPONSE = 0.02  # sensitivity of a dead pixel
_FLAT_LEVEL = 0.5  # of the full well: exposure of a flat frame
_EDGE_RESPONSE = 0.1  # sensitivity at the dead border, from where it rises inwards
_EDGE_DRIFT = 0.05  # RMS change of that between exposures: the field at the edge bends with the charge (Plazas et al. 2014)


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
    border: tuple[int, int, int, int] = (0, 0, 0, 0)  # pixel without response at the left, right, low and high side
    rolloff: Floats | None = None  # share of the response that the edge takes away, 0 to 1
    columns: HotColumns | None = None  # that leak; the mask does not know them
    fringe: Floats | None = None  # pattern, -1 to 1
    amplifiers: int = 1
    amplifier_gain: float = 0.0  # relative RMS drift of the second one's gain
    amplifier_offset: float = 0.0  # ADU, RMS drift of the second one's level
    pushing: float = 0.0  # strength of the brighter-fatter effect, pixel an electron
    unflat: Floats | None = None  # response to a star over that to the flat's lamp

    @property
    def saturation(self) -> float:
        """Level of a raw pixel, ADU, from which on it is saturated."""
        return min(self.bias + _SATURATE_AT * self.full_well / self.gain, _ADU_MAX - 1.0)

    @property
    def unmasked(self) -> NDArray[np.bool_]:
        """Which of the hot pixels the mask does not know; bool (n,)."""
        return np.asarray(self.mask[self.hot_y, self.hot_x] == 0)

    def stacked(self, frames: int) -> Detector:
        """The sensor whose single exposure is the average of several frames of this one.

        An ADU of an average stands for `frames` times the electrons, the wells are as many times as deep, the readout adds in quadrature.
        """
        return dataclasses.replace(
            self,
            gain=self.gain * frames,
            read_noise=self.read_noise * frames**0.5,
            full_well=self.full_well * frames,
            pushing=self.pushing / frames,
        )


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
    border, rolloff = _border(spec, size, rng_for(cfg.seed, survey, name, "border"))
    if rolloff is not None:
        flat *= 1.0 - rolloff
        flat /= np.median(flat)
        mask[_dead(size, border)] = 1
    own = cfg.surveys[survey]
    unflat = 1.0 + spec.flat_error * rng_for(cfg.seed, survey, name, "flat error").normal(size=(size, size)) if spec.flat_error else None
    columns_rng = rng_for(cfg.seed, survey, name, "hot columns")
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
        border=border,
        rolloff=rolloff,
        columns=draw_columns(size, spec.hot_columns, spec.column_charge, own.exptime, columns_rng) if spec.hot_columns else None,
        fringe=fringe_pattern(size, rng_for(cfg.seed, survey, name, "fringes")) if spec.fringing else None,
        amplifiers=spec.amplifiers,
        amplifier_gain=spec.amplifier_gain,
        amplifier_offset=spec.amplifier_offset,
        pushing=brighter_fatter_strength(spec.brighter_fatter, own.psf.fwhm / own.pixel_scale, spec.full_well),
        unflat=unflat,
    )


def _border(spec: DetectorSpec, size: int, rng: np.random.Generator) -> tuple[tuple[int, int, int, int], Floats | None]:
    """Width of the dead border at each side, and what it and the roll-off inside it take away; None without a border."""
    left, right, low, high = (round(float(width)) for width in rng.uniform(0.0, spec.dead_border, 4).clip(max=size / 4))
    if not left + right + low + high:
        return (0, 0, 0, 0), None
    inward = np.full((size, size), np.inf)
    position = np.arange(size)
    for width, distance in ((left, position), (right, size - 1 - position)):
        if width:
            inward = np.minimum(inward, (distance - width)[None, :])
    for width, distance in ((low, position), (high, size - 1 - position)):
        if width:
            inward = np.minimum(inward, (distance - width)[:, None])
    rise = np.clip((inward + 0.5) / spec.border_rolloff, 0.0, 1.0) if spec.border_rolloff else np.ones_like(inward)
    taken = np.where(inward < 0, 1.0, (1.0 - _EDGE_RESPONSE) * (1.0 - rise))
    return (left, right, low, high), taken


def _dead(size: int, border: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    left, right, low, high = border
    dead = np.ones((size, size), bool)
    dead[low : size - high, left : size - right] = False
    return dead


def edge_marks(detector: Detector) -> list[Mark]:
    """Marks along the inside of the dead border."""
    size = detector.mask.shape[0]
    left, right, low, high = detector.border
    steps = np.arange(2.0, size, 4.0)
    marks = []
    for width, at, upright in ((left, left, True), (right, size - 1 - right, True), (low, low, False), (high, size - 1 - high, False)):
        if width:
            places = [(float(at), step) if upright else (step, float(at)) for step in steps.tolist()]
            marks += [Mark("edge", "edge", x, y, 0.0) for x, y in places]
    return thinned([m for m in marks if left <= m.x <= size - 1 - right and low <= m.y <= size - 1 - high], size)


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
    if detector.unflat is not None:
        expected *= detector.unflat
    if detector.rolloff is not None:
        expected *= 1.0 + rng.normal(0.0, _EDGE_DRIFT) * detector.rolloff
    np.add.at(expected, (detector.hot_y, detector.hot_x), detector.hot_rate * exptime)
    charge = rng.poisson(expected.clip(min=0.0)).astype(np.float64)
    if detector.pushing:
        brighter_fatter(charge, detector.pushing, detector.full_well)
    return charge


def amplifier_drift(detector: Detector, rng: np.random.Generator) -> tuple[float, float]:
    """What the second amplifier does in one exposure that neither flat nor overscan knows: relative gain and level (ADU)."""
    gain, level = rng.normal(0.0, detector.amplifier_gain), rng.normal(0.0, detector.amplifier_offset)
    return (float(gain), float(level)) if detector.amplifiers == 2 else (0.0, 0.0)


def read_out(
    detector: Detector, electrons: Floats, overscan: int, rng: np.random.Generator, drift: tuple[float, float] = (0.0, 0.0)
) -> NDArray[np.uint16]:
    """Raw integers with the overscan columns on the right: uint16 (ny, nx + overscan).

    `drift`: relative gain (electron/ADU) and level (ADU) by which the amplifier of the right half differs.
    """
    height, width = electrons.shape
    raw = np.empty((height, width + overscan))
    level = detector.bias + rng.normal(0.0, 0.5)  # the bias level drifts; the overscan follows it
    raw[:, :width] = electrons / detector.gain + detector.structure
    if drift != (0.0, 0.0):
        raw[:, width // 2 : width] += electrons[:, width // 2 :] / detector.gain * (1 / (1 + drift[0]) - 1) + drift[1]
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

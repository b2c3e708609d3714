"""What ends up in an image without being on the sky: particle hits, satellites, and the telescope's own reflections."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from astrid.config.schema.simulate import ArtifactSpec, PsfSpec

Floats = NDArray[np.float64]

_SAMPLING = 4.0  # pixel between the truth rows of an extended artefact
_TRACK_LENGTH = 14.0  # pixel, mean length of a particle's track
_TRACK_DENSITY = 0.35  # charge a pixel of a track, in units of a compact hit's median
GHOST_RADIUS = 26.0  # pixel
_HALO_RADIUS = 60.0  # pixel


@dataclass(frozen=True, slots=True)
class Mark:
    """One truth row of an artefact: an extended one has several under one name."""

    name: str
    kind: str
    x: float
    y: float
    electrons: float


def cosmic_rays(spec: ArtifactSpec, size: int, rng: np.random.Generator) -> tuple[Floats, list[Mark]]:
    """Charge of particle hits (electrons, (size, size)) and their marks: compact hits and straight tracks of exponential length."""
    charge = np.zeros((size, size))
    marks: list[Mark] = []
    for number in range(int(rng.poisson(spec.cosmic_rays * size**2 / 1e6))):
        x, y = rng.uniform(-0.5, size - 0.5, 2)
        energy = spec.cosmic_charge * float(rng.lognormal(0.0, 0.8))
        compact = rng.random() < spec.compact
        length = float(rng.uniform(0.0, 1.6)) if compact else 2.0 + float(rng.exponential(_TRACK_LENGTH))
        total = energy if compact else energy * _TRACK_DENSITY * length
        turn = rng.uniform(0, 2 * np.pi)
        steps = np.arange(0.0, length + 0.1, 0.1)
        # A particle loses its energy in lumps: the deposit along the track varies from step to step.
        deposit = rng.gamma(0.5, 1.0, len(steps)) + 1e-3
        columns = np.rint(x + steps * np.cos(turn)).astype(int)
        rows = np.rint(y + steps * np.sin(turn)).astype(int)
        inside = (columns >= 0) & (columns < size) & (rows >= 0) & (rows < size)
        np.add.at(charge, (rows[inside], columns[inside]), (total * deposit / deposit.sum())[inside])
        marks.extend(_along(f"cr{number:03d}", "cosmic_ray", columns[inside].astype(float), rows[inside].astype(float), total))
    return charge, marks


def _along(name: str, kind: str, x: Floats, y: Floats, electrons: float) -> list[Mark]:
    """Marks every few pixels along a finely sampled line, one in the middle of a short one."""
    if not len(x):
        return []
    length = float(np.hypot(x[-1] - x[0], y[-1] - y[0]))
    if length < _SAMPLING:
        return [Mark(name, kind, float(x.mean()), float(y.mean()), electrons)]
    chosen = np.unique(np.linspace(0, len(x) - 1, int(length / _SAMPLING) + 2).round().astype(int))
    return [Mark(name, kind, float(x[i]), float(y[i]), electrons) for i in chosen]


def satellites(spec: ArtifactSpec, size: int, width: float, sky_noise: float, rng: np.random.Generator) -> tuple[Floats, list[Mark]]:
    """Light of satellite trails (electrons) and their marks; `width`: sigma of the trail in pixels, `sky_noise`: electrons a pixel."""
    light = np.zeros((size, size))
    marks: list[Mark] = []
    y, x = np.mgrid[0:size, 0:size].astype(float)
    for number in range(int(rng.poisson(spec.satellites))):
        px, py = rng.uniform(0.1 * size, 0.9 * size, 2)
        turn = rng.uniform(0, np.pi)
        along, across = (x - px) * np.cos(turn) + (y - py) * np.sin(turn), -(x - px) * np.sin(turn) + (y - py) * np.cos(turn)
        height = sky_noise * float(rng.lognormal(np.log(6.0), 0.7))
        flicker = 1.0 + 0.3 * np.sin(2 * np.pi * along / rng.uniform(0.3, 1.5) / size)  # a tumbling body
        light += height * flicker * np.exp(-0.5 * (across / width) ** 2)
        reach = np.arange(-1.5 * size, 1.5 * size, 1.0)
        tx, ty = px + reach * np.cos(turn), py + reach * np.sin(turn)
        inside = (tx >= 0) & (tx <= size - 1) & (ty >= 0) & (ty <= size - 1)
        marks.extend(_along(f"trail{number}", "satellite_trail", tx[inside], ty[inside], height))
    return light, marks


def glare(image: Floats, psf: PsfSpec, x: float, y: float, flux: float) -> None:
    """Add a bright star's diffraction spikes and halo to an image in place."""
    size = image.shape[0]
    rows, columns = np.mgrid[0:size, 0:size].astype(float)
    dx, dy = columns - x, rows - y
    radius = np.hypot(dx, dy)
    for quarter in (0.0, 90.0):
        turn = np.radians(psf.spike_angle + quarter)
        along, across = np.abs(dx * np.cos(turn) + dy * np.sin(turn)), -dx * np.sin(turn) + dy * np.cos(turn)
        shape = np.exp(-0.5 * (across / 0.9) ** 2) / (6.0 + along) ** 1.5 * np.exp(-along / 60.0)
        image += 0.5 * psf.spike_fraction * flux * shape / 1.05  # 1.05: the integral of the shape over the plane
    halo = np.where(radius < _HALO_RADIUS, 1.0 / (36.0 + radius**2), 0.0)
    image += psf.halo_fraction * flux * halo / (np.pi * np.log1p(_HALO_RADIUS**2 / 36.0))


def ghost(image: Floats, fraction: float, x: float, y: float, flux: float) -> tuple[float, float, list[tuple[float, float]]]:
    """Add the out-of-focus reflection of a bright star, a ring opposite to it, in place.

    Returns the ring's centre and points along it. The reflection moves against a dither, so two exposures never cancel it.
    """
    size = image.shape[0]
    middle = (size - 1) / 2
    gx, gy = middle - 0.9 * (x - middle), middle - 0.9 * (y - middle)
    rows, columns = np.mgrid[0:size, 0:size].astype(float)
    radius = np.hypot(columns - gx, rows - gy)
    edge = 0.5 * (1 - np.tanh((radius - GHOST_RADIUS) / 1.5)) * 0.5 * (1 + np.tanh((radius - 0.35 * GHOST_RADIUS) / 1.5))
    image += fraction * flux * edge / (np.pi * GHOST_RADIUS**2 * (1 - 0.35**2))
    turns = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    return gx, gy, [(gx + r * np.cos(t), gy + r * np.sin(t)) for r in (0.35 * GHOST_RADIUS, GHOST_RADIUS) for t in turns]


def bleed_marks(full: NDArray[np.bool_], stars: list[tuple[str, float, float, float]]) -> list[Mark]:
    """Marks of saturated stars: their centre, and points along the column of full pixels through it."""
    marks: list[Mark] = []
    height, width = full.shape
    for name, x, y, flux in stars:
        column, row = round(x), round(y)
        if not (0 <= column < width and 0 <= row < height) or not full[row, column]:
            continue
        low = high = row
        while low > 0 and full[low - 1, column]:
            low -= 1
        while high < height - 1 and full[high + 1, column]:
            high += 1
        marks.append(Mark(name, "bleed", x, y, flux))
        rows = np.arange(low, high + 1, _SAMPLING)
        marks.extend(Mark(name, "bleed", x, float(value), flux) for value in rows if abs(value - y) >= _SAMPLING)
    return marks

"""What ends up in an image without being on the sky: particle hits, satellites, and the telescope's own reflections."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special

from astrid.config.schema.simulate import ArtifactSpec, PsfSpec
from astrid.sky.simulate.marks import Mark

Floats = NDArray[np.float64]

_SAMPLING = 4.0  # pixel between the truth rows of an extended artefact
_TRACK_LENGTH = 14.0  # pixel, mean length of a particle's track
_TRACK_DENSITY = 0.35  # charge a pixel of a track, in units of a compact hit's median
_GHOST_HOLE = 0.35  # radius of the ghost's hole over its own
_SPIKE_WIDTH = 0.9  # pixel, sigma across a spike


def cosmic_rays(spec: ArtifactSpec, size: int, rng: np.random.Generator) -> tuple[Floats, list[Mark]]:
    """Charge of particle hits (electrons, (size, size)) and their marks: compact hits and straight tracks of exponential length.

    On its way through the silicon the charge spreads by some 0.3 to 0.6 pixel (Karcher et al. 2004, IEEE TNS 51, 2221), so that a
    hit between pixels fills four of them evenly and passes for a star where the seeing is about as small.
    """
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
        deposit *= total / deposit.sum()
        if spec.diffusion:
            _add_diffused(charge, x + steps * np.cos(turn), y + steps * np.sin(turn), deposit, spec.diffusion)
        else:
            np.add.at(charge, (rows[inside], columns[inside]), deposit[inside])
        marks.extend(_along(f"cr{number:03d}", "cosmic_ray", columns[inside].astype(float), rows[inside].astype(float), total))
    return charge, marks


def _add_diffused(charge: Floats, x: Floats, y: Floats, deposit: Floats, sigma: float) -> None:
    """Add deposits (n,) at (x, y), each spread over the pixels as a Gaussian of `sigma` pixels, in place."""
    reach = int(np.ceil(4 * sigma)) + 1
    offsets = np.arange(-reach, reach + 1)
    columns, rows = (np.rint(position).astype(int)[:, None] + offsets for position in (x, y))
    across, along = (
        0.5 * np.diff(special.erf((np.append(pixel, pixel[:, -1:] + 1, axis=1) - 0.5 - position[:, None]) / (np.sqrt(2) * sigma)), axis=1)
        for pixel, position in ((columns, x), (rows, y))
    )
    values = deposit[:, None, None] * along[:, :, None] * across[:, None, :]
    row, column = np.broadcast_arrays(rows[:, :, None], columns[:, None, :])
    inside = (row >= 0) & (row < charge.shape[0]) & (column >= 0) & (column < charge.shape[1])
    np.add.at(charge, (row[inside], column[inside]), values[inside])


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


def glare(image: Floats, psf: PsfSpec, x: float, y: float, flux: float, rng: np.random.Generator) -> None:
    """Add the diffraction spikes and the halo of a star to an image in place; the star may lie beside it.

    Angle and strength vary between exposures as the settings say.
    """
    turn, strength = rng.normal(0.0, psf.spike_turn), float(np.exp(rng.normal(0.0, psf.glare_scatter)))
    if psf.spike_lines:
        share = strength * psf.spike_fraction * flux / psf.spike_lines / _spike_integral(psf.spike_length)
        for line in range(psf.spike_lines):
            angle = float(np.radians(psf.spike_angle + turn + 180.0 / psf.spike_lines * line))
            _add_spike(image, x, y, angle, share, psf.spike_length)
    window = _window(image, x, y, psf.halo_radius)
    if window is not None:
        part, radius = window
        core = (0.1 * psf.halo_radius) ** 2
        halo = np.where(radius < psf.halo_radius, 1.0 / (core + radius**2), 0.0)
        part += strength * psf.halo_fraction * flux * halo / (np.pi * np.log1p(psf.halo_radius**2 / core))


def _spike_integral(length: float) -> float:
    """Integral over the plane of a line of spikes of unit strength, pixel."""
    along = np.arange(0.025, 20.0 * length, 0.05)
    return float(2 * (_spike_along(along, length)).sum() * 0.05 * np.sqrt(2 * np.pi) * _SPIKE_WIDTH)


def _spike_along(along: Floats, length: float) -> Floats:
    return np.asarray(np.exp(-along / length) / (6.0 + along) ** 1.5)


def _add_spike(image: Floats, x: float, y: float, angle: float, share: float, length: float) -> None:
    """Add one line of spikes through (x, y), drawn within a few of its widths."""
    if abs(np.sin(angle)) > abs(np.cos(angle)):  # steep: walk along the rows of the transposed image
        image, x, y, angle = image.T, y, x, np.pi / 2 - angle
    height, width = image.shape
    cosine, sine = np.cos(angle), np.sin(angle)
    columns = np.arange(width)
    middle = np.rint(y + (columns - x) * sine / cosine).astype(int)
    reach = int(np.ceil(5 * _SPIKE_WIDTH / abs(cosine))) + 1
    rows = middle[None, :] + np.arange(-reach, reach + 1)[:, None]
    dx, dy = np.broadcast_to(columns - x, rows.shape), rows - y
    shape = np.exp(-0.5 * ((-dx * sine + dy * cosine) / _SPIKE_WIDTH) ** 2) * _spike_along(np.abs(dx * cosine + dy * sine), length)
    inside = (rows >= 0) & (rows < height)
    image[rows[inside], np.broadcast_to(columns, rows.shape)[inside]] += share * shape[inside]


def _window(image: Floats, x: float, y: float, radius: float) -> tuple[Floats, Floats] | None:
    """The part of an image around (x, y) as a view, and its pixels' distances from there; None when it lies outside."""
    height, width = image.shape
    left, right = max(int(x - radius), 0), min(int(x + radius) + 2, width)
    low, high = max(int(y - radius), 0), min(int(y + radius) + 2, height)
    if left >= right or low >= high:
        return None
    distance = np.hypot(np.arange(left, right)[None, :] - x, np.arange(low, high)[:, None] - y)
    return image[low:high, left:right], distance


def ghost(image: Floats, spec: ArtifactSpec, x: float, y: float, flux: float) -> None:
    """Add the out-of-focus reflection of a bright star, a ring opposite to it, in place.

    The reflection moves against a dither, so two exposures never cancel it.
    """
    middle, radius = (image.shape[0] - 1) / 2, spec.ghost_radius
    gx, gy = middle - spec.ghost_mirror * (x - middle), middle - spec.ghost_mirror * (y - middle)
    window = _window(image, gx, gy, radius + 12.0)
    if window is not None:
        part, away = window
        edge = 0.5 * (1 - np.tanh((away - radius) / 1.5)) * 0.5 * (1 + np.tanh((away - _GHOST_HOLE * radius) / 1.5))
        part += spec.ghost_fraction * flux * edge / (np.pi * radius**2 * (1 - _GHOST_HOLE**2))


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

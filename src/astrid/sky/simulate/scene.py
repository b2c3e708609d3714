"""The sky of one field: stars, galaxies, supernovae in and beside them, variable stars.

Positions are in field pixels: 0-based pixels of an exposure that points exactly at the field's centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from astrid.config.schema.simulate import SimulateConfig, SurveySpec
from astrid.core.runtime import rng_for
from astrid.sky.simulate import schedule, transients
from astrid.sky.simulate.transients import SupernovaCurve, VariableCurve

Floats = NDArray[np.float64]
STAR = np.dtype([(name, "f8") for name in ("x", "y", "mag", "colour", "pm_x", "pm_y")])  # pm in pixel a year
GALAXY = np.dtype([(name, "f8") for name in ("x", "y", "mag", "radius", "axis_ratio", "angle", "bulge")])  # radius: arcsec

MARGIN = 40  # pixel of sky simulated around the image, for dithers and wings


@dataclass(frozen=True, slots=True)
class Transient:
    """A changing point source."""

    object_id: str
    kind: str  # supernova or variable
    transient_type: str
    x: float  # field pixel
    y: float
    curve: SupernovaCurve | VariableCurve
    redshift: float
    host_id: str
    host_x: float  # NaN without a host
    host_y: float


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything on the sky of a field."""

    stars: NDArray[np.void]  # STAR
    galaxies: NDArray[np.void]  # GALAXY
    transients: tuple[Transient, ...]


def build_scene(cfg: SimulateConfig, survey: str, detector: str, field: int) -> Scene:
    """The scene of a field: a pure function of the seed and the field's identity."""
    spec = cfg.surveys[survey]
    name = schedule.field_id(survey, detector, field)
    stars = _stars(cfg, spec, rng_for(cfg.seed, name, "stars"))
    galaxies = _galaxies(cfg, spec, rng_for(cfg.seed, name, "galaxies"))
    supernovae, hosts = _supernovae(cfg, spec, name, field, rng_for(cfg.seed, name, "supernovae"))
    galaxies = np.concatenate([galaxies, hosts])
    variables = _variables(cfg, spec, name, galaxies, rng_for(cfg.seed, name, "variables"))
    return Scene(stars, galaxies, (*supernovae, *variables))


def _area(cfg: SimulateConfig) -> float:
    return float((cfg.image_size + 2 * MARGIN) ** 2 / 1e6)


def _everywhere(cfg: SimulateConfig, count: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    low, high = -MARGIN - 0.5, cfg.image_size + MARGIN - 0.5
    return rng.uniform(low, high, count), rng.uniform(low, high, count)


def power_law_magnitudes(rng: np.random.Generator, count: int, bright: float, faint: float, slope: float) -> Floats:
    """Magnitudes whose counts grow as 10^(slope m) between two limits, by inversion of the distribution."""
    low, high = 10 ** (slope * bright), 10 ** (slope * faint)
    return np.asarray(np.log10(low + rng.random(count) * (high - low)) / slope)


def _stars(cfg: SimulateConfig, spec: SurveySpec, rng: np.random.Generator) -> NDArray[np.void]:
    scene = spec.scene
    count = int(rng.poisson(scene.stars * _area(cfg)))
    stars = np.zeros(count, STAR)
    stars["x"], stars["y"] = _everywhere(cfg, count, rng)
    stars["mag"] = power_law_magnitudes(rng, count, scene.star_bright, scene.star_faint, scene.star_slope)
    stars["colour"] = rng.normal(0.4, 0.6, count)
    moving = rng.random(count) < scene.moving_stars
    speed = rng.uniform(0.1, 0.5, count) / spec.pixel_scale * moving  # arcsec a year: the nearby stars of a survey
    angle = rng.uniform(0, 2 * np.pi, count)
    stars["pm_x"], stars["pm_y"] = speed * np.cos(angle), speed * np.sin(angle)
    return stars


def _galaxies(cfg: SimulateConfig, spec: SurveySpec, rng: np.random.Generator) -> NDArray[np.void]:
    scene = spec.scene
    count = int(rng.poisson(scene.galaxies * _area(cfg)))
    galaxies = np.zeros(count, GALAXY)
    galaxies["x"], galaxies["y"] = _everywhere(cfg, count, rng)
    galaxies["mag"] = power_law_magnitudes(rng, count, scene.galaxy_bright, scene.galaxy_faint, 0.35)
    brighter = scene.galaxy_faint - galaxies["mag"]
    galaxies["radius"] = scene.galaxy_radius * 10 ** (0.12 * brighter) * rng.lognormal(0.0, 0.3, count)
    galaxies["axis_ratio"] = rng.uniform(0.3, 1.0, count)
    galaxies["angle"] = rng.uniform(0, 180, count)
    galaxies["bulge"] = np.clip(rng.normal(0.25, 0.25, count), 0.0, 0.9)
    return galaxies


def _supernovae(
    cfg: SimulateConfig, spec: SurveySpec, name: str, field: int, rng: np.random.Generator
) -> tuple[list[Transient], NDArray[np.void]]:
    """Supernovae whose peaks spread evenly over the magnitudes that the survey can see, each with the redshift that its class
    and brightness imply and a host galaxy at that redshift."""
    band = spec.filters[schedule.field_filters(cfg, spec, field)[0]]
    seasons = schedule.field_seasons(cfg, field)
    kinds = list(transients.TYPES)
    shares = np.array([transients.TYPES[kind].share for kind in kinds])
    found: list[Transient] = []
    hosts = np.zeros(0, GALAXY)
    for number in range(1, spec.scene.supernovae + 1):
        kind = kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]
        start = cfg.schedule.season_starts[seasons[int(rng.integers(len(seasons)))]]
        peak = start + rng.uniform(-0.05, 0.85) * cfg.schedule.season_days
        magnitude = band.limit + rng.uniform(-spec.scene.peak_range, spec.scene.peak_below)
        model = transients.TYPES[kind]
        redshift = transients.redshift_at(magnitude - rng.normal(model.absolute, model.scatter))
        curve = SupernovaCurve(kind, peak, 0.0, redshift, float(np.clip(rng.normal(1.0, 0.1), 0.7, 1.3)))
        curve = SupernovaCurve(kind, peak, magnitude - curve.magnitude(peak, band.wavelength), redshift, curve.stretch)
        host = _host(cfg, spec, redshift, rng)
        x, y = _place(spec, host, rng)
        hosted = rng.random() >= spec.scene.hostless
        identity = f"{name}-sn{number:02d}"
        if hosted:
            hosts = np.append(hosts, host)
        place = (float(host["x"]), float(host["y"])) if hosted else (float("nan"), float("nan"))
        found.append(Transient(identity, "supernova", kind, x, y, curve, redshift, f"{name}-host{number:02d}" if hosted else "", *place))
    return found, hosts


def _host(cfg: SimulateConfig, spec: SurveySpec, redshift: float, rng: np.random.Generator) -> np.void:
    """A galaxy at a redshift, well inside the image; half-light radius and luminosity follow R ~ L^0.3 at 3.5 kpc for M = -20.5."""
    host: np.void = np.zeros(1, GALAXY)[0]
    inside = cfg.image_size * 0.06
    host["x"], host["y"] = rng.uniform(inside, cfg.image_size - 1 - inside, 2)
    absolute = rng.normal(-20.0, 1.0)
    host["mag"] = absolute + transients.distance_modulus(redshift)
    host["radius"] = 3.5 * 10 ** (-0.12 * (absolute + 20.5)) * rng.lognormal(0.0, 0.25) * transients.kiloparsec(redshift)
    host["radius"] = min(host["radius"], 0.06 * cfg.image_size * spec.pixel_scale)
    host["axis_ratio"] = rng.uniform(0.35, 1.0)
    host["angle"] = rng.uniform(0, 180)
    host["bulge"] = np.clip(rng.normal(0.25, 0.2), 0.0, 0.8)
    return host


def _place(spec: SurveySpec, host: np.void, rng: np.random.Generator) -> tuple[float, float]:
    """A position drawn from the host's exponential light, or on its core."""
    scale = host["radius"] / 1.678 / spec.pixel_scale  # exponential disc: half-light radius = 1.678 scale lengths
    nuclear = rng.random() < spec.scene.nuclear
    radius = min(rng.gamma(2.0, scale), 4.0 * scale) * (0.08 if nuclear else 1.0)
    turn, angle = rng.uniform(0, 2 * np.pi), np.radians(host["angle"])
    along, across = radius * np.cos(turn), radius * np.sin(turn) * host["axis_ratio"]
    x = host["x"] + along * np.cos(angle) - across * np.sin(angle)
    y = host["y"] + along * np.sin(angle) + across * np.cos(angle)
    return float(x), float(y)


def _variables(cfg: SimulateConfig, spec: SurveySpec, name: str, galaxies: NDArray[np.void], rng: np.random.Generator) -> list[Transient]:
    kinds = list(transients.PERIODS)
    limit = float(np.mean([band.limit for band in spec.filters.values()]))
    found = []
    inside = cfg.image_size * 0.03
    for number in range(1, spec.scene.variables + 1):
        kind = kinds[int(rng.integers(len(kinds)))]
        low, high = transients.PERIODS[kind]
        mean = rng.uniform(limit - 4.5, limit - 0.3)
        amplitude = float(np.clip(rng.lognormal(np.log(0.45), 0.5), 0.12, 1.5))
        curve = VariableCurve(kind, mean, amplitude, float(rng.uniform(low, high)), float(rng.random()), float(rng.normal(0.3, 0.4)))
        x, y = rng.uniform(inside, cfg.image_size - 1 - inside, 2)
        host, host_x, host_y = "", float("nan"), float("nan")
        if kind == "AGN" and len(galaxies):
            x, y, host, host_x, host_y = _nucleus(cfg, name, galaxies, float(x), float(y))
        found.append(Transient(f"{name}-var{number:02d}", "variable", kind, float(x), float(y), curve, float("nan"), host, host_x, host_y))
    return found


def _nucleus(cfg: SimulateConfig, name: str, galaxies: NDArray[np.void], x: float, y: float) -> tuple[float, float, str, float, float]:
    """Centre of the galaxy in the image that is nearest to a position."""
    seen = (galaxies["x"] > 0) & (galaxies["x"] < cfg.image_size) & (galaxies["y"] > 0) & (galaxies["y"] < cfg.image_size)
    if not seen.any():
        return x, y, "", float("nan"), float("nan")
    index = int(np.argmin(np.where(seen, np.hypot(galaxies["x"] - x, galaxies["y"] - y), np.inf)))
    place = float(galaxies["x"][index]), float(galaxies["y"][index])
    return *place, f"{name}-gal{index:03d}", *place

"""The sky of one field: its stars and galaxies, and what changes among them.

Positions are in field pixels: 0-based pixels of an exposure that points exactly at the field's centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from astrid.config.schema.simulate import SimulateConfig, SurveySpec
from astrid.core.runtime import rng_for
from astrid.sky.simulate import events, schedule
from astrid.sky.simulate.events import Transient
from astrid.sky.simulate.galaxies import GALAXY, dress
from astrid.sky.simulate.randomise import expand

Floats = NDArray[np.float64]
STAR = np.dtype([(name, "f8") for name in ("x", "y", "mag", "colour", "pm_x", "pm_y")])  # pm in pixel a year

MARGIN = 40  # pixel of sky simulated around the image, for dithers and wings
_CORE = 0.03  # core radius of a cluster over the image's side
_EARLY = 0.8  # share of early types in the core of a cluster; 0.15 far out (Dressler 1980, ApJ 236, 351)


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything on the sky of a field."""

    stars: NDArray[np.void]  # STAR
    galaxies: NDArray[np.void]  # GALAXY
    transients: tuple[Transient, ...]


def build_scene(cfg: SimulateConfig, survey: str, detector: str, field: int) -> Scene:
    """The scene of a field: a pure function of the seed and the field's identity."""
    cfg = expand(cfg)
    spec = cfg.surveys[survey]
    name = schedule.field_id(survey, detector, field)
    stars = _stars(cfg, spec, rng_for(cfg.seed, name, "stars"))
    galaxies = _galaxies(cfg, spec, rng_for(cfg.seed, name, "galaxies"))
    _gather(cfg, galaxies, spec.scene.cluster, rng_for(cfg.seed, name, "cluster"))
    dress(galaxies, spec.scene, rng_for(cfg.seed, name, "structure"))
    supernovae, hosts = events.supernovae(cfg, spec, name, field, rng_for(cfg.seed, name, "supernovae"))
    galaxies = np.concatenate([galaxies, hosts])
    variables = events.variables(cfg, spec, name, galaxies, rng_for(cfg.seed, name, "variables"))
    return Scene(stars, galaxies, (*supernovae, *variables, *events.outbursts(cfg, spec, name, field, galaxies)))


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


def _gather(cfg: SimulateConfig, galaxies: NDArray[np.void], share: float, rng: np.random.Generator) -> None:
    """Move a share of the galaxies, in place, into a cluster: a King profile (King 1962, AJ 67, 471) with early types in the core."""
    count = len(galaxies)
    member = rng.random(count) < share
    core = _CORE * cfg.image_size
    centre = rng.uniform(0.2 * cfg.image_size, 0.8 * cfg.image_size, 2)
    distance = core * np.sqrt((1 + (cfg.image_size / core) ** 2) ** rng.random(count) - 1)  # surface density 1 / (1 + r^2 / core^2)
    turn = rng.uniform(0, 2 * np.pi, count)
    early = rng.random(count) < 0.15 + (_EARLY - 0.15) * np.exp(-distance / (3 * core))
    galaxies["x"] = np.where(member, centre[0] + distance * np.cos(turn), galaxies["x"])
    galaxies["y"] = np.where(member, centre[1] + distance * np.sin(turn), galaxies["y"])
    galaxies["bulge"] = np.where(member & early, rng.uniform(0.8, 1.0, count), galaxies["bulge"])

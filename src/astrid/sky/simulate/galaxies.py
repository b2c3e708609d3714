"""Galaxies: a Sersic spheroid, an exponential disc with spiral arms, and knots of young stars; where their stars explode.

Positions inside a galaxy are in units of its half-light radius, along its major and minor axis, before it is inclined.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid.config.schema.simulate import SceneSpec
from astrid.core.runtime import rng_for

Floats = NDArray[np.float64]
GALAXY = np.dtype(
    [(name, "f8") for name in ("x", "y", "mag", "radius", "axis_ratio", "angle", "bulge")]  # radius: arcsec, half light; angle: deg
    + [("sersic", "f8")]  # index of the spheroid
    + [("arms", "f8"), ("pitch", "f8"), ("phase", "f8")]  # contrast of the arms, 0 to 1; pitch angle and phase in deg
    + [("knots", "f8"), ("seed", "f8")]  # share of the light in knots, and the seed of their places
)

_SCALE = 1.678  # half-light radius of an exponential disc over its scale length
_BULGE_RADIUS = 0.3  # half-light radius of the spheroid beside a disc over the galaxy's
_ELLIPTICAL = 0.8  # share of the light from which on the spheroid is the galaxy
_SERSIC_STEP = 0.5  # indices are rounded to this, so that profiles are tabulated once
_SERSIC_RANGE = (0.5, 5.0)
_KNOTS = 14
_KNOT_SIZE = 0.07  # sigma of a knot in half-light radii
_MAX_RADIUS = 4.0  # scale lengths within which stars explode


def dress(galaxies: NDArray[np.void], scene: SceneSpec, rng: np.random.Generator) -> None:
    """Give galaxies (GALAXY) their structure, in place: index of the spheroid, arms and knots of those that have them.

    Arms of late discs stand out by 0.2 to 0.6 with pitch angles of 10 to 35 deg (Savchenko et al. 2020, MNRAS 493, 390); knots hold
    up to some 15 % of the light (Elmegreen et al. 2006, ApJ 644, 879).
    """
    count = len(galaxies)
    index = scene.sersic * rng.lognormal(0.0, 1.0, count) ** scene.sersic_scatter
    galaxies["sersic"] = np.clip(index, *_SERSIC_RANGE)
    late = (rng.random(count) < scene.structure) & (galaxies["bulge"] < _ELLIPTICAL)
    galaxies["arms"] = rng.uniform(0.2, 0.7, count) * late
    galaxies["pitch"] = rng.uniform(10.0, 35.0, count)
    galaxies["phase"] = rng.uniform(0.0, 360.0, count)
    galaxies["knots"] = rng.uniform(0.02, 0.15, count) * late
    galaxies["seed"] = rng.integers(0, 2**31, count)


def draw_galaxy(galaxy: np.void, radius: float, offset: tuple[float, float], half: int) -> Floats:
    """A galaxy of flux 1 on a stamp, (2 half + 1, 2 half + 1); `radius`: half light, pixel; `offset`: of its centre, pixel.

    Drawn in real space on a finer grid where the galaxy is small, binned, and normalised on the stamp.
    """
    import galsim

    fine = 5 if radius < 4.0 else 3 if radius < 10.0 else 1
    count = (2 * half + 1) * fine
    total = np.zeros((count, count))
    bulge = float(galaxy["bulge"])
    core = 1.0 if bulge >= _ELLIPTICAL else _BULGE_RADIUS
    index = max(round(float(galaxy["sersic"]) / _SERSIC_STEP) * _SERSIC_STEP, _SERSIC_RANGE[0])
    disc = galsim.Exponential(half_light_radius=radius)
    spheroid = _spheroid(index).dilate(max(core * radius, 0.4))
    for profile, share in ((disc, 1.0 - bulge), (spheroid, bulge)):
        turned = profile.shear(q=float(galaxy["axis_ratio"]), beta=float(galaxy["angle"]) * galsim.degrees)
        shift = (offset[0] * fine, offset[1] * fine)
        drawn = turned.drawImage(nx=count, ny=count, scale=1.0 / fine, offset=shift, method="no_pixel", dtype=np.float64).array
        if profile is disc and galaxy["arms"]:
            drawn = drawn * _arms(galaxy, radius * fine, shift, count)
        total += share * drawn / drawn.sum()
    if galaxy["knots"]:
        total *= 1.0 - float(galaxy["knots"])
        _add_knots(total, galaxy, radius * fine, (offset[0] * fine, offset[1] * fine))
    return np.asarray(total.reshape(2 * half + 1, fine, 2 * half + 1, fine).sum(axis=(1, 3)))


@cache
def _spheroid(index: float) -> Any:
    """A Sersic profile of half-light radius 1."""
    import galsim

    return galsim.Sersic(n=index, half_light_radius=1.0)


def on_sky(galaxy: np.void, along: Floats, across: Floats) -> tuple[Floats, Floats]:
    """Places in a galaxy, in half-light radii along its axes, as seen: x and y from its centre, in half-light radii.

    Inclination stretches the major axis by 1 / sqrt(q) and the minor by sqrt(q), as GalSim's shear does, which keeps the area.
    """
    stretch, angle = np.sqrt(float(galaxy["axis_ratio"])), np.radians(float(galaxy["angle"]))
    major, minor = along / stretch, across * stretch
    return major * np.cos(angle) - minor * np.sin(angle), major * np.sin(angle) + minor * np.cos(angle)


def _arms(galaxy: np.void, radius: float, offset: tuple[float, float], count: int) -> Floats:
    """Brightness of two logarithmic arms over that of the smooth disc, on a grid; they fade in outside the core."""
    stretch, angle = np.sqrt(float(galaxy["axis_ratio"])), np.radians(float(galaxy["angle"]))
    position = (np.arange(count) - (count - 1) / 2) / radius
    x, y = (position - offset[0] / radius)[None, :], (position - offset[1] / radius)[:, None]
    along, across = (x * np.cos(angle) + y * np.sin(angle)) * stretch, (y * np.cos(angle) - x * np.sin(angle)) / stretch
    distance = np.hypot(along, across) + 1e-3
    turn = np.arctan2(across, along) - np.log(distance) / np.tan(np.radians(float(galaxy["pitch"])))
    wave = np.cos(2.0 * (turn - np.radians(float(galaxy["phase"]))))
    return np.asarray(1.0 + float(galaxy["arms"]) * wave * np.clip(2.0 * distance - 0.4, 0.0, 1.0))


def knots(galaxy: np.void) -> tuple[Floats, Floats, Floats]:
    """Places of a galaxy's knots in half-light radii along its axes, and their shares of the light in knots; three of (n,)."""
    rng = rng_for(int(galaxy["seed"]), "knots")
    radius = np.minimum(rng.gamma(2.0, 1.0, _KNOTS), _MAX_RADIUS) / _SCALE
    arm = np.radians(float(galaxy["phase"])) + np.log(radius + 1e-3) / np.tan(np.radians(max(float(galaxy["pitch"]), 1.0)))
    turn = arm + np.pi * rng.integers(0, 2, _KNOTS) + rng.normal(0.0, 0.25, _KNOTS)  # on one of the two arms, or near
    light = rng.lognormal(0.0, 0.8, _KNOTS)
    return radius * np.cos(turn), radius * np.sin(turn), light / light.sum()


def _add_knots(image: Floats, galaxy: np.void, radius: float, offset: tuple[float, float]) -> None:
    x, y = on_sky(galaxy, *knots(galaxy)[:2])
    light = knots(galaxy)[2] * float(galaxy["knots"])
    sigma, middle = max(_KNOT_SIZE * radius, 0.5), (image.shape[0] - 1) / 2
    pixel = np.arange(image.shape[0])
    for dx, dy, share in zip(x.tolist(), y.tolist(), light.tolist(), strict=True):
        across = np.exp(-0.5 * ((pixel - middle - offset[0] - dx * radius) / sigma) ** 2)
        upward = np.exp(-0.5 * ((pixel - middle - offset[1] - dy * radius) / sigma) ** 2)
        image += share * upward[:, None] * across[None, :] / max(float(upward.sum() * across.sum()), 1e-12)


def in_light(galaxy: np.void, rng: np.random.Generator) -> tuple[float, float]:
    """A place in a galaxy that follows all its light, spheroid and disc: x and y from its centre, in half-light radii.

    As type Ia supernovae do (Kelly, Kirshner & Pahre 2008, ApJ 687, 1201).
    """
    if rng.random() >= float(galaxy["bulge"]):
        return in_disc(galaxy, rng, knotted=0.0)
    core = 1.0 if float(galaxy["bulge"]) >= _ELLIPTICAL else _BULGE_RADIUS
    radius, turn = core * _spheroid_radius(rng.random(), max(float(galaxy["sersic"]), _SERSIC_RANGE[0])), rng.uniform(0, 2 * np.pi)
    return _seen(galaxy, radius * np.cos(turn), radius * np.sin(turn))


def in_disc(galaxy: np.void, rng: np.random.Generator, *, knotted: float) -> tuple[float, float]:
    """A place in the disc, with the probability `knotted` in one of the knots that a galaxy has; x and y as `in_light`.

    Core collapse follows the young stars of the disc, its bright regions most (Fruchter et al. 2006; Kelly et al. 2008).
    """
    radius, turn = min(rng.gamma(2.0, 1.0), _MAX_RADIUS) / _SCALE, rng.uniform(0, 2 * np.pi)
    along, across = radius * np.cos(turn), radius * np.sin(turn)
    if rng.random() < knotted and galaxy["knots"]:
        places = knots(galaxy)
        chosen = int(rng.choice(_KNOTS, p=places[2]))
        along, across = np.array([places[0][chosen], places[1][chosen]]) + rng.normal(0.0, _KNOT_SIZE, 2)
    return _seen(galaxy, along, across)


def _seen(galaxy: np.void, along: float, across: float) -> tuple[float, float]:
    x, y = on_sky(galaxy, np.array(along), np.array(across))
    return float(x), float(y)


def _spheroid_radius(share: float, index: float) -> float:
    """Radius, in half-light radii, within which a Sersic profile of an index holds a share of its light, up to 4 of them.

    The light within r is the incomplete gamma function P(2n, b x^(1/n)), x = r / r_half (Graham & Driver 2005, eq. 2).
    """
    from scipy.special import gammaincinv

    b = gammaincinv(2 * index, 0.5)
    return float(min((gammaincinv(2 * index, share) / b) ** index, 4.0))

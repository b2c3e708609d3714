"""Structure of galaxies, and where their stars explode."""

from __future__ import annotations

import numpy as np
import pytest

from astrid.sky.simulate import galaxies
from astrid.sky.simulate.galaxies import GALAXY


def _galaxy(**values: float) -> np.void:
    galaxy = np.zeros(1, GALAXY)
    for name, value in {"radius": 1.0, "axis_ratio": 0.5, "angle": 30.0, "sersic": 2.0, "pitch": 20.0, "seed": 5, **values}.items():
        galaxy[name] = value
    return galaxy[0]


def _deprojected(galaxy: np.void, places: np.ndarray) -> np.ndarray:
    angle, stretch = np.radians(galaxy["angle"]), np.sqrt(galaxy["axis_ratio"])
    along = (places[:, 0] * np.cos(angle) + places[:, 1] * np.sin(angle)) * stretch
    across = (places[:, 1] * np.cos(angle) - places[:, 0] * np.sin(angle)) / stretch
    return np.asarray(np.hypot(along, across))


@pytest.mark.parametrize("index", [1.0, 2.0, 4.0])
def test_half_the_light_of_a_spheroid_is_within_its_half_light_radius(index: float) -> None:
    galaxy, rng = _galaxy(bulge=1.0, sersic=index), np.random.default_rng(1)
    radius = _deprojected(galaxy, np.array([galaxies.in_light(galaxy, rng) for _ in range(4000)]))
    assert (radius < 1.0).mean() == pytest.approx(0.5, abs=0.03)


def test_a_disc_explodes_as_its_exponential_light() -> None:
    galaxy, rng = _galaxy(bulge=0.5), np.random.default_rng(2)
    radius = _deprojected(galaxy, np.array([galaxies.in_disc(galaxy, rng, knotted=0.0) for _ in range(4000)]))
    assert np.median(radius) == pytest.approx(1.0, abs=0.04)


def test_a_cuspy_core_draws_its_supernovae_inwards() -> None:
    rng = np.random.default_rng(3)
    middle = [
        np.median(_deprojected(galaxy, np.array([galaxies.in_light(galaxy, rng) for _ in range(2000)])))
        for galaxy in (_galaxy(bulge=0.0), _galaxy(bulge=0.7, sersic=4.0))
    ]
    assert middle[1] < 0.6 * middle[0]


def test_core_collapse_in_knots_stays_at_knots() -> None:
    galaxy, rng = _galaxy(knots=0.1, axis_ratio=1.0, angle=0.0), np.random.default_rng(4)
    x, y, light = galaxies.knots(galaxy)
    assert light.sum() == pytest.approx(1.0)
    places = np.array([galaxies.in_disc(galaxy, rng, knotted=1.0) for _ in range(300)])
    nearest = np.hypot(places[:, :1] - x, places[:, 1:] - y).min(axis=1)
    assert np.quantile(nearest, 0.95) < 0.25


@pytest.mark.parametrize("structure", [{}, {"arms": 0.6}, {"knots": 0.15}, {"arms": 0.4, "knots": 0.1, "bulge": 0.9}])
def test_a_drawn_galaxy_has_unit_flux_and_no_negative_light(structure: dict[str, float]) -> None:
    image = galaxies.draw_galaxy(_galaxy(**structure), 8.0, (0.3, -0.2), 50)
    assert image.shape == (101, 101)
    assert image.sum() == pytest.approx(1.0, rel=1e-6)
    assert image.min() >= 0.0


def test_light_is_drawn_where_supernovae_are_placed() -> None:
    """Second moments of the image and of places in it point the same way and have the same axis ratio."""
    galaxy, rng = _galaxy(bulge=0.0, axis_ratio=0.4, angle=70.0), np.random.default_rng(6)
    image = galaxies.draw_galaxy(galaxy, 8.0, (0.0, 0.0), 60)
    y, x = np.mgrid[-60:61, -60:61]
    drawn = np.array([[(image * x * x).sum(), (image * x * y).sum()], [(image * x * y).sum(), (image * y * y).sum()]]) / image.sum()
    placed = np.cov((8.0 * np.array([galaxies.in_disc(galaxy, rng, knotted=0.0) for _ in range(6000)])).T)
    for matrix in (drawn, placed):
        values, vectors = np.linalg.eigh(matrix)
        assert np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])) % 180 == pytest.approx(70.0, abs=3.0)
        assert np.sqrt(values[0] / values[1]) == pytest.approx(0.4, abs=0.03)


def test_arms_turn_light_around_the_core_but_a_knot_adds_at_its_place() -> None:
    smooth, spiral, knotted = (
        galaxies.draw_galaxy(_galaxy(axis_ratio=1.0, angle=0.0, **more), 12.0, (0.0, 0.0), 72)
        for more in ({}, {"arms": 0.6}, {"knots": 0.15})
    )
    y, x = np.mgrid[-72:73, -72:73]
    ring = np.abs(np.hypot(x, y) - 14.0) < 0.7
    assert np.std(spiral[ring]) / np.mean(spiral[ring]) > 5 * np.std(smooth[ring]) / np.mean(smooth[ring])
    kx, ky, light = galaxies.knots(_galaxy())
    column, row = round(72 + 12.0 * kx[light.argmax()]), round(72 + 12.0 * ky[light.argmax()])
    assert knotted[row, column] > 1.5 * smooth[row, column]

"""Sky cells, clusters and components."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from astrid.datasets.identity import clusters, components, first_names, separations, sky_cells, unit_vectors


def test_separation_is_exact_for_small_angles() -> None:
    first, second = unit_vectors(np.array([10.0]), np.array([60.0])), unit_vectors(np.array([10.0, 10 + 2e-6]), np.array([60 + 1e-7, 60.0]))
    np.testing.assert_allclose(separations(first, second)[0], [3.6e-4, 3.6e-3], rtol=1e-4)


@pytest.mark.parametrize("size", [1.0, 7.3, 60.0])
def test_cells_are_of_about_equal_area_over_the_sky(size: float) -> None:
    rng = np.random.default_rng(0)
    dec = rng.uniform(-85, 85, 2000)
    ra = rng.uniform(0, 360, 2000)
    step = size / 60
    # Two points a cell apart are never in one cell; two a hundredth apart mostly are.
    apart = sky_cells(ra, np.clip(dec + 1.01 * step, -90, 90), size=size)
    near = sky_cells(ra + 0.01 * step / np.cos(np.radians(dec)), dec, size=size)
    here = sky_cells(ra, dec, size=size)
    assert (here != apart).all()
    assert (here == near).mean() > 0.97
    east = sky_cells(ra + 1.6 * step / np.cos(np.radians(dec)), dec, size=size)
    assert (here != east).all()


def test_poles_and_the_meridian_have_cells() -> None:
    names = sky_cells(np.array([0.0, 360.0, -0.001, 12.0, 200.0]), np.array([0.0, 0.0, 0.0, 90.0, -90.0]), size=1.0)
    assert names[0] == names[1]
    assert names[1] != names[2]
    assert names[3] != names[4]


def test_clusters_chain_friends() -> None:
    ra = np.array([10.0, 10.0 + 0.9 / 3600, 10.0 + 1.8 / 3600, 10.0 + 5 / 3600])
    numbers = clusters(ra, np.zeros(4), radius=1.0)
    assert numbers[0] == numbers[1] == numbers[2] != numbers[3]
    assert len(clusters(ra[:0], ra[:0], radius=1.0)) == 0


def test_component_names_are_their_smallest() -> None:
    numbers = components(4, np.array([[0, 2], [2, 3]]))
    assert list(first_names(numbers, pd.Series(["d", "b", "c", "a"]))) == ["a", "b", "a", "a"]
    assert len(set(components(3, np.zeros((0, 2), dtype=int)))) == 3

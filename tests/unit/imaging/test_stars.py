from __future__ import annotations

import numpy as np
import pytest

from astrid.core.dq import DQ
from astrid.imaging.stars.find import StarFlag, find_stars


@pytest.fixture
def field(skies):
    rng = np.random.default_rng(1)
    grid = np.arange(30, 290, 40)
    x, y = (axis.ravel() + rng.uniform(-0.5, 0.5, axis.size) for axis in np.meshgrid(grid, grid))
    flux = rng.uniform(5000, 50000, x.size)
    image = skies.exposure(skies.render((320, 320), skies.moffat(3.0), x, y, flux), 100.0, rng, None, "a")
    return image, x, y, flux


def _nearest(stars, x, y):
    return np.argmin(np.hypot(stars["x"][:, None] - x, stars["y"][:, None] - y), axis=0)


def test_every_star_is_found_at_its_place(field, difference_config):
    image, x, y, _ = field
    stars = find_stars(image.data, image.variance, image.dq, difference_config.psf.stars)
    assert len(stars) == len(x)
    assert (stars["flags"] == 0).mean() > 0.95
    match = stars[_nearest(stars, x, y)]
    assert np.hypot(match["x"] - x, match["y"] - y).max() < 0.1
    assert np.all(np.diff(stars["flux"]) <= 0)


def test_galaxies_and_masked_and_edge_sources_are_no_stars(field, skies, difference_config):
    image, x, y, _ = field
    signal = image.data + skies.render(image.data.shape, skies.moffat(8.0), [50.0], [50.0], [80000.0])
    signal = signal + skies.render(image.data.shape, skies.moffat(3.0), [3.0], [160.0], [20000.0])
    dq = image.dq.copy()
    dq[round(y[10]), round(x[10])] |= np.uint32(DQ.SATURATED)
    stars = find_stars(signal.astype(np.float32), image.variance, dq, difference_config.psf.stars)

    def flag_at(px, py):
        return stars["flags"][np.argmin(np.hypot(stars["x"] - px, stars["y"] - py))]

    assert flag_at(50, 50) & StarFlag.NOT_STAR_LIKE
    assert flag_at(3, 160) & StarFlag.EDGE
    assert flag_at(x[10], y[10]) & StarFlag.MASKED


def test_a_known_psf_tells_the_stars(field, skies, difference_config):
    from astrid.imaging.stars.psf import given_psf

    image, x, _, _ = field
    right = given_psf(skies.stamp_of(skies.moffat(3.0), 15))
    wrong = given_psf(skies.stamp_of(skies.moffat(7.0), 15))
    find = [find_stars(image.data, image.variance, image.dq, difference_config.psf.stars, psf=psf) for psf in (right, wrong)]
    assert (find[0]["flags"] == 0).sum() > 0.95 * len(x)
    assert (find[1]["flags"] == 0).sum() == 0


def test_blank_and_unusable_images_give_no_source(difference_config):
    rng = np.random.default_rng(2)
    data, variance, dq = rng.normal(size=(64, 64)).astype(np.float32), np.ones((64, 64), np.float32), np.zeros((64, 64), np.uint32)
    assert len(find_stars(data, variance, dq, difference_config.psf.stars)) == 0
    assert len(find_stars(data * np.float32(np.nan), variance, dq, difference_config.psf.stars)) == 0

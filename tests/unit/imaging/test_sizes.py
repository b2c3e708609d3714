from __future__ import annotations

import numpy as np
import pytest

from astrid.imaging.stars.sizes import core_fwhm, find_locus


def _measure(image, x, y, start=3.0):
    return core_fwhm(image, np.zeros(image.shape, bool), np.asarray(x, float), np.asarray(y, float), np.full(len(x), start))


@pytest.mark.parametrize(("fwhm", "error"), [(2.0, 0.04), (3.0, 0.005), (6.0, 0.005)])  # at 2 px the window itself is undersampled
def test_the_size_of_a_gaussian_is_its_fwhm_wherever_it_lies(skies, fwhm, error):
    x, y = np.array([40.0, 100.3, 160.5]), np.array([40.0, 40.4, 40.5])
    image = skies.render((90, 200), skies.gaussian(fwhm), x, y, np.full(3, 1e4))
    assert _measure(image, x, y, start=fwhm * 1.3) == pytest.approx(fwhm, rel=error)


def test_the_size_hangs_neither_on_the_flux_nor_much_on_wings(skies):
    x, y = np.array([40.0, 120.0]), np.array([40.0, 40.0])
    image = skies.render((90, 160), skies.moffat(3.0, beta=2.5), x, y, np.array([1e3, 1e5]))
    small, large = _measure(image, x, y)
    assert small == pytest.approx(large, rel=1e-6)
    assert small == pytest.approx(3.0, rel=0.25)


def test_its_noise_is_that_of_the_photons(skies):
    rng = np.random.default_rng(3)
    grid = np.arange(20, 400, 24.0)
    x, y = (axis.ravel() + rng.uniform(-0.5, 0.5, axis.size) for axis in np.meshgrid(grid, grid))
    image = skies.render((410, 410), skies.gaussian(2.8), x, y, np.full(x.size, 4000.0)) + rng.normal(0, 10.0, (410, 410))
    snr = 4000.0 / (10.0 * np.sqrt(4 * np.pi) * 2.8 / 2.355)
    size = _measure(image, x, y)
    assert np.median(size) == pytest.approx(2.8, rel=0.01)
    assert np.std(np.log(size)) == pytest.approx(1.0 / snr, rel=0.3)


def test_no_source_has_no_size():
    assert _measure(np.zeros((10, 10)), [], []).shape == (0,)


def test_few_stars_win_over_many_galaxies():
    rng = np.random.default_rng(1)
    stars, galaxies = 2.5 * np.exp(rng.normal(0, 0.02, 6)), rng.uniform(2.8, 9.0, 90)
    locus = find_locus(np.r_[galaxies, stars])
    assert locus.common
    assert locus.size == pytest.approx(2.5, rel=0.03)
    assert locus.width < 0.12


def test_a_few_sharp_defects_do_not_pull_the_stars():
    rng = np.random.default_rng(2)
    locus = find_locus(np.r_[2.5 * np.exp(rng.normal(0, 0.02, 60)), rng.uniform(1.0, 2.0, 5)])
    assert locus.size == pytest.approx(2.5, rel=0.02)


def test_without_a_sequence_the_most_compact_sources_answer():
    locus = find_locus(np.array([9.0, 2.0, 2.6, 5.0, 3.2]))
    assert (locus.common, locus.n) == (False, 3)
    assert locus.size == pytest.approx(2.6)

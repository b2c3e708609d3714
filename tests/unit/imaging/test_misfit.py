from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from astrid.core.records import Psf
from astrid.imaging.stars.misfit import common_light, psf_misfit, spread_light
from astrid.imaging.stars.sources import measure_sources


def _misfit(skies, cfg, seed, fwhm):
    """kappa with a PSF of `fwhm` in an image whose stars have 3 px."""
    sky = skies.make_pair(seed=seed, shape=(300, 300), count=25, given=True).science
    psf = Psf(skies.stamp_of(skies.pixelised(skies.moffat(fwhm)), 15), "given", fwhm=fwhm)
    return psf_misfit(sky, psf, measure_sources(sky.data, sky.variance, sky.dq, psf, cfg.psf), 0.0)


def test_a_right_psf_has_none(skies, difference_config):
    for seed in range(4):
        found = _misfit(skies, difference_config, seed, 3.0)
        assert found.stars >= 3
        assert found.kappa == 0.0


def test_a_wrong_psf_shows_the_more_the_more_it_is_wrong(skies, difference_config):
    slightly, much = (_misfit(skies, difference_config, 1, fwhm).kappa for fwhm in (3.1, 3.3))
    assert 0 < slightly < much


def test_a_single_star_says_nothing(skies, difference_config):
    sky = skies.make_pair(seed=3, shape=(120, 120), count=0, given=True).science
    sources = measure_sources(sky.data, sky.variance, sky.dq, sky.psf, difference_config.psf)
    assert psf_misfit(dataclasses.replace(sky), sky.psf, sources, 0.0).kappa == 0.0


def test_spread_light_is_positive_and_blind_to_what_is_smooth():
    flat = np.full((80, 80), 50.0, np.float32)
    assert np.abs(spread_light(flat, 3.0)).max() < 1e-3
    star = np.zeros((80, 80), np.float32)
    star[40, 40] = 1000.0
    assert spread_light(star, 3.0).min() == 0.0
    assert spread_light(star, 3.0).argmax() == 40 * 80 + 40


def test_a_transient_adds_nothing_to_its_own_error():
    alone = np.zeros((80, 80), np.float32)
    alone[40, 40] = 1000.0
    assert common_light(alone, np.zeros_like(alone), 3.0).max() == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_array_equal(common_light(alone, alone, 3.0), spread_light(alone, 3.0))

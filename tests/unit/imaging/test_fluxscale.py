from __future__ import annotations

import numpy as np
import pytest

from astrid.core.errors import ImagingError, TooFewStarsError
from astrid.imaging.alignment.fluxscale import flux_scale, header_scale


def _stars(n=60, ratio=2.5, error=0.01, scatter=0.0, outliers=0, seed=0):
    rng = np.random.default_rng(seed)
    reference = rng.uniform(1e3, 1e5, n)
    science = reference * ratio * np.exp(scatter * rng.normal(size=n))
    if outliers:
        science[:outliers] *= 3
    e_s, e_r = science * error, reference * error
    return science + e_s * rng.normal(size=n), e_s, reference + e_r * rng.normal(size=n), e_r


def test_the_ratio_comes_back_with_its_error(difference_config):
    pulls = []
    for seed in range(30):
        scale = flux_scale(*_stars(seed=seed), difference_config.flux_scale)
        pulls.append((scale.ratio / 2.5 - 1) / scale.error)
        assert scale.method == "stars"
    assert np.std(pulls) == pytest.approx(1.0, abs=0.4)
    assert abs(np.mean(pulls)) < 0.8


def test_variable_stars_do_not_pull(difference_config):
    scale = flux_scale(*_stars(outliers=8), difference_config.flux_scale)
    assert scale.ratio == pytest.approx(2.5, rel=0.01)
    assert scale.n_stars <= 52


def test_scatter_beyond_the_noise_is_measured(difference_config):
    scale = flux_scale(*_stars(n=400, scatter=0.03), difference_config.flux_scale)
    assert scale.scatter == pytest.approx(0.03, rel=0.2)
    few = [flux_scale(*_stars(n=9, seed=seed), difference_config.flux_scale).scatter for seed in range(20)]
    assert few.count(0.0) >= 17  # chance scatter of a few stars is none


def test_one_bright_odd_star_does_not_decide(difference_config):
    science, e_s, reference, e_r = _stars(n=9, error=0.03, seed=4)
    science[0], e_s[0], e_r[0] = science[0] * 1.12, e_s[0] / 40, e_r[0] / 40
    assert flux_scale(science, e_s, reference, e_r, difference_config.flux_scale).ratio == pytest.approx(2.5, rel=0.05)


def test_too_few_or_too_scattered_stars_are_an_error(difference_config):
    with pytest.raises(TooFewStarsError, match="only 2 stars are measured"):
        flux_scale(*_stars(n=2), difference_config.flux_scale)
    with pytest.raises(TooFewStarsError, match="give the flux ratio to"):
        flux_scale(*_stars(n=5, error=0.3), difference_config.flux_scale)


def test_headers_tie_counts_by_time_and_fluxes_by_unit(skies):
    science, reference = skies.info("s", exptime=60.0), skies.info("r", exptime=30.0)
    assert header_scale(science, reference, 1.3).ratio == 2.0
    jansky = [skies.info(name, unit="uJy") for name in "sr"]
    assert header_scale(*jansky, 1.3).ratio == 1.0
    surface = [skies.info(name, unit="MJy/sr") for name in "sr"]
    assert header_scale(*surface, 1.25).ratio == pytest.approx(0.8)


def test_headers_that_cannot_tie_are_an_error(skies):
    with pytest.raises(ImagingError, match="convert them to one unit"):
        header_scale(skies.info("s", unit="uJy"), skies.info("r"), 1.0)
    with pytest.raises(ImagingError, match="mend the headers"):
        header_scale(skies.info("s", exptime=0.0), skies.info("r"), 1.0)

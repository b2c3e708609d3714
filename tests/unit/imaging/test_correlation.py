from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from astrid.imaging.detector.correlation import noise_correlation


def _image(skies, noise, **changes):
    image = skies.exposure(np.zeros(noise.shape), 100.0, np.random.default_rng(0), skies.tan_wcs(noise.shape), "sci")
    return dataclasses.replace(image, data=noise.astype(np.float32), **changes)


@pytest.fixture
def stamp(skies):
    return skies.stamp_of(skies.pixelised(skies.moffat(3.0)), 15)


def test_white_noise_is_left_as_it_is(skies, stamp):
    for seed in range(5):
        noise = np.random.default_rng(seed).normal(0, 10, (300, 300))
        found = noise_correlation(_image(skies, noise), stamp, 0.0, 3.0)
        assert found.power == 1.0
        assert abs(found.measured - 1.0) < 4 * found.error


def test_the_power_is_what_a_matched_filter_makes_of_smoothed_noise(skies, stamp):
    noise = ndimage.uniform_filter(np.random.default_rng(1).normal(0, 10, (500, 500)), 2)
    filtered = ndimage.convolve(noise, stamp.astype(float), mode="wrap")
    truth = filtered.var() / (noise.var() * np.square(stamp.astype(float)).sum())
    found = noise_correlation(_image(skies, noise), stamp, 0.0, 3.0)
    assert found.power == pytest.approx(truth, rel=0.12)
    assert found.power > 2.0


def test_a_wrong_variance_plane_is_no_correlation(skies, stamp):
    noise = np.random.default_rng(2).normal(0, 10, (300, 300))
    wrong = _image(skies, noise, variance=np.full(noise.shape, 25.0, np.float32))
    assert noise_correlation(wrong, stamp, 0.0, 3.0).power == 1.0


def test_too_little_sky_says_nothing(skies, stamp):
    noise = np.random.default_rng(3).normal(0, 10, (60, 60))
    found = noise_correlation(_image(skies, noise), stamp, 0.0, 3.0)
    assert found.power == 1.0
    assert np.isnan(found.measured)

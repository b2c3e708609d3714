from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from astrid.config.schema.calibrate import CosmicsConfig
from astrid.imaging.detector.cosmics import find_cosmics, point_source_sharpness

CONFIG = CosmicsConfig(
    apply_to="raw", sigma=5.0, neighbour_fraction=0.3, object_contrast=3.0, iterations=3, sharpness_margin=0.1, sharpness_sigma=3.0
)
SHAPE = (80, 90)


def sky(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    data = np.random.default_rng(seed).poisson(200.0, SHAPE).astype(np.float32)
    return data, np.full(SHAPE, 200.0, np.float32)


def test_blank_sky_holds_none():
    data, variance = sky()
    assert find_cosmics(data, variance, np.zeros(SHAPE, bool), 3.0, CONFIG).sum() == 0


@pytest.mark.parametrize("track", [np.s_[30, 40], np.s_[30, 40:47], np.s_[30:38, 40], (np.arange(30, 38), np.arange(40, 48))])
def test_points_and_tracks_in_any_direction_are_found(track):
    data, variance = sky()
    data[track] += 3000.0
    found = find_cosmics(data, variance, np.zeros(SHAPE, bool), 3.0, CONFIG)
    assert found[track].all()
    assert found.sum() <= np.size(data[track]) + 3


def test_the_faint_rim_of_a_track_goes_with_it():
    data, variance = sky()
    data[30, 40:47] += 3000.0
    data[30, 47:49] += 60.0  # four sigma, the track's end
    found = find_cosmics(data, variance, np.zeros(SHAPE, bool), 3.0, CONFIG)
    assert found[30, 40:49].all()
    assert found.sum() <= 14


def test_masked_pixels_are_neither_found_nor_in_the_way():
    data, variance = sky()
    data[30, 40] += 3000.0
    data[50, 60] += 3000.0
    mask = np.zeros(SHAPE, bool)
    mask[30, 40] = True
    found = find_cosmics(data, variance, mask, 3.0, CONFIG)
    assert (found[30, 40], found[50, 60]) == (False, True)


def test_without_its_guard_an_undersampled_star_would_be_lost():
    data, variance = sky()
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    data += (20000.0 * np.exp(-((x - 40) ** 2 + (y - 30) ** 2) / (2 * 0.6**2))).astype(np.float32)
    variance = np.maximum(data, 200.0)
    none = np.zeros(SHAPE, bool)
    assert find_cosmics(data, variance, none, 1.41, CONFIG)[29:32, 39:42].sum() == 0
    assert find_cosmics(data, variance, none, 6.0, CONFIG)[29:32, 39:42].sum() > 0


def test_broader_stars_are_less_sharp():
    values = [point_source_sharpness(fwhm) for fwhm in (1.0, 1.5, 2.0, 3.0, 5.0)]
    assert values == sorted(values, reverse=True)
    assert 0 < values[-1] < values[0] < 1


def test_a_margin_beyond_reach_finds_none():
    data, variance = sky()
    data[30, 40] += 3000.0
    assert not find_cosmics(data, variance, np.zeros(SHAPE, bool), 3.0, replace(CONFIG, sharpness_margin=1.0)).any()

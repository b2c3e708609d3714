"""What a trail's width across says of it."""

import numpy as np
import pytest

from astrid.candidates.trails import Trails, on_track


def trails(*numbers, upright=()):
    mask = np.zeros(len(numbers), dtype=bool)
    mask[list(upright)] = True
    return Trails(np.array(numbers), mask)


def track(known, across, error, cfg):
    return on_track(known, np.array(across, dtype=float), np.array(error, dtype=float), cfg.tags).tolist()


def test_peaks_that_say_little_alone_name_the_trail_together(cfg):
    across, error = [0.55, 0.5, 0.45, 0.5], [0.2, 0.2, 0.2, 0.2]
    assert track(trails(0, 0, 0, -1), across, error, cfg) == [True, True, True, False]
    assert track(trails(0, 1, 2, -1), across, error, cfg) == [False] * 4


def test_a_trail_below_the_psfs_width_by_less_than_its_error_or_by_a_small_share_stays_undecided(cfg):
    assert track(trails(3, 3), [0.5, 0.6], [0.4, 0.4], cfg) == [False, False]
    assert track(trails(3, 3), [0.9, 0.88], [0.01, 0.01], cfg) == [False, False]


def test_one_narrow_hit_does_not_speak_for_a_faint_trail(cfg):
    assert track(trails(0, 0, 0, 0), [0.9, 1.0, 0.95, 0.2], [0.4, 0.4, 0.4, 0.02], cfg) == [False] * 4


def test_a_peak_of_the_psfs_width_on_a_track_is_none_of_it(cfg):
    assert track(trails(0, 0, 0), [0.3, 0.4, 1.0], [0.05, 0.05, 0.1], cfg) == [True, True, False]


@pytest.mark.parametrize("upright", [(), (0, 1)])
def test_a_narrow_trail_along_a_column_is_no_track(cfg, upright):
    assert track(trails(0, 0, upright=upright), [0.3, 0.4], [0.05, 0.05], cfg) == [not upright] * 2


def test_a_peak_without_a_measured_width_says_nothing(cfg):
    assert track(trails(0), [1.0], [np.inf], cfg) == [False]
    assert track(trails(-1), [0.1], [0.01], cfg) == [False]


def test_a_peak_of_small_error_has_no_more_weight_than_the_lumps_of_charge_allow(cfg):
    assert track(trails(0, 0, 0, 0), [0.5, 0.79, 1.2, 1.2], [0.001, 0.02, 0.05, 0.05], cfg) == [False] * 4

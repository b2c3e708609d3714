from __future__ import annotations

import multiprocessing

import numpy as np
import pytest
from numpy.typing import NDArray

from astrid.datasets.normalize import levels
from astrid.learning.levels import Levels

Stamps = NDArray[np.float32]


@pytest.fixture
def stamps() -> Stamps:
    drawn = np.random.default_rng(3).standard_normal((6, 3, 63, 63), dtype=np.float32) * 5 + 100
    drawn[2, :, :, 40:] = np.nan
    return drawn


def test_levels_are_those_of_the_stamps(stamps: Stamps) -> None:
    places = np.array([4, 2, 0])
    for found, expected in zip(Levels(6).of(places, stamps[places]), levels(stamps[places]), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_what_is_known_is_not_measured_again(stamps: Stamps) -> None:
    known = Levels(6)
    background, _ = known.of(np.array([1, 3]), stamps[[1, 3]])
    again, noise = known.of(np.array([3, 5, 1]), np.zeros((3, 3, 63, 63), dtype=np.float32))
    np.testing.assert_array_equal(again[[2, 0]], background)
    assert noise[0].min() > 0
    assert noise[1].max() == again[1].max() == 0  # 5 was new


def test_what_is_given_may_be_changed(stamps: Stamps) -> None:
    known = Levels(6)
    for found in known.of(np.arange(6), stamps):
        found[:] = -1
    np.testing.assert_array_equal(known.of(np.arange(6), stamps)[0], levels(stamps)[0])


def test_forked_processes_share_what_they_measure(stamps: Stamps) -> None:
    known = Levels(6)
    child = multiprocessing.get_context("fork").Process(target=known.of, args=(np.array([2]), stamps[[2]]))
    child.start()
    child.join()
    background, noise = known.of(np.array([2]), np.zeros((1, 3, 63, 63), dtype=np.float32))
    np.testing.assert_array_equal(np.stack([background, noise]), np.stack(levels(stamps[[2]])))

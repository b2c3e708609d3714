from __future__ import annotations

import numpy as np

from astrid.core.dq import DQ
from astrid.imaging.alignment.fill import fill_local, fill_planes, spread_causes


def _marked(data, row, column, sigma=1.0):
    good = np.ones(data.shape, bool)
    good[row, column] = False
    dq = np.where(good, np.uint32(0), np.uint32(DQ.BAD))
    variance = np.full(data.shape, sigma**2, np.float32)
    return spread_causes(dq, fill_local(data, good, 1.5), variance, good, 5)


def test_planes_share_their_holes():
    rng = np.random.default_rng(0)
    planes = rng.normal(size=(2, 50, 60)).astype(np.float32)
    good = rng.uniform(size=(50, 60)) > 0.3
    for filled, plane in zip(fill_planes(planes, good, 1.5), planes, strict=True):
        np.testing.assert_allclose(filled, fill_local(plane, good, 1.5), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(filled[good], plane[good])


def test_a_hole_in_the_sky_reaches_its_neighbours_alone():
    sky = np.random.default_rng(1).normal(10, 1, (40, 40)).astype(np.float32)
    assert (_marked(sky, 20, 20) != 0).sum() == 9
    assert (_marked(sky, 0, 0) != 0).sum() == 4


def test_a_hole_in_a_star_reaches_farther():
    rows, columns = np.mgrid[:40, :40]
    star = (1e4 * np.exp(-((rows - 20) ** 2 + (columns - 20) ** 2) / 2.5)).astype(np.float32)
    assert (_marked(star, 21, 20) != 0).sum() == 81
    assert (_marked(star, 21, 20, sigma=1e4) != 0).sum() == 9


def test_usable_pixels_keep_their_bits():
    dq = np.zeros((20, 20), np.uint32)
    dq[5, 5] = np.uint32(DQ.SUSPECT)
    plane = np.zeros((20, 20), np.float32)
    spread = spread_causes(dq, plane, plane + 1, np.ones((20, 20), bool), 5)
    assert (spread != 0).sum() == 9
    assert spread_causes(np.zeros_like(dq), plane, plane + 1, np.ones((20, 20), bool), 5) is None

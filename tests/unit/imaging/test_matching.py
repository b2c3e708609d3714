from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from astrid.imaging.alignment.matching import attainable, chance_of, commonest_pose, commonest_shift, mutual

CENTRE = np.array([500.0, 500.0])


def _lists(seed, matrix, shift, n=80, common=0.7):
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 1000, (n, 2))
    flux = rng.pareto(1.2, n) + 1
    moved = CENTRE + (points - CENTRE) @ matrix.T + shift
    keep = rng.uniform(size=(2, n)) < np.sqrt(common)
    noise = 0.03 * rng.normal(size=(n, 2))
    return (points[keep[0]], flux[keep[0]]), (moved[keep[1]] + noise[keep[1]], flux[keep[1]])


def _matrix(angle, scale=1.0, mirrored=False):
    a = np.deg2rad(angle)
    return scale * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) @ np.diag([1.0, -1.0 if mirrored else 1.0])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("angle", "scale", "mirrored"), [(0.0, 1.0, False), (3.0, 1.01, False), (217.0, 0.985, False), (94.0, 1.0, True)])
def test_a_pose_is_found_from_pairs(seed, angle, scale, mirrored):
    matrix, shift = _matrix(angle, scale, mirrored), np.array([60.0, -70.0])
    (source, flux_s), (target, flux_t) = _lists(seed, matrix, shift)
    pose = commonest_pose(source, flux_s, target, flux_t, CENTRE, 100.0, 0.03)
    np.testing.assert_allclose(pose.matrix, matrix, atol=2e-3)
    np.testing.assert_allclose(pose.shift, shift, atol=0.5)
    assert np.sign(np.linalg.det(pose.matrix)) == (-1 if mirrored else 1)


def test_a_scale_beyond_the_tolerance_is_not_looked_for():
    matrix = _matrix(30.0, 1.06)
    (source, flux_s), (target, flux_t) = _lists(0, matrix, np.zeros(2))
    pose = commonest_pose(source, flux_s, target, flux_t, CENTRE, 100.0, 0.02)
    assert pose is None or not np.allclose(pose.matrix, matrix, atol=5e-3)


def test_a_shift_is_voted_for():
    (source, flux_s), (target, flux_t) = _lists(1, np.eye(2), np.array([-80.0, 35.0]))
    np.testing.assert_allclose(commonest_shift(source, flux_s, target, flux_t, 100.0).shift, [-80.0, 35.0], atol=0.1)
    assert commonest_shift(source, flux_s, target + 5000.0, flux_t, 100.0) is None


def test_one_star_has_no_pose():
    one = np.array([[500.0, 500.0]])
    assert commonest_pose(one, np.ones(1), one, np.ones(1), CENTRE, 100.0, 0.03) is None


def test_couples_are_mutual():
    moved, target = np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([[0.2, 0.0], [50.0, 0.0]])
    ours, theirs = mutual(moved, target, cKDTree(target), 3.0)
    assert (ours.tolist(), theirs.tolist()) == ([0], [0])


def test_chance_is_counted():
    rng = np.random.default_rng(2)
    moved, target = rng.uniform(0, 500, (2, 100, 2))
    assert chance_of(3, 1, moved, target, 3.0, 1000.0) > 1.0
    assert chance_of(60, 3, moved, target, 0.5, 1e6) < 1e-6
    assert attainable(moved, target[:40], 0.0) <= 40

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from astrid.imaging.spline import PAD, along_columns, along_rows, anywhere, coefficients, tap_weights


def _constant(value, shape):
    """Factors of a plane of one value a row."""
    return np.asarray(value, float).reshape(-1, 1), np.ones((1, shape))


@pytest.mark.parametrize("order", [1, 3, 5])
def test_the_taps_are_a_partition_of_unity(order):
    s = np.linspace(-0.5, 0.5, 9)
    weights = tap_weights(order) @ np.vander(s, order + 1, increasing=True).T
    np.testing.assert_allclose(weights.sum(axis=0), 1.0, atol=1e-6)
    np.testing.assert_allclose(weights, weights[::-1, ::-1], atol=1e-6)


@pytest.mark.parametrize("order", [3, 5])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(90, 70), (33, 200), (12, 9)])
def test_the_banded_filter_is_the_recursion(order, axis, shape):
    plane = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    ours = coefficients(plane, order, axis)
    inner = (slice(PAD, -PAD), slice(None)) if axis == 0 else (slice(None), slice(PAD, -PAD))
    theirs = ndimage.spline_filter1d(plane.astype(float), order, axis=axis)
    np.testing.assert_allclose(ours[inner], theirs, atol=2e-5)
    mirrored = np.take(ours, PAD + 2, axis=axis)
    np.testing.assert_allclose(np.take(ours, PAD - 2, axis=axis), mirrored, atol=2e-5)


@pytest.mark.parametrize("order", [1, 3, 5])
def test_lines_are_interpolated_as_by_scipy(order):
    rng = np.random.default_rng(1)
    plane, noise = rng.normal(size=(2, 60, 50)).astype(np.float32)
    shift = rng.uniform(-0.4, 0.4, (60, 1))
    values, variance = along_rows(
        plane, noise, (np.c_[np.ones((60, 1)), shift], np.stack([np.linspace(0.5, 48.4, 41), np.ones(41)])), order
    )
    place = np.linspace(0.5, 48.4, 41) + shift
    for row in (0, 17, 59):
        np.testing.assert_allclose(values[row], ndimage.map_coordinates(plane[row], [place[row]], order=order, mode="mirror"), atol=3e-5)
        np.testing.assert_allclose(variance[row], ndimage.map_coordinates(noise[row], [place[row]], order=1, mode="nearest"), atol=3e-5)
    upright, _ = along_columns(plane, noise, _constant([3.25, 40.0, 12.5], 50), order)
    np.testing.assert_allclose(
        upright[0],
        ndimage.map_coordinates(plane, [np.full(50, 3.25), np.arange(50)], order=order, mode="mirror"),
        atol=0.2 if order == 1 else 3e-5,
    )
    np.testing.assert_allclose(upright[1], plane[40], atol=1e-5)


def test_all_taps_at_once():
    rng = np.random.default_rng(2)
    plane, noise = rng.normal(size=(2, 60, 50)).astype(np.float32)
    y, x = _constant([5.3, 31.7], 3), (np.ones((2, 1)), np.array([[2.2, 20.0, 47.9]]))
    values, variance = anywhere(plane, noise, (y, x), 5)
    where = np.array([[5.3] * 3, [31.7] * 3]), np.array([[2.2, 20.0, 47.9]] * 2)
    np.testing.assert_allclose(values, ndimage.map_coordinates(plane, where, order=5, mode="mirror"), atol=3e-5)
    np.testing.assert_allclose(variance, ndimage.map_coordinates(noise, where, order=1), atol=1e-5)

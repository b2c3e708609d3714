from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.interpolate import make_interp_spline

from astrid.imaging.alignment.spline import (
    PAD,
    along_columns,
    along_rows,
    anywhere,
    cardinal,
    coefficients,
    inverse_filter,
    reach,
    tap_weights,
)


def _constant(value, shape):
    """Factors of a plane of one value a row."""
    return np.asarray(value, float).reshape(-1, 1), np.ones((1, shape))


@pytest.mark.parametrize("order", [1, 3, 5, 7, 9])
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


@pytest.mark.parametrize("order", [3, 5, 7, 9])
def test_far_from_the_borders_it_is_the_interpolating_spline(order):
    """Of any odd degree, against scipy's collocation, whose other border condition is forgotten 60 px away."""
    rng = np.random.default_rng(5)
    plane, none = rng.normal(size=(160, 150)).astype(np.float32), np.zeros((160, 150), np.float32)
    y, x = np.array([70.25, 81.9]), np.linspace(65.0, 85.0, 47)
    theirs = make_interp_spline(np.arange(160), make_interp_spline(np.arange(150), plane.astype(float), order, axis=1)(x), order)(y)
    rows, _ = along_rows(plane, none, (np.ones((160, 1)), x[None, :]), order)
    values, _ = along_columns(rows, none[:, :47], _constant(y, 47), order)
    np.testing.assert_allclose(values, theirs, atol=5e-6 * inverse_filter(order).max())
    values, _ = anywhere(plane, none, (_constant(y, 47), (np.ones((2, 1)), x[None, :])), order)
    np.testing.assert_allclose(values, theirs, atol=5e-6 * inverse_filter(order).max() ** 2)


@pytest.mark.parametrize("order", [1, 3, 5, 7, 9])
def test_positions_beside_the_plane_are_the_border(order):
    plane, none = np.random.default_rng(6).normal(size=(40, 50)).astype(np.float32), np.zeros((40, 50), np.float32)
    far = (np.ones((40, 1)), np.array([[-30.0, 90.0]]))
    near = (np.ones((40, 1)), np.array([[-1.0, 50.0]]))
    np.testing.assert_array_equal(along_rows(plane, none, far, order)[0], along_rows(plane, none, near, order)[0])
    rows = (np.linspace(0, 39, 40)[:, None], np.ones((1, 2)))
    np.testing.assert_allclose(anywhere(plane, none, (rows, far), order)[0], along_rows(plane, none, near, order)[0], atol=3e-4)


@pytest.mark.parametrize("order", [1, 3, 5, 7, 9])
def test_the_cardinal_spline_keeps_pixels_and_ends(order):
    whole = np.arange(-5.0, 6.0)
    np.testing.assert_allclose(cardinal(whole, order), whole == 0, atol=1e-6)
    assert cardinal(np.array([0.5 + reach(order) + order]), order)[0] == 0.0
    s = np.linspace(0.0, 1.0, 7)
    np.testing.assert_allclose(cardinal(s[:, None] - np.arange(-60, 61), order).sum(axis=1), 1.0, atol=1e-6)


def test_a_higher_degree_comes_nearer_to_the_band_limit():
    """Error in amplitude of a wave of 0.4 cycles a pixel, halfway between pixels."""
    pixels = np.arange(-80, 81)
    error = [abs(1 - cardinal(0.5 - pixels, n) @ np.cos(0.8 * np.pi * (0.5 - pixels))) for n in (1, 3, 5, 7, 9)]
    assert np.all(np.diff(error) < 0)
    assert error[3] < 0.08 < error[2]

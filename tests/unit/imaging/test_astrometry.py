from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from astrid.core.errors import NoOverlapError
from astrid.imaging.alignment.astrometry import Points, refine

SHAPE = (512, 512)


def _case(skies, n=80, noise=0.03, header=(0.0, 0.0), angle=0.3, scale=1.01, seed=0, true_excess=0.0):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(10, 500, (2, n))
    wcs = skies.tan_wcs(SHAPE)
    truth = skies.tan_wcs(SHAPE, scale, angle, crpix=(260.0, 250.0))
    stated = skies.tan_wcs(SHAPE, scale, angle, crpix=(260.0 + header[0], 250.0 + header[1]))
    rx, ry = truth.world_to_pixel_values(*wcs.pixel_to_world_values(x, y))
    flux = rng.uniform(1, 100, n)
    error = np.full(n, noise)
    total = np.hypot(noise, true_excess)
    science = Points(x + total * rng.normal(size=n), y + total * rng.normal(size=n), error, flux)
    reference = Points(rx + noise * rng.normal(size=n), ry + noise * rng.normal(size=n), error, flux)
    return science, reference, wcs, stated, truth


def _error(registration, wcs, truth):
    gx, gy = (axis.ravel() for axis in np.meshgrid(np.linspace(20, 490, 9), np.linspace(20, 490, 9)))
    rx, ry = registration.mapping(gx, gy)
    tx, ty = truth.world_to_pixel_values(*wcs.pixel_to_world_values(gx, gy))
    return np.hypot(rx - tx, ry - ty).max()


@pytest.mark.parametrize("header", [(0.0, 0.0), (9.0, -6.0), (-14.0, 11.0)])
def test_a_wrong_header_is_mended(skies, difference_config, header):
    science, reference, wcs, stated, truth = _case(skies, header=header)
    result = refine(science, reference, wcs, stated, SHAPE, difference_config.registration)
    assert result.method == "affine"
    assert result.n_matched > 70
    assert _error(result, wcs, truth) < 0.04
    assert result.rms_px == pytest.approx(result.centroid_px, rel=0.25)
    assert max(result.sigma_x, result.sigma_y) < 0.03  # the floor and the fit's own error, within the scatter of 80 stars


def test_without_refinement_the_header_stands(skies, difference_config):
    science, reference, wcs, stated, truth = _case(skies, header=(0.6, -0.8))
    config = dataclasses.replace(difference_config.registration, refine=False)
    result = refine(science, reference, wcs, stated, SHAPE, config)
    assert (result.method, result.sigma_x) == ("header", config.error_header_px)
    assert _error(result, wcs, truth) == pytest.approx(1.0, abs=0.1)


def test_scatter_beyond_the_centroids_is_measured(skies, difference_config):
    science, reference, wcs, stated, _ = _case(skies, n=300, true_excess=0.1)
    result = refine(science, reference, wcs, stated, SHAPE, difference_config.registration)
    assert result.sigma_x == pytest.approx(0.1, rel=0.2)
    assert result.sigma_y == pytest.approx(0.1, rel=0.2)


def test_the_ladder_descends_with_the_number_of_matches(skies, difference_config):
    config = difference_config.registration
    science, reference, wcs, stated, truth = _case(skies, n=5, noise=0.01, header=(2.0, 1.0))
    shift = refine(science, reference, wcs, stated, SHAPE, config)
    assert shift.method == "shift"
    assert _error(shift, wcs, truth) < 0.05
    nothing = Points(*np.zeros((4, 0)))
    header = refine(nothing, reference, wcs, stated, SHAPE, config)
    assert (header.method, header.n_matched, header.sigma_x) == ("header", 0, config.error_header_px)


def test_few_stars_are_fitted_sparingly(skies, difference_config):
    """Ten stars whose headers are right but for a shift: the affine map's six parameters are spent where they pay only."""
    methods, errors = [], []
    for seed in range(20):
        science, reference, wcs, stated, truth = _case(skies, n=10, header=(1.0, -2.0), seed=seed)
        result = refine(science, reference, wcs, stated, SHAPE, difference_config.registration)
        methods.append(result.method)
        errors.append(_error(result, wcs, truth))
    assert methods.count("shift") >= 14
    turned = skies.tan_wcs(SHAPE, 1.01, 0.3, crpix=(260.0, 250.0))
    turned.wcs.cd = turned.wcs.cd @ np.array([[1.0, 0.004], [-0.004, 1.0]])
    science, reference, wcs, _, truth = _case(skies, n=10, noise=0.01)
    result = refine(science, reference, wcs, turned, SHAPE, difference_config.registration)
    assert result.method in ("affine", "similarity")
    assert _error(result, wcs, truth) < 0.05
    assert np.median(errors) < 0.05


def test_unrelated_stars_keep_the_header(skies, difference_config):
    science, _, wcs, stated, _ = _case(skies, n=40)
    _, other, _, _, _ = _case(skies, n=40, seed=9)
    assert refine(science, other, wcs, stated, SHAPE, difference_config.registration).method == "header"


WIDE = (1024, 1024)
MIDDLE = 511.5


def _turned(skies, seed, *, n=200, angle=0.0, mirrored=False, scale=1.0, offset=(0.0, 0.0), bend=0.0, noise=0.03, excess=0.0):
    """A reference that is turned, mirrored, scaled, moved and bent against a header that says it is not."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-300, 1324, (2, round(2.5 * n)))
    flux, half = rng.pareto(1.2, x.size) + 1, noise / np.sqrt(2)
    a, u, v = np.deg2rad(angle), (x - MIDDLE) / MIDDLE, (y - MIDDLE) / MIDDLE * (-1 if mirrored else 1)
    rx = MIDDLE + offset[0] + scale * MIDDLE * (np.cos(a) * u - np.sin(a) * v) + bend * u * (u**2 + v**2)
    ry = MIDDLE + offset[1] + scale * MIDDLE * (np.sin(a) * u + np.cos(a) * v) + bend * v * (u**2 + v**2)
    lists, seen = [], []
    for px, py, spread in ((x, y, np.where(x > MIDDLE, np.hypot(half, excess), half)), (rx, ry, half)):
        inside = (px > 5) & (px < 1018) & (py > 5) & (py < 1018) & (rng.uniform(size=x.size) < 0.85)
        jitter = spread * rng.normal(size=(2, x.size))
        lists.append(Points(*(axis[inside] for axis in (px + jitter[0], py + jitter[1], np.full(x.size, half), flux))))
        seen.append(inside)
    both = seen[0] & seen[1]
    wcs = skies.tan_wcs(WIDE)
    return lists, wcs, (x[both], y[both], rx[both], ry[both])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "wrong",
    [
        {"angle": 0.6, "offset": (30.0, -10.0)},
        {"angle": 47.0, "offset": (-50.0, 40.0)},
        {"angle": 180.0, "offset": (60.0, 60.0), "scale": 0.985},
        {"mirrored": True, "offset": (40.0, 20.0)},
        {"mirrored": True, "angle": 123.0, "scale": 1.01},
        {"offset": (70.0, -65.0)},
        {"angle": 77.0, "offset": (20.0, 5.0), "n": 24},
    ],
)
def test_any_turn_mirror_scale_and_offset_is_mended(skies, difference_config, wrong, seed):
    lists, wcs, (x, y, rx, ry) = _turned(skies, seed, **wrong)
    result = refine(*lists, wcs, wcs, WIDE, difference_config.registration)
    mx, my = result.mapping(x, y)
    assert result.n_matched >= 0.97 * len(x)
    assert np.sqrt(np.mean((mx - rx) ** 2 + (my - ry) ** 2)) < 2.0 * 0.03 * np.sqrt(6 / len(x))
    np.testing.assert_array_equal(lists[0].flux[result.index_science], lists[1].flux[result.index_reference])


@pytest.mark.parametrize("seed", range(3))
def test_distortion_goes_into_the_mapping(skies, difference_config, seed):
    lists, wcs, (x, y, rx, ry) = _turned(skies, seed, n=400, bend=3.0)
    result = refine(*lists, wcs, wcs, WIDE, difference_config.registration)
    mx, my = result.mapping(x, y)
    assert result.method == "cubic"
    assert np.sqrt(np.mean((mx - rx) ** 2 + (my - ry) ** 2)) < 2.0 * 0.03 * np.sqrt(20 / len(x))
    assert result.rms_px == pytest.approx(result.centroid_px, rel=0.2)
    far = np.array([9000.0]), np.array([-8000.0])  # no blow-up beyond the stars
    assert np.abs(np.subtract(result.mapping(*far), far)).max() < 100.0


def test_noise_is_no_distortion(skies, difference_config):
    found = [
        refine(*lists, wcs, wcs, WIDE, difference_config.registration).method for lists, wcs, _ in (_turned(skies, s) for s in range(30))
    ]
    assert found.count("affine") >= 29


@pytest.mark.parametrize("seed", range(3))
def test_scatter_is_local(skies, difference_config, seed):
    lists, wcs, _ = _turned(skies, seed, n=600, excess=0.15)
    result = refine(*lists, wcs, wcs, WIDE, difference_config.registration)
    sigma_x, sigma_y = result.scatter_at(np.array([150.0, 870.0]), np.array([500.0, 500.0]))
    for sigma in (sigma_x, sigma_y):
        assert sigma[0] < 0.06
        assert sigma[1] == pytest.approx(0.15, rel=0.35)
    assert sigma_x[0] < result.sigma_x < sigma_x[1]


def test_without_matches_the_scatter_is_the_header_s(skies, difference_config):
    nothing = Points(*np.zeros((4, 0)))
    wcs = skies.tan_wcs(SHAPE)
    result = refine(nothing, nothing, wcs, wcs, SHAPE, difference_config.registration)
    for sigma in result.scatter_at(np.zeros((2, 3)), np.zeros((2, 3))):
        np.testing.assert_array_equal(sigma, np.full((2, 3), difference_config.registration.error_header_px))


def test_sources_off_the_projection_are_no_overlap(skies, difference_config):
    science, reference, wcs, _, _ = _case(skies)
    far = skies.tan_wcs(SHAPE, crval=(330.0, -2.0))
    with pytest.raises(NoOverlapError, match="check the two headers"):
        refine(science, reference, wcs, far, SHAPE, difference_config.registration)


def test_the_jacobian_is_the_derivative(skies, difference_config):
    science, reference, wcs, stated, _ = _case(skies, angle=20.0, scale=0.8)
    mapping = refine(science, reference, wcs, stated, SHAPE, difference_config.registration).mapping
    assert np.linalg.det(mapping.jacobian(250.0, 250.0)) == pytest.approx(1 / 0.8**2, rel=0.01)

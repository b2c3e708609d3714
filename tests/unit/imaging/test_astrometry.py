from __future__ import annotations

import numpy as np
import pytest

from astrid.core.errors import NoOverlapError
from astrid.imaging.astrometry import Points, refine

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


def test_unrelated_stars_keep_the_header(skies, difference_config):
    science, _, wcs, stated, _ = _case(skies, n=40)
    _, other, _, _, _ = _case(skies, n=40, seed=9)
    assert refine(science, other, wcs, stated, SHAPE, difference_config.registration).method == "header"


def test_sources_off_the_projection_are_no_overlap(skies, difference_config):
    science, reference, wcs, _, _ = _case(skies)
    far = skies.tan_wcs(SHAPE, crval=(330.0, -2.0))
    with pytest.raises(NoOverlapError, match="check the two headers"):
        refine(science, reference, wcs, far, SHAPE, difference_config.registration)


def test_the_jacobian_is_the_derivative(skies, difference_config):
    science, reference, wcs, stated, _ = _case(skies, angle=20.0, scale=0.8)
    mapping = refine(science, reference, wcs, stated, SHAPE, difference_config.registration).mapping
    assert np.linalg.det(mapping.jacobian(250.0, 250.0)) == pytest.approx(1 / 0.8**2, rel=0.01)

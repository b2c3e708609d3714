from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from astrid.core.records import Psf
from astrid.imaging.stars.find import StarFlag, find_stars
from astrid.imaging.stars.profile import field_monomials, profile_of
from astrid.imaging.stars.sources import measure_sources


class Sliced:
    """A plane that gives arrays only in parts."""

    def __init__(self, plane):
        self._plane, self.shape = plane, plane.shape

    def __getitem__(self, key):
        assert all(isinstance(part, slice) for part in key)
        return self._plane[key]


@pytest.fixture(scope="module")
def stars(skies):
    rng = np.random.default_rng(5)
    grid = np.arange(30, 370, 28)
    x, y = (axis.ravel() + rng.uniform(-0.5, 0.5, axis.size) for axis in np.meshgrid(grid, grid))
    flux = rng.uniform(3000, 30000, x.size)
    profile = skies.moffat(3.0)
    image = skies.exposure(skies.render((400, 400), profile, x, y, flux), 100.0, rng, None, "a")
    return image, x, y, flux, Psf(skies.stamp_of(profile, 15), "given", fwhm=3.0)


def _nearest(sources, x, y):
    return sources[np.argmin(np.hypot(sources["x"][:, None] - x, sources["y"][:, None] - y), axis=0)]


def test_fits_scatter_as_their_errors_say(stars, difference_config):
    image, x, y, flux, psf = stars
    sources = measure_sources(image.data, image.variance, image.dq, psf, difference_config.psf)
    match = _nearest(sources, x, y)
    assert match["good"].mean() > 0.97
    match, x, y, flux = (values[match["good"]] for values in (match, x, y, flux))
    for name, error, truth in (("x_fit", "error_x", x), ("y_fit", "error_y", y), ("flux_fit", "error_flux", flux)):
        pull = (match[name] - truth) / match[error]
        assert pull.std() == pytest.approx(1.0, abs=0.25)
        assert pull.mean() == pytest.approx(0.0, abs=0.4)
    assert np.median(match["chi2"]) == pytest.approx(1.0, abs=0.1)


def test_only_stars_are_fitted(stars, skies, difference_config):
    image, *_, psf = stars
    galaxy = skies.render(image.data.shape, skies.moffat(9.0), [44.0], [44.0], [90000.0])
    sources = measure_sources((image.data + galaxy).astype(np.float32), image.variance, image.dq, psf, difference_config.psf)
    odd = (sources["flags"] & np.uint32(~StarFlag.BLENDED & 0xFFFFFFFF)) != 0
    assert odd.any()
    assert np.isnan(sources["flux_fit"][odd]).all()
    assert not sources["good"][odd].any()


def test_close_stars_are_fitted_apart(skies, difference_config):
    rng = np.random.default_rng(6)
    x, y, flux = np.array([60.0, 67.0, 150.0]), np.array([60.0, 61.0, 80.0]), np.array([4e4, 2e4, 4e4])
    image = skies.exposure(skies.render((200, 200), skies.moffat(3.0), x, y, flux), 100.0, rng, None, "a")
    psf = Psf(skies.stamp_of(skies.moffat(3.0), 15), "given", fwhm=3.0)
    match = _nearest(measure_sources(image.data, image.variance, image.dq, psf, difference_config.psf), x, y)
    assert match["good"].all()
    assert match["flux_fit"] == pytest.approx(flux, rel=0.02)


def test_a_fit_takes_the_psf_of_its_place(skies, difference_config):
    rng = np.random.default_rng(7)
    size, x, y, flux = 300, np.array([30.0, 150.0, 270.0]), np.full(3, 100.0), np.full(3, 5e4)
    narrow, wide = (skies.stamp_of(skies.moffat(width), 15) for width in (2.6, 3.4))
    psf = Psf(0.5 * (narrow + wide), "given", fwhm=3.0, terms=0.5 * (wide - narrow)[None].repeat(2, axis=0), frame=(149.5, 149.5, 150.0))
    psf = dataclasses.replace(psf, terms=np.stack([psf.terms[0], np.zeros_like(psf.terms[0])]))
    signal = np.zeros((size, size))
    for a, b, f in zip(x, y, flux, strict=True):
        signal += skies.render((size, size), profile_of(psf.at(a, b)), [a], [b], [f], half=14)
    image = skies.exposure(signal, 100.0, rng, None, "a")
    config = difference_config.psf
    right = _nearest(measure_sources(image.data, image.variance, image.dq, psf, config), x, y)
    wrong = _nearest(measure_sources(image.data, image.variance, image.dq, dataclasses.replace(psf, terms=None), config), x, y)
    assert right["flux_fit"] == pytest.approx(flux, rel=0.015)
    assert abs(wrong["flux_fit"][0] / flux[0] - 1.0) > 0.03
    np.testing.assert_allclose(field_monomials(x, y, psf.frame, 2)[:, 0], (x - 149.5) / 150.0)


def test_sections_of_sliced_planes_find_what_the_whole_does(stars, difference_config):
    image, *_, psf = stars
    config = difference_config.psf
    parts = dataclasses.replace(config, stars=dataclasses.replace(config.stars, section_px=150))
    whole = measure_sources(image.data, image.variance, image.dq, psf, config)
    pieces = measure_sources(Sliced(image.data), Sliced(image.variance), Sliced(image.dq), psf, parts)
    assert len(whole) == len(pieces)
    match = _nearest(pieces, whole["x"], whole["y"])
    assert np.hypot(match["x"] - whole["x"], match["y"] - whole["y"]).max() < 0.02
    assert (match["flags"] == whole["flags"]).mean() > 0.97
    both = match["good"] & whole["good"]
    np.testing.assert_allclose(match["flux_fit"][both], whole["flux_fit"][both], rtol=1e-4)


def test_nothing_found_is_an_empty_catalogue(stars, difference_config):
    *_, psf = stars
    blank, one = np.zeros((64, 64), np.float32), np.ones((64, 64), np.float32)
    sources = measure_sources(blank, one, np.zeros((64, 64), np.uint32), psf, difference_config.psf)
    assert len(sources) == 0
    assert len(find_stars(blank, one, np.zeros((64, 64), np.uint32), difference_config.psf.stars)) == 0

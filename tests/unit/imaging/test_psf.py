from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from astrid.core.errors import ImagingError
from astrid.imaging.stars.find import find_stars
from astrid.imaging.stars.profile import Moffat, profile_of, stamp_fwhm, windowed_centre
from astrid.imaging.stars.psf import estimate_psf, gaussian_psf, given_psf, select_stars


def _field(skies, profile, count, seed=1, shape=(384, 384)):
    rng = np.random.default_rng(seed)
    x, y, flux = skies.star_field(rng, shape, count, margin=20)
    return skies.exposure(skies.render(shape, profile, x, y, flux, half=40), 100.0, rng, None, "a")


@pytest.mark.parametrize(
    ("name", "fwhm", "options", "limit"),
    [
        ("moffat", 3.0, {"ratio": 0.85, "angle": 0.5}, 0.02),
        ("moffat", 4.0, {}, 0.02),
        ("moffat", 1.7, {}, 0.03),  # undersampled
        ("gaussian", 3.0, {}, 0.03),
        ("gaussian", 1.7, {}, 0.03),
    ],
)
def test_the_estimate_follows_the_truth(skies, difference_config, name, fwhm, options, limit):
    profile = skies.pixelised(getattr(skies, name)(fwhm, **options))
    image = _field(skies, profile, 90, shape=(512, 512))
    psf = estimate_psf(image.data, image.variance, image.dq, difference_config.psf)
    half = (psf.stamp.shape[0] - 1) // 2
    truth = skies.stamp_of(profile, half)
    assert psf.method == "empirical"
    assert psf.n_stars >= difference_config.psf.min_empirical
    assert psf.stamp.sum() == pytest.approx(1.0, abs=1e-5)
    assert np.abs(psf.stamp - truth).sum() < limit  # of the flux, summed over the whole stamp
    assert psf.fwhm == pytest.approx(stamp_fwhm(truth), rel=0.02)
    assert psf.residual < 0.01


def test_the_ladder_descends_with_the_number_of_stars(skies, difference_config):
    config = difference_config.psf
    image = _field(skies, skies.moffat(3.0), 40)
    stars = find_stars(image.data, image.variance, image.dq, config.stars)
    chosen = select_stars(stars, config)
    few = estimate_psf(image.data, image.variance, image.dq, config, stars=chosen[-4:])
    bright = estimate_psf(image.data, image.variance, image.dq, dataclasses.replace(config, empirical_snr=100.0), stars=chosen[:5])
    one = estimate_psf(image.data, image.variance, image.dq, config, stars=chosen[:1])
    none = estimate_psf(image.data, image.variance, image.dq, config, stars=chosen[:0])
    assert few.method == "moffat"
    assert bright.method == "empirical"
    assert few.fwhm == pytest.approx(3.0, rel=0.05)
    assert (one.method, one.n_stars) == ("gaussian", 1)
    assert one.fwhm == pytest.approx(float(chosen["fwhm"][0]))
    assert (none.method, none.n_stars, none.fwhm) == ("gaussian", 0, config.fallback_fwhm)
    assert none.stamp.shape[0] % 2 == 1


def test_crowded_stars_are_left_out_unless_there_are_too_few(skies, difference_config):
    rng = np.random.default_rng(3)
    signal = skies.render((128, 128), skies.moffat(3.0), [30.0, 90.0, 98.0], [30.0, 90.0, 90.0], [5e4, 5e4, 2e4])
    image = skies.exposure(signal, 100.0, rng, None, "a")
    found = find_stars(image.data, image.variance, image.dq, difference_config.psf.stars)
    chosen = select_stars(found, dataclasses.replace(difference_config.psf, min_empirical=1))
    assert len(chosen) == 1
    assert chosen["x"][0] == pytest.approx(30.0, abs=0.1)
    assert len(select_stars(found, difference_config.psf)) == 2


def test_a_given_psf_is_made_odd_square_and_of_unit_sum():
    stamp = gaussian_psf(3.0, 10).stamp[:20, :18] * 7
    psf = given_psf(stamp)
    assert psf.stamp.shape == (21, 21)
    assert psf.stamp.sum() == pytest.approx(1.0, abs=1e-6)
    assert psf.method == "given"


@pytest.mark.parametrize("stamp", [np.zeros((5, 5)), np.full((5, 5), np.nan), np.ones(5)])
def test_an_impossible_psf_is_refused(stamp):
    with pytest.raises(ImagingError, match="give a finite 2-D stamp of positive sum"):
        given_psf(stamp)


def test_profiles_know_their_width_and_centre():
    moffat = Moffat(2.0, 3.0)
    assert moffat(np.array([0.0]), np.array([moffat.fwhm / 2]))[0] == pytest.approx(moffat(np.array([0.0]), np.array([0.0]))[0] / 2)
    shifted = dataclasses.replace(gaussian_psf(3.0, 12), stamp=np.roll(gaussian_psf(3.0, 12).stamp, 1, axis=1))
    y, x = windowed_centre(profile_of(shifted), 3.0)
    assert (y, x) == (pytest.approx(0.0, abs=1e-3), pytest.approx(1.0, abs=1e-3))


def test_faint_stars_count_only_where_the_bright_are_too_few(skies, difference_config):
    config = dataclasses.replace(difference_config.psf, min_snr=60.0)
    image = _field(skies, skies.moffat(3.0), 40)
    stars = find_stars(image.data, image.variance, image.dq, config.stars)
    assert (select_stars(stars, config)["snr"] >= config.min_snr).all()
    faint = stars[(stars["snr"] < config.min_snr) & (stars["flags"] == 0)]
    assert len(faint) > 1
    assert 1 < len(select_stars(faint, config)) <= len(faint)


def test_the_psf_is_that_of_the_stars_among_many_galaxies(skies, difference_config):
    """Fifteen galaxies a star, as in a deep field: none of them may shape the PSF."""
    rng = np.random.default_rng(8)
    grid = np.arange(30, 600, 48)
    x, y = (axis.ravel() + rng.uniform(-0.5, 0.5, axis.size) for axis in np.meshgrid(grid, grid))
    star = np.zeros(x.size, bool)
    star[rng.choice(x.size, 9, replace=False)] = True
    size = np.where(star, 2.4, rng.uniform(2.9, 8.0, x.size))
    flux = np.where(star, 4000.0, rng.uniform(3000.0, 20000.0, x.size)) * (size / 2.4)
    signal = sum(skies.render((620, 620), skies.moffat(w), [a], [b], [f]) for w, a, b, f in zip(size, x, y, flux, strict=True))
    image = skies.exposure(signal, 100.0, rng, None, "a")
    stars = find_stars(image.data, image.variance, image.dq, difference_config.psf.stars)
    told = stars[stars["flags"] == 0]
    nearest = np.hypot(told["x"][:, None] - x, told["y"][:, None] - y).argmin(axis=1)
    assert star[nearest].mean() > 0.8
    assert len(np.unique(nearest[star[nearest]])) >= 8
    psf = estimate_psf(image.data, image.variance, image.dq, difference_config.psf, stars=stars)
    assert psf.fwhm == pytest.approx(stamp_fwhm(skies.stamp_of(skies.moffat(2.4), 12)), rel=0.05)


def _moffat_over_the_field(skies, change, size=640, count=110, seed=4):
    """Stars whose FWHM grows by `change` from the left to the right edge; returns the image and the true profile at a place."""
    rng = np.random.default_rng(seed)
    x, y, flux = skies.star_field(rng, (size, size), count, margin=20)

    def truth(px):
        return skies.pixelised(skies.moffat(2.5 * (1.0 + change * (px / size - 0.5))), sub=3)

    signal = sum(skies.render((size, size), truth(a), [a], [b], [f]) for a, b, f in zip(x, y, flux, strict=True))
    return skies.exposure(signal, 100.0, rng, None, "a"), truth


def _matched_flux(psf, truth):
    """What the matched filter of `psf` makes of a star of unit flux."""
    half = psf.stamp.shape[0] // 2
    dy, dx = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
    stamp = psf.stamp.astype(float)
    return (stamp * truth(dy, dx)).sum() / (stamp**2).sum()


def test_a_psf_that_varies_is_followed(skies, difference_config):
    image, truth = _moffat_over_the_field(skies, 0.15)
    psf = estimate_psf(image.data, image.variance, image.dq, difference_config.psf)
    assert psf.terms is not None
    assert np.abs(psf.terms.sum(axis=(1, 2))).max() < 1e-5
    constant = dataclasses.replace(psf, terms=None)
    for x in (60.0, 320.0, 580.0):
        assert _matched_flux(psf.at(x, 320.0), truth(x)) == pytest.approx(1.0, abs=0.012)
    assert abs(_matched_flux(constant, truth(60.0)) - 1.0) > 0.03


def test_a_constant_psf_stays_constant_and_keeps_the_flux(skies, difference_config):
    for seed in range(3):
        image, truth = _moffat_over_the_field(skies, 0.0, size=512, count=100, seed=seed)
        psf = estimate_psf(image.data, image.variance, image.dq, difference_config.psf)
        assert psf.terms is None
        assert _matched_flux(psf, truth(0.0)) == pytest.approx(1.0, abs=0.005)
        assert len(psf.quadrants) == 4
        assert np.nanmedian(psf.quadrants) == pytest.approx(psf.residual, rel=0.5)


def test_variation_can_be_forbidden(skies, difference_config):
    image, _ = _moffat_over_the_field(skies, 0.15)
    assert estimate_psf(image.data, image.variance, image.dq, dataclasses.replace(difference_config.psf, max_degree=0)).terms is None


def test_wings_come_out_at_their_level(skies, difference_config):
    """A faint aureole far beyond the core, which no Moffat of the core foretells."""

    def profile(dy, dx):
        return 0.95 * skies.moffat(2.5)(dy, dx) + 0.05 * skies.gaussian(14.0)(dy, dx)

    image = _field(skies, profile, 60, seed=2, shape=(512, 512))
    psf = estimate_psf(image.data, image.variance, image.dq, difference_config.psf)
    half = psf.stamp.shape[0] // 2
    dy, dx = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
    ring = (np.hypot(dy, dx) > 6.0) & (np.hypot(dy, dx) < 11.0)
    assert psf.stamp[ring].sum() == pytest.approx(profile(dy, dx)[ring].sum(), rel=0.15)

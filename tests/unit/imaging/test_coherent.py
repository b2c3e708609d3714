"""Where the coherent score is put, and what it leaves alone."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest

from astrid.imaging.zogy import coherent, coherent_filter
from astrid.imaging.zogy.coherent import border, coherent_score
from astrid.imaging.zogy.coherent_filter import filters_for, look_of
from astrid.imaging.zogy.engine import Side, subtract
from astrid.imaging.zogy.kernels import optics_of

SHAPE = (180, 220)
SHARE = 0.1 / np.sqrt(2)
STARS = [(60.3, 70.8, 5e4), (66.0, 76.0, 8e3), (150.2, 90.4, 2e5), (110.0, 8.0, 5e4), (4.0, 150.0, 5e4), (200.7, 170.1, 900.0)]


@pytest.fixture(scope="module")
def profiles(skies):
    return [skies.pixelised(skies.moffat(fwhm)) for fwhm in (3.0, 2.2)]


@pytest.fixture(scope="module")
def sides(skies, profiles):
    """Shifted stars, some near each other, some near the border."""
    rng = np.random.default_rng(3)
    x, y, flux = np.transpose(STARS)
    out = []
    for profile, sky, jitter in zip(profiles, (100.0, 25.0), (0.1, 0.0), strict=True):
        dx, dy = jitter * rng.normal(size=(2, len(x)))
        variance = skies.render(SHAPE, profile, x + dx, y + dy, flux) + sky
        data = variance - sky + rng.normal(size=SHAPE) * np.sqrt(variance)
        stamp = skies.stamp_of(profile, 15)
        out.append(Side(data.astype(np.float32), variance.astype(np.float32), stamp, float(np.sqrt(sky)), astrometry=(SHARE, SHARE)))
    return out


@pytest.fixture
def plain(sides):
    return subtract(*sides)


def _with(sides, **changes):
    return [dataclasses.replace(side, **changes) for side in sides]


def test_without_scatter_nothing_changes(sides):
    still = _with(sides, astrometry=(0.0, 0.0))
    plain = subtract(*still)
    before = plain.score.copy()
    np.testing.assert_array_equal(coherent_score(*still, plain).score, before)


def test_an_empty_field_stays_as_it_is(sides):
    empty = _with(sides, data=np.random.default_rng(1).normal(size=SHAPE).astype(np.float32), variance=np.full(SHAPE, 100, np.float32))
    plain = subtract(*empty)
    before = plain.score.copy()
    np.testing.assert_array_equal(coherent_score(*empty, plain).score, before)


def test_only_the_surroundings_of_bright_stars_change(sides, plain):
    before = copy.deepcopy(plain)
    after = coherent_score(*sides, plain)
    changed = after.score != before.score
    y, x = np.nonzero(changed)
    bright = np.array(STARS)[:5]
    assert np.hypot(y[:, None] - bright[:, 1], x[:, None] - bright[:, 0]).min(axis=1).max() < 20
    for sx, sy, _ in bright[:3]:
        assert changed[round(sy), round(sx)]
    assert not changed[165:176, 195:206].any()
    np.testing.assert_array_equal(after.difference, before.difference)
    np.testing.assert_array_equal(after.scene, before.scene)
    np.testing.assert_allclose((after.flux / after.flux_error)[changed], after.score[changed], rtol=1e-5)
    assert (after.flux_error > 0).all()


def test_the_border_is_left_alone(sides, plain):
    before = plain.score.copy()
    changed = coherent_score(*sides, plain).score != before
    width = border(*sides)
    inner = np.zeros(SHAPE, bool)
    inner[width:-width, width:-width] = True
    assert not changed[~inner].any()
    assert changed[inner].any()


def test_the_same_bytes_again(sides):
    first, second = (coherent_score(*sides, subtract(*sides)) for _ in range(2))
    np.testing.assert_array_equal(first.score, second.score)
    np.testing.assert_array_equal(first.flux_error, second.flux_error)


def test_work_in_parts_gives_the_same(sides, plain, monkeypatch):
    whole = coherent_score(*sides, plain)
    monkeypatch.setattr(coherent, "_CHUNK_PX", 1)
    np.testing.assert_allclose(coherent_score(*sides, subtract(*sides)).score, whole.score, atol=1e-3)


def test_scatter_may_be_a_plane(sides, plain):
    number = coherent_score(*sides, plain)
    plane = np.full(SHAPE, SHARE, np.float32)
    planes = _with(sides, astrometry=(plane, plane))
    np.testing.assert_allclose(coherent_score(*planes, subtract(*planes)).score, number.score, atol=1e-3)


def test_a_window_of_the_pair_is_enough(sides, plain):
    """As a tile gives it: planes of the pair with their margins, a result of the inner window alone."""
    inner = (slice(30, 150), slice(20, 200))
    names = ("difference", "score", "flux", "flux_error", "scene")
    cut = dataclasses.replace(plain, **{name: getattr(plain, name)[inner].copy() for name in names})
    whole, part = coherent_score(*sides, plain), coherent_score(*sides, cut, inner)
    np.testing.assert_allclose(part.score[30:80, 20:160], whole.score[inner][30:80, 20:160], atol=0.05)


def test_planes_smaller_than_a_window_keep_their_score(sides, plain):
    inner = (slice(60, 84), slice(50, 74))
    names = ("difference", "score", "flux", "flux_error", "scene")
    cut = dataclasses.replace(plain, **{name: getattr(plain, name)[inner].copy() for name in names})
    before = cut.score.copy()
    np.testing.assert_array_equal(coherent_score(*sides, cut, inner).score, before)


def test_no_shift_is_taken_off_where_it_cannot_be_told(sides, monkeypatch):
    """With a limit that nothing passes, every pixel keeps its score."""
    plain = subtract(*sides)
    before = plain.score.copy()
    monkeypatch.setattr(coherent_filter, "_LEAST_LEFT", np.float32(2.0))
    np.testing.assert_array_equal(coherent_score(*sides, plain).score, before)


def test_look_of_a_gaussian(skies):
    stamp = skies.stamp_of(skies.gaussian(4.0), 12)
    flat = np.ones(SHAPE, np.float32)
    side = Side(flat, flat, stamp, 1.0)
    look = look_of(optics_of(side, side))
    assert look.fwhm == pytest.approx(4.0, rel=0.03)
    width = np.sqrt(2) * 4.0 / 2.3548  # of P_D with itself
    heights = np.exp(-0.5 * (np.arange(-8, 9) / width) ** 2)
    assert look.steepest == pytest.approx((heights[2:] - heights[:-2]).max() / 2, rel=0.02)  # central differences, as in V_ast


def test_filters_bring_the_reference_into_the_difference(sides):
    """With N empty, D is minus the reference through its filter, and the matched filter makes a flux of 1 of a source of 1."""
    side = 64
    filters = filters_for(optics_of(*sides), side)
    delta = np.zeros((side, side), np.float32)
    delta[side // 2, side // 2] = 1.0
    alone = [dataclasses.replace(s, data=d, variance=0 * delta + s.sigma**2) for s, d in zip(sides, (0 * delta, delta), strict=True)]
    expected = subtract(*alone).difference
    got = -np.fft.irfft2(np.fft.rfft2(delta) * filters.reference, (side, side))
    np.testing.assert_allclose(got, expected, atol=2e-3 * np.abs(expected).max())
    source = np.zeros((side, side))
    source[:31, :31] = sides[1].psf
    flux = np.fft.irfft2(np.fft.rfft2(source) * filters.reference * filters.match, (side, side))
    assert flux.max() == pytest.approx(1.0, abs=5e-3)
    assert (filters.mixed >= 0).all()
    assert (filters.mixed <= 1).all()


def test_a_varying_scatter_is_taken_off_where_it_was_put_on(sides):
    """V(S) without V_ast is that of a subtraction that never had it, though the scatter changes fast across a source."""
    plane = np.linspace(0.02, 0.14, SHAPE[1], dtype=np.float32)[None, :] * np.ones((SHAPE[0], 1), np.float32)
    pair = _with(sides, astrometry=(plane, plane))
    scored = coherent_score(*pair, subtract(*pair))
    bare = subtract(*_with(sides, astrometry=(0.0, 0.0)))
    assert (scored.flux_error > 0.9 * bare.flux_error).all()


def _grid_of_stars(skies, profiles, wrong):
    """Unshifted stars; the science image's are broader by the factor `wrong` than its PSF says."""
    rng = np.random.default_rng(9)
    x, y = (axis.ravel() + rng.uniform(-0.5, 0.5, axis.size) for axis in np.meshgrid(np.arange(25.0, 210, 32), np.arange(25.0, 170, 32)))
    flux = 1e4 * 10 ** rng.uniform(size=x.size)
    out = []
    seen = (skies.pixelised(skies.moffat(3.0 * wrong)), profiles[1])
    for profile, told, sky in zip(seen, profiles, (100.0, 25.0), strict=True):
        variance = skies.render(SHAPE, profile, x, y, flux) + sky
        data = variance - sky + rng.normal(size=SHAPE) * np.sqrt(variance)
        stamp = skies.stamp_of(told, 15)
        out.append(Side(data.astype(np.float32), variance.astype(np.float32), stamp, float(np.sqrt(sky)), astrometry=(SHARE, SHARE)))
    return out


def test_a_psf_that_does_not_fit_is_no_discovery(skies, profiles, monkeypatch):
    pair = _grid_of_stars(skies, profiles, 1.04)
    guarded = np.abs(coherent_score(*pair, subtract(*pair)).score).max()
    monkeypatch.setattr(coherent, "_MISFIT_SIGMAS", np.inf)
    bare = np.abs(coherent_score(*pair, subtract(*pair)).score).max()
    assert guarded < 5.0
    assert bare > 6.0


def test_a_psf_that_fits_costs_nothing(skies, profiles, monkeypatch):
    pair = _grid_of_stars(skies, profiles, 1.0)
    guarded = coherent_score(*pair, subtract(*pair)).score
    monkeypatch.setattr(coherent, "_MISFIT_SIGMAS", np.inf)
    np.testing.assert_array_equal(coherent_score(*pair, subtract(*pair)).score, guarded)

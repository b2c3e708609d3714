"""The score around sources that lie off their place: nothing of the shift is left in it, and what is new beside them stays."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from scipy import ndimage

from astrid.imaging.zogy.coherent import coherent_score
from astrid.imaging.zogy.engine import Side, subtract

SHAPE = (320, 320)
SIGMA = 0.1  # px, of the shift between the images along each axis
FWHMS, SKIES = (3.0, 2.2), (100.0, 25.0)


@pytest.fixture(scope="module")
def optics(skies):
    profiles = [skies.pixelised(skies.moffat(fwhm)) for fwhm in FWHMS]
    return profiles, [skies.stamp_of(profile, 15) for profile in profiles]


def _field(skies, optics, sources, shifts, new=(), seed=None):
    """Sides with `sources` (x, y, flux), shifted in the science image, and `new` ones in it alone; without noise when no seed is given."""
    profiles, stamps = optics
    x, y, flux = np.transpose(sources)
    signals = [skies.render(SHAPE, profiles[0], x + shifts[:, 0], y + shifts[:, 1], flux), skies.render(SHAPE, profiles[1], x, y, flux)]
    if len(new):
        signals[0] = signals[0] + skies.render(SHAPE, profiles[0], *np.transpose(new))
    rng = np.random.default_rng(seed)
    sides = []
    for signal, sky, stamp in zip(signals, SKIES, stamps, strict=True):
        variance = signal + sky
        data = signal if seed is None else signal + rng.normal(size=SHAPE) * np.sqrt(variance)
        share = SIGMA / np.sqrt(2)
        sides.append(Side(data.astype(np.float32), variance.astype(np.float32), stamp, float(np.sqrt(sky)), astrometry=(share, share)))
    return sides


def _grid(step, flux, rng):
    axis = np.arange(30.0, 300.0, step)
    x, y = (plane.ravel() + rng.uniform(-0.5, 0.5, plane.size) for plane in np.meshgrid(axis, axis))
    return np.c_[x, y, np.full(x.size, flux)], SIGMA * rng.normal(size=(x.size, 2))


def _plain(sides):
    return subtract(*[Side(s.data, s.variance, s.psf, s.sigma) for s in sides])


@pytest.mark.parametrize(("flux", "before", "after"), [(3e3, 2.5, 1.2), (1e4, 6.0, 0.7), (2e5, 30.0, 0.5)])
def test_shifted_stars_leave_nothing(skies, optics, flux, before, after):
    sides = _field(skies, optics, *_grid(50.0, flux, np.random.default_rng(1)))
    assert np.abs(_plain(sides).score).max() > before
    assert np.abs(coherent_score(*sides, subtract(*sides)).score).max() < after


@pytest.mark.parametrize(
    ("apart", "ratio", "after"),
    [(7.0, 1.0, 0.5), (10.0, 1.0, 0.5), (16.0, 1.0, 0.5), (19.0, 1.0, 0.5), (7.0, 0.1, 0.7), (10.0, 0.1, 0.5), (5.5, 0.3, 2.5)],
)
def test_neighbours_shift_on_their_own(skies, optics, apart, ratio, after):
    sources = np.array([[150.4, 160.2, 5e4], [150.4 + 0.6 * apart, 160.2 + 0.8 * apart, 5e4 * ratio]])
    sides = _field(skies, optics, sources, np.array([[0.08, -0.1], [-0.1, -0.05]]))
    assert np.abs(_plain(sides).score).max() > 7.0
    assert np.abs(coherent_score(*sides, subtract(*sides)).score).max() < after


def test_noise_around_shifted_stars_is_standard_normal(skies, optics):
    inside = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        sources, shifts = _grid(36.0, 1.0, rng)
        sources[:, 2] = 3e3 * 50 ** rng.uniform(size=len(sources))
        sides = _field(skies, optics, sources, shifts, seed=seed)
        result = coherent_score(*sides, subtract(*sides))
        mark = np.ones(SHAPE, bool)
        mark[np.rint(sources[:, 1]).astype(int), np.rint(sources[:, 0]).astype(int)] = False
        inside.append(result.score[ndimage.distance_transform_edt(mark) < 4.0])
    score = np.concatenate(inside)
    assert score.std() == pytest.approx(1.0, abs=0.05)  # 256 stars, a few independent values around each
    assert score.mean() == pytest.approx(0.0, abs=0.05)
    assert np.abs(score).max() < 5.5


def test_what_is_new_beside_a_bright_source_is_kept_with_its_flux(skies, optics):
    """Sources 4 px off stars that outshine them a hundredfold: the term for every pixel drowns them, the coherent one does not."""
    pulls, lost, kept = [], 0, 0
    for seed in range(6):
        rng = np.random.default_rng(40 + seed)
        stars, shifts = _grid(36.0, 6e4, rng)
        hosts = stars[seed % 4 :: 4]  # were there one beside every star, it would pass for a PSF that does not fit
        angle = rng.uniform(0, 2 * np.pi, len(hosts))
        new = np.c_[hosts[:, 0] + 4 * np.cos(angle), hosts[:, 1] + 4 * np.sin(angle), np.full(len(hosts), 1000.0)]
        sides = _field(skies, optics, stars, shifts, new, seed)
        plain = subtract(*sides)
        lost += _found(plain.score, new)
        result = coherent_score(*sides, plain)
        kept += _found(result.score, new)
        place = [new[:, 1], new[:, 0]]
        flux, error = (ndimage.map_coordinates(plane.astype(float), place, order=3) for plane in (result.flux, result.flux_error))
        pulls.append((flux - new[:, 2]) / error)
    pull = np.concatenate(pulls)
    assert lost < 0.5 * len(pull)
    assert kept > 0.9 * len(pull)
    assert np.mean(pull**2) == pytest.approx(1.0, abs=5 * np.sqrt(2 / len(pull)))
    assert np.mean(pull) == pytest.approx(0.0, abs=5 / np.sqrt(len(pull)))


def test_a_transient_leaves_no_false_peak_across_its_host(skies, optics):
    """Its light pulls the host's fitted shift: 8 px from it on the host's other side nothing may remain."""
    rng = np.random.default_rng(9)
    hosts = np.array([[x, y] for x in (60.0, 160.0, 260.0) for y in (60.0, 160.0, 260.0)])
    grains = np.repeat(hosts, 300, axis=0)  # an exponential disc each, in points that shift together
    radius, angle = rng.gamma(2.0, 2.0, len(grains)), rng.uniform(0, 2 * np.pi, len(grains))
    grains += np.c_[radius * np.cos(angle), radius * np.sin(angle)]
    shifts = np.repeat(SIGMA * rng.normal(size=hosts.shape), 300, axis=0)
    angle = rng.uniform(0, 2 * np.pi, len(hosts))
    beside = hosts + 5.0 * np.c_[np.cos(angle), np.sin(angle)]
    new = np.c_[beside, np.full(len(hosts), 2500.0)][::4]  # in few hosts: in all, it would pass for a PSF that does not fit
    sides = _field(skies, optics, np.c_[grains, np.full(len(grains), 100.0)], shifts, new)
    result = coherent_score(*sides, subtract(*sides))
    assert _found(result.score, new) == len(new)
    rows, columns = np.indices(SHAPE)
    away = np.all([np.hypot(rows - y, columns - x) > 8.0 for x, y, _ in new], axis=0)
    assert np.abs(result.score[away]).max() < 2.5  # 6 without the second pass


def _found(score, sources):
    peaks = ndimage.maximum_filter(score, 3)[np.rint(sources[:, 1]).astype(int), np.rint(sources[:, 0]).astype(int)]
    return int((peaks > 5).sum())


def test_scatter_of_the_fluxes_is_one_more_pattern(skies, optics):
    """Stars that dim by 3 %: at their places nothing is claimed, and beside them a new source keeps more than with V_phot."""
    stars, _ = _grid(50.0, 6e4, np.random.default_rng(5))
    still = np.zeros((len(stars), 2))
    hosts = stars[::4]
    new = np.c_[hosts[:, 0] + 4.0, hosts[:, 1], np.full(len(hosts), 1500.0)]
    sides = _field(skies, optics, stars, still, new)
    dimmed = _field(skies, optics, stars * [1, 1, 0.97], still, new)[0]
    share = 0.03 / np.sqrt(2)
    pair = [Side(s.data, s.variance, s.psf, s.sigma, photometry=share) for s in (dimmed, sides[1])]
    plain = subtract(*pair)
    before = plain.score.copy()
    result = coherent_score(*pair, plain)
    y, x = np.rint(stars[:, 1]).astype(int), np.rint(stars[:, 0]).astype(int)
    assert np.abs(result.score[y, x]).max() < 5.0
    beside = ndimage.map_coordinates(result.score, [new[:, 1], new[:, 0]], order=1)
    assert np.median(beside) > 1.2 * np.median(ndimage.map_coordinates(before, [new[:, 1], new[:, 0]], order=1))


def test_scale_of_the_images_changes_nothing(skies, optics):
    sides = _field(skies, optics, *_grid(50.0, 3e4, np.random.default_rng(6)), seed=6)
    scaled = [Side(s.data * 7, s.variance * 49, s.psf, s.sigma * 7, astrometry=s.astrometry) for s in sides]
    ours, theirs = coherent_score(*sides, subtract(*sides)), coherent_score(*scaled, subtract(*scaled))
    np.testing.assert_allclose(theirs.score, ours.score, atol=5e-3)
    np.testing.assert_allclose(theirs.flux, 7 * ours.flux, rtol=1e-3, atol=1.0)


def test_swapping_turns_the_sign(skies, optics):
    sides = _field(skies, optics, *_grid(50.0, 3e4, np.random.default_rng(7)))
    ours, theirs = coherent_score(*sides, subtract(*sides)), coherent_score(*sides[::-1], subtract(*sides[::-1]))
    np.testing.assert_allclose(theirs.score, -ours.score, atol=0.5)


def test_it_joins_on_to_the_plain_score(skies, optics):
    """Where the replaced pixels end, the two scores differ by little."""
    sides = _field(skies, optics, *_grid(50.0, 6e4, np.random.default_rng(8)), seed=8)
    plain = subtract(*sides)
    before = copy.deepcopy(plain)
    after = coherent_score(*sides, plain)
    changed = after.score != before.score
    rim = changed & ~ndimage.binary_erosion(changed)
    assert changed.mean() < 0.3
    assert rim.sum() > 500
    assert np.std((after.score - before.score)[rim]) < 0.35


@pytest.mark.parametrize("snr", [20.0, 60.0])
def test_what_has_faded_is_no_misfit_of_the_psf(skies, optics, snr):
    """Bright sources that the reference has alone keep their score, as those that the science image has alone."""
    unmoved = np.zeros((1, 2))
    transients, _ = _grid(50.0, 1.0, np.random.default_rng(2))
    star = np.array([[4.0, 4.0, 1.0]])
    transients[:, 2] = snr * subtract(*_field(skies, optics, star, unmoved)).blank_error
    sides = _field(skies, optics, star, unmoved, transients)
    x, y = np.rint(transients[:, :2]).astype(int).T
    appeared = coherent_score(*sides, subtract(*sides)).score[y, x]
    faded = coherent_score(*sides[::-1], subtract(*sides[::-1])).score[y, x]
    np.testing.assert_allclose(-faded, appeared, rtol=0.1)

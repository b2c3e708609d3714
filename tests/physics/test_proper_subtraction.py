"""What the proper subtraction must do, by closed forms, symmetries and statistics."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import ndimage, special

from astrid.core.dq import DQ, unusable
from astrid.imaging.pair import subtract_pair
from astrid.imaging.zogy.engine import Side, subtract

SHAPE = (256, 256)
SKY_N, SKY_R = 100.0, 25.0


@pytest.fixture(scope="module")
def psfs(skies):
    return skies.stamp_of(skies.gaussian(3.0), 12), skies.stamp_of(skies.gaussian(2.2), 12)


def _sides(psfs, seed, signal_n=0.0, signal_r=0.0, **changes):
    rng = np.random.default_rng(seed)
    out = []
    for signal, sky, psf in ((signal_n, SKY_N, psfs[0]), (signal_r, SKY_R, psfs[1])):
        variance = np.zeros(SHAPE) + np.maximum(signal, 0) + sky
        data = (signal + rng.normal(size=SHAPE) * np.sqrt(variance)).astype(np.float32)
        out.append(Side(data, variance.astype(np.float32), psf, float(np.sqrt(sky)), **changes))
    return out


def _peak_flux(plane, x, y):
    """Value of a smooth plane at sub-pixel positions."""
    return ndimage.map_coordinates(plane.astype(float), [y, x], order=5)


def test_identical_images_leave_nothing(psfs):
    new, _ = _sides(psfs, 1)
    result = subtract(new, new)
    assert np.all(result.difference == 0)
    assert np.all(result.score == 0)


def test_swapping_turns_the_sign(psfs):
    new, ref = _sides(psfs, 2)
    ours, theirs = subtract(new, ref), subtract(ref, new)
    np.testing.assert_array_equal(ours.difference, -theirs.difference)
    np.testing.assert_allclose(ours.score, -theirs.score, atol=1e-5)


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_score_on_blank_sky_is_standard_normal_and_difference_is_white(psfs, seed):
    result = subtract(*_sides(psfs, seed))
    # neighbours within a PSF are correlated: about (256 / 4)^2 independent values
    assert result.score.std() == pytest.approx(1.0, abs=0.04)
    assert result.score.mean() == pytest.approx(0.0, abs=0.06)
    assert result.difference.std() == pytest.approx(1.0, abs=0.01)
    power = np.abs(np.fft.rfft2(result.difference)) ** 2 / result.difference.size
    radius = np.hypot(np.fft.fftfreq(SHAPE[0])[:, None], np.fft.rfftfreq(SHAPE[1])[None, :])
    for low in np.arange(0.0, 0.5, 0.1):
        ring = power[(radius > low) & (radius <= low + 0.1)]
        assert ring.mean() == pytest.approx(1.0, abs=6 / np.sqrt(ring.size))


def test_difference_psf_has_its_closed_form(skies):
    """For equal widths P_D is the PSF itself; for equal noise and unequal widths its transform is known."""
    psf = skies.stamp_of(skies.gaussian(3.0), 16)
    flat = np.ones(SHAPE, np.float32)
    same = subtract(Side(flat, flat, psf, 1.0), Side(flat, flat, psf, 2.0))
    # P_D^ = P^2 sqrt(s_n^2 + s_r^2) / sqrt((s_n^2 + s_r^2) P^2) = P^
    np.testing.assert_allclose(same.psf, psf, atol=2e-6)
    other = skies.stamp_of(skies.gaussian(4.0), 16)
    got = subtract(Side(flat, flat, psf, 1.0), Side(flat, flat, other, 1.0)).psf
    side = 66
    f2 = np.fft.fftfreq(side)[:, None] ** 2 + np.fft.fftfreq(side)[None, :] ** 2
    a, b = (np.exp(-2 * np.pi**2 * (w / 2.3548200450309493) ** 2 * f2) for w in (3.0, 4.0))
    expected = np.fft.fftshift(np.fft.ifft2(np.sqrt(2) * a * b / np.sqrt(a**2 + b**2)).real)[33 - 16 : 33 + 17, 33 - 16 : 33 + 17]
    assert np.abs(got - expected).max() < 2e-3 * expected.max()


def test_fluxes_come_back_with_their_errors(skies, psfs):
    profile = skies.gaussian(3.0)
    grid = np.arange(20, 240, 24)
    rng = np.random.default_rng(7)
    x, y = (axis.ravel() + rng.uniform(-0.5, 0.5, axis.size) for axis in np.meshgrid(grid, grid))
    chi2, pulls = [], []
    for seed in range(3):
        flux = rng.uniform(100, 3000, x.size)
        result = subtract(*_sides(psfs, seed, skies.render(SHAPE, profile, x, y, flux)))
        pull = (_peak_flux(result.flux, x, y) - flux) / _peak_flux(result.flux_error, x, y)
        chi2.append(np.mean(pull**2))
        pulls.append(pull)
    n = 3 * x.size
    assert np.mean(chi2) == pytest.approx(1.0, abs=5 * np.sqrt(2 / n))
    assert np.mean(pulls) == pytest.approx(0.0, abs=5 / np.sqrt(n))


def test_completeness_follows_the_error_function(skies, psfs):
    profile = skies.gaussian(3.0)
    grid = np.arange(20, 240, 18)
    x, y = (axis.ravel().astype(float) for axis in np.meshgrid(grid, grid))
    error = float(np.median(subtract(*_sides(psfs, 0)).flux_error))
    flux = np.linspace(2.0, 8.0, x.size) * error
    found, expected = 0, 0.0
    for seed in range(4):
        result = subtract(*_sides(psfs, 20 + seed, skies.render(SHAPE, profile, x, y, flux)))
        snr = flux / _peak_flux(result.flux_error, x, y)
        found += int((_peak_flux(result.score, x, y) > 5).sum())
        expected += float((0.5 * (1 + special.erf((snr - 5) / np.sqrt(2)))).sum())
    assert found == pytest.approx(expected, abs=5 * np.sqrt(4 * x.size * 0.1))


def test_scaling_and_background_change_nothing(psfs):
    new, ref = _sides(psfs, 8)
    base = subtract(new, ref)

    def scaled(side):
        return dataclasses.replace(side, data=side.data * np.float32(7), variance=side.variance * np.float32(49), sigma=side.sigma * 7)

    np.testing.assert_allclose(subtract(scaled(new), scaled(ref)).score, base.score, atol=2e-4)
    raised = dataclasses.replace(new, data=new.data + np.float32(3))
    result = subtract(raised, ref)
    level = float(np.median(result.difference) - np.median(base.difference))  # passes the matched filter as F_D times itself
    levelled = result.score - np.float32(result.flux_difference * level / result.flux_score) / result.flux_error
    inner = (slice(40, -40), slice(40, -40))
    np.testing.assert_allclose(levelled[inner], base.score[inner], atol=0.05)


def test_flux_scale_of_the_reference_is_taken_out(skies, psfs):
    """A reference five times deeper in counts: the same star vanishes."""
    x, y, flux = [100.4], [120.7], [20000.0]
    signal = skies.render(SHAPE, skies.gaussian(3.0), x, y, flux)
    deep = skies.render(SHAPE, skies.gaussian(2.2), x, y, [100000.0])
    new, ref = _sides(psfs, 9, signal, deep)
    result = subtract(new, dataclasses.replace(ref, flux=5.0))
    assert np.abs(result.score[110:132, 90:112]).max() < 5.0
    assert np.abs(subtract(new, ref).score[110:132, 90:112]).max() > 50.0


def test_registration_error_needs_the_astrometric_term(skies, psfs):
    grid = np.arange(30, 230, 40)
    x, y = (axis.ravel().astype(float) for axis in np.meshgrid(grid, grid))
    rng = np.random.default_rng(10)
    dx, dy = 0.1 * rng.normal(size=(2, x.size))
    flux = np.full(x.size, 3e5)
    signal = skies.render(SHAPE, skies.gaussian(3.0), x + dx, y + dy, flux)
    still = skies.render(SHAPE, skies.gaussian(2.2), x, y, flux)
    plain = np.abs(subtract(*_sides(psfs, 11, signal, still)).score).max()
    term = np.abs(subtract(*_sides(psfs, 11, signal, still, astrometry=(0.1, 0.1))).score).max()
    assert plain > 20.0
    assert term < 5.0


@pytest.fixture(scope="module")
def crippled(skies, difference_config):
    """A pair with NaN, a saturated star and a reference that covers part of the field."""
    sky = skies.make_pair(seed=12, shape=SHAPE, count=60, given=True, shift=(-30.0, 0.0))
    science, reference = sky.science, sky.reference
    data, dq = science.data.copy(), science.dq.copy()
    data[60:63, 80:84] = np.nan
    data[200, 50] = 1e7
    dq[200, 50] |= np.uint32(DQ.COSMIC_RAY)
    inside = (sky.stars[:, 0] > 60) & (sky.stars[:, 0] < 220) & (sky.stars[:, 1] > 30) & (sky.stars[:, 1] < 220)
    x, y, _ = sky.stars[inside][np.argmax(sky.stars[inside, 2])]
    core = np.hypot(*(np.indices(SHAPE) - np.array([y, x])[:, None, None])) < 3
    data[core] = np.minimum(data[core], np.median(data[core]))
    dq[core] |= np.uint32(DQ.SATURATED)
    return subtract_pair(dataclasses.replace(science, data=data, dq=dq), reference, difference_config)


def test_masked_pixels_do_not_ring(crippled):
    known = ~unusable(crippled.dq)
    assert np.isfinite(crippled.score).all()
    assert np.isfinite(crippled.difference[known]).all()
    assert np.isnan(crippled.difference[~known]).all()
    assert np.all(crippled.score[~known] == 0)
    inner = known & ((crippled.dq & np.uint32(DQ.EDGE)) == 0)
    assert np.abs(crippled.score[inner]).max() < 6.0


def test_uncovered_pixels_are_marked(crippled):
    bits = np.uint32(DQ.NO_COVERAGE | DQ.REFERENCE)
    assert np.all((crippled.dq[:, :29] & bits) == bits)
    assert np.isnan(crippled.reference[:, :29]).all()
    assert crippled.quality["q_overlap"] == pytest.approx(1 - 30 / 256, abs=0.005)


@pytest.mark.parametrize(("given", "angle", "scale"), [(True, 0.5, 1.0), (False, 20.0, 1.02)])
def test_affine_misregistration_end_to_end(skies, difference_config, given, angle, scale):
    transients = [(100.3, 200.6, 3000.0), (300.2, 150.1, 1500.0), (220.8, 90.4, 1000.0)]
    sky = skies.make_pair(
        seed=13, shape=(384, 384), count=100, given=given, angle=angle, scale=scale, shift=(3.3, -2.1), header_error=(6.0, -4.0), ratio=2.5,
        transients=transients,
    )  # fmt: skip
    result = subtract_pair(sky.science, sky.reference, difference_config)
    quality = result.quality
    assert quality["q_registration_method"] == "affine"
    assert quality["q_registration_rms_px"] < 0.1
    assert quality["q_flux_ratio"] == pytest.approx(1 / 2.5 * 1.0, rel=0.02)
    assert quality["q_score_std_raw"] == pytest.approx(1.0, abs=0.03)
    flux = np.nan_to_num(result.flux)
    for x, y, truth in transients:
        i, j = round(y), round(x)
        got = _peak_flux(flux, np.array([x]), np.array([y]))[0]
        assert abs(got - truth) < 4 * result.flux_err[i, j] + 0.02 * truth
        assert result.score[i - 1 : i + 2, j - 1 : j + 2].max() > 5
    near = np.zeros(result.score.shape, bool)
    for x, y, _ in transients:
        near[round(y) - 8 : round(y) + 9, round(x) - 8 : round(x) + 9] = True
    rest = ~near & ((result.dq & np.uint32(DQ.EDGE)) == 0)
    assert (np.abs(result.score[rest]) > 5).sum() <= 3

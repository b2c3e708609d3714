from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import maximum_filter

from astrid.candidates.peaks import autocorrelation, find_peaks, psf_fwhm, psf_width
from astrid.core.dq import DQ
from astrid.core.records import Psf


def test_the_noise_equivalent_width_of_a_gaussian_is_its_fwhm(scene):
    assert psf_width(scene(sigma=2.0).stamp) == pytest.approx(2.3548 * 2.0, rel=1e-3)
    assert psf_fwhm(Psf(scene(sigma=2.0).stamp, "given")) == pytest.approx(2.3548 * 2.0, rel=1e-3)


def test_the_autocorrelation_of_a_gaussian_is_a_gaussian_wider_by_root_two(scene):
    profile = autocorrelation(scene(sigma=2.0).stamp)
    centre = profile.shape[0] // 2
    assert profile[centre, centre] == pytest.approx(1.0)
    assert profile[centre, centre + 3] == pytest.approx(np.exp(-9 / (4 * 4.0)), rel=1e-3)


def test_one_bright_source_is_one_peak_of_its_sign(scene, cfg):
    for sign in (1, -1):
        view = scene()
        view.add(100.3, 80.7, sign * 400.0)
        peaks = find_peaks(view.build(), cfg.extract)
        assert len(peaks) == 1
        assert peaks.sign[0] == sign
        assert (peaks.x[0], peaks.y[0]) == pytest.approx((100.3, 80.7), abs=0.02)


def test_swapping_the_sign_of_the_score_swaps_only_the_signs(scene, cfg):
    view = scene()
    for x, y, snr in [(60, 60, 20), (60, 68, -15), (150, 40.4, 9), (151.2, 200, -30)]:
        view.add(x, y, snr)
    product = view.build()
    peaks, turned = find_peaks(product, cfg.extract), find_peaks(replace(product, score=-product.score, flux=-product.flux), cfg.extract)
    assert len(peaks) == 4
    np.testing.assert_array_equal(peaks.x, turned.x)
    np.testing.assert_array_equal(peaks.snr, turned.snr)
    np.testing.assert_array_equal(peaks.sign, -turned.sign)


def test_two_sources_with_a_dip_between_are_two_and_without_are_one(scene, cfg):
    apart, blended = scene(), scene()
    for view, gap in ((apart, 8.0), (blended, 3.0)):
        view.add(100, 100, 30)
        view.add(100 + gap, 100, 25)
    assert len(find_peaks(apart.build(), cfg.extract)) == 2
    assert len(find_peaks(blended.build(), cfg.extract)) == 1


def test_both_lobes_of_a_dipole_are_kept(scene, cfg):
    view = scene()
    view.science += 8000 * (view.source(100.15, 90) - view.source(99.85, 90))
    peaks = find_peaks(view.build(), cfg.extract)
    assert sorted(peaks.sign) == [-1, 1]


def test_side_lobes_that_the_psf_explains_are_no_sources(scene, cfg):
    view = scene()
    product = view.build()
    stamp = product.psf_difference.stamp.copy()
    y, x = np.mgrid[-12:13, -12:13]
    stamp -= 0.06 * stamp.max() * np.exp(-((np.hypot(x, y) - 7) ** 2) / 2)
    ringing = replace(product.psf_difference, stamp=(stamp / stamp.sum()).astype(np.float32))
    profile = autocorrelation(ringing.stamp)
    score = product.score.copy()
    score[100 - 24 : 100 + 25, 100 - 24 : 100 + 25] += 300 * profile.astype(np.float32)
    assert score.min() < -2 * cfg.extract.threshold
    peaks = find_peaks(replace(product, score=score, flux=score * product.flux_err, psf_difference=ringing), cfg.extract)
    assert len(peaks) == 1


def test_masked_pixels_are_no_peaks_but_peaks_beside_them_are_kept(scene, cfg):
    view = scene()
    view.add(100, 100, 40)
    view.add(200, 200, 40)
    view.dq[100, 100] = DQ.BAD
    view.dq[190:211, 190:211] = DQ.NO_COVERAGE
    product = view.build()
    product.score[50, 50] = np.nan
    peaks = find_peaks(product, cfg.extract)
    assert len(peaks) == 1
    assert max(abs(peaks.ix[0] - 100), abs(peaks.iy[0] - 100)) == 1


def test_a_score_that_is_flat_on_a_bright_source_gives_one_peak_at_the_flux_maximum(scene, cfg):
    view = scene()
    view.add(100.3, 80.7, 400.0)
    product = view.build()
    flat = product.score / np.sqrt(1 + (0.08 * product.score) ** 2)  # what a photometric variance term does to S_corr
    peaks = find_peaks(replace(product, score=flat), cfg.extract)
    assert len(peaks) == 1
    assert (peaks.x[0], peaks.y[0]) == pytest.approx((100.3, 80.7), abs=0.02)
    assert peaks.snr[0] == pytest.approx(12.5, abs=0.2)
    assert peaks.strength[0] == pytest.approx(400, rel=0.03)


def test_equal_neighbours_are_one_peak(scene, cfg):
    product = scene(noise=1e-6).build()
    for plane in (product.score, product.flux):
        plane[:] = 0
        plane[40:42, 40:42] = 9
    assert len(find_peaks(product, cfg.extract)) == 1


def test_the_limit_keeps_the_strongest_and_counts_the_rest(scene, cfg):
    view = scene()
    for number in range(6):
        view.add(30 + 35 * number, 100, 10 + 5 * number)
    peaks = find_peaks(view.build(), replace(cfg.extract, max_candidates=2))
    assert len(peaks) == 2
    assert peaks.dropped == 4
    assert peaks.ix.min() > 160


@pytest.mark.parametrize("method", ["peaks", "sep", "daofind"])
def test_every_method_finds_the_same_bright_sources(scene, cfg, method):
    view = scene()
    truth = [(60, 60, 30), (150, 40, 25), (200, 200, -40)]
    for x, y, snr in truth:
        view.add(x, y, snr)
    peaks = find_peaks(view.build(), replace(cfg.extract, method=method))
    for x, y, snr in truth:
        near = np.hypot(peaks.x - x, peaks.y - y) < 0.5
        assert near.sum() == 1
        assert peaks.sign[near][0] == np.sign(snr)


@pytest.mark.parametrize("method", ["peaks", "sep", "daofind"])
def test_blank_sky_gives_no_peak(scene, cfg, method):
    view = scene(shape=(96, 96))
    view.science *= 0.1  # ten times below what the score is scaled for
    assert len(find_peaks(view.build(), replace(cfg.extract, method=method))) == 0


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost_against_a_maximum_filter(scene, cfg, seed):
    """Every maximum of 3 x 3 pixels beyond the threshold that stands apart from a stronger one is a peak, at that pixel."""
    view = scene(shape=(400, 380), seed=seed)
    rng = np.random.default_rng(seed)
    for row in range(8):
        for column in range(8):
            snr = rng.choice([-1, 1]) * rng.uniform(4, 40)
            view.add(25 + 45 * column + rng.uniform(-0.5, 0.5), 25 + 45 * row + rng.uniform(-0.5, 0.5), snr)
    view.add(1.2, 200.3, 30)
    view.add(378.9, 398.8, 30)
    product = view.build()
    height = np.abs(product.score)
    iy, ix = np.nonzero((maximum_filter(height, 3) == height) & (height >= cfg.extract.threshold))
    apart = np.hypot(ix[:, None] - ix, iy[:, None] - iy)
    stronger = height[iy, ix] > height[iy, ix][:, None]
    alone = ~np.any((apart < 25) & stronger, axis=1)
    peaks = find_peaks(product, cfg.extract)
    found = set(zip(peaks.ix.tolist(), peaks.iy.tolist(), strict=True))
    missed = [place for place in zip(ix[alone].tolist(), iy[alone].tolist(), strict=True) if place not in found]
    assert alone.sum() > 50
    assert missed == []
    assert found <= set(zip(ix.tolist(), iy.tolist(), strict=True))

"""Closed forms of detection on a matched-filtered Gaussian random field."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.wcs import WCS
from scipy.ndimage import gaussian_filter

from astrid.candidates.peaks import find_peaks
from astrid.config.schema.candidates import ExtractConfig
from astrid.config.validate import validate
from astrid.core.records import Difference, ExposureInfo, Psf

SIGMA = 2.0  # px, of the PSF; the score's autocorrelation is a Gaussian of sqrt(2) SIGMA
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cfg():
    return validate(ExtractConfig, yaml.safe_load((ROOT / "conf/candidates/default.yaml").read_text())["extract"])


def product(score):
    y, x = np.mgrid[-12:13, -12:13]
    stamp = np.exp(-(x**2 + y**2) / (2 * SIGMA**2))
    psf = Psf((stamp / stamp.sum()).astype(np.float32), "given", fwhm=2.3548 * SIGMA)
    plane = score.astype(np.float32)
    info = ExposureInfo("s", "test", "cam", "1", "r", 60000.0, 30.0)
    dq = np.zeros(score.shape, np.uint32)
    return Difference(plane, plane, plane, plane, plane, np.ones_like(plane), dq, psf, psf, psf, WCS(naxis=2), info, info)


def blank(rng, shape):
    field = gaussian_filter(rng.normal(size=shape), SIGMA, mode="wrap", truncate=6)
    return field * (2 * SIGMA * np.sqrt(np.pi))


@pytest.mark.parametrize("threshold", [3.5, 4.0])
def test_false_peaks_are_as_many_as_a_gaussian_field_has(cfg, threshold):
    """Maxima above t of a 2-D Gaussian field: (t^2 - 1) exp(-t^2 / 2) / ((2 pi)^(3/2) s^2) an area, high t (Adler 1981); each sign."""
    rng = np.random.default_rng(11)
    shape, frames = (1024, 1024), 2
    found = [find_peaks(product(blank(rng, shape)), replace(cfg, threshold=threshold)) for _ in range(frames)]
    variance = 2 * SIGMA**2
    euler = threshold * np.exp(-(threshold**2) / 2) / ((2 * np.pi) ** 1.5 * variance)
    expected = 2 * frames * np.prod(shape) * euler
    count = sum(len(peaks) for peaks in found)
    # The pixel grid misses the crest between pixels and neighbouring maxima merge: some 15 % fewer, never more than Poisson allows.
    assert 0.75 * expected - 3 * np.sqrt(expected) < count < expected + 3 * np.sqrt(expected)
    positive = sum(int((peaks.sign > 0).sum()) for peaks in found)
    assert abs(2 * positive - count) < 4 * np.sqrt(count)


def test_blank_sky_has_hardly_a_five_sigma_peak(cfg):
    rng = np.random.default_rng(12)
    assert sum(len(find_peaks(product(blank(rng, (512, 512))), cfg)) for _ in range(8)) <= 4


@pytest.mark.parametrize("snr", [10.0, 40.0])
def test_positions_reach_the_bound_of_a_matched_filter(cfg, snr):
    """Cramer-Rao for a Gaussian PSF in white noise: sigma_x = sqrt(2) SIGMA / (S/N)."""
    rng = np.random.default_rng(13)
    shape, step = (768, 768), 32
    score = blank(rng, shape)
    truth = np.stack(np.meshgrid(np.arange(step, 740, step), np.arange(step, 740, step)), axis=-1).reshape(-1, 2)
    truth = truth + rng.uniform(-0.5, 0.5, truth.shape)
    y, x = np.mgrid[-12:13, -12:13]
    for tx, ty in truth:
        ix, iy = round(tx), round(ty)
        profile = np.exp(-((x + ix - tx) ** 2 + (y + iy - ty) ** 2) / (4 * SIGMA**2))
        score[iy - 12 : iy + 13, ix - 12 : ix + 13] += snr * profile
    peaks = find_peaks(product(score), cfg)
    distance = np.hypot(peaks.x[:, None] - truth[:, 0], peaks.y[:, None] - truth[:, 1])
    nearest = distance.argmin(axis=1)
    error_x, error_y = peaks.x - truth[nearest, 0], peaks.y - truth[nearest, 1]
    assert len(peaks) == len(truth)
    bound = np.sqrt(2) * SIGMA / snr
    for error in (error_x, error_y):
        assert error.std() == pytest.approx(bound, rel=0.2)
        assert abs(error.mean()) < 4 * bound / np.sqrt(len(truth))


def test_the_score_scaled_by_minus_one_has_the_same_candidates(cfg):
    score = blank(np.random.default_rng(14), (256, 256)) * 1.6
    peaks, turned = find_peaks(product(score), cfg), find_peaks(product(-score), cfg)
    assert len(peaks) > 5
    np.testing.assert_array_equal(peaks.ix, turned.ix)
    np.testing.assert_array_equal(peaks.sign, -turned.sign)

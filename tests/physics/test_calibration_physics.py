"""Calibration against closed forms: a simulated readout goes back to the electrons that it was made from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.wcs import WCS
from scipy import special

from astrid.config.schema.calibrate import CalibrateConfig
from astrid.config.validate import validate
from astrid.core.dq import DQ, unusable
from astrid.core.records import ExposureInfo
from astrid.imaging.calibrate import RawExposure, calibrate
from astrid.imaging.detector.background import measure_background
from astrid.imaging.detector.cosmics import find_cosmics, point_source_sharpness
from astrid.imaging.detector.readout import Readout, reduce_readout
from astrid.imaging.stars.sizes import FWHM_PER_SIGMA

ROOT = Path(__file__).parents[2]
SIZE, OVERSCAN = 256, 32
GAIN, READ_NOISE, PEDESTAL, SKY = 1.8, 6.0, 950.0, 300.0
INFO = ExposureInfo("e1", "test", "cam", "d1", "r", 59000.0, 60.0)


@pytest.fixture(scope="module")
def config() -> CalibrateConfig:
    values = yaml.safe_load((ROOT / "conf/imaging/default.yaml").read_text())["calibrate"]
    return validate(CalibrateConfig, values, path="imaging.calibrate")


def tan_wcs(size: int = SIZE) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crpix = [size / 2, size / 2]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.cdelt = [-1e-4, 1e-4]
    return wcs


def stars(rng: np.random.Generator, fwhm: float, count: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Pixel-integrated Gaussian stars of 2e3 to 1e5 electrons; returns the image and the positions (n, 2)."""
    image = np.zeros((size, size))
    scale = FWHM_PER_SIGMA / (fwhm * np.sqrt(2))
    at = rng.uniform(12, size - 12, (count, 2))
    pixels = np.arange(size + 1) - 0.5
    for (x, y), flux in zip(at, 10 ** rng.uniform(3.3, 5.0, count), strict=True):
        along = [np.diff(special.erf((pixels - centre) * scale)) / 2 for centre in (x, y)]
        image += flux * np.outer(along[1], along[0])
    return image, at


def readout(rng: np.random.Generator, electrons: np.ndarray, flat: np.ndarray, bias: np.ndarray) -> RawExposure:
    counts = np.hstack([rng.poisson(electrons * flat), np.zeros((SIZE, OVERSCAN))])
    drift = np.linspace(0, 8, SIZE)[:, None]
    adu = np.round((counts + rng.normal(0, READ_NOISE, counts.shape)) / GAIN + PEDESTAL + drift)
    adu[:, :SIZE] += bias
    return RawExposure(
        data=adu.astype(np.float32),
        wcs=tan_wcs(),
        info=INFO,
        calibrated=False,
        gain=GAIN,
        read_noise=READ_NOISE,
        saturation=60000.0,
        trim=(slice(0, SIZE), slice(0, SIZE)),
        overscan=(slice(0, SIZE), slice(SIZE, SIZE + OVERSCAN)),
        bias=(bias + PEDESTAL).astype(np.float32),
        flat=(flat * 20000).astype(np.float32),
    )


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray, RawExposure]:
    rng = np.random.default_rng(11)
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    flat = (1 - 0.6 * (x**2 + y**2)) * rng.normal(1, 0.01, (SIZE, SIZE))
    flat /= np.median(flat)
    bias = rng.normal(0, 3, (1, SIZE)) + np.zeros((SIZE, 1))
    light, at = stars(rng, 3.0, 40)
    truth = light + SKY
    return light, at, flat, readout(rng, truth, flat, bias)


def test_blank_sky_has_mean_zero_and_the_stated_variance(scene, config):
    light, _, _, raw = scene
    out = calibrate(raw, config)
    blank = (light < 0.01) & ~unusable(out.dq)
    normal = out.data[blank] / np.sqrt(out.variance[blank])
    assert blank.sum() > 20000
    assert abs(normal.mean()) < 0.03
    assert normal.std() == pytest.approx(1.0, abs=0.02)
    assert out.info.unit == "electron"
    assert out.sky == pytest.approx(SKY, abs=2.0)
    assert out.sky_rms == pytest.approx(np.hypot(np.sqrt(SKY), READ_NOISE), rel=0.04)
    assert out.meta["noise_ratio"] == pytest.approx(1.0, abs=0.04)


def test_star_flux_comes_back_and_its_pixels_are_poisson(scene, config):
    light, at, _, raw = scene
    out = calibrate(raw, config)
    chi = []
    for x, y in at.round().astype(int):
        box = np.s_[max(y - 6, 0) : y + 7, max(x - 6, 0) : x + 7]
        if not unusable(out.dq[box]).any():
            chi.append((out.data[box].sum() - light[box].sum()) / np.sqrt(out.variance[box].sum()))
    assert len(chi) > 25
    assert abs(np.mean(chi)) < 0.6
    assert np.std(chi) == pytest.approx(1.0, abs=0.35)


def test_the_variance_is_read_noise_plus_counts_over_the_flat_squared(config):
    """V = (read_noise^2 + e f) / f^2 for e true electrons behind a flat f, without any noise in the frame."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    flat = 0.8 + 0.4 * x
    flat /= np.median(flat)
    electrons = 500.0 + 20.0 * y
    raw = RawExposure(
        data=(electrons * flat / GAIN).astype(np.float32),
        wcs=tan_wcs(),
        info=INFO,
        calibrated=False,
        gain=GAIN,
        read_noise=READ_NOISE,
        flat=flat.astype(np.float32),
    )
    out = calibrate(raw, replace(config, cosmics=replace(config.cosmics, apply_to="none")))
    assert out.variance == pytest.approx((READ_NOISE**2 + electrons * flat) / flat**2, rel=0.01)


def test_the_readouts_variance_is_exact(config):
    """Before sky and sources are known: V = (read_noise^2 + e f) / f^2 with the measured electrons e f, pixel by pixel."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    flat = 0.8 + 0.4 * x
    flat /= np.median(flat)
    electrons = 500.0 + 20.0 * np.sin(30 * y)
    frame = (electrons * flat / GAIN).astype(np.float32)
    out = reduce_readout(Readout(frame, GAIN, READ_NOISE, np.nan, flat=flat.astype(np.float32)), config.detector)
    assert out.variance == pytest.approx((READ_NOISE**2 + electrons * flat) / flat**2, rel=1e-4)


def test_the_variance_does_not_follow_its_own_noise(config):
    """Where there is only sky, pixels that fluctuate upwards have no larger variance than those that fluctuate downwards."""
    rng = np.random.default_rng(3)
    electrons = rng.poisson(30.0, (SIZE, SIZE)) + rng.normal(0.0, READ_NOISE, (SIZE, SIZE))
    raw = RawExposure(
        data=(electrons / GAIN).astype(np.float32), wcs=tan_wcs(), info=INFO, calibrated=False, gain=GAIN, read_noise=READ_NOISE
    )
    out = calibrate(raw, replace(config, cosmics=replace(config.cosmics, apply_to="none")))
    assert abs(np.corrcoef(out.data.ravel(), out.variance.ravel())[0, 1]) < 0.1
    assert np.mean(out.data**2 / out.variance) == pytest.approx(1.0, abs=0.03)


def test_gain_changes_units_but_no_significance(scene, config):
    _, _, _, raw = scene
    other = replace(raw, data=raw.data * np.float32(2), bias=raw.bias * np.float32(2), gain=raw.gain / 2, saturation=120000.0)
    first, second = calibrate(raw, config), calibrate(other, config)
    assert second.data == pytest.approx(first.data, abs=0.02)
    assert second.variance == pytest.approx(first.variance, rel=1e-4)


def test_a_pedestal_changes_nothing_when_there_is_an_overscan(scene, config):
    _, _, _, raw = scene
    first, second = calibrate(raw, config), calibrate(replace(raw, data=raw.data + np.float32(128), saturation=60128.0), config)
    assert second.data == pytest.approx(first.data, abs=0.01)


@pytest.mark.parametrize("fwhm", [1.4, 2.0, 3.0, 5.0])
def test_cosmic_rays_are_found_and_star_cores_survive(fwhm, config):
    rng = np.random.default_rng(5)
    light, at = stars(rng, fwhm, 60)
    data = rng.poisson(light + SKY).astype(float) + rng.normal(0, READ_NOISE, light.shape)
    hits = np.zeros(light.shape)
    for x, y in rng.integers(10, SIZE - 12, (60, 2)):
        if light[y - 3 : y + 4, x - 3 : x + 6].max() < 1:
            hits[y, x : x + rng.integers(1, 5)] += 10 ** rng.uniform(2.8, 4)
    variance = (np.maximum(data, 0) + READ_NOISE**2).astype(np.float32)
    found = find_cosmics((data + hits).astype(np.float32), variance, np.zeros(light.shape, bool), fwhm, config.cosmics)
    wrong = [found[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2].any() for x, y in at]
    assert found[hits > 0].mean() > 0.9
    assert np.mean(wrong) <= 0.02
    assert found[(hits == 0) & (light < 1)].mean() < 2e-3


@pytest.mark.parametrize("fwhm", [1.0, 2.0, 4.0])
def test_no_point_source_is_sharper_than_the_bound(fwhm):
    scale = FWHM_PER_SIGMA / (fwhm * np.sqrt(2))
    pixels = np.arange(-10, 12) - 0.5
    seen = []
    for shift in np.linspace(-0.5, 0.5, 21):
        profile = np.diff(special.erf((pixels - shift) * scale))
        peak = int(np.argmax(profile))
        seen.append(1 - (profile[peak - 1] + profile[peak + 1]) / 2 / profile[peak])
    assert max(seen) == pytest.approx(point_source_sharpness(fwhm), rel=1e-6)


def test_the_sky_under_a_galaxy_is_that_beside_it(config):
    rng = np.random.default_rng(8)
    y, x = np.mgrid[:SIZE, :SIZE]
    galaxy = 120.0 * np.exp(-np.hypot(x - 128, y - 100) / 9.0)
    gradient = 200.0 + 0.05 * x
    noisy = (gradient + galaxy + rng.normal(0, 8, galaxy.shape)).astype(np.float32)
    sky = measure_background(noisy, np.zeros(galaxy.shape, bool), config.background)
    error = sky.level - gradient
    assert np.abs(error).max() < 0.35 * 8
    eaten = 1 - (noisy - sky.level)[galaxy > 2].sum() / galaxy[galaxy > 2].sum()
    assert abs(eaten) < 0.04
    blank = galaxy < 0.05
    assert np.median(sky.rms[blank]) == pytest.approx(8.0, rel=0.03)
    assert abs(np.mean(error[blank])) < 0.05 * 8


def test_an_archive_image_with_gain_states_its_source_noise(config):
    rng = np.random.default_rng(3)
    light, _ = stars(rng, 3.0, 30)
    data = (rng.poisson(light + SKY) / 4.0).astype(np.float32)
    raw = RawExposure(data=data, wcs=tan_wcs(), info=replace(INFO, unit="adu"), calibrated=True, gain=4.0)
    out = calibrate(raw, config)
    expected = (light + SKY) / 16.0
    assert np.median(out.variance / expected) == pytest.approx(1.0, abs=0.05)
    bright = light > 3000
    assert np.median(out.variance[bright] / expected[bright]) == pytest.approx(1.0, abs=0.1)
    assert (out.gain, out.info.unit) == (4.0, "adu")


def test_a_given_noise_image_tells_the_gain(config):
    rng = np.random.default_rng(4)
    light, _ = stars(rng, 3.0, 40)
    noise = np.sqrt((light + SKY) / 2.5**2)
    data = ((light + SKY) / 2.5 + rng.normal(0, 1, light.shape) * noise).astype(np.float32)
    raw = RawExposure(data=data, wcs=tan_wcs(), info=replace(INFO, unit="x"), calibrated=True, noise=noise.astype(np.float32))
    out = calibrate(raw, config)
    assert out.variance == pytest.approx(noise**2, rel=1e-5)
    assert out.gain == pytest.approx(2.5, rel=0.1)


def test_saturated_columns_bleed_and_are_unusable(scene, config):
    _, _, _, raw = scene
    data = raw.data.copy()
    data[100:120, 50] = 65000.0
    out = calibrate(replace(raw, data=data), config)
    assert ((out.dq[100:120, 50] & np.uint32(DQ.SATURATED)) != 0).all()
    assert ((out.dq[97:123, 49:52] & np.uint32(DQ.BLEED)) != 0).all()
    assert not (out.dq[90, 50] & np.uint32(DQ.BLEED))


@pytest.mark.parametrize("fwhm", [1.25, 2.4])
def test_calibration_keeps_the_cores_of_sharp_stars_beside_galaxies(config, fwhm):
    """Where the stars' own edges look like cosmic rays, the few sources without edges are galaxies and say nothing of the PSF."""
    rng = np.random.default_rng(7)
    light, at = stars(rng, fwhm, 60)
    galaxies, _ = stars(rng, 7.0, 6)
    rays = np.zeros(light.shape)
    for x, y in rng.integers(10, SIZE - 12, (25, 2)):
        if light[y - 3 : y + 4, x - 3 : x + 6].max() < 1:
            rays[y, x : x + rng.integers(1, 5)] += 10 ** rng.uniform(3.3, 4)
    flat, bias = np.ones((SIZE, SIZE)), np.zeros((SIZE, SIZE))
    raw = readout(rng, light + galaxies + SKY + rays, flat, bias)
    out = calibrate(raw, config)
    struck = (out.dq & np.uint32(DQ.COSMIC_RAY)) != 0
    cores = [struck[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2].any() for x, y in at]
    assert np.mean(cores) <= 0.1
    assert struck[rays > 0].mean() > 0.8
    assert out.psf is not None
    assert out.psf.method == "empirical"
    assert out.psf.fwhm == pytest.approx(np.hypot(fwhm, FWHM_PER_SIGMA / np.sqrt(12)), rel=0.06)

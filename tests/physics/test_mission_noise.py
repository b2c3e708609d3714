"""The noise that AstrID states for each mission's product is the noise that is in it, and counting exposures have no biased sky."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.wcs import WCS

from astrid.commands.exposure import load
from astrid.config.schema.calibrate import CalibrateConfig
from astrid.config.validate import validate
from astrid.core.dq import DQ, unusable
from astrid.core.records import Calibrated, ExposureInfo
from astrid.imaging.calibrate import RawExposure, calibrate
from astrid.imaging.detector.counts import counts_variance, measure_counts_background
from support import missions as made

SIZE = 512


@pytest.fixture(scope="module")
def config() -> CalibrateConfig:
    values = yaml.safe_load((Path(__file__).parents[2] / "conf/imaging/default.yaml").read_text())["calibrate"]
    return validate(CalibrateConfig, values, path="imaging.calibrate")


def blank(exposure: Calibrated, flux: float = 1.0) -> np.ndarray:
    """Usable pixels far from the stars that `support.missions` puts in."""
    return (made.stars(flux, fwhm=5.0) < 1e-9 * flux) & ~unusable(exposure.dq)


@pytest.mark.parametrize("level", [0.003, 0.02, 0.1, 0.5, 1.0, 3.0, 20.0])
def test_the_sky_of_sparse_counts_is_unbiased(level: float, config: CalibrateConfig) -> None:
    ratios = []
    for seed in range(4):
        counts = np.random.default_rng(seed).poisson(level, (SIZE, SIZE)).astype(np.float32)
        sky = measure_counts_background(counts, None, np.zeros(counts.shape, bool), config.background, config.counts)
        ratios.append(sky.median / level)
    error = 1.0 / np.sqrt(level * SIZE**2 * len(ratios))
    assert abs(np.mean(ratios) - 1.0) < 3.0 * error + 5e-4


def test_the_sky_follows_the_exposure_map_and_leaves_sources_out(config: CalibrateConfig) -> None:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:SIZE, :SIZE]
    exposure = np.where(np.hypot(x - 256, y - 256) < 240, 300.0 + 0.5 * x, 0.0)
    light = made.stars(0.2, count=40, size=SIZE) * exposure
    counts = rng.poisson(4e-4 * exposure + light).astype(np.float32)
    sky = measure_counts_background(counts, exposure.astype(np.float32), exposure == 0, config.background, config.counts)
    inside = exposure > 0
    assert np.mean(sky.level[inside] / (4e-4 * exposure[inside])) == pytest.approx(1.0, abs=0.03)
    assert sky.sources[light > 0.5].mean() > 0.99
    assert sky.sources[inside & (light < 1e-6)].mean() < 0.1


@pytest.mark.parametrize("level", [0.02, 0.3, 2.0])
def test_matched_filtered_counts_have_unit_width(level: float, config: CalibrateConfig) -> None:
    """The score is a sum over a PSF of measured counts, divided by that sum of the variance."""
    rng = np.random.default_rng(4)
    counts = rng.poisson(level, (SIZE, SIZE)).astype(np.float32)
    sky = measure_counts_background(counts, None, np.zeros(counts.shape, bool), config.background, config.counts)
    variance = counts_variance(counts, sky, config.counts)
    from scipy.ndimage import gaussian_filter

    unit = np.zeros((41, 41))
    unit[20, 20] = 1.0
    kernel = gaussian_filter(unit, 1.2)
    spread = np.sqrt(variance.mean() * (kernel**2).sum())
    score = gaussian_filter((counts - sky.level).astype(float), 1.2)[20:-20, 20:-20] / spread
    assert score.std() == pytest.approx(1.0, abs=0.02)
    assert score.mean() == pytest.approx(0.0, abs=0.02)


def test_the_variance_of_a_source_is_its_expectation(config: CalibrateConfig) -> None:
    rng = np.random.default_rng(5)
    for flux, tolerance in ((15.0, 0.15), (3000.0, 0.03)):
        light = made.stars(flux, count=64, size=SIZE)
        counts = rng.poisson(light + 0.1).astype(np.float32)
        sky = measure_counts_background(counts, None, np.zeros(counts.shape, bool), config.background, config.counts)
        near = light > 1e-8 * light.max()
        assert counts_variance(counts, sky, config.counts)[near].sum() == pytest.approx((light + 0.1)[near].sum(), rel=tolerance)


@pytest.mark.parametrize(
    ("make", "flux"),
    [
        (made.hst, 20000.0), (made.hst_drizzled, 20.0), (made.jwst, 300.0), (made.tess, 60000.0),
        (lambda folder: made.panstarrs(folder)[0], 4000.0), (lambda folder: made.hst(folder, infrared=True), 40.0),
    ],
)  # fmt: skip
def test_blank_sky_of_a_mission_has_its_stated_noise(
    make: Callable[[Path], Path], flux: float, tmp_path: Path, config: CalibrateConfig
) -> None:
    out = load(make(tmp_path), config, role="science")
    normal = (out.data / np.sqrt(out.variance))[blank(out, flux)]
    assert len(normal) > 5000
    assert normal.std() == pytest.approx(1.0, abs=0.04)
    assert np.median(normal) == pytest.approx(0.0, abs=0.1)


@pytest.mark.parametrize("make", [made.uvot, made.galex])
def test_blank_sky_of_a_counting_mission_has_its_stated_noise(
    make: Callable[[Path], Path], tmp_path: Path, config: CalibrateConfig
) -> None:
    out = load(make(tmp_path), config, role="science")
    free = blank(out)
    assert len(out.data[free]) > 3000
    assert "Poisson variance" in out.meta["applied"]
    counts = float(np.median(out.variance[free])) * out.gain**2
    scatter = np.sqrt((1.0 / counts + 2.0) / free.sum())  # of a mean square of Poisson counts
    assert (out.data[free] ** 2).sum() / out.variance[free].sum() == pytest.approx(1.0, abs=4.0 * scatter)
    assert abs(out.data[free].sum()) < 4.0 * np.sqrt(out.variance[free].sum())
    corner = (out.dq[:10, :10] & np.uint32(DQ.NO_COVERAGE)) != 0
    assert corner.all()


def test_gains_of_missions_are_electrons_a_unit(tmp_path: Path, config: CalibrateConfig) -> None:
    gains = {
        "hst": (load(made.hst(tmp_path), config, role="science").gain, 1.0),
        "jwst": (load(made.jwst(tmp_path), config, role="science").gain, 200.0),
        "tess": (load(made.tess(tmp_path), config, role="science").gain, 0.0165 * 86400),
        "ps1": (load(made.panstarrs(tmp_path)[0], config, role="science").gain, 1.0),
        "uvot": (load(made.uvot(tmp_path), config, role="science").gain, 1.0),
    }
    for name, (measured, expected) in gains.items():
        assert measured == pytest.approx(expected, rel=0.1), name


def test_the_photons_of_blank_sky_are_not_clipped(config: CalibrateConfig) -> None:
    """max(data - sky, 0) / gain would add 0.4 rms / gain to the mean of the variance."""
    rng = np.random.default_rng(6)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cdelt = ["RA---TAN", "DEC--TAN"], [-1e-4, 1e-4]
    info = ExposureInfo("e", "test", "cam", "d", "r", 59000.0, 60.0, unit="adu")
    data = (rng.poisson(60.0, (SIZE, SIZE)) / 1.0).astype(np.float32)
    out = calibrate(RawExposure(data, wcs, info, calibrated=True, gain=1.0), config)
    free = ~unusable(out.dq)
    assert out.variance[free].mean() == pytest.approx(60.0, rel=0.01)  # clipped: 63


def test_a_raw_frame_of_few_electrons_has_their_expectation_for_variance(config: CalibrateConfig) -> None:
    """With a sky of two electrons the measured ones scatter as much as their mean: the model neither clips nor follows them."""
    rng = np.random.default_rng(7)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cdelt = ["RA---TAN", "DEC--TAN"], [-1e-4, 1e-4]
    info = ExposureInfo("e", "test", "cam", "d", "r", 59000.0, 60.0)
    flat = np.ones((SIZE, SIZE))
    flat[:, ::2] = 0.8
    electrons = rng.poisson(2.0 * flat) + rng.normal(0, 1.0, flat.shape)
    raw = RawExposure(
        electrons.astype(np.float32), wcs, info, calibrated=False, gain=1.0, read_noise=1.0, flat=flat.astype(np.float32)
    )  # fmt: skip
    quiet = replace(config, cosmics=replace(config.cosmics, apply_to="none"))
    out = calibrate(raw, quiet)
    response = flat / np.median(flat)
    expected = (1.0 + 2.0 * flat) / response**2
    free = ~unusable(out.dq)
    assert np.median(np.abs(out.variance / expected - 1.0)[free]) < 0.03
    assert (out.data[free] ** 2).mean() / out.variance[free].mean() == pytest.approx(1.0, abs=0.02)

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.io import fits
from astropy.wcs import WCS
from scipy import ndimage

from astrid.config.schema.calibrate import CalibrateConfig
from astrid.config.validate import validate
from astrid.core.dq import DQ
from astrid.core.errors import ImagingError
from astrid.core.records import ExposureInfo, Frames
from astrid.imaging.calibrate import RawExposure, calibrate, prepare_psf, raw_exposure

SHAPE = (120, 140)
INFO = ExposureInfo("e1", "test", "cam", "d1", "r", 59000.0, 60.0, unit="MJy/sr")


@pytest.fixture(scope="module")
def config() -> CalibrateConfig:
    values = yaml.safe_load((Path(__file__).parents[3] / "conf/imaging/default.yaml").read_text())["calibrate"]
    return validate(CalibrateConfig, values, path="imaging.calibrate")


def wcs() -> WCS:
    made = WCS(naxis=2)
    made.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    made.wcs.crpix = [60.0, 60.0]
    made.wcs.cdelt = [-1e-4, 1e-4]
    return made


def archive(**changes: object) -> RawExposure:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    data = np.random.default_rng(0).normal(5.0, 0.5, SHAPE)
    data += 300.0 * np.exp(-((x - 70) ** 2 + (y - 60) ** 2) / 5.0)
    base = RawExposure(data.astype(np.float32), wcs(), INFO, calibrated=True, psf=gaussian(21))
    return replace(base, **changes)


def gaussian(side: int, x: float = 0.0, y: float = 0.0, sigma: float = 1.6) -> np.ndarray:
    axis = np.arange(side) - (side - 1) / 2
    stamp = np.exp(-((axis[None, :] - x) ** 2 + (axis[:, None] - y) ** 2) / (2 * sigma**2))
    return (7.0 * stamp).astype(np.float32)


def frames(**header: object) -> Frames:
    return Frames("a.fits", np.zeros(SHAPE, np.float32), fits.Header(list(header.items())), wcs())


def test_numbers_of_the_table_go_before_those_of_the_header():
    made = raw_exposure(frames(GAIN=2.0, RDNOISE=4.0, SATURATE=6e4), INFO, calibrated=False, gain=1.5)
    assert (made.gain, made.read_noise, made.saturation) == (1.5, 4.0, 6e4)
    assert np.isnan(raw_exposure(frames(GAIN="high"), INFO, calibrated=False).gain)


def test_a_header_gain_is_not_taken_for_an_image_in_other_units():
    assert np.isnan(raw_exposure(frames(GAIN=2.0), INFO, calibrated=True).gain)
    assert raw_exposure(frames(GAIN=2.0), replace(INFO, unit="ADU"), calibrated=True).gain == 2.0


def test_sections_and_finished_steps_are_read_from_the_header():
    made = raw_exposure(frames(TRIMSEC="[1:100,1:120]", BIASSEC="[101:140,1:120]", CRMASK="done", FLATCOR=""), INFO, calibrated=False)
    assert made.trim == (slice(0, 120), slice(0, 100))
    assert made.overscan == (slice(0, 120), slice(100, 140))
    assert made.done == ("CRMASK",)
    with pytest.raises(ImagingError, match="leaves the image"):
        raw_exposure(frames(TRIMSEC="[1:999,1:120]"), INFO, calibrated=False)
    assert raw_exposure(frames(TRIMSEC="[1:999,1:120]"), INFO, calibrated=True).trim is None


def test_trimming_moves_the_reference_pixel(config):
    data = np.random.default_rng(1).normal(1000, 5, SHAPE).astype(np.float32)
    raw = RawExposure(
        data, wcs(), INFO, calibrated=False, gain=1.0, read_noise=5.0, trim=(slice(10, 110), slice(20, 130)), psf=gaussian(21)
    )
    out = calibrate(raw, config)
    assert out.data.shape == (100, 110)
    assert out.wcs.all_pix2world([[5.0, 6.0]], 0) == pytest.approx(raw.wcs.all_pix2world([[25.0, 16.0]], 0))


def test_unmeasured_pixels_hold_zero_and_a_reason(config):
    raw = archive()
    raw.data[10:14, 10] = np.nan
    raw.data[40:50, 100:120] = 0.0
    out = calibrate(raw, config)
    assert np.isfinite(out.data).all()
    assert np.isfinite(out.variance).all()
    assert (out.variance > 0).all()
    assert ((out.dq[10:14, 10] & np.uint32(DQ.NOT_FINITE)) != 0).all()
    assert ((out.dq[40:50, 100:120] & np.uint32(DQ.NO_COVERAGE)) != 0).all()
    assert not out.data[40:50, 100:120].any()
    assert out.meta["n_not_finite"] == 4
    assert out.meta["n_no_coverage"] == 200


def test_zeros_of_a_counting_detector_are_measurements(config):
    counts = np.random.default_rng(2).poisson(3.0, SHAPE).astype(np.float32)
    assert calibrate(archive(data=counts), config).meta["n_no_coverage"] == 0


def test_a_given_mask_and_noise_image_are_used(config):
    mask = np.zeros(SHAPE, bool)
    mask[30, 31] = True
    noise = np.full(SHAPE, 0.7, np.float32)
    noise[50, 51] = 0.0
    out = calibrate(archive(mask=mask, noise=noise), config)
    assert out.dq[30, 31] & np.uint32(DQ.BAD)
    assert out.dq[50, 51] & np.uint32(DQ.BAD)
    assert np.median(out.variance) == pytest.approx(0.49)
    assert out.meta["noise_ratio"] == pytest.approx(0.5 / 0.7, rel=0.05)
    assert out.meta["applied"] == "given mask, given noise, given PSF, sky (mesh)"


def test_an_unknown_gain_adds_no_source_noise(config):
    out = calibrate(archive(), config)
    assert out.gain == float("inf")
    assert out.variance[60, 70] == pytest.approx(0.25, rel=0.15)


@pytest.mark.parametrize(("choice", "level"), [("mesh", 5.0), ("constant", 5.0), ("none", 0.0)])
def test_the_sky_of_an_archive_image_is_removed_as_asked(choice, level, config):
    out = calibrate(archive(), replace(config, background=replace(config.background, archive_sky=choice)))
    assert out.sky == pytest.approx(level, abs=0.05)
    assert np.median(out.data) == pytest.approx(5.0 - level, abs=0.1)


def test_archive_images_are_searched_for_cosmic_rays_when_asked(config):
    raw = archive()
    raw.data[90, 30] += 60.0
    every = replace(config, cosmics=replace(config.cosmics, apply_to="every"))
    assert calibrate(raw, config).meta["n_cosmic_ray"] == 0
    found = calibrate(raw, every)
    assert found.dq[90, 30] & np.uint32(DQ.COSMIC_RAY)
    assert "cosmics" in found.meta["applied"]


def test_a_given_psf_is_centred_odd_and_of_unit_sum(config):
    for stamp in (gaussian(31, 2.4, -1.3), gaussian(30)):
        psf = prepare_psf(stamp, config.given_psf)
        side = psf.stamp.shape[0]
        axis = np.arange(side) - side // 2
        assert side % 2 == 1
        assert psf.stamp.sum() == pytest.approx(1.0, abs=1e-5)
        assert (psf.stamp * axis[None, :]).sum() == pytest.approx(0.0, abs=0.03)
        assert (psf.stamp * axis[:, None]).sum() == pytest.approx(0.0, abs=0.03)
        assert psf.method == "given"


def test_a_given_psf_is_cut_to_the_asked_flux_and_side(config):
    wide = gaussian(101)
    assert prepare_psf(wide, config.given_psf).stamp.shape[0] < 15
    assert prepare_psf(wide, replace(config.given_psf, enclosed=1.0, max_px=9)).stamp.shape == (9, 9)


def test_a_psf_is_estimated_where_none_is_given(config):
    assert calibrate(archive(psf=None), config).psf.method in ("empirical", "moffat", "gaussian")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": np.ones(SHAPE, bool)}, "100.0% of the pixels are unusable"),
        ({"mask": np.ones((3, 4), bool)}, "the mask has shape"),
        ({"noise": np.ones((3, 4), np.float32)}, "the noise image has shape"),
        ({"noise": np.zeros(SHAPE, np.float32)}, "no positive finite pixel"),
        ({"psf": np.zeros((5, 5), np.float32)}, "PSF"),
    ],
)
def test_what_cannot_be_calibrated_says_why(changes, message, config):
    with pytest.raises(ImagingError, match=message):
        calibrate(archive(**changes), config)


def read_out(share: float, **changes: object) -> RawExposure:
    """A raw exposure of two amplifiers with bright stars, of which one is full, and a flat."""
    rng = np.random.default_rng(4)
    shape = (256, 256)
    light = np.zeros(shape)
    places = (rng.integers(0, 256, 40), rng.integers(0, 256, 40))
    np.add.at(light, places, 10 ** rng.uniform(4.5, 6.3, 40))
    flat = 1.0 + 0.1 * np.sin(np.arange(256) / 40.0)[None, :] * np.ones(shape)
    charge = rng.poisson((200.0 + ndimage.gaussian_filter(light, 1.6)) * flat).clip(max=60_000).astype(float)
    charge += share * charge[:, ::-1] + rng.normal(0.0, 5.0, shape)
    info = replace(INFO, unit="adu")
    base = RawExposure(
        charge.astype(np.float32), wcs(), info, calibrated=False, gain=1.0, read_noise=5.0, saturation=58_000.0,
        flat=flat.astype(np.float32), psf=gaussian(21), grid="1 2",
    )  # fmt: skip
    return replace(base, **changes)


def test_crosstalk_is_flagged_and_changes_no_pixel(config):
    share = 2e-3
    out, blind = (calibrate(read_out(share, grid=grid), config) for grid in ("1 2", ""))
    bit = np.uint32(DQ.CROSSTALK)
    assert ((out.dq & bit) != 0).sum() > 50
    assert not (blind.dq & bit).any()
    np.testing.assert_array_equal(out.dq & ~bit, blind.dq)
    for plane in ("data", "variance"):
        np.testing.assert_array_equal(getattr(out, plane), getattr(blind, plane))
    for column in out.sources.dtype.names:
        np.testing.assert_array_equal(out.sources[column], blind.sources[column])
    for pair in ("1_2", "2_1"):
        assert abs(out.meta[f"crosstalk_{pair}"] - share) < 4 * out.meta[f"crosstalk_error_{pair}"] < 1.2e-3
    assert out.meta["n_crosstalk"] == ((out.dq & bit) != 0).sum()
    assert "crosstalk flags" in out.meta["applied"]
    assert not [key for key in blind.meta if key.startswith("crosstalk")]
    none = calibrate(read_out(0.0), config)
    assert none.meta["n_crosstalk"] == 0
    assert not (calibrate(read_out(share, calibrated=True), config).dq & bit).any()


def test_flags_beside_a_raw_frame_are_trimmed_with_it(config):
    given = np.zeros((256, 256), np.uint32)
    given[100, 120] = int(DQ.PERSISTENCE)
    trim = (slice(20, 250), slice(10, 250))
    out = calibrate(read_out(0.0, dq=given, trim=trim), config)
    assert np.argwhere(out.dq & np.uint32(DQ.PERSISTENCE)).tolist() == [[80, 110]]
    assert out.meta["n_persistence"] == 1
    own = calibrate(read_out(0.0, dq=given[trim], trim=trim), config)
    np.testing.assert_array_equal(own.dq, out.dq)
    np.testing.assert_array_equal(own.data, calibrate(read_out(0.0, trim=trim), config).data)
    with pytest.raises(ImagingError, match="the DQ plane has 9 x 9 pixels but the exposure 256 x 256"):
        calibrate(read_out(0.0, dq=given[:9, :9]), config)


def test_the_layout_of_the_amplifiers_is_read_from_the_header():
    assert raw_exposure(frames(NAMPSYX="1 2"), INFO, calibrated=False).grid == "1 2"
    assert raw_exposure(frames(), INFO, calibrated=False).grid == ""

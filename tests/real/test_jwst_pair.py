"""Two epochs of Abell 2744 with JWST NIRCam F200W: a cluster field of galaxies, correlated noise, few stars, no bright transient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.io import fits
from astropy.wcs import WCS
from scipy import ndimage

from astrid.config.schema.imaging import DifferenceConfig
from astrid.config.validate import validate
from astrid.core.dq import DQ, unusable
from astrid.core.records import Calibrated, ExposureInfo
from astrid.imaging.inject import inject
from astrid.imaging.pair import subtract_pair
from astrid.imaging.psf import given_psf

SCIENCE = "jw02561001002-02561-o001_t003_nircam_clear-f200w_i2d_stamp"
REFERENCE = "jw01324001001-01324-o001_t001_nircam_clear-f200w_i2d_stamp"
MIN_USABLE = 40  # of 60 injections, away from borders


@pytest.fixture(scope="module")
def config(project_root):
    values = yaml.safe_load((project_root / "conf" / "imaging" / "default.yaml").read_text())["difference"]
    return validate(DifferenceConfig, values)


def _load(folder: Path, stem: str, role: str) -> Calibrated:
    with fits.open(folder / f"{stem}.fits") as hdus:
        data, header = hdus[0].data.astype(np.float32), hdus[0].header
    noise = fits.getdata(folder / f"{stem}.noise.fits").astype(np.float32)
    psf = given_psf(fits.getdata(folder / f"{stem}.WebbPSF.fits").astype(np.float64))
    dq = np.where(np.isfinite(data) & (noise > 0), 0, DQ.NOT_FINITE).astype(np.uint32)
    info = ExposureInfo(stem[:7], "jwst", "nircam", "multiple", "f200w", header["MJD-OBS"], header["EXPTIME"], role, unit="MJy/sr")
    return Calibrated(data, noise**2, dq, WCS(header), info, psf=psf, gain=float(header["EFFGAIN"]))


@pytest.fixture(scope="module")
def pair(shared_data):
    folder = shared_data / "fits" / "jwst-nircam-abell2744"
    if not folder.is_dir():
        pytest.skip(f"the JWST pair is not at hand ({folder} is absent)")
    return _load(folder, SCIENCE, "science"), _load(folder, REFERENCE, "reference")


@pytest.fixture(scope="module")
def result(pair, config):
    return subtract_pair(*pair, config)


def test_the_pair_subtracts_and_says_how_well(result):
    quality = result.quality
    assert quality["q_overlap"] > 0.999
    assert quality["q_flux_ratio"] == pytest.approx(1.0, abs=0.05)
    assert quality["q_registration_median_px"] < 0.25
    assert 1.2 < quality["q_score_std_raw"] < 2.0  # drizzled noise is correlated; the archive's noise plane does not know it
    assert quality["q_score_std"] == pytest.approx(1.0, abs=0.01)
    assert quality["q_score_renormalised"] is True


def test_nothing_new_and_bright_is_claimed(result):
    known = ~unusable(result.dq) & ((result.dq & np.uint32(DQ.EDGE)) == 0)
    assert (result.score[known] > 5).mean() < 2e-4


def test_injected_sources_come_back(pair, result, config):
    rng = np.random.default_rng(5)
    positions = rng.uniform(30, 870, (60, 2))
    error = float(np.nanmedian(result.flux_err))
    fluxes = error * rng.uniform(7, 40, 60)
    injected = subtract_pair(inject(pair[0], positions, fluxes, rng), pair[1], config)
    change = np.nan_to_num(injected.flux - result.flux)
    got = ndimage.map_coordinates(change, [positions[:, 1], positions[:, 0]], order=3)
    rows, columns = np.round(positions[:, 1]).astype(int), np.round(positions[:, 0]).astype(int)
    blank = result.flux_err[rows, columns] < 1.3 * error
    assert blank.sum() >= MIN_USABLE
    assert np.median(got[blank] / fluxes[blank]) == pytest.approx(1.0, abs=0.02)
    peaks = np.array([injected.score[r - 1 : r + 2, c - 1 : c + 2].max() for r, c in zip(rows, columns, strict=True)])
    clear = blank & (fluxes > 6.5 * injected.flux_err[rows, columns])
    assert clear.sum() >= MIN_USABLE // 2
    assert (peaks[clear] > 5).mean() > 0.9

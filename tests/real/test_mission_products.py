"""Real pixels in the form in which their archive delivers them are read like the same pixels with companions given by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.io import fits

from astrid.commands.exposure import load
from astrid.config.schema.calibrate import CalibrateConfig
from astrid.config.validate import validate
from astrid.core.dq import unusable

STEM = "jw01324001001-01324-o001_t001_nircam_clear-f200w_i2d_stamp"
CUT = np.s_[300:700, 300:700]


@pytest.fixture(scope="module")
def config(project_root: Path) -> CalibrateConfig:
    values = yaml.safe_load((project_root / "conf/imaging/default.yaml").read_text())["calibrate"]
    return validate(CalibrateConfig, values, path="imaging.calibrate")


def test_a_webb_mosaic_with_errors_equals_one_with_a_noise_image(shared_data: Path, tmp_path: Path, config: CalibrateConfig) -> None:
    source = shared_data / "fits" / "jwst-nircam-abell2744"
    if not source.is_dir():
        pytest.skip(f"the JWST pair is not at hand ({source} is absent)")
    science, error = (fits.getdata(source / f"{STEM}{ending}") for ending in (".fits", ".noise.fits"))
    header = fits.getheader(source / f"{STEM}.fits")
    header["CRPIX1"] -= CUT[1].start
    header["CRPIX2"] -= CUT[0].start
    primary = fits.PrimaryHDU()
    primary.header.update({"TELESCOP": "JWST", "INSTRUME": "NIRCAM", "FILTER": "F200W", "EXPMID": 59759.41, "S_RESAMP": "COMPLETE"})
    product = tmp_path / "jw01324_i2d.fits"
    hdus = [primary, fits.ImageHDU(science[CUT], header, "SCI"), fits.ImageHDU(error[CUT], name="ERR")]
    fits.HDUList(hdus).writeto(product)
    plain, noise = tmp_path / "stamp.fits", tmp_path / "noise.fits"
    fits.PrimaryHDU(science[CUT], header).writeto(plain)
    fits.PrimaryHDU(error[CUT]).writeto(noise)
    first = load(product, config, role="science")
    second = load(plain, config, role="science", noise=noise)
    assert (first.data == second.data).all()
    assert first.variance == pytest.approx(second.variance, rel=1e-5)
    assert first.gain == pytest.approx(second.gain, rel=1e-5)
    assert (unusable(first.dq) == unusable(second.dq)).all()
    assert (first.info.survey, first.info.filter, first.info.mjd) == ("jwst", "F200W", 59759.41)
    assert first.meta["header_applied"] == "resampling"


def test_a_decam_exposure_is_of_no_mission_and_states_its_noise(shared_data: Path, config: CalibrateConfig) -> None:
    source = shared_data / "fits" / "decam-i"
    if not source.is_dir():
        pytest.skip(f"the DECam exposures are not at hand ({source} is absent)")
    out = load(source / "DEC-OBS04a.mini.fits", config, role="science")
    normal = (out.data / np.sqrt(out.variance))[~unusable(out.dq)]
    below = -normal[normal < 0]  # no source makes a pixel fainter than the sky
    assert 1.4826 * np.median(below) == pytest.approx(1.0, abs=0.08)
    assert "ILLUMCOR" in out.meta["header_applied"]

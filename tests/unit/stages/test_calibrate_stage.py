from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from astropy.io import fits
from astropy.wcs import WCS

from astrid.core.dq import DQ
from astrid.core.errors import ImagingError, InputError
from astrid.io.fits import read_calibrated
from astrid.io.tables import EXPOSURES, read_table, write_table
from astrid.stages import calibrate

ROOT = Path(__file__).parents[3]
SIZE, OVERSCAN = 96, 16


def header() -> fits.Header:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crpix = [48.0, 48.0]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.cdelt = [-1e-4, 1e-4]
    made = wcs.to_header()
    made["TRIMSEC"] = f"[1:{SIZE},1:{SIZE}]"
    made["BIASSEC"] = f"[{SIZE + 1}:{SIZE + OVERSCAN},1:{SIZE}]"
    return made


def frame(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    light = np.full((SIZE, SIZE), 150.0)
    for at_x, at_y in np.random.default_rng(7).uniform(12, SIZE - 12, (12, 2)):
        light += 2000.0 * np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / 4.5)
    data = np.full((SIZE, SIZE + OVERSCAN), 800.0) + rng.normal(0, 2, (SIZE, SIZE + OVERSCAN))
    data[:, :SIZE] += rng.poisson(light) / 2.0
    return data.astype(np.float32)


def table(names: list[str]) -> pd.DataFrame:
    rows = pd.DataFrame({"exposure_id": names, "path": [f"{name}.fits" for name in names]})
    return rows.assign(
        role="science", survey="s", instrument="i", detector="d", filter="r", mjd=59000.0, exptime=30.0, calibrated=False,
        gain=2.0, read_noise=4.0, saturation=50000.0, unit="electron",
    )  # fmt: skip


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """Three exposures, the second of which is a web page."""
    monkeypatch.chdir(tmp_path)
    raw = tmp_path / "data/raw"
    raw.mkdir(parents=True)
    for seed, name in enumerate(("a", "c")):
        fits.writeto(raw / f"{name}.fits", frame(seed), header())
    (raw / "b.fits").write_text("<html>not here</html>" * 300)
    write_table(table(["a", "b", "c"]), raw / "exposures.parquet", EXPOSURES)
    settings = yaml.safe_load((ROOT / "conf/imaging/default.yaml").read_text())
    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump({"imaging": settings, "compute": {"workers": 1, "memory_gb": 0, "retries": 2, "dask": None}})
    )
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_good_exposures_are_calibrated_and_broken_ones_set_aside(project):
    calibrate.main()
    made = read_table(project / "data/calibrated/exposures.parquet", EXPOSURES).set_index("exposure_id")
    assert made["status"].to_dict() == {"a": "ok", "b": "quarantined", "c": "ok"}
    assert "not a readable FITS file" in made.loc["b", "reason"]
    assert made.loc["a", ["path", "hdu", "unit", "bias_path"]].tolist() == ["a.fits", "SCI", "electron", ""]
    assert made.loc["a", "applied"] == "overscan, trim, gain, cosmics, sky (mesh)"
    assert made.loc["a", "sky"] == pytest.approx(150.0, abs=3)
    assert np.isnan(made.loc["b", "fwhm"])
    out = read_calibrated(project / "data/calibrated/a.fits")
    assert out.data.shape == (SIZE, SIZE)
    assert out.info.exposure_id == "a"
    summary = json.loads((project / "reports/calibrate.json").read_text())
    assert (summary["exposures"], summary["ok"], summary["quarantined"]) == (3, 2, 1)
    assert list(summary["reasons"]) == ["b"]
    assert not (project / "data/calibrated/b.fits").exists()


def test_pixels_on_record_as_full_before_are_carried_and_counted(project):
    wake = np.zeros((SIZE, SIZE), np.uint8)
    wake[40:43, 50] = 1
    flags = fits.ImageHDU(wake, name="DQ")
    flags.header["DQBIT0"] = "PERSISTENCE"
    fits.append(project / "data/raw/c.fits", flags.data, flags.header)
    calibrate.main()
    out = read_calibrated(project / "data/calibrated/c.fits")
    assert np.argwhere(out.dq & np.uint32(DQ.PERSISTENCE)).tolist() == [[40, 50], [41, 50], [42, 50]]
    assert json.loads((project / "reports/calibrate.json").read_text())["noted"] == {"crosstalk": 0, "persistence": 1}


def test_running_again_does_nothing_and_a_killed_run_ends_the_same(project, monkeypatch):
    calibrate.main()
    before = contents(project / "data/calibrated")
    report = (project / "reports/calibrate.json").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(calibrate, "_calibrate_one", lambda job: pytest.fail(f"{job.key} was done again"))
        calibrate.main()
    assert contents(project / "data/calibrated") == before
    (project / "data/calibrated/c.fits").unlink()
    (project / "data/calibrated/exposures.parquet").unlink()
    calibrate.main()
    assert contents(project / "data/calibrated") == before
    assert (project / "reports/calibrate.json").read_bytes() == report


def test_a_changed_file_is_done_again_and_a_vanished_row_leaves_nothing(project):
    calibrate.main()
    before = contents(project / "data/calibrated")
    fits.writeto(project / "data/raw/c.fits", frame(9), header(), overwrite=True)
    write_table(table(["b", "c"]), project / "data/raw/exposures.parquet", EXPOSURES)
    calibrate.main()
    after = contents(project / "data/calibrated")
    assert after["c.fits"] != before["c.fits"]
    assert set(after) == {"b.fits.json", "c.fits", "c.fits.json", "exposures.parquet"}


def test_a_mended_file_leaves_quarantine(project):
    calibrate.main()
    fits.writeto(project / "data/raw/b.fits", frame(5), header(), overwrite=True)
    calibrate.main()
    assert set(read_table(project / "data/calibrated/exposures.parquet", EXPOSURES)["status"]) == {"ok"}


def test_no_good_exposure_at_all_is_an_error_that_quotes_the_first(project):
    write_table(table(["b"]), project / "data/raw/exposures.parquet", EXPOSURES)
    with pytest.raises(ImagingError, match=r"none of the 1 exposures could be calibrated.*not a readable FITS"):
        calibrate.main()
    assert (project / "data/calibrated/exposures.parquet").exists()


@pytest.mark.parametrize(("names", "message"), [(["a", "a"], "'a' more than once"), (["../a"], "cannot be a file name")])
def test_impossible_names_are_refused(project, names, message):
    write_table(table(names), project / "data/raw/exposures.parquet", EXPOSURES)
    with pytest.raises(InputError, match=message):
        calibrate.main()

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from astropy.io import fits

from astrid.commands.exposure import load, split_extension
from astrid.commands.inject import inject
from astrid.config.schema.calibrate import CalibrateConfig
from astrid.config.validate import validate
from support import missions as made


@pytest.fixture(scope="module")
def config() -> CalibrateConfig:
    values = yaml.safe_load((Path(__file__).parents[3] / "conf/imaging/default.yaml").read_text())["calibrate"]
    return validate(CalibrateConfig, values, path="imaging.calibrate")


def test_a_name_may_ask_for_an_extension(tmp_path: Path, config: CalibrateConfig) -> None:
    assert split_extension(Path("a.fits[2]")) == (Path("a.fits"), "2")
    assert split_extension(Path("b/a.fits[SCI]")) == (Path("b/a.fits"), "SCI")
    odd = tmp_path / "a[1]"
    odd.touch()
    assert split_extension(odd) == (odd, "")
    path = made.uvot(tmp_path)
    third = load(Path(f"{path}[3]"), config, role="science")
    assert (third.info.exptime, third.info.exposure_id) == (300.0, "sw00032081001uw1_sk-3")
    longest = load(path, config, role="science")
    assert (longest.info.exptime, longest.info.survey, longest.info.instrument) == (600.0, "swift", "uvot")
    assert longest.meta["coincidence"] == "not corrected"
    assert longest.meta["header_applied"] == "attitude, distortion"


def test_sources_are_injected_into_a_missions_product(tmp_path: Path, config: CalibrateConfig) -> None:
    path = made.tess(tmp_path)
    out, truth = tmp_path / "out.fits", tmp_path / "truth.parquet"
    inject(path, out, truth, calibrate=config, number=5, snr=(20.0, 40.0), seed=1)
    assert len(pd.read_parquet(truth)) == 5
    assert load(out, config, role="science").gain == pytest.approx(0.0165 * 86400)


def test_a_raw_frame_of_several_amplifiers_is_reduced(tmp_path: Path, config: CalibrateConfig) -> None:
    rng = np.random.default_rng(2)
    light = rng.poisson(400.0 + made.stars(3e4)).astype(float)
    half = made.SIZE // 2
    frame = np.zeros((made.SIZE, made.SIZE + 20))
    for index, (columns, over) in enumerate(((slice(10, 10 + half), slice(0, 10)), (slice(10 + half, 10 + 2 * half), slice(-10, None)))):
        gain, level = (4.0, 4.4)[index], (1000.0, 1300.0)[index]
        frame[:, columns] = (light[:, index * half : (index + 1) * half] + rng.normal(0, 6, (made.SIZE, half))) / gain + level
        frame[:, over] = level + rng.normal(0, 6 / gain, (made.SIZE, 10))
    size = made.SIZE
    cards = {
        "DATASECA": f"[11:{10 + half},1:{size}]", "BIASSECA": f"[1:10,1:{size}]", "GAINA": 4.0, "RDNOISEA": 6.0, "SATURATA": 4e4,
        "DATASECB": f"[{11 + half}:{10 + size},1:{size}]", "BIASSECB": f"[{11 + size}:{20 + size},1:{size}]", "GAINB": 4.4, "RDNOISEB": 6.0,
        "INSTRUME": "cam", "FILTER": "r", "MJD-OBS": 59000.0, "EXPTIME": 60.0,
    }  # fmt: skip
    hdu = made.image_hdu(frame.astype(np.float32), fits.PrimaryHDU, **cards)
    hdu.header["CRPIX1"] = made.SIZE / 2 + 10
    out = load(made.save(tmp_path / "raw.fits", hdu), config, role="science")
    assert out.data.shape == (made.SIZE, made.SIZE)
    assert out.info.unit == "electron"
    assert out.sky == pytest.approx(400.0, rel=0.01)
    assert out.meta["noise_ratio"] == pytest.approx(1.0, abs=0.03)
    assert "2 amplifiers" in out.meta["applied"]
    assert out.wcs.all_world2pix([[150.0, 2.0]], 0)[0] == pytest.approx([made.SIZE / 2 - 1, made.SIZE / 2 - 1])

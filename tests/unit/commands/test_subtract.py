from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from astropy.io import fits
from astropy.wcs import WCS
from click.testing import CliRunner

from astrid.cli import cli
from astrid.commands.exposure import PairCompanions, load, load_pair
from astrid.commands.inject import inject
from astrid.commands.subtract import subtract
from astrid.config.schema.imaging import ImagingConfig
from astrid.config.validate import validate
from astrid.core.errors import ImagingError, InputError
from astrid.io.fits import read_difference, write_calibrated

SIZE = 140


@pytest.fixture(scope="module")
def imaging() -> ImagingConfig:
    values = yaml.safe_load((Path(__file__).parents[3] / "conf/imaging/default.yaml").read_text())
    return validate(ImagingConfig, values, path="imaging")


def write(path: Path, seed: int, **cards: Any) -> Path:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    light = np.full((SIZE, SIZE), 80.0)
    places = np.random.default_rng(1)
    for at_x, at_y, flux in zip(*places.uniform(14, SIZE - 14, (2, 22)), places.uniform(500, 5000, 22), strict=True):
        light += flux * np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / 4.5)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crpix = [70.0, 70.0]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.cdelt = [-1e-4, 1e-4]
    header = wcs.to_header()
    header.update({"TELESCOP": "T1", "INSTRUME": "CAM", "FILTER": "r", "EXPTIME": 60.0, "DATE-OBS": "2020-01-01T00:00:00", "GAIN": 1.0})
    header.update(cards)
    fits.writeto(path, rng.poisson(light).astype(np.float32), header)
    return path


@pytest.fixture
def pair(tmp_path) -> tuple[Path, Path]:
    return write(tmp_path / "new.fits", 1), write(tmp_path / "old.fits", 2)


def test_a_pair_becomes_a_product_a_table_and_a_picture(tmp_path, pair, imaging, capsys):
    out, picture = tmp_path / "d.fits", tmp_path / "d.png"
    subtract(*pair, out, calibrate=imaging.calibrate, difference=imaging.difference, picture=picture)
    product = read_difference(out)
    assert (product.info.exposure_id, product.reference_info.role) == ("new", "reference")
    assert product.info.mjd == pytest.approx(58849.0 + 30 / 86400)
    assert picture.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "registration" in printed
    assert "seconds" in printed


def test_an_injected_image_is_taken_as_it_is_and_its_sources_come_back(tmp_path, pair, imaging):
    inject(pair[0], tmp_path / "i.fits", tmp_path / "t.parquet", calibrate=imaging.calibrate, number=5, snr=(20.0, 40.0), seed=3)
    subtract(tmp_path / "i.fits", pair[1], tmp_path / "d.fits", calibrate=imaging.calibrate, difference=imaging.difference)
    truth, product = pd.read_parquet(tmp_path / "t.parquet"), read_difference(tmp_path / "d.fits")
    at = truth["y"].round().astype(int), truth["x"].round().astype(int)
    assert np.median(product.flux[at] / truth["flux"]) == pytest.approx(1.0, abs=0.15)
    assert (product.score[at] > 8).all()


def test_injecting_again_with_one_seed_gives_the_same_bytes(tmp_path, pair, imaging):
    for name in "ab":
        inject(pair[0], tmp_path / f"{name}.fits", tmp_path / "t.parquet", calibrate=imaging.calibrate, number=3, snr=(9, 20), seed=3)
    assert (tmp_path / "a.fits").read_bytes() == (tmp_path / "b.fits").read_bytes()


def test_impossible_injections_are_refused(tmp_path, pair, imaging):
    with pytest.raises(ImagingError, match=r"has room for \d+ sources"):
        inject(pair[0], tmp_path / "i.fits", tmp_path / "t", calibrate=imaging.calibrate, number=500, snr=(9, 20), seed=3)
    with pytest.raises(InputError, match="range of S/N 9 to 2"):
        inject(pair[0], tmp_path / "i.fits", tmp_path / "t", calibrate=imaging.calibrate, number=5, snr=(9, 2), seed=3)
    unknown = write(tmp_path / "u.fits", 3, BUNIT="MJy/sr")
    with pytest.raises(ImagingError, match="its gain is unknown"):
        inject(unknown, tmp_path / "i.fits", tmp_path / "t", calibrate=imaging.calibrate, number=5, snr=(9, 20), seed=3)
    write_calibrated(tmp_path / "bare.fits", dataclasses.replace(load(pair[0], imaging.calibrate, role="science"), psf=None))
    with pytest.raises(ImagingError, match="has no PSF, which the sources need; give --psf"):
        inject(tmp_path / "bare.fits", tmp_path / "i.fits", tmp_path / "t", calibrate=imaging.calibrate, number=5, snr=(9, 20), seed=3)
    assert not (tmp_path / "i.fits").exists()


@pytest.mark.parametrize(
    ("cards", "message"),
    [({"INSTRUME": "OTHER"}, "differ in instrument"), ({"CRVAL1": 151.0}, "choose another reference"), ({"DATE-OBS": "soon"}, "'soon'")],
)
def test_a_wrong_pair_is_one_sentence_and_no_product(tmp_path, pair, imaging, cards, message):
    other = write(tmp_path / "other.fits", 5, **cards)
    with pytest.raises((ImagingError, InputError), match=message):
        subtract(pair[0], other, tmp_path / "d.fits", calibrate=imaging.calibrate, difference=imaging.difference)
    assert not (tmp_path / "d.fits").exists()


def test_paths_are_checked_first(tmp_path, pair, imaging):
    settings = {"calibrate": imaging.calibrate, "difference": imaging.difference}
    with pytest.raises(InputError, match="are the same file"):
        subtract(pair[0], pair[0], tmp_path / "d.fits", **settings)
    with pytest.raises(InputError, match="is the input"):
        subtract(*pair, pair[1], **settings)
    with pytest.raises(InputError, match="is a folder"):
        subtract(tmp_path, pair[1], tmp_path / "d.fits", **settings)
    with pytest.raises(InputError, match="does not exist"):
        subtract(tmp_path / "none.fits", pair[1], tmp_path / "d.fits", **settings)


def test_companions_belong_to_their_own_side(tmp_path, pair, imaging):
    noise, mask = tmp_path / "noise.fits", tmp_path / "mask.fits"
    fits.writeto(noise, np.full((SIZE, SIZE), 11.0, np.float32))
    bad = np.zeros((SIZE, SIZE), np.uint8)
    bad[20:24, 30:34] = 1
    fits.writeto(mask, bad)
    science, reference = load_pair(*pair, imaging.calibrate, PairCompanions(science_noise=noise, reference_mask=mask))
    plain = load_pair(*pair, imaging.calibrate, PairCompanions())
    assert np.median(science.variance) == pytest.approx(121.0, rel=0.05)
    assert np.median(plain[0].variance) < 100
    assert np.median(reference.variance) == pytest.approx(np.median(plain[1].variance), rel=0.05)
    masked = [(image.dq[20:24, 30:34] != 0).all() for image in (science, reference, plain[1])]
    assert masked == [False, True, False]


@pytest.mark.parametrize(("verb", "module"), [("subtract", "subtract"), ("inject-pair", "inject_pair")])
def test_both_verbs_take_the_companions(verb, module, monkeypatch):
    given = {}
    monkeypatch.setattr(f"astrid.commands.{module}.{module}", lambda *_, companions, **__: given.update(vars(companions)))
    names = ("science_psf", "reference_psf", "science_noise", "reference_noise", "science_mask", "reference_mask")
    options = [word for name in names for word in (f"--{name.replace('_', '-')}", f"{name}.fits")]
    result = CliRunner().invoke(cli, [verb, "a.fits", "b.fits", "-o", "out", *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert given == {name: Path(f"{name}.fits") for name in names}
    assert PairCompanions(**given).files == tuple(given.values())


def test_a_frame_with_an_overscan_is_raw_and_an_error_names_its_file(tmp_path, imaging):
    raw = write(tmp_path / "raw.fits", 7, BIASSEC="[131:140,1:140]", TRIMSEC="[1:130,1:140]", RDNOISE=3.0)
    assert load(raw, imaging.calibrate, role="science").data.shape == (140, 130)
    wrong = write(tmp_path / "wrong.fits", 7, BIASSEC="[131:140,1:140]", GAIN=-1.0, RDNOISE=3.0)
    with pytest.raises(ImagingError, match=r"wrong.fits: the gain of a raw exposure must be positive"):
        load(wrong, imaging.calibrate, role="science")

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from astrid.core.dq import DQ
from astrid.core.errors import InputError
from astrid.core.records import Calibrated, Difference, ExposureInfo, PixelMap, Psf
from astrid.io.fits import (
    celestial_wcs,
    is_calibrated_product,
    read_calibrated,
    read_difference,
    read_frames,
    read_image,
    read_plane,
    write_calibrated,
    write_difference,
)

SHAPE = (40, 52)
INFO = ExposureInfo("e1", "test", "cam", "d1", "r", 59759.41449846442, 30.0, field_id="f7")


def tan_header() -> fits.Header:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crpix = [20.3, 19.1]
    wcs.wcs.crval = [150.123456789, -2.0]
    wcs.wcs.cd = np.array([[-1.1e-4, 3e-6], [2e-6, 1.1e-4]])
    return wcs.to_header()


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 9, SHAPE).astype(np.float32)


def psf(side: int = 9) -> Psf:
    stamp = np.random.default_rng(side).random((side, side))
    return Psf((stamp / stamp.sum()).astype(np.float32), "empirical", 12, 2.5, 0.01)


@pytest.fixture
def calibrated() -> Calibrated:
    dq = np.zeros(SHAPE, np.uint32)
    dq[3, 4] = int(DQ.COSMIC_RAY | DQ.SUSPECT)
    meta = {"applied": "overscan, bias", "n_hot": np.int64(3), "odd": float("nan"), "fine": True, "level": 0.1234567890123}
    return Calibrated(noise(1), noise(2) ** 2, dq, WCS(tan_header()), INFO, psf(), 12.5, float("nan"), 2.25, meta)


@pytest.fixture
def difference(calibrated: Calibrated) -> Difference:
    planes = {name: noise(index) for index, name in enumerate(("science", "reference", "difference", "score", "flux", "flux_err"))}
    planes["reference"][:5] = np.nan
    truth = np.zeros(SHAPE, np.uint32)
    truth[7, 8] = 1
    return Difference(
        **planes,
        dq=calibrated.dq,
        psf_science=psf(),
        psf_reference=psf(11),
        psf_difference=psf(13),
        wcs=calibrated.wcs,
        info=INFO,
        reference_info=replace(INFO, exposure_id="r1", role="reference", mjd=59000.0),
        quality={"q_overlap": 0.75, "q_flux_scatter": float("nan"), "q_reasons": ""},
        truth=truth,
        to_reference=PixelMap(np.random.default_rng(5).uniform(0, 40, (2, 3, 2)), SHAPE),
    )


def write_image(path: Path, data: np.ndarray, header: fits.Header | None = None) -> Path:
    fits.writeto(path, data, header if header is not None else tan_header(), overwrite=True)
    return path


def same_sky(first: WCS, second: WCS) -> float:
    at = np.random.default_rng(0).uniform(0, 40, (20, 2))
    return float(np.abs(first.all_pix2world(at, 0) - second.all_pix2world(at, 0)).max() * 3600)


def test_calibrated_round_trip(tmp_path, calibrated):
    path = tmp_path / "deep" / "c.fits"
    write_calibrated(path, calibrated)
    back = read_calibrated(path)
    for name in ("data", "variance", "dq"):
        array = getattr(back, name)
        np.testing.assert_array_equal(array, getattr(calibrated, name))
        assert array.dtype.isnative
    assert (back.data.dtype, back.dq.dtype) == (np.float32, np.uint32)
    assert back.info == INFO
    assert (back.sky, back.gain) == (12.5, 2.25)
    assert np.isnan(back.sky_rms)
    assert np.isnan(back.meta["odd"])
    assert {key: value for key, value in back.meta.items() if key != "odd"} == {
        key: value for key, value in calibrated.meta.items() if key != "odd"
    }
    np.testing.assert_array_equal(back.psf.stamp, calibrated.psf.stamp)
    assert (back.psf.method, back.psf.n_stars, back.psf.fwhm) == ("empirical", 12, 2.5)
    assert same_sky(back.wcs, calibrated.wcs) < 1e-6


def test_unknown_gain_is_infinite_and_a_missing_psf_stays_missing(tmp_path, calibrated):
    path = tmp_path / "c.fits"
    write_calibrated(path, replace(calibrated, gain=float("inf"), psf=None, info=replace(INFO, mjd=float("nan"))))
    back = read_calibrated(path)
    assert back.gain == float("inf")
    assert back.psf is None
    assert np.isnan(back.info.mjd)


def test_difference_round_trip_is_lossless(tmp_path, difference):
    path = tmp_path / "d.fits"
    write_difference(path, difference)
    back = read_difference(path)
    for name in ("science", "reference", "difference", "score", "flux", "flux_err", "dq", "truth"):
        np.testing.assert_array_equal(getattr(back, name), getattr(difference, name))
        assert getattr(back, name).dtype.isnative
    for name in ("psf_science", "psf_reference", "psf_difference"):
        np.testing.assert_array_equal(getattr(back, name).stamp, getattr(difference, name).stamp)
    assert (back.info, back.reference_info) == (difference.info, difference.reference_info)
    assert back.quality["q_overlap"] == 0.75
    assert np.isnan(back.quality["q_flux_scatter"])
    assert back.quality["q_reasons"] == ""
    np.testing.assert_array_equal(back.to_reference.nodes, difference.to_reference.nodes)
    assert back.to_reference.shape == SHAPE
    write_difference(path, replace(difference, truth=None, to_reference=None))
    assert read_difference(path).truth is None
    assert read_difference(path).to_reference is None


def test_equal_content_is_equal_bytes_at_any_time(tmp_path, calibrated, difference, monkeypatch):
    for name, write, product in (("c", write_calibrated, calibrated), ("d", write_difference, difference)):
        with monkeypatch.context() as patched:
            patched.setattr("time.time", lambda: 86400.0)
            write(tmp_path / f"{name}1.fits", product)
        write(tmp_path / f"{name}2.fits", product)
        assert (tmp_path / f"{name}1.fits").read_bytes() == (tmp_path / f"{name}2.fits").read_bytes()


def test_headers_name_bits_and_carry_identity_wcs_and_history(tmp_path, calibrated, difference):
    write_calibrated(tmp_path / "c.fits", calibrated)
    write_difference(tmp_path / "d.fits", difference)
    with fits.open(tmp_path / "c.fits", checksum=True) as hdus:
        assert "overscan" in str(hdus[0].header["HISTORY"])
        assert hdus["DQ"].header[f"DQBIT{DQ.COSMIC_RAY.bit_length() - 1}"] == "COSMIC_RAY"
        assert hdus["DQ"].header[f"DQBIT{DQ.PERSISTENCE.bit_length() - 1}"] == "PERSISTENCE"
        assert hdus["VAR"].header["BUNIT"] == "(electron)**2"
        for name in ("SCI", "VAR", "DQ"):
            assert WCS(hdus[name].header).has_celestial
    with fits.open(tmp_path / "d.fits", checksum=True) as hdus:
        assert (hdus["REFERENCE"].header["EXPID"], hdus["SCORE"].header["EXPID"]) == ("r1", "e1")
        assert hdus["SCORE"].header["BUNIT"] == "sigma"
        assert hdus["TRUTH"].header["CTYPE1"] == "RA---TAN"


def test_a_flipped_bit_is_named_by_its_hdu(tmp_path, difference):
    path = tmp_path / "d.fits"
    write_difference(path, difference)
    content = bytearray(path.read_bytes())
    with fits.open(path, disable_image_compression=True) as hdus:
        spot = hdus["SCORE"].fileinfo()["datLoc"] + 999
    content[spot] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"checksum of HDU 4 \(SCORE\)"):
        read_difference(path)


def test_a_truncated_product_and_a_foreign_one_are_refused(tmp_path, calibrated, difference):
    path = tmp_path / "d.fits"
    write_difference(path, difference)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="truncated"):
        read_difference(path)
    write_calibrated(path, calibrated)
    with pytest.raises(InputError, match="not a difference product"):
        read_difference(path)
    with pytest.raises(InputError, match="does not exist"):
        read_calibrated(tmp_path / "none.fits")


def test_nothing_is_left_behind_when_writing_fails(tmp_path, calibrated):
    broken = replace(calibrated, meta={"x": object()})
    with pytest.raises(ValueError, match="Illegal value"):
        write_calibrated(tmp_path / "c.fits", broken)
    assert list(tmp_path.iterdir()) == []


def test_images_of_every_wrapping_give_the_same_pixels(tmp_path):
    data = noise(5)
    plain = write_image(tmp_path / "a.fits", data)
    (tmp_path / "a.fits.gz").write_bytes(gzip.compress(plain.read_bytes()))
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(data, tan_header(), compression_type="GZIP_2", quantize_level=0.0)]).writeto(
        tmp_path / "a.fits.fz"
    )
    for name in ("a.fits", "a.fits.gz", "a.fits.fz"):
        back, header = read_image(tmp_path / name)
        np.testing.assert_array_equal(back, data)
        assert back.dtype.isnative
        assert celestial_wcs(header, source=name).has_celestial


def test_the_first_image_or_the_named_one_is_taken_with_the_primary_cards(tmp_path):
    primary = fits.PrimaryHDU()
    primary.header["INSTRUME"] = "UVOT"
    primary.header["CRVAL1"] = 1.0
    hdus = [primary, fits.ImageHDU(noise(1), tan_header(), "S1"), fits.ImageHDU(noise(2)[None], tan_header(), "S2")]
    path = tmp_path / "m.fits"
    fits.HDUList(hdus).writeto(path)
    data, header = read_image(path)
    np.testing.assert_array_equal(data, noise(1))
    assert (header["INSTRUME"], header["CRVAL1"]) == ("UVOT", tan_header()["CRVAL1"])
    for name in ("2", "S2"):
        np.testing.assert_array_equal(read_image(path, name)[0], noise(2))
    with pytest.raises(InputError, match=r"no extension 'S9'; it has 0:PRIMARY, 1:S1, 2:S2"):
        read_image(path, "S9")
    with pytest.raises(InputError, match=r"extension '0' of .* holds no image"):
        read_image(path, "0")


def test_unreadable_images_say_why(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_image(tmp_path / "none.fits")
    (tmp_path / "page.fits").write_text("<html><body>404 not found</body></html>" * 200)
    with pytest.raises(InputError, match="not a readable FITS file"):
        read_image(tmp_path / "page.fits")
    (tmp_path / "empty.fits").write_bytes(b"")
    with pytest.raises(InputError, match="not a readable FITS file"):
        read_image(tmp_path / "empty.fits")
    whole = write_image(tmp_path / "w.fits", np.random.default_rng(0).normal(size=(200, 200)).astype("f4")).read_bytes()
    (tmp_path / "half.fits").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="truncated"):
        read_image(tmp_path / "half.fits")
    (tmp_path / "half.fits.gz").write_bytes(gzip.compress(whole)[:60000])
    with pytest.raises(InputError, match=r"not a readable FITS file|truncated"):
        read_image(tmp_path / "half.fits.gz")
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns([fits.Column("a", "E", array=[1.0])])]).writeto(tmp_path / "t.fits")
    with pytest.raises(InputError, match="holds no image in its 2 extensions"):
        read_image(tmp_path / "t.fits")
    with pytest.raises(InputError, match="no finite pixel"):
        read_image(write_image(tmp_path / "nan.fits", np.full(SHAPE, np.nan, "f4")))
    with pytest.raises(InputError, match="the one value 7 "):
        read_image(write_image(tmp_path / "flat.fits", np.full(SHAPE, 7, "f4")))
    with pytest.raises(InputError, match="array of 5 x 4 x 3 where an image of two axes"):
        read_image(write_image(tmp_path / "cube.fits", np.arange(60, dtype="f4").reshape(3, 4, 5), fits.Header()))


def test_missing_and_broken_wcs_say_so(tmp_path):
    with pytest.raises(InputError, match="has no celestial WCS"):
        read_frames(write_image(tmp_path / "a.fits", noise(1), fits.Header()))
    header = tan_header()
    header["CTYPE2"] = "RA---TAN"
    with pytest.raises(InputError, match="WCS"):
        read_frames(write_image(tmp_path / "b.fits", noise(1), header))


def test_tpv_coordinates_survive_a_product(tmp_path, calibrated):
    header = tan_header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TPV", "DEC--TPV"
    for axis in (1, 2):
        header[f"PV{axis}_1"], header[f"PV{axis}_4"], header[f"PV{axis}_7"] = 1.01, -0.3, 2.0
    wcs = read_frames(write_image(tmp_path / "t.fits", noise(1), header)).wcs
    assert same_sky(wcs, WCS(tan_header())) > 0.01
    write_calibrated(tmp_path / "c.fits", replace(calibrated, wcs=wcs))
    assert same_sky(read_calibrated(tmp_path / "c.fits").wcs, wcs) < 1e-6


def test_companions_are_checked_for_shape_and_content(tmp_path):
    image = write_image(tmp_path / "a.fits", noise(1))
    mask = np.zeros(SHAPE, np.int16)
    mask[2, 3] = 4
    frames = read_frames(image, mask=write_image(tmp_path / "m.fits", mask), noise=write_image(tmp_path / "n.fits", np.ones(SHAPE, "f4")))
    assert frames.mask.sum() == 1
    assert frames.mask[2, 3]
    with pytest.raises(InputError, match=r"the noise image .* has 5 x 4 pixels but its image has 52 x 40"):
        read_frames(image, noise=write_image(tmp_path / "s.fits", np.ones((4, 5), "f4")))
    with pytest.raises(InputError, match=r"the PSF .* holds no finite value"):
        read_plane(write_image(tmp_path / "p.fits", np.full((5, 5), np.nan, "f4")), what="PSF")
    with pytest.raises(InputError, match="does not exist"):
        read_frames(image, psf=tmp_path / "none.fits")


def test_products_are_told_from_other_files(tmp_path, calibrated):
    write_calibrated(tmp_path / "c.fits", calibrated)
    assert is_calibrated_product(tmp_path / "c.fits")
    assert not is_calibrated_product(write_image(tmp_path / "a.fits", noise(1)))
    assert not is_calibrated_product(tmp_path / "none.fits")

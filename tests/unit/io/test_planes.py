import numpy as np
import pytest
from astropy.io import fits as pyfits
from astropy.wcs import WCS

from astrid.core.records import Calibrated, ExposureInfo, Psf
from astrid.io import checked, fits, planes
from astrid.io.planes import DiskPlane, scratch_beside


@pytest.fixture
def small_is_large(monkeypatch):
    """Every plane above 32 x 32 pixels is treated as a large one."""
    for module in (planes, fits):
        monkeypatch.setattr(module, "LARGE", 32 * 32)
    monkeypatch.setattr(checked, "_BAND_PX", 1000)


def test_small_planes_lie_in_memory_and_large_ones_on_disk(tmp_path, small_is_large):
    with scratch_beside(tmp_path / "out.fits") as scratch:
        assert isinstance(scratch((8, 8), np.float32), np.ndarray)
        plane = scratch((40, 50), np.uint32)
        assert isinstance(plane, DiskPlane)
        assert (plane.shape, plane.dtype, plane.ndim, plane.size, len(plane)) == ((40, 50), np.uint32, 2, 2000, 40)
        assert not np.asarray(plane).any()
        plane[3:5, 10:12] = [[1, 2], [3, 4]]
        assert plane[4, 10:12].tolist() == [3, 4]
        assert np.asarray(plane).sum() == 10
        window = plane[3:5, 10:12]
        window[...] = 9  # a window is a copy
        assert np.asarray(plane).sum() == 10
    assert list(tmp_path.iterdir()) == []


def test_scratch_files_are_gone_after_a_failure(tmp_path, small_is_large):
    def fail():
        with scratch_beside(tmp_path / "out.fits") as scratch:
            scratch((40, 50), np.float32)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def _exposure(scratch, shape=(48, 64)):
    rng = np.random.default_rng(1)
    data, variance, dq = scratch(shape, np.float32), scratch(shape, np.float32), scratch(shape, np.uint32)
    data[:, :] = rng.normal(size=shape).astype(np.float32)
    variance[:, :] = np.float32(2)
    dq[:, :] = rng.integers(0, 2**32, shape, dtype=np.uint32)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.cdelt, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [10.0, 20.0], [-1e-4, 1e-4], [24.0, 32.0]
    terms = rng.normal(size=(5, 5, 5)).astype(np.float32)
    psf = Psf(np.full((5, 5), 0.04, np.float32), "empirical", 12, 2.5, 0.001, terms, (31.5, 23.5, 32.0), (0.1, float("nan"), 0.2, 0.3))
    sources = np.zeros(3, [("x", "f8"), ("flags", "u4"), ("good", "?")])
    sources["x"], sources["flags"], sources["good"] = [1.5, 2.5, 3.5], [0, 2**31, 7], [True, False, True]
    info = ExposureInfo("e1", "survey", "cam", "d1", "r", 59000.5, 30.0)
    return Calibrated(data, variance, dq, wcs, info, psf, 3.0, 1.0, 1.5, {"applied": "sky"}, sources)


def test_a_large_exposure_comes_back_as_windows_of_its_file(tmp_path, small_is_large):
    path = tmp_path / "large.fits"
    with scratch_beside(path) as scratch:
        exposure = _exposure(scratch)
        fits.write_calibrated(path, exposure)
        back = fits.read_calibrated(path)
        assert all(isinstance(plane, DiskPlane) for plane in (back.data, back.variance, back.dq))
        np.testing.assert_array_equal(back.data[5:9, 60:64], exposure.data[5:9, 60:64])
        np.testing.assert_array_equal(np.asarray(back.dq), np.asarray(exposure.dq))
        assert back.data[0:1, 0:1].dtype == np.float32
        assert back.dq[0:1, 0:1].dtype == np.uint32
        assert (np.asarray(back.variance) == 2).all()
    with pytest.raises(TypeError, match="read only"):
        back.dq[0:1, 0:1] = 1
    with pyfits.open(path, checksum=True) as hdus:
        assert hdus["DQ"].data.dtype == np.uint32
        assert hdus["SCI"].header["EXPID"] == "e1"
    assert [entry.name for entry in tmp_path.iterdir()] == ["large.fits"]


def test_the_same_large_exposure_gives_the_same_bytes(tmp_path, small_is_large):
    with scratch_beside(tmp_path / "a.fits") as scratch:
        exposure = _exposure(scratch)
        fits.write_calibrated(tmp_path / "a.fits", exposure)
        fits.write_calibrated(tmp_path / "b.fits", exposure)
    assert (tmp_path / "a.fits").read_bytes() == (tmp_path / "b.fits").read_bytes()


def test_a_flipped_bit_in_a_large_plane_is_noticed(tmp_path, small_is_large):
    path = tmp_path / "large.fits"
    with scratch_beside(path) as scratch:
        fits.write_calibrated(path, _exposure(scratch))
    offset = fits.read_calibrated(path).variance.offset
    content = bytearray(path.read_bytes())
    content[offset + 77] ^= 1
    path.write_bytes(content)
    with pytest.raises(fits.InputError, match="checksum of HDU 2"):
        fits.read_calibrated(path)


def test_a_varying_psf_and_the_sources_survive_a_product(tmp_path):
    path = tmp_path / "small.fits"
    with scratch_beside(path) as scratch:
        exposure = _exposure(scratch)
        fits.write_calibrated(path, exposure)
    back = fits.read_calibrated(path)
    assert isinstance(back.data, np.ndarray)
    np.testing.assert_array_equal(back.psf.terms, exposure.psf.terms)
    assert back.psf.frame == (31.5, 23.5, 32.0)
    np.testing.assert_array_equal(back.psf.quadrants, exposure.psf.quadrants)
    np.testing.assert_allclose(back.psf.at(50.0, 3.0).stamp, exposure.psf.at(50.0, 3.0).stamp)
    for name in exposure.sources.dtype.names:
        np.testing.assert_array_equal(back.sources[name], exposure.sources[name])
    assert back.sources.dtype == exposure.sources.dtype

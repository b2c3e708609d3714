from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from astrid.core.errors import ImagingError
from astrid.imaging.psf import gaussian_psf
from astrid.imaging.zogy import Side, padded_shape, stamp_transform, subtract


def _side(shape=(50, 60), sigma=1.0):
    data = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return Side(data, np.ones(shape, np.float32), gaussian_psf(3.0, 7).stamp, sigma)


def test_padding_reaches_and_is_even():
    shape = padded_shape((101, 203), 31)
    assert shape[0] >= 132
    assert shape[1] >= 234
    assert all(length % 2 == 0 for length in shape)


def test_a_stamp_transform_is_that_of_the_padded_stamp():
    stamp = np.random.default_rng(1).normal(size=(7, 7))
    plane = np.zeros((40, 48))
    plane[:7, :7] = stamp
    expected = np.fft.rfft2(np.roll(plane, (-3, -3), axis=(0, 1)))
    np.testing.assert_allclose(stamp_transform(stamp, (40, 48)), expected, atol=1e-5)


def test_a_unit_source_has_its_flux_and_psf():
    new, ref = _side((64, 64)), _side((64, 64))
    psf = gaussian_psf(3.0, 7).stamp
    data = np.zeros((64, 64), np.float32)
    data[25:40, 23:38] = 100 * psf
    zero = dataclasses.replace(ref, data=np.zeros((64, 64), np.float32))
    result = subtract(dataclasses.replace(new, data=data), zero)
    assert result.flux[32, 30] == pytest.approx(100, rel=1e-4)
    assert (result.difference / result.flux_difference).sum() == pytest.approx(100, rel=1e-3)
    assert result.psf.sum() == pytest.approx(1, abs=1e-5)


def test_the_photometric_term_holds_down_bright_scenes():
    psf = gaussian_psf(3.0, 7).stamp
    data = np.zeros((64, 64), np.float32)
    data[25:40, 23:38] = 1e5 * psf
    new, ref = (dataclasses.replace(_side((64, 64)), data=data * np.float32(f)) for f in (1.01, 1.0))
    assert np.abs(subtract(new, ref).score).max() > 50
    held = [dataclasses.replace(side, photometry=0.01) for side in (new, ref)]
    assert np.abs(subtract(*held).score).max() < 2


def test_impossible_input_is_refused():
    side = _side()
    with pytest.raises(ImagingError, match="bring them onto one grid"):
        subtract(side, _side((50, 61)))
    with pytest.raises(ImagingError, match="both must be positive"):
        subtract(side, _side(sigma=0.0))
    broken = side.data.copy()
    broken[3, 3] = np.nan
    with pytest.raises(ImagingError, match="fill them before the transform"):
        subtract(dataclasses.replace(side, data=broken), side)

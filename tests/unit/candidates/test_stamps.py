import numpy as np
import pandas as pd
import pytest

from astrid.candidates.extract import find_candidates
from astrid.candidates.stamps import cut_stamps
from astrid.core.dq import DQ
from astrid.core.errors import DataSetError


def test_stamps_hold_the_three_planes_centred_on_the_nearest_pixel(scene):
    view = scene()
    view.reference += np.random.default_rng(9).normal(size=view.shape)
    product = view.build()
    stamps = cut_stamps(product, pd.DataFrame({"x": [100.4], "y": [79.6], "sign": [1]}))
    assert stamps.shape == (1, 3, 63, 63)
    assert stamps.dtype == np.float32
    window = (slice(80 - 31, 80 + 32), slice(100 - 31, 100 + 32))
    for plane, image in enumerate((product.science, product.reference, product.difference)):
        np.testing.assert_array_equal(stamps[0, plane], image[window])


def test_a_faded_source_is_positive_in_the_difference_stamp(scene, cfg):
    view = scene()
    view.add(100, 100, -40)
    product = view.build()
    stamps = cut_stamps(product, find_candidates(product, cfg, pair_id="s__r"))
    assert stamps[0, 2, 31, 31] > 0
    assert stamps[0, 0, 31, 31] == product.science[100, 100]


def test_unusable_pixels_are_nan_in_the_difference_and_seen_in_the_images(scene):
    view = scene()
    view.dq[100, 90:95] = DQ.COSMIC_RAY
    view.dq[101, 90] = DQ.INJECTED  # a note, not a fault
    stamps = cut_stamps(view.build(), pd.DataFrame({"x": [100.0], "y": [100.0], "sign": [1]}))
    assert np.isnan(stamps[0, 2]).sum() == 5
    assert np.isnan(stamps[0, 2, 31, 21:26]).all()
    assert np.isfinite(stamps[0, :2]).all()


def test_unmeasured_pixels_are_nan_in_all_three_and_never_zero(scene):
    view = scene()
    view.dq[100, 90] = DQ.NO_COVERAGE
    view.dq[100, 91] = DQ.NOT_FINITE
    view.science[100, 90:92] = 0.0
    view.science[110, 110] = np.nan
    stamps = cut_stamps(view.build(), pd.DataFrame({"x": [100.0], "y": [100.0], "sign": [1]}))
    assert np.isnan(stamps[0, :, 31, 21:23]).all()
    assert np.isnan(stamps[0, 0]).sum() == 3
    assert not (stamps[:, 0] == 0).any()


def test_what_leaves_the_image_is_nan(scene):
    stamps = cut_stamps(scene().build(), pd.DataFrame({"x": [0.0], "y": [255.0], "sign": [1]}))
    assert np.isnan(stamps[0, :, :, :31]).all()
    assert np.isnan(stamps[0, :, 32:, :]).all()
    assert np.isfinite(stamps[0, :, :32, 31:]).all()


def test_no_candidate_is_no_stamp(scene):
    assert cut_stamps(scene().build(), pd.DataFrame({"x": [], "y": [], "sign": []})).shape == (0, 3, 63, 63)


def test_an_even_size_is_refused(scene):
    with pytest.raises(DataSetError, match="a stamp of 64 px has no central pixel"):
        cut_stamps(scene().build(), pd.DataFrame({"x": [100.0], "y": [100.0], "sign": [1]}), size=64)


def test_a_position_of_another_image_is_refused(scene):
    with pytest.raises(DataSetError, match=r"candidate 0 at x = 900\.0, y = 10\.0 is not in the image of 256 x 256 px"):
        cut_stamps(scene().build(), pd.DataFrame({"x": [900.0], "y": [10.0], "sign": [1]}))


def test_a_view_may_be_as_large_as_the_image_and_is_nan_beyond(scene):
    product = scene().build()
    ny, nx = product.dq.shape
    size = 2 * max(ny, nx) - 1  # shows the whole image from any of its pixels
    row, column = 3, nx - 2
    stamps = cut_stamps(product, pd.DataFrame({"x": [float(column)], "y": [float(row)], "sign": [-1]}), size=size)
    assert stamps.shape == (1, 3, size, size)
    shown = (slice(size // 2 - row, size // 2 - row + ny), slice(size // 2 - column, size // 2 - column + nx))
    np.testing.assert_array_equal(stamps[0, 0][shown], product.science)
    np.testing.assert_array_equal(stamps[0, 2][shown], -product.difference)
    beyond = np.ones((size, size), dtype=bool)
    beyond[shown] = False
    assert np.isnan(stamps[0][:, beyond]).all()
    small = cut_stamps(product, pd.DataFrame({"x": [100.0], "y": [100.0], "sign": [1]}), size=5)
    np.testing.assert_array_equal(small[0, 1], product.reference[98:103, 98:103])


def test_a_view_beyond_every_pixel_is_refused(scene):
    with pytest.raises(DataSetError, match=r"a stamp of 2001 px is larger than the image of 256 x 256 px can fill; ask for 511 at most"):
        cut_stamps(scene().build(), pd.DataFrame({"x": [100.0], "y": [100.0], "sign": [1]}), size=2001)

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest

from astrid.config.schema.imaging import DifferenceConfig
from astrid.config.validate import validate
from astrid.core.dq import DQ
from astrid.core.errors import ImagingError, NoOverlapError
from astrid.imaging.pair import subtract_pair


def _config(values, **changes):
    values = copy.deepcopy(values)
    for path, value in changes.items():
        *folders, key = path.split("__")
        node = values
        for folder in folders:
            node = node[folder]
        node[key] = value
    return validate(DifferenceConfig, values)


@pytest.fixture(scope="module")
def sky(skies):
    return skies.make_pair(seed=21, shape=(200, 200), count=40, given=True)


@pytest.fixture(scope="module")
def result(sky, difference_config):
    return subtract_pair(sky.science, sky.reference, difference_config)


def test_every_plane_is_on_the_science_grid(sky, result):
    for name in ("science", "reference", "difference", "score", "flux", "flux_err"):
        plane = getattr(result, name)
        assert plane.shape == sky.science.data.shape
        assert plane.dtype == np.float32, name
    assert result.dq.dtype == np.uint32
    assert all(key.startswith("q_") for key in result.quality)
    assert all(isinstance(value, str | int | float | bool) for value in result.quality.values())


def test_the_same_pair_gives_the_same_bytes(sky, result, difference_config):
    again = subtract_pair(sky.science, sky.reference, difference_config)
    assert again.score.tobytes() == result.score.tobytes()
    assert again.difference.tobytes() == result.difference.tobytes()


def test_notes_tell_their_epoch_and_move_no_value(sky, result, difference_config):
    planes = [image.dq.copy() for image in (sky.science, sky.reference)]
    for plane, rows in zip(planes, (slice(60, 70), slice(66, 76)), strict=True):
        plane[rows, 90:120] |= np.uint32(DQ.CROSSTALK)
    noted = [dataclasses.replace(image, dq=plane) for image, plane in zip((sky.science, sky.reference), planes, strict=True)]
    out = subtract_pair(*noted, difference_config)
    for name in ("science", "reference", "difference", "score", "flux", "flux_err"):
        np.testing.assert_array_equal(getattr(out, name), getattr(result, name))
    new = DQ.CROSSTALK | DQ.REFERENCE | DQ.BOTH
    own, both, other = (set(np.unique(out.dq[rows, 95:115] & np.uint32(new)).tolist()) for rows in (61, slice(68, 69), 73))
    assert own == {int(DQ.CROSSTALK)}
    assert both == {int(new)}
    assert other == {int(DQ.CROSSTALK | DQ.REFERENCE)}


@pytest.mark.parametrize("key", ["survey", "instrument", "filter"])
def test_a_pair_of_two_kinds_is_refused_unless_allowed(sky, difference_values, difference_config, key):
    other = dataclasses.replace(sky.reference, info=dataclasses.replace(sky.reference.info, **{key: "other"}))
    with pytest.raises(ImagingError, match=f"differ in {key} .*allow_cross_mission"):
        subtract_pair(sky.science, other, difference_config)
    assert subtract_pair(sky.science, other, _config(difference_values, allow_cross_mission=True)).reference_info == other.info


def test_unusable_and_misshapen_images_are_refused(sky, difference_config):
    empty = dataclasses.replace(sky.science, data=np.full_like(sky.science.data, np.nan))
    with pytest.raises(ImagingError, match="no usable pixel of 40000"):
        subtract_pair(empty, sky.reference, difference_config)
    cut = dataclasses.replace(sky.science, dq=sky.science.dq[1:])
    with pytest.raises(ImagingError, match="they must be one 2-D shape"):
        subtract_pair(cut, sky.reference, difference_config)


def test_a_reference_of_other_sky_is_no_overlap(sky, skies, difference_config):
    aside = dataclasses.replace(sky.reference, wcs=skies.tan_wcs((200, 200), crval=(150.2, 2.0)))
    with pytest.raises(NoOverlapError, match=r"covers 0\.0% of sci"):
        subtract_pair(sky.science, aside, difference_config)


def test_masks_that_leave_nothing_in_common_are_no_overlap(sky, difference_config):
    halves = []
    for image, rows in ((sky.science, slice(0, 110)), (sky.reference, slice(90, 200))):
        dq = image.dq.copy()
        dq[rows] |= np.uint32(DQ.BAD)
        halves.append(dataclasses.replace(image, dq=dq))
    with pytest.raises(NoOverlapError, match="share no usable pixel"):
        subtract_pair(*halves, difference_config)


def test_a_fatal_gate_refuses_and_a_soft_one_records(sky, difference_values):
    soft = _config(difference_values, gate__max_masked_fraction=0.0, gate__min_matched=1000)
    assert "matched stars" in subtract_pair(sky.science, sky.reference, soft).quality["q_reasons"]
    fatal = _config(difference_values, gate__fatal=True, gate__min_matched=1000)
    with pytest.raises(ImagingError, match="is refused: matched stars"):
        subtract_pair(sky.science, sky.reference, fatal)


def test_wrong_noise_is_recorded_before_it_is_scaled_away(sky, difference_values, difference_config):
    def doubled(image):
        return dataclasses.replace(image, variance=image.variance / 4)

    ours = subtract_pair(doubled(sky.science), doubled(sky.reference), difference_config)
    assert ours.quality["q_score_std_raw"] == pytest.approx(2.0, abs=0.1)
    assert ours.quality["q_score_std"] == pytest.approx(1.0, abs=0.01)
    assert ours.quality["q_score_renormalised"] is True
    never = subtract_pair(doubled(sky.science), doubled(sky.reference), _config(difference_values, score__renormalise="never"))
    assert never.quality["q_score_std"] == pytest.approx(2.0, abs=0.1)


def test_a_field_without_stars_falls_back_and_says_so(skies, difference_config):
    rng = np.random.default_rng(5)
    images = [skies.exposure(np.zeros((128, 128)), 100.0, rng, skies.tan_wcs((128, 128)), name) for name in ("sci", "ref")]
    quality = subtract_pair(*images, difference_config).quality
    assert quality["q_registration_method"] == "header"
    assert quality["q_flux_method"] == "exposure_time"
    assert quality["q_psf_method_science"] == "gaussian"
    assert quality["q_score_std_raw"] == pytest.approx(1.0, abs=0.1)
    assert "matched stars 0 are fewer" in quality["q_reasons"]


def test_the_product_knows_where_its_pixels_lie_on_a_turned_and_moved_reference(skies, difference_config):
    sky = skies.make_pair(seed=8, shape=(200, 200), count=40, given=True, angle=2.0, shift=(9.0, -6.0), header_error=(1.5, -1.0))
    result = subtract_pair(sky.science, sky.reference, difference_config)
    x, y = np.array([20.0, 150.0, 99.0]), np.array([30.0, 60.0, 180.0])
    true = skies.tan_wcs((200, 200), 1.0, 2.0, crpix=(100.5 + 9.0, 100.5 - 6.0))
    expected = true.world_to_pixel_values(*sky.science.wcs.pixel_to_world_values(x, y))
    np.testing.assert_allclose(result.to_reference(x, y), expected, atol=0.3)

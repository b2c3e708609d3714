"""Normalisations: closed forms, invariances, masked pixels, and the refusal of anything else."""

from __future__ import annotations

import numpy as np
import pytest

from astrid.core.errors import DataSetError
from astrid.datasets.normalize import CODES, NORMALIZATIONS, STAMP_SHAPE, codes, levels, normalize, orient

IDS = sorted(NORMALIZATIONS)
CODE = 1 / CODES


def assert_same(left: np.ndarray, right: np.ndarray, name: str, atol: float) -> None:
    """Equal within `atol`, or by one code on a few pixels where a recipe rounds to codes."""
    if name == "asinh_int8.v1":
        assert np.abs(left - right).max() < 1.01 * CODE
        assert np.mean(np.abs(left - right) > 0.5 * CODE) < 1e-3
    else:
        np.testing.assert_allclose(left, right, atol=atol)


def triplets(count: int = 6, *, seed: int = 1, flux: float = 400.0, noise: float = 5.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.indices(STAMP_SHAPE[1:]) - 31
    source = flux * np.exp(-(x**2 + y**2) / (2 * 1.8**2))
    out = rng.normal(scale=noise, size=(count, *STAMP_SHAPE))
    out[:, 0] += source
    out[:, 2] += source
    return out.astype(np.float32)


@pytest.mark.parametrize("name", IDS)
def test_output_is_finite_float32_of_order_one_and_the_input_is_untouched(name: str) -> None:
    stamps = triplets()
    stamps[1, :, :, -20:] = np.nan
    stamps[2, 0, 3, 3] = np.inf
    stamps[3, 2] = np.nan
    stamps[4] = np.nan
    stamps[5, 0, 9, 9] = -3.4e38
    before = stamps.copy()
    out = normalize(stamps, name)
    assert out.dtype == np.float32
    assert out.shape == stamps.shape
    assert np.isfinite(out).all()
    assert np.abs(out).max() <= 1
    assert (out[~np.isfinite(stamps)] == 0).all()
    assert out[5, 0, 9, 9] == 0
    np.testing.assert_array_equal(stamps, before)


@pytest.mark.parametrize("name", IDS)
def test_a_triplet_does_not_depend_on_its_batch(name: str) -> None:
    stamps = triplets(21)
    stamps[5, 1, :7] = np.nan
    together = normalize(stamps, name)
    alone = np.concatenate([normalize(stamps[row : row + 1], name) for row in range(21)])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("name", IDS)
def test_the_result_goes_into_the_memory_that_is_given(name: str) -> None:
    stamps = triplets(11)
    stamps[3, 0, :9] = np.nan
    memory = np.full_like(stamps, np.nan)
    assert normalize(stamps, name, out=memory) is memory
    np.testing.assert_array_equal(memory, normalize(stamps, name))


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("turn", [lambda s: s[..., ::-1], lambda s: s[..., ::-1, :], lambda s: np.rot90(s, axes=(2, 3))])
def test_flips_and_quarter_turns_commute_with_it(name: str, turn) -> None:  # type: ignore[no-untyped-def]
    stamps = triplets()
    stamps[0, :, :, 55:] = np.nan
    assert_same(normalize(np.ascontiguousarray(turn(stamps)), name), turn(normalize(stamps, name)), name, 1e-6)


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("scale", [1e-25, 1e-6, 37.0, 1e20])
def test_a_common_flux_scale_drops_out(name: str, scale: float) -> None:
    stamps = triplets()
    assert_same(normalize(stamps * np.float32(scale), name), normalize(stamps, name), name, 2e-6)


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
def test_other_floating_types_give_the_same(name: str, dtype: str) -> None:
    stamps = triplets().astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(normalize(stamps.astype(dtype), name), normalize(stamps, name))


@pytest.mark.parametrize("name", IDS)
def test_nothing_and_no_triplets(name: str) -> None:
    assert normalize(np.zeros((0, *STAMP_SHAPE), np.float32), name).shape == (0, *STAMP_SHAPE)
    assert (normalize(np.zeros((2, *STAMP_SHAPE), np.float32), name) == 0).all()


def test_l2_is_the_stamp_over_its_norm() -> None:
    stamps = triplets().astype(np.float64)
    expected = stamps / np.sqrt((stamps**2).sum(axis=(2, 3), keepdims=True))
    np.testing.assert_allclose(normalize(stamps, "l2.v1"), expected, rtol=1e-5, atol=1e-8)


def test_asinh_is_its_closed_form() -> None:
    stamps = triplets().astype(np.float64)
    yy, xx = np.indices((63, 63))
    edge = np.minimum(np.minimum(yy, 62 - yy), np.minimum(xx, 62 - xx))
    frame = (edge < 10) & ((xx + yy) % 2 == 0)
    values = stamps - np.median(stamps[:, :, frame], axis=-1)[:, :, None, None]
    sigma = 1.4826 * np.median(np.abs(values[:, 2][:, frame]), axis=-1)
    expected = np.arcsinh(values / sigma[:, None, None, None]) / np.arcsinh(1e4)
    np.testing.assert_allclose(normalize(stamps, "asinh_noise.v1"), expected, atol=2e-3)  # even count: upper median, not the mean
    np.testing.assert_allclose(sigma, 5.0, rtol=0.15)


@pytest.mark.parametrize("background", [(350.0, 0.0, 0.0), (120.0, 900.0, 0.0), (-3.0, 5e3, 40.0)])
def test_asinh_does_not_see_the_background_left_in_a_stamp(background: tuple[float, float, float]) -> None:
    stamps = triplets()
    raised = stamps + np.array(background, np.float32)[None, :, None, None]
    np.testing.assert_allclose(normalize(raised, "asinh_noise.v1"), normalize(stamps, "asinh_noise.v1"), atol=1e-4)


def test_asinh_keeps_the_flux_relation_between_the_stamps() -> None:
    stamps = triplets(noise=1.0)
    stamps[:, 1] = 0.25 * stamps[:, 0]
    back = np.sinh(normalize(stamps, "asinh_noise.v1").astype(np.float64) * np.arcsinh(1e4))
    np.testing.assert_allclose(back[:, 1, 31, 31] / back[:, 0, 31, 31], 0.25, rtol=2e-3)


@pytest.mark.parametrize("name", IDS)
def test_science_and_reference_may_change_places(name: str) -> None:
    stamps = triplets()
    stamps[2, 0, :9] = np.nan
    swapped = stamps[:, [1, 0, 2]]
    np.testing.assert_array_equal(normalize(swapped, name), normalize(stamps, name)[:, [1, 0, 2]])


def test_int8_is_its_closed_form_on_the_codes_of_a_byte() -> None:
    stamps = triplets(flux=3000.0)
    back = np.sinh(normalize(stamps, "asinh_noise.v1").astype(np.float64) * np.arcsinh(1e4))
    expected = np.rint(127 * np.clip(np.arcsinh(back) / np.arcsinh(300), -1, 1))
    given = codes(normalize(stamps, "asinh_int8.v1"))
    assert given.dtype == np.int8
    assert np.mean(given != expected) < 1e-3
    assert np.abs(given - expected).max() <= 1
    assert given.max() == 127


def test_int8_keeps_noise_and_bright_cores_apart() -> None:
    stamps = triplets(64, noise=5.0)
    given = codes(normalize(stamps, "asinh_int8.v1"))
    assert given[:, 1].std() == pytest.approx(16, abs=3)  # asinh bends the wings of one sigma of 17.5 codes
    counts = np.bincount(given.ravel().astype(int) + 128, minlength=256) / given.size
    entropy = -(counts[counts > 0] * np.log2(counts[counts > 0])).sum()
    assert entropy > 5.9  # bits of 8; asinh_noise.v1 rounded to a byte has 0.6 less
    stamps[:, 0, 31, 30:33] = 5.0 * np.array([100, 106, 112], np.float32)  # sigma: 6 % apart
    assert (np.diff(codes(normalize(stamps, "asinh_int8.v1"))[:, 0, 31, 30:33], axis=1) >= 1).all()


def test_int8_codes_of_other_normalisations_are_refused() -> None:
    with pytest.raises(DataSetError, match="other values than multiples of 1/127"):
        codes(normalize(triplets(), "asinh_noise.v1"))
    with pytest.raises(DataSetError, match="other values than multiples of 1/127"):
        codes(np.full((1, *STAMP_SHAPE), 128 / 127, np.float32))


def test_levels_are_background_and_noise_of_each_stamp() -> None:
    stamps = triplets(4, noise=5.0) + np.array([100.0, -7.0, 0.0], np.float32)[:, None, None]
    stamps[1, :, :20] = np.nan
    stamps[2, 1] = np.nan
    background, noise = levels(stamps)
    usable = np.isfinite(stamps).any(axis=(2, 3))
    assert background.shape == noise.shape == (4, 3)
    expected = np.broadcast_to([100.0, -7.0, 0.0], (4, 3))
    np.testing.assert_allclose(background[usable], expected[usable], atol=1.0)
    np.testing.assert_allclose(noise[usable], 5.0, rtol=0.12)
    assert background[2, 1] == noise[2, 1] == 0
    with pytest.raises(DataSetError, match="stamps are int16"):
        levels(np.zeros((1, *STAMP_SHAPE), np.int16))


def test_asinh_clips_at_ten_thousand_sigma_and_a_bright_star_does_not_move_the_noise() -> None:
    stamps = triplets()
    bright = stamps.copy()
    bright[:, 0, 40:44, 40:44] = 1e7
    out, plain = normalize(bright, "asinh_noise.v1"), normalize(stamps, "asinh_noise.v1")
    np.testing.assert_allclose(out[:, 0, 40:44, 40:44], 1, atol=1e-6)
    np.testing.assert_array_equal(out[:, 2], plain[:, 2])


def test_asinh_of_images_without_noise_is_scaled_by_the_peak() -> None:
    stamps = np.zeros((1, *STAMP_SHAPE), np.float32)
    stamps[0, 0, 30:33, 30:33] = 1e-20
    out = normalize(stamps, "asinh_noise.v1")
    np.testing.assert_allclose(out[0, 0, 30:33, 30:33], 1, atol=1e-6)
    assert np.count_nonzero(out) == 9


def test_asinh_measures_the_whole_stamp_where_the_frame_is_masked() -> None:
    stamps = triplets()
    stamps[:, :, :12] = stamps[:, :, -12:] = stamps[:, :, :, :12] = stamps[:, :, :, -12:] = np.nan
    out = normalize(stamps, "asinh_noise.v1")
    assert 0.05 < np.median(np.abs(out[:, 1, 14:48, 14:48])) < 0.08  # 0.67 sigma


def test_l2_and_asinh_refuse_other_input() -> None:
    with pytest.raises(DataSetError, match=r"'l3' is no normalisation; choose one of"):
        normalize(triplets(), "l3")
    with pytest.raises(DataSetError, match=r"have the shape \(3, 63, 63\)"):
        normalize(triplets()[0], "l2.v1")
    with pytest.raises(DataSetError, match=r"have the shape \(6, 63, 63, 3\)"):
        normalize(triplets().transpose(0, 2, 3, 1), "l2.v1")
    with pytest.raises(DataSetError, match="stamps are int16"):
        normalize(triplets().astype(np.int16), "asinh_noise.v1")


def test_orient_turns_the_difference_of_a_fading_source_only() -> None:
    stamps = triplets(3)
    sign = np.array([1, -1, 1])
    out = orient(stamps, sign)
    np.testing.assert_array_equal(out[:, :2], stamps[:, :2])
    np.testing.assert_array_equal(out[:, 2], stamps[:, 2] * sign[:, None, None])
    np.testing.assert_array_equal(orient(out, sign), stamps)
    np.testing.assert_array_equal(orient(stamps, -1)[:, 2], -stamps[:, 2])


def test_orient_refuses_wrong_signs() -> None:
    with pytest.raises(DataSetError, match=r"3 triplets came with signs of the shape \(2,\)"):
        orient(triplets(3), np.array([1, -1]))
    with pytest.raises(DataSetError, match=r"neither \+1 .* nor -1"):
        orient(triplets(3), 0)

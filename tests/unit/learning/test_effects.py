"""Each effect does to a triplet what its cause does in a telescope, and the label keeps its meaning."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.fft import dct
from threadpoolctl import threadpool_info, threadpool_limits

from astrid.core.runtime import rng_for
from astrid.datasets.normalize import levels
from astrid.learning.effect_tables import gaussians, lost_noise, places_of_white, white
from astrid.learning.effects import distort, plan

NAMES = ("subpixel", "gain", "blur", "background", "gradient", "noise", "border", "cores")
STRONG = {"subpixel": 0.5, "gain": 0.1, "blur": 0.7, "background": 20.0, "gradient": 2.0, "noise": 0.5, "border": 20.0, "cores": 6.0}
NOISE = 5.0  # of science and reference, a pixel
Y, X = np.mgrid[:63, :63] - 31.0
WEIGHT = np.exp(-(X**2 + Y**2) / (2 * 1.4**2))


def draws(seed: int):
    return lambda effect: rng_for(seed, effect)


def star(x: float, y: float, sigma: float = 1.4) -> np.ndarray:
    return np.exp(-((X - x) ** 2 + (Y - y) ** 2) / (2 * sigma**2))


@dataclass
class Observed:
    """Triplets made of a science and a reference, with a difference that is their difference."""

    stamps: np.ndarray
    signs: np.ndarray


def observed(count: int = 64, *, peak: float = 60.0, host: float = 0.0, noise: float = NOISE, faded: bool = False) -> Observed:
    """Point sources of the peak over noise, on a host and beside a star."""
    rng = np.random.default_rng(3)
    stamps = rng.normal(0, max(noise, 1e-30), (count, 3, 63, 63))
    stamps[:, :2] += host * star(1.0, -0.7, 3.0) + 20 * host * star(-14, 9)
    stamps[:, int(faded)] += peak * star(0.2, -0.3)
    sign = -1 if faded else 1
    stamps[:, 2] = sign * (stamps[:, 0] - stamps[:, 1])
    return Observed(stamps.astype(np.float32), np.full(count, sign))


def all_struck(cfg, count: int, seed: int = 0):
    """A plan by which every active effect strikes every triplet."""
    planned = plan(cfg, count, draws(seed))
    return dataclasses.replace(planned, struck={name: np.ones(count, dtype=bool) for name in planned.struck})


def after(seen: Observed, cfg, seed: int = 0) -> np.ndarray:
    out = seen.stamps.copy()
    distort(out, seen.signs, levels(out), cfg, all_struck(cfg, len(out), seed))
    return out


def snr(stamps: np.ndarray) -> np.ndarray:
    """Matched filter at the centre of the difference over its scatter at places without light."""
    difference = np.nan_to_num(stamps[:, 2])
    flux = np.einsum("nyx,yx->n", difference, WEIGHT)
    sides = [np.roll(WEIGHT, (y, x), (0, 1)) + np.roll(WEIGHT, (-y, -x), (0, 1)) for y, x in ((16, 16), (16, -16), (0, 18))]
    empty = [np.einsum("nyx,yx->n", difference, side) for side in sides]  # opposite places together: a slope drops out
    return flux / (np.std(empty) / np.sqrt(2))


@pytest.mark.parametrize("faded", [False, True])
@pytest.mark.parametrize("host", [0.0, 400.0])
@pytest.mark.parametrize("name", NAMES)
def test_a_real_source_stays_one(augment_config, name, host, faded):
    seen = observed(host=host, faded=faded)
    before, now = snr(seen.stamps), snr(after(seen, augment_config(share=1.0, **{name: STRONG[name]})))
    assert before.min() > 15
    assert (now > 0.55 * before).all()
    assert np.median(now / before) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("name", NAMES)
def test_a_dipole_stays_one(augment_config, name):
    seen = observed(peak=0.0)
    seen.stamps[:, [0, 2]] += (150 * (star(1.2, 0) - star(-1.2, 0))).astype(np.float32)
    out = np.nan_to_num(after(seen, augment_config(share=1.0, **{name: STRONG[name]}))[:, 2])
    left, right = (np.einsum("nyx,yx->n", out, star(side, 0)) for side in (-1.8, 1.8))
    assert (left < 0).all()
    assert (right > 0).all()
    assert np.median(np.abs(left + right) / (right - left)) < 0.2


@pytest.mark.parametrize("name", NAMES)
def test_a_sharp_hit_stays_sharper_than_the_psf(augment_config, name):
    seen = observed(peak=0.0)
    seen.stamps[:, [0, 2], 31, 31] += 500
    out = after(seen, augment_config(share=1.0, **{name: STRONG[name]}))[:, 2]
    core = np.abs(out[:, 29:34, 29:34]).reshape(len(out), -1)
    assert (np.sort(core, axis=1)[:, -4:].sum(axis=1) > 0.4 * core.sum(axis=1)).all()
    assert np.median(np.nanmax(core, axis=1)) > 150  # 500 over four pixels at worst; a star of that flux peaks at 40


@pytest.mark.parametrize("name", NAMES)
def test_the_stamps_stay_one_observation(augment_config, name):
    """Where the three stamps are measured, the difference is still what science and reference differ by."""
    for faded in (False, True):
        seen = observed(host=300.0, faded=faded)
        out = after(seen, augment_config(share=1.0, **{name: STRONG[name]}))
        apart = out[:, 2] - seen.signs[:, None, None] * (out[:, 0] - out[:, 1])
        if name == "background":  # what is left of the sky in the epochs is not in the difference
            apart -= np.median(apart, axis=(1, 2), keepdims=True)
        assert np.nanmax(np.abs(apart)) < 0.02


@pytest.mark.parametrize("name", NAMES)
def test_masked_pixels_stay_masked_and_the_others_measured(augment_config, name):
    seen = observed(8)
    seen.stamps[:, :, :, 50:] = np.nan
    seen.stamps[0, 1] = np.nan
    seen.stamps[1] = np.inf
    out = after(seen, augment_config(share=1.0, **{name: STRONG[name]}))
    assert out.dtype == np.float32
    assert np.isnan(out[:, :, :, 51:]).all()
    assert np.isnan(out[0, 1]).all()
    assert np.isnan(out[1]).all()
    if name not in ("border", "cores"):
        assert np.isfinite(out[2:, :, 2:-2, 2:48]).all()


def test_a_plan_is_the_same_for_the_same_draws_and_effects_do_not_move_one_another(augment_config):
    two = plan(augment_config(share=0.4, gain=0.1, noise=0.5), 4000, draws(1))
    one = plan(augment_config(share=0.4, noise=0.5), 4000, draws(1))
    np.testing.assert_array_equal(two.struck["noise"], one.struck["noise"])
    assert two.struck["noise"].mean() == pytest.approx(0.2, abs=0.02)
    assert len(two.touched) / 4000 == pytest.approx(0.3, abs=0.03)
    assert two.generators["noise"].random() == one.generators["noise"].random()
    assert set(two.struck) == {"gain", "noise"}


def test_everything_off_touches_nothing(augment_config):
    assert len(plan(augment_config(share=1.0), 100, draws(0)).touched) == 0
    assert len(plan(augment_config(noise=0.5), 100, draws(0)).touched) == 0


def test_subpixel_moves_a_star_and_keeps_its_flux_and_the_noise(augment_config):
    seen = observed(noise=0.0, peak=100.0)
    out = after(seen, augment_config(share=1.0, subpixel=0.5))[:, 2]
    flux = out.sum(axis=(1, 2))
    np.testing.assert_allclose(flux, seen.stamps[:, 2].sum(axis=(1, 2)), rtol=1e-3)
    x, y = (out * X).sum(axis=(1, 2)) / flux - 0.2, (out * Y).sum(axis=(1, 2)) / flux + 0.3
    assert -0.51 < x.min() < -0.35
    assert 0.35 < y.max() < 0.51
    for row in range(8):
        expected = 100 * star(0.2 + x[row], -0.3 + y[row])
        np.testing.assert_allclose(out[row], expected, atol=0.3)
    noisy = observed(peak=0.0)
    ratio = after(noisy, augment_config(share=1.0, subpixel=0.5)).std(axis=(2, 3)) / noisy.stamps.std(axis=(2, 3))
    assert ratio.min() > 0.93
    assert ratio.mean() > 0.96


def test_gain_scales_one_epoch_and_leaves_it_in_the_difference(augment_config):
    seen = observed(noise=0.0, peak=0.0, host=100.0)
    out = after(seen, augment_config(share=1.0, gain=0.05))
    error = out[:, :2, 40, 17] / seen.stamps[:, :2, 40, 17] - 1  # the star beside the source; nothing at the centre to be tempered by
    changed = np.abs(error) > 1e-9
    assert (changed.sum(axis=1) <= 1).all()
    loud = observed(peak=1e4, host=10.0)
    out = after(loud, augment_config(share=1.0, gain=0.05))
    error = (out[:, :2, 40, 17] / loud.stamps[:, :2, 40, 17] - 1).sum(axis=1)
    assert error.std() == pytest.approx(0.05, rel=0.3)


def test_blur_widens_one_epoch_and_leaves_rings_without_flux(augment_config):
    seen = observed(noise=0.0, peak=5000.0)
    out = after(seen, augment_config(share=1.0, blur=0.6))
    blurred = np.abs(out[:, 0] - seen.stamps[:, 0]).max(axis=(1, 2)) > 1
    assert 0.3 < blurred.mean() < 0.7
    rest = (out[:, 2] - seen.stamps[:, 2])[blurred]
    assert np.abs(rest.sum(axis=(1, 2))).max() < 1e-3 * seen.stamps[0, 2].sum()
    moment = np.einsum("nyx,yx->n", rest, X**2) / seen.stamps[0, 2].sum()  # the variance of the kernel, px^2
    assert moment.min() >= 0
    assert 0.2 < moment.max() < 0.37
    assert (rest[:, 31, 31] < 0).all()


def test_blur_leaves_the_noise_its_strength_and_spectrum(augment_config):
    seen = observed(200, peak=2000.0)  # bright, so that nothing is tempered
    out = after(seen, augment_config(share=1.0, blur=0.7))
    corner = (slice(None), slice(0, 2), slice(0, 24), slice(0, 24))
    before, now = seen.stamps[corner], out[corner]
    assert now.std() == pytest.approx(before.std(), rel=0.01)
    for axis in (2, 3):
        lag = np.mean(now * np.roll(now, 1, axis))
        assert abs(lag) < 0.02 * now.var()
    smoothed = after(observed(200, peak=2000.0, noise=0.0), augment_config(share=1.0, blur=0.7))
    assert np.abs(smoothed[corner]).max() < 0.5


@pytest.mark.parametrize("name", ["gain", "blur"])
def test_a_faint_source_on_a_bright_host_is_not_drowned(augment_config, name):
    seen = observed(peak=30.0, host=20000.0, noise=1.0)
    out = after(seen, augment_config(share=1.0, **{name: STRONG[name]}))
    before, now = (np.einsum("nyx,yx->n", stamps[:, 2], WEIGHT) for stamps in (seen.stamps, out))
    np.testing.assert_array_less(np.abs(now / before - 1), 0.35)
    assert np.abs(now / before - 1).max() > 0.1


def test_background_is_in_the_epochs_and_not_in_the_difference(augment_config):
    seen = observed(400)
    by = after(seen, augment_config(share=1.0, background=10.0)) - seen.stamps
    np.testing.assert_array_equal(by[:, 2], 0)
    assert np.ptp(by[:, :2], axis=(2, 3)).max() < 1e-3
    assert by[:, :2, 0, 0].std() == pytest.approx(10 * NOISE, rel=0.1)
    assert abs(np.corrcoef(by[:, 0, 0, 0], by[:, 1, 0, 0])[0, 1]) < 0.15


def test_gradient_is_a_plane_that_is_zero_at_the_source(augment_config):
    seen = observed(400)
    by = after(seen, augment_config(share=1.0, gradient=2.0)) - seen.stamps
    assert np.abs(by[:, :, 31, 31]).max() < 1e-3
    np.testing.assert_allclose(by[:, :, :, 1:-1], (by[:, :, :, 2:] + by[:, :, :, :-2]) / 2, atol=1e-3)
    edge = np.hypot(by[:, 2, 31, 62], by[:, 2, 62, 31])
    assert np.sqrt(np.mean(edge**2)) == pytest.approx(2 * NOISE, rel=0.1)


def test_noise_lowers_the_snr_as_predicted(augment_config):
    seen = observed(400)
    out = after(seen, augment_config(share=1.0, noise=0.8))
    added = out[:, :2] - seen.stamps[:, :2]
    strength = added.std(axis=(2, 3)) / NOISE
    assert strength.max() == pytest.approx(0.8, rel=0.15)
    assert strength.mean() == pytest.approx(0.4, rel=0.1)
    predicted = np.sqrt(1 + np.mean(strength**2))
    assert out[:, 2, :, :20].std() / seen.stamps[:, 2, :, :20].std() == pytest.approx(predicted, rel=0.02)


def test_white_noise_is_gaussian_uncorrelated_and_new_each_time():
    strength, places = np.full(400, 2, np.float32), places_of_white(400, np.random.default_rng(0))
    drawn = white(strength, places).reshape(400, 63, 63).astype(np.float64) / 2
    assert np.abs(drawn.mean(axis=(1, 2))).max() < 4.5 / 63
    assert drawn.std() == pytest.approx(1.0, abs=0.01)
    assert np.mean(drawn**4) == pytest.approx(3.0, abs=0.05)
    for axis in (1, 2):
        assert abs(np.mean(drawn * np.roll(drawn, 1, axis))) < 0.005
    flat = drawn.reshape(400, -1)
    between = np.corrcoef(flat) - np.eye(400)
    assert np.abs(between).max() < 0.1
    assert len(np.unique(flat[:, 0])) > 390
    np.testing.assert_array_equal(places, places_of_white(400, np.random.default_rng(0)))


def test_the_noise_that_a_blur_takes_is_what_comes_back():
    """White noise after the blur, with that noise beside it, has the power of white noise at every frequency."""
    matrices, _ = gaussians(0.7)
    fields = lost_noise(0.7)
    assert fields[0].std() == 0
    white = np.random.default_rng(0).standard_normal((200, 63, 63))
    cosines = dct(np.eye(63), norm="ortho", axis=0)
    for width in (4, 10, 16):
        blurred = matrices[width] @ white @ matrices[width].T
        lost = fields[width, :512, :512]
        windows = lost[: 63 * 8, : 63 * 8].reshape(8, 63, 8, 63).swapaxes(1, 2).reshape(-1, 63, 63)
        power = sum(np.mean((cosines @ images @ cosines.T) ** 2, axis=0) for images in (blurred, windows))
        blocks = power[:60, :60].reshape(6, 10, 6, 10).mean(axis=(1, 3))
        np.testing.assert_allclose(blocks, 1, atol=0.06)
    np.testing.assert_array_equal(fields[:, :62, :62], fields[:, 512:, 512:])


def test_a_blur_is_that_of_its_gaussian():
    matrices, weights = gaussians(0.8)
    line = np.exp(-((np.arange(63) - 31.3) ** 2) / (2 * 1.5**2))
    for width, sigma in zip((0, 8, 16), (0.0, 0.4, 0.8), strict=True):
        wide = np.hypot(1.5, sigma)
        expected = 1.5 / wide * np.exp(-((np.arange(63) - 31.3) ** 2) / (2 * wide**2))
        np.testing.assert_allclose(matrices[width] @ line, expected, atol=1e-5)
        np.testing.assert_allclose(matrices[width].sum(axis=1), 1, atol=1e-6)
    assert weights.shape == (17, 29)
    np.testing.assert_allclose(weights.sum(axis=1), weights[0].sum(), rtol=1e-5)


def test_noise_is_measured_where_neighbours_do_not_count(augment_config):
    crowded = observed(32)
    rng = np.random.default_rng(0)
    crowd = sum(2000 * star(*rng.uniform(-31, 31, 2)) for _ in range(150))
    crowded.stamps[:, :2] += crowd.astype(np.float32)
    added = after(crowded, augment_config(share=1.0, noise=0.5))[:, :2] - crowded.stamps[:, :2]
    assert added.std(axis=(2, 3)).max() < 0.5 * 1.2 * np.sqrt(2) * NOISE


def test_borders_are_nan_and_stay_away_from_the_source(augment_config):
    seen = observed(600)
    out = after(seen, augment_config(share=1.0, border=20.0))
    gone = np.isnan(out)
    kept = ~gone
    np.testing.assert_array_equal(out[kept], seen.stamps[kept])
    assert not gone[:, :, np.hypot(X, Y) < 11].any()
    np.testing.assert_array_equal(gone[:, 2], gone[:, 0] | gone[:, 1])
    only_science, only_reference, both = (
        (gone[:, 0].any((1, 2)) & ~gone[:, 1].any((1, 2))).mean(),
        (gone[:, 1].any((1, 2)) & ~gone[:, 0].any((1, 2))).mean(),
        (gone[:, 0].any((1, 2)) & gone[:, 1].any((1, 2))).mean(),
    )
    assert min(only_science, only_reference, both) > 0.2
    strips = gone[:, 2].all(axis=1).any(axis=1) | gone[:, 2].all(axis=2).any(axis=1)
    assert 0.4 < strips.mean() < 0.9
    assert (gone[:, 2].any((1, 2)) & ~strips).mean() > 0.05  # corners


def test_masked_cores_are_squares_about_the_brightest_neighbour_in_every_stamp(augment_config):
    seen = observed(host=30.0)  # and a star of 600 at 14 px left of and 9 above the source
    out = after(seen, augment_config(share=1.0, cores=6.0))
    hole = np.isnan(out)
    assert (hole == hole[:, :1]).all()
    assert hole[:, 0, 40, 17].mean() > 0.95
    sides = np.sqrt(hole[:, 0].sum(axis=(1, 2)))
    np.testing.assert_array_equal(sides, np.rint(sides))
    assert sides.min() <= 3
    assert 11 <= sides.max() <= 13
    assert not hole[:, :, 27:36, 27:36].any()
    np.testing.assert_array_equal(out[~hole], seen.stamps[~hole])


def test_without_a_bright_neighbour_no_core_is_masked(augment_config):
    seen = observed(peak=1e4)
    np.testing.assert_array_equal(after(seen, augment_config(share=1.0, cores=6.0)), seen.stamps)


def test_the_number_of_threads_of_the_products_changes_no_bit(augment_config):
    made = observed()
    cfg = augment_config(share=1.0, **STRONG)
    told = []
    for threads in (1, 2):
        planned = plan(cfg, len(made.stamps), draws(1))
        with threadpool_limits(threads, user_api="blas"):
            assert threads in {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}
            changed = made.stamps[planned.touched]
            distort(changed, made.signs[planned.touched], levels(changed), cfg, planned)
        told.append(changed.tobytes())
    assert told[0] == told[1]

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from astrid.core.errors import ImagingError
from astrid.imaging.stars.psf import gaussian_psf
from astrid.imaging.zogy.engine import Job, Side, aligned, engine, kernels_for, padded_shape, reach, subtract, subtract_tile
from astrid.imaging.zogy.kernels import tile_kernels
from astrid.imaging.zogy.tiles import cut, plan_tiles


def _side(shape=(50, 60), sigma=1.0):
    data = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return Side(data, np.ones(shape, np.float32), gaussian_psf(3.0, 7).stamp, sigma)


def test_padding_reaches_and_is_even():
    shape = padded_shape((101, 203), 31)
    assert shape[0] >= 132
    assert shape[1] >= 234
    assert all(length % 2 == 0 for length in shape)


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


@pytest.fixture(scope="module")
def scene(skies):
    """A pair of 600 px with stars up to 1e5 electrons, its noise and both PSFs; the reference is the sharper one."""
    return _scene(skies, 3.0, 2.2)


def _scene(skies, wide, narrow, shape=(600, 560)):
    rng = np.random.default_rng(5)
    x, y = rng.uniform(0, shape[1], 150), rng.uniform(0, shape[0], 150)
    flux = 10 ** rng.uniform(2.5, 5, 150)
    out = []
    for sky, fwhm in ((100.0, wide), (25.0, narrow)):
        profile = skies.pixelised(skies.moffat(fwhm))
        variance = skies.render(shape, profile, x, y, flux) + sky
        data = (variance - sky + rng.normal(size=shape) * np.sqrt(variance)).astype(np.float32)
        stamp = skies.stamp_of(profile, int(np.ceil(5 * fwhm)))
        out.append(Side(data, data + np.float32(sky), stamp, float(np.sqrt(sky)), astrometry=(0.02, 0.01), photometry=0.003))
    return out


def _on(tile, side):
    cores = [value[tile.write] if isinstance(value, np.ndarray) else value for value in side.astrometry]
    data, variance = cut(side.data, tile, 0.0), cut(side.variance, tile, side.sigma**2)
    return dataclasses.replace(side, data=data, variance=variance, astrometry=tuple(cores))


def _in_tiles(new, ref, core, margin):
    """D and the score, put together from tiles of a forced size."""
    out = np.empty((2, *new.data.shape), np.float32)
    for tile in plan_tiles(new.data.shape, core, margin):
        result = subtract_tile(_on(tile, new), _on(tile, ref), tile.inner)
        out[(slice(None), *tile.write)] = result.difference, result.score
    return out


@pytest.mark.parametrize(("wide", "narrow"), [(3.0, 2.2), (2.2, 3.0), (2.0, 4.0), (5.5, 5.0)])
def test_tiles_give_what_the_whole_gives(skies, wide, narrow):
    """With the margin of the kernels' reach, a sharper, a broader and a barely sampled reference alike."""
    new, ref = _scene(skies, wide, narrow, (400, 400))
    margin = reach(new.psf, ref.psf)
    whole, tiles = _in_tiles(new, ref, 400, 112), _in_tiles(new, ref, 150, margin)
    assert np.sqrt(np.mean((tiles - whole) ** 2, axis=(1, 2))).max() < 1.5e-4
    short = _in_tiles(new, ref, 150, 1)
    assert np.sqrt(np.mean((short - whole) ** 2, axis=(1, 2))).min() > 1e-3


def test_the_whole_image_is_worked_on_in_tiles(scene):
    new, ref = scene
    result, parts = subtract(new, ref), _in_tiles(new, ref, 480, reach(new.psf, ref.psf))
    np.testing.assert_array_equal(result.difference, parts[0])
    np.testing.assert_array_equal(result.score, parts[1])


def test_given_kernels_are_those_that_are_made(scene):
    new, ref = scene
    kernels = kernels_for(new, ref)
    np.testing.assert_array_equal(subtract(new, ref, kernels).score, subtract(new, ref).score)
    memory = np.full((5, *new.data.shape), np.nan, np.float32)
    assert np.shares_memory(subtract(new, ref, out=memory).score, memory)
    np.testing.assert_array_equal(memory[1], subtract(new, ref).score)
    again = dataclasses.replace(new, psf=new.psf.copy(), data=ref.data)
    assert tile_kernels(again, ref, kernels.shape) is tile_kernels(new, ref, kernels.shape)
    assert tile_kernels(dataclasses.replace(new, sigma=11.0), ref, kernels.shape) is not tile_kernels(new, ref, kernels.shape)
    with pytest.raises(ImagingError, match="make them anew"):
        subtract(new, ref, tile_kernels(new, ref, (64, 64)))


def test_the_unit_of_the_images_does_not_matter(scene):
    expected = subtract(*scene)
    small = [
        dataclasses.replace(side, data=side.data * np.float32(1e-13), variance=side.variance * np.float32(1e-26), sigma=side.sigma * 1e-13)
        for side in scene
    ]
    result = subtract(*small)
    np.testing.assert_allclose(result.score, expected.score, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(result.difference, expected.difference, rtol=1e-4, atol=2e-3)
    assert result.blank_error == pytest.approx(1e-13 * expected.blank_error, rel=1e-5)


def test_tiles_keep_the_symmetries(scene):
    """Identical images leave nothing, exactly; swapping the images turns the sign, exactly for D."""
    new, ref = scene
    nothing = subtract(new, new)
    assert np.all(nothing.difference == 0)
    assert np.all(nothing.score == 0)
    ours, theirs = subtract(new, ref), subtract(ref, new)
    np.testing.assert_array_equal(ours.difference, -theirs.difference)
    np.testing.assert_allclose(ours.score, -theirs.score, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("wide", "narrow"), [(3.0, 2.2), (6.0, 5.0)])
def test_difference_is_white_even_where_no_psf_has_power(wide, narrow):
    rng = np.random.default_rng(12)
    shape, sides = (640, 640), []
    for fwhm, sigma in ((wide, 10.0), (narrow, 5.0)):
        data = (sigma * rng.normal(size=shape)).astype(np.float32)
        sides.append(Side(data, np.full(shape, sigma**2, np.float32), gaussian_psf(fwhm, 30).stamp, sigma))
    power = np.abs(np.fft.rfft2(subtract(*sides).difference)) ** 2 / (shape[0] * shape[1])
    radius = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :])
    for low in np.arange(0.0, 0.7, 0.1):
        ring = power[(radius > low) & (radius <= low + 0.1)]
        assert ring.mean() == pytest.approx(1.0, abs=5 / np.sqrt(ring.size))


def test_difference_psf_of_gaussians_has_its_closed_form():
    """Equal noise: P_D^ = sqrt(2) P_n^ P_r^ / sqrt(P_n^2 + P_r^2), of Gaussians whose transforms are Gaussians."""
    sides = [Side(np.ones((64, 64), np.float32), np.ones((64, 64), np.float32), gaussian_psf(w, 16).stamp, 1.0) for w in (3.0, 4.0)]
    f2 = np.fft.fftfreq(66)[:, None] ** 2 + np.fft.fftfreq(66)[None, :] ** 2
    a, b = (np.exp(-2 * np.pi**2 * (w / 2.3548200450309493) ** 2 * f2) for w in (3.0, 4.0))
    expected = np.fft.fftshift(np.fft.ifft2(np.sqrt(2) * a * b / np.sqrt(a**2 + b**2)).real)[17:50, 17:50]
    assert np.abs(subtract(*sides).psf - expected).max() < 2e-3 * expected.max()


def test_seams_are_invisible():
    """On pixels beside a seam D and the score scatter as they do elsewhere."""
    rng = np.random.default_rng(8)
    shape = (768, 768)
    sides = []
    for fwhm, sigma in ((3.0, 10.0), (2.4, 5.0)):
        data = (sigma * rng.normal(size=shape)).astype(np.float32)
        sides.append(Side(data, np.full(shape, sigma**2, np.float32), gaussian_psf(fwhm, 12).stamp, sigma))
    seam = np.ones(shape, bool)
    for tile in plan_tiles(shape, 100, 20):
        rows, columns = tile.write
        seam[rows.start + 2 : rows.stop - 2, columns.start + 2 : columns.stop - 2] = False
    difference, score = _in_tiles(*sides, 100, 20)
    count = seam.sum()
    assert difference[seam].std() == pytest.approx(1.0, abs=4 / np.sqrt(2 * count))
    assert score[seam].std() == pytest.approx(score[~seam].std(), abs=4 / np.sqrt(2 * count / 15))
    jump = np.abs(np.diff(score, axis=0))
    at = plan_tiles(shape, 100, 20)[0].write[0].stop - 1
    assert jump[at].mean() == pytest.approx(jump.mean(), rel=0.15)


def test_score_is_standard_normal_with_unclipped_variance():
    """The counts themselves as variance, as they are: V(S) is right in the mean, and no clipping raises it."""
    rng = np.random.default_rng(9)
    shape, sides = (1024, 1024), []
    for fwhm, sky in ((3.0, 60.0), (2.2, 30.0)):
        data = (np.sqrt(sky) * rng.normal(size=shape)).astype(np.float32)
        sides.append(Side(data, data + np.float32(sky), gaussian_psf(fwhm, 10).stamp, float(np.sqrt(sky))))
    assert subtract(*sides).score.std() == pytest.approx(1.0, abs=0.01)
    clipped = [dataclasses.replace(side, variance=np.maximum(side.data, 0) + np.float32(side.sigma**2)) for side in sides]
    assert subtract(*clipped).score.std() < 0.99


def test_local_noise_keeps_the_score_normal_with_kernels_of_one_noise():
    rng = np.random.default_rng(10)
    shape = (768, 768)
    ramp = np.linspace(0.6, 1.6, shape[1], dtype=np.float32) ** 2 * np.ones(shape, np.float32)
    sides = [
        Side(
            (np.sqrt(sky * ramp) * rng.normal(size=shape)).astype(np.float32), sky * ramp, gaussian_psf(fwhm, 10).stamp, float(np.sqrt(sky))
        )
        for fwhm, sky in ((3.0, 100.0), (2.2, 30.0))
    ]
    score = subtract(*sides).score
    for columns in (slice(0, 256), slice(256, 512), slice(512, None)):
        assert score[:, columns].std() == pytest.approx(1.0, abs=0.025)


def test_a_plane_of_registration_scatter_is_local(scene):
    new, ref = scene
    plane = np.full(new.data.shape, 0.02, np.float32)
    same = [dataclasses.replace(side, astrometry=(plane, plane / 2)) for side in scene]
    np.testing.assert_allclose(subtract(*same).score, subtract(new, ref).score, rtol=1e-4, atol=1e-5)
    plane = plane.copy()
    plane[:, :200] = 0.3
    local = subtract(dataclasses.replace(new, astrometry=(plane, plane / 2)), ref)
    ratio = local.flux_error / subtract(new, ref).flux_error
    assert ratio[:, :200].max() > 2
    assert ratio[:, 200:].max() < 1.001


def test_scene_and_variance_are_told_in_sigma(scene):
    new, ref = scene
    result = subtract(new, ref)
    blank = (np.abs(result.snr_science) < 2) & (result.variance_ratio < 1.2)
    assert result.snr_science.max() > 100
    assert np.median(result.variance_ratio[blank]) == pytest.approx(1.0, abs=0.05)
    empty = dataclasses.replace(new, data=np.random.default_rng(3).normal(0, 10, new.data.shape).astype(np.float32))
    assert np.sqrt(np.mean(subtract(empty, ref).snr_science ** 2)) == pytest.approx(1.0, abs=0.02)
    none = dataclasses.replace(ref, data=np.zeros_like(ref.data))
    np.testing.assert_allclose(subtract(new, none).flux, result.scene, atol=2e-3)


def test_a_psf_that_varies_subtracts_better_in_tiles(skies):
    shape = (300, 900)

    def width(x):
        return 2.6 + 1.2 * x / shape[1]

    rng = np.random.default_rng(11)
    y, x = (axis.ravel() + rng.uniform(-0.5, 0.5, axis.size) for axis in np.mgrid[30:280:40.0, 30:880:40.0])
    flux = np.full(x.size, 2e4)
    varying = sum(
        skies.render(shape, skies.pixelised(skies.moffat(width(sx))), [sx], [sy], [sf]) for sx, sy, sf in zip(x, y, flux, strict=True)
    )
    fixed = skies.render(shape, skies.pixelised(skies.moffat(2.4)), x, y, flux)
    ref_psf = skies.stamp_of(skies.pixelised(skies.moffat(2.4)), 16)
    middle = skies.stamp_of(skies.pixelised(skies.moffat(width(shape[1] / 2))), 16)
    new, ref = (
        Side((s + 10 * rng.normal(size=shape)).astype(np.float32), (s + 100).astype(np.float32), psf, 10.0)
        for s, psf in ((varying, middle), (fixed, ref_psf))
    )
    one, tiled = subtract(new, ref).score, np.empty(shape, np.float32)
    for tile in plan_tiles(shape, 100, reach(middle)):
        psf = skies.stamp_of(skies.pixelised(skies.moffat(width(tile.centre[0]))), 16)
        tiled[tile.write] = subtract_tile(dataclasses.replace(_on(tile, new), psf=psf), _on(tile, ref), tile.inner).score
    rows, columns = np.round(y).astype(int), np.round(x).astype(int)
    at_stars = [np.sqrt(np.mean(score[rows, columns] ** 2)) for score in (one, tiled)]
    assert at_stars[0] > 3 * at_stars[1]
    assert at_stars[1] < 2.0


def test_planes_are_transformed_where_they_lie_or_copied(scene):
    """Memory that suits the transform and memory that does not give the same, and are left as they were."""
    tile = plan_tiles((600, 560), 200, 24)[0]
    new, ref = (_on(tile, side) for side in scene)
    suited = []
    for side in (new, ref):
        planes = [aligned(tile.shape), aligned(tile.shape)]
        for plane, values in zip(planes, (side.data, side.variance), strict=True):
            plane[...] = values
        suited.append(dataclasses.replace(side, data=planes[0], variance=planes[1]))
    shifted = np.empty((2, tile.shape[0] * tile.shape[1] + 1), np.float32)[:, 1:].reshape(2, *tile.shape)
    shifted[0], shifted[1] = new.data, new.variance
    odd = dataclasses.replace(new, data=shifted[0], variance=shifted[1])
    expected = subtract_tile(new, ref, tile.inner)
    for pair in (suited, (odd, ref)):
        result = subtract_tile(*pair, tile.inner)
        np.testing.assert_array_equal(result.score, expected.score)
        np.testing.assert_array_equal(result.difference, expected.difference)
    np.testing.assert_array_equal(suited[0].data, new.data)
    assert result.score.shape == tuple(window.stop - window.start for window in tile.inner)


def test_the_default_engine_takes_tiles_one_by_one(scene):
    jobs = [Job(*(_on(tile, side) for side in scene), tile.inner) for tile in plan_tiles((600, 560), 300, 24)]
    results = engine("pyfftw")(jobs)
    assert len(results) == len(jobs)
    np.testing.assert_array_equal(results[1].score, subtract_tile(jobs[1].new, jobs[1].ref, jobs[1].inner).score)


def test_impossible_input_is_refused():
    side = _side()
    with pytest.raises(ImagingError, match="bring them onto one grid"):
        subtract(side, _side((50, 61)))
    with pytest.raises(ImagingError, match="both must be positive"):
        subtract(side, _side(sigma=0.0))
    broken = side.data.copy()
    for plane in ("data", "variance"):
        for value in (np.nan, np.inf):
            broken[3, 3] = value
            with pytest.raises(ImagingError, match=r"the reference holds .* fill them before the transform"):
                subtract(side, dataclasses.replace(side, **{plane: broken}))
    with pytest.raises(ImagingError, match="reaches the border of a tile"):
        subtract_tile(side, side, (slice(0, 40), slice(10, 40)))
    with pytest.raises(ImagingError, match="do not fit into arrays"):
        subtract_tile(*(dataclasses.replace(side, psf=gaussian_psf(3.0, 30).stamp) for _ in range(2)), (slice(10, 40), slice(10, 40)))

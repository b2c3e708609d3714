from __future__ import annotations

import numpy as np
import pytest

from astrid.core.dq import DQ
from astrid.imaging.alignment.astrometry import Mapping
from astrid.imaging.alignment.resample import Resampler, fill_local, map_psf, to_grid
from astrid.imaging.stars.psf import given_psf

SHAPE = (96, 96)


def _mapping(skies, *, scale=1.0, angle=0.0, shift=(0.0, 0.0)):
    wcs = skies.tan_wcs(SHAPE)
    reference = skies.tan_wcs(SHAPE, scale, angle, crpix=(48.5 + shift[0], 48.5 + shift[1]))
    return Mapping(wcs, reference, np.eye(2), np.zeros(2), np.array([47.5, 47.5]))


def _planes(data):
    return data.astype(np.float32), np.ones(data.shape, np.float32), np.zeros(data.shape, np.uint32)


def test_whole_pixels_are_moved_exactly(skies, difference_config):
    data = np.random.default_rng(1).normal(size=SHAPE)
    result = to_grid(*_planes(data), _mapping(skies, shift=(3.0, -2.0)), SHAPE, difference_config.resample)
    np.testing.assert_allclose(result.data[5:-5, 5:-5], data[3:-7, 8:-2], atol=2e-3)
    assert result.overlap == pytest.approx(93 * 94 / 96**2)


@pytest.mark.parametrize(("scale", "angle"), [(1.0, 13.0), (0.7, 5.0), (1.6, 0.0)])
def test_flux_and_place_survive(skies, difference_config, scale, angle):
    mapping = _mapping(skies, scale=scale, angle=angle)
    rx, ry = mapping(np.array([50.3]), np.array([45.2]))
    profile = skies.pixelised(skies.moffat(3.0))
    data = skies.render(SHAPE, profile, rx, ry, [1000.0])
    result = to_grid(*_planes(data), mapping, SHAPE, difference_config.resample)
    assert result.data.sum() == pytest.approx(data.sum(), rel=0.01)
    rows, columns = np.indices(SHAPE)
    weight = np.where(np.hypot(rows - 45.2, columns - 50.3) < 12, result.data, 0)
    assert (weight * columns).sum() / weight.sum() == pytest.approx(50.3, abs=0.03)
    assert (weight * rows).sum() / weight.sum() == pytest.approx(45.2, abs=0.03)


def test_bad_pixels_are_marked_and_do_not_ring(skies, difference_config):
    data = np.full(SHAPE, 10.0)
    data[40, 40] = np.nan
    data[60:62, 60] = 1e6
    planes = _planes(data)
    planes[2][60:62, 60] = np.uint32(DQ.SATURATED)
    result = to_grid(*planes, _mapping(skies, shift=(0.4, 0.3)), SHAPE, difference_config.resample)
    clean = result.dq == 0
    assert np.abs(result.data[clean] - 10.0).max() < 1e-3
    bits = np.bitwise_or.reduce(result.dq.ravel())
    assert bits & DQ.SATURATED
    assert bits & DQ.NOT_FINITE
    assert np.all((result.dq[~clean] & np.uint32(DQ.REFERENCE)) != 0)
    assert 9 <= ((result.dq & np.uint32(DQ.SATURATED)) != 0).sum() <= 16


@pytest.mark.parametrize("scale", [1.0, 1.6, 0.6])
def test_notes_of_single_pixels_are_carried_and_move_no_value(skies, difference_config, scale):
    data = np.random.default_rng(3).normal(size=SHAPE)
    mapping = _mapping(skies, scale=scale, angle=7.0, shift=(0.4, 0.3))
    plain = to_grid(*_planes(data), mapping, SHAPE, difference_config.resample)
    planes = _planes(data)
    rng = np.random.default_rng(4)
    noted = {bit: (rng.integers(35, 60, 12), rng.integers(35, 60, 12)) for bit in (DQ.CROSSTALK, DQ.PERSISTENCE)}
    for bit, place in noted.items():
        planes[2][place] |= np.uint32(bit)
    result = to_grid(*planes, mapping, SHAPE, difference_config.resample)
    np.testing.assert_array_equal(result.data, plain.data)
    np.testing.assert_array_equal(result.variance, plain.variance)
    y, x = np.indices(SHAPE)
    rx, ry = mapping(x.ravel().astype(float), y.ravel().astype(float))
    for bit, (row, column) in noted.items():
        carried = ((result.dq & np.uint32(bit)) != 0).ravel()
        near = [np.hypot(rx - c, ry - r) for r, c in zip(row, column, strict=True)]
        assert all(carried[one.argmin()] for one in near)
        assert not carried[np.min(near, axis=0) > 2.2].any()
        assert (result.dq.ravel()[carried] & np.uint32(DQ.REFERENCE)).all()


def test_a_noted_pixel_without_a_variance_is_still_unusable(skies, difference_config):
    planes = _planes(np.ones(SHAPE))
    planes[1][50, 50], planes[2][50, 50] = np.nan, np.uint32(DQ.CROSSTALK)
    result = to_grid(*planes, _mapping(skies), SHAPE, difference_config.resample)
    assert result.dq[50, 50] & np.uint32(DQ.NOT_FINITE)


def test_outside_the_footprint_there_is_no_coverage(skies, difference_config):
    result = to_grid(*_planes(np.ones(SHAPE)), _mapping(skies, shift=(200.0, 0.0)), SHAPE, difference_config.resample)
    assert result.overlap == 0.0
    assert np.all((result.dq & np.uint32(DQ.NO_COVERAGE)) != 0)


def test_fill_takes_the_neighbours():
    data = np.full((40, 40), 5.0, np.float32)
    good = np.ones((40, 40), bool)
    data[10:13, 10:13], good[10:13, 10:13] = np.nan, False
    np.testing.assert_allclose(fill_local(data, good, 1.5), 5.0, rtol=1e-5)
    assert np.all(fill_local(data, np.zeros_like(good), 1.5) == 0)


@pytest.mark.parametrize("order", [1, 3, 5, 7, 9])
def test_the_noise_response_matches_resampled_noise(skies, difference_config, order):
    """White noise through the interpolation, then through a matched filter, keeps the predicted power."""
    import dataclasses

    from scipy import ndimage

    mapping = _mapping(skies, angle=7.0)
    config = dataclasses.replace(difference_config.resample, order=order)
    sigma = 1.0
    frequency = np.fft.fftfreq(64)
    transfer = np.exp(-2 * np.pi**2 * sigma**2 * (frequency[:, None] ** 2 + frequency[None, :] ** 2))
    expected = Resampler(*_planes(np.zeros(SHAPE)), mapping, SHAPE, config).response(transfer**2, slice(0, 96), slice(0, 96))
    powers = []
    for seed in range(30):
        noise = np.random.default_rng(seed).normal(size=SHAPE)
        planes = [to_grid(*_planes(noise), mapping, SHAPE, config).data, noise]
        inner = [ndimage.gaussian_filter(plane, sigma, truncate=6)[16:-16, 16:-16] for plane in planes]
        powers.append(inner[0].var() / inner[1].var())
    assert np.mean(powers) == pytest.approx(expected, rel=0.04)
    assert (expected > 0.98) == (order > 1)


BIG = (300, 280)


class _Watched:
    """An image that is looked at through windows alone, and remembers the largest."""

    def __init__(self, plane):
        self._plane, self.shape, self.most = plane, plane.shape, 0

    def __getitem__(self, window):
        part = self._plane[window].copy()
        self.most = max(self.most, part.size)
        return part


def _big(skies, config, *, scale=1.0, angle=0.0, shift=(0.4, -0.3), seed=0):
    rng = np.random.default_rng(seed)
    my, mx = (round(n / scale) + 30 for n in BIG)
    science, reference = skies.tan_wcs(BIG), skies.tan_wcs((my, mx), scale, angle, crpix=((mx + 1) / 2 + shift[0], (my + 1) / 2 + shift[1]))
    mapping = Mapping(science, reference, np.eye(2), np.zeros(2), np.array([139.5, 149.5]))
    dq = np.zeros((my, mx), np.uint32)
    dq[rng.integers(0, my, 60), rng.integers(0, mx, 60)] = np.uint32(DQ.BAD)
    dq[100:112, 90:101] = np.uint32(DQ.SATURATED)
    planes = [
        _Watched(plane)
        for plane in (rng.normal(100, 10, (my, mx)).astype(np.float32), rng.uniform(80, 120, (my, mx)).astype(np.float32), dq)
    ]
    return planes, Resampler(*planes, mapping, BIG, config)


@pytest.mark.parametrize(
    ("scale", "angle"), [(1.0, 0.0), (1.0, 0.4), (1.0, 12.0), (1.0, 35.0), (1.0, 91.0), (1.0, 179.5), (0.45, 3.0), (1.7, 2.0)]
)
def test_a_window_agrees_with_the_whole(skies, difference_config, scale, angle):
    planes, resampler = _big(skies, difference_config.resample, scale=scale, angle=angle)
    whole = resampler.window(slice(0, BIG[0]), slice(0, BIG[1]))
    for plane in planes:
        plane.most = 0
    for window in ((slice(70, 150), slice(60, 130)), (slice(0, 40), slice(0, 50)), (slice(250, 300), slice(200, 280))):
        part = resampler.window(*window)
        np.testing.assert_allclose(part.data, whole.data[window], rtol=3e-6, atol=3e-4)
        np.testing.assert_allclose(part.variance, whole.variance[window], rtol=3e-6)
        np.testing.assert_array_equal(part.dq, whole.dq[window])
    assert max(plane.most for plane in planes) < 0.45 * np.prod(planes[0].shape)


def test_blocks_do_not_show(skies, difference_config, monkeypatch):
    _, resampler = _big(skies, difference_config.resample, angle=0.4)
    whole = resampler.window(slice(0, BIG[0]), slice(0, BIG[1]))
    monkeypatch.setattr("astrid.imaging.alignment.resample._BLOCK", 64)
    tiled = resampler.window(slice(0, BIG[0]), slice(0, BIG[1]))
    np.testing.assert_allclose(tiled.data, whole.data, rtol=3e-6, atol=3e-4)
    np.testing.assert_array_equal(tiled.dq, whole.dq)


@pytest.mark.parametrize("order", [3, 5])
def test_it_is_the_spline_of_scipy(skies, difference_config, order):
    """Along one axis after the other the quintic of a shifted image is exact, of a turned one as good as exact."""
    import dataclasses

    from scipy import ndimage

    config = dataclasses.replace(difference_config.resample, order=order)
    rng = np.random.default_rng(4)
    data = ndimage.gaussian_filter(rng.normal(size=SHAPE), 1.0)
    for angle, tolerance in ((0.0, 1e-6), (0.7, 1e-3), (35.0, 1e-6)):
        mapping = _mapping(skies, angle=angle, shift=(0.37, -0.21))
        gx, gy = np.meshgrid(np.arange(96.0), np.arange(96.0))
        rx, ry = mapping(gx.ravel(), gy.ravel())
        theirs = ndimage.map_coordinates(data, [ry, rx], order=order, mode="mirror").reshape(SHAPE)
        ours = to_grid(*_planes(data), mapping, SHAPE, config)
        inner = (slice(16, -16), slice(16, -16))
        assert np.abs(ours.data - theirs)[inner].max() < tolerance


def test_the_footprint_is_the_overlap(skies, difference_config):
    _, resampler = _big(skies, difference_config.resample, angle=30.0, shift=(120.0, 40.0))
    assert resampler.footprint() == pytest.approx(resampler.window(slice(0, BIG[0]), slice(0, BIG[1])).overlap, abs=0.01)
    _, away = _big(skies, difference_config.resample, shift=(2000.0, 0.0))
    assert away.footprint() == 0.0


def test_the_response_is_local(skies, difference_config):
    """A scale slightly off one passes through all phases over the image: whole pixels here, half pixels there."""
    _, resampler = _big(skies, difference_config.resample, scale=1 / 1.002, shift=(0.0, 0.0))
    frequency = np.fft.fftfreq(64)
    weight = np.exp(-4 * np.pi**2 * 0.85**2 * (frequency[:, None] ** 2 + frequency[None, :] ** 2))
    local = [resampler.response(weight, slice(top, top + 40), slice(120, 160)) for top in (0, 130, 260)]
    whole = resampler.response(weight, slice(0, 300), slice(0, 280))
    assert max(local) - min(local) > 2e-4
    assert min(local) <= whole <= max(local)


def test_positions_without_an_answer_are_no_coverage(difference_config):
    def half_lost(x, y):
        return np.where(x > 48, np.nan, x + 0.5), y + 0.25

    data = np.full(SHAPE, 7.0)
    half_lost.jacobian = lambda x, y: np.eye(2)
    result = to_grid(*_planes(data), half_lost, SHAPE, difference_config.resample)
    np.testing.assert_allclose(result.data[10:80, 2:15], 7.0, rtol=1e-4)
    assert np.all((result.dq[:, 70:] & np.uint32(DQ.NO_COVERAGE)) != 0)


def test_crowds_of_holes_are_filled_as_single_ones():
    rng = np.random.default_rng(0)
    data = rng.normal(10, 1, (128, 128)).astype(np.float32)
    good = np.ones(data.shape, bool)
    good[5, 6] = good[60, 70] = False
    alone = fill_local(data, good, 1.5)
    crowded = good.copy()
    crowded[80:120:2, :] = False
    np.testing.assert_allclose(fill_local(data, crowded, 1.5)[[5, 60], [6, 70]], alone[[5, 60], [6, 70]], rtol=1e-5)


def test_a_psf_stamp_follows_the_mapping(skies):
    psf = given_psf(skies.stamp_of(skies.moffat(3.0), 15))
    same = map_psf(psf, np.eye(2), 7)
    np.testing.assert_allclose(same.stamp, psf.stamp, atol=1e-6)
    finer = map_psf(psf, np.eye(2) / 1.5, 7)
    assert finer.fwhm == pytest.approx(4.5, rel=0.03)
    assert finer.stamp.sum() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("order", [3, 5, 7, 9])
@pytest.mark.parametrize("angle", [0.0, 35.0])
def test_a_mapped_psf_is_a_resampled_star(skies, difference_config, order, angle):
    """Of a star on a whole pixel, however narrow it is, to 1e-5 of its peak: both go through the same spline."""
    import dataclasses

    config = dataclasses.replace(difference_config.resample, order=order)
    stamp = skies.stamp_of(skies.moffat(2.0), 31)
    middle = stamp.shape[0] // 2
    data = np.zeros(SHAPE)
    data[48 - middle : 49 + middle, 48 - middle : 49 + middle] = stamp
    turn = np.deg2rad(angle)
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])

    def about(x, y):
        return 48.0 + linear[0, 0] * (x - 48.0) + linear[0, 1] * (y - 48.0), 48.0 + linear[1, 0] * (x - 48.0) + linear[1, 1] * (y - 48.0)

    about.jacobian = lambda x, y: linear
    image = to_grid(*_planes(data), about, SHAPE, config).data[38:59, 38:59]
    mapped = map_psf(given_psf(stamp), linear, order).stamp
    half = mapped.shape[0] // 2
    core = mapped[half - 10 : half + 11, half - 10 : half + 11]
    np.testing.assert_allclose(core / core[10, 10], image / image[10, 10], atol=1e-5)


@pytest.mark.parametrize("angle", [0.5, 13.0])
def test_it_agrees_with_reproject_and_is_nearer_to_the_truth(skies, difference_config, angle):
    """reproject's bicubic interpolation is the field's reference; the truth is the same sky rendered on the science grid."""
    from reproject import reproject_interp

    mapping = _mapping(skies, angle=angle)
    sx, sy, flux = np.array([30.3, 60.7, 47.1]), np.array([40.2, 33.6, 66.9]), [1000.0, 700.0, 400.0]
    profile = skies.pixelised(skies.moffat(3.0))
    data = skies.render(SHAPE, profile, *mapping(sx, sy), flux)
    truth = skies.render(SHAPE, profile, sx, sy, flux)
    ours = to_grid(*_planes(data), mapping, SHAPE, difference_config.resample).data
    theirs, _ = reproject_interp((data, mapping.wcs_reference), mapping.wcs_science, shape_out=SHAPE, order="bicubic")
    inner = (slice(15, -15), slice(15, -15))
    assert np.abs(ours - theirs)[inner].max() < 0.02 * truth.max()
    assert np.abs(ours - truth)[inner].max() < np.abs(theirs - truth)[inner].max()

"""What alignment has to reach: the centroids' floor, places and fluxes after resampling, the noise's power, no ringing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from astrid.core.dq import DQ
from astrid.imaging.alignment.astrometry import Mapping, Points, refine
from astrid.imaging.alignment.resample import Resampler, to_grid

SHAPE = (320, 320)
CENTRE = np.array([159.5, 159.5])


def _mapping(skies, *, angle=0.0, scale=1.0, shift=(0.3, 0.2), flipped=False):
    science, reference = skies.tan_wcs(SHAPE), skies.tan_wcs(SHAPE, scale, angle, crpix=(160.5 + shift[0], 160.5 + shift[1]))
    if flipped:
        reference.wcs.cd = reference.wcs.cd @ np.diag([-1.0, 1.0])
    return Mapping(science, reference, np.eye(2), np.zeros(2), CENTRE)


def _planes(data):
    return data.astype(np.float32), np.ones(data.shape, np.float32), np.zeros(data.shape, np.uint32)


def _stars(rng):
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(70.0, 255.0, 30.0), np.arange(70.0, 255.0, 30.0)))
    return x + rng.uniform(-0.5, 0.5, x.size), y + rng.uniform(-0.5, 0.5, y.size)


def _fitted(image, profile, x, y):
    """Offsets and flux of stars by the true profile, to convergence."""
    out = []
    for sx, sy in zip(x, y, strict=True):
        rows, columns = np.mgrid[round(sy) - 5 : round(sy) + 6, round(sx) - 5 : round(sx) + 6]
        stamp, px, py = image[rows, columns].ravel().astype(float), sx, sy
        for _ in range(3):
            slopes = [
                profile(rows - py - a, columns - px - b) - profile(rows - py + a, columns - px + b) for a, b in ((0, 0.05), (0.05, 0))
            ]
            model = [profile(rows - py, columns - px), slopes[0] / -0.1, slopes[1] / -0.1]
            flux, mx, my = np.linalg.lstsq(np.stack([m.ravel() for m in model], axis=1), stamp, rcond=None)[0]
            px, py = px - mx / flux, py - my / flux
        out.append((px - sx, py - sy, flux))
    return np.array(out)


@pytest.mark.parametrize(
    ("fwhm", "limit", "angle", "flipped"),
    [
        *((2.2, 2.0, angle, flipped) for angle, flipped in ((0.5, False), (1.7, False), (18.0, False), (33.0, False), (95.0, True))),
        (2.3, 2.0, 0.0, False),
        *((3.0, 0.2, angle, flipped) for angle, flipped in ((0.0, False), (0.5, False), (18.0, False), (33.0, False), (95.0, True))),
    ],
)
def test_stars_keep_place_and_flux(skies, difference_config, fwhm, limit, angle, flipped):
    mapping = _mapping(skies, angle=angle, flipped=flipped)
    profile = skies.pixelised(skies.moffat(fwhm), sub=7)
    x, y = _stars(np.random.default_rng(1))
    data = skies.render(SHAPE, profile, *mapping(x, y), np.full(x.size, 1e5))
    result = _fitted(to_grid(*_planes(data), mapping, SHAPE, difference_config.resample).data, profile, x, y)
    assert 1e3 * np.sqrt(np.mean(result[:, :2] ** 2)) < limit  # mpx an axis
    assert np.mean(result[:, 2]) == pytest.approx(1e5, rel=1e-3)


@pytest.mark.parametrize("shift", [(0.5, 0.5), (0.25, 0.1), (0.4, 0.0), (-0.3, 0.2)])
def test_places_are_as_good_as_by_exact_interpolation(skies, difference_config, shift):
    """A PSF of FWHM 2.2 px is not sampled finely enough: even a Fourier shift, which has no error of its own, moves its centroids."""
    mapping = _mapping(skies, shift=shift)
    profile = skies.pixelised(skies.moffat(2.2), sub=7)
    x, y = _stars(np.random.default_rng(4))
    rx, ry = mapping(x, y)
    data = skies.render(SHAPE, profile, rx, ry, np.full(x.size, 1e5))
    phase = [np.exp(2j * np.pi * np.fft.fftfreq(SHAPE[0]) * np.mean(d)) for d in (rx - x, ry - y)]
    exact = np.fft.ifft2(np.fft.fft2(data) * phase[1][:, None] * phase[0][None, :]).real
    ours = to_grid(*_planes(data), mapping, SHAPE, difference_config.resample).data
    error = [1e3 * np.sqrt(np.mean(_fitted(image, profile, x, y)[:, :2] ** 2)) for image in (ours, exact)]
    assert error[0] < 1.1 * error[1] + 0.1


@pytest.mark.parametrize("fwhm", [2.0, 3.0, 4.0])
@pytest.mark.parametrize("shift", [(0.5, 0.5), (0.25, 0.1), (0.4, 0.0)])
def test_the_noise_keeps_the_power_that_is_stated(skies, difference_config, fwhm, shift):
    """Resampled white noise under a matched filter against the same noise, unresampled, in the mean over the area: to 1 %."""
    mapping = _mapping(skies, shift=shift)
    frequency = np.fft.fftfreq(SHAPE[0])
    transfer = np.exp(-2 * np.pi**2 * (fwhm / 2.3548) ** 2 * (frequency[:, None] ** 2 + frequency[None, :] ** 2))
    inner = (slice(24, -24), slice(24, -24))
    powers = []
    for seed in range(6):
        noise = np.random.default_rng(seed).normal(size=SHAPE)
        images = (to_grid(*_planes(noise), mapping, SHAPE, difference_config.resample).data, noise)
        powers.append([np.fft.ifft2(np.fft.fft2(image) * transfer).real[inner].var() for image in images])
    resampler = Resampler(*_planes(noise), mapping, SHAPE, difference_config.resample)
    weight = transfer[::5, ::5] ** 2
    expected = resampler.response(weight, slice(0, 320), slice(0, 320))
    ratio = np.mean(powers, axis=0)
    assert ratio[0] / ratio[1] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("scale", [0.4, 0.7, 1.5])
def test_finer_and_coarser_references_keep_noise_and_flux(skies, difference_config, scale):
    """The stated variance, with the response, is that of the filtered noise; a level of counts an area stays one."""
    mapping = _mapping(skies, scale=scale, angle=4.0)
    window = (slice(110, 210), slice(110, 210)) if scale < 1 else (slice(60, 260), slice(60, 260))
    shape = tuple(w.stop - w.start for w in window)
    side = round(320 / min(scale, 1.0)) + 80
    reference = skies.tan_wcs((side, side), scale, 4.0, crpix=((side + 1) / 2 + 0.3, (side + 1) / 2 + 0.2))
    mapping = dataclasses.replace(mapping, wcs_reference=reference)
    frequency = [np.fft.fftfreq(n) for n in shape]
    transfer = np.exp(-2 * np.pi**2 * (3.0 / 2.3548) ** 2 * (frequency[0][:, None] ** 2 + frequency[1][None, :] ** 2))
    ratios = []
    for seed in range(12):
        noise = np.random.default_rng(seed).normal(size=(side, side)) + 5.0
        resampler = Resampler(*_planes(noise), mapping, SHAPE, difference_config.resample)
        result = resampler.window(*window)
        filtered = np.fft.ifft2(np.fft.fft2((result.data - 5.0 / scale**2) / np.sqrt(result.variance)) * transfer).real
        ratios.append(filtered[10:-10, 10:-10].var() / np.mean(transfer**2))
    assert result.data.mean() == pytest.approx(5.0 / scale**2, rel=0.01)
    assert np.mean(ratios) == pytest.approx(resampler.response(transfer**2, *window), abs=4 * np.std(ratios) / np.sqrt(12) + 0.01)


@pytest.mark.parametrize("angle", [0.5, 33.0])
def test_masked_pixels_do_not_ring(skies, difference_config, angle):
    mapping = _mapping(skies, angle=angle)
    profile = skies.pixelised(skies.moffat(2.5))
    x, y = _stars(np.random.default_rng(2))
    data = skies.render(SHAPE, profile, *mapping(x, y), np.full(x.size, 1e4)) + 50.0
    clean = to_grid(*_planes(data), mapping, SHAPE, difference_config.resample)
    rng = np.random.default_rng(3)
    rows, columns = rng.integers(20, 300, (2, 150))
    planes = _planes(data)
    planes[0][rows, columns], planes[2][rows, columns] = 6e4, np.uint32(DQ.COSMIC_RAY)
    planes[0][:, 100], planes[2][:, 100] = np.nan, np.uint32(DQ.BAD)
    marked = to_grid(*planes, mapping, SHAPE, difference_config.resample)
    kept = marked.dq == 0
    assert kept.mean() > 0.7
    change = np.abs(marked.data - clean.data)[kept]
    assert np.percentile(change, 99) < 0.3
    assert change.max() < 0.03 * clean.data.max()


@pytest.mark.parametrize("seed", range(5))
def test_300_stars_reach_the_floor_of_their_centroids(skies, difference_config, seed):
    """RMS error of the mapping: 30 mpx sqrt(6 / n) = 4.2 mpx, in expectation; 5 mpx is asked for, one draw scatters by a third."""
    rng = np.random.default_rng(seed)
    shape, noise = (2048, 2048), 0.03
    x, y = rng.uniform(10, 2037, (2, 300))
    science, truth = skies.tan_wcs(shape), skies.tan_wcs(shape, 1.004, 0.5, crpix=(1030.0, 1015.0))
    stated = skies.tan_wcs(shape, 1.004, 0.5, crpix=(1026.0, 1021.0))
    rx, ry = truth.world_to_pixel_values(*science.pixel_to_world_values(x, y))
    flux, half = rng.uniform(1, 100, 300), noise / np.sqrt(2)
    lists = [
        Points(px + half * rng.normal(size=300), py + half * rng.normal(size=300), np.full(300, half), flux)
        for px, py in ((x, y), (rx, ry))
    ]
    result = refine(*lists, science, stated, shape, difference_config.registration)
    mx, my = result.mapping(x, y)
    assert (result.method, result.n_matched) == ("affine", 300)
    assert np.sqrt(np.mean((mx - rx) ** 2 + (my - ry) ** 2)) < 1.8 * noise * np.sqrt(6 / 300)
    assert max(result.sigma_x, result.sigma_y) < 0.02

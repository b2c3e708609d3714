from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from astrid.core.errors import ImagingError
from astrid.imaging.stars.psf import gaussian_psf
from astrid.imaging.zogy.engine import Job, Side, engine
from astrid.imaging.zogy.tiles import cut, plan_tiles

torch = pytest.importorskip("torch")

SHAPE = (260, 240)


def _jobs(planes=False, widths=(3.0,)):
    """Tiles of a noisy pair with one bright star; the science PSF of a tile cycles through `widths`."""
    rng = np.random.default_rng(2)
    star = np.zeros(SHAPE, np.float32)
    star[100:125, 110:135] = 1e5 * gaussian_psf(3.0, 12).stamp
    scatter = (np.linspace(0.01, 0.1, SHAPE[0], dtype=np.float32)[:, None] * np.ones(SHAPE, np.float32), 0.03) if planes else (0.02, 0.03)
    images = [(star + sigma * rng.normal(size=SHAPE).astype(np.float32), star + np.float32(sigma**2), sigma) for sigma in (10.0, 4.0)]
    jobs = []
    for number, tile in enumerate(plan_tiles(SHAPE, 130, 20)):
        sides = []
        for (data, variance, sigma), fwhm in zip(images, (widths[number % len(widths)], 2.5), strict=True):
            local = tuple(value[tile.write] if isinstance(value, np.ndarray) else value for value in scatter)
            pixels = cut(data, tile, 0.0), cut(variance, tile, sigma**2)
            sides.append(Side(*pixels, gaussian_psf(fwhm, 12).stamp, sigma, 1.3, local, 0.01))
        jobs.append(Job(sides[0], sides[1], tile.inner))
    return jobs


@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("widths", [(3.0,), (2.6, 3.4)])
def test_torch_gives_the_numbers_of_pyfftw(planes, widths):
    jobs = _jobs(planes, widths)
    assert len(jobs) > 2
    ours, theirs = engine("torch", "cpu")(jobs), engine("pyfftw")(jobs)
    for got, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(got.difference, expected.difference, atol=1e-3)
        np.testing.assert_allclose(got.score, expected.score, atol=1e-3)
        for name in ("flux", "flux_error", "scene"):
            np.testing.assert_allclose(getattr(got, name), getattr(expected, name), atol=1e-3 * expected.blank_error, rtol=1e-5)
        for name in ("flux_difference", "flux_score", "scene_error", "blank_error"):
            assert getattr(got, name) == pytest.approx(getattr(expected, name), rel=1e-6)
        np.testing.assert_array_equal(got.psf, expected.psf)


def test_identical_images_leave_nothing_in_torch():
    jobs = [dataclasses.replace(job, ref=job.new) for job in _jobs()]
    for result in engine("torch", "cpu")(jobs):
        assert np.all(result.difference == 0)
        assert np.all(result.score == 0)


def test_an_empty_batch_is_empty():
    assert engine("torch", "cpu")([]) == []


def test_a_gpu_that_is_absent_is_named():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ImagingError, match="torch sees none"):
        engine("torch", "cuda")
    assert len(engine("torch", "auto")(_jobs()[:1])) == 1


def test_impossible_batches_are_refused():
    run, jobs = engine("torch", "cpu"), _jobs()
    small = [dataclasses.replace(side, data=side.data[:-2], variance=side.variance[:-2]) for side in (jobs[0].new, jobs[0].ref)]
    with pytest.raises(ImagingError, match="plan them with one shape"):
        run([jobs[0], Job(small[0], small[1], jobs[0].inner)])
    with pytest.raises(ImagingError, match="bring them onto one grid"):
        run([dataclasses.replace(jobs[0], ref=small[1])])
    broken = jobs[0].ref.variance.copy()
    broken[5, 5] = np.nan
    with pytest.raises(ImagingError, match=r"the reference holds .* fill them"):
        run([dataclasses.replace(jobs[0], ref=dataclasses.replace(jobs[0].ref, variance=broken))])

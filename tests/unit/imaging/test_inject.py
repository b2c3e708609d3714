from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from astrid.core.dq import DQ
from astrid.core.errors import ImagingError
from astrid.imaging.inject import inject
from astrid.io.planes import DiskPlane, Scratch


@pytest.fixture
def image(skies):
    blank = skies.make_pair(seed=1, shape=(80, 80), count=1, given=True).science
    return dataclasses.replace(blank, data=np.zeros_like(blank.data), gain=2.0)


def test_flux_place_noise_and_mark(image):
    rng = np.random.default_rng(1)
    out = inject(image, np.array([[30.3, 40.6]]), np.array([1e6]), rng)
    rows, columns = np.indices(out.data.shape)
    total = out.data.sum()
    assert total == pytest.approx(1e6, rel=0.005)
    assert (out.data * columns).sum() / total == pytest.approx(30.3, abs=0.02)
    assert (out.data * rows).sum() / total == pytest.approx(40.6, abs=0.02)
    assert (out.variance - image.variance).sum() == pytest.approx(1e6 / 2.0, rel=0.005)
    assert np.argwhere(out.dq & np.uint32(DQ.INJECTED)).tolist() == [[41, 30]]
    assert out.meta["n_injected"] == 1
    assert not image.data.any()


def test_photon_noise_follows_the_gain(image):
    totals = [inject(image, np.array([[40.0, 40.0]]), np.array([1e4]), np.random.default_rng(seed)).data.sum() for seed in range(300)]
    assert np.std(totals) == pytest.approx(np.sqrt(1e4 / 2.0), rel=0.15)


def test_the_same_seed_gives_the_same_bytes_and_fading_sources_count(image):
    args = (image, np.array([[20.2, 20.7], [500.0, 500.0]]), np.array([-5e3, 1e3]))
    ours, again = (inject(*args, np.random.default_rng(3)) for _ in range(2))
    assert ours.data.tobytes() == again.data.tobytes()
    assert ours.data.sum() == pytest.approx(-5e3, rel=0.05)
    assert (ours.variance >= image.variance).all()


def test_a_wider_source_has_the_same_flux_and_a_lower_peak(image):
    place, flux, rng = np.array([[40.0, 40.0]]), np.array([1e6]), np.random.default_rng(5)
    thin, wide = (inject(image, place, flux, rng, widths=np.array([width])).data for width in (1.0, 1.1))
    assert wide.sum() == pytest.approx(thin.sum(), rel=0.01)
    assert wide.max() / thin.max() == pytest.approx(1.1**-2, rel=0.01)


def test_planes_go_where_the_caller_wants_them(image, tmp_path):
    scratch = Scratch(tmp_path / "planes")
    files = []

    def on_disk(shape, dtype):
        files.append(DiskPlane(tmp_path / f"{len(files)}.plane", 0, shape, np.dtype(dtype).str))
        np.zeros(shape, dtype).tofile(files[-1].path)
        return files[-1]

    args = (np.array([[20.2, 20.7], [0.3, 79.0]]), np.array([5e3, 2e3]))
    plain = inject(image, *args, np.random.default_rng(3))
    for made in (inject(image, *args, np.random.default_rng(3), allocate=how) for how in (scratch, on_disk)):
        for name in ("data", "variance", "dq"):
            assert np.array_equal(np.asarray(getattr(made, name)), getattr(plain, name))
    assert len(files) == 3


def test_what_cannot_be_injected_is_refused(image):
    rng = np.random.default_rng(4)
    place, flux = np.array([[5.0, 5.0]]), np.array([1.0])
    with pytest.raises(ImagingError, match="has no PSF; estimate it"):
        inject(dataclasses.replace(image, psf=None), place, flux, rng)
    with pytest.raises(ImagingError, match="must be positive and finite to draw photon noise"):
        inject(dataclasses.replace(image, gain=0.0), place, flux, rng)
    with pytest.raises(ImagingError, match="gain inf; it must be positive and finite"):
        inject(dataclasses.replace(image, gain=np.inf), place, flux, rng)
    with pytest.raises(ImagingError, match="give a positive one for each"):
        inject(image, place, flux, rng, widths=np.array([0.0]))
    with pytest.raises(ImagingError, match="give one finite flux a position"):
        inject(image, place, np.array([1.0, 2.0]), rng)

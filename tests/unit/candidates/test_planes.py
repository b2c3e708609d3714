import tracemalloc
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from astrid.candidates import host, planes
from astrid.candidates.extract import find_candidates
from astrid.candidates.forced import force
from astrid.candidates.runs import distance, regions, runs_of
from astrid.candidates.stamps import cut_stamps
from astrid.core.dq import DQ

PLANES = ("science", "reference", "difference", "score", "flux", "flux_err", "dq")


class Sliced:
    """A plane that lies elsewhere: slices of rows and columns are all it gives, as copies."""

    def __init__(self, plane):
        self._plane, self.shape = plane, plane.shape
        self.largest = 0

    def __getitem__(self, window):
        rows, columns = window
        assert isinstance(rows, slice)
        assert isinstance(columns, slice)
        part = self._plane[window].copy()
        self.largest = max(self.largest, part.size)
        return part


def sliced(product):
    return replace(product, **{name: Sliced(getattr(product, name)) for name in PLANES})


@pytest.fixture
def busy(scene):
    view = scene(shape=(320, 300))
    rng = np.random.default_rng(4)
    view.reference += rng.normal(0, 1, view.shape)
    for _ in range(12):
        x, y = rng.uniform(20, 280, 2)
        light = 10 ** rng.uniform(3, 4.5) * view.source(x, y, sigma=rng.choice([1.7, 4.0]))
        view.science += light
        view.reference += light
    view.science += view.reference * 0  # the reference's noise stays its own
    for x in range(40, 280, 40):
        for y in range(40, 300, 40):
            view.add(x + rng.uniform(-0.5, 0.5), y + rng.uniform(-0.5, 0.5), rng.choice([-1, 1]) * rng.uniform(8, 60))
    view.dq[:, :15] = DQ.NO_COVERAGE
    view.dq[100:104, 60:140] = DQ.SATURATED
    return view.build()


def test_planes_that_only_slice_give_the_same_candidates(busy, cfg):
    whole = find_candidates(busy, cfg, pair_id="s__r")
    parts = find_candidates(sliced(busy), cfg, pair_id="s__r")
    assert len(whole) > 30
    pd.testing.assert_frame_equal(whole, parts)
    np.testing.assert_array_equal(cut_stamps(busy, whole), cut_stamps(sliced(busy), whole))
    at = np.array([50.3, 200.8]), np.array([60.1, 220.4])
    np.testing.assert_array_equal(force(busy, *at, cfg.forced).flux, force(sliced(busy), *at, cfg.forced).flux)


def test_narrow_bands_change_nothing(busy, cfg, monkeypatch):
    whole = find_candidates(busy, cfg, pair_id="s__r")
    monkeypatch.setattr(planes.bands, "__defaults__", (900,))  # three rows a band
    pd.testing.assert_frame_equal(whole, find_candidates(busy, cfg, pair_id="s__r"))


def test_sections_find_the_sources_that_the_whole_finds(scene, cfg, monkeypatch):
    view = scene(shape=(600, 640))
    rng = np.random.default_rng(9)
    view.reference += rng.normal(0, 1, view.shape)
    for number in range(60):
        wide = 1.7 if number % 3 else 4.0
        view.reference += 20_000 * view.source(20 + 60 * (number % 10) + rng.uniform(0, 30), 20 + 90 * (number // 10), sigma=wide)
    product = view.build()
    whole = host.reference_sources(product, cfg.host)
    monkeypatch.setattr(host, "_WHOLE", 0)
    monkeypatch.setattr(host, "_CORE", 192)
    monkeypatch.setattr(host, "_MARGIN", 64)
    parts = host.reference_sources(sliced(product), cfg.host)
    bright = whole.flux > 2000
    assert bright.sum() == 60
    gap = np.hypot(whole.x[bright][:, None] - parts.x, whole.y[bright][:, None] - parts.y)
    nearest = gap.argmin(axis=1)
    assert gap.min(axis=1).max() < 0.2
    assert len(np.unique(nearest)) == 60
    assert (parts.flux > 2000).sum() == 60
    np.testing.assert_array_equal(parts.extended[nearest], whole.extended[bright])
    np.testing.assert_allclose(parts.flux[nearest], whole.flux[bright], rtol=0.02)
    assert product.reference.size > 3 * (192 + 128) ** 2


def test_the_search_holds_few_planes_at_once(scene, cfg):
    view = scene(shape=(1600, 1600))
    view.reference += np.random.default_rng(3).normal(0, 1, view.shape)
    for number in range(5):
        view.science[300 * number + 50, 100] += 400
    product = view.build()
    tracemalloc.start()
    find_candidates(product, cfg, pair_id="s__r")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * product.score.nbytes


def test_single_pixels_are_those_of_the_plane():
    plane = np.arange(12.0 * 700).reshape(700, 12)
    rng = np.random.default_rng(1)
    iy, ix = rng.integers(0, 700, (40, 3)), rng.integers(0, 12, (40, 3))
    np.testing.assert_array_equal(planes.pick(Sliced(plane), iy, ix), plane[iy, ix])
    none = np.zeros(0, dtype=np.int64)
    assert planes.pick(Sliced(plane), none, none).shape == (0,)


def test_stamps_are_filled_outside():
    plane = np.arange(20, dtype=np.uint32).reshape(4, 5)
    cut = planes.stamps(plane, np.array([0, 2, -9]), np.array([0, 2, 2]), 1, outside=99)
    assert cut.dtype == np.uint32
    np.testing.assert_array_equal(cut[0], [[99, 99, 99], [99, 0, 1], [99, 5, 6]])
    np.testing.assert_array_equal(cut[1], plane[1:4, 1:4])
    assert (cut[2] == 99).all()


def test_a_sample_has_the_plane_s_level_and_noise_and_skips_nan():
    plane = np.random.default_rng(2).normal(5.0, 2.0, (1500, 1700)).astype(np.float32)
    plane[::2] = np.nan
    values = planes.sample(plane)
    assert 20_000 < len(values) < 140_000
    assert values.mean() == pytest.approx(5.0, abs=0.05)
    assert values.std() == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.45, 0.9])
def test_regions_are_those_of_a_label_image(share, diagonal):
    mask = np.random.default_rng(int(100 * share)).uniform(size=(60, 47)) < share
    runs = runs_of(mask, lambda band: band)
    number = regions(runs, diagonal=diagonal)
    iy, ix, run = runs.pixels()
    painted = np.full(mask.shape, -1)
    painted[iy, ix] = number[run]
    np.testing.assert_array_equal(painted >= 0, mask)
    expected, count = ndimage.label(mask, structure=np.ones((3, 3)) if diagonal else None)
    assert len(np.unique(number)) == count
    assert len(np.unique(np.stack([painted[mask], expected[mask]]), axis=1).T) == count
    np.testing.assert_array_equal(runs.find(iy, ix), run)
    away = np.argwhere(~mask)
    assert (runs.find(away[:, 0], away[:, 1]) == -1).all()


def test_the_distance_to_runs_is_that_to_their_pixels():
    rng = np.random.default_rng(5)
    mask = rng.uniform(size=(80, 90)) < 0.05
    mask[40, 20:70] = True
    x, y = rng.uniform(-5, 95, 200), rng.uniform(-5, 85, 200)
    iy, ix = np.nonzero(mask)
    expected = np.hypot(x[:, None] - ix, y[:, None] - iy).min(axis=1)
    np.testing.assert_allclose(distance(runs_of(mask, lambda band: band), x, y)[0], expected)
    nothing = runs_of(np.zeros((4, 4), dtype=bool), lambda band: band)
    assert np.isinf(distance(nothing, x, y)[0]).all()
    assert len(regions(nothing, diagonal=True)) == 0
    assert (nothing.find(np.array([1]), np.array([1])) == -1).all()

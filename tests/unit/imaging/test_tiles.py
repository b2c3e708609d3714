from __future__ import annotations

import numpy as np
import pytest

from astrid.core.errors import ImagingError
from astrid.imaging.zogy.tiles import LENGTHS, cut, plan_tiles


@pytest.mark.parametrize("shape", [(1, 1), (20, 700), (101, 203), (448, 448), (481, 480), (1024, 999), (3080, 3072)])
@pytest.mark.parametrize(("core", "margin"), [(480, 23), (100, 1), (256, 70)])
def test_a_plan_covers_every_pixel_once_in_arrays_of_one_fast_shape(shape, core, margin):
    tiles = plan_tiles(shape, core, margin)
    covered = np.zeros(shape, int)
    for tile in tiles:
        covered[tile.write] += 1
        assert all(length in LENGTHS and length % 2 == 0 for length in tile.shape)
        assert all(window.stop - window.start <= core for window in tile.write)
    assert (covered == 1).all()
    assert len({tile.shape for tile in tiles}) == 1


@pytest.mark.parametrize("shape", [(30, 500), (1024, 999)])
def test_a_core_has_its_margins_or_the_whole_image_around_it(shape):
    margin = 23
    for tile in plan_tiles(shape, 300, margin):
        for length, side, read, inner in zip(shape, tile.shape, tile.read, tile.inner, strict=True):
            before, after = inner.start, side - inner.stop
            whole = (read.start, read.stop) == (0, length)
            assert min(before, after) >= margin or (whole and before + after >= margin and min(before, after) >= 1)


def test_windows_point_at_the_same_pixels():
    shape = (330, 270)
    image = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape)
    for tile in plan_tiles(shape, 100, 14):
        array = cut(image, tile, -1.0)
        assert array.shape == tile.shape
        np.testing.assert_array_equal(array[tile.inner], image[tile.write])
        np.testing.assert_array_equal(array[tile.place], image[tile.read])
        assert (array == -1).sum() == array.size - image[tile.read].size
        into = np.full(tile.shape, 7, np.float32)
        assert cut(image, tile, -1.0, into) is into
        np.testing.assert_array_equal(into, array)


def test_a_plane_is_only_sliced(tmp_path):
    """A plane on disk serves as well as an array: no tile reads more than its window."""
    image = np.random.default_rng(0).normal(size=(200, 300)).astype(np.float32)
    np.save(tmp_path / "plane.npy", image)
    read = []

    class Plane:
        shape = image.shape

        def __getitem__(self, window):
            read.append(window)
            return np.load(tmp_path / "plane.npy", mmap_mode="r")[window]

    for tile in plan_tiles(image.shape, 100, 14):
        np.testing.assert_array_equal(cut(Plane(), tile, 0.0)[tile.inner], image[tile.write])
        assert read[-1] == tile.read


def test_the_centre_is_that_of_the_core():
    tiles = plan_tiles((200, 300), 100, 14)
    assert tiles[0].centre == ((tiles[0].write[1].stop - 1) / 2, (tiles[0].write[0].stop - 1) / 2)
    assert tiles[-1].centre[0] > tiles[0].centre[0]


def test_cores_fit_the_cache():
    """Splits that hold the fewest pixels: an image of the usual size is never one large array."""
    for side in (1024, 2048, 3072, 4096, 12000):
        tiles = plan_tiles((side, side), 480, 23)
        assert max(tiles[0].shape) <= 512
        assert len(tiles) * tiles[0].shape[0] * tiles[0].shape[1] < 1.45 * side**2


def test_impossible_plans_are_refused():
    with pytest.raises(ImagingError, match="all must be positive"):
        plan_tiles((100, 100), 0, 10)
    with pytest.raises(ImagingError, match="leave no core"):
        plan_tiles((3000, 3000), 480, 1024)

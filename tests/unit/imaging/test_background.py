from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from astrid.config.schema.calibrate import BackgroundConfig
from astrid.core.errors import ImagingError
from astrid.imaging.detector.background import measure_background

CONFIG = BackgroundConfig(
    mesh_px=32, filter_cells=3, source_sigma=3.0, source_grow_px=4, iterations=2, max_masked_fraction=0.98, archive_sky="mesh"
)
SHAPE = (128, 160)


def noisy(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(50.0, 4.0, SHAPE).astype(np.float32)


def test_level_and_rms_of_plain_noise():
    sky = measure_background(noisy(), np.zeros(SHAPE, bool), CONFIG)
    assert sky.median == pytest.approx(50.0, abs=0.15)
    assert sky.median_rms == pytest.approx(4.0, rel=0.03)
    assert sky.level.shape == sky.rms.shape == SHAPE
    assert (sky.level.dtype, sky.rms.dtype) == (np.float32, np.float32)
    assert sky.sources.mean() < 0.15


def test_masked_pixels_do_not_count():
    data, mask = noisy(), np.zeros(SHAPE, bool)
    mask[40:60, 50:80] = True
    data[mask] = 1e6
    sky = measure_background(data, mask, CONFIG)
    assert np.abs(sky.level - 50.0).max() < 1.5


def test_sources_are_masked_with_their_wings():
    data = noisy()
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    data += (4000.0 / (1 + ((x - 70) ** 2 + (y - 60) ** 2) / 9.0) ** 2).astype(np.float32)
    sky = measure_background(data, np.zeros(SHAPE, bool), CONFIG)
    assert sky.sources[60, 70:82].all()
    assert sky.level[60, 70] == pytest.approx(50.0, abs=1.0)


def test_a_constant_image_has_no_noise_and_no_source():
    sky = measure_background(np.full(SHAPE, 9.0, np.float32), np.zeros(SHAPE, bool), CONFIG)
    assert (sky.median, sky.sources.any()) == (9.0, False)


def test_an_image_full_of_masks_is_refused():
    mask = np.ones(SHAPE, bool)
    mask[:4] = False
    with pytest.raises(ImagingError, match=r"96.9% of the pixels are masked .* max_masked_fraction = 90.0%"):
        measure_background(noisy(), mask, replace(CONFIG, max_masked_fraction=0.9))

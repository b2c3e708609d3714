"""The flux of a candidate is that of its sub-pixel position, not of the nearest pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from astrid.candidates.extract import find_candidates
from astrid.config.schema import CandidatesConfig
from astrid.config.validate import validate
from astrid.imaging.pair import subtract_pair

ROOT = Path(__file__).parents[2]
FWHM = 1.9  # px of the profile before the pixels: 2.1 px in the image, as JWST's F200W


@pytest.fixture(scope="module")
def measured(skies, difference_config):
    """(candidates, true flux of each, nearest pixel of the FLUX plane over the true flux)."""
    finding = validate(CandidatesConfig, yaml.safe_load((ROOT / "conf" / "candidates" / "default.yaml").read_text()))
    rng = np.random.default_rng(4)
    grid = np.arange(30, 370, 24)
    x, y = (axis.ravel() + rng.uniform(-0.5, 0.5, axis.size) for axis in np.meshgrid(grid, grid))
    flux = rng.uniform(4000, 12000, x.size)
    sky = skies.make_pair(seed=5, shape=(400, 400), count=40, fwhm=(FWHM, FWHM), given=True, transients=np.c_[x, y, flux])
    product = subtract_pair(sky.science, sky.reference, difference_config)
    found = find_candidates(product, finding, pair_id="p")
    distance = np.hypot(found["x"].to_numpy()[:, None] - x, found["y"].to_numpy()[:, None] - y)
    nearest = distance.argmin(axis=0)
    matched = distance.min(axis=0) < 0.5
    rows = found.iloc[nearest[matched]]
    pixel = product.flux[np.rint(y[matched]).astype(int), np.rint(x[matched]).astype(int)] / flux[matched]
    return rows, flux[matched], pixel


def test_the_flux_of_a_candidate_between_pixels_is_unbiased(measured):
    found, truth, pixel = measured
    assert len(found) > 200
    assert np.median(pixel) < 0.97  # what the nearest pixel alone would lose
    assert np.median(found["flux"] / truth) == pytest.approx(1.0, abs=0.005)


def test_the_flux_does_not_hang_on_the_place_within_the_pixel(measured):
    found, truth, _ = measured
    offset = np.hypot(found["x"] - np.rint(found["x"]), found["y"] - np.rint(found["y"]))
    ratio = found["flux"] / truth
    inner, outer = ratio[offset < 0.25].median(), ratio[offset > 0.45].median()
    assert inner == pytest.approx(outer, abs=0.012)


def test_its_error_describes_the_scatter(measured):
    found, truth, _ = measured
    pull = (found["flux"] - truth) / found["flux_err"]
    assert 0.8 < pull.std() < 1.2

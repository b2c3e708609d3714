"""Forced photometry on proper subtractions: the flux that was put in, with the error that it says, wherever it lies in a pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from astrid.candidates.forced import force
from astrid.config.schema import CandidatesConfig
from astrid.config.schema.imaging import DifferenceConfig
from astrid.config.validate import validate
from astrid.imaging.pair import subtract_pair

ROOT = Path(__file__).parents[2]
SEEDS = range(5)


def measured(skies, values, cfg, *, fwhm, low, high):
    """(flux, error, truth) of sources that are far from the stars, over the seeds.

    The width of the score is left as computed: so many sources in a small image are no blank sky to measure it on.
    """
    values = {**values, "score": {**values["score"], "renormalise": "never", "photometric_term": False}}
    parts = []
    for seed in SEEDS:
        rng = np.random.default_rng(100 + seed)
        grid = np.arange(30, 290, 26)
        x, y = (axis.ravel() + rng.uniform(-0.5, 0.5, axis.size) for axis in np.meshgrid(grid, grid))
        flux = rng.uniform(low, high, x.size)
        sky = skies.make_pair(
            seed=seed, shape=(320, 320), count=30, fwhm=(fwhm, 0.9 * fwhm), given=True, transients=np.c_[x, y, flux] if high > 0 else ()
        )
        found = force(subtract_pair(sky.science, sky.reference, validate(DifferenceConfig, values)), x, y, cfg.forced)
        apart = np.hypot(x[:, None] - sky.stars[:, 0], y[:, None] - sky.stars[:, 1]).min(axis=1) > 12
        good = apart & (found.masked_fraction == 0) & np.isfinite(found.flux)
        parts.append((found.flux[good], found.flux_err[good], flux[good]))
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


@pytest.fixture(scope="module")
def cfg():
    return validate(CandidatesConfig, yaml.safe_load((ROOT / "conf" / "candidates" / "default.yaml").read_text()))


@pytest.mark.parametrize("fwhm", [2.0, 3.0])
@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (300.0, 1500.0)])
def test_chi_squared_a_point_is_one(skies, difference_values, cfg, fwhm, low, high):
    flux, error, truth = measured(skies, difference_values, cfg, fwhm=fwhm, low=low, high=high)
    assert len(flux) > 200
    assert np.mean(((flux - truth) / error) ** 2) == pytest.approx(1.0, abs=max(0.1, 2.5 * np.sqrt(2 / len(flux))))


@pytest.mark.parametrize("fwhm", [2.0, 3.0])
def test_bright_sources_between_pixels_lose_less_than_three_parts_in_a_thousand(skies, difference_values, cfg, fwhm):
    flux, _, truth = measured(skies, difference_values, cfg, fwhm=fwhm, low=1e5, high=2e5)
    assert np.mean(flux / truth) == pytest.approx(1.0, abs=0.003)

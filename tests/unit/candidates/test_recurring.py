"""Pixels that fire in several exposures of one detector."""

import numpy as np
import pandas as pd
import pytest

from astrid.candidates.recurring import mark_recurring
from astrid.io.tables import CANDIDATES, conform

STEP = 30.0 / 3600.0  # deg between two exposures


def table(rows):
    """Candidates of (exposure number, x, y, tags); the exposures look 30 arcsec apart."""
    frame = pd.DataFrame(
        [
            {
                "candidate_id": f"p:{number}", "pair_id": f"p{exposure}", "exposure_id": f"e{exposure}", "survey": "s", "instrument": "i",
                "detector": "d", "x": x, "y": y, "s_ra": 150.0, "s_dec": exposure * STEP + y * 0.2 / 3600, "sign": 1, "snr": 10.0,
                "psf_fwhm": 3.0, "pixel_scale": 0.2, "tags": list(tags),
            }
            for number, (exposure, x, y, tags) in enumerate(rows)
        ]
    )  # fmt: skip
    return conform(frame, CANDIDATES, source="test")


def crowd(exposures, seed=2):
    rng = np.random.default_rng(seed)
    return [(exposure, *rng.uniform(0, 1000, 2), ()) for exposure in range(exposures) for _ in range(20)]


def words(frame, row):
    return list(frame["tags"].iloc[row])


def test_a_pixel_that_fires_where_other_sky_is_becomes_hot_and_no_cosmic_ray(cfg):
    frame = mark_recurring(table([(0, 500.0, 500.0, ["cosmic_ray"]), (1, 500.3, 499.8, ["cosmic_ray", "edge"]), *crowd(2)]), cfg.recurring)
    assert words(frame, 0) == ["hot_pixel"]
    assert words(frame, 1) == ["edge", "hot_pixel"]


def test_a_source_that_stays_on_the_sky_is_not_marked(cfg):
    rows = table([(0, 500.0, 500.0, []), (1, 500.0, 500.0, []), *crowd(2)])
    rows.loc[1, "s_dec"] = rows.loc[0, "s_dec"]
    assert words(mark_recurring(rows, cfg.recurring), 0) == []


@pytest.mark.parametrize("column", ["detector", "instrument", "survey"])
def test_two_detectors_share_no_pixel(cfg, column):
    rows = table([(0, 500.0, 500.0, ["cosmic_ray"]), (1, 500.0, 500.0, []), *crowd(2)])
    rows.loc[1, column] = "other"
    assert words(mark_recurring(rows, cfg.recurring), 0) == ["cosmic_ray"]


def test_one_exposure_in_two_pairs_does_not_recur(cfg):
    rows = table([(0, 500.0, 500.0, []), (0, 500.0, 500.0, []), *crowd(2)])
    assert words(mark_recurring(rows, cfg.recurring), 0) == []


def test_chance_coincidences_of_many_exposures_are_not_marked(cfg):
    frame = mark_recurring(table(crowd(200)), cfg.recurring)
    assert np.mean([bool(len(tags)) for tags in frame["tags"]]) < 2 * cfg.recurring.chance


def test_nothing_in_nothing_out(cfg):
    assert len(mark_recurring(CANDIDATES.empty(), cfg.recurring)) == 0

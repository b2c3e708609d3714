"""Pixels that fire in several exposures of one detector."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from astrid.candidates.recurring import COLUMNS, recurring, with_hot_pixels
from astrid.io.tables import CANDIDATES, conform

STEP = 30.0 / 3600.0  # deg between two exposures


def table(rows):
    """Brightened candidates of (exposure number, x, y, tags), a hot pixel's sharpness; the exposures look 30 arcsec apart."""
    frame = pd.DataFrame(
        [
            {
                "candidate_id": f"p:{number}", "pair_id": f"p{exposure}", "exposure_id": f"e{exposure}", "survey": "s", "instrument": "i",
                "detector": "d", "x": x, "y": y, "s_ra": 150.0, "s_dec": exposure * STEP + y * 0.2 / 3600, "sign": 1, "snr": 10.0,
                "sharpness": 2.0, "psf_fwhm": 3.0, "pixel_scale": 0.2, "tags": list(tags),
            }
            for number, (exposure, x, y, tags) in enumerate(rows)
        ]
    )  # fmt: skip
    return conform(frame, CANDIDATES, source="test")


def faded(frame, rows, reference, place, detector="d"):
    """The frame with `rows` faded: seen in a reference exposure, at a pixel of its own."""
    columns = ["sign", "reference_id", "x_reference", "y_reference", "reference_detector"]
    frame.loc[rows, columns] = pd.DataFrame([[-1, reference, *place, detector]] * len(rows), index=rows, columns=columns)
    return frame


def crowd(exposures, seed=2):
    rng = np.random.default_rng(seed)
    return [(exposure, *rng.uniform(0, 1000, 2), ()) for exposure in range(exposures) for _ in range(20)]


def mark_recurring(candidates, cfg):
    return candidates.assign(tags=with_hot_pixels(candidates["tags"], recurring(candidates[list(COLUMNS)], cfg)))


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


def turned(x, y, angle=2.0, shift=(11.3, -7.6)):
    """A science pixel on a reference that is turned by `angle` deg and moved by `shift` px."""
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    return cos * x - sin * y + shift[0], sin * x + cos * y + shift[1]


def test_a_hot_pixel_of_a_turned_reference_is_found_by_its_pixel_there_and_marks_the_science_exposures_of_its_detector_too(cfg):
    frame = table([(0, 480.0, 530.0, ["cosmic_ray", "dipole"]), (1, *turned(480.0, 530.0), ["cosmic_ray"]), *crowd(2)])
    frame = faded(frame, [0], "r0", turned(480.2, 529.9))
    marked = mark_recurring(frame, cfg.recurring)
    assert words(marked, 0) == ["dipole", "hot_pixel"]
    assert words(marked, 1) == ["hot_pixel"]


def test_what_faded_is_no_event_at_the_pixel_of_the_science_exposure(cfg):
    frame = table([(0, 480.0, 530.0, ["cosmic_ray"]), (1, 480.0, 530.0, ["cosmic_ray"]), *crowd(2)])
    marked = mark_recurring(faded(frame, [0], "r0", turned(480.0, 530.0)), cfg.recurring)
    assert words(marked, 0) == words(marked, 1) == ["cosmic_ray"]


def test_a_hit_on_a_reference_that_stands_in_several_pairs_does_not_recur(cfg):
    frame = table([(0, 300.0, 300.0, ["cosmic_ray"]), (1, 340.0, 310.0, ["cosmic_ray"]), (2, 280.0, 330.0, ["cosmic_ray"]), *crowd(3)])
    assert words(mark_recurring(faded(frame, [0, 1, 2], "r0", (310.0, 290.0)), cfg.recurring), 0) == ["cosmic_ray"]


@pytest.mark.parametrize(
    ("reference", "detector", "place"), [("r1", "e", (310.0, 290.0)), ("r1", "d", (np.nan, np.nan)), ("r0-inj1-e0", "d", (310.0, 290.0))]
)
def test_a_reference_of_another_detector_of_unknown_place_or_copied_shares_no_pixel(cfg, reference, detector, place):
    frame = table([(0, 300.0, 300.0, ["cosmic_ray"]), (1, 340.0, 310.0, ["cosmic_ray"]), *crowd(2)])
    frame = faded(faded(frame, [0], "r0", (310.0, 290.0)), [1], reference, place, detector)
    assert words(mark_recurring(frame, cfg.recurring), 0) == ["cosmic_ray"]


def test_a_candidate_as_wide_as_the_psf_needs_a_smaller_probability_of_chance(cfg):
    rows = [(0, 500.0, 500.0, []), (1, 500.3, 499.8, []), *((number, *place) for number, *place in crowd(24) if number > 1)]
    frame = table(rows)  # 440 others in a million pixels, and so 8e-4 in a circle: between none of the limits and both
    limits = {"chance": 1e-4, "chance_sharp": 1e-2, "sharpness": 1.3}
    frame.loc[1, "sharpness"] = 1.0
    marked = mark_recurring(frame, replace(cfg.recurring, **limits))
    assert (words(marked, 0), words(marked, 1)) == (["hot_pixel"], [])


def test_chance_coincidences_of_many_exposures_are_not_marked(cfg):
    frame = mark_recurring(table(crowd(200)), cfg.recurring)
    assert np.mean([bool(len(tags)) for tags in frame["tags"]]) < 2 * cfg.recurring.chance_sharp


def test_nothing_in_nothing_out(cfg):
    assert len(mark_recurring(CANDIDATES.empty(), cfg.recurring)) == 0

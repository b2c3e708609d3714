"""What several exposures together tell of their candidates."""

import numpy as np
import pandas as pd
import pytest

from astrid.candidates.across import COLUMNS, compare
from astrid.io.tables import ASTEROIDS, CANDIDATES, conform

HOUR = 1 / 24


def row(number, exposure, x, **values):
    """A brightened candidate of an exposure every half an hour, each of which looks 30 arcsec further north."""
    place = {"s_ra": 150.0 + x * 0.2 / 3600, "s_dec": 2.0 + exposure * 30 / 3600, "x": x, "y": 300.0}
    name = values.pop("pair_id", f"p{exposure}")
    return {
        "candidate_id": f"{name}:{number:05d}", "pair_id": name, "exposure_id": f"e{exposure}", "reference_id": "r", "survey": "s",
        "instrument": "i", "detector": "d", "mjd": 60000.0 + exposure * HOUR / 2, "sign": 1, "snr": 10.0, "sharpness": 2.0,
        "psf_fwhm": 3.0, "pixel_scale": 0.2, "tags": [], **place, **values,
    }  # fmt: skip


@pytest.fixture
def scene():
    """An asteroid over four exposures (rows 0 to 3), a pixel that fires in three (4 to 6), their crowd, and the asteroid in a copy."""
    track = [row(0, exposure, 100.0 + 75 * exposure, s_ra=150.05 + exposure * 15 / 3600, s_dec=2.05) for exposure in range(4)]
    hot = [row(1, exposure, 500.0, tags=["cosmic_ray"]) for exposure in range(3)]
    rng = np.random.default_rng(5)
    crowd = [
        row(2 + number, exposure, x, y=y, s_ra=150.3 + x / 3600, s_dec=3.0 + y / 3600)
        for exposure in range(4)
        for number, (x, y) in enumerate(rng.uniform(0, 1000, (9, 2)))
    ]
    copy = [{**track[1], "candidate_id": "p1-inj0:00000", "pair_id": "p1-inj0"}]
    return conform(pd.DataFrame([*track, *hot, *crowd, *copy]), CANDIDATES, source="test")


def eros(scene):
    known = {"name": "Eros", "mjd": scene["mjd"][2], "s_ra": scene["s_ra"][2], "s_dec": scene["s_dec"][2], "error": 0.3}
    return conform(pd.DataFrame([known]), ASTEROIDS, source="test")


def test_marks_of_hot_pixels_and_moving_objects(scene, cfg):
    marks, tracks = compare(scene[list(COLUMNS)], eros(scene), cfg)
    marked = marks.on(scene, 0)
    assert list(tracks["name"]) == ["Eros"]
    assert list(tracks["candidate_ids"][0]) == [f"p{exposure}:00000" for exposure in range(4)]
    assert list(marked["track_id"][:5]) == ["track00000"] * 4 + [""]
    assert list(marked["moving_name"][:4]) == ["", "", "Eros", ""]
    assert [list(tags) for tags in marked["tags"][:7]] == [["moving"]] * 4 + [["hot_pixel"]] * 3
    assert [list(tags) for tags in scene["tags"][4:7]] == [["cosmic_ray"]] * 3


def test_a_copy_is_on_no_track(scene, cfg):
    marks, _ = compare(scene, eros(scene), cfg)
    assert (marks.track[-1], marks.name[-1], list(marks.on(scene, 0)["tags"].iloc[-1])) == ("", "", [])


def test_parts_get_the_marks_of_their_rows(scene, cfg):
    marks, _ = compare(scene, eros(scene), cfg)
    parts = [marks.on(scene.iloc[first : first + 5].reset_index(drop=True), first) for first in range(0, len(scene), 5)]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), marks.on(scene, 0))


def test_no_candidate_at_all(cfg):
    marks, tracks = compare(CANDIDATES.empty(), ASTEROIDS.empty(), cfg)
    assert len(marks.on(CANDIDATES.empty(), 0)) == len(tracks) == 0

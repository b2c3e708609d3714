from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from astrid.candidates.moving import link, match_known
from astrid.io.tables import ASTEROIDS, CANDIDATES, TRACKS, conform

ARCSEC = 1 / 3600


@pytest.fixture(scope="session")
def moving(cfg):
    return cfg.moving


def table(places, *, mjd=60000.0, step=0.02, **columns):
    """Candidates at (exposure number, ra, dec); exposures follow each other by `step` d."""
    exposure, ra, dec = (np.array(column) for column in zip(*places, strict=True))
    frame = pd.DataFrame({"s_ra": ra, "s_dec": dec, "mjd": mjd + step * exposure, "sign": 1, "snr": 10.0, "x": 0.0, "y": 0.0} | columns)
    frame["exposure_id"] = [f"e{number:02d}" for number in exposure]
    frame["pair_id"] = frame["exposure_id"] + "__r"
    frame["candidate_id"] = [f"{pair}:{row:05d}" for row, pair in enumerate(frame["pair_id"])]
    frame["tags"] = pd.Series([[] for _ in range(len(frame))], dtype=object)
    return conform(frame, CANDIDATES, source="test")


def asteroid(exposures, *, rate=30.0, angle=70.0, ra=150.0, dec=2.0, step=0.02, rng=None, scatter=0.15):
    """An object that moves by `rate` arcsec/h towards the position angle `angle` deg; positions with a scatter of arcsec."""
    hours = np.asarray(exposures) * step * 24
    east, north = (rate * hours * turn(np.deg2rad(angle)) for turn in (np.sin, np.cos))
    noise = rng.normal(0, scatter, (2, len(hours))) if rng is not None else np.zeros((2, len(hours)))
    return [
        (number, ra + (east[row] + noise[0, row]) * ARCSEC / np.cos(np.deg2rad(dec)), dec + (north[row] + noise[1, row]) * ARCSEC)
        for row, number in enumerate(exposures)
    ]


def clutter(rng, exposures, count, *, ra=150.0, dec=2.0, side=0.3):
    return [
        (number, ra + rng.uniform(-side / 2, side / 2) / np.cos(np.deg2rad(dec)), dec + rng.uniform(-side / 2, side / 2))
        for number in range(exposures)
        for _ in range(count)
    ]


@pytest.mark.parametrize(("ra", "dec", "rate"), [(150.0, 2.0, 30.0), (359.9999, -60.0, 90.0), (12.0, 89.5, 5.0)])
def test_an_asteroid_among_noise_is_one_track_with_its_rate(moving, ra, dec, rate):
    rng = np.random.default_rng(1)
    places = asteroid(range(5), rng=rng, ra=ra, dec=dec, rate=rate) + clutter(rng, 5, 20, ra=ra, dec=dec)
    tracks = link(table(places), moving)
    assert len(tracks) == 1
    track = tracks.iloc[0]
    assert track["detections"] == 5
    assert track["rate"] == pytest.approx(rate, abs=0.4)
    assert track["position_angle"] == pytest.approx(70, abs=5)
    assert track["rms"] < 0.4
    assert track["chance"] <= moving.max_chance
    assert track["span"] == pytest.approx(4 * 0.02 * 24)
    assert list(track["candidate_ids"]) == [f"e{number:02d}__r:{number:05d}" for number in range(5)]


def test_the_fitted_position_is_on_the_path(moving):
    tracks = link(table(asteroid(range(4))), moving)
    middle = asteroid([1.5])[0]
    assert tracks["mjd"][0] == pytest.approx(60000.03)
    assert (tracks["s_ra"][0], tracks["s_dec"][0]) == pytest.approx(middle[1:], abs=1e-7)


def test_two_asteroids_are_two_tracks_and_share_nothing(moving):
    rng = np.random.default_rng(2)
    places = asteroid(range(4), rng=rng) + asteroid(range(1, 5), rng=rng, angle=250.0, rate=60.0, dec=2.005)
    tracks = link(table(places), moving)
    assert list(tracks["detections"]) == [4, 4]
    assert len(set(tracks["candidate_ids"][0]) | set(tracks["candidate_ids"][1])) == 8


def test_a_missed_exposure_does_not_break_a_track(moving):
    assert list(link(table(asteroid([0, 1, 3, 4])), moving)["detections"]) == [4]


@pytest.mark.parametrize(
    ("why", "places"),
    [
        ("two exposures", asteroid(range(2))),
        ("too slow", asteroid(range(5), rate=0.3)),
        ("too fast", asteroid(range(5), rate=300.0)),
        ("a supernova", [(number, 150.0, 2.0) for number in range(5)]),
        ("nights apart", asteroid([0, 40, 80])),
    ],
)
def test_what_is_no_track(moving, why, places):
    assert len(link(table(places), moving)) == 0, why


def test_artefacts_and_faded_sources_are_not_linked(moving):
    frame = table(asteroid(range(5)))
    assert len(link(frame.assign(sign=-1), moving)) == 0
    frame["tags"] = pd.Series([["cosmic_ray"]] * len(frame), dtype=object)
    assert len(link(frame, moving)) == 0


def test_noise_alone_links_to_nothing(moving):
    """Twenty skies of 8 exposures with 60 candidates each, in which chance makes some eight tracks of three a sky."""
    assert sum(len(link(table(clutter(np.random.default_rng(seed), 8, 60)), moving)) for seed in range(20)) == 0


@pytest.mark.parametrize(("exposures", "count", "side"), [(8, 60, 0.3), (5, 150, 0.2)])
def test_the_chance_that_is_stated_is_what_noise_makes(moving, exposures, count, side):
    loose = replace(moving, max_chance=1e9)
    tracks = [link(table(clutter(np.random.default_rng(seed), exposures, count, side=side)), loose) for seed in range(6)]
    found = np.mean([(table["detections"] == 3).sum() for table in tracks])
    stated = np.mean(np.concatenate([table["chance"][table["detections"] == 3] for table in tracks]))
    assert found > 5
    assert 0.6 * stated < found < 1.6 * stated


def test_an_empty_table_has_no_track(moving):
    frame = link(CANDIDATES.empty(), moving)
    assert len(frame) == 0
    assert list(frame.columns) == [column.name for column in TRACKS.columns]


def known(rows):
    return conform(pd.DataFrame(rows, columns=["name", "mjd", "s_ra", "s_dec", "error", "rate_ra", "rate_dec"]), ASTEROIDS, source="test")


def test_a_known_asteroid_names_its_candidate_and_no_other(moving):
    frame = table([(0, 150.0, 2.0), (0, 150.0 + 8 * ARCSEC, 2.0), (0, 150.0, 2.01)])
    names = match_known(frame, known([("433", 60000.0, 150.0 + 0.5 * ARCSEC, 2.0, 0.3, np.nan, np.nan)]), moving)
    assert list(names) == ["433", "", ""]
    wide = match_known(frame, known([("433", 60000.0, 150.0 + 8.5 * ARCSEC, 2.0, 5.0, np.nan, np.nan)]), moving)
    assert list(wide) == ["433", "433", ""]  # both lie within three of its errors


def test_a_prediction_is_carried_along_its_rate(moving):
    frame = table([(0, 150.0 + 30 * ARCSEC / np.cos(np.deg2rad(2.0)), 2.0)])
    hour = 1 / 24
    assert match_known(frame, known([("1", 60000.0 - hour, 150.0, 2.0, 0.3, 30.0, 0.0)]), moving)[0] == "1"
    assert match_known(frame, known([("1", 60000.0 - hour, 150.0, 2.0, 0.3, np.nan, np.nan)]), moving)[0] == ""
    late = known([("1", 60000.0 - 5 * hour, 150.0, 2.0, 0.3, 6.0, 0.0)])
    assert match_known(frame, late, moving)[0] == ""


def test_the_rate_comes_from_the_next_row_where_none_is_given(moving):
    step = 60 * ARCSEC / np.cos(np.deg2rad(2.0))
    frame = table([(0, 150.0 + step / 2, 2.0)])
    rows = [("1", 60000.0 - 1 / 24, 150.0, 2.0, 0.3, np.nan, np.nan), ("1", 60000.0 + 1 / 24, 150.0 + step, 2.0, 0.3, np.nan, np.nan)]
    assert match_known(frame, known(rows), moving)[0] == "1"

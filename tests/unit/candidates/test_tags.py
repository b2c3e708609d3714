import numpy as np
import pytest

from astrid.candidates.extract import find_candidates
from astrid.core.dq import DQ


def tags_at(frame, x, y, radius=4.0):
    near = np.hypot(frame["x"] - x, frame["y"] - y) < radius
    assert near.any(), f"nothing at {x}, {y}"
    return set().union(*frame["tags"][near])


@pytest.mark.parametrize("sign", [1, -1])
def test_injected_stars_carry_no_tag(scene, cfg, sign):
    view = scene(shape=(512, 512))
    rng = np.random.default_rng(5)
    for number in range(100):
        view.add(35 + 49 * (number % 10) + rng.uniform(), 35 + 49 * (number // 10) + rng.uniform(), sign * rng.uniform(6, 100))
    frame = find_candidates(view.build(), cfg, pair_id="s__r")
    assert len(frame) >= 98
    tagged = frame[frame["tags"].map(len) > 0]
    assert len(tagged) <= 2, tagged[["snr", "sharpness", "symmetry", "fwhm", "tags"]]


def test_a_single_hot_pixel_is_tagged(scene, cfg):
    view = scene()
    view.science[100, 100] += 200
    assert {"hot_pixel", "cosmic_ray"} <= tags_at(find_candidates(view.build(), cfg, pair_id="s__r"), 100, 100)


def test_a_short_track_sharper_than_the_psf_is_a_cosmic_ray_and_no_hot_pixel(scene, cfg):
    view = scene()
    view.science[100, 100:103] += 150
    found = tags_at(find_candidates(view.build(), cfg, pair_id="s__r"), 101, 100)
    assert "cosmic_ray" in found
    assert "hot_pixel" not in found


def test_a_shifted_star_is_a_dipole_on_both_lobes(scene, cfg):
    view = scene()
    view.science += 8000 * (view.source(100.15, 90) - view.source(99.85, 90))
    frame = find_candidates(view.build(), cfg, pair_id="s__r")
    assert len(frame) == 2
    assert all("dipole" in names for names in frame["tags"])


def test_a_small_change_on_a_bright_star_is_a_residual_and_a_large_one_is_not(scene, cfg):
    view = scene()
    view.reference += np.random.default_rng(8).normal(0, 1, view.shape)
    for x in (80, 180):
        star = 50_000 * view.source(x, 100)
        view.science += star
        view.reference += star
    view.add(81, 100, 20)
    view.science += 20_000 * view.source(180, 100)
    frame = find_candidates(view.build(), cfg, pair_id="s__r")
    assert "residual" in tags_at(frame, 81, 100)
    assert "residual" not in tags_at(frame, 180, 100)
    assert frame["star_distance"].max() < 2


def test_saturation_in_the_core_is_tagged(scene, cfg):
    view = scene()
    view.add(100, 100, 40)
    view.dq[100:103, 102] = DQ.SATURATED
    assert {"saturated", "residual"} <= tags_at(find_candidates(view.build(), cfg, pair_id="s__r"), 100, 100)


def test_a_satellite_trail_is_tagged_on_every_candidate(scene, cfg):
    view = scene()
    y, x = np.mgrid[: view.shape[0], : view.shape[1]]
    view.science += 15 * np.exp(-(((y - 0.5 * x - 20) / (1.7 * 1.1)) ** 2) / 2)
    view.add(60, 200, 30)
    frame = find_candidates(view.build(), cfg, pair_id="s__r")
    on_trail = np.abs(frame["y"] - 0.5 * frame["x"] - 20) < 4
    assert on_trail.sum() >= 5
    assert all("trail" in names for names in frame["tags"][on_trail])
    assert tags_at(frame, 60, 200) == set()


def test_a_broken_trail_is_found_as_a_line_of_candidates(scene, cfg):
    view = scene()
    y, x = np.mgrid[: view.shape[0], : view.shape[1]]
    dashes = (x % 30) < 22
    view.science += 15 * dashes * np.exp(-(((y - 0.5 * x - 20) / (1.7 * 1.1)) ** 2) / 2)
    frame = find_candidates(view.build(), cfg, pair_id="s__r")
    on_trail = np.abs(frame["y"] - 0.5 * frame["x"] - 20) < 4
    assert on_trail.sum() >= 6
    assert np.mean(["trail" in names for names in frame["tags"][on_trail]]) > 0.9


def test_stars_that_happen_to_stand_on_a_line_are_no_trail(scene, cfg):
    view = scene()
    for number in range(7):
        view.add(35 + 30 * number, 35 + 25 * number, 30)
    frame = find_candidates(view.build(), cfg, pair_id="s__r")
    assert not any("trail" in names for names in frame["tags"])


def test_a_source_wider_than_the_psf_is_extended(scene, cfg):
    view = scene()
    view.science += 3000 * view.source(100, 100, sigma=4.0)
    assert tags_at(find_candidates(view.build(), cfg, pair_id="s__r"), 100, 100) == {"extended"}


def test_the_detector_margin_is_an_edge(scene, cfg):
    view = scene()
    view.add(100, 100, 30)
    view.dq[98:103, 98:103] = DQ.EDGE
    assert tags_at(find_candidates(view.build(), cfg, pair_id="s__r"), 100, 100) == {"edge"}

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
        x, y = rng.uniform(0, 20, 2)  # no lattice: stars at equal steps would be a series of flashes
        view.add(25 + 49 * (number % 10) + x, 25 + 49 * (number // 10) + y, sign * rng.uniform(6, 100))
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


def track(view, start, stop, charge):
    """A particle's straight track: `charge` a step of a tenth of a pixel, each in the one pixel that it passes, in lumps."""
    steps = int(10 * np.hypot(stop[0] - start[0], stop[1] - start[1]))
    x, y = (np.rint(np.linspace(first, last, steps)).astype(int) for first, last in zip(start, stop, strict=True))
    np.add.at(view.science, (y, x), charge * np.random.default_rng(6).gamma(0.5, 2.0, steps))


@pytest.mark.parametrize("stop", [(140, 75), (70, 160), (150, 150)])
def test_a_long_narrow_track_is_a_cosmic_ray_and_no_trail(scene, cfg, stop):
    view = scene()
    track(view, (60, 60), stop, 2.0)
    middle = (60 + stop[0]) / 2, (60 + stop[1]) / 2
    frame = find_candidates(view.build(), cfg, pair_id="s__r")
    own = np.hypot(frame["x"] - middle[0], frame["y"] - middle[1]) < np.hypot(stop[0] - 60, stop[1] - 60) / 2
    assert own.sum() >= 3
    assert all("cosmic_ray" in names and "trail" not in names and "glint" not in names for names in frame["tags"][own])


def test_a_peak_of_a_faint_track_is_named_by_the_whole_of_it(scene, cfg):
    view = scene(sigma=1.0)
    x = np.linspace(60, 150, 901)
    np.add.at(view.science, (np.rint(45 + x / 4).astype(int), np.rint(x).astype(int)), 1.2)
    frame = find_candidates(view.build(), cfg, pair_id="s__r")
    assert len(frame) >= 8
    assert all({"cosmic_ray", "trail"} & set(names) for names in frame["tags"])
    assert np.mean(["cosmic_ray" in names for names in frame["tags"]]) > 0.8


def test_a_star_that_touches_a_track_is_no_cosmic_ray(scene, cfg):
    view = scene()
    track(view, (60, 60), (140, 75), 2.0)
    view.add(99, 75, 60)
    frame = find_candidates(view.build(), cfg, pair_id="s__r")
    assert "cosmic_ray" not in tags_at(frame, 99, 75)
    assert "cosmic_ray" in tags_at(frame, 130, 73, 12)


def test_a_hit_on_a_satellite_trail_does_not_make_it_a_track(scene, cfg):
    view = scene()
    y, x = np.mgrid[: view.shape[0], : view.shape[1]]
    view.science += 15 * np.exp(-(((y - 0.5 * x - 20) / (1.7 * 1.1)) ** 2) / 2)
    view.science[80:83, 120] += 400
    frame = find_candidates(view.build(), cfg, pair_id="s__r")
    on_trail = (np.abs(frame["y"] - 0.5 * frame["x"] - 20) < 4) & (np.hypot(frame["x"] - 120, frame["y"] - 81) > 10)
    assert on_trail.sum() >= 5
    assert all("trail" in names and "cosmic_ray" not in names for names in frame["tags"][on_trail])


def test_a_narrow_line_along_a_column_is_the_detectors(scene, cfg):
    view = scene()
    view.science[60:160, 128] += 20
    frame = find_candidates(view.build(), cfg, pair_id="s__r")
    assert len(frame) >= 3
    assert all("trail" in names for names in frame["tags"])


def test_a_line_as_narrow_as_an_undersampled_psf_stays_a_trail(scene, cfg):
    view = scene(sigma=0.45)
    track(view, (60, 60), (140, 76), 2.0)
    frame = find_candidates(view.build(), cfg, pair_id="s__r")
    on_track = np.abs(frame["y"] - 60 - 0.2 * (frame["x"] - 60)) < 2
    assert on_track.sum() >= 3
    assert np.mean(["trail" in names for names in frame["tags"][on_track]]) > 0.5


def test_a_short_faint_track_alone_is_a_cosmic_ray_and_a_short_trail_of_the_psfs_width_is_none(scene, cfg):
    view = scene(sigma=0.8)
    view.science[60, 58:64] += 20.0
    for step in np.linspace(-2.5, 2.5, 21):
        view.science += 20.0 * 6 / 21 * view.source(160 + step, 160)
    frame = find_candidates(view.build(), cfg, pair_id="s__r")
    assert frame["sharpness"][np.hypot(frame["x"] - 60.5, frame["y"] - 60) < 4].max() < cfg.tags.faint_sharpness
    assert "cosmic_ray" in tags_at(frame, 60.5, 60)
    assert "cosmic_ray" not in tags_at(frame, 160, 160)


@pytest.mark.parametrize(("behind", "wanted"), [(0.0, True), (300.0, False)])
def test_a_compact_hit_needs_less_sharpness_where_the_other_epoch_shows_nothing(scene, cfg, behind, wanted):
    view = scene(sigma=0.8)
    view.reference += np.random.default_rng(8).normal(0, 1, view.shape) + behind * view.source(60.3, 60.3)
    view.science += behind * view.source(60.3, 60.3)
    view.science[60:62, 60:62] += np.array([[70.0, 35.0], [35.0, 21.0]])
    frame = find_candidates(view.build(), cfg, pair_id="s__r")
    assert len(frame) == 1
    assert cfg.tags.faint_sharpness < frame["sharpness"][0] < cfg.tags.cosmic_sharpness
    assert ("cosmic_ray" in frame["tags"][0]) == wanted


def test_the_sharp_rest_of_a_shifted_star_is_a_dipole_and_no_cosmic_ray(scene, cfg):
    view = scene(sigma=0.8)
    view.reference += np.random.default_rng(8).normal(0, 1, view.shape)
    view.science += 60_000 * view.source(100.1, 90)
    view.reference += 60_000 * view.source(99.9, 90)
    frame = find_candidates(view.build(), cfg, pair_id="s__r")
    near = np.hypot(frame["x"] - 100, frame["y"] - 90) < 3
    assert (frame["sharpness"][near] > cfg.tags.cosmic_sharpness).any()
    assert all("dipole" in names and "cosmic_ray" not in names for names in frame["tags"][near])


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

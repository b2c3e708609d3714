"""Each planted artefact of the sensor or the sky gets its tag; point sources, galaxies and variable stars do not."""

import numpy as np
import pytest

from astrid.candidates.extract import find_candidates
from astrid.core.dq import DQ

NEW = {"column", "crosstalk", "diffuse", "fringe", "glint", "persistence", "step"}


def tags_of(frame, chosen):
    return [set(names) for names in frame["tags"][chosen]]


def find(view, cfg):
    return find_candidates(view.build(), cfg, pair_id="s__r")


def share(frame, chosen, name):
    assert chosen.any()
    return np.mean([name in names for names in tags_of(frame, chosen)])


@pytest.fixture
def busy(scene):
    """Point sources of both signs, a variable star and a supernova in a galaxy, all of them real."""
    view = scene(shape=(448, 448))
    rng = np.random.default_rng(9)
    for number in range(36):
        view.add(
            40 + 70 * (number % 6) + rng.uniform(0, 22),
            40 + 70 * (number // 6) + rng.uniform(0, 22),
            rng.choice([-1, 1]) * rng.uniform(6, 90),
        )
    host = 90_000 * view.source(75, 75, sigma=7.0)
    star = 60_000 * view.source(215, 215)
    view.science += host + 1.2 * star
    view.reference += host + star
    view.add(79, 77, 25)
    return view


def test_real_sources_get_none_of_the_tags_of_spread_light_and_of_the_sensor(busy, cfg):
    frame = find(busy, cfg)
    assert len(frame) >= 36
    assert not [names for names in tags_of(frame, frame["snr"] > 0) if names & NEW]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("bit", "name"), [(DQ.CROSSTALK, "crosstalk"), (DQ.PERSISTENCE, "persistence")])
def test_flags_name_what_the_epoch_of_their_sign_can_have_made(scene, cfg, sign, bit, name):
    view = scene(shape=(256, 256))
    own, other = (bit, bit | DQ.REFERENCE) if sign > 0 else (bit | DQ.REFERENCE, bit)
    for x, flags in ((60, own), (120, other), (180, own)):
        view.dq[119:122, x - 1 : x + 2] = int(flags)
    for x, y in ((60, 120), (120, 120), (186, 120)):  # under its own flag, under that of the other epoch, beside a flag
        view.add(x, y, sign * 20)
    frame = find(view, cfg)
    for x, expected in ((60, 1), (120, 0), (186, 0)):
        at = np.hypot(frame["x"] - x, frame["y"] - 120) < 2
        assert share(frame, at, name) == expected
        assert share(frame, at, "crosstalk" if name == "persistence" else "persistence") == 0


@pytest.mark.parametrize("sign", [1, -1])
def test_flags_of_both_epochs_name_either_sign(scene, cfg, sign):
    view = scene(shape=(200, 200))
    view.dq[98:103, 98:103] = int(DQ.CROSSTALK | DQ.REFERENCE | DQ.BOTH)
    view.add(100, 100, sign * 15)
    (names,) = find(view, cfg)["tags"]
    assert "crosstalk" in names


def test_a_single_flagged_pixel_under_the_centre_is_enough(scene, cfg):
    view = scene(shape=(200, 200))
    view.dq[100, 101] = int(DQ.PERSISTENCE)
    view.add(100.4, 100.2, 15)
    (names,) = find(view, cfg)["tags"]
    assert "persistence" in names


def test_a_step_between_amplifiers_tags_what_lies_at_the_border_and_no_source_there(scene, cfg):
    view = scene(shape=(320, 320))
    view.science += 3.0 * np.tanh((np.arange(320) - 159.5) / 0.1)[None, :] * np.exp(-np.abs(np.arange(320) - 159.5) / 30)[None, :]
    view.add(163, 200, 60)
    frame = find(view, cfg)
    source = np.hypot(frame["x"] - 163, frame["y"] - 200) < 1.5
    beside = (np.abs(frame["x"] - 159.5) < 10) & ~source
    assert share(frame, beside, "step") > 0.6
    assert share(frame, source, "step") == 0


def test_a_bright_column_is_no_step_but_charge_along_a_column(scene, cfg):
    view = scene(shape=(320, 320))
    view.science[100:220, 150:153] += 9.0
    frame = find(view, cfg)
    on = (np.abs(frame["x"] - 151) < 2) & (frame["y"] > 95) & (frame["y"] < 225)
    assert share(frame, on, "column") > 0.8
    assert share(frame, on, "step") == 0


def test_crests_of_coherent_ripples_are_fringes_and_a_supernova_on_one_is_not(scene, cfg):
    view = scene(shape=(320, 320))
    y, x = np.mgrid[:320, :320]
    view.science += 4.0 * np.cos(2 * np.pi * (x + 0.4 * y) / 30)
    view.add(160, 160, 70)
    frame = find(view, cfg)
    source = np.hypot(frame["x"] - 160, frame["y"] - 160) < 1.5
    inner = (frame["edge_distance"] > 20) & ~source
    assert inner.sum() > 10
    assert share(frame, inner, "fringe") > 0.6
    assert share(frame, source, "fringe") == 0


def test_a_patch_of_light_is_diffuse_and_a_source_in_it_is_not(scene, cfg):
    view = scene(shape=(320, 320))
    view.science[:, :70] += 12.0
    view.add(35, 160, 200)
    frame = find(view, cfg)
    source = np.hypot(frame["x"] - 35, frame["y"] - 160) < 1.5
    inner = (frame["x"] < 55) & (frame["edge_distance"] > 20) & ~source
    assert share(frame, inner, "diffuse") > 0.9
    assert share(frame, source, "diffuse") == 0
    assert "fringe" not in set().union(*tags_of(frame, inner))


def test_a_dash_and_flashes_of_equal_spacing_are_glints_and_a_point_beside_them_is_not(scene, cfg):
    view = scene(shape=(320, 320))
    for step in np.linspace(-6, 6, 25):
        view.science += 60 * view.flux_error / 25 * view.source(80 + 0.8 * step, 80 + 0.6 * step)
    for number in range(4):
        view.add(120 + 31 * number, 150 + 17 * number, 20 + number)
    view.add(60, 250, 30)
    frame = find(view, cfg)
    assert share(frame, np.hypot(frame["x"] - 80, frame["y"] - 80) < 6, "glint") == 1
    for number in range(4):
        assert share(frame, np.hypot(frame["x"] - 120 - 31 * number, frame["y"] - 150 - 17 * number) < 2, "glint") == 1
    assert share(frame, np.hypot(frame["x"] - 60, frame["y"] - 250) < 2, "glint") == 0


def test_a_long_series_is_found_among_points_that_make_many_triples_by_chance_and_these_are_not(scene, cfg):
    view = scene(shape=(512, 512))
    rng = np.random.default_rng(4)
    for x, y in rng.uniform(20, 490, (260, 2)):
        view.add(x, y, rng.uniform(12, 25))
    places = [(60 + 50 * number, 80 + 40 * number) for number in range(8)]
    for x, y in places:
        view.add(x, y, 18)
    frame = find(view, cfg)
    near = [np.hypot(frame["x"] - x, frame["y"] - y) < 2 for x, y in places]
    assert np.mean([share(frame, chosen, "glint") for chosen in near if chosen.any()]) > 0.8
    assert share(frame, ~np.any(near, axis=0), "glint") < 0.02


def test_flashes_that_are_seen_in_the_other_epoch_too_are_no_glint(scene, cfg):
    view = scene(shape=(320, 320))
    view.reference += np.random.default_rng(3).normal(0, 1, view.shape)
    for number in range(4):
        star = 2000 * view.source(120 + 31 * number, 150 + 17 * number)
        view.science += 1.5 * star
        view.reference += star
    frame = find(view, cfg)
    assert len(frame) >= 4
    assert not any("glint" in names for names in frame["tags"])


def test_faint_hits_of_an_undersampled_image_are_cosmic_rays_and_faint_stars_are_not(scene, cfg):
    rng = np.random.default_rng(2)
    view = scene(shape=(448, 448), sigma=0.8)
    hits, stars = [], []
    for number in range(100):
        x, y = 24 + 42 * (number % 10) + rng.uniform(0, 12), 24 + 42 * (number // 10) + rng.uniform(0, 12)
        if number % 2:
            view.science[round(y), round(x) : round(x) + 2] += 7.0 * view.noise
            hits.append((round(x) + 0.5, round(y)))
        else:
            view.add(x, y, rng.uniform(6, 14))
            stars.append((x, y))
    frame = find(view, cfg)

    def tagged(places):
        near = [np.hypot(frame["x"] - x, frame["y"] - y) < 2 for x, y in places]
        return np.mean([any("cosmic_ray" in names for names in frame["tags"][chosen]) for chosen in near if chosen.any()])

    assert tagged(hits) > 0.4
    assert tagged(stars) <= 0.04


@pytest.mark.parametrize(("extra", "wanted"), [(0.0, False), (900.0, True)])
def test_a_flagged_pixel_in_the_core_counts_where_the_psf_does_not_fit(scene, cfg, extra, wanted):
    view = scene()
    view.add(100, 100, 60)
    view.science[101, 101:103] += extra / 10
    view.dq[102, 100] = DQ.COSMIC_RAY
    frame = find(view, cfg)
    near = np.hypot(frame["x"] - 100, frame["y"] - 100) < 3
    assert (share(frame, near, "cosmic_ray") > 0) == wanted

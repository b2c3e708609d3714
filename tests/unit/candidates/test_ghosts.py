from dataclasses import replace

import numpy as np
import pytest

from astrid.candidates.extract import find_candidates
from astrid.candidates.ghosts import find_ghosts
from astrid.candidates.host import reference_sources
from astrid.candidates.light import light_of
from astrid.core.dq import DQ

SIZE, MIDDLE = 400, 199.5


def light(radius, x, y, *, hole=0.0, soft=1.5):
    """A disc or ring of unit brightness with soft edges."""
    yy, xx = np.mgrid[:SIZE, :SIZE]
    r = np.hypot(xx - x, yy - y)
    disc = 0.5 * (1 - np.tanh((r - radius) / soft))
    return disc * 0.5 * (1 + np.tanh((r - hole) / soft)) if hole else disc


@pytest.fixture
def view(scene):
    """A bright star in both images at (90, 120)."""
    made = scene(shape=(SIZE, SIZE))
    made.reference += np.random.default_rng(6).normal(0, 1, made.shape)
    star = 60_000 * made.source(90, 120)
    made.science += star
    made.reference += star
    return made


def opposite(scale=0.9):
    return MIDDLE - scale * (90 - MIDDLE), MIDDLE - scale * (120 - MIDDLE)


def ghosts(product, cfg):
    return find_ghosts(product, light_of(product), reference_sources(product, cfg.host), cfg.tags)


@pytest.mark.parametrize("hole", [0.0, 12.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_disc_or_ring_opposite_to_a_bright_star_is_its_ghost(view, cfg, hole, sign):
    x, y = opposite()
    view.science += sign * 5.0 * light(35.0, x, y, hole=hole)
    found = ghosts(view.build(), cfg)
    assert len(found) == 1
    ghost = found[0]
    assert (ghost.x, ghost.y) == pytest.approx((x, y), abs=2)
    assert ghost.radius == pytest.approx(35, abs=6)
    assert ghost.brightness == pytest.approx(sign * 5.0 / 3.0, rel=0.3)
    assert ghost.sign == sign
    assert ghost.mirrored
    assert (ghost.star_x, ghost.star_y) == pytest.approx((90, 120), abs=1)
    frame = find_candidates(view.build(), cfg, pair_id="s__r")
    on = np.hypot(frame["x"] - x, frame["y"] - y) < 40
    assert on.sum() > 2
    assert np.mean(["ghost" in tags for tags in frame["tags"][on & (frame["sign"] == sign)]]) > 0.95


def test_a_disc_around_the_star_itself_is_a_ghost_too(view, cfg):
    view.science += 6.0 * light(40.0, 105, 128)
    found = ghosts(view.build(), cfg)
    assert len(found) == 1
    assert not found[0].mirrored


def test_a_saturated_star_has_a_ghost(scene, cfg):
    view = scene(shape=(SIZE, SIZE))
    view.dq[115:126, 85:96] = DQ.SATURATED
    x, y = opposite()
    view.science += 5.0 * light(35.0, x, y)
    assert len(ghosts(view.build(), cfg)) == 1


def test_a_new_point_source_on_a_ghost_is_not_tagged_and_the_noise_of_the_ghost_is(view, cfg):
    x, y = opposite()
    view.science += 3.0 * light(35.0, x, y)
    view.add(x + 8, y, 60)
    frame = find_candidates(view.build(), cfg, pair_id="s__r")
    own = np.hypot(frame["x"] - x - 8, frame["y"] - y) < 1.5
    assert own.sum() == 1
    assert "ghost" not in frame["tags"][own].iloc[0]


def test_a_ring_without_a_known_star_is_a_ghost_and_so_are_the_crescents_of_a_dithered_pair(view, cfg):
    view.science += 5.0 * light(35.0, 300, 120, hole=12.0)
    view.science += 5.0 * (light(35.0, 120, 300, hole=12.0) - light(35.0, 132, 308, hole=12.0))
    view.add(306, 120, 90)
    product = view.build()
    assert ghosts(product, cfg) == []
    frame = find_candidates(product, cfg, pair_id="s__r")
    own = np.hypot(frame["x"] - 306, frame["y"] - 120) < 1.5
    assert own.sum() == 1
    assert "ghost" not in frame["tags"][own].iloc[0]
    for x, y in ((300, 120), (126, 304)):
        on = (np.hypot(frame["x"] - x, frame["y"] - y) < 38) & ~own
        assert on.sum() > 4
        assert np.mean(["ghost" in tags for tags in frame["tags"][on]]) > 0.6


def _galaxy(view):
    x, y = opposite()
    host = 200_000 * view.source(x, y, sigma=14.0)
    view.science += 1.03 * host
    view.reference += host


def _trail(view):
    x, y = opposite()
    yy, xx = np.mgrid[:SIZE, :SIZE]
    view.science += 8.0 * (np.abs((yy - y) - 0.4 * (xx - x)) < 5)


def _gradient(view):
    view.science += np.linspace(-6, 6, SIZE)[None, :]


def _peaked(view):
    x, y = opposite()
    view.science += 120_000 * view.source(x, y, sigma=12.0)


@pytest.mark.parametrize("plant", [_galaxy, _trail, _gradient, _peaked])
def test_what_is_no_ghost(view, cfg, plant):
    plant(view)
    frame = find_candidates(view.build(), cfg, pair_id="s__r")
    assert not any("ghost" in tags for tags in frame["tags"])


def test_clean_point_sources_and_blank_sky_hold_no_ghost(view, cfg):
    rng = np.random.default_rng(7)
    for number in range(25):
        x, y = 40 + 75 * (number % 5) + rng.uniform(0, 20), 40 + 75 * (number // 5) + rng.uniform(0, 20)
        if np.hypot(x - 90, y - 120) > 20:
            view.add(x, y, rng.choice([-1, 1]) * rng.uniform(6, 200))
    product = view.build()
    assert ghosts(product, cfg) == []
    frame = find_candidates(product, cfg, pair_id="s__r")
    assert not any("ghost" in tags for tags in frame["tags"])


def test_the_optical_axis_is_configuration(view, cfg):
    x, y = opposite()
    view.science += 5.0 * light(35.0, x, y)
    product = view.build()
    moved = replace(cfg, tags=replace(cfg.tags, ghost_axis=(0.1, 0.9)))
    assert len(ghosts(product, cfg)) == 1
    assert ghosts(product, moved) == []

"""Changes that constant sources leave: one that their neighbours share, and one beside a star's centre."""

import numpy as np
import pytest

from astrid.candidates.extract import find_candidates

STARS = [(x, y) for x in range(32, 240, 40) for y in range(32, 240, 40)]  # 36, each 40 px from the next


def draw(sky, share, *, snr=400.0, other=None):
    """Constant stars of `snr` in both epochs, of which the science holds 1 + share; `other`: {index: its own share}."""
    for index, (x, y) in enumerate(STARS):
        light = snr * sky.flux_error * sky.source(x, y)
        sky.reference += light
        sky.science += light * (1.0 + (other or {}).get(index, share))
    return sky


def at(frame, place):
    near = frame[np.hypot(frame["x"] - place[0], frame["y"] - place[1]) < 3.0]
    return near.iloc[0] if len(near) else None


@pytest.mark.parametrize("share", [-0.1, 0.1])
def test_stars_that_change_together_carry_the_tag_scale(scene, cfg, share):
    frame = find_candidates(draw(scene(), share).build(), cfg, pair_id="p")
    found = [at(frame, place) for place in STARS]
    assert sum(row is not None and "scale" in row["tags"] for row in found) >= 0.9 * len(STARS)


def test_a_variable_among_constant_stars_does_not_carry_it(scene, cfg):
    frame = find_candidates(draw(scene(), 0.0, other={14: 0.5}).build(), cfg, pair_id="p")
    assert at(frame, STARS[14]) is not None
    assert "scale" not in at(frame, STARS[14])["tags"]


def test_a_variable_among_dimmed_stars_keeps_its_own_change(scene, cfg):
    frame = find_candidates(draw(scene(), -0.06, other={14: 0.5, 21: -0.7}).build(), cfg, pair_id="p")
    for index in (14, 21):
        assert "scale" not in at(frame, STARS[index])["tags"]
    assert "scale" in at(frame, STARS[15])["tags"]


def test_a_new_source_beside_dimmed_stars_does_not_carry_it(scene, cfg):
    sky = scene()
    draw(sky, -0.1)
    sky.add(132.0, 132.0, 40.0)
    frame = find_candidates(sky.build(), cfg, pair_id="p")
    assert {"scale", "offset"}.isdisjoint(at(frame, (132.0, 132.0))["tags"])


def test_a_lobe_beside_a_star_is_offset_and_a_change_at_its_centre_is_not(scene, cfg):
    sky = scene()
    draw(sky, 0.0, other={14: 0.15})
    x, y = STARS[21]
    sky.science += 40.0 * sky.flux_error * sky.source(x + 2.0, y)
    frame = find_candidates(sky.build(), cfg, pair_id="p")
    assert "offset" in at(frame, (x + 2.0, y))["tags"]
    assert "offset" not in at(frame, STARS[14])["tags"]


def test_a_source_far_from_every_star_is_not_offset(scene, cfg):
    sky = scene()
    draw(sky, 0.0)
    sky.add(132.0, 128.0, 30.0)
    assert "offset" not in at(find_candidates(sky.build(), cfg, pair_id="p"), (132.0, 128.0))["tags"]


def test_too_few_sources_tell_nothing(scene, cfg):
    sky = scene()
    for x, y in STARS[:4]:
        light = 400.0 * sky.flux_error * sky.source(x, y)
        sky.reference += light
        sky.science += 0.9 * light
    frame = find_candidates(sky.build(), cfg, pair_id="p")
    assert len(frame) >= 4
    assert not any("scale" in words for words in frame["tags"])

import numpy as np
import pytest

from astrid.candidates.extract import find_candidates
from astrid.candidates.host import light_radius, reference_sources
from astrid.core.dq import DQ


def test_the_light_radius_is_the_axis_along_the_axis():
    one = np.ones(1)
    assert light_radius(4 * one, 2 * one, 0.3 * one, 0.3 * one)[0] == pytest.approx(4)
    assert light_radius(4 * one, 2 * one, 0.3 * one, (0.3 + np.pi / 2) * one)[0] == pytest.approx(2)
    between = light_radius(4 * one, 2 * one, 0 * one, np.pi / 4 * one)[0]
    assert between == pytest.approx(1 / np.sqrt(0.5 / 16 + 0.5 / 4))


@pytest.fixture
def galaxy(scene):
    view = scene()
    view.reference += np.random.default_rng(6).normal(0, 1, view.shape)
    host = 20_000 * view.source(120, 120, sigma=5.0)
    view.science += host
    view.reference += host
    view.reference += 3000 * view.source(60, 190)
    view.science += 3000 * view.source(60, 190)
    return view


def test_the_offset_is_to_the_extended_source_and_in_its_light_radii(galaxy, cfg):
    galaxy.add(130, 120, 40)
    galaxy.add(200, 30, 40)
    frame = find_candidates(galaxy.build(), cfg, pair_id="s__r")
    on_host = frame[frame["x"] < 150].iloc[0]
    assert on_host["host_offset"] == pytest.approx(10 * 0.2, abs=0.05)
    assert on_host["host_dlr"] == pytest.approx(2.0, rel=0.15)
    alone = frame[frame["x"] > 150].iloc[0]
    assert np.isnan(alone["host_offset"])
    assert np.isnan(alone["host_dlr"])


def test_a_star_is_no_host(galaxy, cfg):
    sources = reference_sources(galaxy.build(), cfg.host)
    star = np.argmin(np.hypot(sources.x - 60, sources.y - 190))
    assert not sources.extended[star]
    assert sources.extended[np.argmin(np.hypot(sources.x - 120, sources.y - 120))]


@pytest.mark.parametrize("case", ["masked", "blank"])
def test_a_reference_without_sky_has_no_sources(scene, cfg, case):
    view = scene()
    view.dq[:] = DQ.NO_COVERAGE if case == "masked" else 0
    assert len(reference_sources(view.build(), cfg.host).x) == 0

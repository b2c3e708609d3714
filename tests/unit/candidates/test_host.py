import numpy as np
import pytest

from astrid.candidates.extract import find_candidates
from astrid.candidates.host import Sources, light_radius, nearest_host, reference_sources
from astrid.candidates.peaks import Peaks
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


def ellipses(*rows):
    """Extended sources from (x, y, a, b, theta)."""
    x, y, major, minor, theta = np.array(rows, dtype=float).T
    extended = np.ones(len(rows), dtype=bool)
    return Sources(x, y, major, minor, theta, x * 0 + 1, x * 0 + 1, extended, ~extended, 1.0)


def peaks_at(*places):
    x, y = np.array(places, dtype=float).T
    pixel = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
    one = np.ones(len(x))
    return Peaks(x, y, *pixel, one.astype(np.int64), one, one)


def hosts(peaks, sources, cfg):
    return nearest_host(peaks, sources, cfg.host, pixel_scale=0.2)


def test_the_ellipse_points_at_its_host_and_not_the_shorter_distance(cfg):
    """A candidate on the major axis of a large galaxy belongs to it, though a small one is nearer in arcsec (Gupta et al. 2016)."""
    found = hosts(peaks_at((30, 0)), ellipses((0, 0, 12, 3, 0), (36, 4, 2, 2, 0)), cfg)
    assert found["host_dlr"][0] == pytest.approx(30 / 12)
    assert found["host_offset"][0] == pytest.approx(30 * 0.2)
    assert (found["host_major"][0], found["host_minor"][0], found["host_theta"][0]) == pytest.approx((2.4, 0.6, 0.0))
    assert found["host_dlr_second"][0] == pytest.approx(np.hypot(6, 4) / 2)
    assert found["host_ambiguous"][0]
    across = hosts(peaks_at((0, 30)), ellipses((0, 0, 12, 3, 0), (6, 34, 2, 2, 0)), cfg)
    assert across["host_dlr"][0] == pytest.approx(np.hypot(6, 4) / 2)
    assert np.isnan(across["host_dlr_second"][0])  # ten light radii along the minor axis
    assert not across["host_ambiguous"][0]


def test_a_host_far_ahead_of_the_next_is_not_ambiguous(cfg):
    found = hosts(peaks_at((4, 0)), ellipses((0, 0, 10, 8, 0.3), (40, 0, 9, 9, 0)), cfg)
    assert found["host_dlr"][0] < 0.5
    assert found["host_dlr_second"][0] == pytest.approx(4.0)
    assert not found["host_ambiguous"][0]


def test_a_large_galaxy_counts_behind_any_number_of_small_ones(cfg):
    rng = np.random.default_rng(1)
    small = [(100 + 14 * np.cos(t), 100 + 14 * np.sin(t), 1.0, 1.0, 0.0) for t in rng.uniform(0, 2 * np.pi, 60)]
    found = hosts(peaks_at((100, 100)), ellipses((160, 100, 30, 30, 0), *small), cfg)
    assert found["host_dlr"][0] == pytest.approx(2.0)


def test_the_light_radius_is_the_form_of_sullivan(cfg):
    """R^2 = Cxx dx^2 + Cyy dy^2 + Cxy dx dy of Sullivan et al. 2006 with the coefficients of Bertin & Arnouts 1996."""
    a, b, theta, dx, dy = 9.0, 4.0, 0.7, 11.0, -6.0
    c, s = np.cos(theta), np.sin(theta)
    cxx, cyy = (c / a) ** 2 + (s / b) ** 2, (s / a) ** 2 + (c / b) ** 2
    cxy = 2 * c * s * (1 / a**2 - 1 / b**2)
    found = hosts(peaks_at((50 + dx, 50 + dy)), ellipses((50, 50, a, b, theta)), cfg)
    assert found["host_dlr"][0] == pytest.approx(np.sqrt(cxx * dx**2 + cyy * dy**2 + cxy * dx * dy))

"""What is injected into a pair: the S/N that the difference shows, even cover of both axes, places that agree in both exposures."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import yaml

from astrid.candidates.host import light_radius
from astrid.config.schema.injection import HostsConfig, InjectionConfig
from astrid.config.validate import validate
from astrid.core.errors import ConfigError, ImagingError
from astrid.core.records import Calibrated
from astrid.imaging.alignment.astrometry import Mapping
from astrid.imaging.inject import inject
from astrid.imaging.injections import Hosts, draw, find_hosts, flux_error, on_science_scale, strata, survey_pair, to_science, truth_rows
from astrid.imaging.pair import subtract_pair

NOTHING = np.zeros((0, 2))


@pytest.fixture(scope="module")
def config(project_root):
    values = yaml.safe_load((project_root / "conf/injection/default.yaml").read_text())

    def build(**changes: Any) -> InjectionConfig:
        return validate(InjectionConfig, {**values, "seed": 1, **changes}, path="injection")

    return build


def ground_of(pair, difference, hosts=None):
    return survey_pair(
        pair.science,
        pair.reference,
        psf=difference.psf,
        registration=difference.registration,
        flux_scale=difference.flux_scale,
        hosts=hosts or HostsConfig(sigma=3.0, min_area=8, extended_ratio=1.3),
    )


@pytest.fixture(scope="module")
def turned(skies):
    """The reference is deeper, turned, moved, of twice the flux, and its header is 2 px off."""
    return skies.make_pair(seed=4, shape=(200, 220), ratio=2.0, angle=30.0, shift=(3.0, -2.0), header_error=(2.0, 1.0), given=True)


@pytest.fixture(scope="module")
def ground(turned, difference_config):
    return ground_of(turned, difference_config)


def test_strata_hold_one_number_each():
    drawn = strata(37, np.random.default_rng(1))
    assert np.floor(np.sort(drawn) * 37).astype(int).tolist() == list(range(37))
    assert not np.array_equal(np.argsort(drawn), np.arange(37))
    assert len(strata(0, np.random.default_rng(1))) == 0


def test_the_mapping_is_inverted(ground):
    x, y = np.random.default_rng(2).uniform(0, 200, (2, 40))
    back = to_science(ground.mapping, *ground.mapping(x, y), ground.science.shape)
    assert np.hypot(back[0] - x, back[1] - y).max() < 1e-3


def test_a_place_that_the_mapping_does_not_reach_is_nan(ground):
    mapping: Mapping = ground.mapping
    x, y = to_science(mapping, np.array([50.0, np.nan]), np.array([60.0, 60.0]), ground.science.shape)
    assert np.isfinite([x[0], y[0]]).all()
    assert np.isnan([x[1], y[1]]).all()


def test_fluxes_are_on_each_exposures_own_scale(ground):
    assert ground.ratio == pytest.approx(0.5, rel=0.02)


def test_sources_cover_the_snr_evenly_and_keep_apart(ground, config):
    known = np.array([[100.0, 100.0]])
    cfg = config(density=600.0, apart_fwhms=4.0, margin_px=9.0, fading=0.25)
    got = draw(ground, cfg, np.random.default_rng(3), known=known)
    assert len(got) == round(600e-6 * ground.usable)
    share = np.log(got.snr / cfg.min_snr) / np.log(cfg.max_snr / cfg.min_snr)
    assert np.floor(np.sort(share) * len(got)).astype(int).tolist() == list(range(len(got)))
    assert got.fading.sum() == pytest.approx(0.25 * len(got), abs=1)
    places = np.column_stack([got.x, got.y])
    gap = np.hypot(*(places[:, None] - np.vstack([places, known])[None]).transpose(2, 0, 1))
    assert np.sort(gap, axis=1)[:, 1].min() >= 4.0 * ground.science.psf.fwhm - 1e-9
    assert gap[:, -1].min() >= 4.0 * ground.science.psf.fwhm
    assert min(got.x.min(), got.y.min(), got.x_reference.min(), got.y_reference.min()) >= 9.0
    assert got.width.std() == pytest.approx(0.01, rel=0.5)


def test_a_full_image_takes_fewer_and_a_limit_holds(ground, config):
    crowded = draw(ground, config(density=50000.0, apart_fwhms=8.0), np.random.default_rng(3), known=NOTHING)
    assert 5 < len(crowded) < 300
    assert len(draw(ground, config(density=600.0, max_sources=7), np.random.default_rng(3), known=NOTHING)) == 7
    none = draw(ground, config(density=1e-3), np.random.default_rng(3), known=NOTHING)
    assert len(none) == 0
    assert len(truth_rows(none, ground, ("a", "b"), "p")) == 0


def test_masked_pixels_of_either_exposure_get_none(turned, difference_config, config):
    dq = turned.reference.dq.copy()
    dq[:, :120] |= 1
    masked = dataclasses.replace(turned, reference=dataclasses.replace(turned.reference, dq=dq))
    got = draw(ground_of(masked, difference_config), config(density=600.0), np.random.default_rng(3), known=NOTHING)
    assert len(got) > 3
    assert got.x_reference.min() > 119.0


def added(image: Calibrated, x, y, flux, seed: int) -> Calibrated:
    return inject(image, np.column_stack([x, y]), flux, np.random.default_rng(seed))


def test_the_difference_shows_the_aimed_snr_in_both_directions(turned, ground, difference_config, config):
    """At bright stars the score pays for alignment as well; away from them the S/N is what was aimed at."""
    ratios, pulls, signs = [], [], []
    for seed in range(3):
        got = draw(ground, config(density=400.0, max_snr=40.0, width_scatter=0.0, fading=0.5), np.random.default_rng(seed), known=NOTHING)
        up, down = ~got.fading, got.fading
        science = added(turned.science, got.x[up], got.y[up], got.flux[up], seed)
        reference = added(turned.reference, got.x_reference[down], got.y_reference[down], got.flux[down], seed + 50)
        out = subtract_pair(science, reference, difference_config)
        column, row = np.round(got.x).astype(int), np.round(got.y).astype(int)
        wanted = np.where(down, -got.flux * ground.ratio, got.flux)
        error = out.flux_err[row, column]
        centred = np.hypot(got.x - column, got.y - row) < 0.35
        ratios += (np.abs(wanted) / error / got.snr)[np.isfinite(error)].tolist()
        pulls += ((out.flux[row, column] - wanted) / error)[centred & np.isfinite(error)].tolist()
        signs += (np.sign(out.flux[row, column]) == np.where(down, -1, 1))[got.snr > 6].tolist()
    assert len(ratios) > 30
    assert np.median(ratios) == pytest.approx(1.0, abs=0.08)
    assert abs(np.median(pulls)) < 1.0
    assert np.mean(signs) > 0.9


def test_flux_error_is_that_of_the_matched_filter(skies):
    image = skies.make_pair(seed=1, shape=(80, 80), count=1, given=True).science
    flat = dataclasses.replace(image, variance=np.full_like(image.variance, 50.0), gain=2.0)
    stamp = flat.psf.stamp.astype(float)
    sigma, own = flux_error(flat, flat.psf, 40.0, 40.0)
    assert sigma == pytest.approx(np.sqrt(50.0 / (stamp**2).sum()), rel=1e-5)
    assert own == pytest.approx((stamp**3).sum() / (stamp**2).sum() ** 2 / 2.0, rel=1e-3)
    assert flux_error(flat, flat.psf, 40.0, 500.0) == (np.inf, 0.0)


def galaxy_image(image: Calibrated) -> Calibrated:
    y, x = np.indices(image.data.shape)
    theta = 0.5
    along = (x - 70.0) * np.cos(theta) + (y - 50.0) * np.sin(theta)
    across = -(x - 70.0) * np.sin(theta) + (y - 50.0) * np.cos(theta)
    light = 400.0 * np.exp(-0.5 * ((along / 8.0) ** 2 + (across / 4.0) ** 2))
    return dataclasses.replace(image, data=(image.data + light).astype(np.float32), variance=(image.variance + light).astype(np.float32))


def test_a_galaxy_is_a_host_and_a_star_is_not(turned):
    empty = find_hosts(turned.reference, 3.5, HostsConfig(sigma=3.0, min_area=8, extended_ratio=2.0))
    assert len(empty.x) == 0
    found = find_hosts(galaxy_image(turned.reference), 3.5, HostsConfig(sigma=3.0, min_area=8, extended_ratio=2.0))
    assert len(found.x) == 1
    assert np.hypot(found.x[0] - 70.0, found.y[0] - 50.0) < 1.0
    assert found.theta[0] == pytest.approx(0.5, abs=0.1)
    assert found.major[0] / found.minor[0] == pytest.approx(2.0, rel=0.15)


def test_places_lie_at_their_directional_light_radii():
    hosts = Hosts(*(np.array([value]) for value in (10.0, 20.0, 6.0, 2.0, 0.7)))
    angle, dlr = np.random.default_rng(1).uniform(0, 6, (2, 50))
    x, y = hosts.place(np.zeros(50, dtype=np.intp), dlr, angle)
    radius = light_radius(hosts.major, hosts.minor, hosts.theta, np.arctan2(y - 20.0, x - 10.0))
    assert np.hypot(x - 10.0, y - 20.0) / radius == pytest.approx(dlr)


def test_sources_near_hosts_cover_their_distance_evenly(turned, difference_config, config):
    with_host = dataclasses.replace(turned, reference=galaxy_image(turned.reference))
    ground = ground_of(with_host, difference_config, HostsConfig(sigma=3.0, min_area=8, extended_ratio=2.0))
    cfg = config(density=150.0, apart_fwhms=0.5, near_hosts=0.5, max_dlr=3.0)
    drawn = [draw(ground, cfg, np.random.default_rng(seed), known=NOTHING) for seed in range(8)]
    dlr = np.concatenate([one.dlr[np.isfinite(one.dlr)] for one in drawn])
    assert len(dlr) == pytest.approx(0.5 * sum(len(one) for one in drawn), abs=len(drawn))
    assert np.histogram(dlr, 3, (0.0, 3.0))[0] / len(dlr) == pytest.approx(np.full(3, 1 / 3), abs=0.13)
    one = drawn[0]
    rooted = np.isfinite(one.dlr)
    radius = light_radius(
        ground.hosts.major[0], ground.hosts.minor[0], ground.hosts.theta[0],
        np.arctan2(one.y_reference[rooted] - one.host_y[rooted], one.x_reference[rooted] - one.host_x[rooted]),
    )  # fmt: skip
    offset = np.hypot(one.y_reference[rooted] - one.host_y[rooted], one.x_reference[rooted] - one.host_x[rooted])
    assert offset / radius == pytest.approx(one.dlr[rooted], abs=1e-3)
    truth = truth_rows(one, ground, ("s", "r"), "p")
    assert np.isfinite(truth["host_ra"]).sum() == 2 * rooted.sum()


def test_truth_has_two_rows_a_source_and_one_light(ground, config):
    got = draw(ground, config(density=300.0, fading=0.5), np.random.default_rng(3), known=NOTHING)
    truth = truth_rows(got, ground, ("s-inj0-r", "r-inj0-s"), "s__r-inj0")
    here, there = truth[truth["exposure_id"] == "s-inj0-r"], truth[truth["exposure_id"] == "r-inj0-s"]
    assert len(here) == len(there) == len(got)
    assert ((here["flux"].to_numpy() > 0) == ~got.fading).all()
    assert ((there["flux"].to_numpy() > 0) == got.fading).all()
    assert (here["s_ra"].to_numpy() == there["s_ra"].to_numpy()).all()
    scaled = on_science_scale(truth)
    assert (scaled["flux"][there.index] == there["flux"] * ground.ratio).all()
    assert (scaled["flux"][here.index] == here["flux"]).all()
    x, y = ground.mapping(got.x, got.y)
    assert np.hypot(there["x"] - x, there["y"] - y).max() < 0.02


def test_an_unknown_gain_is_refused(turned, difference_config):
    unknown = dataclasses.replace(turned, reference=dataclasses.replace(turned.reference, gain=float("inf")))
    with pytest.raises(ImagingError, match="no photon noise can be drawn; give its gain"):
        ground_of(unknown, difference_config)


def test_a_falling_range_of_snr_is_refused(config):
    with pytest.raises(ConfigError, match="min_snr = 9 is above max_snr = 5; swap them"):
        config(min_snr=9.0, max_snr=5.0)

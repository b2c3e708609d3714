"""Surveys drawn at random: which values they take, what they depend on, and what is refused."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from astrid.config.compose import compose
from astrid.config.schema.simulate import SimulateConfig, SurveySpec
from astrid.config.validate import validate
from astrid.core.errors import ConfigError
from astrid.sky.simulate import expand, plan, survey_catalog
from astrid.sky.simulate.render import World, render

CONF = Path(__file__).parents[3] / "conf"


@pytest.fixture(scope="module")
def wide_values() -> Callable[..., dict[str, Any]]:
    composed = yaml.safe_dump(compose(CONF, ["simulate=wide"])["simulate"])

    def build(**random: Any) -> dict[str, Any]:
        values: dict[str, Any] = yaml.safe_load(composed)
        values["random"] |= random
        return values

    return build


@pytest.fixture(scope="module")
def drawn(wide_values: Callable[..., dict[str, Any]]) -> dict[str, SurveySpec]:
    return expand(validate(SimulateConfig, wide_values(), path="simulate")).surveys


def _config(values: dict[str, Any]) -> SimulateConfig:
    return validate(SimulateConfig, values, path="simulate")


def test_settings_without_random_stay_as_they_are(simulate_cfg: SimulateConfig) -> None:
    assert simulate_cfg.random is None
    assert expand(simulate_cfg) is simulate_cfg


def test_draws_fill_their_ranges_and_keep_to_them(drawn: dict[str, SurveySpec], wide_values: Callable[..., dict[str, Any]]) -> None:
    random = wide_values()["random"]
    assert len(drawn) == random["surveys"]
    for law in ("uniform", "log", "integer"):
        for part, keys in random[law].items():
            for key, (low, high) in keys.items():
                if key in random["unit"].get(part, {}) or (part, key) == ("detector", "full_well"):
                    continue
                values = np.array([getattr(getattr(survey, part), key) for survey in drawn.values()], dtype=float)
                on = values[values != 0] if key in random["absent"].get(part, {}) else values
                assert on.min() >= low, key
                assert on.max() <= high, key
                assert np.ptp(on) > 0.6 * (high - low), key


def test_fwhm_in_pixels_spans_undersampled_to_oversampled(drawn: dict[str, SurveySpec]) -> None:
    pixels = np.array([survey.psf.fwhm / survey.pixel_scale for survey in drawn.values()])
    assert pixels.min() < 1.6
    assert pixels.max() > 5.5
    assert {survey.psf.profile for survey in drawn.values()} == {"moffat", "kolmogorov", "optical", "gaussian_wings"}


def test_absent_keys_are_zero_in_their_share_of_surveys(drawn: dict[str, SurveySpec], wide_values: Callable[..., dict[str, Any]]) -> None:
    share = wide_values()["random"]["absent"]["detector"]["dead_border"]
    zeros = np.mean([survey.detector.dead_border == 0 for survey in drawn.values()])
    assert zeros == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / len(drawn)))


def test_units_of_a_draw_are_the_seeing_and_the_sky_noise(wide_values: Callable[..., dict[str, Any]]) -> None:
    values = wide_values()
    values["random"]["uniform"]["psf"]["wing_fwhm"] = [3.0, 3.0]
    values["random"]["log"]["detector"]["hot_charge"] = [10.0, 10.0]
    for survey in list(expand(_config(values)).surveys.values())[:20]:
        (band,) = survey.filters.values()
        sky = 10 ** (0.4 * (band.zeropoint - band.sky)) * survey.exptime * survey.pixel_scale**2
        assert survey.psf.wing_fwhm == pytest.approx(3.0 * survey.psf.fwhm)
        assert survey.detector.hot_charge == pytest.approx(10.0 * np.hypot(np.sqrt(sky), survey.detector.read_noise))


def test_limit_is_the_magnitude_of_five_sigma(drawn: dict[str, SurveySpec]) -> None:
    """A source at the limit against the noise in its noise-equivalent area, with its own shot noise."""
    for survey in list(drawn.values())[:20]:
        (band,) = survey.filters.values()
        sky = 10 ** (0.4 * (band.zeropoint - band.sky)) * survey.exptime * survey.pixel_scale**2
        area = 1.3 * 2.266 * ((survey.psf.fwhm / survey.pixel_scale) ** 2 + 0.5)
        flux = 10 ** (0.4 * (band.zeropoint - band.limit)) * survey.exptime
        assert flux / np.sqrt(flux + area * (sky + survey.detector.read_noise**2)) == pytest.approx(5.0)
        assert survey.scene.star_bright < band.limit < survey.scene.star_faint


def test_a_wider_aperture_sees_fainter(wide_values: Callable[..., dict[str, Any]]) -> None:
    small, large = (
        [next(iter(survey.filters.values())).limit for survey in expand(_config(wide_values(aperture=[size, size]))).surveys.values()]
        for size in (0.5, 4.0)
    )
    assert (np.array(large) > np.array(small)).all()


def test_no_full_pixel_overflows_the_converter_nor_does_the_sky_fill_it(drawn: dict[str, SurveySpec]) -> None:
    for survey in drawn.values():
        (band,) = survey.filters.values()
        sky = 10 ** (0.4 * (band.zeropoint - band.sky)) * survey.exptime * survey.pixel_scale**2
        assert survey.detector.full_well <= 60000.0 * survey.detector.gain * (1 + 1e-9)
        assert sky <= 0.08 * survey.detector.full_well * (1 + 1e-9)


def test_references_go_from_one_exposure_to_deep_stacks_and_from_weeks_to_years(drawn: dict[str, SurveySpec]) -> None:
    frames = [survey.reference_frames for survey in drawn.values()]
    ages = [survey.reference_lead for survey in drawn.values()]
    assert min(frames) == 1
    assert max(frames) > 20
    assert min(ages) < 30
    assert max(ages) > 700


def test_a_survey_does_not_depend_on_how_many_there_are(wide_values: Callable[..., dict[str, Any]], drawn: dict[str, SurveySpec]) -> None:
    few = expand(_config(wide_values(surveys=3))).surveys
    assert few == {name: drawn[name] for name in few}


def test_the_order_in_which_keys_are_named_moves_no_draw(wide_values: Callable[..., dict[str, Any]], drawn: dict[str, SurveySpec]) -> None:
    """A stage has them in the file's order, its workers in that of the alphabet."""
    values = wide_values()
    for mapping in (values, values["random"], values["random"]["uniform"]["psf"]):
        for name in ("surveys", "bands", "uniform"):
            if isinstance(mapping.get(name), dict):
                mapping[name] = dict(reversed(mapping[name].items()))
    assert expand(_config(values)).surveys == drawn


def test_a_new_key_moves_no_other_draw(wide_values: Callable[..., dict[str, Any]], drawn: dict[str, SurveySpec]) -> None:
    values = wide_values(surveys=3)
    values["random"]["uniform"]["detector"]["flat_scatter"] = [0.001, 0.002]
    for name, survey in expand(_config(values)).surveys.items():
        assert 0.001 <= survey.detector.flat_scatter <= 0.002
        detector = dataclasses.replace(survey.detector, flat_scatter=drawn[name].detector.flat_scatter)
        assert dataclasses.replace(survey, detector=detector) == drawn[name]


def test_another_seed_gives_other_surveys(wide_values: Callable[..., dict[str, Any]], drawn: dict[str, SurveySpec]) -> None:
    other = expand(_config(wide_values(surveys=3) | {"seed": 99})).surveys
    assert all(other[name] != drawn[name] for name in other)


def test_fields_of_random_surveys_stand_apart_on_the_sky(wide_values: Callable[..., dict[str, Any]]) -> None:
    visits = plan(_config(wide_values()))
    places = np.radians(sorted({(visit.s_ra, visit.s_dec) for visit in visits}))
    ra, dec = places.T
    unit = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
    cosine = unit @ unit.T - 2 * np.eye(len(unit))
    assert np.degrees(np.arccos(cosine.max())) > 0.3


def test_a_random_survey_is_rendered_with_truth(wide_values: Callable[..., dict[str, Any]]) -> None:
    values = wide_values(surveys=2) | {"image_size": 128}
    cfg = _config(values)
    visits = [visit for visit in plan(cfg) if visit.survey == "sim0001"]
    rendered = render(World(cfg), visits[1])
    assert rendered.raw.shape == (128, 128 + cfg.overscan)
    assert {"supernova", "variable"} <= {row["kind"] for row in rendered.truth}
    assert set(survey_catalog(cfg)["source"]) <= {"sim0000", "sim0001"}


@pytest.mark.parametrize(
    ("law", "part", "keys", "message"),
    [
        ("uniform", "psf", {"fwhmm": [1.0, 2.0]}, r"simulate\.random\.uniform\.psf\.fwhmm names no key of a survey"),
        ("absent", "optics", {"fwhm": 0.5}, r"simulate\.random\.absent\.optics\.fwhm names no key of a survey"),
        ("uniform", "psf", {"beta": [4.0, 2.0]}, r"simulate\.random\.uniform\.psf\.beta = \[4, 2\] runs backwards"),
        ("log", "detector", {"gain": [0.0, 2.0]}, r"simulate\.random\.log\.detector\.gain = \[0, 2\] has no logarithm"),
        ("uniform", "psf", {"beta": [0.5, 0.6]}, r"simulate\.random \(survey \d+\)\.psf\.beta"),
    ],
)
def test_impossible_draws_are_refused(
    wide_values: Callable[..., dict[str, Any]], law: str, part: str, keys: dict[str, Any], message: str
) -> None:
    values = wide_values(surveys=2)
    values["random"][law] |= {part: {**values["random"][law].get(part, {}), **keys}}
    with pytest.raises(ConfigError, match=message):
        expand(_config(values))


def test_a_header_error_of_zero_has_no_logarithm(wide_values: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match=r"simulate\.random\.header_shift = \[0, 1\] has no logarithm"):
        expand(_config(wide_values(header_shift=[0.0, 1.0])))


def test_turbulence_is_drawn_in_units_of_the_seeing(drawn: dict[str, SurveySpec], wide_values: Callable[..., dict[str, Any]]) -> None:
    low, high = wide_values()["random"]["uniform"]["weather"]["image_motion"]
    share = np.array([survey.weather.image_motion / survey.psf.fwhm for survey in drawn.values()])
    assert low <= share.min() < low + 0.1 * (high - low)
    assert high >= share.max() > high - 0.1 * (high - low)


def test_a_backward_range_of_the_telescope_is_refused(wide_values: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match=r"simulate\.random\.aperture = \[4, 2\] runs backwards"):
        expand(_config(wide_values(aperture=[4.0, 2.0])))


def test_a_world_of_many_surveys_holds_few_sensors(wide_values: Callable[..., dict[str, Any]]) -> None:
    world = World(_config(wide_values(surveys=12)))
    sensors = [weakref.ref(world.detector(name, spec.detectors[0])) for name, spec in world.cfg.surveys.items()]
    gc.collect()
    assert [sensor() is not None for sensor in sensors] == [False] * 4 + [True] * 8

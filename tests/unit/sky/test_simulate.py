from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

from astrid.config.schema.simulate import SimulateConfig
from astrid.config.validate import validate
from astrid.core.errors import ConfigError
from astrid.core.provenance import digest_file
from astrid.io.tables import EXPOSURES, TRUTH, conform
from astrid.sky.simulate import optics, plan, survey_catalog
from astrid.sky.simulate.render import World, calibration_path, render, write_calibration, write_exposure
from astrid.sky.simulate.scene import build_scene
from astrid.sky.simulate.schedule import Visit
from astrid.sky.simulate.transients import TYPES


@pytest.fixture(scope="module")
def world(simulate_cfg: SimulateConfig) -> World:
    return World(simulate_cfg)


def _visits(cfg: SimulateConfig, survey: str) -> list[Visit]:
    return [visit for visit in plan(cfg) if visit.survey == survey]


def test_plan_has_unique_names_and_references_before_science(simulate_cfg: SimulateConfig) -> None:
    visits = plan(simulate_cfg)
    assert len({visit.exposure_id for visit in visits}) == len(visits)
    for visit in visits:
        own = [other for other in visits if (other.field_id, other.filter) == (visit.field_id, visit.filter)]
        references = [other for other in own if other.role == "reference"]
        assert len(references) == 1
        assert references[0].mjd < min(other.mjd for other in own if other.role == "science")
        assert references[0].exptime > visit.exptime or visit.role == "reference"


def test_every_survey_sees_both_seasons_in_two_filters_and_two_detectors(simulate_cfg: SimulateConfig) -> None:
    for survey in simulate_cfg.surveys:
        science = [visit for visit in _visits(simulate_cfg, survey) if visit.role == "science"]
        seasons = {visit.mjd > simulate_cfg.schedule.season_starts[1] for visit in science}
        assert seasons == {True, False}
        assert len({visit.filter for visit in science}) == 2
        assert len({visit.detector for visit in science}) == 2
        assert {(visit.filter, visit.mjd > 59300) for visit in science} == {
            (f, s) for f in simulate_cfg.surveys[survey].filters for s in seasons
        }


def test_fields_stand_far_apart(simulate_cfg: SimulateConfig) -> None:
    centres = sorted({(visit.s_ra, visit.s_dec) for visit in plan(simulate_cfg)})
    sky = SkyCoord(*np.array(centres).T, unit="deg")
    assert sky.match_to_catalog_sky(sky, nthneighbor=2)[1].deg.min() > 0.45


@pytest.mark.parametrize("survey", ["simwide", "simdeep", "simspace"])
def test_same_seed_gives_the_same_bytes_in_any_order(simulate_cfg: SimulateConfig, survey: str, tmp_path: Path) -> None:
    visits = _visits(simulate_cfg, survey)[:3]
    first = World(simulate_cfg)
    rows = [write_exposure(first, visit, tmp_path / f"a{number}.fits") for number, visit in enumerate(visits)]
    alone = World(simulate_cfg)
    again = write_exposure(alone, visits[2], tmp_path / "b2.fits")
    assert digest_file(tmp_path / "a2.fits") == digest_file(tmp_path / "b2.fits")
    assert json.dumps(rows[2]) == json.dumps(again)


def test_another_seed_gives_another_sky_and_noise(simulate_values: Callable[..., dict[str, Any]], world: World) -> None:
    other = World(validate(SimulateConfig, simulate_values(seed=8), path="simulate"))
    visit = plan(world.cfg)[0]
    assert (render(world, visit).raw != render(other, visit).raw).mean() > 0.5


def test_scene_does_not_depend_on_how_many_fields_there_are(simulate_values: Callable[..., dict[str, Any]]) -> None:
    values = simulate_values()
    few = validate(SimulateConfig, values, path="simulate")
    values["schedule"] = {**values["schedule"], "fields": 8}
    many = validate(SimulateConfig, values, path="simulate")
    left, right = build_scene(few, "simwide", "w1", 1), build_scene(many, "simwide", "w1", 1)
    np.testing.assert_array_equal(left.stars, right.stars)
    assert left.transients == right.transients or json.dumps(str(left.transients)) == json.dumps(str(right.transients))


def test_header_says_what_a_reader_needs(world: World, tmp_path: Path) -> None:
    cfg = world.cfg
    visit = _visits(cfg, "simdeep")[1]
    row = write_exposure(world, visit, tmp_path / "raw.fits")["exposure"]
    with fits.open(tmp_path / "raw.fits") as hdus:
        header, raw = hdus[0].header, hdus[0].data
    assert raw.dtype == np.uint16
    assert raw.shape == (cfg.image_size, cfg.image_size + cfg.overscan)
    assert header["TRIMSEC"] == "[1:192,1:192]"
    assert header["BIASSEC"] == "[193:208,1:192]"
    assert (header["INSTRUME"], header["DETECTOR"], header["FILTER"]) == ("deepcam", visit.detector, visit.filter)
    assert header["RADESYS"] == "ICRS"
    assert header["MJD-OBS"] + 0.5 * header["EXPTIME"] / 86400 == pytest.approx(visit.mjd, abs=1e-7)
    assert row["saturation"] == pytest.approx(header["SATURATE"])
    assert row["path"].endswith(f"science/{visit.exposure_id}.fits")
    assert WCS(header).has_celestial


def test_header_wcs_is_wrong_within_the_configured_range(simulate_cfg: SimulateConfig) -> None:
    pointing = simulate_cfg.pointing
    shifts = {True: [], False: []}
    for visit in plan(simulate_cfg):
        conditions = optics.observe(simulate_cfg, visit)
        true, header = (make(simulate_cfg, visit, conditions) for make in (optics.true_wcs, optics.header_wcs))
        at = true.wcs.crpix - 1
        apart = true.pixel_to_world(*at).separation(header.pixel_to_world(*at)).arcsec
        shifts[conditions.bad].append(apart)
        corner = true.pixel_to_world(0, 0).separation(header.pixel_to_world(0, 0)).arcsec
        assert abs(corner - apart) < 0.3 * (pointing.bad_factor if conditions.bad else 1.0)
    assert min(shifts[False]) >= pointing.shift_min - 1e-3
    assert max(shifts[False]) <= pointing.shift_max + 1e-3
    assert max(shifts[True]) <= pointing.bad_factor * pointing.shift_max + 1e-3
    assert len(shifts[True]) < 0.2 * len(shifts[False])


def test_weather_is_shared_by_a_night_and_differs_between_nights(simulate_cfg: SimulateConfig) -> None:
    visit = _visits(simulate_cfg, "simwide")[1]
    neighbour = dataclasses.replace(visit, exposure_id="other", detector="w2")
    later = dataclasses.replace(visit, mjd=visit.mjd + 3)
    here, there, then = (optics.observe(simulate_cfg, one) for one in (visit, neighbour, later))
    assert (here.fwhm, here.sky, here.transparency) == (there.fwhm, there.sky, there.transparency)
    assert here.dither != there.dither
    assert (here.fwhm, here.sky) != (then.fwhm, then.sky)


def test_truth_rows_are_complete_and_on_the_image(world: World) -> None:
    rows = [row for visit in _visits(world.cfg, "simspace")[:8] for row in render(world, visit).truth]
    frame = conform(pd.DataFrame(rows), TRUTH, source="test")
    assert set(frame["kind"]) >= {"supernova", "variable", "cosmic_ray", "hot_pixel", "asteroid"}
    assert frame[["x", "y"]].to_numpy().min() >= -0.5
    assert frame[["x", "y"]].to_numpy().max() <= world.cfg.image_size - 0.5
    assert frame["simulated"].all()
    assert frame[["s_ra", "s_dec", "flux"]].notna().all(axis=None)
    hosted = frame[(frame["kind"] == "supernova") & frame["host_ra"].notna()]
    assert len(hosted)


def test_no_supernova_shines_in_a_reference(world: World) -> None:
    references = [visit for visit in plan(world.cfg) if visit.role == "reference"]
    for visit in references:
        band = world.cfg.surveys[visit.survey].filters[visit.filter]
        for source in build_scene(world.cfg, visit.survey, visit.detector, visit.field).transients:
            if source.kind == "supernova":
                assert source.curve.magnitude(visit.mjd, band.wavelength) == np.inf


def test_truth_speaks_of_references_too_with_a_flux_of_zero(world: World) -> None:
    visit = plan(world.cfg)[0]
    assert visit.role == "reference"
    rows = [row for row in render(world, visit).truth if row["kind"] == "supernova"]
    assert len(rows) == world.cfg.surveys[visit.survey].scene.supernovae
    assert {row["flux"] for row in rows} == {0.0}
    assert all(np.isnan(row["magnitude"]) for row in rows)


def test_catalogue_holds_supernovae_at_their_true_place(world: World) -> None:
    catalog = survey_catalog(world.cfg)
    assert catalog["object_id"].is_unique
    assert set(catalog["transient_type"]) <= set(TYPES)
    visit = next(v for v in plan(world.cfg) if v.role == "science")
    truth = {row["object_id"]: row for row in render(world, visit).truth}
    known = catalog[catalog["object_id"].isin(truth)]
    assert len(known)
    for row in known.itertuples():
        there = truth[row.object_id]
        apart = SkyCoord(row.s_ra, row.s_dec, unit="deg").separation(SkyCoord(there["s_ra"], there["s_dec"], unit="deg"))
        assert apart.arcsec < 0.01


def test_catalogue_dates_discovery_at_a_science_exposure(simulate_cfg: SimulateConfig) -> None:
    dates = {visit.mjd for visit in plan(simulate_cfg) if visit.role == "science"}
    catalog = survey_catalog(simulate_cfg)
    assert set(catalog["discovery_mjd"]) <= dates
    assert 0.4 < len(catalog) / (24 * 4) < 1.0  # most, not all, of the supernovae are found


def test_rows_conform_and_calibration_frames_are_trimmed(world: World, tmp_path: Path) -> None:
    visit = _visits(world.cfg, "simwide")[0]
    row = write_exposure(world, visit, tmp_path / "raw.fits")["exposure"]
    frame = conform(pd.DataFrame([row]), EXPOSURES, source="test")
    assert frame["bias_path"].iloc[0] == calibration_path("simwide", visit.detector, "bias")
    for kind, dtype in (("bias", ">f4"), ("flat", ">f4"), ("mask", "u1")):
        write_calibration(world, "simwide", visit.detector, kind, tmp_path / f"{kind}.fits")
        data = fits.getdata(tmp_path / f"{kind}.fits")
        assert data.shape == (192, 192)
        assert data.dtype == np.dtype(dtype)


def test_some_hot_pixels_escape_the_mask(world: World) -> None:
    sensors = [world.detector(survey, name) for survey, spec in world.cfg.surveys.items() for name in spec.detectors]
    escaped = sum(int(sensor.unmasked.sum()) for sensor in sensors)
    assert 0 < escaped < sum(len(sensor.hot_x) for sensor in sensors)
    assert not np.array_equal(sensors[0].flat, sensors[1].flat)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("schedule", "epochs", 0, r"simulate\.schedule\.epochs = 0 is not allowed"),
        ("pointing", "shift", 1, r"simulate\.pointing\.shift is not a configuration key"),
        ("schedule", "field_seasons", [[0]], r"field_seasons"),
    ],
)
def test_impossible_settings_are_refused(
    simulate_values: Callable[..., dict[str, Any]], section: str, key: str, value: object, message: str
) -> None:
    values = simulate_values()
    values[section] = {**values[section], key: value}
    with pytest.raises(ConfigError, match=message):
        validate(SimulateConfig, values, path="simulate")

"""The simulator against closed forms: fluxes, noise, saturation, light curves, distances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from astropy.cosmology import FlatLambdaCDM

from astrid.config.schema.simulate import SimulateConfig
from astrid.config.validate import validate
from astrid.sky.simulate import artifacts, detector, optics, plan, transients
from astrid.sky.simulate.render import World, illuminate, render
from astrid.sky.simulate.transients import TYPES, SupernovaCurve

CONF = Path(__file__).parents[2] / "conf"
SURVEYS = ("simwide", "simdeep", "simspace")


def _values() -> dict[str, Any]:
    values = yaml.safe_load((CONF / "simulate/default.yaml").read_text())
    return {**values, "seed": 3, "image_size": 256}


@pytest.fixture(scope="module")
def cfg() -> SimulateConfig:
    return validate(SimulateConfig, _values(), path="simulate")


@pytest.fixture(scope="module")
def clean() -> SimulateConfig:
    """The surveys with nothing but hostless supernovae on the sky and a perfect sensor."""
    values = _values()
    for survey in values["surveys"].values():
        survey["scene"].update(stars=0, galaxies=0, variables=0, asteroids=0, supernovae=1, hostless=1.0, peak_range=6.0, peak_below=0.0)
        survey["artifacts"].update(cosmic_rays=0, satellites=0)
        survey["detector"].update(
            bias_structure=0, flat_scatter=0, vignetting=0, dust=0, hot_pixels=0, dead_pixels=0, bad_columns=0, read_noise=0
        )
    return validate(SimulateConfig, values, path="simulate")


@pytest.mark.parametrize("survey", SURVEYS)
def test_flux_of_an_isolated_supernova_is_the_truths(clean: SimulateConfig, survey: str) -> None:
    world = World(clean)
    seen = 0
    for visit in [visit for visit in plan(clean) if visit.survey == survey and visit.role == "science"][::3]:
        light = illuminate(world, visit)
        row = next((row for row in light.rows if row["kind"] == "supernova"), None)
        if row is None or not row["flux"] > 0 or not all(45 < row[axis] < 210 for axis in "xy"):
            continue
        y, x = np.mgrid[: clean.image_size, : clean.image_size]
        inside = np.hypot(x - row["x"], y - row["y"]) < 40
        measured = (light.electrons - light.sky)[inside].sum()
        assert measured == pytest.approx(row["flux"], rel=0.01)
        seen += 1
    assert seen >= 2


def test_shot_noise_is_the_square_root_of_the_light(clean: SimulateConfig) -> None:
    world = World(clean)
    visit = next(visit for visit in plan(clean) if visit.survey == "simdeep")
    light, sensor = illuminate(world, visit), world.detector(visit.survey, visit.detector)
    raw = render(world, visit).raw.astype(float)
    electrons = (raw[:, : clean.image_size] - raw[:, clean.image_size :].mean()) * sensor.gain
    residual = (electrons - light.electrons) / np.sqrt(light.electrons + sensor.gain**2 / 12)
    assert residual.mean() == pytest.approx(0.0, abs=4 / clean.image_size + 0.05)  # the overscan's mean is rounded to integers
    assert residual.std() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("survey", SURVEYS)
@pytest.mark.parametrize("place", [(60.0, 60.0), (60.5, 61.25), (12.3, 110.9)])
def test_drawn_star_has_its_flux_and_place(cfg: SimulateConfig, survey: str, place: tuple[float, float]) -> None:
    visit = next(v for v in plan(cfg) if v.survey == survey)
    spec = cfg.surveys[survey]
    psf = optics.make_psf(spec.psf, spec.pixel_scale, 600.0, optics.observe(cfg, visit), 128)
    column, row, values = optics.stamp(psf, *place, 45)
    assert values.sum() == pytest.approx(1.0, abs=2e-3)
    here, there = optics.stamp(psf, *place, 45), optics.stamp(psf, place[0] + 1, place[1], 45)
    assert there[0] == here[0] + 1
    aberrated = spec.psf.profile == "optical"  # coma moves the centroid, by the same amount everywhere
    tolerance = 0.08 if aberrated else 2e-3
    assert (values.sum(axis=0) @ np.arange(column, column + 91)) / values.sum() == pytest.approx(place[0], abs=tolerance)
    assert (values.sum(axis=1) @ np.arange(row, row + 91)) / values.sum() == pytest.approx(place[1], abs=tolerance)


def test_interpolated_star_agrees_with_galsim(cfg: SimulateConfig) -> None:
    import galsim

    visit = next(v for v in plan(cfg) if v.survey == "simspace")
    spec, conditions = cfg.surveys["simspace"], optics.observe(cfg, visit)
    bent = spec.psf.__class__(**{**vars(spec.psf), "field_shear": 0.0})
    psf = optics.make_psf(bent, spec.pixel_scale, 350.0, conditions, 128)
    _, _, values = optics.stamp(psf, 60.37, 60.81, 10)
    profile = optics.base_profile(bent, 350.0, conditions.fwhm).shear(g1=conditions.shear[0], g2=conditions.shear[1])
    direct = galsim.Convolve(profile, galsim.Pixel(spec.pixel_scale))
    image = direct.drawImage(nx=21, ny=21, scale=spec.pixel_scale, offset=(0.37, 0.81 - 1.0), method="no_pixel", dtype=float)
    np.testing.assert_allclose(values, image.array, atol=1e-3 * image.array.max())


def test_galaxy_lands_where_the_dither_puts_it_with_its_flux(cfg: SimulateConfig) -> None:
    from astrid.sky.simulate.scene import GALAXY

    galaxy = np.zeros(1, GALAXY)
    galaxy["x"], galaxy["y"], galaxy["mag"], galaxy["radius"], galaxy["axis_ratio"], galaxy["bulge"] = 90.0, 120.25, 0.0, 2.0, 0.7, 0.3
    visit = next(v for v in plan(cfg) if v.survey == "simwide")
    spec = cfg.surveys["simwide"]
    psf = optics.make_psf(spec.psf, spec.pixel_scale, 500.0, optics.observe(cfg, visit), 256)
    image = np.zeros((256, 256))
    optics.add_galaxies(image, optics.galaxy_layer(galaxy, 256, spec.pixel_scale), psf, (3.4, -2.0), 1000.0)
    assert image.sum() == pytest.approx(1000.0, rel=5e-3)
    weights = image / image.sum()
    assert (weights.sum(axis=0) @ np.arange(256)) == pytest.approx(93.4, abs=0.05)
    assert (weights.sum(axis=1) @ np.arange(256)) == pytest.approx(118.25, abs=0.05)


def test_photon_transfer_returns_gain_and_read_noise(cfg: SimulateConfig) -> None:
    sensor = detector.make_detector(cfg, "simwide", "w1")
    rng = np.random.default_rng(1)
    bias = [detector.bias_frame(sensor, rng) for _ in range(2)]
    flat = [detector.flat_frame(sensor, rng) for _ in range(2)]
    bias_variance = np.var(bias[0] - bias[1]) / 2
    good = sensor.mask == 0
    level = (flat[0] + flat[1] - bias[0] - bias[1])[good].mean() / 2
    shot_variance = np.var((flat[0] - flat[1])[good]) / 2 - bias_variance
    assert level / shot_variance == pytest.approx(sensor.gain, rel=0.03)
    assert np.sqrt(bias_variance - 1 / 12) * sensor.gain == pytest.approx(sensor.read_noise, rel=0.03)


def test_masters_recover_the_sensor(cfg: SimulateConfig) -> None:
    sensor = detector.make_detector(cfg, "simdeep", "n4")
    rng = np.random.default_rng(2)
    bias, flat = detector.master_bias(sensor, 25, rng), detector.master_flat(sensor, 25, rng)
    assert np.std(bias - sensor.structure) == pytest.approx(np.hypot(sensor.read_noise / sensor.gain, 12**-0.5) / 5, rel=0.1)
    good = sensor.mask == 0
    assert np.std((flat / sensor.flat)[good]) == pytest.approx(1 / np.sqrt(0.5 * sensor.full_well * 25), rel=0.1)


def test_raw_counts_invert_to_electrons(cfg: SimulateConfig) -> None:
    sensor = detector.make_detector(cfg, "simspace", "u1")
    charge = np.full((256, 256), 5000.0)
    raw = detector.read_out(sensor, charge, 32, np.random.default_rng(3)).astype(float)
    electrons = (raw[:, :256] - raw[:, 256:].mean() - sensor.structure) * sensor.gain
    assert electrons.mean() == pytest.approx(5000.0, abs=0.5)
    assert electrons.std() == pytest.approx(np.hypot(sensor.read_noise, sensor.gain * 12**-0.5), rel=0.03)


def test_saturated_pixels_clip_at_the_level_of_the_header(cfg: SimulateConfig) -> None:
    sensor = detector.make_detector(cfg, "simwide", "w1")
    charge = np.full((256, 256), 100.0)
    charge[100, 50] = 5 * sensor.full_well
    detector.bleed(charge, sensor.full_well)
    raw = detector.read_out(sensor, charge, 32, np.random.default_rng(4))
    saturated = raw[:, :256] >= sensor.saturation
    assert saturated.any(axis=0).nonzero()[0].tolist() == [50]
    assert raw.max() <= sensor.bias + sensor.full_well / sensor.gain + 10 * sensor.read_noise / sensor.gain + 10


def test_bleeding_conserves_charge_and_fills_a_run() -> None:
    charge = np.full((64, 8), 10.0)
    charge[30, 3] = 1010.0
    before = charge.sum()
    full = detector.bleed(charge, 100.0)
    assert charge.sum() == pytest.approx(before)
    assert charge.max() == 100.0
    rows = np.flatnonzero(full[:, 3])
    assert len(rows) == rows[-1] - rows[0] + 1
    assert abs(rows.mean() - 30) <= 1
    assert not full[:, [2, 4]].any()


def test_cosmic_rays_come_at_their_rate_with_compact_hits_and_tracks(cfg: SimulateConfig) -> None:
    spec = cfg.surveys["simdeep"].artifacts
    rng = np.random.default_rng(5)
    counts, sizes = [], []
    for _ in range(60):
        charge, marks = artifacts.cosmic_rays(spec, 256, rng)
        names = {mark.name for mark in marks}
        counts.append(len(names))
        sizes += [sum(mark.name == name for mark in marks) for name in names]
        assert charge.min() == 0.0
    expected = spec.cosmic_rays * 256**2 / 1e6
    assert np.mean(counts) == pytest.approx(expected, abs=4 * np.sqrt(expected / 60))
    assert max(sizes) >= 5
    assert np.mean(np.array(sizes) == 1) > 0.4


@pytest.mark.parametrize("kind", sorted(TYPES))
@pytest.mark.parametrize("wavelength", [350.0, 480.0, 640.0, 780.0])
def test_light_curve_is_continuous_dark_before_and_brightest_near_peak(kind: str, wavelength: float) -> None:
    curve = SupernovaCurve(kind, 59050.0, 19.0, 0.1, 1.0)
    assert curve.magnitude(curve.explosion_mjd - 0.01, wavelength) == np.inf
    days = np.arange(-8.0, 150.0, 0.25)
    light = np.array([curve.magnitude(59050.0 + day, wavelength) for day in days])
    assert np.abs(np.diff(light)).max() < 0.15
    assert abs(days[light.argmin()]) < 8.0
    assert light[-1] > light.min() + 0.8


def test_a_type_ia_declines_by_its_rate_and_is_stretched_by_redshift() -> None:
    near, far = SupernovaCurve("SN Ia", 59000.0, 18.0, 0.0, 1.0), SupernovaCurve("SN Ia", 59000.0, 18.0, 0.5, 1.0)
    assert near.magnitude(59015.0, 450.0) - near.magnitude(59000.0, 450.0) == pytest.approx(TYPES["SN Ia"].rate15)
    assert far.magnitude(59022.5, 675.0) == pytest.approx(near.magnitude(59015.0, 450.0))
    assert near.peak_mjd - near.explosion_mjd == pytest.approx(17.5)


@pytest.mark.parametrize("redshift", [0.01, 0.1, 0.5, 1.0])
def test_distances_agree_with_astropy(redshift: float) -> None:
    cosmology = FlatLambdaCDM(H0=70, Om0=0.3)
    assert transients.distance_modulus(redshift) == pytest.approx(cosmology.distmod(redshift).value, abs=0.002)
    assert transients.redshift_at(transients.distance_modulus(redshift)) == pytest.approx(redshift, rel=1e-3)
    assert transients.kiloparsec(redshift) == pytest.approx(cosmology.arcsec_per_kpc_proper(redshift).value, rel=1e-3)


def test_variables_brighten_and_fade() -> None:
    for kind in transients.PERIODS:
        curve = transients.VariableCurve(kind, 20.0, 0.5, 10.0, 0.2, 0.0)
        light = np.array([curve.magnitude(59000 + step, 500.0) for step in np.arange(0, 10, 0.05)])
        assert light.min() < 19.9
        assert light.max() > 20.1
        assert curve.magnitude(59000.0, 500.0) == pytest.approx(curve.magnitude(59010.0, 500.0))

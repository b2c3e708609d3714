"""What changes on the simulated sky: classes and places of supernovae, fading ones, outbursts, clusters, stacked references."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from astrid.config.schema.simulate import SimulateConfig
from astrid.config.validate import validate
from astrid.sky.simulate import optics, plan, transients
from astrid.sky.simulate.render import World, illuminate, render
from astrid.sky.simulate.scene import Scene, build_scene
from astrid.sky.simulate.transients import OUTBURSTS, OutburstCurve, SupernovaCurve


@pytest.fixture(scope="module")
def scene_of(simulate_values: Callable[..., dict[str, Any]]) -> Callable[..., tuple[SimulateConfig, Scene]]:
    def build(field: int = 0, **scene: Any) -> tuple[SimulateConfig, Scene]:
        values = simulate_values()
        values["surveys"]["simwide"]["scene"].update(scene)
        cfg = validate(SimulateConfig, values, path="simulate")
        return cfg, build_scene(cfg, "simwide", "w1", field)

    return build


SceneOf = Callable[..., tuple[SimulateConfig, Scene]]


def test_half_of_the_supernovae_shine_in_the_reference_and_fade(scene_of: SceneOf) -> None:
    cfg, scene = scene_of(supernovae=300, fading=0.5, galaxies=0)
    visits = [visit for visit in plan(cfg) if visit.field_id == "simwide-w1-f00"]
    band = cfg.surveys["simwide"].filters[visits[0].filter]
    light = np.array(
        [[source.curve.magnitude(v.mjd, band.wavelength) for v in visits] for source in scene.transients if source.kind == "supernova"]
    )
    shining = np.isfinite(light[:, 0])
    assert shining.mean() == pytest.approx(0.5, abs=0.12)
    assert (light[shining][:, -1] > light[shining][:, 0] + 0.5).mean() > 0.9


def test_fading_moves_the_date_of_a_supernova_and_nothing_else(scene_of: SceneOf) -> None:
    before, after = (scene_of(supernovae=20, fading=share)[1] for share in (0.0, 1.0))
    np.testing.assert_array_equal(before.galaxies, after.galaxies)
    for old, new in zip(before.transients, after.transients, strict=True):
        assert str(dataclasses.replace(old, curve=new.curve)) == str(new)
    dates = [(old.curve, new.curve) for old, new in zip(before.transients, after.transients, strict=True) if old.kind == "supernova"]
    assert all(old.peak_mjd != new.peak_mjd for old, new in dates)  # type: ignore[union-attr]


def test_outbursts_move_nothing_else_and_each_is_caught_by_an_exposure(scene_of: SceneOf) -> None:
    _, quiet = scene_of(outbursts=0)
    cfg, busy = scene_of(outbursts=40)
    assert busy.transients[: len(quiet.transients)] == quiet.transients or str(busy.transients[: len(quiet.transients)]) == str(
        quiet.transients
    )
    bursts = busy.transients[len(quiet.transients) :]
    assert {source.transient_type for source in bursts} == set(OUTBURSTS)
    visits = [visit for visit in plan(cfg) if visit.field_id == "simwide-w1-f00"]
    roles = set()
    for source in bursts:
        band = cfg.surveys["simwide"].filters[visits[0].filter]
        light = np.array([source.curve.magnitude(visit.mjd, band.wavelength) for visit in visits])
        brightest = visits[int(light.argmin())]
        assert light.min() < source.curve.quiet + 0.3  # type: ignore[union-attr]
        roles.add(brightest.role)
    assert roles == {"reference", "science"}


def test_variables_fill_their_range_with_amplitudes_down_to_the_least(scene_of: SceneOf) -> None:
    cfg, plain = scene_of(variables=200)
    _, wide = scene_of(variables=200, variable_range=8.0, amplitude_scatter=1.2, amplitude_least=0.02)
    limit = np.mean([band.limit for band in cfg.surveys["simwide"].filters.values()])
    old, new = ([source for source in scene.transients if source.kind == "variable"] for scene in (plain, wide))
    for sources, least, bright in ((old, 0.12, 4.5), (new, 0.02, 8.0)):
        amplitude, mean = np.array([(one.curve.amplitude, one.curve.mean) for one in sources]).T  # type: ignore[union-attr]
        assert least <= amplitude.min() < 1.5 * least
        assert bright - 0.3 < limit - mean.min() < bright
    assert [(one.x, one.y, one.transient_type) for one in old] == [(one.x, one.y, one.transient_type) for one in new]


def test_dwarf_nova_and_flare_return_to_quiet() -> None:
    nova = OutburstCurve("dwarf nova", 59000.0, 17.0, 21.0, 1.0, 5.0, 0.5, 0.0)
    assert nova.magnitude(58990.0, 500.0) == pytest.approx(21.0)
    assert nova.magnitude(59003.0, 500.0) == pytest.approx(-2.5 * np.log10(10**-6.8 + 10**-8.4))
    assert nova.magnitude(59007.0, 500.0) == pytest.approx(-2.5 * np.log10(10 ** (-0.4 * 18.0) + 10**-8.4))
    flare = OutburstCurve("flare", 59000.0, 17.0, 20.0, 0.01, 0.0, 0.0, 1.5)
    assert flare.magnitude(59000.0, 500.0) < 17.0
    assert flare.magnitude(59001.0, 500.0) == pytest.approx(20.0, abs=1e-6)
    contrast = [flare.magnitude(58990.0, band) - flare.magnitude(59000.001, band) for band in (350.0, 780.0)]
    assert contrast[0] > contrast[1] + 1.0  # a white burst on a red star


def test_classes_decline_in_their_order() -> None:
    fall = {}
    for kind in ("SN Ia-91bg", "SN Ia", "SN Ia-91T", "SLSN"):
        curve = SupernovaCurve(kind, 59000.0, 18.0, 0.0, 1.0)
        fall[kind] = curve.magnitude(59015.0, 450.0) - curve.magnitude(59000.0, 450.0)
    assert fall["SN Ia-91bg"] > fall["SN Ia"] > fall["SN Ia-91T"] > fall["SLSN"]
    assert transients.TYPES["SLSN"].absolute < -21


def test_a_cooling_envelope_gives_a_type_iib_two_peaks() -> None:
    curve = SupernovaCurve("SN IIb", 59000.0, 18.0, 0.0, 1.0)
    light = np.array([curve.magnitude(59000.0 + day, 500.0) for day in np.arange(-19.5, 10.0, 0.25)])
    first = light[:16].argmin()
    dip = first + light[first:40].argmax()
    assert light[dip] > light[first] + 0.3
    assert light[dip] > light.min() + 0.5


def test_supernovae_of_old_stars_have_early_hosts_and_superluminous_ones_dwarfs(scene_of: SceneOf) -> None:
    _, scene = scene_of(supernovae=400, hostless=0.0, galaxies=0)
    hosts = {kind: [] for kind in transients.TYPES}
    for source, host in zip(scene.transients, scene.galaxies, strict=False):
        hosts[source.transient_type].append((host["bulge"], host["mag"] - transients.distance_modulus(source.redshift)))
    assert np.median([bulge for bulge, _ in hosts["SN Ia-91bg"]]) > 0.7 > np.median([bulge for bulge, _ in hosts["SN II"]])
    assert np.median([absolute for _, absolute in hosts["SLSN"]]) > np.median([absolute for _, absolute in hosts["SN Ia"]]) + 1.0


def test_a_cluster_gathers_galaxies_with_early_types_in_its_core(scene_of: SceneOf) -> None:
    field, cluster = (scene_of(galaxies=4000, cluster=share, supernovae=0)[1].galaxies for share in (0.0, 1.0))
    np.testing.assert_array_equal(field["mag"], cluster["mag"])
    middle = np.median(cluster["x"]), np.median(cluster["y"])
    near = [int((np.hypot(galaxies["x"] - middle[0], galaxies["y"] - middle[1]) < 30).sum()) for galaxies in (field, cluster)]
    assert near[1] > 3 * near[0]
    core = np.hypot(cluster["x"] - middle[0], cluster["y"] - middle[1]) < 10
    assert (cluster["bulge"][core] > 0.8).mean() > (field["bulge"] > 0.8).mean() + 0.3


def test_a_stacked_reference_holds_the_light_and_the_noise_of_its_frames(simulate_values: Callable[..., dict[str, Any]]) -> None:
    values = simulate_values()
    survey = values["surveys"]["simwide"]
    survey["reference_frames"] = 9
    survey["scene"].update(stars=0, galaxies=0, supernovae=0, variables=0, asteroids=0)
    survey["artifacts"].update(cosmic_rays=0, satellites=0)
    survey["detector"].update(bias_structure=0, flat_scatter=0, vignetting=0, dust=0, hot_pixels=0, dead_pixels=0, bad_columns=0)
    world = World(validate(SimulateConfig, values, path="simulate"))
    visit = next(visit for visit in plan(world.cfg) if visit.role == "reference" and visit.survey == "simwide")
    assert (visit.frames, visit.exptime) == (9, 9 * survey["reference_exptime"])
    light, sensor, single = illuminate(world, visit), world.sensor(visit), world.detector("simwide", visit.detector)
    assert sensor.saturation == pytest.approx(single.saturation)
    assert optics.flux_scale(world.cfg.surveys["simwide"], visit, light.frame.conditions) == pytest.approx(light.frame.scale)
    raw, size = render(world, visit).raw.astype(float), world.cfg.image_size
    electrons = (raw[:, :size] - raw[:, size:].mean()) * sensor.gain
    assert electrons.mean() == pytest.approx(light.electrons.mean(), rel=0.02)
    expected = np.sqrt(light.electrons.mean() + 9 * single.read_noise**2 + sensor.gain**2 / 12)
    assert (electrons - light.electrons).std() == pytest.approx(expected, rel=0.02)


def test_only_references_are_stacked(simulate_values: Callable[..., dict[str, Any]]) -> None:
    values = simulate_values()
    values["surveys"]["simdeep"]["reference_frames"] = 4
    visits = plan(validate(SimulateConfig, values, path="simulate"))
    assert {(visit.survey, visit.role): visit.frames for visit in visits if visit.frames > 1} == {("simdeep", "reference"): 4}
    assert all(dataclasses.replace(visit, frames=1) == visit for visit in visits if visit.role == "science")

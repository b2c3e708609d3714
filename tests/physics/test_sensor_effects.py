"""Optics, weather and electronics of the simulator against closed forms."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from astrid.config.schema.simulate import SimulateConfig
from astrid.config.validate import validate
from astrid.core.dq import DQ
from astrid.datasets.labels import ARTEFACT_KINDS
from astrid.io.images import read_frames
from astrid.sky.simulate import artifacts, detector, electronics, optics, plan, sources, weather
from astrid.sky.simulate.marks import LOCAL, SPREAD
from astrid.sky.simulate.render import World, render, write_exposure
from astrid.sky.simulate.scene import GALAXY, STAR, Scene

CONF = Path(__file__).parents[2] / "conf"
SIZE = 192
EFFECTS: dict[str, dict[str, Any]] = {
    "psf": {"trail_fraction": 1.0, "trail": 2.0, "spike_turn": 5.0, "glare_scatter": 0.2},
    "detector": {
        "hot_columns": 3.0, "column_charge": 300.0, "brighter_fatter": 0.02, "fringing": 0.05, "amplifiers": 2, "amplifier_gain": 0.05,
        "amplifier_offset": 20.0, "crosstalk": 0.002, "persistence": 0.01, "dead_border": 12.0, "border_rolloff": 3.0,
        "flat_error": 0.01,
    },
    "weather": {"cloud_patches": 0.4, "extinction": 0.5, "moon_glow": 0.2, "stray_light": 3.0, "stray_level": 0.1},
    "artifacts": {"glints": 3.0, "off_chip": 4.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    return {**yaml.safe_load((CONF / "simulate/default.yaml").read_text()), "seed": 3, "image_size": SIZE}


@pytest.fixture(scope="module")
def cfg(values: dict[str, Any]) -> SimulateConfig:
    return validate(SimulateConfig, values, path="simulate")


@pytest.fixture(scope="module")
def spoiled(values: dict[str, Any]) -> SimulateConfig:
    """The wide survey with every effect on, in a band where silicon fringes."""
    changed = copy.deepcopy(values)
    survey = changed["surveys"]["simwide"]
    for section, keys in EFFECTS.items():
        survey[section].update(keys)
    survey["filters"] = {"z": {**survey["filters"]["r"], "wavelength": 900.0}}
    survey["scene"]["star_bright"] = 10.0
    return validate(SimulateConfig, changed, path="simulate")


@pytest.fixture(scope="module")
def frame_of(cfg: SimulateConfig) -> Callable[..., sources.Frame]:
    """A frame of the wide survey's first science exposure, with changed conditions."""
    visit = next(v for v in plan(cfg) if v.role == "science")
    spec = cfg.surveys[visit.survey]
    still = dataclasses.replace(optics.observe(cfg, visit), dither=(0.0, 0.0), shear=(0.0, 0.0), refraction=(0.0, 0.0))

    def build(**changes: Any) -> sources.Frame:
        conditions = dataclasses.replace(still, **changes)
        psf = optics.make_psf(spec.psf, spec.pixel_scale, 640.0, conditions, SIZE)
        return sources.Frame(visit, spec, conditions, psf, optics.flux_scale(spec, visit, conditions), 40.0)

    return build


def _with_artifacts(frame: sources.Frame, **keys: float) -> sources.Frame:
    spec = frame.spec
    return dataclasses.replace(frame, spec=dataclasses.replace(spec, artifacts=dataclasses.replace(spec.artifacts, **keys)))


def _gaussian(fwhm: float, peak: float) -> np.ndarray:
    grid = np.arange(61.0) - 30
    return peak * np.exp(-4 * np.log(2) * (grid[:, None] ** 2 + grid[None, :] ** 2) / fwhm**2)


def _size(image: np.ndarray) -> float:
    grid = np.arange(61.0) - 30
    return float(np.sqrt((image * (grid[:, None] ** 2 + grid[None, :] ** 2)).sum() / image.sum()))


@pytest.mark.parametrize("fwhm", [2.0, 3.5, 6.0])
def test_brighter_stars_are_fatter_in_proportion_to_their_peak(fwhm: float) -> None:
    strength = electronics.brighter_fatter_strength(0.02, fwhm, 1e5)
    growth = []
    for peak in (1e5, 5e4):
        star = _gaussian(fwhm, peak)
        pushed = star.copy()
        electronics.brighter_fatter(pushed, strength, 1e5)
        assert pushed.sum() == pytest.approx(star.sum(), rel=1e-12)
        growth.append(_size(pushed) / _size(star) - 1)
    assert growth == pytest.approx([0.02, 0.01], rel=0.03)


def test_even_light_is_not_pushed() -> None:
    flat = np.full((40, 40), 5e4)
    electronics.brighter_fatter(flat, 1e-6, 1e5)
    np.testing.assert_allclose(flat, 5e4)
    assert electronics.brighter_fatter_strength(0.0, 3.0, 1e5) == 0.0


def test_kolmogorov_seeing_has_its_fwhm(cfg: SimulateConfig) -> None:
    spec = dataclasses.replace(cfg.surveys["simwide"].psf, profile="kolmogorov")
    assert optics.base_profile(spec, 640.0, 2.2).calculateFWHM() == pytest.approx(2.2, rel=0.01)


def test_trail_adds_the_variance_of_its_line(cfg: SimulateConfig, frame_of: Callable[..., sources.Frame]) -> None:
    round_psf = dataclasses.replace(cfg.surveys["simwide"].psf, profile="gaussian_wings", wing_fraction=0.0, field_shear=0.0)
    moments = []
    for trail in ((0.0, 0.0), (3.0, 30.0)):
        conditions = frame_of(trail=trail).conditions
        psf = optics.make_psf(round_psf, 1.0, 640.0, conditions, SIZE)
        _, _, image = optics.stamp(psf, 60.0, 60.0, 30)
        grid = np.arange(61.0) - 30
        turn = np.radians(30.0)
        along = grid[None, :] * np.cos(turn) + grid[:, None] * np.sin(turn)
        across = -grid[None, :] * np.sin(turn) + grid[:, None] * np.cos(turn)
        moments.append([(image * axis**2).sum() / image.sum() for axis in (along, across)])
    assert moments[1][0] - moments[0][0] == pytest.approx(3.0**2 / 12, rel=0.02)
    assert moments[1][1] == pytest.approx(moments[0][1], rel=0.01)


def test_references_are_guided_and_may_point_elsewhere(spoiled: SimulateConfig, values: dict[str, Any]) -> None:
    far = copy.deepcopy(values)
    far["pointing"]["reference_dither"] = 60.0
    changed = validate(SimulateConfig, far, path="simulate")
    shifts = {"science": [], "reference": []}
    for visit in plan(changed):
        shifts[visit.role].append(np.abs(optics.observe(changed, visit).dither).max())
    assert max(shifts["science"]) <= 8.0
    assert 20.0 < max(shifts["reference"]) <= 36.0
    seen = {visit.role: optics.observe(spoiled, visit).trail[0] for visit in plan(spoiled) if visit.survey == "simwide"}
    assert seen["reference"] == 0.0
    assert seen["science"] > 0.0


def test_clouds_keep_the_mean_extinction_and_their_relative_scatter(cfg: SimulateConfig, frame_of: Callable[..., sources.Frame]) -> None:
    spec = dataclasses.replace(cfg.surveys["simwide"].weather, cloud_patches=0.2)
    cloudy = frame_of(transparency=10 ** (-0.4 * 0.3)).conditions
    extinction = 0.3 - 2.5 * np.log10(weather.cloud_map(spec, SIZE, cloudy, np.random.default_rng(1)))
    assert extinction.mean() == pytest.approx(0.3, rel=1e-3)
    assert extinction.std() == pytest.approx(0.2 * 0.3, rel=1e-3)
    assert np.abs(np.diff(extinction, axis=1)).max() < 0.02  # smooth: no step between pixels
    clear = dataclasses.replace(cloudy, transparency=1.0)
    assert weather.cloud_map(spec, SIZE, clear, np.random.default_rng(1)) is None


def test_image_motion_is_that_of_turbulence(cfg: SimulateConfig) -> None:
    """Its RMS falls with the root of the frames, and its structure function rises with the 2/3 power of the distance."""
    spec = dataclasses.replace(cfg.surveys["simwide"].weather, image_motion=0.06)
    maps = [weather.image_motion(spec, 512, 0.5, 4, np.random.default_rng(seed)) for seed in range(30)]
    moved = np.stack([one for one in maps if one is not None])
    assert moved.shape == (30, 2, 512, 512)
    assert np.sqrt((moved**2).mean(axis=(0, 2, 3))) == pytest.approx([0.06, 0.06], rel=1e-6)
    near, far = (float(np.mean((moved[..., step:] - moved[..., :-step]) ** 2)) for step in (30, 120))
    assert np.log2(far / near) / 2 == pytest.approx(2 / 3, abs=0.15)
    assert weather.image_motion(cfg.surveys["simwide"].weather, 64, 0.5, 1, np.random.default_rng(0)) is None


def test_image_motion_moves_what_stands_together_together(frame_of: Callable[..., sources.Frame], cfg: SimulateConfig) -> None:
    frame = dataclasses.replace(frame_of(), motion=np.stack([np.full((SIZE, SIZE), 0.3), np.full((SIZE, SIZE), -0.2)]))
    stars = np.zeros(1, STAR)
    stars["x"], stars["y"], stars["mag"] = 60.0, 70.0, 14.0
    source = next(one for one in World(cfg).sky(frame.visit)[0].transients if one.curve.magnitude(frame.visit.mjd, 640.0) < 30)
    source = dataclasses.replace(source, x=120.0, y=110.0)
    light = np.zeros((SIZE, SIZE))
    sensor = World(cfg).detector("simwide", frame.visit.detector)
    _, marks = sources.add_stars(light, frame, Scene(stars, np.zeros(0, GALAXY), ()), sensor, None)
    (row,) = sources.add_transients(light, frame, Scene(stars[:0], np.zeros(0, GALAXY), (source,)))
    assert [(mark.kind, mark.x, mark.y) for mark in marks] == [("dipole", 60.3, 69.8)]
    assert (row["x"], row["y"]) == pytest.approx((120.3, 109.8))


def test_flat_does_not_know_its_error(cfg: SimulateConfig, spoiled: SimulateConfig) -> None:
    plain = detector.make_detector(cfg, "simwide", "w1")
    wrong = dataclasses.replace(plain, unflat=detector.make_detector(spoiled, "simwide", "w1").unflat)
    light = np.full((SIZE, SIZE), 1e8)
    left, right = (detector.expose(one, light, 0.0, np.random.default_rng(1)) for one in (plain, wrong))
    ratio = right / left
    assert np.std(ratio) == pytest.approx(0.01, rel=0.05)
    flats = [detector.master_flat(one, 4, np.random.default_rng(2)) for one in (plain, wrong)]
    np.testing.assert_array_equal(*flats)
    assert plain.unflat is None


def test_moonlight_brightens_one_corner_and_follows_the_moon(cfg: SimulateConfig, frame_of: Callable[..., sources.Frame]) -> None:
    spec = dataclasses.replace(cfg.surveys["simwide"].weather, moon_glow=0.3)
    excess = []
    for moonlight in (1.0, 0.5, 0.0):
        conditions = frame_of(gradient=(0.0, 0.0), moonlight=moonlight).conditions
        sky = weather.sky_plane(spec, SIZE, 1000.0, conditions, np.random.default_rng(2))
        assert sky[SIZE // 2, SIZE // 2] == pytest.approx(1000.0, rel=0.01)
        excess.append(sky.max() / 1000.0 - 1)
    assert 0.12 < excess[0] <= 0.3 + 1e-9
    assert excess[1:] == pytest.approx([0.5 * excess[0], 0.0])


def test_stray_light_has_marks_where_a_mesh_cannot_follow(cfg: SimulateConfig, frame_of: Callable[..., sources.Frame]) -> None:
    spec = dataclasses.replace(cfg.surveys["simwide"].weather, stray_light=1.0, stray_level=0.1)
    conditions = frame_of(moonlight=1.0).conditions
    draws = [weather.stray_light(spec, SIZE, 1000.0, conditions, np.random.default_rng(seed)) for seed in range(12)]
    seen = [light for light in draws if light is not None and light.max() > 80]
    assert 3 < len(seen) < 12
    photometry = frame_of().photometry
    marks = photometry.marks("sky", "stray_light", 1000.0 + seen[0], SPREAD)
    bright = np.mean([seen[0][round(mark.y), round(mark.x)] > 40 for mark in marks if mark.electrons > 0])
    assert bright > 0.8
    assert (seen[0] > 40).mean() < 0.5
    position = np.linspace(-1, 1, SIZE)
    assert photometry.marks("sky", "stray_light", 1000.0 * (1 + 0.01 * np.add.outer(position, position)), SPREAD) == []  # a mesh follows it
    dark = dataclasses.replace(conditions, moonlight=0.0)
    assert weather.stray_light(spec, SIZE, 1000.0, dark, np.random.default_rng(1)) is None


def test_fringes_are_red_and_of_their_amplitude() -> None:
    pattern, sky = weather.fringe_pattern(SIZE, np.random.default_rng(3)), np.full((SIZE, SIZE), 1e4)
    assert np.abs(pattern).max() == pytest.approx(1.0, abs=0.05)
    assert weather.fringes(0.02, pattern, sky, 640.0, np.random.default_rng(4)) is None
    peaks = []
    for wavelength in (800.0, 900.0):
        light = weather.fringes(0.02, pattern, sky, wavelength, np.random.default_rng(4))
        assert light is not None
        peaks.append(np.abs(light).max())
    assert peaks[1] == pytest.approx(2 * peaks[0])
    assert 100.0 < peaks[1] < 400.0  # 2 % of 1e4, times the night's airglow


def test_bad_columns_leak_from_their_defect_on_and_blink() -> None:
    columns = electronics.HotColumns(np.array([7]), np.array([20]), np.array([10.0]))
    leaks = []
    for seed in range(40):
        charge = np.zeros((64, 64))
        expected = electronics.leak(charge, columns, 30.0, np.random.default_rng(seed))
        assert charge[:20].sum() == 0 == np.delete(charge, 7, axis=1).sum()
        np.testing.assert_allclose(charge, expected, atol=6 * np.sqrt(expected.max()))
        if expected.any():
            leaks.append(charge[20:, 7].mean())
    assert 12 < len(leaks) < 36
    assert np.exp(np.mean(np.log(leaks))) == pytest.approx(300.0, rel=0.2)
    drawn = electronics.draw_columns(64, 200.0, 300.0, 30.0, np.random.default_rng(1))
    assert 200 < len(drawn.column) < 320  # with neighbours


def test_crosstalk_is_the_mirror_image() -> None:
    charge = np.zeros((8, 10))
    charge[3, 2] = 1e5
    talk = electronics.crosstalk(charge, 1e-3)
    assert talk[3, 7] == pytest.approx(100.0)
    assert talk.sum() == pytest.approx(100.0)


def test_second_amplifier_drifts_alone(cfg: SimulateConfig) -> None:
    sensor = dataclasses.replace(detector.make_detector(cfg, "simwide", "w1"), read_noise=0.0, structure=np.zeros((SIZE, SIZE)))
    charge = np.full((SIZE, SIZE), 58000.0)
    raw = detector.read_out(sensor, charge, 16, np.random.default_rng(1), (0.01, 7.0)).astype(float)
    level = raw[:, SIZE:].mean()
    left, right = (raw[:, : SIZE // 2] - level).mean(), (raw[:, SIZE // 2 : SIZE] - level).mean()
    assert left == pytest.approx(58000.0 / sensor.gain, abs=1.0)
    assert right == pytest.approx(58000.0 / sensor.gain / 1.01 + 7.0, abs=1.0)
    assert detector.amplifier_drift(sensor, np.random.default_rng(1)) == (0.0, 0.0)
    step = electronics.step(SIZE, 58000.0, (0.01, 7.0), sensor.gain)
    assert (step[:, : SIZE // 2] == 0).all()
    assert (right - left) * sensor.gain == pytest.approx(step[:, SIZE // 2 :].mean(), abs=2.0)


def test_dead_border_has_no_response_and_is_known_to_the_mask(spoiled: SimulateConfig) -> None:
    sensor = detector.make_detector(spoiled, "simwide", "w1")
    left, right, low, high = sensor.border
    assert sum(sensor.border) > 0
    dead = np.ones((SIZE, SIZE), bool)
    dead[low : SIZE - high, left : SIZE - right] = False
    assert (sensor.flat[dead] == 0).all()
    assert (sensor.mask[dead] == 1).all()
    assert np.median(sensor.flat) == pytest.approx(1.0)
    inside = sensor.flat[SIZE // 2]
    assert 0 < inside[left] < inside[left + 1] < inside[left + 5]  # the response rises within the roll-off
    assert all(not dead[round(m.y), round(m.x)] for m in detector.edge_marks(sensor))
    assert detector.make_detector(spoiled, "simdeep", "n4").border == (0, 0, 0, 0)


def test_persistence_is_a_share_of_the_full_well_where_stars_were_full(
    spoiled: SimulateConfig, frame_of: Callable[..., sources.Frame]
) -> None:
    sensor = detector.make_detector(spoiled, "simwide", "w1")
    frame = dataclasses.replace(frame_of(), spec=spoiled.surveys["simwide"], noise=1.0)
    drawn = [sources.persistent_charge(frame, sensor, SIZE, np.random.default_rng(seed)) for seed in range(30)]
    seen = [(wake.charge, wake.marks) for wake in drawn if wake is not None]
    assert len(seen) > 5
    peaks = [charge.max() for charge, _ in seen]
    assert np.exp(np.mean(np.log(peaks))) == pytest.approx(0.01 * sensor.full_well, rel=0.5)
    for charge, marks in seen:
        strongest = marks[0]  # the strongest first
        assert {mark.kind for mark in marks} == {"persistence"}
        assert charge[round(strongest.y) - 1 : round(strongest.y) + 2, round(strongest.x) - 1 : round(strongest.x) + 2].max() > 0
    none = dataclasses.replace(frame.spec.detector, persistence=0.0)
    unspoiled = dataclasses.replace(frame, spec=dataclasses.replace(frame.spec, detector=none))
    assert sources.persistent_charge(unspoiled, sensor, SIZE, np.random.default_rng(1)) is None


def test_the_observatory_has_most_wakes_on_record_and_none_of_it_moves_a_pixel(
    spoiled: SimulateConfig, frame_of: Callable[..., sources.Frame], tmp_path: Path
) -> None:
    filled = np.zeros((SIZE, SIZE), bool)
    filled[4::8, 4::8] = filled[5::8, 5::8] = True  # groups of two pixels that touch at a corner
    wake = sources.Wake(filled.astype(float), filled, [])
    known = wake.on_record(0.9, np.random.default_rng(1))
    assert not (known & ~filled).any()
    assert known[filled].mean() == pytest.approx(0.9, abs=0.04)
    np.testing.assert_array_equal(known[4::8, 4::8], known[5::8, 5::8])
    np.testing.assert_array_equal(wake.on_record(1.0, np.random.default_rng(1)), filled)

    def unrecorded(cfg: SimulateConfig) -> SimulateConfig:
        survey = cfg.surveys["simwide"]
        blind = dataclasses.replace(survey, detector=dataclasses.replace(survey.detector, persistence_recorded=0.0))
        return dataclasses.replace(cfg, surveys={**cfg.surveys, "simwide": blind})

    recorded = 0
    for visit in [visit for visit in plan(spoiled) if visit.survey == "simwide"][:6]:
        write_exposure(World(spoiled), visit, tmp_path / "raw.fits")
        write_exposure(World(unrecorded(spoiled)), visit, tmp_path / "blind.fits")
        frames, blind = (read_frames(tmp_path / name) for name in ("raw.fits", "blind.fits"))
        np.testing.assert_array_equal(frames.data, blind.data)
        assert blind.dq is None
        assert frames.header["NAMPSYX"] == "1 2"
        if frames.dq is not None:
            assert np.unique(frames.dq).tolist() == [0, int(DQ.PERSISTENCE)]
            recorded += 1
    assert recorded


def test_glints_are_in_science_exposures_with_their_flux(frame_of: Callable[..., sources.Frame]) -> None:
    frame = _with_artifacts(frame_of(), glints=3.0)
    light = np.zeros((SIZE, SIZE))
    marks = sources.add_glints(light, frame, np.random.default_rng(5))
    inner = [mark for mark in marks if 40 < mark.x < SIZE - 40 and 40 < mark.y < SIZE - 40]
    assert inner
    for mark in inner:
        assert light[round(mark.y), round(mark.x)] > 0.005 * mark.electrons
    reference = dataclasses.replace(frame, visit=dataclasses.replace(frame.visit, role="reference"))
    assert sources.add_glints(light.copy(), reference, np.random.default_rng(5)) == []


@pytest.mark.parametrize("lines", [1, 2, 3])
@pytest.mark.parametrize("angle", [0.0, 27.0, 90.0])
def test_spikes_and_halo_hold_their_share_of_the_flux(cfg: SimulateConfig, lines: int, angle: float) -> None:
    psf = dataclasses.replace(
        cfg.surveys["simwide"].psf, spike_lines=lines, spike_angle=angle, spike_length=20.0, spike_fraction=0.01, halo_fraction=0.0
    )
    image = np.zeros((401, 401))
    artifacts.glare(image, psf, 200.3, 199.8, 1e6, np.random.default_rng(1))
    assert image.sum() == pytest.approx(1e4, rel=0.01)
    turn = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    around = image[np.rint(199.8 + 30 * np.sin(turn)).astype(int), np.rint(200.3 + 30 * np.cos(turn)).astype(int)]
    assert np.count_nonzero(np.diff(around > 0.3 * around.max(), prepend=around[-1] > 0.3 * around.max())) == 4 * lines  # rays on a circle
    halo = dataclasses.replace(psf, spike_lines=0, halo_fraction=0.02)
    image = np.zeros((401, 401))
    artifacts.glare(image, halo, 200.0, 200.0, 1e6, np.random.default_rng(1))
    assert image.sum() == pytest.approx(2e4, rel=0.02)
    assert image[200, 200 + 61] == 0.0


def test_charge_of_a_particle_spreads_by_its_diffusion_and_is_kept() -> None:
    spread = {}
    for sigma in (0.3, 0.8):
        image = np.zeros((41, 41))
        artifacts._add_diffused(image, np.array([20.0, 20.0]), np.array([20.5, 20.5]), np.array([300.0, 700.0]), sigma)
        grid = np.arange(41.0)
        assert image.sum() == pytest.approx(1000.0, rel=1e-4)
        assert (image.sum(axis=0) @ grid / image.sum(), image.sum(axis=1) @ grid / image.sum()) == pytest.approx((20.0, 20.5), abs=1e-3)
        spread[sigma] = np.sqrt(image.sum(axis=1) @ (grid - 20.5) ** 2 / image.sum())
        np.testing.assert_allclose(image[20], image[21])  # a hit between two rows fills both
    assert spread[0.8] == pytest.approx(np.hypot(0.8, np.sqrt(1 / 12)), rel=0.01)
    assert spread[0.3] < spread[0.8]
    edge = np.zeros((5, 5))
    artifacts._add_diffused(edge, np.array([-0.5]), np.array([2.0]), np.array([1.0]), 0.3)
    assert edge.sum() == pytest.approx(0.5, abs=1e-3)


def test_diffusion_moves_no_hit_and_fills_more_pixels(cfg: SimulateConfig) -> None:
    spec = dataclasses.replace(cfg.surveys["simwide"].artifacts, cosmic_rays=400.0)
    sharp, marks = artifacts.cosmic_rays(spec, SIZE, np.random.default_rng(4))
    soft, same = artifacts.cosmic_rays(dataclasses.replace(spec, diffusion=0.5), SIZE, np.random.default_rng(4))
    assert marks == same
    assert soft.sum() == pytest.approx(sharp.sum(), rel=0.02)
    assert (soft > 0.05 * soft.max()).sum() > 1.2 * (sharp > 0.05 * sharp.max()).sum()


def test_fainter_stars_show_their_glare_where_asked_to(cfg: SimulateConfig, frame_of: Callable[..., sources.Frame]) -> None:
    """A deep reference shows the spikes of stars far from saturation."""
    frame, sensor = frame_of(), World(cfg).detector("simwide", "w1")
    stars = np.zeros(2, STAR)
    stars["x"], stars["y"] = [50.0, 130.0], [60.0, 140.0]
    peaks = np.array([0.5, 0.05]) * sensor.full_well
    stars["mag"] = -2.5 * np.log10(peaks / frame.psf.profile[0] / frame.scale)
    scene = Scene(stars, np.zeros(0, GALAXY), ())
    found = []
    for share in (0.25, 0.02):
        psf = dataclasses.replace(frame.spec.psf, glare_from=share)
        asked = dataclasses.replace(frame, spec=dataclasses.replace(frame.spec, psf=psf))
        bright, _ = sources.add_stars(np.zeros((SIZE, SIZE)), asked, scene, sensor, None)
        found.append([star[0][-8:] for star in bright])
    assert found == [["star0000"], ["star0000", "star0001"]]


def test_stars_beside_the_chip_stay_there_and_send_their_light_in(frame_of: Callable[..., sources.Frame]) -> None:
    frame = _with_artifacts(frame_of(), off_chip=4.0, ghost_mirror=0.6)
    stars = [star for seed in range(20) for star in sources.off_chip_stars(frame, SIZE, np.random.default_rng(seed))]
    assert 50 < len(stars) < 110
    assert all(not (0 <= x < SIZE and 0 <= y < SIZE) for _, x, y, _ in stars)
    light = np.zeros((SIZE, SIZE))
    marks = sources.add_reflections(light, frame, stars, np.random.default_rng(1))
    assert light.max() > frame.noise
    assert {mark.kind for mark in marks} == {"glare", "ghost"}
    assert all(0 <= mark.x <= SIZE - 1 and 0 <= mark.y <= SIZE - 1 for mark in marks)


@pytest.mark.parametrize("place", [(60.0, 70.0), (101.0, 33.0)])
def test_a_mark_is_as_bright_as_a_source_of_its_light(frame_of: Callable[..., sources.Frame], place: tuple[float, float]) -> None:
    frame = frame_of()
    light = np.zeros((SIZE, SIZE))
    optics.add_points(light, frame.psf, np.array([place[0]]), np.array([place[1]]), np.array([5e4]), noise=0.01)
    strongest = frame.photometry.marks("talk", "crosstalk", 300.0 + light, LOCAL)[0]
    assert (strongest.x, strongest.y) == place
    assert strongest.electrons == pytest.approx(5e4, rel=0.03)
    assert frame.photometry.marks("talk", "crosstalk", 300.0 - light, LOCAL)[0].electrons == pytest.approx(-strongest.electrons)
    faint = light * 2.0 * frame.photometry.error / 5e4  # two sigma make no detection, nor half of one
    assert frame.photometry.marks("talk", "crosstalk", faint, LOCAL) == []


def test_an_even_light_passes_for_no_source(frame_of: Callable[..., sources.Frame]) -> None:
    photometry = frame_of().photometry
    half = np.where(np.arange(SIZE) < SIZE // 2, 0.0, 10 * frame_of().noise)[None, :].repeat(SIZE, axis=0)
    marks = photometry.marks("amplifiers", "amplifier_step", half, SPREAD)
    assert marks
    assert max(abs(mark.x - SIZE / 2) for mark in marks) < 64  # at the border of the halves alone
    assert np.median([abs(mark.electrons) for mark in marks[: len(marks) // 4]]) > np.median([abs(mark.electrons) for mark in marks])
    assert photometry.marks("sky", "stray_light", np.full((SIZE, SIZE), 1e5), SPREAD) == []


def test_marks_of_constant_stars_name_their_cause(cfg: SimulateConfig, frame_of: Callable[..., sources.Frame]) -> None:
    stars = np.zeros(3, STAR)
    stars["x"], stars["y"], stars["mag"], stars["pm_x"] = [40.0, 90.0, 140.0], 100.0, [15.5, 15.5, 20.9], [0.0, 0.5, 0.0]
    sensor, scene = detector.make_detector(cfg, "simwide", "w1"), Scene(stars, np.zeros(0), ())
    patch = np.ones((SIZE, SIZE))
    patch[:, :60] = 0.9
    kinds = []
    for trail, cloud in (((0.0, 0.0), None), ((3.0, 0.0), None), ((3.0, 0.0), patch)):
        frame = frame_of(trail=trail)
        _, marks = sources.add_stars(np.zeros((SIZE, SIZE)), frame, scene, sensor, cloud)
        kinds.append([mark.kind for mark in marks])
    assert kinds == [["residual", "dipole"], ["guiding", "dipole"], ["cloud", "dipole"]]


def test_bright_galaxies_are_marked_where_clouds_differ(frame_of: Callable[..., sources.Frame]) -> None:
    galaxies = np.zeros(3, GALAXY)
    galaxies["x"], galaxies["y"], galaxies["radius"] = [30.0, 120.0, 30.0], [60.0, 60.0, 150.0], 1.0
    galaxies["mag"] = [16.0, 16.0, 21.5]
    patch = np.ones((SIZE, SIZE))
    patch[:, :60] = 0.9
    scene = Scene(np.zeros(0, STAR), galaxies, ())
    marks = sources.clouded_galaxies(frame_of(), scene, patch)  # the flux scale may be that of either part
    assert [(mark.kind, mark.x, mark.y) for mark in marks] == [("cloud", 30.0, 60.0), ("cloud", 120.0, 60.0)]
    assert sources.clouded_galaxies(frame_of(), scene, np.ones((SIZE, SIZE))) == []


def test_every_effect_is_in_the_truth_and_moves_no_other_draw(cfg: SimulateConfig, spoiled: SimulateConfig) -> None:
    spoiled_world, plain_world = World(spoiled), World(cfg)
    visits = [visit for visit in plan(spoiled) if visit.survey == "simwide"][:12]
    kinds: set[str] = set()
    for visit in visits:
        kinds |= {row["kind"] for row in render(spoiled_world, visit).truth}
    artefacts = kinds - {"supernova", "variable", "asteroid"}
    assert artefacts <= set(ARTEFACT_KINDS)
    assert artefacts >= {
        "glint", "crosstalk", "persistence", "fringe", "amplifier_step", "bad_column", "glare", "edge", "cloud", "stray_light", "dipole"
    }  # fmt: skip
    assert artefacts & {"guiding", "residual"}
    plain = next(visit for visit in plan(cfg) if visit.survey == "simwide" and visit.role == "science")
    left, right = (render(world, dataclasses.replace(plain)) for world in (plain_world, World(_with_effects(cfg))))
    for kind in ("asteroid", "cosmic_ray", "supernova", "hot_pixel"):
        places = [[(row["object_id"], row["x"], row["y"]) for row in one.truth if row["kind"] == kind] for one in (left, right)]
        assert places[0] == places[1]


def _with_effects(cfg: SimulateConfig) -> SimulateConfig:
    spec = cfg.surveys["simwide"]
    changed = {section: dataclasses.replace(getattr(spec, section), **keys) for section, keys in EFFECTS.items() if section != "weather"}
    return dataclasses.replace(cfg, surveys={**cfg.surveys, "simwide": dataclasses.replace(spec, **changed)})

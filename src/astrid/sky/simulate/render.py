"""Renders exposures and calibration frames of the synthetic surveys as FITS files, with their rows of the tables."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid.config.schema.simulate import SimulateConfig
from astrid.core.dq import DQ
from astrid.core.runtime import atomic_path, rng_for
from astrid.sky.simulate import artifacts, electronics, optics, sources, weather
from astrid.sky.simulate.detector import (
    Detector,
    amplifier_drift,
    bleed,
    edge_marks,
    expose,
    make_detector,
    master_bias,
    master_flat,
    read_out,
)
from astrid.sky.simulate.marks import LOCAL, SPREAD, Mark
from astrid.sky.simulate.optics import Conditions
from astrid.sky.simulate.randomise import expand
from astrid.sky.simulate.scene import Scene, build_scene
from astrid.sky.simulate.schedule import Visit
from astrid.sky.simulate.sources import Frame, Star, artifact_row, hot_marks, persistent_charge

Floats = NDArray[np.float64]
CALIBRATION = ("bias", "flat", "mask")

_FIELDS_IN_MEMORY = 2
_SENSORS_IN_MEMORY = 8
_TRAIL_WIDTH = 0.6  # sigma of a satellite trail over the seeing's FWHM


@dataclass(eq=False)
class World:
    """The synthetic surveys, with the last sensors and fields kept in memory; it holds no randomness of its own."""

    cfg: SimulateConfig
    _detectors: OrderedDict[tuple[str, str], Detector] = field(default_factory=OrderedDict)
    _fields: OrderedDict[str, tuple[Scene, NDArray[np.complex64]]] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self.cfg = expand(self.cfg)

    def detector(self, survey: str, name: str) -> Detector:
        """A survey's sensor."""
        if (survey, name) not in self._detectors:
            self._detectors[survey, name] = make_detector(self.cfg, survey, name)
            while len(self._detectors) > _SENSORS_IN_MEMORY:
                self._detectors.popitem(last=False)
        return self._detectors[survey, name]

    def sensor(self, visit: Visit) -> Detector:
        """The sensor as a visit uses it: that of its detector, or of the average of several frames."""
        own = self.detector(visit.survey, visit.detector)
        return own if visit.frames == 1 else own.stacked(visit.frames)

    def sky(self, visit: Visit) -> tuple[Scene, NDArray[np.complex64]]:
        """The scene of a visit's field and its galaxy layer."""
        if visit.field_id not in self._fields:
            scene = build_scene(self.cfg, visit.survey, visit.detector, visit.field)
            layer = optics.galaxy_layer(scene.galaxies, self.cfg.image_size, self.cfg.surveys[visit.survey].pixel_scale)
            self._fields[visit.field_id] = (scene, layer)
            while len(self._fields) > _FIELDS_IN_MEMORY:
                self._fields.popitem(last=False)
        return self._fields[visit.field_id]


@dataclass(frozen=True, eq=False)
class Rendered:
    """A raw exposure and the truth about it."""

    raw: NDArray[np.uint16]  # ADU, (ny, nx + overscan)
    truth: list[dict[str, Any]]  # rows of TRUTH
    conditions: Conditions
    wakes: NDArray[np.bool_] | None  # (ny, nx), pixels on record as full in the exposure before; None without any


@dataclass(frozen=True, eq=False)
class Light:
    """What reaches the sensor: the expected image without any noise, and the truth about the sky in it."""

    electrons: Floats  # (ny, nx), expected electrons in pixels of unit response
    sky: Floats  # (ny, nx), of which the sky's
    rows: list[dict[str, Any]]
    marks: list[Mark]
    stars: list[Mark]  # of constant stars that a difference image may show
    bright: list[Star]  # that show more than their PSF
    frame: Frame


def illuminate(world: World, visit: Visit) -> Light:
    """The light of one exposure on its way to the sensor."""
    cfg, spec, size = world.cfg, world.cfg.surveys[visit.survey], world.cfg.image_size
    conditions = optics.observe(cfg, visit)
    sensor = world.sensor(visit)
    scene, layer = world.sky(visit)
    level = optics.sky_level(spec, visit, conditions)
    psf = optics.make_psf(spec.psf, spec.pixel_scale, spec.filters[visit.filter].wavelength, conditions, size)
    scale = optics.flux_scale(spec, visit, conditions)

    def own(effect: str) -> np.random.Generator:
        return rng_for(cfg.seed, visit.exposure_id, effect)

    motion = weather.image_motion(spec.weather, size, spec.pixel_scale, visit.frames, own("image motion"))
    frame = Frame(visit, spec, conditions, psf, scale, float(np.sqrt(level + sensor.read_noise**2)), motion)
    cloud = weather.cloud_map(spec.weather, size, conditions, own("clouds"))
    light = np.zeros((size, size))
    optics.add_galaxies(light, layer, psf, conditions.dither, scale)
    bright, star_marks = sources.add_stars(light, frame, scene, sensor, cloud)
    rows = sources.add_transients(light, frame, scene)
    rows += sources.add_asteroids(light, frame, own("asteroids"))
    beside = sources.off_chip_stars(frame, size, rng_for(cfg.seed, visit.field_id, "stars beside the chip"))
    marks = sources.add_reflections(light, frame, [*bright, *beside], own("glare"))
    marks += sources.add_glints(light, frame, own("glints"))
    width = _TRAIL_WIDTH * frame.fwhm
    trails, trail_marks = artifacts.satellites(spec.artifacts, size, width, frame.noise, own("satellites"))
    light += trails
    if cloud is not None:
        light *= cloud
        marks += sources.clouded_galaxies(frame, scene, cloud)
    sky, sky_marks = _sky(frame, sensor, size, level, own)
    return Light(light + sky, sky, rows, marks + trail_marks + sky_marks, star_marks, bright, frame)


def _sky(frame: Frame, sensor: Detector, size: int, level: float, own: Callable[[str], np.random.Generator]) -> tuple[Floats, list[Mark]]:
    """The sky's light with what the telescope and the silicon make of it."""
    spec, conditions = frame.spec, frame.conditions
    sky = weather.sky_plane(spec.weather, size, level, conditions, own("moonlight"))
    arcs = weather.stray_light(spec.weather, size, level, conditions, own("stray light"))
    sky = sky if arcs is None else sky + arcs
    marks = frame.photometry.marks("sky", "stray_light", sky, SPREAD)
    ripples = None
    if sensor.fringe is not None:
        ripples = weather.fringes(spec.detector.fringing, sensor.fringe, sky, frame.wavelength, own("fringes"))
    if ripples is None:
        return sky, marks
    return sky + ripples, marks + frame.photometry.marks("fringe", "fringe", ripples, SPREAD)


def render(world: World, visit: Visit) -> Rendered:
    """Render one exposure: light, sensor, particles, readout."""
    cfg, light = world.cfg, illuminate(world, visit)
    sensor, frame = world.sensor(visit), light.frame
    charge = expose(sensor, light.electrons, visit.exptime, rng_for(cfg.seed, visit.exposure_id, "photons"))
    own, wakes = _sensor_charge(world, frame, sensor, charge)
    marks = [*light.marks, *hot_marks(sensor, visit), *edge_marks(sensor), *own]
    rng = rng_for(cfg.seed, visit.exposure_id, "cosmic rays")
    hits, hit_marks = artifacts.cosmic_rays(frame.spec.artifacts, cfg.image_size, rng)
    charge += hits
    full = bleed(charge, sensor.full_well)
    saturated = artifacts.bleed_marks(full, light.bright)
    names = {mark.name for mark in saturated}
    marks += hit_marks + saturated + [mark for mark in light.stars if mark.name not in names]
    drift = amplifier_drift(sensor, rng_for(cfg.seed, visit.exposure_id, "amplifiers"))
    marks += _amplifier_effects(frame, sensor, charge, drift, float(np.median(light.sky)))
    raw = read_out(sensor, charge, cfg.overscan, rng_for(cfg.seed, visit.exposure_id, "readout"), drift)
    rows = light.rows + [artifact_row(frame, mark) for mark in marks]
    return Rendered(raw, _with_sky(cfg, frame, rows), frame.conditions, wakes)


def _sensor_charge(world: World, frame: Frame, sensor: Detector, charge: Floats) -> tuple[list[Mark], NDArray[np.bool_] | None]:
    """Add what the sensor itself puts into the image, in place: earlier stars, of which some are on record, and leaking columns."""
    seed, exposure = world.cfg.seed, frame.visit.exposure_id
    marks: list[Mark] = []
    rng = rng_for(seed, exposure, "persistence")
    wake, recorded = persistent_charge(frame, sensor, charge.shape[0], rng), None
    if wake is not None:
        charge += rng.poisson(wake.charge)
        marks = wake.marks
        recorded = wake.on_record(frame.spec.detector.persistence_recorded, rng_for(seed, exposure, "persistence on record"))
    if sensor.columns is not None:
        leaked = electronics.leak(charge, sensor.columns, frame.visit.exptime, rng_for(seed, exposure, "hot columns"))
        marks = marks + frame.photometry.marks("column", "bad_column", leaked, LOCAL)
    return marks, recorded if recorded is not None and recorded.any() else None


def _amplifier_effects(frame: Frame, sensor: Detector, charge: Floats, drift: tuple[float, float], sky: float) -> list[Mark]:
    """Crosstalk between two amplifiers, in place, and the marks of it and of the step between their levels."""
    if sensor.amplifiers != 2:
        return []
    step = electronics.step(charge.shape[0], sky, drift, sensor.gain)
    talk = electronics.crosstalk(charge, frame.spec.detector.crosstalk)
    charge += talk
    return frame.photometry.marks("amplifiers", "amplifier_step", step, SPREAD) + frame.photometry.marks("talk", "crosstalk", talk, LOCAL)


def _with_sky(cfg: SimulateConfig, frame: Frame, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with true sky positions of sources and hosts."""
    if not rows:
        return rows
    wcs = optics.true_wcs(cfg, frame.visit, frame.conditions)
    pixels = np.array([[row["x"], row["y"]] for row in rows])
    hosts = np.array([row["host"] for row in rows])
    sky = wcs.all_pix2world(pixels, 0)
    host_sky = np.where(np.isfinite(hosts), wcs.all_pix2world(np.nan_to_num(hosts), 0), np.nan)
    complete = []
    for row, (ra, dec), (host_ra, host_dec) in zip(rows, sky.tolist(), host_sky.tolist(), strict=True):
        kept = {key: value for key, value in row.items() if key != "host"}
        complete.append({**kept, "s_ra": ra, "s_dec": dec, "host_ra": host_ra, "host_dec": host_dec})
    return complete


def exposure_path(visit: Visit) -> str:
    """Path of an exposure's file, relative to the exposure table."""
    return f"{visit.survey}/{visit.field_id}/{visit.role}/{visit.exposure_id}.fits"


def calibration_path(survey: str, detector: str, kind: str) -> str:
    """Path of a calibration frame, relative to the exposure table."""
    return f"{survey}/calibration/{detector}_{kind}.fits"


def write_exposure(world: World, visit: Visit, path: Path) -> dict[str, Any]:
    """Render a visit, write it to `path` and return `{"exposure": row of EXPOSURES, "truth": rows of TRUTH}`.

    Where stars of the exposure before are on record, an extension DQ names their pixels.
    """
    from astropy.io import fits

    from astrid.io.checked import compressed
    from astrid.io.flags import dq_cards

    rendered = render(world, visit)
    sensor = world.sensor(visit)
    hdus = fits.HDUList([fits.PrimaryHDU(rendered.raw, header=_header(world.cfg, visit, sensor, rendered.conditions))])
    if rendered.wakes is not None:
        flags = np.where(rendered.wakes, np.uint32(DQ.PERSISTENCE), np.uint32(0))
        hdus.append(compressed(flags, "DQ", dq_cards()))
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        hdus.writeto(stream, checksum=False)
    exposure = {
        **{key: value for key, value in dataclasses.asdict(visit).items() if key not in ("field", "frames")},
        "path": exposure_path(visit),
        "hdu": "",
        "instrument": world.cfg.surveys[visit.survey].instrument,
        "calibrated": False,
        "unit": "electron",
        "gain": sensor.gain,
        "read_noise": sensor.read_noise,
        "saturation": sensor.saturation,
        **{f"{kind}_path": calibration_path(visit.survey, visit.detector, kind) for kind in CALIBRATION},
        "noise_path": "",
        "psf_path": "",
    }
    return {"exposure": exposure, "truth": rendered.truth}


def _header(cfg: SimulateConfig, visit: Visit, sensor: Detector, conditions: Conditions) -> Any:
    from astropy.io import fits

    size, overscan, spec = cfg.image_size, cfg.overscan, cfg.surveys[visit.survey]
    header = fits.Header()
    start = visit.mjd - 0.5 * visit.exptime / 86400.0
    for key, value, comment in (
        ("TELESCOP", spec.telescope, "synthetic"),
        ("INSTRUME", spec.instrument, "synthetic"),
        ("DETECTOR", visit.detector, ""),
        ("FILTER", visit.filter, ""),
        ("OBJECT", visit.field_id, "field"),
        ("OBSTYPE", visit.role.upper(), "role of the exposure"),
        ("EXPTIME", visit.exptime, "[s]"),
        ("MJD-OBS", start, "[d] start of the exposure"),
        ("MJD-AVG", visit.mjd, "[d] middle of the exposure"),
        ("GAIN", sensor.gain, "[electron/ADU]"),
        ("RDNOISE", sensor.read_noise, "[electron]"),
        ("SATURATE", sensor.saturation, "[ADU] of the raw pixel"),
        ("TRIMSEC", f"[1:{size},1:{size}]", "light-sensitive area"),
        ("NAMPSYX", f"1 {sensor.amplifiers}", "amplifiers along y and x, read from the corners"),
        ("BIASSEC", f"[{size + 1}:{size + overscan},1:{size}]", "overscan"),
        ("BUNIT", "adu", ""),
    ):
        header[key] = (value, comment)
    header.extend(optics.header_wcs(cfg, visit, conditions).to_header().cards)
    header["RADESYS"] = "ICRS"
    return header


def write_calibration(world: World, survey: str, detector: str, kind: str, path: Path) -> None:
    """Write a master bias, master flat or bad-pixel mask of a sensor."""
    from astropy.io import fits

    sensor, frames = world.detector(survey, detector), world.cfg.calibration_frames
    rng = rng_for(world.cfg.seed, survey, detector, "calibration", kind)
    data: NDArray[Any]
    if kind == "bias":
        data = master_bias(sensor, frames, rng)
    elif kind == "flat":
        data = master_flat(sensor, frames, rng)
    else:
        data = sensor.mask
    hdu = fits.PrimaryHDU(data)
    hdu.header["DETECTOR"] = detector
    hdu.header["OBSTYPE"] = kind.upper()
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        hdu.writeto(stream, checksum=False)

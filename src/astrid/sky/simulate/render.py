"""Renders exposures and calibration frames of the synthetic surveys as FITS files, with their rows of the tables."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid.config.schema.simulate import SimulateConfig, SurveySpec
from astrid.core.runtime import atomic_path, rng_for
from astrid.sky.simulate import artifacts, optics, transients
from astrid.sky.simulate.artifacts import Mark
from astrid.sky.simulate.detector import Detector, bleed, expose, make_detector, master_bias, master_flat, read_out
from astrid.sky.simulate.optics import Conditions, EffectivePsf
from astrid.sky.simulate.scene import Scene, build_scene
from astrid.sky.simulate.schedule import Visit

Floats = NDArray[np.float64]
CALIBRATION = ("bias", "flat", "mask")

_BRIGHT = 0.25  # of the full well: a star whose peak pixel reaches this shows its spikes, halo and ghost
_FIELDS_IN_MEMORY = 2
_ASTEROID_STEPS = 7
_TRAIL_WIDTH = 0.6  # sigma of a satellite trail over the seeing's FWHM
_YEAR = 365.25  # d
_EPOCH = 59000.0  # MJD at which the catalogued positions of moving stars hold


@dataclass(eq=False)
class World:
    """The synthetic surveys, with the sensors and the last fields kept in memory; it holds no randomness of its own."""

    cfg: SimulateConfig
    _detectors: dict[tuple[str, str], Detector] = field(default_factory=dict)
    _fields: OrderedDict[str, tuple[Scene, NDArray[np.complex64]]] = field(default_factory=OrderedDict)

    def detector(self, survey: str, name: str) -> Detector:
        """A survey's sensor."""
        if (survey, name) not in self._detectors:
            self._detectors[survey, name] = make_detector(self.cfg, survey, name)
        return self._detectors[survey, name]

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


@dataclass(frozen=True, eq=False)
class _Frame:
    """What the steps of one rendering share."""

    visit: Visit
    spec: SurveySpec
    conditions: Conditions
    psf: EffectivePsf
    scale: float  # electrons of a source of magnitude 0
    noise: float  # electrons a pixel, of sky and readout

    @property
    def wavelength(self) -> float:
        return self.spec.filters[self.visit.filter].wavelength


@dataclass(frozen=True, eq=False)
class Light:
    """What reaches the sensor: the expected image without any noise, and the truth about the sky in it."""

    electrons: Floats  # (ny, nx), expected electrons in pixels of unit response
    sky: Floats  # (ny, nx), of which the sky's
    rows: list[dict[str, Any]]
    marks: list[Mark]
    bright: list[tuple[str, float, float, float]]  # name, x, y, flux of the bright stars
    frame: _Frame


def illuminate(world: World, visit: Visit) -> Light:
    """The light of one exposure on its way to the sensor."""
    cfg, spec = world.cfg, world.cfg.surveys[visit.survey]
    conditions = optics.observe(cfg, visit)
    sensor = world.detector(visit.survey, visit.detector)
    scene, layer = world.sky(visit)
    level = optics.sky_level(spec, visit, conditions)
    psf = optics.make_psf(spec.psf, spec.pixel_scale, spec.filters[visit.filter].wavelength, conditions, cfg.image_size)
    scale = optics.flux_scale(spec, visit, conditions)
    frame = _Frame(visit, spec, conditions, psf, scale, float(np.sqrt(level + sensor.read_noise**2)))
    sky = _sky_plane(cfg.image_size, level, conditions)
    light = sky.copy()
    optics.add_galaxies(light, layer, psf, conditions.dither, scale)
    bright = _add_stars(light, frame, scene, sensor)
    rows = _add_transients(light, frame, scene)
    rows += _add_asteroids(light, frame, rng_for(cfg.seed, visit.exposure_id, "asteroids"))
    marks = _add_reflections(light, frame, bright)
    width = _TRAIL_WIDTH * conditions.fwhm / spec.pixel_scale
    rng = rng_for(cfg.seed, visit.exposure_id, "satellites")
    trails, trail_marks = artifacts.satellites(spec.artifacts, cfg.image_size, width, frame.noise, rng)
    return Light(light + trails, sky, rows, marks + trail_marks, bright, frame)


def render(world: World, visit: Visit) -> Rendered:
    """Render one exposure: light, sensor, particles, readout."""
    cfg, light = world.cfg, illuminate(world, visit)
    sensor = world.detector(visit.survey, visit.detector)
    charge = expose(sensor, light.electrons, visit.exptime, rng_for(cfg.seed, visit.exposure_id, "photons"))
    rng = rng_for(cfg.seed, visit.exposure_id, "cosmic rays")
    hits, hit_marks = artifacts.cosmic_rays(cfg.surveys[visit.survey].artifacts, cfg.image_size, rng)
    charge += hits
    full = bleed(charge, sensor.full_well)
    marks = light.marks + hit_marks + artifacts.bleed_marks(full, light.bright) + _hot_marks(sensor, visit)
    raw = read_out(sensor, charge, cfg.overscan, rng_for(cfg.seed, visit.exposure_id, "readout"))
    rows = light.rows + [_artifact_row(light.frame, mark) for mark in marks]
    return Rendered(raw, _with_sky(cfg, light.frame, rows), light.frame.conditions)


def _sky_plane(size: int, level: float, conditions: Conditions) -> Floats:
    position = np.linspace(-1, 1, size)
    gx, gy = conditions.gradient
    return np.asarray(level * (1.0 + gx * position[None, :] + gy * position[:, None]))


def _add_stars(light: Floats, frame: _Frame, scene: Scene, sensor: Detector) -> list[tuple[str, float, float, float]]:
    """Add the constant stars; returns name, position and flux of those bright enough to show more than their PSF."""
    stars, conditions = scene.stars, frame.conditions
    years = (frame.visit.mjd - _EPOCH) / _YEAR
    x = stars["x"] + conditions.dither[0] + stars["colour"] * conditions.refraction[0] + stars["pm_x"] * years
    y = stars["y"] + conditions.dither[1] + stars["colour"] * conditions.refraction[1] + stars["pm_y"] * years
    magnitude = np.array([transients.band_magnitude(m, c, frame.wavelength) for m, c in zip(stars["mag"], stars["colour"], strict=True)])
    flux = frame.scale * 10 ** (-0.4 * magnitude)
    optics.add_points(light, frame.psf, x, y, flux, noise=frame.noise)
    bright = np.flatnonzero(flux * frame.psf.profile[0] > _BRIGHT * sensor.full_well)
    return [(f"{frame.visit.field_id}-star{index:04d}", float(x[index]), float(y[index]), float(flux[index])) for index in bright]


def _add_transients(light: Floats, frame: _Frame, scene: Scene) -> list[dict[str, Any]]:
    """Add supernovae and variables; returns one truth row for each that lies on the detector, also where its flux is zero."""
    # Their truth is a flux, so they are drawn to the last per mille of their wings (noise=0), unlike the stars.
    rows = []
    dx, dy = frame.conditions.dither
    size = light.shape[0]
    for source in scene.transients:
        x, y = source.x + dx, source.y + dy
        magnitude = source.curve.magnitude(frame.visit.mjd, frame.wavelength)
        flux = frame.scale * 10 ** (-0.4 * magnitude) if np.isfinite(magnitude) else 0.0
        optics.add_points(light, frame.psf, np.array([x]), np.array([y]), np.array([flux]), noise=0.0)
        if not (-0.5 <= x < size - 0.5 and -0.5 <= y < size - 0.5):
            continue
        host = (source.host_x + dx, source.host_y + dy)
        rows.append(_row(frame, source.object_id, source.kind, source.transient_type, (x, y), flux, host))
    return rows


def _add_asteroids(light: Floats, frame: _Frame, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Add moving objects, new ones in every exposure, each as a short trail."""
    rows = []
    size, spec = light.shape[0], frame.spec
    limit = spec.filters[frame.visit.filter].limit
    for number in range(int(rng.poisson(spec.scene.asteroids))):
        x, y = rng.uniform(0.02 * size, 0.98 * size, 2)
        magnitude = limit - rng.uniform(0.0, 4.0)
        rate = rng.uniform(0.004, 0.02)  # arcsec/s: the main belt
        length = min(rate * frame.visit.exptime / spec.pixel_scale, 6.0)
        turn = rng.uniform(0, 2 * np.pi)
        steps = length * (np.arange(_ASTEROID_STEPS) / (_ASTEROID_STEPS - 1) - 0.5)
        flux = frame.scale * 10 ** (-0.4 * magnitude)
        parts = np.full(_ASTEROID_STEPS, flux / _ASTEROID_STEPS)
        optics.add_points(light, frame.psf, x + steps * np.cos(turn), y + steps * np.sin(turn), parts, noise=0.0)
        nowhere = (float("nan"), float("nan"))
        name = f"{frame.visit.exposure_id}-ast{number:02d}"
        rows.append(_row(frame, name, "asteroid", "asteroid", (float(x), float(y)), flux, nowhere))
    return rows


def _add_reflections(light: Floats, frame: _Frame, bright: list[tuple[str, float, float, float]]) -> list[Mark]:
    """Spikes, halos and ghosts of the bright stars; returns the marks of the ghosts that show above the noise."""
    marks = []
    fraction = frame.spec.artifacts.ghost_fraction
    for name, x, y, flux in bright:
        artifacts.glare(light, frame.spec.psf, x, y, flux)
        gx, gy, ring = artifacts.ghost(light, fraction, x, y, flux)
        brightness = fraction * flux / (np.pi * artifacts.GHOST_RADIUS**2)
        if brightness > 0.2 * frame.noise:
            marks += [Mark(f"{name}-ghost", "ghost", px, py, fraction * flux) for px, py in [(gx, gy), *ring]]
    return [mark for mark in marks if 0 <= mark.x <= light.shape[1] - 1 and 0 <= mark.y <= light.shape[0] - 1]


def _hot_marks(sensor: Detector, visit: Visit) -> list[Mark]:
    chosen = np.flatnonzero(sensor.unmasked)
    return [
        Mark(
            f"hot{index:04d}",
            "hot_pixel",
            float(sensor.hot_x[index]),
            float(sensor.hot_y[index]),
            float(sensor.hot_rate[index] * visit.exptime),
        )
        for index in chosen
    ]


def _artifact_row(frame: _Frame, mark: Mark) -> dict[str, Any]:
    prefix = frame.visit.exposure_id if not mark.name.startswith(frame.visit.field_id) else ""
    name = f"{prefix}-{mark.name}".lstrip("-")
    return _row(frame, name, mark.kind, "", (mark.x, mark.y), mark.electrons, (float("nan"), float("nan")))


def _row(
    frame: _Frame, name: str, kind: str, transient_type: str, place: tuple[float, float], flux: float, host: tuple[float, float]
) -> dict[str, Any]:
    magnitude = float(-2.5 * np.log10(flux / frame.scale)) if flux > 0 else float("nan")
    return {
        "object_id": name,
        "kind": kind,
        "transient_type": transient_type,
        "exposure_id": frame.visit.exposure_id,
        "x": place[0],
        "y": place[1],
        "flux": flux,
        "magnitude": magnitude,
        "host": host,
        "simulated": True,
    }


def _with_sky(cfg: SimulateConfig, frame: _Frame, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
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
    """Render a visit, write it to `path` and return `{"exposure": row of EXPOSURES, "truth": rows of TRUTH}`."""
    from astropy.io import fits

    rendered = render(world, visit)
    sensor = world.detector(visit.survey, visit.detector)
    hdu = fits.PrimaryHDU(rendered.raw, header=_header(world.cfg, visit, sensor, rendered.conditions))
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        hdu.writeto(stream, checksum=False)
    exposure = {
        **{key: value for key, value in dataclasses.asdict(visit).items() if key not in ("field",)},
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

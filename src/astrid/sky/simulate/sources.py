"""Everything that shines in one exposure, drawn with its PSF, and the truth about it.

A mark of an unchanging star names the cause that makes it likeliest to be detected in a difference image: its own motion or
refraction or turbulence (dipole), a cloud that dims it (cloud), a trailed PSF (guiding), or none of these (residual).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrid.config.schema.simulate import SurveySpec
from astrid.sky.simulate import artifacts, optics, transients
from astrid.sky.simulate.detector import Detector, bleed
from astrid.sky.simulate.marks import LOCAL, SPREAD, Mark, Photometry, thinned
from astrid.sky.simulate.optics import Conditions, EffectivePsf
from astrid.sky.simulate.scene import MARGIN, Scene, power_law_magnitudes
from astrid.sky.simulate.schedule import Visit

Floats = NDArray[np.float64]
Star = tuple[str, float, float, float]  # name, x, y, flux

_ASTEROID_STEPS = 7
_DASHES = 6  # most flashes of a tumbling satellite that one image catches
_DASH_LENGTH = 8.0  # pixel, longest
_YEAR = 365.25  # d
_EPOCH = 59000.0  # MJD at which the catalogued positions of moving stars hold
_MARK_SNR = 50.0  # least signal-to-noise of a star that gets a mark, if anything beside its brightness speaks for it
_RESIDUAL_SNR = 100.0  # and if nothing does: a PSF known to 1 % leaves one sigma of it
_MARK_SCORE = 4.0  # signal-to-noise of the change by which a cause counts
_CLOUD_RANGE = (0.05, 0.95)  # quantiles of the transparency that count as its extremes
_TRAILED = 0.25  # FWHM, least length of a trail that does
_BRIGHTER = 4.0  # mag, range of the stars beside the chip above the brightest of the field
_WAKE = 0.9  # of the full well: pixels that leave a persistent charge
_WAKE_SCATTER = 0.5  # sigma of the log of that charge between stars, for the time since they were seen


@dataclass(frozen=True, eq=False)
class Frame:
    """What the steps of one rendering share."""

    visit: Visit
    spec: SurveySpec
    conditions: Conditions
    psf: EffectivePsf
    scale: float  # electrons of a source of magnitude 0
    noise: float  # electrons a pixel, of sky and readout
    motion: Floats | None = None  # pixel, displacement of stars in x and y at each pixel: (2, size, size)

    def displaced(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Where stars at (x, y) are seen through the exposure's turbulence, pixel."""
        if self.motion is None:
            return x, y
        column, row = (np.clip(np.rint(value), 0, self.motion.shape[1] - 1).astype(int) for value in (x, y))
        return x + self.motion[0][row, column], y + self.motion[1][row, column]

    @property
    def wavelength(self) -> float:
        """Effective wavelength of the band, nm."""
        return self.spec.filters[self.visit.filter].wavelength

    @property
    def fwhm(self) -> float:
        """FWHM of the PSF without the pixel, px."""
        return self.conditions.fwhm / self.spec.pixel_scale

    @property
    def psf_pixels(self) -> float:
        """Number of pixels whose noise a PSF flux has: 4 pi sigma^2 of a Gaussian with the pixel in it."""
        return float(4 * np.pi * ((self.fwhm / 2.355) ** 2 + 1 / 12))

    @cached_property
    def photometry(self) -> Photometry:
        """What judges the light of artefacts."""
        return Photometry.of(self.psf, self.fwhm, self.noise)


def add_stars(light: Floats, frame: Frame, scene: Scene, sensor: Detector, cloud: Floats | None) -> tuple[list[Star], list[Mark]]:
    """Add the constant stars; returns those bright enough to show more than their PSF, and the marks of the detectable ones."""
    stars, conditions = scene.stars, frame.conditions
    if not len(stars):
        return [], []
    years = (frame.visit.mjd - _EPOCH) / _YEAR
    x = stars["x"] + conditions.dither[0] + stars["colour"] * conditions.refraction[0] + stars["pm_x"] * years
    y = stars["y"] + conditions.dither[1] + stars["colour"] * conditions.refraction[1] + stars["pm_y"] * years
    rest = (x, y)
    x, y = frame.displaced(x, y)
    magnitude = np.array([transients.band_magnitude(m, c, frame.wavelength) for m, c in zip(stars["mag"], stars["colour"], strict=True)])
    flux = frame.scale * 10 ** (-0.4 * magnitude)
    optics.add_points(light, frame.psf, x, y, flux, noise=frame.noise)
    names = [f"{frame.visit.field_id}-star{index:04d}" for index in range(len(stars))]
    bright = np.flatnonzero(flux * frame.psf.profile[0] > frame.spec.psf.glare_from * sensor.full_well)
    found = [(names[index], float(x[index]), float(y[index]), float(flux[index])) for index in bright]
    moved = np.hypot(stars["pm_x"], stars["pm_y"]) + np.abs(stars["colour"] - np.median(stars["colour"])) * np.hypot(*conditions.refraction)
    moved = moved + np.hypot(x - rest[0], y - rest[1])
    return found, _star_marks(frame, names, (x, y, flux), moved, cloud)


def _star_marks(frame: Frame, names: list[str], places: tuple[Floats, Floats, Floats], moved: Floats, cloud: Floats | None) -> list[Mark]:
    """Marks of constant stars by the cause of their residual; `moved`: px between two exposures a year apart."""
    x, y, flux = places
    size = frame.psf.size
    snr = flux / np.sqrt(flux + frame.psf_pixels * frame.noise**2)
    shift_score = snr * moved * 2.355 / frame.fwhm * np.exp(-0.5)
    trailed = frame.conditions.trail[0] > _TRAILED * frame.conditions.fwhm
    marks = []
    inside = (x >= 0) & (x <= size - 1) & (y >= 0) & (y <= size - 1)
    clouded = snr * _dimmed(cloud, x, y, inside) > _MARK_SCORE
    for index in np.flatnonzero(((snr > _MARK_SNR) | clouded) & inside).tolist():
        kind = "residual" if snr[index] > _RESIDUAL_SNR else ""
        kind = "guiding" if trailed else kind
        kind = "cloud" if clouded[index] else kind
        kind = "dipole" if shift_score[index] > _MARK_SCORE else kind
        if kind:
            marks.append(Mark(names[index], kind, float(x[index]), float(y[index]), float(flux[index])))
    return marks


def clouded_galaxies(frame: Frame, scene: Scene, cloud: Floats) -> list[Mark]:
    """Marks of the galaxies of whose inner light a patch of cloud takes more than the noise of a PSF hides."""
    galaxies, (dx, dy) = scene.galaxies, frame.conditions.dither
    x, y, size = galaxies["x"] + dx, galaxies["y"] + dy, frame.psf.size
    area = 2 * np.pi * (galaxies["radius"] / frame.spec.pixel_scale) ** 2  # half of the light is within half of it
    flux = frame.scale * 10 ** (-0.4 * galaxies["mag"]) * frame.psf_pixels / (frame.psf_pixels + area)
    snr = flux / np.sqrt(flux + frame.psf_pixels * frame.noise**2)
    inside = (x >= 0) & (x <= size - 1) & (y >= 0) & (y <= size - 1)
    chosen = np.flatnonzero(snr * _dimmed(cloud, x, y, inside) > _MARK_SCORE)
    name = f"{frame.visit.field_id}-galaxy"
    return [Mark(f"{name}{index:04d}", "cloud", float(x[index]), float(y[index]), float(flux[index])) for index in chosen.tolist()]


def _dimmed(cloud: Floats | None, x: Floats, y: Floats, inside: NDArray[np.bool_]) -> Floats:
    """By how much the transparency at each place differs from that of the farther of the field's extremes, relative; 0 outside.

    The flux scale of a pair is that of its brightest stars, which may stand under the thinnest or the thickest cloud.
    """
    found = np.zeros(len(x))
    if cloud is not None:
        low, high = np.quantile(cloud, _CLOUD_RANGE)
        here = cloud[np.rint(y[inside]).astype(int), np.rint(x[inside]).astype(int)]
        found[inside] = np.maximum(high - here, here - low)
    return found


def off_chip_stars(frame: Frame, size: int, rng: np.random.Generator) -> list[Star]:
    """Very bright stars of the field around the chip, at this exposure's dither; they are the field's, `rng` must be too."""
    dx, dy = frame.conditions.dither
    stars = []
    for number in range(int(rng.poisson(frame.spec.artifacts.off_chip))):
        away, along, side = rng.uniform(MARGIN, 0.5 * size), rng.uniform(-0.2, 1.2) * size, int(rng.integers(4))
        x, y = ((-away, along), (size + away, along), (along, -away), (along, size + away))[side]
        flux = frame.scale * 10 ** (-0.4 * (frame.spec.scene.star_bright - rng.uniform(0.0, _BRIGHTER)))
        stars.append((f"{frame.visit.field_id}-beside{number}", float(x + dx), float(y + dy), float(flux)))
    return stars


def add_reflections(light: Floats, frame: Frame, bright: list[Star], rng: np.random.Generator) -> list[Mark]:
    """Add spikes, halos and ghosts of the bright stars, and return their marks."""
    glare, ghosts = np.zeros_like(light), np.zeros_like(light)
    for _, x, y, flux in bright:
        artifacts.glare(glare, frame.spec.psf, x, y, flux, rng)
        artifacts.ghost(ghosts, frame.spec.artifacts, x, y, flux)
    light += glare
    light += ghosts
    return frame.photometry.marks("glare", "glare", glare, SPREAD) + frame.photometry.marks("ghost", "ghost", ghosts, SPREAD)


def add_glints(light: Floats, frame: Frame, rng: np.random.Generator) -> list[Mark]:
    """Flashes of tumbling satellites: a series of short dashes of equal spacing, in science exposures alone (stacks reject them).

    They last for tenths of a second and reach the brightness of stars (Corbett et al. 2020, ApJL 903, L27; Karpov & Peloton
    2022, arXiv:2202.05719).
    """
    marks: list[Mark] = []
    if frame.visit.role != "science":
        return marks
    size, limit = light.shape[0], frame.spec.filters[frame.visit.filter].limit
    for number in range(int(rng.poisson(frame.spec.artifacts.glints))):
        x, y = rng.uniform(0.0, size - 1.0, 2)
        turn, spacing, length = rng.uniform(0, 2 * np.pi), rng.uniform(12.0, 60.0), rng.uniform(0.0, _DASH_LENGTH)
        magnitude = limit + 0.5 - rng.uniform(0.0, 5.0)
        for dash in range(int(rng.integers(1, _DASHES + 1))):
            px, py = x + dash * spacing * np.cos(turn), y + dash * spacing * np.sin(turn)
            flux = float(frame.scale * 10 ** (-0.4 * (magnitude + rng.normal(0.0, 0.3))))
            _add_line(light, frame, (px, py), turn, length, flux)
            marks.append(Mark(f"glint{number}", "glint", float(px), float(py), flux))
            if length > 4:  # longer than most match radii
                marks += [
                    Mark(f"glint{number}", "glint", px + s * np.cos(turn), py + s * np.sin(turn), flux) for s in (-length / 2, length / 2)
                ]
    return thinned(marks, size)


def _add_line(light: Floats, frame: Frame, middle: tuple[float, float], turn: float, length: float, flux: float) -> None:
    """Add a source that moved evenly along a line of `length` pixels."""
    steps = length * (np.arange(_ASTEROID_STEPS) / (_ASTEROID_STEPS - 1) - 0.5)
    parts = np.full(_ASTEROID_STEPS, flux / _ASTEROID_STEPS)
    optics.add_points(light, frame.psf, middle[0] + steps * np.cos(turn), middle[1] + steps * np.sin(turn), parts, noise=0.0)


def add_transients(light: Floats, frame: Frame, scene: Scene) -> list[dict[str, Any]]:
    """Add supernovae and variables; returns one truth row for each that lies on the detector, also where its flux is zero."""
    # Their truth is a flux, so they are drawn to the last per mille of their wings (noise=0), unlike the stars.
    rows = []
    dx, dy = frame.conditions.dither
    size = light.shape[0]
    for source in scene.transients:
        x, y = (float(value) for value in frame.displaced(np.asarray(source.x + dx), np.asarray(source.y + dy)))
        magnitude = source.curve.magnitude(frame.visit.mjd, frame.wavelength)
        flux = frame.scale * 10 ** (-0.4 * magnitude) if np.isfinite(magnitude) else 0.0
        optics.add_points(light, frame.psf, np.array([x]), np.array([y]), np.array([flux]), noise=0.0)
        if not (-0.5 <= x < size - 0.5 and -0.5 <= y < size - 0.5):
            continue
        host = (source.host_x + dx, source.host_y + dy)
        rows.append(truth_row(frame, source.object_id, source.kind, source.transient_type, (x, y), flux, host))
    return rows


def add_asteroids(light: Floats, frame: Frame, rng: np.random.Generator) -> list[dict[str, Any]]:
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
        flux = frame.scale * 10 ** (-0.4 * magnitude)
        _add_line(light, frame, (x, y), turn, length, flux)
        nowhere = (float("nan"), float("nan"))
        name = f"{frame.visit.exposure_id}-ast{number:02d}"
        rows.append(truth_row(frame, name, "asteroid", "asteroid", (float(x), float(y)), flux, nowhere))
    return rows


@dataclass(frozen=True, eq=False)
class Wake:
    """What the exposure before, elsewhere on the sky, left in this one."""

    charge: Floats  # (ny, nx), expected electrons
    filled: NDArray[np.bool_]  # (ny, nx), True on the pixels that were full
    marks: list[Mark]

    def on_record(self, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
        """The pixels that the observatory's account names: of the connected groups that were full, all but 1 - `share` of them."""
        groups, number = ndimage.label(self.filled, structure=np.ones((3, 3)))
        known = np.concatenate([[False], rng.random(number) < share])
        return np.asarray(known[groups])


def persistent_charge(frame: Frame, sensor: Detector, size: int, rng: np.random.Generator) -> Wake | None:
    """What full pixels of the exposure before leave in this one; None without any.

    Its stars are drawn from the counts of this field. Trapped charge is a share of the full well that depends on the pixel having
    been full, not on how much light hit it (Rest et al. 2002, astro-ph/0201373; Waters et al. 2020, ApJS 251, 4, section 3.2).
    """
    share, scene = frame.spec.detector.persistence, frame.spec.scene
    full = float(-2.5 * np.log10(sensor.full_well / (frame.psf.profile[0] * frame.scale)))  # mag of a star that just fills its pixel
    if share <= 0 or full <= scene.star_bright:
        return None
    counts = [10 ** (scene.star_slope * (m - scene.star_faint)) for m in (scene.star_bright, min(full, scene.star_faint), scene.star_faint)]
    number = int(rng.poisson(scene.stars * size**2 / 1e6 * (counts[1] - counts[0]) / (counts[2] - counts[0])))
    if not number:
        return None
    magnitude = power_law_magnitudes(rng, number, scene.star_bright, min(full, scene.star_faint), scene.star_slope)
    x, y, flux = rng.uniform(0, size - 1, number), rng.uniform(0, size - 1, number), frame.scale * 10 ** (-0.4 * magnitude)
    before = np.zeros((size, size))
    optics.add_points(before, frame.psf, x, y, flux, noise=0.1 * sensor.full_well)
    bleed(before, sensor.full_well)
    filled = before > _WAKE * sensor.full_well
    left = share * sensor.full_well * float(rng.lognormal(0.0, _WAKE_SCATTER))
    charge = np.where(filled, left * before / sensor.full_well, 0.0)
    return Wake(charge, filled, frame.photometry.marks("wake", "persistence", charge, LOCAL))


def hot_marks(sensor: Detector, visit: Visit) -> list[Mark]:
    """Marks of the hot pixels that the bad-pixel mask does not know."""
    charge = sensor.hot_rate * visit.exptime
    return [
        Mark(f"hot{index:04d}", "hot_pixel", float(sensor.hot_x[index]), float(sensor.hot_y[index]), float(charge[index]))
        for index in np.flatnonzero(sensor.unmasked)
    ]


def artifact_row(frame: Frame, mark: Mark) -> dict[str, Any]:
    """The truth row of a mark."""
    prefix = frame.visit.exposure_id if not mark.name.startswith(frame.visit.field_id) else ""
    name = f"{prefix}-{mark.name}".lstrip("-")
    return truth_row(frame, name, mark.kind, "", (mark.x, mark.y), mark.electrons, (float("nan"), float("nan")))


def truth_row(
    frame: Frame, name: str, kind: str, transient_type: str, place: tuple[float, float], flux: float, host: tuple[float, float]
) -> dict[str, Any]:
    """A row of TRUTH before its sky position; `host` in pixels.

    The flux is that on the exposure's mean zero-point: patches of cloud change the image, not the source.
    """
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

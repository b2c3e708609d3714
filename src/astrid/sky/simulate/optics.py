"""Light through the sky and the telescope: the exposure's conditions, its WCS, its PSF and how sources are drawn with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from astrid.config.schema.simulate import PsfSpec, SimulateConfig, SurveySpec
from astrid.core.runtime import rng_for
from astrid.sky.simulate.galaxies import draw_galaxy
from astrid.sky.simulate.scene import MARGIN
from astrid.sky.simulate.schedule import Visit

if TYPE_CHECKING:
    from astropy.wcs import WCS

Floats = NDArray[np.float64]

OVERSAMPLE = 4  # PSF samples a pixel
HALF = 48  # pixel, half width of the PSF stamp
_STEPS = (6, 12, 24, HALF - 3)  # half widths at which stars are drawn
_LAYER = 2  # samples a pixel of the galaxy layer
_CORNERS = ((-1.0, -1.0), (1.0, -1.0), (-1.0, 1.0), (1.0, 1.0))
_LUNATION = 29.530588  # d
_NEW_MOON = 58995.7  # MJD
_YEAR = 365.25  # d


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the night and the telescope make of one exposure."""

    fwhm: float  # arcsec
    sky: float  # mag/arcsec2
    transparency: float  # 1 = photometric
    shear: tuple[float, float]
    dither: tuple[float, float]  # pixel
    gradient: tuple[float, float]  # relative change of the sky over half the image
    refraction: tuple[float, float]  # pixel a unit of colour
    header_shift: tuple[float, float]  # arcsec east and north
    header_rotation: float  # deg
    header_scale: float  # relative
    bad: bool
    moonlight: float  # 0 at new moon, 1 at full moon
    trail: tuple[float, float]  # length (arcsec) and angle (deg) of the line that drifting guiding draws


def observe(cfg: SimulateConfig, visit: Visit) -> Conditions:
    """Conditions of a visit. Seeing, sky and clouds depend on survey and night alone, the rest on the exposure."""
    spec = cfg.surveys[visit.survey]
    band, weather, pointing = spec.filters[visit.filter], spec.weather, cfg.pointing
    night = rng_for(cfg.seed, visit.survey, "night", int(visit.mjd))
    seeing = spec.psf.fwhm * float(night.lognormal(0.0, spec.psf.fwhm_scatter)) * (band.wavelength / 600.0) ** -0.1
    moonlight = 0.5 * (1 - np.cos(2 * np.pi * (visit.mjd - _NEW_MOON) / _LUNATION)) ** 2 / 2
    season = weather.season_sky * np.sin(2 * np.pi * visit.mjd / _YEAR)
    sky = band.sky - weather.moon * moonlight * night.uniform(0.3, 1.0) + season + night.normal(0.0, weather.sky_scatter)
    clouds = float(10 ** (-0.4 * weather.extinction * night.exponential(1.0)))
    own = rng_for(cfg.seed, visit.exposure_id, "pointing")
    bad = bool(own.random() < pointing.bad_fraction) and visit.role == "science"
    worse = pointing.bad_factor if bad else 1.0
    header = worse * spec.header_error
    spread, most = (pointing.reference_dither, MARGIN - 4.0) if visit.role == "reference" else (pointing.dither, 8.0)
    dither = own.normal(0.0, spread, 2).clip(-most, most)
    shift, turn = own.uniform(pointing.shift_min, pointing.shift_max) * header, own.uniform(0, 2 * np.pi)
    guiding = np.clip(own.normal(0.0, spec.psf.guiding * worse, 2), -0.25, 0.25)
    refraction = own.normal(0.0, weather.refraction / spec.pixel_scale, 2)
    gradient = own.normal(0.0, weather.gradient, 2)
    return Conditions(
        fwhm=seeing,
        sky=float(sky),
        transparency=max(clouds, 0.3),
        shear=(float(guiding[0]), float(guiding[1])),
        dither=(float(dither[0]), float(dither[1])),
        gradient=(float(gradient[0]), float(gradient[1])),
        refraction=(float(refraction[0]), float(refraction[1])),
        header_shift=(float(shift * np.cos(turn)), float(shift * np.sin(turn))),
        header_rotation=float(own.normal(0.0, pointing.rotation * header)),
        header_scale=float(1 + own.normal(0.0, pointing.scale * header)),
        bad=bad,
        moonlight=float(moonlight) if weather.moon > 0 else 0.0,
        trail=_trail(spec.psf, visit, rng_for(cfg.seed, visit.exposure_id, "guiding drift")),
    )


def _trail(psf: PsfSpec, visit: Visit, rng: np.random.Generator) -> tuple[float, float]:
    drifts, length, angle = rng.random() < psf.trail_fraction, rng.exponential(psf.trail), rng.uniform(0.0, 180.0)
    return (float(length), float(angle)) if drifts and visit.role == "science" else (0.0, 0.0)


def flux_scale(spec: SurveySpec, visit: Visit, conditions: Conditions) -> float:
    """Electrons that a source of AB magnitude 0 leaves in the exposure."""
    return float(10 ** (0.4 * spec.filters[visit.filter].zeropoint) * visit.exptime * conditions.transparency)


def sky_level(spec: SurveySpec, visit: Visit, conditions: Conditions) -> float:
    """Electrons of sky a pixel."""
    return float(10 ** (0.4 * (spec.filters[visit.filter].zeropoint - conditions.sky)) * visit.exptime * spec.pixel_scale**2)


def field_wcs(cfg: SimulateConfig, visit: Visit) -> WCS:
    """The WCS of the visit's field pixels: TAN, north up, east left."""
    return _tan(cfg, visit, dither=(0.0, 0.0), shift=(0.0, 0.0), rotation=0.0, scale=1.0)


def true_wcs(cfg: SimulateConfig, visit: Visit, conditions: Conditions) -> WCS:
    """The WCS with which sources are placed: that of the field, moved by the dither."""
    return _tan(cfg, visit, dither=conditions.dither, shift=(0.0, 0.0), rotation=0.0, scale=1.0)


def header_wcs(cfg: SimulateConfig, visit: Visit, conditions: Conditions) -> WCS:
    """The slightly wrong WCS that the header carries."""
    wrong = conditions
    return _tan(cfg, visit, dither=wrong.dither, shift=wrong.header_shift, rotation=wrong.header_rotation, scale=wrong.header_scale)


def _tan(
    cfg: SimulateConfig, visit: Visit, *, dither: tuple[float, float], shift: tuple[float, float], rotation: float, scale: float
) -> WCS:
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.radesys = "ICRS"
    east, north = shift
    wcs.wcs.crval = [visit.s_ra + east / 3600.0 / np.cos(np.radians(visit.s_dec)), visit.s_dec + north / 3600.0]
    centre = (cfg.image_size + 1) / 2.0
    wcs.wcs.crpix = [centre + dither[0], centre + dither[1]]
    step = cfg.surveys[visit.survey].pixel_scale * scale / 3600.0
    cosine, sine = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
    wcs.wcs.cd = step * np.array([[-cosine, sine], [sine, cosine]])
    wcs.wcs.set()
    return wcs


@dataclass(frozen=True, eq=False)
class EffectivePsf:
    """The PSF with the pixel's response, oversampled, at the four corners of the detector.

    `samples[k, j, i]` is the share of a source's flux in a pixel whose centre lies (i, j) / OVERSAMPLE - HALF pixels from it.
    """

    samples: Floats  # (4, n, n), n = 2 HALF OVERSAMPLE + 1
    size: int  # pixel, side of the detector
    profile: Floats  # share of the flux in a pixel at radius 0, 1, 2, ... pixels

    def at(self, x: float, y: float) -> Floats:
        """Weights of the four corners at a position, bilinear; float64 (4,)."""
        u, v = np.clip([x / (self.size - 1), y / (self.size - 1)], 0.0, 1.0)
        return np.array([(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v])


def make_psf(spec: PsfSpec, pixel_scale: float, wavelength: float, conditions: Conditions, size: int) -> EffectivePsf:
    """Draw the effective PSF of an exposure with GalSim."""
    import galsim

    count = 2 * HALF * OVERSAMPLE + 1
    samples = np.empty((4, count, count))
    base = base_profile(spec, wavelength, conditions.fwhm)
    length, direction = conditions.trail
    if length > 0:  # a line, whose width is far below a sample's
        base = galsim.Convolve(base, galsim.Box(length, 0.05 * pixel_scale).rotate(direction * galsim.degrees))
    for index, (u, v) in enumerate(_CORNERS):
        angle = 2 * np.arctan2(v, u)
        g1 = conditions.shear[0] + spec.field_shear * np.cos(angle)
        g2 = conditions.shear[1] + spec.field_shear * np.sin(angle)
        blurred = galsim.Convolve(base.shear(g1=float(g1), g2=float(g2)), galsim.Pixel(pixel_scale))
        image = blurred.drawImage(nx=count, ny=count, scale=pixel_scale / OVERSAMPLE, method="no_pixel", dtype=np.float64)
        samples[index] = image.array * OVERSAMPLE**2
    centre = HALF * OVERSAMPLE
    profile = samples.mean(axis=0)[centre, centre::OVERSAMPLE].clip(min=0.0)
    return EffectivePsf(samples, size, profile)


def base_profile(spec: PsfSpec, wavelength: float, fwhm: float) -> Any:
    """The GalSim profile (arcsec) of the PSF before guiding, without the pixel; `wavelength` in nm, `fwhm` in arcsec."""
    import galsim

    # Folding at 1 % keeps the transforms small; the wings beyond carry less flux than the photometric tests can see.
    params = galsim.GSParams(folding_threshold=1e-2, maximum_fft_size=16384)
    if spec.profile == "kolmogorov":  # long exposures through turbulence: Fried 1966, JOSA 56, 1372
        return galsim.Kolmogorov(fwhm=fwhm, gsparams=params)
    if spec.profile == "moffat":
        return galsim.Moffat(beta=spec.beta, fwhm=fwhm, gsparams=params)
    if spec.profile == "gaussian_wings":
        core = galsim.Gaussian(fwhm=fwhm, flux=1.0 - spec.wing_fraction, gsparams=params)
        wings = galsim.Moffat(beta=spec.beta, fwhm=spec.wing_fwhm, flux=spec.wing_fraction, gsparams=params)
        return core + wings
    atmosphere = galsim.Moffat(beta=spec.beta, fwhm=fwhm, gsparams=params)
    # Against twice the sampling, this one changes the PSF of a metre-class telescope in seeing by 1e-4 of its peak, in a tenth of the time.
    telescope = galsim.OpticalPSF(
        lam=wavelength,
        diam=spec.diameter,
        obscuration=0.3,
        defocus=spec.aberration,
        astig1=spec.aberration,
        astig2=-spec.aberration,
        coma1=spec.aberration,
        oversampling=1.0,
        pad_factor=1.5,
        gsparams=params,
    )
    return galsim.Convolve(atmosphere, telescope, gsparams=params)


def _lagrange(offset: float) -> Floats:
    """Weights of the six samples around a position `offset` (0 to 1) behind the third of them (quintic Lagrange interpolation)."""
    nodes = np.arange(-2, 4)
    return np.array([np.prod([(offset - other) / (node - other) for other in nodes if other != node]) for node in nodes])


def _taps(position: float, half: int) -> tuple[int, int, Floats]:
    """First pixel of a stamp, index of its first PSF sample before the taps, and the taps' weights, along one axis."""
    first = int(np.floor(position + 0.5)) - half
    exact = (first - position + HALF) * OVERSAMPLE
    whole = int(np.floor(exact))
    return first, whole - 2, _lagrange(exact - whole)


def stamp(psf: EffectivePsf, x: float, y: float, half: int) -> tuple[int, int, Floats]:
    """A unit point source at (x, y): first column, first row and the pixel values, float64 (2 half + 1, 2 half + 1)."""
    count = 2 * half + 1
    column, i, wx = _taps(x, half)
    row, j, wy = _taps(y, half)
    span = OVERSAMPLE * (count - 1) + 1
    mixed = np.zeros((span + 5, span + 5))
    for weight, corner in zip(psf.at(x, y), psf.samples, strict=True):
        mixed += weight * corner[j : j + span + 5, i : i + span + 5]
    rows = sum(weight * mixed[tap : tap + span : OVERSAMPLE] for tap, weight in enumerate(wy))
    values = sum(weight * rows[:, tap : tap + span : OVERSAMPLE] for tap, weight in enumerate(wx))
    return column, row, np.asarray(values)


def half_width(psf: EffectivePsf, flux: float, noise: float) -> int:
    """Smallest half width, pixel, beyond which a source stays below a tenth of the noise of a pixel."""
    for half in _STEPS:
        if flux * psf.profile[half] < 0.1 * noise:
            return half
    return _STEPS[-1]


def add_points(image: Floats, psf: EffectivePsf, x: Floats, y: Floats, flux: Floats, *, noise: float) -> None:
    """Add point sources (electrons) to an image in place, each in a stamp as large as its wings show over `noise`."""
    height, width = image.shape
    for px, py, electrons in zip(x.tolist(), y.tolist(), flux.tolist(), strict=True):
        half = half_width(psf, electrons, noise)
        if not (-half < px < width + half and -half < py < height + half):
            continue
        column, row, values = stamp(psf, px, py, half)
        left, right = max(column, 0), min(column + values.shape[1], width)
        low, high = max(row, 0), min(row + values.shape[0], height)
        if left < right and low < high:
            image[low:high, left:right] += electrons * values[low - row : high - row, left - column : right - column]


def galaxy_layer(galaxies: NDArray[np.void], size: int, pixel_scale: float) -> NDArray[np.complex64]:
    """Fourier transform of the field's galaxies before the PSF, twice oversampled, in units of a source of magnitude 0."""
    count = _LAYER * (size + 2 * MARGIN)
    image = np.zeros((count, count), np.float32)
    for galaxy in galaxies:
        radius = float(galaxy["radius"]) / pixel_scale * _LAYER
        x, y = (float(galaxy[axis] + MARGIN) * _LAYER for axis in ("x", "y"))
        column, row = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        half = int(np.ceil(6 * radius)) + 3
        drawn = draw_galaxy(galaxy, radius, (x - column, y - row), half) * 10 ** (-0.4 * float(galaxy["mag"]))
        left, right = max(column - half, 0), min(column + half + 1, count)
        low, high = max(row - half, 0), min(row + half + 1, count)
        if left < right and low < high:
            image[low:high, left:right] += drawn[low - row + half : high - row + half, left - column + half : right - column + half]
    return np.asarray(fft.rfft2(image))


def add_galaxies(image: Floats, layer: NDArray[np.complex64], psf: EffectivePsf, dither: tuple[float, float], scale: float) -> None:
    """Add the galaxy layer, convolved with the mean PSF and moved by the dither (pixel), times `scale`, in place."""
    size = image.shape[0]
    count = _LAYER * (size + 2 * MARGIN)
    every = OVERSAMPLE // _LAYER
    kernel = psf.samples.mean(axis=0)[::every, ::every].astype(np.float32)
    padded = np.zeros((count, count), np.float32)
    reach = min(kernel.shape[0] // 2, count // 2 - 1)
    middle = kernel.shape[0] // 2
    cut = kernel[middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]
    padded[: cut.shape[0], : cut.shape[1]] = cut
    padded = np.roll(padded, (-reach, -reach), axis=(0, 1))
    along = np.exp(-2j * np.pi * fft.rfftfreq(count) * dither[0] * _LAYER)
    across = np.exp(-2j * np.pi * fft.fftfreq(count) * dither[1] * _LAYER)
    product = layer * fft.rfft2(padded) * along[None, :].astype(np.complex64) * across[:, None].astype(np.complex64)
    blurred = fft.irfft2(product, s=(count, count))
    edge = _LAYER * MARGIN
    image += scale * blurred[edge : edge + _LAYER * size : _LAYER, edge : edge + _LAYER * size : _LAYER].clip(min=0.0)

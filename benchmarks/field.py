"""The test pair: what every table of the benchmarks stands on, made with numpy, exact in its PSFs and reproducible by seed.

Moffat PSFs (beta 3.5) of FWHM 3.0 px (science) and 2.2 px (reference), white sky noise and Poisson noise of the sources.
A megapixel holds 360 stars, 60 galaxies (exponential discs) and 100 injected point sources of matched-filter S/N 3 to 30, of which 20
sit on galaxies. "Jitter" moves every source of the science image by an independent Gaussian of 0.1 px RMS an axis. The reference may
lie on a grid of its own, turned and shifted; sources are rendered there afresh, so that nothing is resampled before the code under
test does it.

Profiles are products in Fourier space (Moffat, disc and pixel have closed forms there), so that the same source on two grids
is the same source to 1e-5 of its flux.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy import ndimage, special

from astrid.config.schema.calibrate import CalibrateConfig
from astrid.core.records import Calibrated, ExposureInfo, Psf
from benchmarks.textbook import Image, Optimum, optimum

Floats = NDArray[np.float64]

BETA = 3.5  # of the Moffat profiles
FWHM = (3.0, 2.2)  # px, science and reference
SKY = (100.0, 25.0)  # electrons a pixel: the variance of the blank sky
STARS, GALAXIES = 360, 60  # a megapixel
STAR_FLUX = (300.0, 2e5)  # electrons; many faint, few bright
GALAXY_FLUX = (1e4, 1e5)  # electrons, log-uniform: one global astrometric term of 0.1 px loses a fifth of the transients in them
GALAXY_SIZE = (1.5, 4.0)  # px, half-light radius
INJECTED, HOSTED = 100, 20  # point sources a megapixel, and those of them on galaxies
SNR = (3.0, 30.0)  # of the injected sources, uniform
JITTER_PX = 0.1
PSF_HALF = 15  # px, half the side of the PSF stamps that the known-PSF runs are given
STAR_HALF = 31  # px, half the side of a rendered star: 1e-5 of the flux lies beyond
GALAXY_SIDE = 96  # px
MARGIN = 40  # px, of the injected sources from the border
APART = 15.0  # px, between injected sources
_OVER_STAR, _OVER_GALAXY = 10, 3  # points a pixel of the tables
_DISC_SCALE = 1.678  # half-light radius over scale length of an exponential disc


@dataclass(frozen=True, eq=False)
class Pair:
    """A pair with its truth; positions are px of the science grid."""

    science: Floats  # electrons, sky-subtracted
    reference: Floats
    variance_science: Floats  # true: of the sky and the noiseless sources
    variance_reference: Floats
    wcs: WCS
    wcs_reference: WCS  # as the header states it
    true_wcs_reference: WCS
    stars: Floats  # (n, 3) x, y, flux
    galaxies: Floats  # (n, 6) x, y, flux, scale length, axis ratio, angle
    injected: Floats  # (m, 4) x, y, flux, S/N by theory
    hosted: NDArray[np.bool_]  # (m,)
    blank: Floats  # V(S) over its blank-sky value on the science grid, noiseless, without the injected sources
    theory: Optimum  # what the matched filter reaches on blank sky

    @property
    def expected(self) -> Floats:
        """Probability of each injected source to pass 5 sigma."""
        return np.asarray(special.ndtr(self.injected[:, 3] - 5.0))

    def calibrated(self, *, known: bool) -> tuple[Calibrated, Calibrated]:
        """Both exposures with their true variance; with their true PSFs where `known`."""
        sides = []
        for index, (data, variance, wcs) in enumerate(
            ((self.science, self.variance_science, self.wcs), (self.reference, self.variance_reference, self.wcs_reference))
        ):
            psf = Psf(psf_stamp(FWHM[index]), "given", fwhm=FWHM[index]) if known else None
            sides.append(
                Calibrated(
                    data=data.astype(np.float32),
                    variance=variance.astype(np.float32),
                    dq=np.zeros(data.shape, np.uint32),
                    wcs=wcs,
                    info=identity(index),
                    psf=psf,
                    sky=SKY[index],
                    sky_rms=float(np.sqrt(SKY[index])),
                )
            )
        return sides[0], sides[1]

    def from_archive(self, config: CalibrateConfig) -> tuple[Calibrated, Calibrated]:
        """Both exposures as `calibrate` makes them of images with their sky, a gain of 1 and no other plane."""
        from astrid.imaging.calibrate import RawExposure, calibrate

        made = []
        for index, (data, wcs) in enumerate(((self.science, self.wcs), (self.reference, self.wcs_reference))):
            raw = RawExposure(data=(data + SKY[index]).astype(np.float32), wcs=wcs, info=identity(index), gain=1.0, calibrated=True)
            made.append(calibrate(raw, config))
        return made[0], made[1]


def textbook_sides(pair: Pair) -> tuple[Image, Image]:
    """The pair as the textbook's ZOGY takes it: true PSFs, true variances."""
    planes = ((pair.science, pair.variance_science), (pair.reference, pair.variance_reference))
    sides = [
        Image(data.astype(np.float32), variance.astype(np.float32), psf_stamp(FWHM[k]), float(np.sqrt(SKY[k])))
        for k, (data, variance) in enumerate(planes)
    ]
    return sides[0], sides[1]


def identity(index: int) -> ExposureInfo:
    role = ("science", "reference")[index]
    return ExposureInfo(
        exposure_id=role, survey="bench", instrument="camera", detector="1", filter="r", mjd=60000.0 - 100 * index, exptime=60.0, role=role
    )


def make_pair(
    seed: int,
    shape: tuple[int, int],
    *,
    jitter: float = 0.0,
    angle: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    header_error: tuple[float, float] = (0.0, 0.0),
    injected: float = INJECTED,
    snr: tuple[float, float] = SNR,
) -> Pair:
    """A pair by seed. `angle` (deg) turns and `shift` (px) moves the reference's grid; `header_error` (px) is added to its header.

    `injected` is a megapixel.
    """
    rng = np.random.default_rng([seed, 20160102])
    megapixels = shape[0] * shape[1] / 1e6
    stars, galaxies = scene_tables(rng, shape)
    wcs = tan_wcs(shape, 0.0, (0.0, 0.0))
    true = tan_wcs(shape, angle, shift)
    stated = tan_wcs(shape, angle, (shift[0] + header_error[0], shift[1] + header_error[1]))
    moved_stars, moved_galaxies = stars.copy(), galaxies.copy()
    for table in (moved_stars, moved_galaxies):
        table[:, :2] += jitter * rng.normal(size=(len(table), 2))
    scene = render(shape, FWHM[0], moved_stars, moved_galaxies)
    grid = onto(true, wcs, stars), onto(true, wcs, galaxies)
    grid[1][:, 5] += np.deg2rad(angle)
    still = render(shape, FWHM[1], *grid)
    variance = (scene + SKY[0], still + SKY[1])
    on_science = variance[1] if not (angle or shift[0] or shift[1]) else render(shape, FWHM[1], stars, galaxies) + SKY[1]
    theory = optimum(psf_stamp(FWHM[0], 31), psf_stamp(FWHM[1], 31), np.sqrt(SKY[0]), np.sqrt(SKY[1]))
    ratio = theory.variance_ratio(variance[0], on_science)
    sources, hosted = _transients(rng, shape, moved_galaxies, ratio, theory, round(injected * megapixels), snr)
    added = render(shape, FWHM[0], sources[:, :3], np.empty((0, 6)))
    noise = [rng.standard_normal(shape, dtype=np.float32) for _ in range(2)]
    science = scene + added + noise[0] * np.sqrt(variance[0] + added)
    return Pair(
        science=science,
        reference=still + noise[1] * np.sqrt(variance[1]),
        variance_science=variance[0] + added,
        variance_reference=variance[1],
        wcs=wcs,
        wcs_reference=stated,
        true_wcs_reference=true,
        stars=moved_stars,
        galaxies=moved_galaxies,
        injected=sources,
        hosted=hosted,
        blank=ratio,
        theory=theory,
    )


def tan_wcs(shape: tuple[int, int], angle: float, shift: tuple[float, float]) -> WCS:
    """One arcsec a pixel, turned by `angle` deg about the middle, which is moved by `shift` px."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = [(shape[1] + 1) / 2 + shift[0], (shape[0] + 1) / 2 + shift[1]]
    turn = np.deg2rad(angle)
    wcs.wcs.cd = np.array([[-np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]]) / 3600.0
    wcs.array_shape = shape
    return wcs


def onto(target: WCS, source: WCS, table: Floats) -> Floats:
    """A table of sources on another grid."""
    out = table.copy()
    out[:, 0], out[:, 1] = target.all_world2pix(*source.all_pix2world(table[:, 0], table[:, 1], 0), 0)
    return out


def scene_tables(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Floats, Floats]:
    """Stars (x, y, flux) and galaxies (x, y, flux, scale length, axis ratio, angle) of a field."""
    megapixels = shape[0] * shape[1] / 1e6
    return _stars(rng, shape, round(STARS * megapixels)), _galaxies(rng, shape, round(GALAXIES * megapixels))


def _stars(rng: np.random.Generator, shape: tuple[int, int], count: int) -> Floats:
    x, y = rng.uniform(-10, shape[1] + 10, count), rng.uniform(-10, shape[0] + 10, count)
    faint, bright = STAR_FLUX
    return np.stack([x, y, faint * (bright / faint) ** (rng.uniform(size=count) ** 2)], axis=1)


def _galaxies(rng: np.random.Generator, shape: tuple[int, int], count: int) -> Floats:
    x, y = rng.uniform(0, shape[1], count), rng.uniform(0, shape[0], count)
    flux = GALAXY_FLUX[0] * (GALAXY_FLUX[1] / GALAXY_FLUX[0]) ** rng.uniform(size=count)
    size = rng.uniform(*GALAXY_SIZE, count) / _DISC_SCALE
    return np.stack([x, y, flux, size, rng.uniform(0.3, 1.0, count), rng.uniform(0, np.pi, count)], axis=1)


def _transients(
    rng: np.random.Generator,
    shape: tuple[int, int],
    galaxies: Floats,
    ratio: Floats,
    theory: Optimum,
    count: int,
    snr: tuple[float, float],
) -> tuple[Floats, NDArray[np.bool_]]:
    """x, y, flux, S/N of the injected sources; the flux gives the S/N against the sky's, the scene's and its own noise."""
    hosts = min(round(count * HOSTED / INJECTED), len(galaxies))
    inside = np.flatnonzero(
        (galaxies[:, 0] > MARGIN) & (galaxies[:, 1] > MARGIN) & (galaxies[:, 0] < shape[1] - MARGIN) & (galaxies[:, 1] < shape[0] - MARGIN)
    )
    chosen = galaxies[rng.permutation(inside)[:hosts]]
    radius, turn = chosen[:, 3] * rng.gamma(2.0, size=len(chosen)).clip(0, 3), rng.uniform(0, 2 * np.pi, len(chosen))
    u, v = radius * np.cos(turn), radius * np.sin(turn) * chosen[:, 4]
    cos, sin = np.cos(chosen[:, 5]), np.sin(chosen[:, 5])
    places = [np.array([x, y]) for x, y in zip(chosen[:, 0] + cos * u - sin * v, chosen[:, 1] + sin * u + cos * v, strict=True)]
    while len(places) < count:
        place = np.array([rng.uniform(MARGIN, shape[1] - MARGIN), rng.uniform(MARGIN, shape[0] - MARGIN)])
        if min((np.hypot(*(place - other)) for other in places), default=np.inf) > APART:
            places.append(place)
    where = np.array(places).reshape(-1, 2)
    wanted = rng.uniform(*snr, len(where))
    scene = ndimage.map_coordinates(ratio, [where[:, 1], where[:, 0]], order=1)
    return np.c_[where, theory.flux_of(wanted, scene), wanted], np.arange(len(where)) < len(chosen)


# --- rendering -------------------------------------------------------------------------------------------------------------


def _moffat_hat(frequency: Floats, fwhm: float) -> Floats:
    """Transform of a Moffat profile of unit flux at |k|, cycles a pixel."""
    alpha = fwhm / (2.0 * np.sqrt(2.0 ** (1.0 / BETA) - 1.0))
    z = np.maximum(2.0 * np.pi * alpha * frequency, 1e-6)
    order = BETA - 1.0
    return np.asarray(2.0 * (z / 2.0) ** order * special.kv(order, z) / special.gamma(order))


@lru_cache(maxsize=4)
def _grid(side: int, over: int) -> tuple[Floats, Floats]:
    """Frequencies (ky, kx), cycles a pixel, of a stamp of `side` px with `over` points a pixel."""
    ky, kx = np.fft.fftfreq(side * over, 1.0 / over), np.fft.rfftfreq(side * over, 1.0 / over)
    return ky.astype(np.float64)[:, None], kx.astype(np.float64)[None, :]


@lru_cache(maxsize=8)
def _psf_hat(fwhm: float, side: int, over: int) -> Floats:
    """Transform of the PSF integrated over a pixel."""
    ky, kx = _grid(side, over)
    return np.asarray(_moffat_hat(np.hypot(ky, kx), fwhm) * np.sinc(ky) * np.sinc(kx))


@lru_cache(maxsize=4)
def _star_table(fwhm: float) -> tuple[Floats, int]:
    """Spline coefficients of the pixel-integrated PSF on a fine grid, and the index of its centre."""
    side = 2 * STAR_HALF + 10
    plane = np.fft.irfft2(_psf_hat(fwhm, side, _OVER_STAR), s=(side * _OVER_STAR,) * 2) * _OVER_STAR**2
    return ndimage.spline_filter(np.fft.fftshift(plane), order=3, mode="grid-wrap"), side * _OVER_STAR // 2


@lru_cache(maxsize=8)
def psf_stamp(fwhm: float, half: int = PSF_HALF) -> NDArray[np.float32]:
    """The PSF centred on a pixel, unit sum. (2 half + 1, 2 half + 1) float32."""
    table, middle = _star_table(fwhm)
    at = middle + _OVER_STAR * np.arange(-half, half + 1)
    stamp = ndimage.map_coordinates(table, np.meshgrid(at, at, indexing="ij"), order=3, prefilter=False, mode="grid-wrap")
    return np.asarray(stamp / stamp.sum(), dtype=np.float32)


def render(shape: tuple[int, int], fwhm: float, stars: Floats, galaxies: Floats) -> Floats:
    """Sum of point sources (x, y, flux) and discs (x, y, flux, scale length, axis ratio, angle) seen through a PSF."""
    image = np.zeros(shape)
    table, middle = _star_table(fwhm)
    steps = np.arange(-STAR_HALF, STAR_HALF + 1)
    for x, y, flux in stars[:, :3]:
        column, row = round(x), round(y)
        at_y, at_x = middle + _OVER_STAR * (steps + row - y), middle + _OVER_STAR * (steps + column - x)
        coordinates = np.meshgrid(at_y, at_x, indexing="ij")
        _add(image, flux * ndimage.map_coordinates(table, coordinates, order=3, prefilter=False, mode="grid-wrap"), row, column, STAR_HALF)
    for x, y, flux, scale, axis, turn in galaxies:
        column, row = round(x), round(y)
        _add(image, flux * _disc(fwhm, scale, axis, turn, x - column, y - row), row, column, GALAXY_SIDE // 2)
    return image


def _disc(fwhm: float, scale: float, axis: float, turn: float, x: float, y: float) -> Floats:
    """An inclined exponential disc of unit flux through PSF and pixel, (side + 1, side + 1), its centre at (x, y) from the middle."""
    ky, kx = _grid(GALAXY_SIDE, _OVER_GALAXY)
    along, across = np.cos(turn) * kx + np.sin(turn) * ky, np.cos(turn) * ky - np.sin(turn) * kx
    power = (along**2 + (axis * across) ** 2) * (2.0 * np.pi * scale) ** 2
    hat = _psf_hat(fwhm, GALAXY_SIDE, _OVER_GALAXY) * (1.0 + power) ** -1.5 * np.exp(-2j * np.pi * (ky * y + kx * x))
    plane = np.fft.fftshift(np.fft.irfft2(hat, s=(GALAXY_SIDE * _OVER_GALAXY,) * 2)[::_OVER_GALAXY, ::_OVER_GALAXY]) * _OVER_GALAXY**2
    return np.pad(plane, ((0, 1), (0, 1)))


def _add(image: Floats, stamp: Floats, row: int, column: int, half: int) -> None:
    top, left = row - half, column - half
    r0, r1 = max(0, top), min(image.shape[0], top + stamp.shape[0])
    c0, c1 = max(0, left), min(image.shape[1], left + stamp.shape[1])
    if r0 < r1 and c0 < c1:
        image[r0:r1, c0:c1] += stamp[r0 - top : r1 - top, c0 - left : c1 - left]

"""What to inject into a pair, and where: sources that cover signal-to-noise and host distance evenly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from astrid.config.schema.imaging import FluxScaleConfig, RegistrationConfig
from astrid.config.schema.injection import HostsConfig, InjectionConfig
from astrid.config.schema.psf import PsfConfig
from astrid.core.errors import ImagingError
from astrid.core.records import Calibrated, Psf
from astrid.imaging.alignment.astrometry import Mapping, header_mapping, refine
from astrid.imaging.detector.correlation import noise_correlation
from astrid.imaging.exposure import Measured, measure
from astrid.imaging.plan import plain_scale
from astrid.imaging.stars.find import usable_pixels
from astrid.imaging.stars.profile import cut_out
from astrid.imaging.stars.sizes import FWHM_PER_SIGMA

_WINDOW = 2048  # px, side of the windows in which hosts are looked for
_PIXSTACK = 3_000_000  # active pixels that SEP may hold
_ROUNDS = 8  # of the inversion of the mapping; it converges by the mapping's relative non-linearity a round
_CLOSE_PX = 0.01  # science px, to which the inverse is good
_DRAWS = 8  # places drawn for each source that is wanted, before the image counts as full
_LEAST_WIDTH = 0.5  # of a source, in widths of the PSF

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Hosts:
    """Extended sources of the reference: (m,) arrays in reference px; theta in rad from +x towards +y."""

    x: Floats
    y: Floats
    major: Floats  # RMS of the light along the major axis
    minor: Floats
    theta: Floats

    def place(self, host: NDArray[np.intp], dlr: Floats, angle: Floats) -> tuple[Floats, Floats]:
        """Points at `dlr` directional light radii from hosts, towards `angle` in the circle that the ellipse is made of."""
        along, across = dlr * self.major[host] * np.cos(angle), dlr * self.minor[host] * np.sin(angle)
        cos, sin = np.cos(self.theta[host]), np.sin(self.theta[host])
        return self.x[host] + along * cos - across * sin, self.y[host] + along * sin + across * cos


@dataclass(frozen=True, eq=False)
class Ground:
    """A pair as an injection needs it."""

    science: Measured
    reference: Measured
    mapping: Mapping  # science px -> reference px
    ratio: float  # F_n / F_r: what the reference's fluxes are multiplied by to stand on the science exposure's scale
    hosts: Hosts
    usable: int  # science px
    power: tuple[float, float]  # variance of a PSF flux over that of uncorrelated pixels, of science and reference


@dataclass(frozen=True, eq=False)
class Injections:
    """Point sources of one copy of a pair; arrays of (n,)."""

    x: Floats  # px of the science exposure
    y: Floats
    x_reference: Floats  # px of the reference
    y_reference: Floats
    fading: NDArray[np.bool_]  # true: in the reference and not in the science exposure
    flux: Floats  # unit of the exposure that it is in
    snr: Floats  # that the difference is to show
    width: Floats  # over that of the PSF
    dlr: Floats  # from its host; NaN for one that was put anywhere
    host_x: Floats  # reference px, its host's centre; NaN without
    host_y: Floats

    def __len__(self) -> int:
        return len(self.x)


def survey_pair(
    science: Calibrated,
    reference: Calibrated,
    *,
    psf: PsfConfig,
    registration: RegistrationConfig,
    flux_scale: FluxScaleConfig,
    hosts: HostsConfig,
) -> Ground:
    """Align a pair, put it on one flux scale and find its galaxies, with the settings of its subtraction.

    Raises `ImagingError` when an exposure has no usable pixel, or a gain that photon noise cannot be drawn from.
    """
    for image in (science, reference):
        if not (np.isfinite(image.gain) and image.gain > 0):
            raise ImagingError(
                f"{image.info.exposure_id} has the gain {image.gain}, so that no photon noise can be drawn; "
                "give its gain, or its noise image."
            )
    new, old = (measure(image, psf, min_stars=registration.min_affine) for image in (science, reference))
    found = refine(new.points, old.points, science.wcs, reference.wcs, new.shape, registration)
    ratio = plain_scale(new, old, found, flux_scale).ratio
    power = tuple(
        noise_correlation(side.image, side.psf.at((side.shape[1] - 1) / 2, (side.shape[0] - 1) / 2).stamp, side.level, side.psf.fwhm).power
        for side in (new, old)
    )
    usable = sum(
        int(np.count_nonzero(usable_pixels(science.data[rows, :], science.variance[rows, :], science.dq[rows, :])))
        for rows in (slice(first, first + _WINDOW) for first in range(0, new.shape[0], _WINDOW))
    )
    return Ground(new, old, found.mapping, ratio, find_hosts(reference, old.psf.fwhm, hosts), usable, (power[0], power[1]))


def find_hosts(image: Calibrated, fwhm: float, cfg: HostsConfig) -> Hosts:
    """Extended sources of an image with sep (Barbary 2016), window by window; `fwhm`: of its PSF, px.

    A galaxy on the seam of two windows may be found as two halves.
    """
    import sep

    sep.set_extract_pixstack(_PIXSTACK)
    ny, nx = image.data.shape
    parts: list[NDArray[Any]] = []
    for top in range(0, ny, _WINDOW):
        for left in range(0, nx, _WINDOW):
            window = (slice(top, min(top + _WINDOW, ny)), slice(left, min(left + _WINDOW, nx)))
            data, variance = image.data[window], image.variance[window]
            good = usable_pixels(data, variance, image.dq[window])
            error = np.sqrt(np.where(good, variance, 1.0)).astype(np.float32)
            clean = np.where(good, data, 0.0).astype(np.float32)
            found = sep.extract(clean, cfg.sigma, err=error, mask=~good, minarea=cfg.min_area)
            size = FWHM_PER_SIGMA * np.sqrt(found["a"] * found["b"])
            kept = found[(size > cfg.extended_ratio * fwhm) & (found["b"] > 0)]
            parts.append(np.array([kept["x"] + left, kept["y"] + top, kept["a"], kept["b"], kept["theta"]], dtype=np.float64))
    return Hosts(*np.concatenate(parts, axis=1))


def draw(ground: Ground, cfg: InjectionConfig, rng: np.random.Generator, *, known: Floats) -> Injections:
    """Draw the sources of one copy.

    The logarithm of the S/N, the distance from the host and the share of the fading are stratified: n sources stand one in each
    of n equal strata of either axis, independently shuffled (McKay, Beckman & Conover 1979, Technometrics 21, 239), so that a few
    of them already cover the plane evenly. The flux follows from the S/N as the difference shows it,

    S/N = f / sqrt(sigma_n^2 + (r sigma_r)^2 + s f),

    with the matched-filter errors sigma = 1 / sqrt(sum P^2 / V) of a source at its place in either exposure, widened by the measured
    correlation of the noise, the ratio r of their flux scales and the photon noise s f of the source itself (Zackay, Ofek & Gal-Yam
    2016, eq. 19, in the limit of equal PSFs). In the core of a bright source the errors of alignment and PSF lower it further.

    Parameters
    ----------
    ground
        What `survey_pair` found.
    cfg
        Numbers, ranges and shares.
    rng
        Draws everything.
    known
        (k, 2) x, y in science px of changes that are there already; injected ones keep away from them.

    Returns
    -------
    Injections
        At most `cfg.max_sources` and as many as `cfg.density` asks for; fewer where the image is full. May be empty.
    """
    wanted = min(round(cfg.density * ground.usable * 1e-6), cfg.max_sources)
    around = round(cfg.near_hosts * wanted) if len(ground.hosts.x) else 0
    tries = _DRAWS * wanted
    host = np.full(2 * tries, -1, dtype=np.intp)
    dlr = np.full(2 * tries, np.nan)
    if around:
        host[:tries] = rng.integers(len(ground.hosts.x), size=tries)
        dlr[:tries] = cfg.max_dlr * np.concatenate([strata(around, rng) for _ in range(-(-tries // around))])[:tries]
    angle = rng.uniform(0.0, 2.0 * np.pi, tries)
    x, y, rx, ry = _anywhere(ground, 2 * tries, rng)
    if around:
        rx[:tries], ry[:tries] = ground.hosts.place(host[:tries], dlr[:tries], angle)
        x[:tries], y[:tries] = to_science(ground.mapping, rx[:tries], ry[:tries], ground.science.shape)
    apart = cfg.apart_fwhms * ground.science.psf.fwhm
    free = _free(ground, x, y, rx, ry, cfg.margin_px)
    chosen = _spread(np.column_stack([x, y]), free & (host >= 0), around, apart, known)
    taken = np.concatenate([known.reshape(-1, 2), np.column_stack([x, y])[chosen]])
    blank = _spread(np.column_stack([x, y]), free & (host < 0), wanted - len(chosen), apart, taken)
    chosen = np.concatenate([chosen, blank])
    n = len(chosen)
    snr = np.exp(np.log(cfg.min_snr) + (np.log(cfg.max_snr) - np.log(cfg.min_snr)) * strata(n, rng))
    fading = strata(n, rng) < cfg.fading
    width = np.maximum(1.0 + cfg.width_scatter * rng.standard_normal(n), _LEAST_WIDTH)
    places = (x[chosen], y[chosen], rx[chosen], ry[chosen])
    flux = _fluxes(ground, places, fading, snr)
    rooted = host[chosen] >= 0
    centre_x, centre_y = (
        np.where(rooted, values[host[chosen]] if len(values) else np.nan, np.nan) for values in (ground.hosts.x, ground.hosts.y)
    )
    return Injections(*places, fading, flux, snr, width, np.where(rooted, dlr[chosen], np.nan), centre_x, centre_y)


def strata(n: int, rng: np.random.Generator) -> Floats:
    """n shuffled numbers, one in each of the n equal strata of [0, 1)."""
    return np.asarray((rng.permutation(n) + rng.uniform(size=n)) / max(n, 1))


def to_science(mapping: Mapping, rx: Floats, ry: Floats, shape: tuple[int, int]) -> tuple[Floats, Floats]:
    """Science pixels of reference pixels: the inverse of a mapping, by chord iterations; NaN where they do not converge."""
    x, y = header_mapping(mapping.wcs_reference, mapping.wcs_science, rx, ry)
    inverse = np.linalg.inv(mapping.jacobian((shape[1] - 1) / 2, (shape[0] - 1) / 2))
    for _ in range(_ROUNDS):
        there = mapping(x, y)
        step = inverse @ np.array([there[0] - rx, there[1] - ry])
        x, y = x - step[0], y - step[1]
    lost = ~(np.hypot(*step) < _CLOSE_PX)
    return np.where(lost, np.nan, x), np.where(lost, np.nan, y)


def _anywhere(ground: Ground, count: int, rng: np.random.Generator) -> tuple[Floats, Floats, Floats, Floats]:
    ny, nx = ground.science.shape
    x, y = rng.uniform(-0.5, nx - 0.5, count), rng.uniform(-0.5, ny - 0.5, count)
    rx, ry = ground.mapping(x, y) if count else (x.copy(), y.copy())
    return x, y, rx, ry


def _free(ground: Ground, x: Floats, y: Floats, rx: Floats, ry: Floats, margin: float) -> NDArray[np.bool_]:
    """Places on a usable pixel of both exposures, off their borders."""
    return _on_usable(ground.science.image, x, y, margin) & _on_usable(ground.reference.image, rx, ry, margin)


def _on_usable(image: Calibrated, x: Floats, y: Floats, margin: float) -> NDArray[np.bool_]:
    ny, nx = image.data.shape
    with np.errstate(invalid="ignore"):
        inside = (x >= margin) & (x <= nx - 1 - margin) & (y >= margin) & (y <= ny - 1 - margin)
    inside[inside] = cut_out(image.data, image.variance, image.dq, x[inside], y[inside], 0).weight[:, 0, 0] > 0
    return np.asarray(inside)


def _spread(points: Floats, allowed: NDArray[np.bool_], count: int, apart: float, known: Floats) -> NDArray[np.intp]:
    """The first `count` allowed points that keep `apart` from each other and from the known ones."""
    rows = np.flatnonzero(allowed)
    if len(known) and len(rows):
        rows = rows[cKDTree(known).query(points[rows])[0] >= apart]
    kept = np.zeros(max(min(count, len(rows)), 0), dtype=np.intp)
    n = 0
    for row in rows:
        if n == len(kept):
            break
        gap = points[kept[:n]] - points[row]
        if not (np.square(gap).sum(axis=1) < apart**2).any():
            kept[n] = row
            n += 1
    return kept[:n]


def _fluxes(ground: Ground, places: tuple[Floats, Floats, Floats, Floats], fading: NDArray[np.bool_], snr: Floats) -> Floats:
    """Flux of each source in the unit of its exposure, from its S/N in the difference: the root of f^2 = snr^2 (sigma^2 + s f)."""
    x, y, rx, ry = places
    here = np.array([flux_error(ground.science.image, ground.science.psf, a, b) for a, b in zip(x, y, strict=True)]).reshape(-1, 2)
    there = np.array([flux_error(ground.reference.image, ground.reference.psf, a, b) for a, b in zip(rx, ry, strict=True)]).reshape(-1, 2)
    variance = ground.power[0] * here[:, 0] ** 2 + ground.power[1] * (ground.ratio * there[:, 0]) ** 2
    own = np.where(fading, ground.ratio * there[:, 1], here[:, 1])
    on_science = 0.5 * (snr**2 * own + np.sqrt(snr**4 * own**2 + 4.0 * snr**2 * variance))
    return np.asarray(np.where(fading, on_science / ground.ratio, on_science))


def flux_error(image: Calibrated, psf: Psf, x: float, y: float) -> tuple[float, float]:
    """Error of the PSF flux at a position without the source's own photons, and the variance that these add a unit of its flux.

    sigma = 1 / sqrt(sum P^2 / V); s = sum w^2 P / gain with the weights w = (P / V) sigma^2 of the matched filter, over the usable
    pixels of the PSF's stamp. Infinite and 0 where none is.
    """
    stamp = psf.at(x, y).stamp.astype(np.float64)
    half = stamp.shape[0] // 2
    column, row = round(float(x)), round(float(y))
    ny, nx = image.data.shape
    rows, columns = slice(max(row - half, 0), min(row + half + 1, ny)), slice(max(column - half, 0), min(column + half + 1, nx))
    inside = stamp[rows.start - row + half : rows.stop - row + half, columns.start - column + half : columns.stop - column + half]
    variance = image.variance[rows, columns]
    good = usable_pixels(image.data[rows, columns], variance, image.dq[rows, columns])
    light, noise = np.maximum(inside[good], 0.0), variance[good].astype(np.float64)
    information = float((light**2 / noise).sum())
    if not information > 0:
        return float("inf"), 0.0
    return information**-0.5, float(((light / noise / information) ** 2 * light).sum() / image.gain)


def truth_rows(injections: Injections, ground: Ground, names: tuple[str, str], prefix: str) -> pd.DataFrame:
    """TRUTH rows of a copy: each source in its own exposure, and with no flux in the other.

    Parameters
    ----------
    injections, ground
        The sources and the pair they are for.
    names
        exposure_id of the copy's science exposure and reference.
    prefix
        Begins every object_id.

    Returns
    -------
    DataFrame
        TRUTH and the columns `fading`, `aimed_snr`, `width`, `host_dlr` and `flux_ratio` (what a flux of the reference is multiplied
        by to stand on the science exposure's scale; 1 in the science exposure's rows). Both rows of a source carry the sky position
        that the science exposure's header gives its place, whatever the reference's header says. No zero-point is assumed: the
        magnitudes are NaN.
    """
    wcs = ground.science.image.wcs
    sky = np.array(wcs.all_pix2world(injections.x, injections.y, 0)).reshape(2, -1)
    hosted = np.isfinite(injections.dlr)
    host_x, host_y = to_science(ground.mapping, injections.host_x[hosted], injections.host_y[hosted], ground.science.shape)
    host = np.full((2, len(injections)), np.nan)
    host[:, hosted] = np.array(wcs.all_pix2world(host_x, host_y, 0)).reshape(2, -1)
    frames = [
        pd.DataFrame(
            {
                "object_id": [f"{prefix}:{number}" for number in range(len(injections))],
                "kind": "injected",
                "transient_type": "point source",
                "exposure_id": name,
                "s_ra": sky[0],
                "s_dec": sky[1],
                "x": x,
                "y": y,
                "flux": np.where(mine, injections.flux, 0.0),
                "magnitude": np.nan,
                "host_ra": host[0],
                "host_dec": host[1],
                "simulated": True,
                "fading": injections.fading,
                "aimed_snr": injections.snr,
                "width": injections.width,
                "host_dlr": injections.dlr,
                "flux_ratio": ratio,
            }
        )
        for name, x, y, mine, ratio in (
            (names[0], injections.x, injections.y, ~injections.fading, 1.0),
            (names[1], injections.x_reference, injections.y_reference, injections.fading, ground.ratio),
        )
    ]
    return pd.concat(frames, ignore_index=True)


def on_science_scale(truth: pd.DataFrame) -> pd.DataFrame:
    """`truth_rows` with the reference's fluxes on the science exposure's flux scale, as labels compare them."""
    return truth.assign(flux=truth["flux"] * truth["flux_ratio"])

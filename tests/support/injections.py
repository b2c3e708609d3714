"""Injections into a pair of exposures, real or simulated, and what comes back of them: one judge for both."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, special
from scipy.spatial import cKDTree

from astrid.candidates.peaks import find_peaks
from astrid.config.schema.candidates import ExtractConfig
from astrid.config.schema.imaging import DifferenceConfig
from astrid.core.dq import DQ, unusable
from astrid.core.records import Calibrated, Difference
from astrid.imaging.inject import inject
from astrid.imaging.pair import subtract_pair

MATCH_PX = 2.5  # a peak this near to an injected source is that source
QUIET = 2.0  # times the blank sky's error: beyond it a place belongs to a star


@dataclass(frozen=True, eq=False)
class Recovery:
    """Arrays over the injected sources, (n,)."""

    snr: np.ndarray  # truth over the stated error at its place
    found: np.ndarray  # bool
    truth: np.ndarray
    flux: np.ndarray  # measured at the true position, less what the pair without injections has there
    error: np.ndarray

    @property
    def expected(self) -> np.ndarray:
        """Chance of each to pass 5 sigma."""
        return special.ndtr(self.snr - 5.0)

    @property
    def z(self) -> float:
        """(found - expected) over the binomial sigma of theory."""
        chance = self.expected
        return float((self.found.sum() - chance.sum()) / np.sqrt((chance * (1 - chance)).sum()))

    @property
    def bias(self) -> float:
        """Relative, weighted by S/N."""
        weight = self.truth / self.error**2
        return float(np.sum(weight * self.flux) / np.sum(weight * self.truth) - 1)

    @property
    def chi2(self) -> float:
        """A source."""
        return float(np.mean(((self.flux - self.truth) / self.error) ** 2))


def joined(parts: list[Recovery]) -> Recovery:
    """Several as one."""
    return Recovery(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in dataclasses.fields(Recovery)))


def scattered(rng: np.random.Generator, plain: Difference, number: int, separation: float, margin: float) -> np.ndarray:
    """(n, 2) positions x, y apart from each other, away from the border, from unusable pixels and from the cores of stars.

    On a star the error is that of registration and flux scale, which each subtraction measures anew: no S/N can be asked for there.
    """
    ny, nx = plain.dq.shape
    quiet = plain.flux_err < QUIET * np.nanmedian(plain.flux_err)
    clear = ndimage.distance_transform_edt(~(unusable(plain.dq) | ((plain.dq & np.uint32(DQ.EDGE)) != 0)))
    chosen: list[np.ndarray] = []
    for _ in range(200 * number):
        place = np.array([rng.uniform(margin, nx - margin), rng.uniform(margin, ny - margin)])
        free = clear[round(place[1]), round(place[0])] > separation / 2 and quiet[round(place[1]), round(place[0])]
        if free and all(np.hypot(*(place - other)) > separation for other in chosen):
            chosen.append(place)
        if len(chosen) == number:
            break
    return np.array(chosen).reshape(-1, 2)


def recover(
    science: Calibrated,
    reference: Calibrated,
    plain: Difference,
    *,
    snr: tuple[float, float],
    number: int,
    separation: float,
    rng: np.random.Generator,
    difference: DifferenceConfig,
    extract: ExtractConfig,
) -> Recovery:
    """Inject `number` sources of S/N uniform in `snr` into the science exposure, subtract again and look for them.

    The S/N is that of the product's own errors; noise that the pair has at a place is the same with and without the source, so
    that completeness counts the score and the flux's scatter is that of the pair: it is not subtracted.
    """
    positions = scattered(rng, plain, number, separation, margin=20.0)
    rows, columns = np.rint(positions[:, 1]).astype(int), np.rint(positions[:, 0]).astype(int)
    wanted = rng.uniform(*snr, len(positions))
    blank = plain.flux_err[rows, columns].astype(float)
    gain = science.gain if np.isfinite(science.gain) else 1e9
    fluxes = wanted * blank
    for _ in range(5):  # the source's own photons widen its error: sum(P^3) / sum(P^2)^2 a unit of flux
        stamp = plain.psf_science.stamp.astype(float)
        fluxes = wanted * np.sqrt(blank**2 + fluxes / gain * np.sum(stamp**3) / np.sum(stamp**2) ** 2)
    source = dataclasses.replace(science, psf=plain.psf_science, gain=gain)
    added = inject(source, positions, fluxes, rng)
    result = subtract_pair(dataclasses.replace(added, psf=science.psf, gain=science.gain), reference, difference)
    peaks = find_peaks(result, extract)
    positive = peaks.sign > 0
    near = np.full(len(positions), np.inf)
    if positive.any():
        near, _ = cKDTree(np.c_[peaks.x, peaks.y][positive]).query(positions)
    flux = ndimage.map_coordinates(np.nan_to_num(result.flux.astype(float)), [positions[:, 1], positions[:, 0]], order=3)
    error = result.flux_err[rows, columns].astype(float)
    return Recovery(fluxes / error, near <= MATCH_PX, fluxes, flux, error)

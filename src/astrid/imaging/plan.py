"""What is known of a pair before a pixel is subtracted: the mapping, the flux scale, the skies, and the tiles to work through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from astrid.config.schema.imaging import DifferenceConfig, FluxScaleConfig
from astrid.core.errors import NoOverlapError, TooFewStarsError
from astrid.core.records import FloatImage, Psf, monomials
from astrid.imaging.alignment.astrometry import Registration, refine
from astrid.imaging.alignment.fluxscale import FluxScale, flux_scale, header_scale
from astrid.imaging.alignment.resample import Resampler, map_psf
from astrid.imaging.detector.correlation import Correlation, noise_correlation
from astrid.imaging.exposure import Measured
from astrid.imaging.stars.misfit import Misfit, psf_misfit
from astrid.imaging.zogy.engine import Side, reach, score_weight
from astrid.imaging.zogy.tiles import Tile, plan_tiles

_HALO_FWHMS = 8.0  # FWHM around a source, within which its registration error is fitted
_WEIGHT_SIDE = 64  # frequencies a side, for the weight of the interpolation's response


@dataclass(frozen=True, eq=False)
class Plan:
    """A pair on the science grid, ready to be subtracted tile by tile."""

    new: Measured
    old: Measured
    registration: Registration
    resampler: Resampler
    scale: FluxScale
    noise: float  # RMS of the blank sky of the resampled reference, unit of science
    level: float  # of the reference's sky on the science grid and flux scale
    correlation: tuple[Correlation, Correlation]  # of the noise of science and reference, each on its own grid
    misfit: tuple[Misfit, Misfit]  # of their PSF models
    response: float  # power of the reference's noise that interpolation leaves at the PSF's scale, over the image
    weight: NDArray[np.float64]  # |k_r^|^2 on a small grid of frequencies: where the score looks at the reference's noise
    side: int  # px, of the reference's PSF stamps on the science grid
    halo: int  # px around a tile's core that are subtracted too: a source beside a seam is seen whole
    tiles: list[Tile]
    config: DifferenceConfig

    def psfs(self, x: float, y: float) -> tuple[Psf, Psf]:
        """PSFs of the science image and of the resampled reference at a science pixel."""
        old = reference_psf(self.old.psf, self.registration, x, y, self.config.resample.order)
        return self.new.psf.at(x, y), replace(old, stamp=_to_side(old.stamp, self.side))


def reference_psf(psf: Psf, registration: Registration, x: float, y: float, order: int) -> Psf:
    """The reference's PSF at a science pixel, on the science grid, through a spline of degree `order`."""
    rx, ry = registration.mapping(np.array([x]), np.array([y]))
    here = psf.at(float(rx[0]), float(ry[0])) if np.isfinite([rx[0], ry[0]]).all() else replace(psf, terms=None)
    return map_psf(here, registration.mapping.jacobian(x, y), order)


def _to_side(stamp: FloatImage, side: int) -> FloatImage:
    """A centred odd stamp cut or padded to `side`, of unit sum."""
    half, want = stamp.shape[0] // 2, side // 2
    keep = slice(max(half - want, 0), half + min(half, want) + 1)
    out = np.pad(stamp[keep, keep], max(want - half, 0))
    return np.asarray(out / out.sum(), dtype=np.float32)


def plan_pair(new: Measured, old: Measured, config: DifferenceConfig) -> Plan:
    """Match, scale and tile a pair.

    Raises
    ------
    NoOverlapError
        When less than `config.min_overlap` of the science pixels lies on the reference.
    """
    science, reference = new.image, old.image
    registration = refine(new.points, old.points, science.wcs, reference.wcs, new.shape, config.registration)
    resampler = Resampler(reference.data, reference.variance, reference.dq, registration.mapping, new.shape, config.resample)
    overlap = resampler.footprint()
    if overlap < config.min_overlap:
        raise NoOverlapError(
            f"{reference.info.exposure_id} covers {overlap:.1%} of {science.info.exposure_id}, less than "
            f"imaging.difference.min_overlap = {config.min_overlap:.1%}; choose another reference."
        )
    middle = ((new.shape[1] - 1) / 2, (new.shape[0] - 1) / 2)
    area = abs(float(np.linalg.det(registration.mapping.jacobian(*middle))))
    correlation, misfit = zip(*(_noise_terms(side, config) for side in (new, old)), strict=True)
    scale = _scale(new, old, registration, area, correlation, config.flux_scale)
    psf_new, psf_old = new.psf.at(*middle), reference_psf(old.psf, registration, *middle, config.resample.order)
    noise = old.noise * scale.ratio * np.sqrt(area * correlation[1].power)
    flat = np.zeros((1, 1), np.float32)
    sides = (Side(flat, flat, psf_new.stamp, new.noise * np.sqrt(correlation[0].power)), Side(flat, flat, psf_old.stamp, noise))
    weight = score_weight(sides[0], sides[1], _WEIGHT_SIDE)
    response = resampler.response(weight, slice(0, new.shape[0]), slice(0, new.shape[1]))
    halo = round(_HALO_FWHMS * max(psf_new.fwhm, psf_old.fwhm)) if config.score.coherent else 0
    return Plan(
        new=new,
        old=old,
        registration=registration,
        resampler=resampler,
        scale=scale,
        noise=float(noise * np.sqrt(response)),
        level=old.level * scale.ratio * area,
        correlation=(correlation[0], correlation[1]),
        misfit=(misfit[0], misfit[1]),
        response=response,
        weight=weight,
        side=psf_old.stamp.shape[0],
        halo=halo,
        tiles=plan_tiles(new.shape, config.tiles.core_px, reach(psf_new.stamp, psf_old.stamp) + halo),
        config=config,
    )


def _noise_terms(side: Measured, config: DifferenceConfig) -> tuple[Correlation, Misfit]:
    """What an exposure's noise has beyond its variance plane, as far as configuration asks for it."""
    nan = float("nan")
    ny, nx = side.shape
    middle = side.psf.at((nx - 1) / 2, (ny - 1) / 2)
    correlation, misfit = Correlation(1.0, nan, nan), Misfit(0.0, nan, 0)
    if config.score.correlated_noise:
        correlation = noise_correlation(side.image, middle.stamp, side.level, side.psf.fwhm)
    if config.score.psf_term:
        misfit = psf_misfit(side.image, side.psf, side.sources, side.level, correlation.power)
    return correlation, misfit


def _scale(
    new: Measured, old: Measured, registration: Registration, area: float, noise: Sequence[Correlation], config: FluxScaleConfig
) -> FluxScale:
    """From the PSF fluxes of the matched stars, each in its own pixels; by the headers where stars are too few.

    Their errors are widened by the noise's correlation and by the root of chi^2: the core of a galaxy is no good star.
    """
    ours = new.sources[new.rows[registration.index_science]]
    theirs = old.sources[old.rows[registration.index_reference]]
    good = ours["good"] & theirs["good"]
    ours, theirs = ours[good], theirs[good]
    errors = [
        side["error_flux"] * np.sqrt(np.maximum(side["chi2"], known.power)) for side, known in zip((ours, theirs), noise, strict=True)
    ]
    try:
        return flux_scale(ours["flux_fit"], errors[0], theirs["flux_fit"], errors[1], config)
    except TooFewStarsError:
        return header_scale(new.image.info, old.image.info, area)


def plain_scale(new: Measured, old: Measured, registration: Registration, config: FluxScaleConfig) -> FluxScale:
    """The flux scale of a pair as `plan_pair` finds it, the noise taken as uncorrelated."""
    middle = ((new.shape[1] - 1) / 2, (new.shape[0] - 1) / 2)
    area = abs(float(np.linalg.det(registration.mapping.jacobian(*middle))))
    white = Correlation(1.0, float("nan"), float("nan"))
    return _scale(new, old, registration, area, (white, white), config)


def over_field(stamps: NDArray[np.float32], centres: NDArray[np.float64], frame: tuple[float, float, float], terms: int) -> Psf:
    """A PSF through stamps (n, k, k) known at centres (n, 2): by least squares in the first `terms` monomials; their mean for 0.

    With fewer stamps than terms, the terms of the highest degree that the stamps determine.
    """
    while terms and len(stamps) <= terms:
        terms = {2: 0, 5: 2, 9: 5}.get(terms, 0)
    if not terms:
        return Psf(np.asarray(stamps.mean(axis=0), np.float32), "given")
    scaled = (centres - np.array(frame[:2])) / frame[2]
    design = np.array([[1.0, *monomials(u, v, terms)] for u, v in scaled])
    solved = np.linalg.lstsq(design, stamps.reshape(len(stamps), -1).astype(np.float64), rcond=None)[0]
    planes = solved.reshape(terms + 1, *stamps.shape[1:]).astype(np.float32)
    return Psf(planes[0], "given", terms=planes[1:], frame=frame)

"""The whole subtraction of a pair: stars, PSFs, registration, resampling, flux scale, proper subtraction, quality."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrid.config.schema.imaging import DifferenceConfig, ScoreConfig
from astrid.core.dq import DQ, UNUSABLE, unusable
from astrid.core.errors import ImagingError, NoOverlapError, TooFewStarsError
from astrid.core.records import Calibrated, Difference, DQImage, FloatImage, Psf
from astrid.imaging.astrometry import Points, Registration, refine
from astrid.imaging.fluxscale import FluxScale, flux_scale, header_scale
from astrid.imaging.profile import StarFit
from astrid.imaging.psf import estimate_psf, given_psf, refit_stars
from astrid.imaging.quality import PairQuality, ScoreStatistics, blank_sky, gate, score_statistics, star_residuals
from astrid.imaging.resample import Resampled, fill_local, interpolation_response, map_psf, to_grid
from astrid.imaging.sizes import FWHM_PER_SIGMA
from astrid.imaging.stars import StarFlag, find_stars, usable_pixels
from astrid.imaging.zogy import Side, Subtraction, score_weight, shift_level, subtract

_SHARE = 1.0 / np.sqrt(2.0)  # of a relative scatter, that each image of the pair brings to the variance
_WEIGHT_SIDE = 64  # frequencies a side, for the weight of the interpolation's response
_MAD = 1.4826  # median absolute deviation -> sigma of a Gaussian
_SAMPLE = 200_000  # pixels that a robust level is taken from
_EXTENDED_CAUSES = DQ.SATURATED | DQ.BLEED | DQ.NO_COVERAGE


@dataclass(frozen=True, eq=False)
class _Measured:
    """One exposure with its PSF and its sources, in its own pixels."""

    image: Calibrated
    good: NDArray[np.bool_]
    psf: Psf
    sources: NDArray[Any]  # everything that was found
    stars: NDArray[Any]  # the star-like ones among them
    fit: StarFit  # PSF fit of `stars`
    points: Points  # what registration matches


@dataclass(frozen=True, eq=False)
class _Aligned:
    """The pair on the science grid and on the science flux scale."""

    reference: FloatImage
    variance: FloatImage
    psf: Psf
    scale: FluxScale
    offset: float
    response: float


def subtract_pair(science: Calibrated, reference: Calibrated, cfg: DifferenceConfig) -> Difference:
    """Align a reference to a science exposure and subtract it properly.

    Parameters
    ----------
    science, reference
        Calibrated, sky-subtracted exposures of the same instrument and filter, each on its own grid; a `psf` of None is
        estimated from the image's stars.
    cfg
        The section `imaging.difference`.

    Returns
    -------
    Difference
        On the science grid. Where `dq` is unusable the difference, flux and its error are NaN and the score is 0 (no evidence);
        the reference is NaN where it has no coverage. `quality` holds the scalars of `PairQuality` as `q_<name>` and
        `q_reasons`, the gate's sentences joined by "; ".

    Raises
    ------
    NoOverlapError
        When less than `cfg.min_overlap` of the science pixels has reference data.
    ImagingError
        For a pair of different survey, instrument or filter, an image without a usable pixel, and a pair beyond the gate's
        limits when the gate is fatal.
    """
    _check_pair(science, reference, cfg)
    new, old = _measure(science, cfg), _measure(reference, cfg)
    registration = refine(new.points, old.points, science.wcs, reference.wcs, _shape(science), cfg.registration)
    resampled = to_grid(reference.data, reference.variance, reference.dq, registration.mapping, _shape(science), cfg.resample)
    if resampled.overlap < cfg.min_overlap:
        raise NoOverlapError(
            f"{reference.info.exposure_id} covers {resampled.overlap:.1%} of {science.info.exposure_id}, less than "
            f"imaging.difference.min_overlap = {cfg.min_overlap:.1%}; choose another reference."
        )
    aligned = _align(new, old, registration, resampled, cfg)
    dq = _union(science, new.good, resampled.dq)
    subtraction, aligned = _level_background(_subtract(new, aligned, registration, dq, cfg.score), aligned, ~unusable(dq))
    grown = _grow(dq, max(new.psf.fwhm, aligned.psf.fwhm), cfg.score)
    return _deliver(new, old, registration, resampled, aligned, subtraction, grown, cfg)


def _shape(image: Calibrated) -> tuple[int, int]:
    return int(image.data.shape[0]), int(image.data.shape[1])


def _check_pair(science: Calibrated, reference: Calibrated, cfg: DifferenceConfig) -> None:
    for key in ("survey", "instrument", "filter"):
        ours, theirs = getattr(science.info, key), getattr(reference.info, key)
        if ours != theirs and not cfg.allow_cross_mission:
            raise ImagingError(
                f"science and reference differ in {key} ({ours!r} and {theirs!r}); pair images of one kind, or set "
                "imaging.difference.allow_cross_mission=true."
            )
    for image in (science, reference):
        shapes = {image.data.shape, image.variance.shape, image.dq.shape}
        if len(shapes) != 1 or image.data.ndim != 2:
            raise ImagingError(f"the planes of {image.info.exposure_id} have the shapes {sorted(shapes)}; they must be one 2-D shape.")


def _measure(image: Calibrated, cfg: DifferenceConfig) -> _Measured:
    good = usable_pixels(image.data, image.variance, image.dq)
    if not good.any():
        raise ImagingError(f"{image.info.exposure_id} has no usable pixel of {good.size}; check its mask and calibration.")
    psf = given_psf(image.psf.stamp) if image.psf is not None else None
    if image.psf is not None and psf is not None:
        psf = dataclasses.replace(psf, method=image.psf.method, n_stars=image.psf.n_stars, residual=image.psf.residual)
    found = find_stars(image.data, image.variance, image.dq, cfg.psf.stars, psf=psf)
    if psf is None:
        psf = estimate_psf(image.data, image.variance, image.dq, cfg.psf, stars=found)
    stars = found[found["flags"] == 0]
    fit = refit_stars(image.data, image.variance, image.dq, stars, psf)
    return _Measured(image, good, psf, found, stars, fit, _locate(found, stars, fit, cfg))


def _locate(sources: NDArray[Any], stars: NDArray[Any], fit: StarFit, cfg: DifferenceConfig) -> Points:
    """PSF-fit positions of the stars; where stars are too few, windowed centroids of every clean, compact source."""
    good = fit.good
    if good.sum() >= cfg.registration.min_affine:
        return Points(fit.x[good], fit.y[good], np.hypot(fit.error_x, fit.error_y)[good] * _SHARE, fit.flux[good])
    clean = (sources["flags"] & np.uint32(~StarFlag.NOT_STAR_LIKE & 0xFFFFFFFF)) == 0
    chosen = sources[clean & (sources["elongation"] <= cfg.psf.stars.max_elongation)]
    error = chosen["fwhm"] / FWHM_PER_SIGMA / chosen["snr"]
    return Points(chosen["x"].astype(float), chosen["y"].astype(float), error, chosen["flux"].astype(float))


def _align(new: _Measured, old: _Measured, registration: Registration, resampled: Resampled, cfg: DifferenceConfig) -> _Aligned:
    """PSF, flux scale, background and noise of the resampled reference."""
    science = new.image
    psf = _reference_psf(new, old, registration, resampled, cfg)
    scale = _flux_scale(new, old, resampled, psf, cfg)
    ratio = np.float32(scale.ratio)
    reference = resampled.data * ratio
    variance = resampled.variance * ratio**2
    both = new.good & ~unusable(resampled.dq)
    if not both.any():
        raise NoOverlapError(
            f"{science.info.exposure_id} and {old.image.info.exposure_id} share no usable pixel; check their masks and coordinates."
        )
    offset = _level((reference - science.data)[both])
    reference -= np.float32(offset)
    sides = (
        Side(science.data, science.variance, new.psf.stamp, _blank_rms(science.variance, both)),
        Side(reference, variance, psf.stamp, _blank_rms(variance, both)),
    )
    weight = score_weight(sides[0], sides[1], _WEIGHT_SIDE)
    response = interpolation_response(registration.mapping, _shape(science), weight, cfg.resample.order)
    variance *= np.float32(response)
    return _Aligned(reference, variance, psf, scale, offset, response)


def _reference_psf(new: _Measured, old: _Measured, registration: Registration, resampled: Resampled, cfg: DifferenceConfig) -> Psf:
    ny, nx = _shape(new.image)
    mapped = map_psf(old.psf, registration.mapping.jacobian((nx - 1) / 2, (ny - 1) / 2))
    if cfg.reference_psf == "mapped" or old.image.psf is not None or old.psf.method != "empirical":
        return mapped
    fresh = estimate_psf(resampled.data, resampled.variance, resampled.dq, cfg.psf, stars=new.sources)
    return fresh if fresh.method == "empirical" else mapped


def _flux_scale(new: _Measured, old: _Measured, resampled: Resampled, psf: Psf, cfg: DifferenceConfig) -> FluxScale:
    """PSF fluxes of the science image's stars, there and in the resampled reference; the headers where stars are too few."""
    stars = new.stars.copy()
    stars["x"], stars["y"] = new.fit.x, new.fit.y
    fit = refit_stars(resampled.data, resampled.variance, resampled.dq, stars, psf)
    good = new.fit.good & fit.good
    ours, theirs = (new.fit.flux, new.fit.error_flux), (fit.flux, fit.error_flux)
    try:
        return flux_scale(ours[0][good], ours[1][good], theirs[0][good], theirs[1][good], cfg.flux_scale)
    except TooFewStarsError:
        return header_scale(new.image.info, old.image.info, resampled.area_ratio)


def _level(values: FloatImage) -> float:
    """Clipped median of (at most 200 000 evenly spread) values."""
    sample = values[:: max(1, len(values) // _SAMPLE)].astype(np.float64)
    for _ in range(5):
        middle = np.median(sample)
        width = _MAD * np.median(np.abs(sample - middle))
        kept = sample[np.abs(sample - middle) <= 3.0 * width]
        if len(kept) == len(sample) or len(kept) == 0:
            break
        sample = kept
    return float(np.median(sample))


def _blank_rms(variance: FloatImage, good: NDArray[np.bool_]) -> float:
    """Noise of the blank sky: the square root of the clipped median variance."""
    return float(np.sqrt(_level(variance[good])))


def _union(science: Calibrated, good: NDArray[np.bool_], reference_dq: DQImage) -> DQImage:
    """Causes of both images; an unusable pixel without a cause gets NOT_FINITE."""
    nameless = ~good & ((science.dq & np.uint32(UNUSABLE)) == 0)
    return science.dq | reference_dq | np.where(nameless, np.uint32(DQ.NOT_FINITE), np.uint32(0))


def _subtract(new: _Measured, aligned: _Aligned, registration: Registration, dq: DQImage, cfg: ScoreConfig) -> Subtraction:
    """Fill what is masked in either image in both, with a variance that covers the fill, and subtract."""
    good = ~unusable(dq)
    shift = np.float32(_level(new.image.data[good]))
    width = max(new.psf.fwhm, aligned.psf.fwhm) / FWHM_PER_SIGMA
    astrometry = (registration.sigma_x * _SHARE, registration.sigma_y * _SHARE) if cfg.astrometric_term else (0.0, 0.0)
    scatter = aligned.scale.scatter if cfg.photometric_term and np.isfinite(aligned.scale.scatter) else 0.0
    sides = []
    planes = ((new.image.data, new.image.variance, new.psf), (aligned.reference, aligned.variance, aligned.psf))
    for data, variance, psf in planes:
        filled = fill_local(data - shift, good, width)
        noise = fill_local(variance, good, width)
        sigma = _blank_rms(variance, good)
        noise = np.where(good, noise, np.maximum(noise, np.float32(sigma**2)) + filled**2)
        sides.append(Side(filled, noise, psf.stamp, sigma, astrometry=astrometry, photometry=scatter * _SHARE))
    return subtract(sides[0], sides[1])


def _level_background(result: Subtraction, aligned: _Aligned, good: NDArray[np.bool_]) -> tuple[Subtraction, _Aligned]:
    """Bring the blank sky of D to zero: there, unlike in a plain difference, the stars' unequal wings do not bias the level."""
    blank = blank_sky(result.variance_ratio, result.snr_science, good)
    if not blank.any():
        return result, aligned
    level = _level(result.difference[blank])
    excess = level / result.flux_difference
    shifted = dataclasses.replace(aligned, reference=aligned.reference + np.float32(excess), offset=aligned.offset - excess)
    return shift_level(result, level), shifted


def _grow(dq: DQImage, fwhm: float, cfg: ScoreConfig) -> DQImage:
    """Extended defects spread to their PSF-sized surroundings; pixels within the same reach of the border get EDGE."""
    out = dq.copy()
    reach = round(cfg.grow_fwhms * fwhm)
    if reach == 0:
        return out
    masked = unusable(dq)
    labels, count = ndimage.label(masked, structure=np.ones((3, 3)))
    if count:
        sizes = np.bincount(labels.ravel())
        large = sizes >= cfg.extended_px
        large[0] = False
        core = large[labels] | ((dq & np.uint32(_EXTENDED_CAUSES)) != 0)
        for bit in DQ:
            if bit & UNUSABLE and (seed := core & ((dq & np.uint32(bit)) != 0)).any() and not seed.all():
                near = ndimage.distance_transform_edt(~seed) <= reach
                out[near] |= np.uint32(bit)
    out[:reach] |= np.uint32(DQ.EDGE)
    out[-reach:] |= np.uint32(DQ.EDGE)
    out[:, :reach] |= np.uint32(DQ.EDGE)
    out[:, -reach:] |= np.uint32(DQ.EDGE)
    return out


def _deliver(
    new: _Measured,
    old: _Measured,
    registration: Registration,
    resampled: Resampled,
    aligned: _Aligned,
    result: Subtraction,
    dq: DQImage,
    cfg: DifferenceConfig,
) -> Difference:
    """Score on its scale, masks into the planes, quality and gate."""
    usable = ~unusable(dq)
    blank = blank_sky(result.variance_ratio, result.snr_science, usable)
    raw = score_statistics(result.score, blank)
    factor = _renormalisation(raw, cfg.score)
    score = np.where(usable, result.score / np.float32(factor), np.float32(0))
    nan = np.float32(np.nan)
    flux = np.where(usable, result.flux, nan)
    left = star_residuals(score, flux, new.fit, new.stars["snr"])
    final = score_statistics(score, blank)
    quality = _quality(new, registration, resampled, aligned, dq, (raw, final, factor != 1.0), left)
    reasons = gate(quality, cfg.gate)
    if reasons and cfg.gate.fatal:
        raise ImagingError(
            f"the pair {new.image.info.exposure_id} and {old.image.info.exposure_id} is refused: {'; '.join(reasons)}; "
            "use another reference, or set imaging.difference.gate.fatal=false."
        )
    covered = (resampled.dq & np.uint32(DQ.NO_COVERAGE)) == 0
    psf = Psf(result.psf, new.psf.method, new.psf.n_stars)
    return Difference(
        science=new.image.data,
        reference=np.where(covered, aligned.reference, nan),
        difference=np.where(usable, result.difference / np.float32(result.flux_difference), nan),
        score=score,
        flux=flux,
        flux_err=np.where(usable, result.flux_error * np.float32(factor), nan),
        dq=dq,
        psf_science=new.psf,
        psf_reference=aligned.psf,
        psf_difference=psf,
        wcs=new.image.wcs,
        info=new.image.info,
        reference_info=old.image.info,
        quality={**quality.scalars(), "q_reasons": "; ".join(reasons)},
    )


def _renormalisation(raw: ScoreStatistics, cfg: ScoreConfig) -> float:
    """What the score is divided by: its blank-sky width, where that is measured and configuration asks for it."""
    if not (np.isfinite(raw.std) and raw.std > 0) or cfg.renormalise == "never":
        return 1.0
    if cfg.renormalise == "outside_tolerance" and abs(raw.std - 1.0) <= cfg.tolerance:
        return 1.0
    return raw.std


def _quality(
    new: _Measured,
    registration: Registration,
    resampled: Resampled,
    aligned: _Aligned,
    dq: DQImage,
    score: tuple[ScoreStatistics, ScoreStatistics, bool],
    left: tuple[float, float],
) -> PairQuality:
    raw, final, renormalised = score
    corners = [value for value in registration.corners_px if np.isfinite(value)]
    return PairQuality(
        registration_method=registration.method,
        registration_rms_px=registration.rms_px,
        registration_rms_arcsec=registration.rms_px * registration.scale_arcsec,
        registration_median_px=registration.median_px,
        registration_centroid_px=registration.centroid_px,
        registration_corner_max_px=max(corners) if corners else float("nan"),
        registration_sigma_x_px=registration.sigma_x,
        registration_sigma_y_px=registration.sigma_y,
        n_matched=registration.n_matched,
        flux_method=aligned.scale.method,
        flux_ratio=aligned.scale.ratio,
        flux_ratio_error=aligned.scale.error,
        flux_scatter=aligned.scale.scatter,
        n_flux_stars=aligned.scale.n_stars,
        background_offset=aligned.offset,
        noise_response=aligned.response,
        fwhm_science=new.psf.fwhm,
        fwhm_reference=aligned.psf.fwhm,
        psf_method_science=new.psf.method,
        psf_method_reference=aligned.psf.method,
        psf_stars_science=new.psf.n_stars,
        psf_stars_reference=aligned.psf.n_stars,
        overlap=resampled.overlap,
        masked_fraction=float(np.mean(unusable(dq))),
        score_mean=final.mean,
        score_std_raw=raw.std,
        score_std=final.std,
        score_renormalised=renormalised,
        score_tail=final.tail,
        n_blank=final.n,
        star_residual=left[0],
        star_score=left[1],
    )

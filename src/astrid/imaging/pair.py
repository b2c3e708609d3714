"""The whole subtraction of a pair: both exposures measured, matched, subtracted tile by tile, levelled, judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from astrid.config.schema.imaging import DifferenceConfig, ScoreConfig
from astrid.core.dq import unusable
from astrid.core.errors import ImagingError, NoOverlapError
from astrid.core.records import Calibrated, Difference, FloatImage, Psf
from astrid.imaging.alignment.mesh import tabulate
from astrid.imaging.exposure import clipped_median, measure
from astrid.imaging.plan import Plan, over_field, plan_pair, reference_psf
from astrid.imaging.quality import BRIGHT_SNR, PairQuality, ScoreStatistics, gate, score_statistics
from astrid.imaging.subtraction import TileResult, subtract_tiles
from astrid.imaging.zogy.engine import engine
from astrid.imaging.zogy.tiles import Tile

_SAMPLE = 1_000_000  # px of the blank sky that level and width are taken from
_MAP_PX = 128  # px between the nodes of the mapping that the product carries: 1e-5 px of distortion a square pixel leave 0.02 px
_PLANES = ("reference", "difference", "score", "flux", "flux_err")


class Allocate(Protocol):
    """Makes a plane of zeros of a shape and type: `numpy.zeros`, or one that puts large planes on disk (`io.planes.Scratch`)."""

    def __call__(self, shape: tuple[int, int], dtype: Any, /) -> Any: ...


@dataclass(frozen=True)
class _Sky:
    """What the blank sky of the whole pair says."""

    level: float  # of the difference, unit of science
    raw: ScoreStatistics  # of the score with that level taken off
    factor: float  # that the score is divided by
    final: ScoreStatistics


@dataclass(frozen=True, eq=False)
class _Note:
    """What is kept of a tile once its core is in the planes."""

    tile: Tile
    gain: float  # what a level of 1 in the difference is in the flux
    psfs: tuple[FloatImage, FloatImage, FloatImage] | None  # science, reference, difference; None where nothing is usable
    covered: int  # px with reference data
    masked: int  # px without evidence
    still: NDArray[np.bool_]  # where in a sample of the blank sky nothing has changed
    score: FloatImage  # the sample
    flux: FloatImage
    flux_err: FloatImage


def subtract_pair(science: Calibrated, reference: Calibrated, cfg: DifferenceConfig, *, allocate: Allocate = np.zeros) -> Difference:
    """Align a reference to a science exposure and subtract it properly, in tiles: memory does not grow with the planes on disk.

    Parameters
    ----------
    science, reference
        Calibrated, sky-subtracted exposures of the same instrument and filter, each on its own grid; a `psf` of None is
        estimated from the image's stars, and `sources` of None are found.
    cfg
        The section `imaging.difference`.
    allocate
        Makes the product's planes.

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
    least = cfg.registration.min_affine
    plan = plan_pair(measure(science, cfg.psf, min_stars=least), measure(reference, cfg.psf, min_stars=least), cfg)
    planes: dict[str, Any] = {name: allocate(plan.new.shape, np.float32) for name in _PLANES}
    planes["dq"] = allocate(plan.new.shape, np.uint32)
    subtract = engine(cfg.tiles.backend, cfg.tiles.device)
    step = max(1, int(np.sqrt(plan.new.shape[0] * plan.new.shape[1] / _SAMPLE)))
    notes = [_keep(planes, result, step) for batch in _batches(plan.tiles, cfg) for result in subtract_tiles(plan, batch, subtract)]
    if all(note.psfs is None for note in notes):
        raise NoOverlapError(
            f"{science.info.exposure_id} and {reference.info.exposure_id} share no usable pixel; check their masks and coordinates."
        )
    sky = _blank_sky(notes, cfg.score)
    bright = _bright_stars(plan)
    left = np.concatenate([_finish(planes, note, sky, bright) for note in notes])
    quality = _quality(plan, notes, sky, left)
    reasons = gate(quality, cfg.gate)
    if reasons and cfg.gate.fatal:
        raise ImagingError(
            f"the pair {science.info.exposure_id} and {reference.info.exposure_id} is refused: {'; '.join(reasons)}; "
            "use another reference, or set imaging.difference.gate.fatal=false."
        )
    psf_reference, psf_difference = _psfs(plan, notes)
    return Difference(
        science=science.data,
        **planes,
        psf_science=plan.new.psf,
        psf_reference=psf_reference,
        psf_difference=psf_difference,
        wcs=science.wcs,
        info=science.info,
        reference_info=reference.info,
        quality={**quality.scalars(), "q_reasons": "; ".join(reasons)},
        to_reference=tabulate(plan.registration.mapping, plan.new.shape, _MAP_PX),
    )


def _batches(tiles: Sequence[Tile], cfg: DifferenceConfig) -> Iterator[Sequence[Tile]]:
    size = cfg.tiles.batch if cfg.tiles.backend == "torch" else 1
    for start in range(0, len(tiles), size):
        yield tiles[start : start + size]


def _check_pair(science: Calibrated, reference: Calibrated, cfg: DifferenceConfig) -> None:
    for key in ("survey", "instrument", "filter"):
        ours, theirs = getattr(science.info, key), getattr(reference.info, key)
        if ours != theirs and not cfg.allow_cross_mission:
            raise ImagingError(
                f"science and reference differ in {key} ({ours!r} and {theirs!r}); pair images of one kind, or set "
                "imaging.difference.allow_cross_mission=true."
            )
    for image in (science, reference):
        shapes = {tuple(plane.shape) for plane in (image.data, image.variance, image.dq)}
        if len(shapes) != 1 or image.data.ndim != 2:
            raise ImagingError(f"the planes of {image.info.exposure_id} have the shapes {sorted(shapes)}; they must be one 2-D shape.")


def _keep(planes: Mapping[str, Any], result: TileResult, step: int) -> _Note:
    """Put the core of a tile into the planes and keep a sample of its blank sky."""
    for name, plane in planes.items():
        plane[result.tile.write] = getattr(result, name)
    thin = result.blank[::step, ::step]
    score, flux, flux_err = (getattr(result, name)[::step, ::step][thin] for name in ("score", "flux", "flux_err"))
    return _Note(
        tile=result.tile,
        gain=result.gain,
        psfs=result.psfs,
        covered=int(np.count_nonzero(np.isfinite(result.reference))),
        masked=int(np.count_nonzero(unusable(result.dq))),
        still=result.still[::step, ::step][thin],
        score=score,
        flux=flux,
        flux_err=flux_err,
    )


def _blank_sky(notes: Sequence[_Note], cfg: ScoreConfig) -> _Sky:
    """Level of the difference and width of the score on blank sky.

    The level is read from the flux, which the matched filter has made nearly Gaussian: the median of few and skewed counts is not
    their mean.
    """
    levels = np.concatenate([note.flux[note.still] / np.float32(note.gain) for note in notes if note.gain > 0])
    still = np.concatenate([note.still for note in notes])
    level = clipped_median(levels) if len(levels) else 0.0
    score = np.concatenate([note.score - np.float32(level * note.gain) / note.flux_err for note in notes]).astype(np.float32)
    raw = score_statistics(score, still)
    factor = _renormalisation(raw, cfg)
    return _Sky(level, raw, factor, score_statistics(score * np.float32(1.0 / factor), still))


def _renormalisation(raw: ScoreStatistics, cfg: ScoreConfig) -> float:
    """What the score is divided by: its blank-sky width, where that is measured and configuration asks for it."""
    if not (np.isfinite(raw.std) and raw.std > 0) or cfg.renormalise == "never":
        return 1.0
    if cfg.renormalise == "outside_tolerance" and abs(raw.std - 1.0) <= cfg.tolerance:
        return 1.0
    return raw.std


def _bright_stars(plan: Plan) -> NDArray[np.float64]:
    """(n, 3): nearest pixel x, y and flux of the stars whose residuals are reported."""
    stars = plan.new.sources
    stars = stars[stars["good"] & (stars["snr"] >= BRIGHT_SNR)]
    return np.column_stack([np.round(stars["x_fit"]), np.round(stars["y_fit"]), stars["flux_fit"]])


def _finish(planes: Mapping[str, Any], note: _Note, sky: _Sky, bright: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bring a core to the level and scale of the whole and mask it; (m, 2) |flux left| / flux and |score| of its bright stars.

    A level of the difference passes the matched filter as `gain` times itself, since P_D has unit sum.
    """
    core = note.tile.write
    usable = ~unusable(np.asarray(planes["dq"][core]))
    score, flux, error = (np.asarray(planes[name][core]) for name in ("score", "flux", "flux_err"))
    shift, factor, nan = np.float32(sky.level * note.gain), np.float32(sky.factor), np.float32(np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.where(usable, (score - shift / error) / factor, np.float32(0))
    flux = np.where(usable, flux - shift, nan)
    planes["score"][core], planes["flux"][core] = score, flux
    planes["flux_err"][core] = np.where(usable, error * factor, nan)
    planes["difference"][core] = np.where(usable, np.asarray(planes["difference"][core]) - np.float32(sky.level), nan)
    planes["reference"][core] = np.asarray(planes["reference"][core]) + np.float32(sky.level)
    return _left(bright, core, score, flux)


def _left(bright: NDArray[np.float64], core: tuple[slice, slice], score: FloatImage, flux: FloatImage) -> NDArray[np.float64]:
    column, row = bright[:, 0] - core[1].start, bright[:, 1] - core[0].start
    inside = (column >= 0) & (row >= 0) & (column < score.shape[1]) & (row < score.shape[0])
    ix, iy = column[inside].astype(int), row[inside].astype(int)
    left = np.c_[np.abs(flux[iy, ix]) / bright[inside, 2], np.abs(score[iy, ix])]
    return np.asarray(left[np.isfinite(left[:, 0])])


def _psfs(plan: Plan, notes: Sequence[_Note]) -> tuple[Psf, Psf]:
    """PSFs of the resampled reference and of the difference, fitted over the field's tiles where either image's varies."""
    known = [note for note in notes if note.psfs is not None]
    new, old = plan.new.psf, plan.old.psf
    ny, nx = plan.new.shape
    frame = ((nx - 1) / 2, (ny - 1) / 2, max(nx, ny) / 2)
    terms = max(0 if psf.terms is None else len(psf.terms) for psf in (new, old))
    reference = reference_psf(old, plan.registration, frame[0], frame[1], plan.config.resample.order)
    stamps = [np.stack([note.psfs[index] for note in known if note.psfs is not None]) for index in (1, 2)]
    centres = np.array([note.tile.centre for note in known])
    mapped = over_field(stamps[0], centres, frame, terms)
    proper = over_field(stamps[1], centres, frame, terms)
    return (
        replace(reference, stamp=mapped.stamp, terms=mapped.terms, frame=frame),
        Psf(proper.stamp, new.method, new.n_stars, terms=proper.terms, frame=frame),
    )


def _quality(plan: Plan, notes: Sequence[_Note], sky: _Sky, left: NDArray[np.float64]) -> PairQuality:
    registration, scale = plan.registration, plan.scale
    corners = [value for value in registration.corners_px if np.isfinite(value)]
    middle = reference_psf(plan.old.psf, registration, (plan.new.shape[1] - 1) / 2, (plan.new.shape[0] - 1) / 2, plan.config.resample.order)
    pixels = plan.new.shape[0] * plan.new.shape[1]
    residual, score = np.median(left, axis=0) if len(left) else (float("nan"), float("nan"))
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
        flux_method=scale.method,
        flux_ratio=scale.ratio,
        flux_ratio_error=scale.error,
        flux_scatter=scale.scatter,
        n_flux_stars=scale.n_stars,
        background_offset=plan.level - plan.new.level - sky.level,
        noise_correlation_science=plan.correlation[0].power,
        noise_correlation_reference=plan.correlation[1].power,
        noise_response=plan.response,
        fwhm_science=plan.new.psf.fwhm,
        fwhm_reference=middle.fwhm,
        psf_method_science=plan.new.psf.method,
        psf_method_reference=plan.old.psf.method,
        psf_stars_science=plan.new.psf.n_stars,
        psf_stars_reference=plan.old.psf.n_stars,
        psf_residual_science=plan.new.psf.residual,
        psf_residual_reference=plan.old.psf.residual,
        psf_misfit_science=plan.misfit[0].kappa,
        psf_misfit_reference=plan.misfit[1].kappa,
        overlap=sum(note.covered for note in notes) / pixels,
        masked_fraction=sum(note.masked for note in notes) / pixels,
        score_mean=sky.final.mean,
        score_std_raw=sky.raw.std,
        score_std=sky.final.std,
        score_renormalised=sky.factor != 1.0,
        score_tail=sky.final.tail,
        n_blank=sky.final.n,
        star_residual=float(residual),
        star_score=float(score),
    )

"""One tile of a pair: masks filled, noise and PSFs of its place, the proper subtraction, what it says of the blank sky."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrid.config.schema.imaging import ScoreConfig
from astrid.core.dq import DQ, NOTES, UNUSABLE, unusable
from astrid.core.records import DQImage, FloatImage, Psf
from astrid.imaging.alignment.resample import fill_local
from astrid.imaging.exposure import clipped_median
from astrid.imaging.plan import Plan
from astrid.imaging.quality import blank_sky, still_sky
from astrid.imaging.stars.find import usable_pixels
from astrid.imaging.stars.misfit import common_light
from astrid.imaging.stars.sizes import FWHM_PER_SIGMA
from astrid.imaging.zogy.coherent import coherent_score
from astrid.imaging.zogy.engine import Engine, Job, Subtraction, aligned
from astrid.imaging.zogy.kernels import Scatter, Side
from astrid.imaging.zogy.tiles import Tile

_SHARE = 1.0 / np.sqrt(2.0)  # of a relative scatter, that each image of the pair brings to the variance
_SCATTER_PX = 48  # px between the points at which the registration scatter is evaluated
_SCATTER_ALIKE = 0.01  # relative: a scatter that varies less over a tile is one number
_NOISE_STEP = 0.03  # natural logarithm of the noise: tiles whose noise is alike share their kernels
_EXTENDED_CAUSES = DQ.SATURATED | DQ.BLEED | DQ.NO_COVERAGE


@dataclass(frozen=True, eq=False)
class TileResult:
    """The core of one subtracted tile; planes have the core's shape. Fluxes are on the science image's scale."""

    tile: Tile
    reference: FloatImage  # NaN without coverage
    difference: FloatImage  # D / F_D
    score: FloatImage
    flux: FloatImage
    flux_err: FloatImage
    dq: DQImage  # with grown masks
    blank: NDArray[np.bool_]  # sky without a source
    still: NDArray[np.bool_]  # of the blank sky, that without a change nearby
    gain: float  # F_D^2 / F_S: what a level of 1 in `difference` is in `flux`
    psfs: tuple[FloatImage, FloatImage, FloatImage] | None  # science, reference, difference; None where nothing is usable


@dataclass(frozen=True, eq=False)
class _Pixels:
    """Both images on the tile's window of the image, before masks are filled."""

    science: FloatImage
    reference: FloatImage
    variance_science: FloatImage
    variance_reference: FloatImage
    dq: DQImage


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A tile on its way into the transform; no job where nothing is usable."""

    tile: Tile
    pixels: _Pixels
    job: Job | None
    width: float  # px, FWHM of the broader PSF


def subtract_tiles(plan: Plan, tiles: Sequence[Tile], subtract: Engine) -> Iterator[TileResult]:
    """Subtract tiles of the pair, as many at once as are given; the results come in their order."""
    prepared = [_prepare(plan, tile) for tile in tiles]
    jobs = [entry.job for entry in prepared if entry.job is not None]
    results = iter(subtract(jobs))
    for entry in prepared:
        yield _nothing(entry) if entry.job is None else _deliver(plan, entry, entry.job, next(results))


def _prepare(plan: Plan, tile: Tile) -> _Prepared:
    pixels = _read(plan, tile)
    good = ~unusable(pixels.dq)
    if not good.any():
        return _Prepared(tile, pixels, None, 0.0)
    psf_new, psf_old = plan.psfs(*tile.centre)
    width = max(psf_new.fwhm, psf_old.fwhm)
    new, old = _sides(plan, tile, pixels, good, (psf_new, psf_old), width / FWHM_PER_SIGMA)
    return _Prepared(tile, pixels, Job(new, old, _around(tile, plan.halo)), width)


def _read(plan: Plan, tile: Tile) -> _Pixels:
    image, window = plan.new.image, tile.read
    science = np.asarray(image.data[window], dtype=np.float32)
    variance = np.asarray(image.variance[window], dtype=np.float32) * np.float32(plan.correlation[0].power)
    dq = np.asarray(image.dq[window], dtype=np.uint32)
    good = usable_pixels(science, variance, dq)
    nameless = ~good & ((dq & np.uint32(UNUSABLE)) == 0)
    dq = dq | np.where(nameless, np.uint32(DQ.NOT_FINITE), np.uint32(0))
    old = plan.resampler.window(*tile.read)
    both = ((dq & np.uint32(NOTES)) != 0) & ((old.dq & np.uint32(DQ.REFERENCE)) != 0)
    ratio = np.float32(plan.scale.ratio)
    shift = np.float32(plan.new.level - plan.level)  # the reference's sky is brought to that of the science image
    return _Pixels(
        science=science,
        reference=old.data * ratio + shift,
        variance_science=variance,
        variance_reference=old.variance
        * np.float32(plan.scale.ratio**2 * plan.correlation[1].power * plan.resampler.response(plan.weight, *tile.read)),
        dq=dq | old.dq | np.where(both, np.uint32(DQ.BOTH), np.uint32(0)),
    )


def _sides(plan: Plan, tile: Tile, pixels: _Pixels, good: NDArray[np.bool_], psfs: tuple[Psf, Psf], width: float) -> tuple[Side, Side]:
    """Both images as the transform wants them: masked pixels filled, with a variance that covers the fill; skies at zero."""
    score = plan.config.score
    astrometry = _astrometry(plan, tile) if score.astrometric_term else (0.0, 0.0)
    scatter = plan.scale.scatter if score.photometric_term and np.isfinite(plan.scale.scatter) else 0.0
    sides = []
    both = [fill_local(data - np.float32(plan.new.level), good, width) for data in (pixels.science, pixels.reference)]
    for filled, variance, psf, base, misfit in (
        (both[0], pixels.variance_science, psfs[0], plan.new.noise, plan.misfit[0]),
        (both[1], pixels.variance_reference, psfs[1], plan.noise, plan.misfit[1]),
    ):
        noise = fill_local(variance, good, width)
        sigma = _rounded(float(np.sqrt(clipped_median(_thin(variance, good)))), base)
        noise = np.where(good, noise, np.maximum(noise, np.float32(sigma**2)) + filled**2)
        if misfit.kappa > 0:
            noise = noise + np.square(np.float32(misfit.kappa) * common_light(both[0], both[1], psf.fwhm))
        sides.append(
            Side(
                _placed(filled, tile, 0.0),
                _placed(noise, tile, sigma**2),
                psf.stamp,
                sigma,
                astrometry=astrometry,
                photometry=scatter * _SHARE,
            )
        )
    return sides[0], sides[1]


def _placed(values: FloatImage, tile: Tile, fill: float) -> FloatImage:
    """A window of the image as the tile's array, with `fill` off the image."""
    out = aligned(tile.shape)
    if values.shape != tile.shape:
        out[...] = fill
    out[tile.place] = values
    return out


def _around(tile: Tile, halo: int) -> tuple[slice, slice]:
    """The core with `halo` px around it, as a window of the tile's array."""
    rows, columns = (
        slice(max(inner.start - halo, 1), min(inner.stop + halo, length - 1)) for inner, length in zip(tile.inner, tile.shape, strict=True)
    )
    return rows, columns


def _astrometry(plan: Plan, tile: Tile) -> tuple[Scatter, Scatter]:
    """Either image's share of the registration scatter: numbers where it is the same over the tile, else planes of the job's window."""
    rows, columns = (
        np.arange(window.start, window.stop, dtype=np.float64) + (core.start - inner.start)
        for window, core, inner in zip(_around(tile, plan.halo), tile.write, tile.inner, strict=True)
    )
    knots = [np.linspace(axis[0], axis[-1], max(2, len(axis) // _SCATTER_PX + 1)) for axis in (rows, columns)]
    known = plan.registration.scatter_at(knots[1][None, :], knots[0][:, None])
    planes = []
    for values in known:
        sigma = np.asarray(values, dtype=np.float64) * _SHARE
        if np.ptp(sigma) <= _SCATTER_ALIKE * sigma.max():
            planes.append(float(sigma.mean()))
            continue
        across = np.stack([np.interp(columns, knots[1], line) for line in sigma])
        place = np.interp(rows, knots[0], np.arange(len(knots[0])))
        below = np.minimum(place.astype(int), len(knots[0]) - 2)
        part = (place - below)[:, None]
        planes.append(((1.0 - part) * across[below] + part * across[below + 1]).astype(np.float32))
    return planes[0], planes[1]


def _thin(values: FloatImage, good: NDArray[np.bool_]) -> FloatImage:
    """At most some ten thousand of the good values."""
    step = max(1, int(np.sqrt(values.size) // 128))
    some = values[::step, ::step][good[::step, ::step]]
    return some if len(some) else values[good]


def _rounded(sigma: float, base: float) -> float:
    return base * float(np.exp(_NOISE_STEP * np.round(np.log(sigma / base) / _NOISE_STEP)))


def grow(dq: DQImage, tile: Tile, shape: tuple[int, int], fwhm: float, cfg: ScoreConfig) -> DQImage:
    """Extended defects spread to their PSF-sized surroundings; pixels within the same reach of the image's border get EDGE."""
    out = dq.copy()
    reach = round(cfg.grow_fwhms * fwhm)
    if reach == 0:
        return out
    masked = unusable(dq)
    if masked.any():
        labels, _ = ndimage.label(masked, structure=np.ones((3, 3)))
        large = np.bincount(labels.ravel()) >= cfg.extended_px
        large[0] = False
        core = large[labels] | ((dq & np.uint32(_EXTENDED_CAUSES)) != 0)
        for bit in DQ:
            if bit & UNUSABLE and (seed := core & ((dq & np.uint32(bit)) != 0)).any() and not seed.all():
                out[ndimage.distance_transform_edt(~seed) <= reach] |= np.uint32(bit)
    rows, columns = (np.arange(length)[window] for length, window in zip(shape, tile.read, strict=True))
    out[(rows < reach) | (rows >= shape[0] - reach)] |= np.uint32(DQ.EDGE)
    out[:, (columns < reach) | (columns >= shape[1] - reach)] |= np.uint32(DQ.EDGE)
    return out


def _core(tile: Tile) -> tuple[slice, slice]:
    """Where the tile's core lies in the window that was read."""
    rows, columns = (slice(core.start - window.start, core.stop - window.start) for core, window in zip(tile.write, tile.read, strict=True))
    return rows, columns


def _reference(pixels: _Pixels, core: tuple[slice, slice]) -> FloatImage:
    covered = (pixels.dq[core] & np.uint32(DQ.NO_COVERAGE)) == 0
    return np.where(covered, pixels.reference[core], np.float32(np.nan))


def _deliver(plan: Plan, entry: _Prepared, job: Job, result: Subtraction) -> TileResult:
    score = plan.config.score
    if score.coherent:
        result = coherent_score(job.new, job.ref, result, job.inner, share=score.coherent_share)
    result = _cropped(result, job.inner, entry.tile.inner)
    core = _core(entry.tile)
    mask = grow(entry.pixels.dq, entry.tile, plan.new.shape, entry.width, score)[core]
    blank = blank_sky(result.variance_ratio, result.snr_science, ~unusable(mask))
    return TileResult(
        tile=entry.tile,
        reference=_reference(entry.pixels, core),
        difference=result.difference * np.float32(1.0 / result.flux_difference),
        score=result.score,
        flux=result.flux,
        flux_err=result.flux_error,
        dq=mask,
        blank=blank,
        still=still_sky(result.score, blank, entry.width),
        gain=result.flux_difference**2 / result.flux_score,
        psfs=(job.new.psf, job.ref.psf, result.psf),
    )


def _cropped(result: Subtraction, window: tuple[slice, slice], inner: tuple[slice, slice]) -> Subtraction:
    """The core of what was asked for with a halo."""
    part = tuple(slice(core.start - wide.start, core.stop - wide.start) for core, wide in zip(inner, window, strict=True))
    planes = {name: getattr(result, name)[part] for name in ("difference", "score", "flux", "flux_error", "scene")}
    return replace(result, **planes)


def _nothing(entry: _Prepared) -> TileResult:
    """A tile without a usable pixel: no evidence anywhere."""
    core = _core(entry.tile)
    dq = entry.pixels.dq[core]
    empty = np.zeros(dq.shape, np.float32)
    blank = np.zeros(dq.shape, bool)
    return TileResult(entry.tile, _reference(entry.pixels, core), empty, empty, empty, empty, dq, blank, blank, 0.0, None)

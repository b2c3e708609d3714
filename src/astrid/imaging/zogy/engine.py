"""Proper image subtraction: Zackay, Ofek & Gal-Yam 2016 (ZOGY, ApJ 830, 27; arXiv:1601.02655).

Eight transforms a tile (forward N, R, V(N), V(R); inverse D, S_n, S_r, V(S)), in float32 and on one thread: pairs run in
parallel, not transforms. An image is worked on in tiles that fit the processor's cache, where a transform costs about a third of
what it costs a pixel on the whole image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from astrid.core.errors import ImagingError
from astrid.core.records import FloatImage
from astrid.imaging.zogy.kernels import Kernels, Recipe, Scatter, Side, reach, score_weight, tile_kernels
from astrid.imaging.zogy.tiles import Tile, cut, plan_tiles
from astrid.imaging.zogy.transforms import Hat, Workspace, aligned, padded_shape, workspace

__all__ = [
    "Engine", "Job", "Kernels", "Side", "Subtraction", "aligned", "engine", "kernels_for", "padded_shape", "reach", "score_weight",
    "subtract", "subtract_tile", "tile_kernels",
]  # fmt: skip

CORE = 480  # px, largest core of a tile of a whole image: arrays of 256 to 512 px fit the cache
LEAST_VARIANCE = 1e-6  # of the blank sky's V(S): keeps rounding from making it negative
_ROWS = 64  # rows worked on at once: a block of every plane in use stays in the processor's cache

Window = tuple[slice, slice]


@dataclass(frozen=True, eq=False)
class Subtraction:
    """What a proper subtraction yields; planes are float32 (ny, nx)."""

    difference: FloatImage  # D, equation 13; white noise of unit variance where the inputs' noise is white
    flux_difference: float  # F_D, equation 15
    flux_score: float  # F_S, what a source of unit flux leaves in S
    psf: FloatImage  # P_D, equation 14; odd stamp of unit sum
    score: FloatImage  # S_corr, equation 25
    flux: FloatImage  # alpha = S / F_S, the PSF flux
    flux_error: FloatImage  # sqrt(V(S)) / F_S
    scene: FloatImage  # S_n / F_S, the science image's own share of the flux; the reference's is scene - flux
    scene_error: float  # what the blank sky's noise of the science image makes of `scene`
    blank_error: float  # `flux_error` on blank sky

    @property
    def snr_science(self) -> FloatImage:
        """|S_n| over its blank-sky noise: how bright the scene is, for telling blank sky."""
        out = np.abs(self.scene)
        out *= np.float32(1.0 / self.scene_error)
        return out

    @property
    def variance_ratio(self) -> FloatImage:
        """V(S) over its blank-sky value."""
        out = self.flux_error * np.float32(1.0 / self.blank_error)
        return np.asarray(np.square(out, out=out))


@dataclass(frozen=True, eq=False)
class Job:
    """One tile's work: planes of the transform's shape, and the window of them that is asked for."""

    new: Side
    ref: Side
    inner: Window


Engine = Callable[[Sequence[Job]], list[Subtraction]]


def engine(name: Literal["pyfftw", "torch"], device: Literal["auto", "cpu", "cuda"] = "auto") -> Engine:
    """What subtracts a batch of tiles: pyFFTW one after the other, or torch all at once, to 1e-3 sigma the same numbers.

    Raises
    ------
    ImagingError
        When a GPU is asked for and absent.
    """
    if name == "torch":
        from astrid.imaging.zogy.engine_torch import torch_engine

        return torch_engine(device)
    return _one_by_one


def _one_by_one(jobs: Sequence[Job]) -> list[Subtraction]:
    return [subtract_tile(job.new, job.ref, job.inner) for job in jobs]


def subtract(new: Side, ref: Side, kernels: Kernels | None = None, *, out: FloatImage | None = None) -> Subtraction:
    """Subtract `ref` from `new` over the whole of their grid, in tiles.

    D^ = (F_r P_r^ N^ - F_n P_n^ R^) / sqrt(sigma_n^2 F_r^2 |P_r^|^2 + sigma_r^2 F_n^2 |P_n^|^2)   (13)
    F_D = F_r F_n / sqrt(sigma_n^2 F_r^2 + sigma_r^2 F_n^2)                                          (15)
    P_D^ = F_r F_n P_r^ P_n^ / (F_D sqrt(...))                                                       (14)
    S^ = F_D D^ conj(P_D^) = k_n^ N^ - k_r^ R^                                                       (12 and 17)
    V(S) = V(N) * k_n^2 + V(R) * k_r^2 + V_ast + V_phot
    S_corr = S / sqrt(V(S))                                                                          (25)
    alpha = S / F_S, F_S = sum F_n^2 F_r^2 |P_n^|^2 |P_r^|^2 / (...)

    The numbers are those of the equations in arXiv:1601.02655; V(S) and alpha follow its sections on source and astrometric noise
    and on PSF photometry. V_ast = sigma_x^2 (dS_n/dx)^2 + sigma_y^2 (dS_n/dy)^2 + the same for S_r; V_phot, of AstrID's own, is the
    square of the relative flux scatter times S_n^2, plus the same for S_r. Each image brings its own share of the relative scatter.
    Where neither PSF has power, both transforms are taken as equal (`kernels.FLOOR`): D stays white there, and its kernels short.

    Parameters
    ----------
    new, ref
        The science image and the reference; planes over pixels have one shape (ny, nx).
    kernels
        Those of an earlier pair of the same shape, PSFs, noise and flux scales, from `kernels_for`.
    out
        Memory for the planes of the result, float32 (5, ny, nx), when many pairs of one shape follow each other.

    Raises
    ------
    ImagingError
        When shapes differ, a plane is not finite, a noise level is not positive, or the PSFs are larger than the arrays.
    """
    check_pair(new, ref)
    tiles = _tiles(new, ref)
    kernels = tile_kernels(new, ref, tiles[0].shape) if kernels is None else kernels
    if kernels.shape != tiles[0].shape:
        raise ImagingError(f"the kernels belong to arrays of {kernels.shape} px, this pair's are {tiles[0].shape} px; make them anew.")
    planes = list(np.empty((5, *new.data.shape), np.float32) if out is None else out)
    space = workspace(kernels.shape)
    for tile, sides in _cut_sides(tiles, new, ref, space.staging):
        _transform(sides[0], sides[1], kernels, space)
        _assemble(sides, kernels.recipe, space, tile.inner, [plane[tile.write] for plane in planes])
    return _outcome(planes, new, ref, kernels.recipe)


def subtract_tile(new: Side, ref: Side, inner: Window, kernels: Kernels | None = None) -> Subtraction:
    """Subtract one tile whose planes have the transform's shape already, margins included.

    `inner` is the window of the tile's arrays that is asked for, at least a pixel away from their border; the planes of the result,
    and those of `Side.astrometry`, have its shape. Planes made by `aligned` are transformed where they lie, others are copied first.
    Kernels that are not given are those of `tile_kernels`. Errors are those of `subtract`.
    """
    check_pair(new, ref)
    shape = (int(new.data.shape[0]), int(new.data.shape[1]))
    if any(window.start < 1 or window.stop > length - 1 for window, length in zip(inner, shape, strict=True)):
        raise ImagingError(f"the window {inner} reaches the border of a tile of {shape} px; leave the kernels' reach around it.")
    kernels = tile_kernels(new, ref, shape) if kernels is None else kernels
    space = workspace(shape)
    _transform(new, ref, kernels, space)
    size = (inner[0].stop - inner[0].start, inner[1].stop - inner[1].start)
    planes = [np.empty(size, np.float32) for _ in range(5)]
    _assemble((new, ref), kernels.recipe, space, inner, planes)
    return _outcome(planes, new, ref, kernels.recipe)


def kernels_for(new: Side, ref: Side) -> Kernels:
    """The kernels that `subtract` needs for this pair: they hang on the shape, the PSFs, the sky's noise and the flux scales alone."""
    return tile_kernels(new, ref, _tiles(new, ref)[0].shape)


def _tiles(new: Side, ref: Side) -> list[Tile]:
    return plan_tiles((int(new.data.shape[0]), int(new.data.shape[1])), CORE, reach(new.psf, ref.psf))


def _cut_sides(tiles: list[Tile], new: Side, ref: Side, staging: list[FloatImage]) -> Iterator[tuple[Tile, tuple[Side, Side]]]:
    """The pair on every tile; the planes lie in `staging` until the next one. Off the image lies empty sky."""
    for tile in tiles:
        sides = []
        for side, (data, variance) in ((new, staging[:2]), (ref, staging[2:])):
            cut(side.data, tile, 0.0, data)
            cut(side.variance, tile, side.sigma**2, variance)
            scatter = [value[tile.write] if isinstance(value, np.ndarray) else value for value in side.astrometry]
            sides.append(dataclasses.replace(side, data=data, variance=variance, astrometry=(scatter[0], scatter[1])))
        yield tile, (sides[0], sides[1])


def _transform(new: Side, ref: Side, kernels: Kernels, space: Workspace) -> None:
    """D, S_n / F_S, S_r / F_S and the pixels' share of V(S) / F_S^2 into the planes of `space`."""
    hat_n = space.forward(new.data, space.hats[0], space.staging[0])
    hat_r = space.forward(ref.data, space.hats[1], space.staging[2])
    _check_finite(hat_n, hat_r)
    difference, score_n, score_r, variance = space.planes
    work = space.hats[2]
    for start in range(0, len(work), _ROWS):
        rows = slice(start, start + _ROWS)
        np.multiply(kernels.difference_n[rows], hat_n[rows], out=work[rows])
        work[rows] -= np.multiply(kernels.difference_r[rows], hat_r[rows])
    space.inverse(work, difference)
    space.inverse(np.multiply(hat_n, kernels.score_n, out=hat_n), score_n)
    space.inverse(np.multiply(hat_r, kernels.score_r, out=hat_r), score_r)
    hat_n = space.forward(new.variance, hat_n, space.staging[1])
    hat_r = space.forward(ref.variance, hat_r, space.staging[3])
    _check_finite(hat_n, hat_r)
    hat_n *= kernels.square_n
    hat_r *= kernels.square_r
    hat_n += hat_r
    space.inverse(hat_n, variance)


def _assemble(sides: tuple[Side, Side], recipe: Recipe, space: Workspace, inner: Window, planes: list[FloatImage]) -> None:
    """Fill D, score, flux, its error and S_n from the transforms, in blocks of rows that stay in the cache."""
    difference, score_n, score_r, variance = space.planes
    least = np.float32(LEAST_VARIANCE * blank_errors(sides[0], sides[1], recipe)[1] ** 2)
    top, columns = inner[0].start, inner[1]
    works = [np.empty((_ROWS, columns.stop - columns.start), np.float32) for _ in range(3)]
    for start in range(0, inner[0].stop - top, _ROWS):
        stop = min(start + _ROWS, inner[0].stop - top)
        here, out = (slice(top + start, top + stop), columns), slice(start, stop)
        error, flux, work = (plane[: stop - start] for plane in works)
        np.maximum(variance[here], least, out=error)
        _add_model_variance(error, work, score_n, here, sides[0], out)
        _add_model_variance(error, work, score_r, here, sides[1], out)
        np.sqrt(error, out=error)
        np.subtract(score_n[here], score_r[here], out=flux)
        np.divide(flux, error, out=planes[1][out])
        planes[0][out], planes[2][out], planes[3][out], planes[4][out] = difference[here], flux, error, score_n[here]


def _add_model_variance(variance: FloatImage, work: FloatImage, score: FloatImage, here: Window, side: Side, out: slice) -> None:
    """Add the astrometric term and the photometric one to a block of V(S), in place; `work` is overwritten."""
    rows, columns = here
    beyond = [
        [(rows, slice(columns.start + step, columns.stop + step)) for step in (1, -1)],
        [(slice(rows.start + step, rows.stop + step), columns) for step in (1, -1)],
    ]
    for sigma, (above, below) in zip(side.astrometry, beyond, strict=True):
        half = _half(sigma, out)
        if half is not None:
            np.subtract(score[above], score[below], out=work)
            _add_square(variance, work, half)
    if side.photometry > 0:
        np.copyto(work, score[here])
        _add_square(variance, work, np.float32(side.photometry))


def _add_square(variance: FloatImage, work: FloatImage, factor: np.float32 | FloatImage) -> None:
    work *= factor
    variance += np.square(work, out=work)


def _half(sigma: Scatter, rows: slice) -> np.float32 | FloatImage | None:
    """Half of a scatter, since a central difference spans two pixels; None where there is none."""
    if isinstance(sigma, np.ndarray):
        return sigma[rows] * np.float32(0.5)
    return np.float32(0.5 * sigma) if sigma > 0 else None


def _outcome(planes: list[FloatImage], new: Side, ref: Side, recipe: Recipe) -> Subtraction:
    scene_error, blank_error = blank_errors(new, ref, recipe)
    return Subtraction(
        difference=planes[0],
        flux_difference=recipe.flux_difference,
        flux_score=recipe.flux_score,
        psf=recipe.psf,
        score=planes[1],
        flux=planes[2],
        flux_error=planes[3],
        scene=planes[4],
        scene_error=scene_error,
        blank_error=blank_error,
    )


def blank_errors(new: Side, ref: Side, recipe: Recipe) -> tuple[float, float]:
    """The errors of S_n / F_S and of S / F_S on blank sky."""
    scene = new.sigma**2 * recipe.blank_n
    blank = scene + ref.sigma**2 * recipe.blank_r
    return float(np.sqrt(scene)) / recipe.flux_score, float(np.sqrt(blank)) / recipe.flux_score


def check_pair(new: Side, ref: Side) -> None:
    """Refuse planes of different shapes and impossible numbers."""
    shapes = {new.data.shape, new.variance.shape, ref.data.shape, ref.variance.shape}
    if len(shapes) != 1:
        raise ImagingError(f"the planes of a pair have the shapes {sorted(shapes)}; bring them onto one grid first.")
    for name, side in (("science", new), ("reference", ref)):
        if not (side.sigma > 0 and side.flux > 0 and np.isfinite(side.sigma) and np.isfinite(side.flux)):
            raise ImagingError(f"the {name} has noise {side.sigma} and flux scale {side.flux}; both must be positive and finite.")


def _check_finite(hat_n: Hat, hat_r: Hat) -> None:
    """A pixel that is not finite leaves nothing finite in the transform."""
    for name, hat in (("science", hat_n), ("reference", hat_r)):
        if not np.isfinite(hat[0, 0]):
            raise ImagingError(f"the {name} holds pixels that are not finite; fill them before the transform.")

"""The proper subtraction of a batch of tiles in torch, on the CPU or a GPU: the numbers of `zogy.subtract_tile` to 1e-3 sigma.

The only module of the room that imports torch; `zogy.engine` imports it when it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch

from astrid.core.errors import ImagingError
from astrid.imaging.zogy.engine import LEAST_VARIANCE, Engine, Job, Subtraction, blank_errors, check_pair
from astrid.imaging.zogy.kernels import FLOOR, Optics, Recipe, Side, optics_of, recipe_for

_KEPT = 64  # pairs of PSFs, noise and flux scales whose kernels are kept on the device


@dataclass(frozen=True, eq=False)
class _Kernels:
    """Transforms on the half plane (ny, nx // 2 + 1), complex64, with 1 / F_S folded in."""

    difference: torch.Tensor  # (2, ny, nx // 2 + 1): the factors of N and of R in D^
    score: torch.Tensor  # (2, ...): k_n^ / F_S and k_r^ / F_S
    square: torch.Tensor  # (2, ...): of k_n^2 / F_S^2 and k_r^2 / F_S^2
    recipe: Recipe


def torch_engine(device: Literal["auto", "cpu", "cuda"]) -> Engine:
    """What subtracts a batch of tiles at once on a device; `auto` is the GPU where there is one.

    Raises
    ------
    ImagingError
        When a GPU is asked for and torch sees none.
    """
    present = torch.cuda.is_available()
    if device == "cuda" and not present:
        raise ImagingError("a GPU is asked for (device = cuda), but torch sees none; set device to auto or cpu, or backend to pyfftw.")
    chosen = torch.device("cuda" if present and device != "cpu" else "cpu")

    def subtract_tiles(jobs: Sequence[Job]) -> list[Subtraction]:
        return _subtract(jobs, chosen) if jobs else []

    return subtract_tiles


@torch.no_grad()
def _subtract(jobs: Sequence[Job], device: torch.device) -> list[Subtraction]:
    """Every tile of the batch at once; the planes of the jobs have one shape."""
    for job in jobs:
        check_pair(job.new, job.ref)
    shapes = {job.new.data.shape for job in jobs}
    if len(shapes) != 1:
        raise ImagingError(f"the tiles of a batch have the shapes {sorted(shapes)}; plan them with one shape.")
    shape = (int(jobs[0].new.data.shape[0]), int(jobs[0].new.data.shape[1]))
    kernels = [_kernels(optics_of(job.new, job.ref), shape, device) for job in jobs]
    planes = np.stack([np.stack([job.new.data, job.ref.data, job.new.variance, job.ref.variance]) for job in jobs])
    hats = torch.fft.rfft2(torch.from_numpy(planes.astype(np.float32, copy=False)).to(device))
    _check_finite(hats[:, :, 0, 0])
    images, noise = hats[:, :2], hats[:, 2:]
    parts = images * _stack([kernel.difference for kernel in kernels])
    products = torch.cat(
        [
            (parts[:, :1] - parts[:, 1:]),
            images * _stack([kernel.score for kernel in kernels]),
            (noise * _stack([kernel.square for kernel in kernels])).sum(dim=1, keepdim=True),
        ],
        dim=1,
    )
    del hats, images, noise, parts
    return _assemble(jobs, [kernel.recipe for kernel in kernels], torch.fft.irfft2(products, s=shape))


def _stack(tensors: list[torch.Tensor]) -> torch.Tensor:
    """A batch of kernels; one that all tiles share is not copied."""
    shared = all(tensor is tensors[0] for tensor in tensors)
    return tensors[0][None] if shared else torch.stack(tensors)


def _check_finite(constants: torch.Tensor) -> None:
    """A pixel that is not finite leaves nothing finite in the transform."""
    finite = torch.isfinite(torch.view_as_real(constants)).all(dim=2).all(dim=0).tolist()
    for name, good in zip(("science", "reference") * 2, finite, strict=True):
        if not good:
            raise ImagingError(f"the {name} holds pixels that are not finite; fill them before the transform.")


def _assemble(jobs: Sequence[Job], recipes: list[Recipe], planes: torch.Tensor) -> list[Subtraction]:
    """Score, flux and errors from D, S_n, S_r and V(S), (n, 4, ny, nx); cropped to what each job asks for."""
    errors = [blank_errors(job.new, job.ref, recipe) for job, recipe in zip(jobs, recipes, strict=True)]
    least = torch.tensor([LEAST_VARIANCE * blank**2 for _, blank in errors], dtype=torch.float32, device=planes.device)
    variance = torch.maximum(planes[:, 3], least[:, None, None])
    for index, sides in enumerate(([job.new for job in jobs], [job.ref for job in jobs])):
        variance += _model_variance(planes[:, 1 + index], sides, jobs)
    error = torch.sqrt_(variance)
    flux = planes[:, 1] - planes[:, 2]
    results = torch.stack([planes[:, 0], flux / error, flux, error, planes[:, 1]], dim=1).cpu().numpy()
    out = []
    for job, recipe, (scene_error, blank_error), result in zip(jobs, recipes, errors, results, strict=True):
        difference, score, flux_plane, flux_error, scene = (plane[job.inner].copy() for plane in result)
        out.append(
            Subtraction(
                difference=difference,
                flux_difference=recipe.flux_difference,
                flux_score=recipe.flux_score,
                psf=recipe.psf,
                score=score,
                flux=flux_plane,
                flux_error=flux_error,
                scene=scene,
                scene_error=scene_error,
                blank_error=blank_error,
            )
        )
    return out


def _model_variance(score: torch.Tensor, sides: list[Side], jobs: Sequence[Job]) -> torch.Tensor:
    """The astrometric and the photometric term of one image's S, (n, ny, nx)."""
    photometry = torch.tensor([side.photometry for side in sides], dtype=torch.float32, device=score.device)
    out = torch.square(photometry[:, None, None] * score)
    for index, axis in ((0, 2), (1, 1)):
        if any(np.any(side.astrometry[index]) for side in sides):
            slope = torch.roll(score, -1, dims=axis) - torch.roll(score, 1, dims=axis)
            out += torch.square(slope * _scatter(score, [side.astrometry[index] for side in sides], jobs))
    return out


def _scatter(score: torch.Tensor, values: list[float | np.ndarray], jobs: Sequence[Job]) -> torch.Tensor:
    """Half of the registration scatter, as a central difference spans two pixels: (n, 1, 1), or planes where one is a plane."""
    if not any(isinstance(value, np.ndarray) for value in values):
        return torch.tensor(values, dtype=torch.float32, device=score.device)[:, None, None] * 0.5
    planes = np.zeros(score.shape, np.float32)
    for plane, value, job in zip(planes, values, jobs, strict=True):
        plane[job.inner] = value
    return torch.from_numpy(planes).to(score.device) * 0.5


@lru_cache(maxsize=_KEPT)
def _kernels(optics: Optics, shape: tuple[int, int], device: torch.device) -> _Kernels:
    """Transforms of every kernel on the device; `kernels.tile_kernels` in torch."""
    recipe = recipe_for(optics)
    (sigma_n, sigma_r), (flux_n, flux_r) = optics.sigmas, optics.fluxes
    stamps = [optics.psf(0), optics.psf(1), recipe.square_n, recipe.square_r]
    hats = torch.fft.rfft2(torch.stack([_wrapped(torch.from_numpy(stamp.copy()).to(device), shape) for stamp in stamps]))
    floor = FLOOR**3 / (FLOOR**2 + _power(hats[0]) + _power(hats[1]))
    hat_n, hat_r = hats[0] + floor, hats[1] + floor
    power_n, power_r = _power(hat_n), _power(hat_r)
    noise_n, noise_r = (sigma_n * flux_r) ** 2, (sigma_r * flux_n) ** 2
    unit = noise_n + noise_r  # kept out of the planes, whose range is that of float32
    inverse = 1.0 / (noise_n / unit * power_r + noise_r / unit * power_n)
    root = torch.sqrt(inverse) / float(np.sqrt(unit))
    inverse *= flux_n * flux_r / recipe.flux_score / unit
    return _Kernels(
        difference=torch.stack([hat_r * (root * flux_r), hat_n * (root * flux_n)]),
        score=torch.stack([hat_n.conj() * (power_r * inverse * flux_r), hat_r.conj() * (power_n * inverse * flux_n)]),
        square=hats[2:].clone(),
        recipe=recipe,
    )


def _power(hat: torch.Tensor) -> torch.Tensor:
    return hat.real**2 + hat.imag**2


def _wrapped(stamp: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """A centred odd stamp on a plane of zeros, with its centre at pixel (0, 0) and wrapped around."""
    plane = torch.zeros(shape, dtype=stamp.dtype, device=stamp.device)
    plane[: stamp.shape[0], : stamp.shape[1]] = stamp
    return torch.roll(plane, (-(stamp.shape[0] // 2), -(stamp.shape[1] // 2)), dims=(0, 1))

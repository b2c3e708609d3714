"""Known transients, added to a calibrated exposure."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from astrid.core.dq import DQ
from astrid.core.errors import ImagingError
from astrid.core.records import Calibrated
from astrid.imaging.stars.profile import profile_of

if TYPE_CHECKING:
    from astrid.imaging.pair import Allocate

_BAND = 1024  # rows of a plane that are copied at once


def inject(
    image: Calibrated,
    positions: NDArray[np.float64],
    fluxes: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    widths: NDArray[np.float64] | None = None,
    allocate: Allocate = np.zeros,
) -> Calibrated:
    """Add point sources with their photon noise.

    Parameters
    ----------
    image
        Exposure with a PSF; `image.gain` turns its unit into electrons.
    positions
        (n, 2) x, y in px, sub-pixel; a source may lie partly outside the image.
    fluxes
        (n,) in the image's unit; negative ones are taken away and add noise as well.
    rng
        Draws the Poisson noise of the electrons in each pixel.
    widths
        (n,) width of each source over that of the PSF; None = 1.
    allocate
        Makes the changed planes.

    Returns
    -------
    Calibrated
        New data and variance; `DQ.INJECTED` on the pixel nearest to each position inside the image; `meta["n_injected"]`.

    Raises
    ------
    ImagingError
        When the image has no PSF, the gain is not positive and finite, or the shapes do not fit.
    """
    positions, fluxes = np.asarray(positions, float).reshape(-1, 2), np.asarray(fluxes, float).ravel()
    widths = np.ones(len(fluxes)) if widths is None else np.asarray(widths, float).ravel()
    _check(image, positions, fluxes, widths)
    assert image.psf is not None
    data, variance, dq = (_copied(plane, allocate) for plane in (image.data, image.variance, image.dq))
    constant = profile_of(image.psf) if image.psf.terms is None else None
    half = (image.psf.stamp.shape[0] - 1) // 2
    ny, nx = data.shape
    for (x, y), flux, width in zip(positions, fluxes, widths, strict=True):
        column, row = round(float(x)), round(float(y))
        r0, r1, c0, c1 = max(0, row - half), min(ny, row + half + 1), max(0, column - half), min(nx, column + half + 1)
        if r0 >= r1 or c0 >= c1:
            continue
        dy, dx = np.meshgrid(np.arange(r0, r1) - y, np.arange(c0, c1) - x, indexing="ij")
        profile = constant or profile_of(image.psf.at(x, y))
        share = np.maximum(profile(dy / width, dx / width), 0.0) / width**2
        electrons = share * abs(flux) * image.gain
        drawn = np.sign(flux) * rng.poisson(electrons) / image.gain
        data[r0:r1, c0:c1] += drawn.astype(np.float32)
        variance[r0:r1, c0:c1] += (electrons / image.gain**2).astype(np.float32)
        if 0 <= row < ny and 0 <= column < nx:
            dq[row : row + 1, column : column + 1] |= np.uint32(DQ.INJECTED)
    meta = {**image.meta, "n_injected": int(image.meta.get("n_injected", 0)) + len(fluxes)}
    return dataclasses.replace(image, data=data, variance=variance, dq=dq, meta=meta)


def _check(image: Calibrated, positions: NDArray[np.float64], fluxes: NDArray[np.float64], widths: NDArray[np.float64]) -> None:
    if image.psf is None:
        raise ImagingError(f"{image.info.exposure_id} has no PSF; estimate it before injecting.")
    if not (image.gain > 0 and np.isfinite(image.gain)):
        raise ImagingError(f"{image.info.exposure_id} has the gain {image.gain}; it must be positive and finite to draw photon noise.")
    if len(positions) != len(fluxes) or not (np.isfinite(positions).all() and np.isfinite(fluxes).all()):
        raise ImagingError(f"{len(positions)} positions and {len(fluxes)} fluxes were given; give one finite flux a position.")
    if len(widths) != len(fluxes) or not (widths > 0).all():
        raise ImagingError(f"{len(widths)} widths were given for {len(fluxes)} sources; give a positive one for each.")


def _copied(plane: Any, allocate: Allocate) -> Any:
    """A plane of our own with the same values, copied in bands: a plane on disk is never whole in memory."""
    out = allocate(plane.shape, plane.dtype)
    for first in range(0, plane.shape[0], _BAND):
        out[first : first + _BAND, :] = plane[first : first + _BAND, :]
    return out

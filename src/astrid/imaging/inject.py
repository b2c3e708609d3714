"""Known transients, added to a calibrated exposure."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from astrid.core.dq import DQ
from astrid.core.errors import ImagingError
from astrid.core.records import Calibrated
from astrid.imaging.stars.profile import profile_of


def inject(image: Calibrated, positions: NDArray[np.float64], fluxes: NDArray[np.float64], rng: np.random.Generator) -> Calibrated:
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

    Returns
    -------
    Calibrated
        New data and variance; `DQ.INJECTED` on the pixel nearest to each position inside the image; `meta["n_injected"]`.

    Raises
    ------
    ImagingError
        When the image has no PSF, the gain is not positive, or the shapes do not fit.
    """
    if image.psf is None:
        raise ImagingError(f"{image.info.exposure_id} has no PSF; estimate it before injecting.")
    if not image.gain > 0:
        raise ImagingError(f"{image.info.exposure_id} has the gain {image.gain}; it must be positive to draw photon noise.")
    positions, fluxes = np.asarray(positions, float).reshape(-1, 2), np.asarray(fluxes, float).ravel()
    if len(positions) != len(fluxes) or not (np.isfinite(positions).all() and np.isfinite(fluxes).all()):
        raise ImagingError(f"{len(positions)} positions and {len(fluxes)} fluxes were given; give one finite flux a position.")
    data, variance, dq = image.data.copy(), image.variance.copy(), image.dq.copy()
    constant = profile_of(image.psf) if image.psf.terms is None else None
    half = (image.psf.stamp.shape[0] - 1) // 2
    ny, nx = data.shape
    for (x, y), flux in zip(positions, fluxes, strict=True):
        column, row = round(float(x)), round(float(y))
        r0, r1, c0, c1 = max(0, row - half), min(ny, row + half + 1), max(0, column - half), min(nx, column + half + 1)
        if r0 >= r1 or c0 >= c1:
            continue
        dy, dx = np.meshgrid(np.arange(r0, r1) - y, np.arange(c0, c1) - x, indexing="ij")
        profile = constant or profile_of(image.psf.at(x, y))
        electrons = np.maximum(profile(dy, dx), 0.0) * abs(flux) * image.gain
        drawn = np.sign(flux) * rng.poisson(electrons) / image.gain
        data[r0:r1, c0:c1] += drawn.astype(np.float32)
        variance[r0:r1, c0:c1] += (electrons / image.gain**2).astype(np.float32)
        if 0 <= row < ny and 0 <= column < nx:
            dq[row, column] |= np.uint32(DQ.INJECTED)
    meta = {**image.meta, "n_injected": int(image.meta.get("n_injected", 0)) + len(fluxes)}
    return dataclasses.replace(image, data=data, variance=variance, dq=dq, meta=meta)

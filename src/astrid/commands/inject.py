"""`astrid inject`: point sources of known flux into one image, with a truth table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astrid.commands.exposure import load
from astrid.commands.paths import check_outputs
from astrid.config.schema.calibrate import CalibrateConfig
from astrid.core.dq import unusable
from astrid.core.errors import ImagingError, InputError
from astrid.core.records import Calibrated
from astrid.core.runtime import rng_for
from astrid.io.tables import TRUTH, write_table

_MARGIN_FWHMS = 4.0  # FWHM, distance of the positions from the border
_APART_FWHMS = 6.0  # FWHM, least distance between two of them
_TRIES = 200  # draws a source before the image counts as full


def inject(
    image: Path,
    output: Path,
    truth: Path,
    *,
    calibrate: CalibrateConfig,
    number: int,
    snr: tuple[float, float],
    seed: int,
    psf: Path | None = None,
    noise: Path | None = None,
) -> None:
    """Add `number` point sources at random free positions and write the calibrated image and the TRUTH table.

    Each one's flux is set from its matched-filter S/N, drawn evenly in its logarithm between the two of `snr`, and the
    noise at its position, its own photons left out: sigma^2 = 1 / sum(P^2 / V). The output is a calibrated exposure of
    AstrID, which `astrid subtract` takes as it is.

    Raises
    ------
    InputError, ImagingError
        The image is missing or broken, its gain or its PSF is unknown, or it has no room for so many sources.
    """
    from astrid.imaging.inject import inject as add
    from astrid.imaging.injections import flux_error
    from astrid.io.fits import write_calibrated

    if not 0 < snr[0] <= snr[1]:
        raise InputError(f"the range of S/N {snr[0]:g} to {snr[1]:g} is not one of positive numbers in rising order; give e.g. --snr 4 40.")
    check_outputs([image, psf, noise], [output, truth])
    exposure = load(image, calibrate, role="science", psf=psf, noise=noise)
    if not np.isfinite(exposure.gain):
        raise ImagingError(f"{image.name}: its gain is unknown, so that no photon noise can be drawn; give --noise, which tells it.")
    if exposure.psf is None:
        raise ImagingError(f"{image.name} has no PSF, which the sources need; give --psf.")
    rng = rng_for(seed, "inject", exposure.info.exposure_id)
    positions = free_positions(exposure, exposure.psf.fwhm, number, rng)
    wanted = np.exp(rng.uniform(np.log(snr[0]), np.log(snr[1]), number))
    fluxes = wanted * np.array([flux_error(exposure, exposure.psf, x, y)[0] for x, y in positions])
    changed = add(exposure, positions, fluxes, rng)
    write_calibrated(output, changed)
    write_table(_truth(changed, positions, fluxes, wanted), truth, TRUTH)
    print(f"{number} point sources of S/N {wanted.min():.1f} to {wanted.max():.1f} -> {output}, truth -> {truth}")


def free_positions(exposure: Calibrated, fwhm: float, number: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Sub-pixel positions (number, 2) x, y on usable pixels, some `fwhm` (px) away from the border and from each other."""
    ny, nx = exposure.data.shape
    margin, apart = _MARGIN_FWHMS * fwhm, _APART_FWHMS * fwhm
    bad = unusable(exposure.dq)
    chosen: list[tuple[float, float]] = []
    for _ in range(_TRIES * number):
        if len(chosen) == number or 2 * margin >= min(nx, ny) - 1:
            break
        x, y = float(rng.uniform(margin, nx - 1 - margin)), float(rng.uniform(margin, ny - 1 - margin))
        if not bad[round(y), round(x)] and all(np.hypot(x - other[0], y - other[1]) >= apart for other in chosen):
            chosen.append((x, y))
    if len(chosen) < number:
        raise ImagingError(
            f"{exposure.info.exposure_id} ({nx} x {ny} px) has room for {len(chosen)} sources {apart:.0f} px apart, "
            f"not {number}; ask for fewer."
        )
    return np.array(chosen)


def _truth(exposure: Calibrated, positions: NDArray[np.float64], fluxes: NDArray[np.float64], snr: NDArray[np.float64]) -> pd.DataFrame:
    sky = exposure.wcs.all_pix2world(positions, 0)
    name = exposure.info.exposure_id
    return pd.DataFrame(
        {
            "object_id": [f"{name}:injected{index}" for index in range(len(fluxes))],
            "kind": "injected",
            "transient_type": "point source",
            "exposure_id": name,
            "s_ra": sky[:, 0],
            "s_dec": sky[:, 1],
            "x": positions[:, 0],
            "y": positions[:, 1],
            "flux": fluxes,
            "magnitude": float("nan"),
            "host_ra": float("nan"),
            "host_dec": float("nan"),
            "simulated": True,
            "snr": snr,
        }
    )

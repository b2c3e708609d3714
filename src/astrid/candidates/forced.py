"""Forced photometry: the PSF flux, its error or an upper limit at any position of a difference product, found there or not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astrid.candidates.measure import edge_distance, psf_groups
from astrid.candidates.moving import sky_places
from astrid.candidates.peaks import psf_fwhm
from astrid.candidates.photometry import psf_flux, shifted_psf
from astrid.candidates.planes import Pixels, stamps
from astrid.config.schema.candidates import ForcedConfig
from astrid.core.dq import DQ, unusable
from astrid.core.records import Difference, FloatImage
from astrid.io.tables import LIGHTCURVES, conform

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Forced:
    """Photometry at n positions; arrays of (n,). NaN where a position has no usable pixel near."""

    flux: Floats  # unit of the product
    flux_err: Floats  # 1 sigma
    chi2: Floats  # reduced, of the point source over the core; NaN without pixels
    masked_fraction: Floats  # unusable or absent share of the core
    edge_distance: Floats  # px


def force(difference: Difference, x: Floats, y: Floats, cfg: ForcedConfig) -> Forced:
    """PSF photometry at positions x, y (n,), px of the science grid, inside the image or out of it."""
    nowhere = np.full(len(x), np.nan)
    out = Forced(nowhere, nowhere.copy(), nowhere.copy(), np.ones(len(x)), edge_distance(difference, x, y))
    for psf, rows in psf_groups(difference.psf_difference, x, y):
        flux, error = psf_flux(difference, psf.stamp, x[rows], y[rows])
        out.chi2[rows], out.masked_fraction[rows] = _goodness(difference, psf.stamp, x[rows], y[rows], flux, error, cfg)
        out.flux[rows], out.flux_err[rows] = flux, error
    return out


def light_curve(difference: Difference, names: list[str], ra: Floats, dec: Floats, cfg: ForcedConfig, *, pair_id: str) -> pd.DataFrame:
    """The rows of one product in the light curves of sky positions: a LIGHTCURVES frame of those that lie in the image.

    A point is `detected` where flux / flux_err >= `cfg.sigma` (of either sign), else `upper_limit` is cfg.sigma * flux_err (the
    convention of Masci et al. 2023, ZTF forced photometry). Flags: `masked`, `edge`, `no_flux`; `usable` where there is none but
    `edge`.
    """
    rows, x, y = _inside(difference, ra, dec)
    if not len(rows):
        return LIGHTCURVES.empty()
    found = force(difference, x, y, cfg)
    snr = np.divide(found.flux, found.flux_err, out=np.full(len(rows), np.nan), where=found.flux_err > 0)
    detected = np.abs(snr) >= cfg.sigma  # NaN compares false
    marks = {
        "masked": found.masked_fraction > cfg.max_masked,
        "edge": found.edge_distance < cfg.edge_distance,
        "no_flux": ~np.isfinite(snr),
    }
    info = difference.info
    columns: dict[str, object] = {
        "position_id": [names[row] for row in rows],
        "s_ra": ra[rows],
        "s_dec": dec[rows],
        "pair_id": pair_id,
        "exposure_id": info.exposure_id,
        "reference_id": difference.reference_info.exposure_id,
        **{name: getattr(info, name) for name in ("survey", "instrument", "detector", "filter", "field_id", "mjd", "exptime", "unit")},
        "x": x,
        "y": y,
        "flux": found.flux,
        "flux_err": found.flux_err,
        "snr": snr,
        "detected": detected,
        "upper_limit": np.where(detected, np.nan, cfg.sigma * found.flux_err),
        "chi2": found.chi2,
        "masked_fraction": found.masked_fraction,
        "edge_distance": found.edge_distance,
        "usable": ~marks["masked"] & ~marks["no_flux"],
    }
    frame = pd.DataFrame(columns)
    frame["flags"] = pd.Series([[name for name, mark in marks.items() if mark[row]] for row in range(len(rows))], dtype=object)
    return conform(frame, LIGHTCURVES, source=pair_id)


def _inside(difference: Difference, ra: Floats, dec: Floats) -> tuple[Pixels, Floats, Floats]:
    """Which positions, deg, lie in the image, and their pixels. What is far is left out first: a projection has a second side."""
    ny, nx = difference.dq.shape
    corner_x, corner_y = np.array([0.0, nx - 1.0, 0.0, nx - 1.0, (nx - 1) / 2]), np.array([0.0, 0.0, ny - 1.0, ny - 1.0, (ny - 1) / 2])
    frame = sky_places(*difference.wcs.all_pix2world(corner_x, corner_y, 0))
    reach = 1.2 * np.linalg.norm(frame[:4] - frame[4], axis=1).max()
    near = np.flatnonzero(np.linalg.norm(sky_places(ra, dec) - frame[4], axis=1) <= reach)
    x, y = (np.asarray(value, dtype=np.float64) for value in difference.wcs.all_world2pix(ra[near], dec[near], 0, quiet=True))
    inside = (x >= -0.5) & (x < nx - 0.5) & (y >= -0.5) & (y < ny - 0.5)  # NaN compares false
    return near[inside], x[inside], y[inside]


def _goodness(
    difference: Difference, stamp: FloatImage, x: Floats, y: Floats, flux: Floats, error: Floats, cfg: ForcedConfig
) -> tuple[Floats, Floats]:
    """Reduced chi-squared of D against flux * P over the core, and the unusable share of the core.

    The error of a pixel follows from that of the flux, flux_err^2 sum(P^2), as for white noise; on a bright source that spreads
    the photon noise of its peak over the core and chi-squared falls below 1.
    """
    ix, iy = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
    dx, dy = x - ix, y - iy
    fwhm = psf_fwhm(difference.psf_science)
    half = int(np.ceil(cfg.core_fwhm * fwhm)) + 1
    reach = np.arange(-half, half + 1)
    core = np.hypot(reach - dx[:, None, None], reach[:, None] - dy[:, None, None]) <= cfg.core_fwhm * fwhm
    data = stamps(difference.difference, iy, ix, half, outside=np.nan).astype(np.float64)
    good = ~unusable(stamps(difference.dq, iy, ix, half, outside=int(DQ.NO_COVERAGE))) & np.isfinite(data)
    masked = 1.0 - (good & core).sum(axis=(1, 2)) / core.sum(axis=(1, 2))
    pixel = np.square(error) * np.sum(np.square(stamp, dtype=np.float64))
    rest = np.where(good & core, np.square(data - flux[:, None, None] * shifted_psf(stamp, dx, dy, half)), 0.0).sum(axis=(1, 2))
    free = (good & core).sum(axis=(1, 2)) - 1
    expected = pixel * np.maximum(free, 1)
    chi2 = np.divide(rest, expected, out=np.full(len(rest), np.nan), where=(free > 0) & np.isfinite(expected))
    return np.asarray(chi2), np.asarray(masked)

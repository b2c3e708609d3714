"""Sources of the reference image: which are hosts of candidates, and how far they are in their own light."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from astrid.candidates.peaks import FWHM_PER_SIGMA, Peaks, psf_fwhm
from astrid.config.schema.candidates import HostConfig
from astrid.core.dq import DQ, unusable
from astrid.core.records import Difference

_SKY_MESH = 64  # px, of the sky map under the sources
_BLEND_LIMIT = 4096  # sub-objects of one isophote that sep may hold
_NEIGHBOURS = 20  # hosts by distance among which the nearest in light radii is sought


@dataclass(frozen=True, eq=False)
class Sources:
    """Sources of the reference; arrays have the shape (m,), positions and axes in px of the science grid."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    major: NDArray[np.float64]  # RMS of the light along the major axis
    minor: NDArray[np.float64]
    theta: NDArray[np.float64]  # rad, of the major axis from +x towards +y
    flux: NDArray[np.float64]
    peak: NDArray[np.float64]
    extended: NDArray[np.bool_]
    star: NDArray[np.bool_]  # bright and not extended
    sky_sigma: float


def reference_sources(difference: Difference, cfg: HostConfig) -> Sources:
    """Detect the sources of the reference image with sep (Barbary 2016; Bertin & Arnouts 1996)."""
    import sep

    mask = unusable(difference.dq) | ~np.isfinite(difference.reference)
    plane = np.where(mask, 0.0, difference.reference).astype(np.float32)
    if mask.all():
        return _nothing()
    sep.set_extract_pixstack(max(plane.size, 300_000))
    sep.set_sub_object_limit(_BLEND_LIMIT)
    sky = sep.Background(plane, mask=mask, bw=_SKY_MESH, bh=_SKY_MESH)
    if not sky.globalrms > 0:
        return _nothing()
    plane -= sky.back(dtype=np.float32)
    found = sep.extract(plane, cfg.detection_sigma, err=sky.globalrms, mask=mask, minarea=cfg.min_area)
    size = FWHM_PER_SIGMA * np.sqrt(found["a"] * found["b"])
    extended = size > cfg.extended_ratio * psf_fwhm(difference.psf_reference)
    star = ~extended & (found["peak"] > cfg.star_snr * sky.globalrms)
    x, y, major, minor, theta, flux, peak = (found[name].astype(np.float64) for name in ("x", "y", "a", "b", "theta", "flux", "peak"))
    return Sources(x, y, major, minor, theta, flux, peak, extended, star, float(sky.globalrms))


def _nothing() -> Sources:
    none, no = np.zeros(0), np.zeros(0, dtype=bool)
    return Sources(none, none, none, none, none, none, none, no, no, 0.0)


def light_radius(
    major: NDArray[np.float64], minor: NDArray[np.float64], theta: NDArray[np.float64], angle: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Directional light radius of an ellipse towards `angle`, in the unit of its axes.

    DLR = a b / sqrt((a sin phi)^2 + (b cos phi)^2) with phi = angle - theta (Gupta et al. 2016, AJ 152, 154; Sullivan et al. 2006).
    """
    phi = angle - theta
    return np.asarray(major * minor / np.hypot(major * np.sin(phi), minor * np.cos(phi)))


def nearest_host(peaks: Peaks, sources: Sources, cfg: HostConfig, *, pixel_scale: float) -> dict[str, NDArray[np.float64]]:
    """`host_offset` (arcsec) and `host_dlr` of the extended source that is nearest in directional light radii.

    NaN where none lies within `cfg.max_dlr`. `pixel_scale`: arcsec a pixel.
    """
    offset, dlr = np.full(len(peaks), np.nan), np.full(len(peaks), np.nan)
    rows = np.flatnonzero(sources.extended)
    if not len(rows) or not len(peaks):
        return {"host_offset": offset, "host_dlr": dlr}
    tree = cKDTree(np.column_stack([sources.x[rows], sources.y[rows]]))
    count = min(_NEIGHBOURS, len(rows))
    distance, place = tree.query(np.column_stack([peaks.x, peaks.y]), k=np.arange(1, count + 1))
    near = rows[place]
    angle = np.arctan2(peaks.y[:, None] - sources.y[near], peaks.x[:, None] - sources.x[near])
    ratio = distance / light_radius(sources.major[near], sources.minor[near], sources.theta[near], angle)
    best = ratio.argmin(axis=1)
    every = np.arange(len(peaks))
    within = ratio[every, best] <= cfg.max_dlr
    offset[within] = distance[every, best][within] * pixel_scale
    dlr[within] = ratio[every, best][within]
    return {"host_offset": offset, "host_dlr": dlr}


def star_distance(difference: Difference, peaks: Peaks, sources: Sources) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance, px, to the nearest bright star or saturated pixel, and that star's flux (infinite for a saturated one).

    Without any the distance is the image's diagonal and the flux 0.
    """
    saturated = np.argwhere((difference.dq & np.uint32(DQ.SATURATED | DQ.BLEED)) != 0)
    x = np.concatenate([sources.x[sources.star], saturated[:, 1].astype(np.float64)])
    y = np.concatenate([sources.y[sources.star], saturated[:, 0].astype(np.float64)])
    flux = np.concatenate([sources.flux[sources.star], np.full(len(saturated), np.inf)])
    if not len(x) or not len(peaks):
        return np.full(len(peaks), float(np.hypot(*difference.dq.shape))), np.zeros(len(peaks))
    distance, place = cKDTree(np.column_stack([x, y])).query(np.column_stack([peaks.x, peaks.y]))
    return np.asarray(distance), flux[place]

"""Sources of the reference image: which are hosts of candidates, and how far they are in their own light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from astrid.candidates.peaks import FWHM_PER_SIGMA, Peaks, psf_fwhm
from astrid.candidates.planes import window
from astrid.candidates.runs import Runs, distance, runs_of
from astrid.config.schema.candidates import HostConfig
from astrid.core.dq import DQ, unusable
from astrid.core.records import Difference, FloatImage

_SKY_MESH = 64  # px, of the sky map under the sources
_BLEND_LIMIT = 4096  # sub-objects of one isophote that sep may hold
_WHOLE = 2048 * 2048  # px, an image up to this size is one section
_CORE, _MARGIN = 1536, 256  # px, multiples of the mesh: meshes of neighbouring sections lie on one grid
_PIXSTACK = 300_000  # px, sep's own smallest stack
_SAME = 1.5  # px, centres nearer than this are one source
_COLUMNS = ("x", "y", "a", "b", "theta", "flux", "peak")
_HOST_COLUMNS = ("host_offset", "host_dlr", "host_dlr_second", "host_major", "host_minor", "host_theta")


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
    """Detect the sources of the reference image with sep (Barbary 2016; Bertin & Arnouts 1996).

    Planes beyond one section are searched in sections of `_CORE` px and a margin, under one threshold; a source belongs to the
    section whose core holds its centre. A source that reaches more than the margin beyond its core is cut there.
    """
    sections = _sections(difference.reference.shape)
    skies = [_sky(difference, section) for section in sections]
    known = [sky.globalrms for sky in skies if sky is not None and sky.globalrms > 0]
    if not known:
        return _nothing()
    sigma = float(np.median(known))
    tables = [_found(difference, part, sky, sigma, cfg) for part, sky in zip(sections, skies, strict=True) if sky is not None]
    found = {name: np.concatenate([table[name] for table in tables]).astype(np.float64) for name in _COLUMNS}
    kept = _first_of_each(found["x"], found["y"])
    x, y, major, minor, theta, flux, peak = (found[name][kept] for name in _COLUMNS)
    extended = FWHM_PER_SIGMA * np.sqrt(major * minor) > cfg.extended_ratio * psf_fwhm(difference.psf_reference)
    star = ~extended & (peak > cfg.star_snr * sigma)
    return Sources(x, y, major, minor, theta, flux, peak, extended, star, sigma)


@dataclass(frozen=True)
class _Section:
    """A window that is read, and the core in it whose sources it gives; slices of rows and columns of the image."""

    rows: slice
    columns: slice
    core_rows: slice
    core_columns: slice


def _sections(shape: tuple[int, ...]) -> list[_Section]:
    """One section of an image up to `_WHOLE` pixels; else cores of `_CORE` px, each with `_MARGIN` px around it."""
    if shape[0] * shape[1] <= _WHOLE:
        whole = (slice(0, shape[0]), slice(0, shape[1]))
        return [_Section(*whole, *whole)]

    def cut(length: int) -> list[tuple[slice, slice]]:
        cores = [slice(first, min(first + _CORE, length)) for first in range(0, length, _CORE)]
        return [(slice(max(core.start - _MARGIN, 0), min(core.stop + _MARGIN, length)), core) for core in cores]

    return [
        _Section(rows, columns, core_rows, core_columns) for rows, core_rows in cut(shape[0]) for columns, core_columns in cut(shape[1])
    ]


def _plane(difference: Difference, section: _Section) -> tuple[FloatImage, NDArray[np.bool_]]:
    """The reference in a section, masked pixels 0, and the mask."""
    seen = window(difference.reference, section.rows, section.columns)
    mask = unusable(window(difference.dq, section.rows, section.columns)) | ~np.isfinite(seen)
    return np.where(mask, np.float32(0), seen), mask


def _sky(difference: Difference, section: _Section) -> Any:
    """The section's sky as sep's meshes; None where nothing is usable."""
    import sep

    plane, mask = _plane(difference, section)
    return None if mask.all() else sep.Background(plane, mask=mask, bw=_SKY_MESH, bh=_SKY_MESH)


def _found(difference: Difference, section: _Section, sky: Any, sigma: float, cfg: HostConfig) -> dict[str, NDArray[Any]]:
    import sep

    plane, mask = _plane(difference, section)
    sky.subfrom(plane)
    sep.set_extract_pixstack(max(plane.size, _PIXSTACK))
    sep.set_sub_object_limit(_BLEND_LIMIT)
    found = sep.extract(plane, cfg.detection_sigma, err=sigma, mask=mask, minarea=cfg.min_area)
    x, y = found["x"] + section.columns.start, found["y"] + section.rows.start
    inside = (np.rint(x) >= section.core_columns.start) & (np.rint(x) < section.core_columns.stop)
    inside &= (np.rint(y) >= section.core_rows.start) & (np.rint(y) < section.core_rows.stop)
    return {"x": x[inside], "y": y[inside], **{name: found[name][inside] for name in _COLUMNS[2:]}}


def _first_of_each(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.int64]:
    """Rows without the second copy of a source that two sections found with centres on either side of their border."""
    kept = np.ones(len(x), dtype=bool)
    pairs = cKDTree(np.column_stack([x, y])).query_pairs(_SAME, output_type="ndarray") if len(x) else np.zeros((0, 2), dtype=np.int64)
    kept[pairs.max(axis=1)] = False
    return np.flatnonzero(kept)


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


def nearest_host(peaks: Peaks, sources: Sources, cfg: HostConfig, *, pixel_scale: float) -> dict[str, NDArray[Any]]:
    """The extended source that is nearest in directional light radii, d_DLR = offset / DLR, and how sure that is.

    host_offset (arcsec), host_dlr; host_major and host_minor (arcsec) and host_theta (deg, +x towards +y) of its light's ellipse;
    host_dlr_second: d_DLR of the next; host_ambiguous: host_dlr > ambiguous_ratio * host_dlr_second, so that another galaxy is
    about as likely (Gupta et al. 2016, section 3). NaN and false where no source lies within `cfg.max_dlr`; every source whose
    ellipse reaches the candidate is compared, however many smaller ones lie nearer. `pixel_scale`: arcsec a pixel.
    """
    out: dict[str, NDArray[Any]] = {name: np.full(len(peaks), np.nan) for name in _HOST_COLUMNS}
    out["host_ambiguous"] = np.zeros(len(peaks), dtype=bool)
    hosts = np.flatnonzero(sources.extended & (sources.minor > 0))
    if not len(hosts) or not len(peaks):
        return out
    tree = cKDTree(np.column_stack([peaks.x, peaks.y]))
    reach = tree.query_ball_point(np.column_stack([sources.x[hosts], sources.y[hosts]]), cfg.max_dlr * sources.major[hosts])
    host = np.repeat(hosts, [len(rows) for rows in reach])
    peak = np.array([row for rows in reach for row in rows], dtype=np.int64)
    dx, dy = peaks.x[peak] - sources.x[host], peaks.y[peak] - sources.y[host]
    offset = np.hypot(dx, dy)
    ratio = offset / light_radius(sources.major[host], sources.minor[host], sources.theta[host], np.arctan2(dy, dx))
    order = np.lexsort((ratio, peak))
    order = order[ratio[order] <= cfg.max_dlr]
    first = np.flatnonzero(np.diff(peak[order], prepend=-1))
    best, of = order[first], peak[order[first]]
    out["host_offset"][of], out["host_dlr"][of] = offset[best] * pixel_scale, ratio[best]
    out["host_major"][of], out["host_minor"][of] = sources.major[host[best]] * pixel_scale, sources.minor[host[best]] * pixel_scale
    out["host_theta"][of] = np.rad2deg(sources.theta[host[best]])
    more = np.flatnonzero(np.diff(np.append(first, len(order))) > 1)
    out["host_dlr_second"][of[more]] = ratio[order[first[more] + 1]]
    out["host_ambiguous"] = out["host_dlr"] > cfg.ambiguous_ratio * out["host_dlr_second"]  # NaN compares false
    return out


def star_distance(difference: Difference, peaks: Peaks, sources: Sources) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance, px, to the nearest bright star or saturated pixel, and that star's flux (infinite for a saturated one).

    Without any the distance is the image's diagonal and the flux 0.
    """
    best, flux = np.full(len(peaks), float(np.hypot(*difference.dq.shape))), np.zeros(len(peaks))
    stars = np.flatnonzero(sources.star)
    if len(stars):
        best, place = cKDTree(np.column_stack([sources.x[stars], sources.y[stars]])).query(np.column_stack([peaks.x, peaks.y]))
        flux = sources.flux[stars[place]]
    full, _ = distance(saturated(difference), peaks.x, peaks.y)
    return np.minimum(best, full), np.where(full < best, np.inf, flux)


def saturated(difference: Difference) -> Runs:
    """Saturated and bled pixels of either image."""
    return runs_of(difference.dq, lambda band: (band & np.uint32(DQ.SATURATED | DQ.BLEED)) != 0)

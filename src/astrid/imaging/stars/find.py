"""Star-like sources of one image, with windowed centroids."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from enum import IntFlag
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from astrid.config.schema.psf import StarsConfig
from astrid.core.dq import unusable
from astrid.core.records import DQImage, FloatImage, Psf
from astrid.imaging.stars.sizes import FWHM_PER_SIGMA, Locus, core_fwhm, find_locus

_LOCUS_SNR = 20.0  # sources that tell the size of the stars
_LOCUS_LEAST = 4  # such sources; with fewer, faint ones count as well
_SIZE_SIGMAS = 2.0  # of a size's photon noise, 1 / (S/N), added in quadrature to the sequence's half-width
_LEAST_FWHM = 0.9  # px, what is sharper fills less than a pixel: a cosmic ray or a hot pixel
_APERTURE_SIGMAS = 4.0  # aperture radius in units of a source's RMS radius
_PIXSTACK = 3_000_000  # active pixels that SEP may hold
_APERTURE_NEIGHBOUR = 1e-3
_DUPLICATE_PX = 1.0  # px, two sections' sources nearer than this are one

Plane = Any  # (ny, nx) array, or an object with its `shape` that gives arrays when sliced by [rows, columns]

STAR_DTYPE = np.dtype(
    [
        ("x", "f8"),  # px, windowed centroid
        ("y", "f8"),  # px
        ("flux", "f8"),  # unit of the image, in a circular aperture
        ("peak", "f8"),  # unit of the image, brightest pixel
        ("fwhm", "f8"),  # px, of the Gaussian that matches the core
        ("snr", "f8"),  # aperture flux over its error
        ("elongation", "f8"),  # major over minor axis
        ("flags", "u4"),  # StarFlag bits; 0 = a star
    ]
)


class StarFlag(IntFlag):
    """Why a source is not used as a star."""

    FAINT = 1
    NOT_STAR_LIKE = 2
    MASKED = 4
    BLENDED = 8
    EDGE = 16


def usable_pixels(data: FloatImage, variance: FloatImage, dq: DQImage) -> NDArray[np.bool_]:
    """True where data and variance are finite, the variance is positive, and no DQ bit forbids the pixel."""
    good: NDArray[np.bool_] = np.isfinite(data) & np.isfinite(variance) & ~unusable(dq)
    good &= variance > 0
    return good


def find_stars(data: Plane, variance: Plane, dq: Plane, config: StarsConfig, *, psf: Psf | None = None) -> NDArray[Any]:
    """Find sources and mark the star-like ones.

    An image larger than `config.section_px` is searched in overlapping sections, so that memory does not grow with it.

    Parameters
    ----------
    data, variance, dq
        (ny, nx) sky-subtracted image, its variance and DQ plane: arrays, or anything with a `shape` that gives arrays when it is
        sliced by [rows, columns].
    config
        Thresholds and the size of a section.
    psf
        Where the PSF is known, stars are told by its size instead of by the smallest common one.

    Returns
    -------
    Structured array of `STAR_DTYPE`, brightest first; `flags == 0` marks stars. Empty when nothing is found.
    """
    parts = [_search(data, variance, dq, section, config) for section in _sections((data.shape[0], data.shape[1]), config)]
    stars = np.concatenate(parts)
    if len(stars) == 0:
        return stars
    if len(parts) > 1:
        stars = _unique(stars)
    _tell_stars(stars, config, psf)
    order = np.lexsort((stars["x"], -stars["flux"], stars["flags"] != 0))
    kept = stars[order][: config.max_stars * len(parts)]
    return np.asarray(kept[np.argsort(-kept["flux"], kind="stable")])


@dataclass(frozen=True)
class _Section:
    """A part of the image: what is read, and the part of it whose sources count."""

    rows: slice
    columns: slice
    core_rows: slice
    core_columns: slice
    shape: tuple[int, int]  # of the whole image


def _sections(shape: tuple[int, int], config: StarsConfig) -> list[_Section]:
    (down, core_down), (across, core_across) = (_cuts(length, config) for length in shape)
    return [
        _Section(rows, columns, core_rows, core_columns, shape)
        for rows, core_rows in zip(down, core_down, strict=True)
        for columns, core_columns in zip(across, core_across, strict=True)
    ]


def _cuts(length: int, config: StarsConfig) -> tuple[list[slice], list[slice]]:
    """Overlapping slices along one axis, and the cores that tile it."""
    count = max(1, int(np.ceil(length / config.section_px)))
    edges = np.linspace(0, length, count + 1).round().astype(int)
    cores = [slice(int(low), int(high)) for low, high in itertools.pairwise(edges)]
    return [slice(max(0, c.start - config.overlap_px), min(length, c.stop + config.overlap_px)) for c in cores], cores


def _search(data: Plane, variance: Plane, dq: Plane, section: _Section, config: StarsConfig) -> NDArray[Any]:
    """The measured sources of one section, in the image's coordinates."""
    import sep

    at = (section.rows, section.columns)
    values, noise = np.asarray(data[at]), np.asarray(variance[at])
    good = usable_pixels(values, noise, np.asarray(dq[at]))
    if not good.any():
        return np.zeros(0, STAR_DTYPE)
    image = np.ascontiguousarray(np.where(good, values, 0), dtype=np.float32)
    error = np.sqrt(np.where(good, noise, 1), dtype=np.float32)
    mask = ~good
    sep.set_extract_pixstack(max(_PIXSTACK, image.size // 4))
    found = sep.extract(image, config.threshold, err=error, mask=mask, minarea=config.min_pixels, filter_type="conv")
    found = found[np.argsort(-found["flux"], kind="stable")][: 4 * config.max_stars]
    if len(found) == 0:
        return np.zeros(0, STAR_DTYPE)
    stars = _measure(image, error, mask, found)
    stars["fwhm"] = core_fwhm(image, mask, stars["x"].astype(float), stars["y"].astype(float), stars["fwhm"].astype(float))
    stars["x"] += section.columns.start
    stars["y"] += section.rows.start
    _flag(stars, found, mask, section, config)
    return np.asarray(stars[_within(stars, section) & np.isfinite(stars["flux"]) & (stars["flux"] > 0)])


def _within(stars: NDArray[Any], section: _Section) -> NDArray[np.bool_]:
    """True in the section's core and within the reach of a duplicate of it: the centroid may differ between sections."""
    inside = np.ones(len(stars), bool)
    for name, core, length in (("y", section.core_rows, section.shape[0]), ("x", section.core_columns, section.shape[1])):
        low = -np.inf if core.start == 0 else core.start - 0.5 - _DUPLICATE_PX
        high = np.inf if core.stop == length else core.stop - 0.5 + _DUPLICATE_PX
        inside &= (stars[name] >= low) & (stars[name] < high)
    return inside


def _unique(stars: NDArray[Any]) -> NDArray[Any]:
    """Without the second of two sources that two sections found at the same place."""
    pairs = cKDTree(np.c_[stars["x"], stars["y"]]).query_pairs(_DUPLICATE_PX, output_type="ndarray")
    keep = np.ones(len(stars), bool)
    keep[pairs.max(axis=1)] = False
    return stars[keep]


def _measure(image: FloatImage, error: FloatImage, mask: NDArray[np.bool_], found: NDArray[Any]) -> NDArray[Any]:
    import sep

    stars = np.zeros(len(found), STAR_DTYPE)
    size = np.maximum(np.sqrt(found["a"] * found["b"]), 0.5)
    radius = np.maximum(_APERTURE_SIGMAS * size, 3.0)
    half, _ = sep.flux_radius(image, found["x"], found["y"], radius, 0.5, mask=mask, subpix=5)
    half = np.clip(np.nan_to_num(half, nan=1.0), 0.5, radius)
    x, y, _ = sep.winpos(image, found["x"], found["y"], 2.0 * half / FWHM_PER_SIGMA, mask=mask, subpix=11)
    wild = np.hypot(x - found["x"], y - found["y"]) > half
    stars["x"] = np.where(wild, found["x"], x)
    stars["y"] = np.where(wild, found["y"], y)
    flux, flux_error, _ = sep.sum_circle(image, stars["x"], stars["y"], np.maximum(2.0 * half, 1.5), err=error, mask=mask, subpix=5)
    stars["flux"], stars["peak"], stars["fwhm"] = flux, found["peak"], 2.0 * half
    stars["snr"] = flux / np.maximum(flux_error, np.finfo(np.float32).tiny)
    stars["elongation"] = found["a"] / np.maximum(found["b"], 1e-6)
    return stars


def _flag(stars: NDArray[Any], found: NDArray[Any], mask: NDArray[np.bool_], section: _Section, config: StarsConfig) -> None:
    import sep

    flags = np.zeros(len(stars), np.uint32)
    flags[stars["snr"] < config.min_snr] |= np.uint32(StarFlag.FAINT)
    flags[(found["flag"] & sep.OBJ_MERGED) != 0] |= np.uint32(StarFlag.BLENDED)
    ny, nx = section.shape
    inside = (np.minimum(stars["x"], nx - 1 - stars["x"]) >= config.edge) & (np.minimum(stars["y"], ny - 1 - stars["y"]) >= config.edge)
    flags[~inside] |= np.uint32(StarFlag.EDGE)
    holes, _, _ = sep.sum_circle(
        mask.astype(np.float32), stars["x"] - section.columns.start, stars["y"] - section.rows.start, stars["fwhm"], subpix=1
    )
    flags[holes > _APERTURE_NEIGHBOUR] |= np.uint32(StarFlag.MASKED)
    stars["flags"] = flags


def _tell_stars(stars: NDArray[Any], config: StarsConfig, psf: Psf | None) -> None:
    """Flag what lies off the stars' sequence.

    A known PSF decides where the sequence is more than the tolerance away from its size; otherwise the stars in the image do.
    """
    locus = _sequence(stars, config)
    if psf is not None:
        centre = np.array([(psf.stamp.shape[0] - 1) / 2])
        size = float(core_fwhm(psf.stamp, np.zeros(psf.stamp.shape, bool), centre, centre, np.array([psf.fwhm]))[0])
        if not locus.common or abs(np.log(locus.size / size)) > config.size_tolerance:
            locus = Locus(size, config.size_tolerance, 0, False)
    limit = np.hypot(min(locus.width, config.size_tolerance), _SIZE_SIGMAS / np.maximum(stars["snr"], 1.0))
    odd = np.abs(np.log(stars["fwhm"] / locus.size)) > limit
    stars["flags"][odd | (stars["elongation"] > config.max_elongation)] |= np.uint32(StarFlag.NOT_STAR_LIKE)


def _sequence(stars: NDArray[Any], config: StarsConfig) -> Locus:
    """The stars' sequence among clean, round sources: the bright ones where they are enough."""
    clean = (stars["flags"] == 0) & (stars["elongation"] <= config.max_elongation) & (stars["fwhm"] >= _LEAST_FWHM)
    bright = clean & (stars["snr"] >= _LOCUS_SNR)
    chosen = bright if bright.sum() >= _LOCUS_LEAST else clean if clean.any() else np.ones(len(stars), bool)
    return find_locus(stars["fwhm"][chosen].astype(float))

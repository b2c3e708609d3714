"""Glints: flashes of tumbling satellites, seen as short dashes or as points of equal spacing on a line, in one epoch alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from astrid.candidates.peaks import Peaks
from astrid.config.schema.candidates import TagsConfig

_LONGEST = 64  # flashes of a series that are counted

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


def on_glint(peaks: Peaks, columns: dict[str, Floats], optical: Mask, fwhm: float, psf_moment_fwhm: Floats, cfg: TagsConfig) -> Mask:
    """True for peaks that are a dash, or one of three or more of equal spacing on a straight line, bool (n,).

    `columns`: those of `measure`; `optical`: what the optics may have made, not too sharp for the PSF; `fwhm`: of the science PSF, px;
    `psf_moment_fwhm`: FWHM of the difference's PSF in the measure of the column fwhm. The epoch in which the peak is the fainter one
    must show nothing there (`glint_empty`): a flash does not come back.
    """
    other = np.where(peaks.sign > 0, columns["reference_snr"], columns["science_snr"])
    alone = optical & (np.abs(other) < cfg.glint_empty) & (columns["symmetry"] < cfg.dipole_symmetry)
    dash = alone & (columns["elongation"] > cfg.glint_elongation) & (peaks.snr > cfg.glint_snr)
    dash &= columns["fwhm"] > cfg.glint_length * psf_moment_fwhm
    series = np.zeros(len(peaks), dtype=bool)
    for sign in (1, -1):
        rows = np.flatnonzero(alone & (peaks.sign == sign))
        if len(rows) >= 3:
            series[rows] = _series(peaks.x[rows], peaks.y[rows], peaks.strength[rows], cfg.glint_tolerance_fwhm * fwhm, cfg)
    return np.asarray(dash | series)


def _series(x: Floats, y: Floats, strength: Floats, tolerance: float, cfg: TagsConfig) -> Mask:
    """Members of series of like brightness that go on by equal steps, each to the tolerance, unless so many are expected by chance.

    Two points begin a series; every further one stands by chance where it should with the probability of a point in the tolerance's
    circle, so that a long series is found where many triples are none.
    """
    place = np.column_stack([x, y])
    least, most = cfg.glint_spacing
    tree = cKDTree(place)
    pairs = tree.query_pairs(most, output_type="ndarray")
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    gap = np.hypot(*(place[pairs[:, 0]] - place[pairs[:, 1]]).T)
    pairs = pairs[(gap >= least) & (_unlike(strength[pairs[:, 0]], strength[pairs[:, 1]]) < np.log(cfg.glint_ratio))]
    area = max(float(np.ptp(x) * np.ptp(y)), 1.0)
    hit = len(x) * np.pi * tolerance**2 / area  # points in a circle by chance
    begun = 0.5 * len(pairs)
    series, on = pairs, np.zeros(len(x), dtype=bool)
    for number in range(3, _LONGEST + 1):
        before, last = series[:, -2], series[:, -1]
        apart, following = tree.query(2.0 * place[last] - place[before])
        goes_on = (apart <= tolerance) & (_unlike(strength[following], strength[last]) < np.log(cfg.glint_ratio)) & (following != last)
        series = np.column_stack([series, following])[goes_on]
        if not len(series):
            break
        if begun * hit ** (number - 2) <= cfg.glint_chance:
            on[series] = True
    return on


def _unlike(first: Floats, second: Floats) -> Floats:
    """Absolute natural logarithm of the ratio of strengths."""
    return np.asarray(np.abs(np.log(first / second)))

"""Glints: flashes of tumbling satellites, seen as short dashes or as points of equal spacing on a line, in one epoch alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from astrid.candidates.peaks import Peaks
from astrid.config.schema.candidates import TagsConfig

_CROWD = 200  # candidates that are searched for lines: beyond, chance makes them

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


def on_glint(peaks: Peaks, columns: dict[str, Floats], fwhm: float, psf_moment_fwhm: Floats, cfg: TagsConfig) -> Mask:
    """True for peaks that are a dash, or one of three or more of equal spacing on a straight line, bool (n,).

    `columns`: those of `measure`; `fwhm`: of the science PSF, px; `psf_moment_fwhm`: FWHM of the difference's PSF in the measure of the
    column fwhm. The epoch in which the peak is the fainter one must show nothing there (`glint_empty`): a flash does not come back.
    """
    other = np.where(peaks.sign > 0, columns["reference_snr"], columns["science_snr"])
    alone = (np.abs(other) < cfg.glint_empty) & (columns["symmetry"] < cfg.dipole_symmetry)
    dash = alone & (columns["elongation"] > cfg.glint_elongation) & (peaks.snr > cfg.glint_snr)
    dash &= columns["fwhm"] > cfg.glint_length * psf_moment_fwhm
    series = np.zeros(len(peaks), dtype=bool)
    for sign in (1, -1):
        rows = np.flatnonzero(alone & (peaks.sign == sign))
        if 3 <= len(rows) <= _CROWD:
            series[rows] = _series(peaks.x[rows], peaks.y[rows], peaks.strength[rows], cfg.glint_tolerance_fwhm * fwhm, cfg)
    return np.asarray(dash | series)


def _series(x: Floats, y: Floats, strength: Floats, tolerance: float, cfg: TagsConfig) -> Mask:
    """Members of triples a, b, c with c = 2 b - a within the tolerance, of like brightness, unless so many are expected by chance."""
    place = np.column_stack([x, y])
    least, most = cfg.glint_spacing
    tree = cKDTree(place)
    pairs = tree.query_pairs(most, output_type="ndarray")
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    gap = np.hypot(*(place[pairs[:, 0]] - place[pairs[:, 1]]).T)
    ratio = np.abs(np.log(strength[pairs[:, 0]] / strength[pairs[:, 1]]))
    pairs = pairs[(gap >= least) & (ratio < np.log(cfg.glint_ratio))]
    area = max(float(np.ptp(x) * np.ptp(y)), 1.0)
    on = np.zeros(len(x), dtype=bool)
    if not len(pairs) or 0.5 * len(pairs) * len(x) * np.pi * tolerance**2 / area > cfg.glint_chance:
        return on
    apart, third = tree.query(2.0 * place[pairs[:, 1]] - place[pairs[:, 0]])
    like = np.abs(np.log(strength[third] / strength[pairs[:, 1]])) < np.log(cfg.glint_ratio)
    for first, second, last in np.column_stack([pairs, third])[(apart <= tolerance) & like & (third != pairs[:, 1])].tolist():
        on[[first, second, last]] = True
    return on

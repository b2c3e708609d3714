"""The peers that may find peaks in place of `peaks.find_peaks`'s own maxima: SEP's isophotes and DAOFIND. Both hold whole planes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from astrid.candidates.planes import Pixels, window
from astrid.core.dq import unusable
from astrid.core.records import Difference, FloatImage

_ALL = slice(None)
_STEPS = [(0, 0), *((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0))]


def usable_score(difference: Difference) -> FloatImage:
    """S_corr as a whole plane, 0 where the pixel is unusable or has no score."""
    score = window(difference.score, _ALL)
    return np.where(unusable(window(difference.dq, _ALL)) | ~np.isfinite(score), np.float32(0), score)


def sep_positions(difference: Difference, threshold: float) -> tuple[Pixels, Pixels, Pixels]:
    """Peak pixels (iy, ix, sign) of the isophotes of S_corr and of -S_corr at the threshold, deblended by sep (Barbary 2016)."""
    import sep

    score = usable_score(difference)
    parts = []
    for sign in (1, -1):
        plane = np.ascontiguousarray(score * sign, dtype=np.float32)
        found = sep.extract(plane, threshold, minarea=1, filter_kernel=None)
        parts.append((found["ypeak"], found["xpeak"], np.full(len(found), sign)))
    iy, ix, signs = (np.concatenate(column).astype(np.int64) for column in zip(*parts, strict=True))
    return iy, ix, signs


def daofind_positions(difference: Difference, threshold: float, width: float) -> tuple[Pixels, Pixels, Pixels]:
    """Pixels (iy, ix, sign) found by DAOFIND (Stetson 1987) in D over its pixel noise; its own matched filter, not S_corr, decides.

    `width`: FWHM, px, of its kernel.
    """
    import warnings

    from photutils.detection import DAOStarFinder
    from photutils.utils.exceptions import NoDetectionsWarning

    score, data = usable_score(difference), window(difference.difference, _ALL)
    noise = window(difference.flux_err, _ALL) * np.sqrt(np.sum(np.square(difference.psf_difference.stamp, dtype=np.float64)))
    bad = (score == 0) | ~np.isfinite(data) | ~(noise > 0)
    plane = np.divide(data, noise, out=np.zeros(noise.shape), where=~bad)
    finder = DAOStarFinder(threshold, width, sharpness_range=None, roundness_range=None)
    parts = []
    for sign in (1, -1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoDetectionsWarning)  # no source is an answer, not a fault
            table = finder(plane * sign, mask=bad)
        if table is not None:
            parts.append(_snap(score * sign, np.asarray(table["y_centroid"]), np.asarray(table["x_centroid"]), sign))
    if not parts:
        none = np.zeros(0, dtype=np.int64)
        return none, none, none
    iy, ix, signs = (np.concatenate(column) for column in zip(*parts, strict=True))
    return iy, ix, signs


def _snap(plane: FloatImage, y: NDArray[np.float64], x: NDArray[np.float64], sign: int) -> tuple[Pixels, Pixels, Pixels]:
    """The highest pixel of `plane` among the 3 x 3 about each position, each once and only where it is positive."""
    iy, ix = np.rint(y).astype(np.int64), np.rint(x).astype(np.int64)
    rows = np.stack([np.clip(iy + dy, 0, plane.shape[0] - 1) for dy, _ in _STEPS])
    columns = np.stack([np.clip(ix + dx, 0, plane.shape[1] - 1) for _, dx in _STEPS])
    best = np.argmax(plane[rows, columns], axis=0)
    every = np.arange(len(iy))
    flat = np.unique(rows[best, every] * plane.shape[1] + columns[best, every])
    flat = flat[plane.ravel()[flat] > 0]
    return flat // plane.shape[1], flat % plane.shape[1], np.full(len(flat), sign, dtype=np.int64)

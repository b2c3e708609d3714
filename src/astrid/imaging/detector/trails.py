"""Saturated pixels and the trails that bleed from them, followed as far as their charge shows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrid.config.schema.calibrate import DetectorConfig
from astrid.core.dq import DQ
from astrid.core.records import DQImage, FloatImage

_BESIDE = (3, 8)  # px across the trail, nearest and farthest pixel that tells the level beside it
_GAP = 3  # px along the trail that may fall below the limit
_MAD_TO_SIGMA = 1.4826


def saturation_flags(data: FloatImage, level: float | NDArray[np.float64], config: DetectorConfig) -> DQImage:
    """SATURATED where `data` (ny, nx) reaches the level, and in the holes of such groups; BLEED on and around their trails.

    A run of saturated pixels along the charge's way, at least `bleed_min_px` long, carries a trail. It is followed beyond the run
    while it stands above the pixels beside it by `bleed_sigma` of their scatter, since the charge of a spill tapers off below
    saturation. `level`: one number, or (ny, nx) where amplifiers differ; NaN = unknown, flags nothing.
    """
    flags = np.zeros(data.shape, np.uint32)
    if not np.isfinite(level).any():
        return flags
    limit = level * config.saturation_fraction if np.ndim(level) == 0 else np.asarray(level) * config.saturation_fraction
    saturated = data >= limit
    if not saturated.any():
        return flags
    flags[ndimage.binary_fill_holes(saturated)] |= np.uint32(DQ.SATURATED)
    turned = config.bleed_along == "rows"
    runs = _runs(saturated.T if turned else saturated, config)
    if runs.any():
        pixels = data.T if turned else data
        trail = ndimage.binary_dilation(followed(pixels, runs, config), np.ones((2 * config.bleed_grow_px + 1, 3), bool))
        flags[trail.T if turned else trail] |= np.uint32(DQ.BLEED)
    return flags


def _runs(saturated: NDArray[np.bool_], config: DetectorConfig) -> NDArray[np.bool_]:
    runs: NDArray[np.bool_] = ndimage.binary_opening(saturated, np.ones((config.bleed_min_px, 1), bool))
    return runs


def followed(data: FloatImage, runs: NDArray[np.bool_], config: DetectorConfig) -> NDArray[np.bool_]:
    """The runs along columns, each longer by the pixels beyond its ends that stand out from those beside them."""
    out = runs.copy()
    noise = _noise(data)
    for column in np.flatnonzero(runs.any(axis=0)).tolist():
        edges = np.flatnonzero(np.diff(np.concatenate([[0], runs[:, column].astype(np.int8), [0]])))
        for start, stop in edges.reshape(-1, 2).tolist():
            left, right = _span(runs, start, stop, column)
            out[_reach(data, start - 1, -1, (left, right), column, noise, config) + 1 : start, column] = True
            out[stop : _reach(data, stop, 1, (left, right), column, noise, config), column] = True
    return out


def _span(runs: NDArray[np.bool_], start: int, stop: int, column: int) -> tuple[int, int]:
    """First and last column of the trail that a run is part of."""
    left = right = column
    while left > 0 and runs[start:stop, left - 1].any():
        left -= 1
    while right < runs.shape[1] - 1 and runs[start:stop, right + 1].any():
        right += 1
    return left, right


def _reach(data: FloatImage, row: int, step: int, span: tuple[int, int], column: int, noise: float, config: DetectorConfig) -> int:
    """The first row, from `row` on, that the trail does not reach."""
    reached, near, far = row, *_BESIDE
    while 0 <= row < data.shape[0] and (row - reached) * step <= _GAP:
        beside = np.concatenate(
            [
                data[row, max(span[0] - far, 0) : max(span[0] - near + 1, 0)],
                data[row, span[1] + near : span[1] + far + 1],
            ]
        )
        beside = beside[np.isfinite(beside)]
        if len(beside):
            middle = float(np.median(beside))
            scatter = max(noise, _MAD_TO_SIGMA * float(np.median(np.abs(beside - middle))))
            if data[row, column] > middle + config.bleed_sigma * scatter:
                reached = row + step
        row += step
    return reached


def _noise(data: FloatImage) -> float:
    """Scatter of a pixel from the differences of neighbours along rows, which neither stars nor gradients reach."""
    steps = np.diff(data[:: max(data.shape[0] // 256, 1)], axis=1)
    return float(_MAD_TO_SIGMA * np.nanmedian(np.abs(steps)) / np.sqrt(2.0))

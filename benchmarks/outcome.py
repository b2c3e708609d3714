"""What one subtracted test pair says of quality, as small numbers: every quality table draws on these."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from astrid.candidates.peaks import find_peaks
from astrid.core.dq import DQ, unusable
from astrid.core.records import Calibrated, Difference
from astrid.imaging.pair import subtract_pair
from benchmarks.field import Pair, make_pair
from benchmarks.measure import candidates_config, imaging_config

MATCH_PX = 2.0  # a peak this near to an injected source is that source
CLEAR_PX = 8.0  # farther than this from every injected source a peak is false
BLOCK = 64  # px, side of the blocks that are drawn in the bootstrap of a width
BLANK_RATIO, NEAR_RATIO, CORE_RATIO = 1.05, 1.1, 3.0  # V(S) over its blank-sky value: blank below, near sources above, cores beyond
BRIGHT_SNR = 100.0

MODES = {
    "known": "known PSFs, true variance",
    "own": "PSFs estimated, true variance",
    "calibrated": "from calibrate: sky, variance and PSF estimated",
}


@dataclass(frozen=True, eq=False)
class Outcome:
    """One pair. Arrays of injected sources have the shape (m,); `blocks` (b, 3): pixels, sum and sum of squares of the score."""

    snr: NDArray[np.float64]
    hosted: NDArray[np.bool_]
    usable: NDArray[np.bool_]  # of the injected sources: not masked
    found: NDArray[np.bool_]
    expected: NDArray[np.float64]
    flux: NDArray[np.float64]  # truth
    measured: NDArray[np.float64]  # PSF flux at the true position
    error: NDArray[np.float64]
    distance: NDArray[np.float64]  # px, peak from truth; NaN where not found
    false: tuple[int, int]  # positive, negative
    megapixels: float  # in which false peaks were counted
    blocks: dict[str, NDArray[np.float64]]  # blank, near, core
    stars: NDArray[np.float64]  # |score| at the bright stars
    quality: dict[str, Any]
    seconds: float  # CPU


@lru_cache(maxsize=64)
def outcome(mode: str, seed: int, side: int, jitter: float = 0.0, angle: float = 0.0, snr: tuple[float, float] = (3.0, 30.0)) -> Outcome:
    """Make, subtract and measure one pair; `angle` other than 0 also shifts the reference by (3.3, -2.6) px and its header by (4, -3)."""
    shift, header = ((3.3, -2.6), (4.0, -3.0)) if angle else ((0.0, 0.0), (0.0, 0.0))
    pair = make_pair(seed, (side, side), jitter=jitter, angle=angle, snr=snr, shift=shift, header_error=header)
    sides = pair.from_archive(imaging_config().calibrate) if mode == "calibrated" else pair.calibrated(known=mode == "known")
    start = time.process_time()
    result = subtract(*sides)
    return judge(pair, result, time.process_time() - start)


def subtract(science: Calibrated, reference: Calibrated) -> Difference:
    return subtract_pair(science, reference, imaging_config().difference)


def judge(pair: Pair, result: Difference, seconds: float) -> Outcome:
    """Compare a difference with its truth."""
    peaks = find_peaks(result, candidates_config().extract)
    known = ~unusable(result.dq) & ((result.dq & np.uint32(DQ.EDGE)) == 0)
    score, positions = result.score.astype(np.float64), pair.injected[:, :2]
    rows, columns = np.round(positions[:, 1]).astype(int), np.round(positions[:, 0]).astype(int)
    positive = peaks.sign > 0
    found, distance = np.zeros(len(positions), bool), np.full(len(positions), np.nan)
    if positive.any():
        near, _ = cKDTree(np.c_[peaks.x, peaks.y][positive]).query(positions)
        found = near <= MATCH_PX
        distance[found] = near[found]
    false = (0, 0)
    if len(peaks.x):
        far = cKDTree(positions).query(np.c_[peaks.x, peaks.y])[0] > CLEAR_PX if len(positions) else np.ones(len(peaks.x), bool)
        counted = far & known[peaks.iy, peaks.ix]
        false = (int((counted & positive).sum()), int((counted & ~positive).sum()))
    clear = known & ~near_mask(known.shape, positions, CLEAR_PX + 2)
    regions = {
        "blank": clear & (pair.blank < BLANK_RATIO),
        "near": clear & (pair.blank > NEAR_RATIO),
        "core": clear & (pair.blank > CORE_RATIO),
    }
    flux = np.nan_to_num(result.flux.astype(np.float64))
    return Outcome(
        snr=pair.injected[:, 3],
        hosted=pair.hosted,
        usable=known[rows, columns],
        found=found,
        expected=pair.expected,
        flux=pair.injected[:, 2],
        measured=ndimage.map_coordinates(flux, [positions[:, 1], positions[:, 0]], order=5),
        error=result.flux_err[rows, columns].astype(np.float64),
        distance=distance,
        false=false,
        megapixels=float(clear.sum()) / 1e6,
        blocks={name: _blocks(score, region) for name, region in regions.items()},
        stars=_bright(pair, score, clear),
        quality=dict(result.quality),
        seconds=seconds,
    )


def near_mask(shape: tuple[int, ...], positions: NDArray[np.float64], reach: float) -> NDArray[np.bool_]:
    """True within `reach` px of a position."""
    mark = np.ones(shape, bool)
    if not len(positions):
        return ~mark
    mark[
        np.clip(np.round(positions[:, 1]).astype(int), 0, shape[0] - 1), np.clip(np.round(positions[:, 0]).astype(int), 0, shape[1] - 1)
    ] = False
    return np.asarray(ndimage.distance_transform_edt(mark) < reach)


def _blocks(score: NDArray[np.float64], region: NDArray[np.bool_]) -> NDArray[np.float64]:
    ny, nx = (length // BLOCK * BLOCK for length in score.shape)
    parts = []
    for plane in (region, np.where(region, score, 0.0), np.where(region, score**2, 0.0)):
        parts.append(plane[:ny, :nx].astype(float).reshape(ny // BLOCK, BLOCK, nx // BLOCK, BLOCK).sum(axis=(1, 3)).ravel())
    out = np.stack(parts, axis=1)
    return np.asarray(out[out[:, 0] > 0])


def _bright(pair: Pair, score: NDArray[np.float64], clear: NDArray[np.bool_]) -> NDArray[np.float64]:
    stars = pair.stars[pair.stars[:, 2] > BRIGHT_SNR**2]
    rows, columns = np.round(stars[:, 1]).astype(int), np.round(stars[:, 0]).astype(int)
    inside = (rows >= 0) & (columns >= 0) & (rows < score.shape[0]) & (columns < score.shape[1])
    rows, columns = rows[inside], columns[inside]
    return np.asarray(ndimage.maximum_filter(np.abs(score), 3)[rows, columns][clear[rows, columns]])


def width(blocks: NDArray[np.float64]) -> float:
    """Standard deviation of the score over the pixels of some blocks."""
    n, total, squares = blocks.sum(axis=0)
    return float(np.sqrt(squares / n - (total / n) ** 2))

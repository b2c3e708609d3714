"""Extraction: CPU time on one score map and what is lost against a maximum filter, beside the finders that the registry offers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from astrid.candidates.peaks import find_peaks
from astrid.core.records import Difference
from benchmarks.field import Pair, make_pair
from benchmarks.measure import Options, Row, Table, against, candidates_config, eight_ffts
from benchmarks.outcome import MATCH_PX, near_mask, subtract

THRESHOLD = 5.0
LIMIT_S = 0.025
Positions = NDArray[np.float64]


def run(options: Options) -> Table:
    pair = make_pair(0, (2048, 2048))
    result = subtract(*pair.calibrated(known=True))
    score = np.where(np.isfinite(result.score), result.score, np.float32(0))
    finders: dict[str, Callable[[], Positions]] = {
        "AstrID peaks": lambda: _ours(result),
        "maximum filter (scipy)": lambda: _maximum_filter(score),
        "SEP": lambda: _sep(score),
        "photutils find_peaks": lambda: _photutils(score),
        "photutils DAOStarFinder, default cuts": lambda: _daofind(score),
    }
    timed = against(list(finders.values()), eight_ffts(score.shape), max(3, options.repeats // 2))
    found = {name: work() for name, work in finders.items()}
    maxima = found["maximum filter (scipy)"]
    rows = []
    for name, (ratio, low, high, seconds) in zip(finders, timed, strict=True):
        ours = name.startswith("AstrID")
        rows.append(
            Row(
                f"{name}, CPU",
                1000 * seconds,
                "ms",
                1000 * seconds * low / ratio,
                1000 * seconds * high / ratio,
                f"<= {1000 * LIMIT_S:.0f}" if ours else "",
                seconds <= LIMIT_S if ours else None,
                f"{ratio:.2f} x 8 FFT; {_counts(found[name], pair)}",
            )
        )
    rows.insert(1, _lost(maxima, found["AstrID peaks"], pair))
    return Table("Extraction of a 2048^2 score map", rows)


def _counts(found: Positions, pair: Pair) -> str:
    tree = cKDTree(found[:, :2]) if len(found) else None
    hit = tree.query(pair.injected[:, :2])[0] <= MATCH_PX if tree is not None else np.zeros(len(pair.injected), bool)
    near = near_mask(pair.blank.shape, pair.injected[:, :2], 8.0)
    false = sum(not near[y, x] for x, y in np.rint(found[:, :2]).astype(int))
    return f"{int(hit.sum())} found of {pair.expected.sum():.1f}, {false} false"


def _lost(maxima: Positions, peaks: Positions, pair: Pair) -> Row:
    """Injected sources that the maximum filter has and AstrID has not; maxima that AstrID counts to a neighbour are named."""
    alone = cKDTree(peaks).query(maxima)[0] > MATCH_PX
    hit = [cKDTree(table).query(pair.injected[:, :2])[0] <= MATCH_PX for table in (maxima, peaks)]
    lost = int((hit[0] & ~hit[1]).sum())
    note = f"{int(np.sum(alone))} of {len(maxima)} maxima have no peak within {MATCH_PX:g} px: they belong to a stronger neighbour"
    return Row("injected sources that the maximum filter finds and AstrID loses", lost, target="0", passed=lost == 0, note=note)


def _ours(result: Difference) -> Positions:
    peaks = find_peaks(result, candidates_config().extract)
    return np.stack([peaks.x, peaks.y], axis=1)


def _maximum_filter(score: NDArray[np.float32]) -> Positions:
    parts = []
    for sign in (1, -1):
        plane = score * np.float32(sign)
        y, x = np.nonzero((plane == ndimage.maximum_filter(plane, 5)) & (plane > THRESHOLD))
        parts.append(np.c_[x, y].astype(float))
    return np.concatenate(parts)


def _sep(score: NDArray[np.float32]) -> Positions:
    import sep

    return np.concatenate(
        [_table(sep.extract(score * np.float32(sign), THRESHOLD, minarea=1, filter_kernel=None), "x", "y") for sign in (1, -1)]
    )


def _photutils(score: NDArray[np.float32]) -> Positions:
    from photutils.detection import find_peaks as photutils_peaks

    parts = []
    for sign in (1, -1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = photutils_peaks(score * np.float32(sign), THRESHOLD, box_size=5)
        if table is not None:
            parts.append(_table(table, "x_peak", "y_peak"))
    return np.concatenate(parts) if parts else np.empty((0, 2))


def _daofind(score: NDArray[np.float32]) -> Positions:
    from photutils.detection import DAOStarFinder

    parts = []
    for sign in (1, -1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = DAOStarFinder(THRESHOLD, 3.7)(score * np.float32(sign))
        if table is not None:
            x = "x_centroid" if "x_centroid" in table.colnames else "xcentroid"
            parts.append(_table(table, x, x.replace("x", "y", 1)))
    return np.concatenate(parts) if parts else np.empty((0, 2))


def _table(table: Any, x: str, y: str) -> Positions:
    return np.stack([np.asarray(table[x], np.float64), np.asarray(table[y], np.float64)], axis=1)

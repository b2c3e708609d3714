"""Stamps of candidates: science, reference and difference on one grid, unmeasured pixels NaN, nothing filled with zeros."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astrid.candidates import planes
from astrid.core.dq import DQ, unusable
from astrid.core.errors import DataSetError
from astrid.core.records import Difference

STAMP_SIZE = 63  # px
_GROUP = 256  # stamps that are judged together
UNMEASURED = DQ.NOT_FINITE | DQ.NO_COVERAGE


def cut_stamps(difference: Difference, candidates: pd.DataFrame, size: int = STAMP_SIZE) -> NDArray[np.float32]:
    """Triplets float32 (n, 3, size, size): science, reference, sign * difference, in the image's unit.

    Centred on the pixel nearest to the detection; any odd size, for a look at the surroundings up to the whole image. NaN
    where the stamp leaves the image (such a candidate is unscorable, see `judge`) and where nothing was measured; the difference
    is also NaN wherever the DQ plane says unusable, while science and reference show what the detector saw there: a saturated
    core or a cosmic ray is evidence to a network and to a person.

    Raises `DataSetError` for an even size, one beyond the stamps' own that no position in the image can fill, or a candidate
    whose position is not in the image.
    """
    _check(difference, candidates, size)
    ix, iy = _pixels(candidates)
    dq = planes.stamps(difference.dq, iy, ix, size // 2, outside=int(DQ.NO_COVERAGE))
    sign = candidates["sign"].to_numpy().astype(np.float32)
    seen = (difference.science, difference.reference, difference.difference)
    stamps = np.stack([planes.stamps(plane, iy, ix, size // 2, outside=np.nan).astype(np.float32, copy=False) for plane in seen], axis=1)
    stamps[:, 2] *= sign[:, None, None]
    unmeasured = (dq & np.uint32(UNMEASURED)) != 0
    stamps[np.broadcast_to(unmeasured[:, None], stamps.shape)] = np.nan
    stamps[:, 2][unusable(dq)] = np.nan
    stamps[~np.isfinite(stamps)] = np.nan
    return stamps


def judge(
    difference: Difference, x: NDArray[np.float64], y: NDArray[np.float64], *, size: int, max_masked: float
) -> tuple[NDArray[np.bool_], list[str]]:
    """Which stamps of `size` px about the positions can be scored, bool (n,), and the reason of each that cannot ("" else)."""
    ny, nx = difference.dq.shape
    ix, iy = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
    half = size // 2
    masked, uncovered = np.zeros(len(x)), np.zeros(len(x))
    for first in range(0, len(x), _GROUP):
        part = slice(first, first + _GROUP)
        bits = planes.stamps(difference.dq, iy[part], ix[part], half, outside=0)
        masked[part] = np.mean(unusable(bits), axis=(1, 2))
        uncovered[part] = np.mean((bits & np.uint32(DQ.NO_COVERAGE)) != 0, axis=(1, 2))
    leaves = (ix < half) | (iy < half) | (ix + half >= nx) | (iy + half >= ny)
    scorable = ~leaves & (masked <= max_masked)
    reasons = []
    for row in range(len(x)):
        if leaves[row]:
            room = int(min(ix[row], nx - 1 - ix[row], iy[row], ny - 1 - iy[row]))
            reasons.append(f"the {size} px stamp leaves the image: {room} px to its edge, {size // 2} are needed")
        elif not scorable[row]:
            share = f"{masked[row]:.0%} of the stamp is unusable ({uncovered[row]:.0%} without reference)"
            reasons.append(f"{share}, {max_masked:.0%} is allowed")
        else:
            reasons.append("")
    return scorable, reasons


def _check(difference: Difference, candidates: pd.DataFrame, size: int) -> None:
    if size < 1 or size % 2 == 0:
        raise DataSetError(f"a stamp of {size} px has no central pixel; ask for an odd size.")
    ny, nx = difference.dq.shape
    largest = max(2 * max(ny, nx) - 1, STAMP_SIZE)
    if size > largest:
        raise DataSetError(f"a stamp of {size} px is larger than the image of {nx} x {ny} px can fill; ask for {largest} at most.")
    x, y = candidates["x"].to_numpy(), candidates["y"].to_numpy()
    inside = (x >= -0.5) & (x <= nx - 0.5) & (y >= -0.5) & (y <= ny - 0.5)
    if not inside.all():
        first = int(np.flatnonzero(~inside)[0])
        raise DataSetError(
            f"candidate {first} at x = {x[first]:.1f}, y = {y[first]:.1f} is not in the image of {nx} x {ny} px; "
            "use the difference it was found in."
        )


def _pixels(candidates: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.rint(candidates["x"].to_numpy(np.float64)).astype(np.int64), np.rint(candidates["y"].to_numpy(np.float64)).astype(np.int64)

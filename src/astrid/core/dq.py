"""Data-quality bits of a pixel, as written to the `DQ` plane (uint32) and named in its header."""

from __future__ import annotations

from enum import IntFlag

import numpy as np
from numpy.typing import NDArray


class DQ(IntFlag):
    """One bit a cause. Reference causes are carried to the science grid and or-ed into the difference's plane."""

    BAD = 1 << 0  # in the detector's bad-pixel mask, or dead
    HOT = 1 << 1  # hot in the dark or bias frame
    SATURATED = 1 << 2  # at or above the saturation level
    BLEED = 1 << 3  # on the bleed trail of a saturated star
    COSMIC_RAY = 1 << 4  # found by the cosmic-ray finder in this single exposure
    EDGE = 1 << 5  # within the margin of the detector's edge, or vignetted
    NOT_FINITE = 1 << 6  # NaN or infinite in the input
    NO_COVERAGE = 1 << 7  # the reference has no data here: outside the footprint
    REFERENCE = 1 << 8  # the cause sits in the reference, not in the science exposure
    INJECTED = 1 << 9  # a simulated transient was added here
    SUSPECT = 1 << 10  # usable with care (given by an archive mask whose meaning is not known)
    CROSSTALK = 1 << 11  # a measured share of another amplifier's charge is expected here
    PERSISTENCE = 1 << 12  # on record as full in an exposure before: charge may be left of it
    BOTH = 1 << 13  # crosstalk or persistence of the science exposure, beside a cause that REFERENCE speaks of


NOTES = DQ.CROSSTALK | DQ.PERSISTENCE  # what may have brightened a pixel that is used all the same
# Pixels with one of these carry no usable flux: they are masked before transforms and measurements.
UNUSABLE = DQ.BAD | DQ.HOT | DQ.SATURATED | DQ.BLEED | DQ.COSMIC_RAY | DQ.NOT_FINITE | DQ.NO_COVERAGE


def unusable(dq: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """True where a pixel carries no usable flux. `dq`: uint32 of any shape; returns bool of the same shape."""
    flagged: NDArray[np.bool_] = (dq & np.uint32(UNUSABLE)) != 0
    return flagged


def names(value: int) -> list[str]:
    """The names of the bits set in `value`, lowest first."""
    return [flag.name for flag in DQ if flag.name and value & flag]

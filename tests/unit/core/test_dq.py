from __future__ import annotations

import numpy as np

from astrid.core.dq import DQ, UNUSABLE, names, unusable


def test_bits_are_distinct_powers_of_two() -> None:
    values = [int(flag) for flag in DQ]
    assert len(set(values)) == len(values)
    assert all(value & (value - 1) == 0 for value in values)


def test_unusable_looks_at_the_right_bits() -> None:
    plane = np.array([0, DQ.SATURATED, DQ.EDGE, DQ.INJECTED, DQ.EDGE | DQ.COSMIC_RAY], dtype=np.uint32)
    assert unusable(plane).tolist() == [False, True, False, False, True]
    assert UNUSABLE & DQ.INJECTED == 0


def test_names() -> None:
    assert names(int(DQ.BAD | DQ.COSMIC_RAY)) == ["BAD", "COSMIC_RAY"]

from __future__ import annotations

import numpy as np
import pytest

from astrid.core.errors import GateError
from astrid.datasets.normalize import NORMALIZATIONS
from astrid.export.parity import Parity, compare, compare_all, damaged_stamps, draw, gate, hostile_inputs, hostile_stamps, normalized_cases


def constant(value):
    return lambda stamps: np.full(len(stamps), value, dtype=np.float32)


CASES = {"zero": np.zeros((3, 3, 63, 63), dtype=np.float32)}


@pytest.mark.parametrize("normalization_id", list(NORMALIZATIONS))
def test_hostile_stamps_are_finite_once_normalised(normalization_id):
    cases = normalized_cases(hostile_stamps(np.random.default_rng(0)), normalization_id)
    assert {"holes", "all masked", "saturated", "infinite", "huge", "tiny", "constant", "zero"} <= set(cases)
    for case, stamps in cases.items():
        assert np.isfinite(stamps).all(), case


def test_hostile_inputs_hold_subnormal_numbers_and_stay_in_range():
    cases = hostile_inputs(np.random.default_rng(0))
    assert all(np.abs(stamps).max() <= 1 for stamps in cases.values())
    assert 0 < np.abs(cases["input subnormal"]).max() < np.finfo(np.float32).tiny


def test_the_largest_difference_and_its_case_are_found():
    parity = compare(constant(0.5), lambda stamps: 0.5 + 0.1 * stamps[:, 0, 0, 0], {**CASES, "one": CASES["zero"] + 1}, batch=2)
    assert parity.worst == "one"
    assert parity.largest == pytest.approx(0.1)
    gate(parity, 0.11, artifact="x")
    with pytest.raises(GateError, match=r"x differs from the network by 1\.00e-01 in probability on the case 'one'"):
        gate(parity, 0.09, artifact="x")


@pytest.mark.parametrize("wrong", [constant(np.nan), lambda stamps: np.zeros((len(stamps), 1), dtype=np.float32)])
def test_a_missing_or_misshapen_score_never_passes(wrong):
    with pytest.raises(GateError, match="differs from the network by inf"):
        gate(compare(constant(0.5), wrong, CASES, batch=2), 1.0, artifact="x")


def test_a_difference_that_is_no_number_never_passes():
    with pytest.raises(GateError):
        gate(Parity({"a": float("nan")}, 1), 1.0, artifact="x")


def test_rows_are_drawn_once_each():
    rows = draw(10, 4, np.random.default_rng(0))
    assert len(set(rows)) == 4
    assert list(rows) == sorted(rows)
    assert list(draw(3, 100, np.random.default_rng(0))) == [0, 1, 2]


def test_damaged_triplets_are_finite_once_normalised_and_damaged():
    rng = np.random.default_rng(0)
    stamps = rng.normal(100, 5, (6, 3, 63, 63)).astype(np.float32)
    cases = damaged_stamps(stamps, rng)
    assert len(cases) == 5
    assert np.isnan(cases["real, holes"]).any()
    assert np.isnan(cases["real, saturated"][:, 2, 31, 31]).all()
    assert (cases["real, empty reference"][:, 1] == 0).all()
    for normalization_id in NORMALIZATIONS:
        for case, normalized in normalized_cases(cases, normalization_id).items():
            assert normalized.shape == stamps.shape, case
            assert np.isfinite(normalized).all(), case


def test_several_artifacts_are_compared_while_the_network_scores_each_stamp_once():
    calls = []

    def network(stamps):
        calls.append(len(stamps))
        return np.full(len(stamps), 0.5, dtype=np.float32)

    found = compare_all(network, {"a": constant(0.5), "b": constant(0.75)}, {**CASES, "more": CASES["zero"]}, batch=2)
    assert (found["a"].largest, found["b"].largest) == (0, 0.25)
    assert found["b"].stamps == 6
    assert sum(calls) == 2 * (1 + 3)  # a single triplet, then all of them

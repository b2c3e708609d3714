"""Every gate passes at its limit, refuses beyond it and refuses what was not measured; its sentence carries the numbers."""

import math
from dataclasses import replace

import pytest

from astrid.registry import gates
from astrid.registry.gates import Built, Difference, refused
from support.registry import BUILT, EDGE, INTEGER, ONNX, QUALITY

NAN = math.nan


def names(found):
    return [gate.name for gate in refused(found)]


@pytest.fixture
def limits(registry_config):
    return registry_config.gates


def test_a_good_model_passes_every_gate(limits):
    found = (
        *gates.origin_gates(BUILT, limits),
        *gates.quality_gates(QUALITY, limits),
        *gates.champion_gates([difference()], limits.champion),
        *gates.onnx_gates(ONNX, limits),
        *gates.integer_gates(INTEGER, limits.integer),
        *gates.edge_gates(EDGE, limits.edgetpu),
        gates.ladder_gate("onnx", above=True),
    )
    assert refused(found) == ()
    assert len(found) == 4 + 4 + 1 + 3 + 6 + 3 + 1


def difference(name="all", metric="aucpr", value=0.0, low=-0.005, high=0.005, positives=100, negatives=100):
    return Difference(name, metric, value, low, high, positives, negatives)


@pytest.mark.parametrize(
    ("change", "gate", "sentence"),
    [
        ({"lock": 2}, "pipeline", "made: 2, above 0"),
        ({"lock": NAN}, "pipeline", "no dvc.lock that names these products"),
        ({"data": 1}, "data", "1, above 0"),
        ({"data": NAN}, "data", "not measured"),
        ({"leaks": 3}, "leakage", "both sides of the split: 3, above 0"),
        ({"leaks": NAN}, "leakage", "not measured"),
    ],
)
def test_where_a_model_comes_from(limits, change, gate, sentence):
    closed = refused(gates.origin_gates(replace(BUILT, **change), limits))
    assert [one.name for one in closed] == [gate]
    assert sentence in closed[0].sentence


def test_a_folder_from_elsewhere_passes_where_the_pipeline_is_not_asked_for(limits):
    assert names(gates.origin_gates(replace(BUILT, lock=NAN), replace(limits, pipeline=False))) == []


@pytest.mark.parametrize(
    ("built", "allowed", "passes", "words"),
    [
        (replace(BUILT, dirty=True), False, False, "not as committed (commit cccccccccccc); commit it"),
        (replace(BUILT, dirty=True), True, True, "not as committed (commit cccccccccccc), which is allowed"),
        (replace(BUILT, commit=""), False, False, "(no commit); commit it"),
        (Built(lock=0, data=0, leaks=0), True, True, "(no commit), which is allowed"),
        (BUILT, False, True, "the code is as committed (commit cccccccccccc)."),
    ],
)
def test_whether_uncommitted_code_may_be_promoted_is_configuration(limits, built, allowed, passes, words):
    code = next(gate for gate in gates.origin_gates(built, replace(limits, dirty=allowed)) if gate.name == "code")
    assert code.passed == passes
    assert words in code.sentence


@pytest.mark.parametrize(
    ("change", "gate", "sentence"),
    [
        ({"replay": 2e-3}, "replay", "0.002, above 0.001"),
        ({"aucpr": 0.79}, "aucpr", "0.79, below 0.8"),
        ({"recall": 0.5}, "recall", "0.5, below 0.9"),
        ({"ece": 0.3}, "calibration", "0.3, above 0.1"),
        *(({name: NAN}, gate, "not measured") for name, gate in
          {"replay": "replay", "aucpr": "aucpr", "recall": "recall", "ece": "calibration"}.items()),
    ],
)  # fmt: skip
def test_how_good_it_is(limits, change, gate, sentence):
    closed = refused(gates.quality_gates(replace(QUALITY, **change), limits))
    assert [one.name for one in closed] == [gate]
    assert sentence in closed[0].sentence


def test_limits_themselves_pass(limits):
    assert names(gates.quality_gates(replace(QUALITY, replay=1e-3, aucpr=0.8, recall=0.9, ece=0.1), limits)) == []
    assert names(gates.champion_gates([difference(low=-0.01)], limits.champion)) == []


@pytest.mark.parametrize(
    ("found", "better", "closed", "words"),
    [
        ([difference(low=-0.02, value=-0.01)], False, ["champion aucpr"], "-0.0100 (-0.0200 to +0.0050), lower end below -0.01"),
        ([difference(low=-0.001)], True, ["champion aucpr"], "not above +0"),
        ([difference(low=0.0)], True, ["champion aucpr"], "not above +0"),
        ([difference(low=0.001, high=0.01)], True, [], "above +0"),
        ([difference(metric="recall", low=-0.03)], False, ["champion recall"], "recall at the threshold"),
        ([difference(metric="recall", low=-0.001)], True, [], "recall at the threshold"),
        ([difference("faint", high=-0.006, low=-0.03)], False, ["slice faint"], "regresses"),
        ([difference("faint", high=-0.004, low=-0.03)], False, [], "does not regress"),
        ([difference("faint", high=-0.5, positives=19)], False, [], "19 real and 100 bogus rows are too few"),
        ([difference(low=NAN, high=NAN)], False, ["champion aucpr"], "nan"),
        ([], False, ["champion"], "not scored on these test rows"),
        (None, False, [], "no other champion"),
    ],
)
def test_against_the_champion(limits, found, better, closed, words):
    judged = gates.champion_gates(found, replace(limits.champion, better=better))
    assert names(judged) == closed
    assert words in judged[0].sentence


@pytest.mark.parametrize(
    ("function", "good", "change", "gate"),
    [
        ("onnx_gates", ONNX, {"parity": 2e-4}, "parity"),
        ("onnx_gates", ONNX, {"parity": NAN}, "parity"),
        ("onnx_gates", ONNX, {"bytes": 3e8}, "size"),
        ("onnx_gates", ONNX, {"milliseconds": 101}, "latency"),
        ("integer_gates", INTEGER, {"aucpr_loss": 0.0021}, "aucpr loss"),
        ("integer_gates", INTEGER, {"aucpr_loss": NAN}, "aucpr loss"),
        ("integer_gates", INTEGER, {"recall_loss": 0.004}, "recall loss"),
        ("integer_gates", INTEGER, {"calibration_stamps": 0}, "ranges"),
        ("integer_gates", INTEGER, {"calibration_stamps": NAN}, "ranges"),
        ("integer_gates", INTEGER, {"unmapped": 1}, "operators"),
        ("integer_gates", INTEGER, {"unmapped": NAN}, "operators"),
        ("integer_gates", INTEGER, {"bytes": 6e7}, "size"),
        ("integer_gates", INTEGER, {"milliseconds": NAN}, "latency"),
        ("edge_gates", EDGE, {"unmapped": 1}, "compiled operators"),
        ("edge_gates", EDGE, {"unmapped": NAN}, "compiled operators"),
        ("edge_gates", EDGE, {"streamed": 9e6}, "streamed weights"),
        ("edge_gates", EDGE, {"bytes": NAN}, "compiled size"),
    ],
)
def test_an_artifact(limits, function, good, change, gate):
    own = {"onnx_gates": limits, "integer_gates": limits.integer, "edge_gates": limits.edgetpu}[function]
    assert names(getattr(gates, function)(good, own)) == []
    assert names(getattr(gates, function)(replace(good, **change), own)) == [gate]


def test_the_rung_below_must_stand():
    closed = gates.ladder_gate("onnx", above=False)
    assert not closed.passed
    assert "is not the champion of onnx" in closed.sentence


def test_table_and_record_name_every_gate_and_leave_out_what_was_timed(limits):
    found = (*gates.quality_gates(replace(QUALITY, recall=0.5), limits), *gates.onnx_gates(ONNX, limits))
    table, record = gates.gate_table(found), gates.gate_record(found)
    assert all(gate.name in table for gate in found)
    assert table.count("REFUSED") == 1
    assert record["latency"] == {"limit": 100.0, "passed": True}
    assert record["recall"]["measured"] == 0.5

import math
from dataclasses import fields, replace

import pytest

from astrid.config.schema.registry import GateLimits
from astrid.registry.card import registry_card
from astrid.registry.gates import Measured, check_gates, gate_table, refused

LIMITS = GateLimits(aucpr_floor=0.8, champion_margin=0.01, recall_floor=0.9, calibration_ece=0.1, parity=1e-4)
GOOD = Measured(leaks=0, aucpr=0.95, recall=0.97, ece=0.02, parity=1e-6, champion_aucpr=0.955)


def test_a_good_model_passes_every_gate():
    assert refused(check_gates(GOOD, LIMITS)) == ()


@pytest.mark.parametrize(
    ("change", "gate", "sentence"),
    [
        ({"leaks": 2}, "leakage", "2, above 0"),
        ({"aucpr": 0.79, "champion_aucpr": math.nan}, "aucpr", "0.79, below 0.8"),
        ({"champion_aucpr": 0.97}, "champion", "0.95, below 0.96"),
        ({"recall": 0.5}, "recall", "0.5, below 0.9"),
        ({"ece": 0.3}, "calibration", "0.3, above 0.1"),
        ({"parity": 1e-3}, "parity", "0.001, above 0.0001"),
    ],
)
def test_one_bad_number_closes_one_gate_and_its_sentence_carries_the_numbers(change, gate, sentence):
    closed = refused(check_gates(replace(GOOD, **change), LIMITS))
    assert [g.name for g in closed] == [gate]
    assert sentence in closed[0].sentence


def test_limits_themselves_pass():
    at_limits = Measured(leaks=0, aucpr=0.8, recall=0.9, ece=0.1, parity=1e-4, champion_aucpr=0.81)
    assert refused(check_gates(at_limits, LIMITS)) == ()


@pytest.mark.parametrize("name", [field.name for field in fields(Measured) if field.name != "champion_aucpr"])
def test_what_was_not_measured_does_not_pass(name):
    assert refused(check_gates(replace(GOOD, **{name: math.nan}), LIMITS))


def test_the_first_model_needs_no_champion():
    gates = check_gates(replace(GOOD, champion_aucpr=math.nan), LIMITS)
    assert refused(gates) == ()
    assert "no champion" in next(gate.sentence for gate in gates if gate.name == "champion")


def test_table_and_card_name_every_gate(tiny_model):
    import json

    gates = check_gates(replace(GOOD, recall=0.5), LIMITS)
    table = gate_table(gates)
    card = registry_card(json.loads((tiny_model / "model.json").read_text()), gates, {"splits": "abc"})
    for gate in gates:
        assert gate.name in table
        assert f"| {gate.name} |" in card
    assert "REFUSED" in table
    assert "`abc`" in card

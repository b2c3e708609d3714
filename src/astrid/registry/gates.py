"""Promotion gates: measured numbers against limits, nothing else. Pure functions; a number that is absent does not pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from astrid.config.schema.registry import GateLimits

_MISSING = float("nan")


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of a model when it asks for promotion; NaN where it was not measured."""

    leaks: float = _MISSING  # events, cells, exposures and duplicate stamps on both sides of the split
    aucpr: float = _MISSING  # on test
    recall: float = _MISSING  # on test at the model's threshold
    ece: float = _MISSING  # on test
    parity: float = _MISSING  # largest |network - artifact|
    champion_aucpr: float = _MISSING  # the champion's test AUCPR; NaN without a champion or with other test rows


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate's verdict."""

    name: str
    measured: float
    limit: float
    passed: bool
    sentence: str


def check_gates(measured: Measured, limits: GateLimits) -> tuple[Gate, ...]:
    """Every gate, in order: leakage, aucpr, champion, recall, calibration, parity."""
    return (
        _at_most("leakage", measured.leaks, 0, "groups stand on both sides of the split"),
        _at_least("aucpr", measured.aucpr, limits.aucpr_floor, "AUCPR on test"),
        _champion(measured, limits.champion_margin),
        _at_least("recall", measured.recall, limits.recall_floor, "recall on test at the threshold"),
        _at_most("calibration", measured.ece, limits.calibration_ece, "expected calibration error on test"),
        _at_most("parity", measured.parity, limits.parity, "largest difference between network and artifact"),
    )


def refused(gates: Sequence[Gate]) -> tuple[Gate, ...]:
    """The gates that did not pass."""
    return tuple(gate for gate in gates if not gate.passed)


def gate_table(gates: Sequence[Gate]) -> str:
    """The gates as lines of text: name, measured, limit, verdict."""
    lines = [f"{'gate':<12} {'measured':>12} {'limit':>12}  verdict"]
    lines += [f"{g.name:<12} {g.measured:>12.6g} {g.limit:>12.6g}  {'passed' if g.passed else 'REFUSED'}: {g.sentence}" for g in gates]
    return "\n".join(lines)


def _at_least(name: str, measured: float, limit: float, what: str) -> Gate:
    if math.isnan(measured):
        return Gate(name, measured, limit, False, f"the {what} was not measured.")
    passed = measured >= limit
    return Gate(name, measured, limit, passed, f"the {what} is {measured:.4g}, {'at least' if passed else 'below'} {limit:.4g}.")


def _at_most(name: str, measured: float, limit: float, what: str) -> Gate:
    if math.isnan(measured):
        return Gate(name, measured, limit, False, f"it was not measured how large this is: {what}.")
    passed = measured <= limit
    return Gate(name, measured, limit, passed, f"{what}: {measured:.4g}, {'at most' if passed else 'above'} {limit:.4g}.")


def _champion(measured: Measured, margin: float) -> Gate:
    if math.isnan(measured.champion_aucpr):
        return Gate("champion", measured.aucpr, _MISSING, True, "there is no champion measured on the same test rows.")
    limit = measured.champion_aucpr - margin
    return _at_least("champion", measured.aucpr, limit, "AUCPR against the champion's less the margin")

"""Promotion gates: measured numbers against limits, nothing else. Pure functions; a number that is absent does not pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from astrid.config.schema.registry import ChampionLimits, EdgeLimits, GateLimits, IntegerLimits, TargetLimits

MEGA = 1e6  # bytes
MISSING = float("nan")
TIMED = "latency"  # the one gate whose number is not the same twice


@dataclass(frozen=True, slots=True)
class Built:
    """How a model came to be. Counts are NaN where nothing is known."""

    lock: float = MISSING  # products of the pipeline that are not what dvc.lock says `dvc repro` made
    commit: str = ""  # of the code; empty outside a repository
    dirty: bool = True  # code or settings differ from the commit
    data: float = MISSING  # digests of triplets, split and training that are not recorded, or of other data than is here
    leaks: float = MISSING  # events, cells, exposures and copies of stamps on both sides of the split


@dataclass(frozen=True, slots=True)
class Quality:
    """The float artifact on the frozen test rows, as its folder scores them. NaN where it was not measured."""

    aucpr: float = MISSING
    recall: float = MISSING  # at the model's threshold
    ece: float = MISSING  # expected calibration error
    replay: float = MISSING  # largest |probability - the one that evaluation measured|, raw and calibrated


@dataclass(frozen=True, slots=True)
class Artifact:
    """One artifact of a model. NaN where it was not measured."""

    bytes: float = MISSING
    milliseconds: float = MISSING  # a triplet, on a CPU
    parity: float = MISSING  # largest |network - artifact|
    aucpr_loss: float = MISSING  # against the float artifact on the test rows
    recall_loss: float = MISSING  # at the model's threshold
    calibration_stamps: float = MISSING  # that the ranges of an integer artifact were measured on
    unmapped: float = MISSING  # operators that the Edge TPU cannot run
    streamed: float = MISSING  # bytes of weights that do not fit on the chip


@dataclass(frozen=True, slots=True)
class Difference:
    """A model minus the champion on the same rows, with its paired interval over events."""

    name: str  # "all" or a slice, e.g. "survey simdeep"
    metric: str  # aucpr or recall
    value: float
    low: float
    high: float
    positives: int
    negatives: int


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate's verdict."""

    name: str
    measured: float
    limit: float
    passed: bool
    sentence: str


def origin_gates(built: Built, limits: GateLimits) -> tuple[Gate, ...]:
    """Where a model comes from: pipeline, code, data, leakage."""
    return (
        _pipeline(built.lock, required=limits.pipeline),
        _code(built, allowed=limits.dirty),
        _at_most("data", built.data, 0, "digests of triplets, split and training that are absent or of other data"),
        _at_most("leakage", built.leaks, 0, "groups stand on both sides of the split"),
    )


def quality_gates(quality: Quality, limits: GateLimits) -> tuple[Gate, ...]:
    """How good it is on the frozen test rows: replay, aucpr, recall, calibration."""
    return (
        _at_most("replay", quality.replay, limits.replay, "largest difference between the folder's scores and those that were evaluated"),
        _at_least("aucpr", quality.aucpr, limits.aucpr_floor, "AUCPR on test"),
        _at_least("recall", quality.recall, limits.recall_floor, "recall on test at the threshold"),
        _at_most("calibration", quality.ece, limits.calibration_ece, "expected calibration error on test"),
    )


def champion_gates(differences: Sequence[Difference] | None, limits: ChampionLimits) -> tuple[Gate, ...]:
    """Against the champion on the same rows. `differences`: None where there is no champion, empty where it could not be compared."""
    if differences is None:
        return (Gate("champion", MISSING, MISSING, True, "there is no other champion to be measured against."),)
    if not differences:
        return (Gate("champion", MISSING, MISSING, False, "the champion was not scored on these test rows; run the stage register here."),)
    return tuple(_against(found, limits) for found in differences)


def onnx_gates(artifact: Artifact, limits: GateLimits) -> tuple[Gate, ...]:
    """The float artifact: parity, size, latency."""
    return (
        _at_most("parity", artifact.parity, limits.parity, "largest difference between network and artifact"),
        *_weight(artifact, limits.onnx),
    )


def integer_gates(artifact: Artifact, limits: IntegerLimits) -> tuple[Gate, ...]:
    """The integer artifact against the float one: aucpr loss, recall loss, ranges, operators, size, latency."""
    return (
        _at_most("aucpr loss", artifact.aucpr_loss, limits.aucpr_loss, "AUCPR that the integer artifact loses"),
        _at_most("recall loss", artifact.recall_loss, limits.recall_loss, "recall at the threshold that the integer artifact loses"),
        _at_least("ranges", artifact.calibration_stamps, limits.calibration_stamps, "number of stamps that its ranges were measured on"),
        _at_most("operators", artifact.unmapped, limits.unmapped, "operators that the Edge TPU cannot run"),
        *_weight(artifact, limits),
    )


def edge_gates(artifact: Artifact, limits: EdgeLimits) -> tuple[Gate, ...]:
    """The compiled artifact, by the compiler's log: compiled operators, streamed weights, compiled size."""
    return (
        _at_most("compiled operators", artifact.unmapped, limits.unmapped, "operators that the compiler left on the CPU"),
        _at_most("streamed weights", artifact.streamed / MEGA, limits.streamed_megabytes, "10^6 bytes of weights that do not fit the chip"),
        _at_most("compiled size", artifact.bytes / MEGA, limits.megabytes, "10^6 bytes of the compiled artifact"),
    )


def ladder_gate(rung: str, *, above: bool) -> Gate:
    """The rung below must stand: `above` says whether this very version is the champion of `rung`."""
    told = "is" if above else "is not"
    return Gate("ladder", float(above), 1.0, above, f"this version {told} the champion of {rung}, which the next target needs.")


def refused(gates: Sequence[Gate]) -> tuple[Gate, ...]:
    """The gates that did not pass."""
    return tuple(gate for gate in gates if not gate.passed)


def gate_table(gates: Sequence[Gate]) -> str:
    """The gates as lines of text: name, measured, limit, verdict."""
    width = max([12, *(len(gate.name) for gate in gates)])
    lines = [f"{'gate':<{width}} {'measured':>12} {'limit':>12}  verdict"]
    lines += [f"{g.name:<{width}} {g.measured:>12.6g} {g.limit:>12.6g}  {'passed' if g.passed else 'REFUSED'}: {g.sentence}" for g in gates]
    return "\n".join(lines)


def gate_record(gates: Iterable[Gate]) -> dict[str, Any]:
    """The gates as plain data by name; what was timed is left out, so that the same model gives the same record."""
    return {
        gate.name: {"limit": gate.limit, "passed": gate.passed}
        | ({} if gate.name == TIMED else {"measured": gate.measured, "sentence": gate.sentence})
        for gate in gates
    }


def _pipeline(changed: float, *, required: bool) -> Gate:
    if not required:
        return Gate("pipeline", changed, MISSING, True, "any model folder may be promoted (registry.gates.pipeline is false).")
    if math.isnan(changed):
        return Gate("pipeline", changed, 0, False, "there is no dvc.lock that names these products; build the model with `dvc repro`.")
    return _at_most("pipeline", changed, 0, "products that are not what dvc.lock says `dvc repro` made")


def _code(built: Built, *, allowed: bool) -> Gate:
    clean = bool(built.commit) and not built.dirty
    where = f"commit {built.commit[:12]}" if built.commit else "no commit"
    state = "the code is as committed" if clean else "the code is not as committed"
    tail = "" if clean else ", which is allowed" if allowed else "; commit it and run `dvc repro`"
    return Gate("code", float(not clean), float(allowed), clean or allowed, f"{state} ({where}){tail}.")


def _against(found: Difference, limits: ChampionLimits) -> Gate:
    interval = f"{found.value:+.4f} ({found.low:+.4f} to {found.high:+.4f})"
    if found.name != "all":
        name = f"slice {found.name}"
        if min(found.positives, found.negatives) < limits.slice_rows:
            counts = f"{found.positives} real and {found.negatives} bogus rows"
            return Gate(name, found.high, -limits.slice_margin, True, f"{counts} are too few to judge.")
        passed = found.high >= -limits.slice_margin
        told = "does not regress" if passed else "regresses"
        return Gate(name, found.high, -limits.slice_margin, passed, f"the slice {told}: AUCPR against the champion's {interval}.")
    margin = limits.aucpr_margin if found.metric == "aucpr" else limits.recall_margin
    asked = limits.better and found.metric == "aucpr"
    limit = 0.0 if asked else -margin
    passed = found.low > limit if asked else found.low >= limit
    what = "AUCPR" if found.metric == "aucpr" else "recall at the threshold"
    told = f"{'above' if passed else 'not above'} {limit:+.4g}" if asked else f"{'at least' if passed else 'below'} {limit:+.4g}"
    return Gate(f"champion {found.metric}", found.low, limit, passed, f"{what} against the champion's: {interval}, lower end {told}.")


def _weight(artifact: Artifact, limits: TargetLimits | IntegerLimits) -> tuple[Gate, Gate]:
    return (
        _at_most("size", artifact.bytes / MEGA, limits.megabytes, "10^6 bytes of the artifact"),
        _at_most(TIMED, artifact.milliseconds, limits.milliseconds, "milliseconds a triplet"),
    )


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

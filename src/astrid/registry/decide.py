"""One decision on one version: read its evidence, judge its gates against the limits, promote or refuse, and write it down."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from astrid.config.schema.registry import RegistryConfig
from astrid.registry import evidence as evidences
from astrid.registry import promote as ladder
from astrid.registry.evidence import Evidence
from astrid.registry.gates import Gate, refused
from astrid.registry.journal import Journal
from astrid.registry.versions import Version, version

_EDGE = "edgetpu"
_INTEGER = "tflite-int8"
_THRESHOLD_TAG = "astrid.threshold"


@dataclass(frozen=True)
class Outcome:
    """What was decided. `targets`: the rungs that the version took, empty when it was refused; `note`: what is left to do."""

    version: Version
    gates: tuple[Gate, ...]
    targets: tuple[str, ...]
    note: str = ""

    @property
    def promoted(self) -> bool:
        """Whether every gate passed."""
        return bool(self.targets)


def decide(one: Version, to: str, cfg: RegistryConfig, *, why: str) -> Outcome:
    """Judge a version for a target and promote it there, or note its refusal.

    On the way to `edgetpu` the integer artifact takes its own rung; where nothing is compiled yet the way ends there, and the
    outcome's note says so. Raises `RegistryError` without evidence and `OvertakenError` when somebody else promoted meanwhile.
    """
    ladder.alias_of(to)
    journal = ladder.settle(one.name)
    found = evidences.read(one)
    if to != _EDGE:
        return _conclude(journal, one, (to,), _gates(journal, one, to, found, cfg), why)
    gates = _gates(journal, one, _INTEGER, found, cfg)
    if _EDGE in found.artifacts and not refused(gates):
        return _conclude(journal, one, (_INTEGER, _EDGE), (*gates, *evidences.judge(_EDGE, found, None, above=True, cfg=cfg)), why)
    note = f"The promotion ends at the integer artifact: nothing is compiled yet. `astrid registry compile {one.version}` finishes it"
    return _conclude(journal, one, (_INTEGER,), gates, why, f"{note} on a machine that has edgetpu_compiler.")


def _gates(journal: Journal, one: Version, target: str, found: Evidence, cfg: RegistryConfig) -> tuple[Gate, ...]:
    lower = ladder.below(target)
    above = lower is None or journal.aliases.get(ladder.alias_of(lower)) == one.version
    against = _champion(journal, one, found.rows) if target == "onnx" else None
    return evidences.judge(target, found, against, above=above, cfg=cfg)


def _champion(journal: Journal, one: Version, rows: str) -> tuple[pd.DataFrame | None, float] | None:
    number = journal.aliases.get(ladder.alias_of("onnx"))
    if number is None or number == one.version:
        return None
    champion = version(one.name, number)
    return evidences.scores_on(champion, rows), champion.number(_THRESHOLD_TAG)


def _conclude(journal: Journal, one: Version, targets: tuple[str, ...], gates: tuple[Gate, ...], why: str, note: str = "") -> Outcome:
    if refused(gates):
        ladder.refuse(journal, one, targets[-1], gates)
        return Outcome(version(one.name, one.version), gates, ())
    return Outcome(ladder.promote(journal, one, targets, gates, why=why), gates, targets, note)

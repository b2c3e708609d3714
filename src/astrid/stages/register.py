"""Stage register: check the gates, register the model folder in MLflow and promote it to `onnx-champion`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from astrid.config.params import settings
from astrid.config.schema import RegistryConfig
from astrid.core.errors import GateError, InputError
from astrid.core.provenance import digest_file
from astrid.core.runtime import log, write_json
from astrid.export.folder import read_manifest
from astrid.registry import promote
from astrid.registry.card import registry_card
from astrid.registry.gates import Gate, Measured, check_gates, gate_table, refused
from astrid.registry.tracking import Run, resume_run
from astrid.serving.engine import describe
from astrid.stages.common import run

MODEL = Path("models/export")
OPERATING_POINT = Path("models/evaluate/operating_point.json")
EVALUATION = Path("reports/evaluate.json")
SPLIT = Path("reports/split.json")
EXPORT = Path("reports/export.json")
SPLITS_TABLE = Path("data/splits/splits.parquet")
REPORT = Path("reports/register.json")
TEST_TAG = "astrid.test_digest"
AUCPR_TAG = "astrid.aucpr"


def main() -> None:
    """Read models/export, models/evaluate and the reports; write reports/register.json and the registry."""
    cfg = settings(RegistryConfig, "registry")
    describe(MODEL)  # the graph is the one that its manifest was written for
    manifest = read_manifest(MODEL)
    evaluation = _read(EVALUATION, "evaluate")
    operating_point = _read(OPERATING_POINT, "evaluate")
    test_digest = digest_file(SPLITS_TABLE)
    digest = promote.model_digest(MODEL)
    champion = promote.champion(cfg.model_name)
    measured = measure(evaluation, _read(SPLIT, "split"), _read(EXPORT, "export"), _champion_aucpr(champion, digest, test_digest))
    gates = check_gates(measured, cfg.gates)
    lineage = {**{name: str(value) for name, value in manifest["data"].items()}, "splits": test_digest, "model": digest}
    with resume_run(str(manifest["data"]["training"])) as tracked:
        tags = {AUCPR_TAG: measured.aucpr, "astrid.threshold": operating_point["threshold"], TEST_TAG: test_digest, **_prefixed(lineage)}
        version = promote.register(MODEL, tracked, tags=tags, name=cfg.model_name)
        _document(tracked, version, registry_card(manifest, gates, lineage))
    if not refused(gates):
        version = promote.promote(version, gates)
    write_json(REPORT, record(version, gates, digest))
    _conclude(version, gates, fatal=cfg.fatal)


def measure(evaluation: Mapping[str, Any], split: Mapping[str, Any], export: Mapping[str, Any], champion_aucpr: float) -> Measured:
    """The gates' numbers from the reports; what a report does not hold is NaN, and a gate refuses it."""
    leaks = split.get("audit", {}).get("leaks")
    return Measured(
        leaks=float(sum(leaks.values())) if isinstance(leaks, Mapping) else math.nan,
        aucpr=_number(evaluation, "test.aucpr"),
        recall=_number(evaluation, "test.recall"),
        ece=_number(evaluation, "test.ece"),
        parity=_number(export, "largest_difference"),
        champion_aucpr=champion_aucpr,
    )


def record(version: promote.Version, gates: tuple[Gate, ...], digest: str) -> dict[str, Any]:
    """What reports/register.json says."""
    return {
        "name": version.name,
        "version": version.version,
        "aliases": list(version.aliases),
        "digest": digest,
        "promoted": not refused(gates),
        "gates": {
            gate.name: {"measured": gate.measured, "limit": gate.limit, "passed": gate.passed, "sentence": gate.sentence} for gate in gates
        },
    }


def _champion_aucpr(champion: promote.Version | None, digest: str, test_digest: str) -> float:
    """The champion's test AUCPR where it is another model measured on the same test rows, else NaN."""
    if champion is None or champion.tags.get(promote.DIGEST_TAG) == digest or champion.tags.get(TEST_TAG) != test_digest:
        return math.nan
    return champion.number(AUCPR_TAG)


def _document(tracked: Run, version: promote.Version, card: str) -> None:
    tracked.set_tags({"astrid.model": f"{version.name}/{version.version}"})
    promote.describe(version, card)


def _conclude(version: promote.Version, gates: tuple[Gate, ...], *, fatal: bool) -> None:
    log.info("register: %s version %d, aliases %s\n%s", version.name, version.version, ", ".join(version.aliases), gate_table(gates))
    closed = refused(gates)
    if not closed:
        return
    sentence = (
        f"version {version.version} of {version.name} is not promoted, {len(closed)} of {len(gates)} gates refuse: {closed[0].sentence}"
    )
    if fatal:
        raise GateError(f"{sentence} See {REPORT}, and train anew or change registry.gates.")
    log.warning("register: %s It stays a candidate.", sentence)


def _read(path: Path, stage: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; run the stage {stage}.") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not readable JSON ({error}); run the stage {stage} again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no mapping; run the stage {stage} again.")
    return content


def _number(content: Mapping[str, Any], name: str) -> float:
    value = content.get(name)
    return float(value) if isinstance(value, int | float) else math.nan


def _prefixed(lineage: Mapping[str, str]) -> dict[str, str]:
    return {f"astrid.from.{name.replace(' ', '_')}": value for name, value in lineage.items()}


if __name__ == "__main__":
    run(main)

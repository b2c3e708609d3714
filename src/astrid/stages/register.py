"""Stage register: score the frozen test rows with the model folder, keep both in MLflow, and promote what passes the gates.

What a gate judges is measured here, on the folder as consumers load it: its own normalisation, calibration and artifacts on the
test triplets. What evaluation wrote is only what those scores are compared with.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from astrid.config.params import settings
from astrid.config.schema import RegistryConfig
from astrid.core.errors import GateError, InputError, MissingDependencyError
from astrid.core.provenance import digest_file, digest_settings, git_state
from astrid.core.runtime import log, write_bytes, write_json
from astrid.export.folder import CARD_FILE, MANIFEST_FILE, read_manifest
from astrid.io.shards import TripletStore
from astrid.io.tables import EVALUATED, SPLITS, read_table
from astrid.registry import evidence as evidences
from astrid.registry import lineage, promote, versions
from astrid.registry.card import CardInputs, registry_card, short_card
from astrid.registry.card_facts import training
from astrid.registry.compare import TEST_SCORES, quality, rows_digest
from astrid.registry.compile import artifact_entry
from astrid.registry.decide import Outcome, decide
from astrid.registry.evidence import Evidence
from astrid.registry.gates import Artifact, Built, Gate, Quality, gate_record, gate_table, refused
from astrid.registry.journal import OvertakenError
from astrid.registry.tracking import resume_run
from astrid.registry.versions import EVIDENCE, Version
from astrid.serving.engine import ScoringEngine, describe
from astrid.stages.common import run

MODEL = Path("models/export")
OPERATING_POINT = Path("models/evaluate/operating_point.json")
SCORES = Path("data/scores/scores.parquet")
TRIPLETS = Path("data/triplets")
SPLITS_TABLE = Path("data/splits/splits.parquet")
EVALUATION = Path("reports/evaluate.json")
SPLIT = Path("reports/split.json")
SLICES = Path("reports/plots/slices.csv")
EXPORTED = Path("reports/export.json")
REPORT = Path("reports/register.json")
CARD = Path("reports/card.md")

PRODUCTS = (
    "models/export",
    "models/evaluate",
    "data/scores",
    "data/triplets",
    "data/splits",
    "reports/evaluate.json",
    "reports/split.json",
)
CODE = ("src", "conf", "params.yaml", "dvc.yaml", "pyproject.toml", "constraints.txt")  # what the dirty flag looks at
PICTURES = ("figures/gallery_missed.png", "figures/gallery_false_alarms.png", "export/losses_by_snr.png")  # of the card, in reports/
PACKAGES = ("astrid", "numpy", "scipy", "astropy", "scikit-learn", "torch", "onnx", "onnxruntime", "ai-edge-litert", "mlflow")
TARGETS = ("onnx", "tflite-int8")
_BATCH = 256
_TRIES = 5  # others that may promote while this stage judges


def main() -> None:
    """Read the model folder, triplets, split, scores and reports; write reports/register.json, reports/card.md and the registry."""
    cfg = settings(RegistryConfig, "registry")
    describe(MODEL)  # every artifact is the one that its manifest was written for
    manifest = read_manifest(MODEL)
    stages = lineage.read_lock()
    table = test_rows()
    evidence = gather(manifest, stages, table, cfg)
    digests = {**{name: str(value) for name, value in manifest["data"].items()}, "splits": digest_file(SPLITS_TABLE)}
    digests |= {"model": versions.model_digest(MODEL), "commit": evidence.built.commit or "none", "test rows": evidence.rows}
    if stages:
        digests["parameters"] = digest_settings(lineage.parameters(stages, str(MODEL)))
    with resume_run(str(manifest["data"]["training"])) as tracked:
        version = versions.keep(MODEL, tracked, tags=_tags(evidence, digests), name=cfg.model_name)
        tracked.set_tags({"astrid.model": f"{version.name}/{version.version}"})
    with _folder() as folder:
        evidences.write(_with_compiled(evidence, version), folder)
        write_json(folder / "lineage.json", _lineage(stages, digests))
        versions.add_files(version, folder, EVIDENCE)
    version = promote.nominate(version, f"test AUCPR {evidence.quality.aucpr:.4f} on {len(table)} rows of {evidence.rows}")
    outcome = _decide(version, table, cfg)
    _document(outcome.version, card_inputs(manifest, outcome.gates, digests, evidence.built, stages or {}))
    write_json(REPORT, record(outcome, digests["model"]))
    _conclude(outcome, fatal=cfg.fatal)


def test_rows() -> pd.DataFrame:
    """The labelled test rows with what evaluation scored (columns evaluated, evaluated_raw), and `row`, their place in the store."""
    scores = read_table(SCORES, EVALUATED)
    test = scores.loc[scores["part"] == "test", ["candidate_id", "label", "score", "raw_score"]]
    test = test.rename(columns={"score": "evaluated", "raw_score": "evaluated_raw"})
    store = TripletStore.open(TRIPLETS).table
    store = store.assign(row=np.arange(len(store))).drop(columns=["label"])
    parts = read_table(SPLITS_TABLE, SPLITS)
    held_out = set(parts.loc[parts["part"] == "test", "candidate_id"])
    rows = test.merge(store, on="candidate_id", how="left")
    strangers = int(rows["row"].isna().sum() + (~rows["candidate_id"].isin(held_out)).sum())
    if strangers or rows.empty:
        raise InputError(f"{strangers} of {len(test)} scored rows of {SCORES} are not test rows of {SPLITS_TABLE}; run the stage evaluate.")
    return rows.astype({"row": np.int64})


def gather(manifest: dict[str, Any], stages: Mapping[str, Any] | None, table: pd.DataFrame, cfg: RegistryConfig) -> Evidence:
    """Everything that the gates judge, measured on the model folder. A target that this machine cannot run has no scores."""
    if not artifact_entry(manifest, "onnx"):
        raise InputError(f"{MODEL / MANIFEST_FILE} names no artifact for onnx; run the stage export again.")
    rows, threshold = rows_digest(table), float(manifest["threshold"])
    scores: dict[str, pd.DataFrame] = {}
    artifacts: dict[str, Artifact] = {}
    for target in TARGETS:
        entry = artifact_entry(manifest, target)
        if not entry:
            continue
        artifacts[target] = _declared(entry, target)
        try:
            scores[target], milliseconds = rescore(MODEL, target, table)
        except MissingDependencyError as error:
            log.warning("register: %s is not measured here: %s", target, error)
            continue
        losses = {} if target == "onnx" else evidences.measured_losses(scores[target], scores["onnx"], threshold)
        artifacts[target] = replace(artifacts[target], milliseconds=milliseconds, **losses)
    float_scores = scores["onnx"]
    reached = Quality(**quality(float_scores, threshold, cfg.gates.calibration_bins), replay=_replay(float_scores, table))
    return Evidence(rows, threshold, built(manifest, stages), reached, artifacts, scores)


def rescore(folder: Path, target: str, table: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """A model folder's own scores of the test rows as `TEST_SCORES`, and the milliseconds a triplet that scoring took."""
    engine = ScoringEngine.load(folder, batch=_BATCH, target=target)
    store = TripletStore.open(TRIPLETS)
    places = table["row"].to_numpy()
    raw, calibrated, seconds = [], [], 0.0
    for start in range(0, len(places), _BATCH):
        stamps = store.stamps(places[start : start + _BATCH])
        began = time.perf_counter()
        found = engine.score(stamps)
        seconds += time.perf_counter() - began
        raw.append(found.raw)
        calibrated.append(found.calibrated)
    frame = table.assign(raw_score=np.concatenate(raw).astype(np.float64), score=np.concatenate(calibrated))
    names = [column.name for column in TEST_SCORES.columns]
    return frame[names], 1e3 * seconds / len(places)


def built(manifest: Mapping[str, Any], stages: Mapping[str, Any] | None) -> Built:
    """How the model came to be: the lock file, the commit, the digests of its data, the audit of its split."""
    split = _read(SPLIT, "split")
    leaks = split.get("audit", {}).get("leaks")
    recorded = {name: str(manifest["data"].get(name, "")) for name in ("triplets", "splits", "training")}
    here = {"triplets": TripletStore.open(TRIPLETS).digest, "splits": digest_file(SPLITS_TABLE), "training": recorded["training"]}
    foreign = [name for name, digest in recorded.items() if not digest or digest != here[name]]
    foreign += ["audit"] if split.get("triplets_digest", recorded["triplets"]) != recorded["triplets"] else []
    code = git_state(Path(), CODE)
    others = [] if stages is None else lineage.changed(stages, PRODUCTS)
    for name in (*foreign, *others):
        log.warning("register: %s is not what the model was made from", name)
    return Built(
        lock=math.nan if stages is None else float(len(others)),
        commit=str(code["commit"]),
        dirty=bool(code["dirty"]),
        data=float(len(foreign)),
        leaks=float(sum(leaks.values())) if isinstance(leaks, Mapping) else math.nan,
    )


def record(outcome: Outcome, digest: str) -> dict[str, Any]:
    """What reports/register.json says; the same model gives the same bytes."""
    return {
        "name": outcome.version.name,
        "version": outcome.version.version,
        "aliases": list(outcome.version.aliases),
        "digest": digest,
        "promoted": outcome.promoted,
        "gates": gate_record(outcome.gates),
    }


def _declared(entry: Mapping[str, Any], target: str) -> Artifact:
    """What is known of an artifact without scoring: what the exporter measured, and for an integer one which operators are mapped."""
    quantization = entry.get("quantization", {})
    device = quantization.get("edgetpu", {})
    unmapped, streamed = _number(device, "unmapped"), _number(device, "expected_streamed_bytes")
    if target == "tflite-int8":
        from astrid.export.edgetpu import operator_map

        try:
            found = operator_map((MODEL / entry["file"]).read_bytes())
            unmapped, streamed = float(len(found.operators) - found.mapped), float(found.streamed)
        except MissingDependencyError as error:
            log.warning("register: the operators of %s are as the exporter counted them: %s", entry["file"], error)
    return Artifact(
        bytes=_number(entry, "bytes"),
        parity=_number(entry.get("parity", {}), "largest_difference"),
        calibration_stamps=_number(quantization, "calibration_stamps"),
        unmapped=unmapped,
        streamed=streamed,
    )


def _with_compiled(found: Evidence, version: Version) -> Evidence:
    """The evidence with what a compiler has said of this version already: compiling is no part of this stage."""
    if versions.COMPILED_TAG not in version.tags:
        return found
    known = evidences.read(version).artifacts
    return replace(found, artifacts={**found.artifacts, versions.COMPILED: known[versions.COMPILED]})


def _replay(frame: pd.DataFrame, table: pd.DataFrame) -> float:
    """Largest difference between the folder's scores and those that evaluation measured, before and after calibration."""
    raw = np.abs(frame["raw_score"].to_numpy() - table["evaluated_raw"].to_numpy())
    calibrated = np.abs(frame["score"].to_numpy() - table["evaluated"].to_numpy())
    return float(np.maximum(raw, calibrated).max())


def _decide(version: Version, table: pd.DataFrame, cfg: RegistryConfig) -> Outcome:
    """Judge and promote; what somebody else promotes meanwhile is the champion that the next try is judged against."""
    for left in reversed(range(_TRIES)):
        journal = promote.settle(version.name)
        _score_champion(journal.aliases.get("onnx-champion"), version, table)
        taken_back = journal.rolled_back("onnx-champion", version.version)
        if taken_back is not None:
            said = f"{taken_back.who} rolled it back ({taken_back.why}); `astrid registry promote {version.version}` promotes it again."
            return Outcome(versions.version(version.name, version.version), (Gate("rolled back", 1.0, 0.0, False, said),), ())
        try:
            return decide(version, "onnx", cfg, why="the stage register")
        except OvertakenError:
            if not left:
                raise
    raise AssertionError("the last try returns or raises")


def _score_champion(number: int | None, version: Version, table: pd.DataFrame) -> None:
    """Keep the champion's scores on these test rows with it, where it has none yet."""
    rows = rows_digest(table)
    if number is None or number == version.version:
        return
    champion = versions.version(version.name, number)
    if evidences.scores_on(champion, rows) is not None:
        return
    log.info("register: the champion, version %d, is scored on the %d test rows of %s", number, len(table), rows)
    frame, _ = rescore(versions.fetch(champion.uri), "onnx", table)
    with _folder() as folder:
        evidences.write_scores(frame, rows, "onnx", folder)
        versions.add_files(champion, folder, EVIDENCE)


def card_inputs(
    manifest: Mapping[str, Any], gates: Sequence[Gate], digests: Mapping[str, str], built: Built, stages: Mapping[str, Any]
) -> CardInputs:
    """Everything that the card tells, read from the stages before."""
    return CardInputs(
        manifest=manifest,
        gates=gates,
        digests=digests,
        steps=lineage.ancestry(stages, str(MODEL)),
        built=built,
        training=training(TripletStore.open(TRIPLETS).table, read_table(SPLITS_TABLE, SPLITS)),
        evaluation=_read(EVALUATION, "evaluate"),
        point=_read(OPERATING_POINT, "evaluate"),
        split=_read(SPLIT, "split"),
        export=_read(EXPORTED, "export"),
        slices=pd.read_csv(SLICES, dtype={"group": str}, keep_default_na=False, na_values=[""]) if SLICES.is_file() else pd.DataFrame(),
        pictures=[path.name for path in _pictures()],
        versions={"Python": platform.python_version(), **_packages()},
    )


def _document(version: Version, inputs: CardInputs) -> None:
    """The card with the version: the whole one and its pictures beside the model, a short one in the registry's description."""
    text = registry_card(inputs)
    with _folder() as folder:
        for path in _pictures():
            shutil.copyfile(path, folder / path.name)
        versions.add_files(version, folder, "card")
    with _folder() as folder:
        (folder / CARD_FILE).write_text(text, encoding="utf-8")
        versions.add_files(version, folder)
    versions.describe(version, short_card(inputs))
    for path in _pictures():
        text = text.replace(f"card/{path.name}", path.relative_to(CARD.parent).as_posix())
    write_bytes(CARD, text.encode())


def _pictures() -> list[Path]:
    return [path for name in PICTURES if (path := CARD.parent / name).is_file()]


def _packages() -> dict[str, str]:
    """Versions of the packages that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            log.info("register: %s is not installed here; the card names no version of it", name)
    return found


def _lineage(stages: Mapping[str, Any] | None, digests: Mapping[str, str]) -> dict[str, Any]:
    steps = [] if stages is None else lineage.ancestry(stages, str(MODEL))
    return {
        "digests": dict(digests),
        "products": {step.path: {"stage": step.stage, "md5": step.digest, "files": step.files} for step in steps},
        "raw files (MD5)": {} if stages is None else lineage.raw_files(stages),
    }


def _conclude(outcome: Outcome, *, fatal: bool) -> None:
    version, closed = outcome.version, refused(outcome.gates)
    log.info(
        "register: %s version %d, aliases %s\n%s", version.name, version.version, ", ".join(version.aliases), gate_table(outcome.gates)
    )
    if not closed:
        return
    counts = f"{len(closed)} of {len(outcome.gates)} gates refuse"
    sentence = f"version {version.version} of {version.name} is not promoted, {counts}: {closed[0].sentence}"
    if fatal:
        raise GateError(f"{sentence} See {REPORT}, and train anew or change registry.gates.")
    log.warning("register: %s It stays a candidate.", sentence)


def _tags(evidence: Evidence, digests: Mapping[str, str]) -> dict[str, Any]:
    tags = {"astrid.aucpr": evidence.quality.aucpr, "astrid.recall": evidence.quality.recall, "astrid.threshold": evidence.threshold}
    origin = {"astrid.commit": evidence.built.commit, "astrid.dirty": evidence.built.dirty, "astrid.test_digest": evidence.rows}
    return {**tags, **origin, **{f"astrid.from.{name.replace(' ', '_')}": value for name, value in digests.items()}}


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="astrid-") as name:
        yield Path(name)


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


if __name__ == "__main__":
    run(main)

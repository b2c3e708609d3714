"""What a version is judged on, kept with it: how it was built, what it reached, its scores on the frozen test rows.

A version's folder `evidence/` holds `evidence.json` and, for each set of test rows and each target, `scores-<rows>-<target>.parquet`,
so that a later model can be compared with it on the same rows, here or on a machine that has no data.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from astrid.config.schema.registry import RegistryConfig
from astrid.core.errors import RegistryError
from astrid.core.runtime import write_json
from astrid.io.tables import read_table, write_table
from astrid.registry import gates as gating
from astrid.registry.compare import TEST_SCORES, differences, losses
from astrid.registry.gates import Artifact, Built, Difference, Gate, Quality
from astrid.registry.versions import EVIDENCE, Version, part

FACTS_FILE = "evidence.json"

Facts = TypeVar("Facts", Built, Quality, Artifact)


@dataclass(frozen=True, eq=False)
class Evidence:
    """`rows`: digest of the frozen test rows; `scores`: frames of `TEST_SCORES` by target; `artifacts`: their numbers by target."""

    rows: str
    threshold: float
    built: Built
    quality: Quality
    artifacts: Mapping[str, Artifact]
    scores: Mapping[str, pd.DataFrame]


def write(evidence: Evidence, folder: Path) -> None:
    """Write evidence into a folder."""
    facts = {
        "rows": evidence.rows,
        "threshold": evidence.threshold,
        "built": dataclasses.asdict(evidence.built),
        "quality": dataclasses.asdict(evidence.quality),
        "artifacts": {target: dataclasses.asdict(artifact) for target, artifact in evidence.artifacts.items()},
    }
    write_json(folder / FACTS_FILE, facts)
    for target, frame in evidence.scores.items():
        write_scores(frame, evidence.rows, target, folder)


def write_scores(frame: pd.DataFrame, rows: str, target: str, folder: Path) -> None:
    """Write the scores of a target on a set of test rows into a folder."""
    write_table(frame, folder / _scores_file(rows, target), TEST_SCORES)


def read(one: Version) -> Evidence:
    """The evidence of a version. Raises `RegistryError` when it has none, as versions of an older AstrID do."""
    with part(one, EVIDENCE) as folder:
        try:
            if folder is None:
                raise FileNotFoundError(f"no folder {EVIDENCE}")
            return _read(folder)
        except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise RegistryError(
                f"version {one.version} of {one.name} has no evidence that its gates could be judged on ({error}); "
                "check its model out and run `dvc repro register`."
            ) from error


def scores_on(one: Version, rows: str, target: str = "onnx") -> pd.DataFrame | None:
    """A version's scores on a set of test rows, None where it was never scored on them."""
    with part(one, EVIDENCE) as folder:
        return None if folder is None else _scores(folder, rows, target)


def judge(
    target: str, evidence: Evidence, against: tuple[pd.DataFrame | None, float] | None, *, above: bool, cfg: RegistryConfig
) -> tuple[Gate, ...]:
    """The gates of a target.

    `against`: the champion's scores on the same rows (None where it has none) and its threshold; None without another champion.
    `above`: whether this version is the champion of the rung below. Only onnx is compared with its champion: the others are held
    to the float artifact of the same version, which has passed that.
    """
    limits, artifact = cfg.gates, evidence.artifacts.get(target, Artifact())
    if target == "onnx":
        return (
            *gating.origin_gates(evidence.built, limits),
            *gating.quality_gates(evidence.quality, limits),
            *gating.champion_gates(_differences(evidence, against, cfg), limits.champion),
            *gating.onnx_gates(artifact, limits),
        )
    if target == "tflite-int8":
        return (gating.ladder_gate("onnx", above=above), *gating.integer_gates(artifact, limits.integer))
    return (gating.ladder_gate("tflite-int8", above=above), *gating.edge_gates(artifact, limits.edgetpu))


def measured_losses(frame: pd.DataFrame, parent: pd.DataFrame, threshold: float) -> dict[str, float]:
    """aucpr_loss and recall_loss of a target's scores against the float artifact's on the same rows."""
    aucpr, recall = losses(frame, parent, threshold)
    return {"aucpr_loss": aucpr, "recall_loss": recall}


def _read(folder: Path) -> Evidence:
    facts = json.loads((folder / FACTS_FILE).read_text())
    rows = str(facts["rows"])
    return Evidence(
        rows=rows,
        threshold=float(facts["threshold"]),
        built=_facts(Built, facts["built"]),
        quality=_facts(Quality, facts["quality"]),
        artifacts={target: _facts(Artifact, values) for target, values in facts["artifacts"].items()},
        scores={target: frame for target in facts["artifacts"] if (frame := _scores(folder, rows, target)) is not None},
    )


def _differences(evidence: Evidence, against: tuple[pd.DataFrame | None, float] | None, cfg: RegistryConfig) -> list[Difference] | None:
    if against is None:
        return None
    champion, threshold = against
    mine = evidence.scores.get("onnx")
    if champion is None or mine is None:
        return []
    return differences(mine, champion, (evidence.threshold, threshold), cfg.gates.champion, np.random.default_rng(cfg.seed))


def _scores_file(rows: str, target: str) -> str:
    return f"scores-{rows}-{target}.parquet"


def _scores(folder: Path, rows: str, target: str) -> pd.DataFrame | None:
    path = folder / _scores_file(rows, target)
    return read_table(path, TEST_SCORES) if path.is_file() else None


def _facts(kind: type[Facts], values: Mapping[str, Any]) -> Facts:
    given: dict[str, Any] = {name: math.nan if value is None else value for name, value in values.items()}
    return kind(**given)

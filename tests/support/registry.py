"""Evidence with known numbers, and test rows whose ranking is known."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from astrid.registry import evidence as evidences
from astrid.registry import promote, versions
from astrid.registry.compare import rows_digest
from astrid.registry.evidence import Evidence
from astrid.registry.gates import Artifact, Built, Quality
from astrid.registry.tracking import resume_run
from astrid.registry.versions import EVIDENCE, Version

each_store = pytest.mark.parametrize("store", ["SQLite and a folder", "PostgreSQL and S3"], indirect=True)

BUILT = Built(lock=0, commit="c" * 40, dirty=False, data=0, leaks=0)
QUALITY = Quality(aucpr=0.97, recall=0.98, ece=0.02, replay=1e-7)
ONNX = Artifact(bytes=7e6, milliseconds=2.0, parity=1e-7)
INTEGER = Artifact(
    bytes=2e6, milliseconds=5.0, parity=0.02, aucpr_loss=0.0005, recall_loss=0.001, calibration_stamps=512, unmapped=0, streamed=0
)
EDGE = Artifact(bytes=2e6, unmapped=0, streamed=0)


def frame(spread: float, *, rows: int = 400, seed: int = 3) -> pd.DataFrame:
    """Scores of `rows` test rows in events of two: real around +1, bogus around -1 (logit), each with noise of width `spread`."""
    rng = np.random.default_rng(seed)
    label = np.arange(rows) // 2 % 2
    shared, own = rng.normal(0, 0.6, rows), rng.normal(0, 1, rows)  # what both models find hard, and this one alone
    score = 1 / (1 + np.exp(-4 * ((2 * label - 1) + shared + spread * own)))
    return pd.DataFrame({
        "candidate_id": [f"c{number:04d}" for number in range(rows)], "event_id": [f"e{number // 2}" for number in range(rows)],
        "label": label, "survey": np.where(np.arange(rows) // 4 % 2, "deep", "wide"), "snr": rng.uniform(5, 20, rows),
        "host_dlr": rng.uniform(0, 5, rows), "reference_snr": rng.uniform(0, 60, rows),
        "stamp_digest": "", "raw_score": score, "score": score,
    })  # fmt: skip


def evidence(scores: pd.DataFrame | None = None, **changes: Any) -> Evidence:
    """Good evidence, with changes: built, quality, artifacts, threshold."""
    table = frame(0.1) if scores is None else scores
    settings = {"rows": rows_digest(table), "threshold": 0.5, "built": BUILT, "quality": QUALITY, "artifacts": {"onnx": ONNX}}
    return Evidence(**{**settings, "scores": {"onnx": table}, **changes})


def put(folder: Path, found: Evidence, name: str) -> Version:
    """Register a model folder as the candidate, with evidence."""
    with resume_run("training") as run:
        one = versions.keep(folder, run, tags={"astrid.aucpr": found.quality.aucpr, "astrid.threshold": found.threshold}, name=name)
    with tempfile.TemporaryDirectory() as place:
        evidences.write(found, Path(place))
        versions.add_files(one, Path(place), EVIDENCE)
    return promote.nominate(one, "a test")

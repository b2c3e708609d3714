"""`astrid transfer`: what a network learns from one set of triplets or another, measured on real alerts that it has never seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astrid.commands.score import read_evidence
from astrid.core.errors import InputError
from astrid.core.provenance import digest_file, git_state
from astrid.core.records import Triplet
from astrid.core.runtime import atomic_path, log, rng_for, track, write_json

if TYPE_CHECKING:
    from astrid.config.schema import ModelConfig, TrainConfig
    from astrid.datasets.joined import JoinedStores

_CHECKPOINTS = Path("models/transfer")
_PARENT = "transfer"


@dataclass(frozen=True)
class Training:
    """A name and the projects whose triplets train together: folders with data/triplets and data/splits."""

    name: str
    folders: tuple[Path, ...]


@dataclass(frozen=True, eq=False)
class Alerts:
    """Alerts that were read: `rows` with candidate_id, source, survey and sign, and their stamps, float32 (n, 3, 63, 63)."""

    rows: pd.DataFrame
    stamps: NDArray[np.float32]


def parse(text: str) -> Training:
    """`NAME=FOLDER` or `NAME=FOLDER+FOLDER`. Raises `InputError` when it is neither, or a folder holds no triplets."""
    name, found, rest = text.partition("=")
    folders = tuple(Path(part) for part in rest.split("+") if part)
    if not (found and name and folders):
        raise InputError(f"{text!r} names no training set; write NAME=FOLDER, or NAME=FOLDER+FOLDER for several together.")
    for folder in folders:
        if not (folder / "data/triplets/index.json").is_file() or not (folder / "data/splits/splits.parquet").is_file():
            raise InputError(f"{folder} holds no data/triplets with data/splits; run `dvc repro split` there first.")
    return Training(name, folders)


def transfer(trainings: Sequence[Training], alerts: list[Path], evidence: Path, report: Path, *, seeds: int) -> None:
    """Train the configured network on every training set, `seeds` times each, and rank the alerts' evidence with each.

    Writes `report` (JSON) and a page beside it (.html); every training is a run of MLflow under one parent.

    Raises `InputError` for a missing input and `DataSetError` when no alert has a score and evidence.
    """
    from astrid.commands.settings import section
    from astrid.config.schema import ModelConfig, TrainConfig
    from astrid.evaluation.report import render_transfer
    from astrid.evaluation.transfer import compare, transfer_context
    from astrid.registry.tracking import parent_run

    known = read_evidence(evidence)
    read = read_stamps(alerts)
    model, train = section(ModelConfig, "model"), section(TrainConfig, "train")
    parent = parent_run(name=_PARENT, tags={"astrid.commit": git_state(Path())["commit"]})
    outcomes = []
    for training in trainings:
        joined = open_stores(training)
        for seed in range(seeds):
            chosen = dataclasses.replace(train, seed=train.seed + seed)
            scores = _trained_scores(training, joined, model, chosen, read, parent, known, digest_file(evidence))
            outcomes.append((training.name, seed, scores))
    result = compare(outcomes, known) | {"trainings": [_described(training) for training in trainings], "model": dataclasses.asdict(model)}
    index = {(row.source, row.candidate_id): position for position, row in enumerate(read.rows.itertuples())}

    def stamps(rows: pd.DataFrame) -> dict[Any, NDArray[np.float32]]:
        return {row.Index: read.stamps[index[str(row.source), str(row.candid)]] for row in rows.itertuples()}

    write_json(report, result)
    page = report.with_suffix(".html")
    with atomic_path(page) as temporary:
        temporary.write_text(render_transfer(transfer_context(result, outcomes, known, stamps)), encoding="utf-8")
    shown = pd.DataFrame(result["summary"])
    print(shown.to_string(index=False, float_format="%.3f", na_rep="-"))
    print(f"\n{result['statement']}\nranking -> {report}, page -> {page}")


def open_stores(training: Training) -> JoinedStores:
    """The triplets of a training's folders, with their splits, as one store."""
    from astrid.datasets.joined import JoinedStores
    from astrid.io.shards import TripletStore
    from astrid.io.tables import SPLITS, read_table

    return JoinedStores(
        [
            (TripletStore.open(folder / "data/triplets"), read_table(folder / "data/splits/splits.parquet", SPLITS))
            for folder in training.folders
        ]
    )


def read_stamps(paths: list[Path]) -> Alerts:
    """Every alert with usable stamps; the others are counted in the log."""
    from astrid.io.alerts import read_alerts

    rows, stamps, problems = [], [], 0
    for reading in track(read_alerts(paths), "alerts"):
        if not isinstance(reading, Triplet) or not np.isfinite(reading.stamps).any(axis=(1, 2)).all():
            problems += 1
            continue
        source = str(reading.meta["source"])
        rows.append({"candidate_id": reading.candidate_id, "source": source, "survey": reading.survey, "sign": reading.sign})
        stamps.append(reading.stamps)
    if not rows:
        raise InputError(f"none of the {problems} files under {paths[0]} is an alert with stamps; give alert packets (Avro).")
    log.info("transfer: %d alerts with stamps, %d without", len(rows), problems)
    return Alerts(pd.DataFrame(rows), np.stack(stamps))


def _trained_scores(
    training: Training,
    joined: JoinedStores,
    model: ModelConfig,
    train: TrainConfig,
    alerts: Alerts,
    parent: str,
    evidence: pd.DataFrame,
    evidence_digest: str,
) -> pd.DataFrame:
    """Train once, tracked and resumable; the alerts with their scores."""
    from astrid.evaluation.ranking import rank_alerts
    from astrid.learning.predict import predict
    from astrid.learning.train import train_from, training_key
    from astrid.registry.tracking import training_run

    params = {"model": dataclasses.asdict(model), "train": dataclasses.asdict(train), "training": _described(training)}
    tags = {"astrid.triplets": joined.digest, "astrid.evidence": evidence_digest}
    key = training_key(joined, joined.splits, model, train)
    with training_run(
        name=f"{_PARENT}-{training.name}-{train.seed}", params=params, tags=tags, resume_key=key, parent_run_id=parent
    ) as run:
        fitted = train_from(
            joined,
            joined.splits,
            model,
            train,
            on_epoch=lambda row: run.log_metrics(row, step=int(row["epoch"])),
            checkpoints=_CHECKPOINTS,
        )
        scores = alerts.rows.assign(score=predict(fitted.model, alerts.stamps, model.normalization))
        strong = rank_alerts(scores, evidence, rng_for(train.seed, "rank"))["ranking"][0]
        run.log_metrics({"validation_aucpr": fitted.validation_aucpr, **{k: v for k, v in strong.items() if k != "evidence"}})
    log.info("transfer: %s, seed %d: ROC area %.3f", training.name, train.seed, strong["roc_auc"])
    return scores


def _described(training: Training) -> dict[str, Any]:
    joined = open_stores(training)
    labels = joined.table["label"].value_counts()
    counts = {"real": int(labels.get(1, 0)), "bogus": int(labels.get(0, 0))}
    return {"name": training.name, "folders": [folder.name for folder in training.folders], "digest": joined.digest, **counts}

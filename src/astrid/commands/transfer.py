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
class Opened:
    """A training's triplets, and what a report says of them."""

    name: str
    stores: JoinedStores
    splits: pd.DataFrame  # SPLITS of the stores; what is to be trained on is its part "train"
    described: dict[str, Any]  # name, folders, digest; counts real and bogus that train, and of the validation


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


def transfer(
    trainings: Sequence[Training], alerts: list[Path], evidence: Path, report: Path, *, seeds: int, parts: Sequence[str] = ("train",)
) -> None:
    """Train the configured network on every training set, `seeds` times each, and rank the alerts' evidence with each.

    Writes `report` (JSON) and a page beside it (.html); every training is a run of MLflow under one parent. `parts` of each set's
    split train, "train" alone or "train" and "test"; its part "validation" stops the training.

    Raises `InputError` for a missing input and `DataSetError` when a set lacks a class or no alert has a score and evidence.
    """
    from astrid.commands.settings import section
    from astrid.config.schema import ModelConfig, TrainConfig
    from astrid.evaluation.report import render_transfer
    from astrid.evaluation.transfer import compare, transfer_context
    from astrid.registry.tracking import parent_run

    known, evidence_digest = read_evidence(evidence), digest_file(evidence)
    opened = [open_training(training, parts) for training in trainings]
    read = read_stamps(alerts)
    model, train = section(ModelConfig, "model"), section(TrainConfig, "train")
    parent = parent_run(name=_PARENT, tags={"astrid.commit": git_state(Path())["commit"]})
    outcomes = []
    for one in opened:
        for seed in range(seeds):
            chosen = dataclasses.replace(train, seed=train.seed + seed)
            outcomes.append((one.name, seed, _trained_scores(one, model, chosen, read, parent, known, evidence_digest)))
    described = {"parts": list(parts), "trainings": [one.described for one in opened], "model": dataclasses.asdict(model)}
    result = compare(outcomes, known) | described
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


def open_training(training: Training, parts: Sequence[str] = ("train",)) -> Opened:
    """The triplets of a training's folders as one store, with their splits, in which `parts` make up the part "train".

    Raises `DataSetError` when what trains, or the validation, lacks a class.
    """
    from astrid.datasets.joined import JoinedStores, as_training
    from astrid.io.shards import TripletStore
    from astrid.io.tables import SPLITS, read_table
    from astrid.learning.loader import select

    stores = JoinedStores(
        [
            (TripletStore.open(folder / "data/triplets"), read_table(folder / "data/splits/splits.parquet", SPLITS))
            for folder in training.folders
        ]
    )
    splits = as_training(stores.splits, parts)
    train, validation = (select(stores.table, splits, part) for part in ("train", "validation"))
    described = {
        "name": training.name,
        "folders": [folder.name for folder in training.folders],
        "digest": stores.digest,
        **{"real": train.real, "bogus": train.bogus},
        **{"validation_real": validation.real, "validation_bogus": validation.bogus},
    }
    return Opened(training.name, stores, splits, described)


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
    training: Opened,
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

    params = {"model": dataclasses.asdict(model), "train": dataclasses.asdict(train), "training": training.described}
    tags = {"astrid.triplets": training.stores.digest, "astrid.evidence": evidence_digest}
    key = training_key(training.stores, training.splits, model, train)
    with training_run(
        name=f"{_PARENT}-{training.name}-{train.seed}", params=params, tags=tags, resume_key=key, parent_run_id=parent
    ) as run:
        fitted = train_from(
            training.stores,
            training.splits,
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

"""Stage train: fit the network and the baseline on the triplets of the split, and track both as one MLflow run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from astrid.config.params import settings
from astrid.config.schema import ModelConfig, TrainConfig
from astrid.core.provenance import digest_file, git_state
from astrid.core.runtime import atomic_path, log, write_json
from astrid.io.shards import TripletStore
from astrid.io.tables import SPLITS, read_table
from astrid.stages.common import prune, run

if TYPE_CHECKING:
    from astrid.learning.baseline import Baseline
    from astrid.learning.train import TrainResult

TRIPLETS = Path("data/triplets")
SPLIT = Path("data/splits/splits.parquet")
TRAINED = Path("models/train")
CHECKPOINTS = Path("models/checkpoints")
REPORT = Path("reports/train.json")


def main() -> None:
    """Read data/triplets and data/splits; write models/train and reports/train.json, with checkpoints in models/checkpoints.

    A killed stage goes on after its last finished epoch, in the same MLflow run.
    """
    from astrid.learning.baseline import fit_baseline
    from astrid.learning.checkpoint import checkpoint_path
    from astrid.learning.train import train_from, training_key
    from astrid.registry.tracking import training_run

    model_cfg, train_cfg = settings(ModelConfig, "model"), settings(TrainConfig, "train")
    store = TripletStore.open(TRIPLETS)
    splits = read_table(SPLIT, SPLITS)
    key = training_key(store, splits, model_cfg, train_cfg)
    if CHECKPOINTS.exists():
        prune(CHECKPOINTS, [checkpoint_path(CHECKPOINTS, key)])
    digests = {"triplets": store.digest, "splits": digest_file(SPLIT)}
    params = {"model": _plain(model_cfg), "train": _plain(train_cfg)}
    tags = {**{f"astrid.{name}": digest for name, digest in digests.items()}, "astrid.commit": git_state(Path())["commit"]}
    with training_run(name=model_cfg.name, params=params, tags=tags, resume_key=key) as tracked:
        baseline = fit_baseline(store.table, splits, train_cfg)
        result = train_from(
            store,
            splits,
            model_cfg,
            train_cfg,
            on_epoch=lambda row: tracked.log_metrics(row, step=int(row["epoch"])),
            checkpoints=CHECKPOINTS,
        )
        write_products(result, baseline, model_cfg, {"digests": digests, **params})
        tracked.log_metrics(_summary(result, baseline))
        for name in ("model.pt", "history.csv", "train.json", "baseline.joblib"):
            tracked.log_artifact(TRAINED / name, "train")
    log.info(
        "train: %s reaches a validation AUCPR of %.4f in epoch %d, the random forest %.4f",
        *(model_cfg.name, result.validation_aucpr, result.best_epoch, baseline.validation_aucpr),
    )


def write_products(result: TrainResult, baseline: Baseline, model_cfg: ModelConfig, made_from: dict[str, Any]) -> None:
    """Write models/train and reports/train.json; equal trainings give equal bytes."""
    import joblib

    from astrid.learning import models

    with atomic_path(TRAINED / "model.pt") as temporary:
        temporary.write_bytes(models.dump(result.model, model_cfg))
    with atomic_path(TRAINED / "history.csv") as temporary:
        result.history.to_csv(temporary, index=False, lineterminator="\n")
    with atomic_path(TRAINED / "baseline.joblib") as temporary:
        joblib.dump(baseline.forest, temporary)
    record = {
        **made_from,
        "key": result.key,
        "name": model_cfg.name,
        "normalization": model_cfg.normalization,
        "best_epoch": result.best_epoch,
        "epochs": len(result.history),
        "weights": models.count_weights(result.model),
        "model_digest": digest_file(TRAINED / "model.pt"),
    }
    write_json(TRAINED / "train.json", record)
    write_json(REPORT, {**_summary(result, baseline), "baseline_importances": baseline.importances})


def _summary(result: TrainResult, baseline: Baseline) -> dict[str, float]:
    return {**result.metrics, "baseline_validation_aucpr": baseline.validation_aucpr}


def _plain(cfg: Any) -> dict[str, Any]:
    return dataclasses.asdict(cfg)


if __name__ == "__main__":
    run(main)

"""Hydra entry for multirun: `python -m astrid.sweep -m split=temporal,cross_survey model=astrid_cnn,braai`.

A trial starts from the triplets that DVC tracks: it splits, trains and scores the validation part, is one MLflow run under
the sweep's parent run, and returns the validation AUCPR. It never reads the test part, never registers and never calls
`dvc repro`: the winner is written to conf/experiment/ and trained again by `dvc repro`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from astrid.config.schema import Config
from astrid.config.validate import validate
from astrid.core.errors import AstridError, ConfigError, InputError
from astrid.core.provenance import digest_settings
from astrid.core.runtime import atomic_path, configure_logging, log
from astrid.registry import tracking

EXPERIMENT = "astrid-sweeps"
PARENT = "ASTRID_SWEEP_PARENT_RUN"
TRIPLETS = Path("data/triplets")
CONF = Path("conf")
WINNER = CONF / "experiment/sweep_winner.yaml"
# Sections that shape the triplets: a sweep over them would not change what a trial reads.
UPSTREAM = ("survey", "simulate", "imaging", "injection", "candidates", "dataset")


def trial(composed: DictConfig) -> float:
    """Train one configuration and return its validation AUCPR; also Hydra's task function."""
    configure_logging()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        return _trial(composed)
    except AstridError as error:
        print(f"astrid: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


def _trial(composed: DictConfig) -> float:
    from astrid.datasets.leakage import audit
    from astrid.datasets.splits import COLUMNS, find_near, split_rows
    from astrid.io.shards import TripletStore
    from astrid.learning.train import train_from

    values = _plain(composed)
    config = validate(Config, values)
    _refuse_upstream_changes(values)
    store = TripletStore.open(TRIPLETS)
    keys = store.columns(COLUMNS)
    near = find_near(keys, store.stamps)
    splits = split_rows(keys, config.split, near)
    report = audit(keys, splits, near)
    report.raise_if_leaking()

    settings = {key: values[key] for key in ("split", "model", "train")}
    name = "-".join([config.split.strategy, config.model.name])
    with tracking.training_run(
        experiment=EXPERIMENT,
        name=name,
        params=settings,
        tags={"astrid.overrides": " ".join(HydraConfig.get().overrides.task), "astrid.data": store.digest},
        resume_key=digest_settings({"data": store.digest, **settings}),
        parent_run_id=os.environ.get(PARENT),
    ) as run:

        def log_epoch(row: Mapping[str, float]) -> None:
            run.log_metrics(dict(row), step=int(row["epoch"]))

        result = train_from(store, splits, config.model, config.train, on_epoch=log_epoch)
        run.log_metrics({"validation_aucpr_best": result.validation_aucpr}, step=0)
    return float(result.validation_aucpr)


def _plain(composed: DictConfig) -> dict[str, Any]:
    values = OmegaConf.to_container(composed, resolve=True)
    if not isinstance(values, dict):
        raise ConfigError("the sweep's configuration is not a mapping; check conf/config.yaml.")
    # The Optuna sweeper adds two keys of its own to a trial.
    return {str(key): value for key, value in values.items() if key not in ("mlflow_parent_run_id", "optuna_trial_number")}


def _refuse_upstream_changes(values: dict[str, Any]) -> None:
    """Raise `ConfigError` when a section before the triplets differs from the one that they were made with."""
    params = Path("params.yaml")
    if not params.exists():
        raise InputError("params.yaml is not here; run `dvc repro triplets` in the project's root first.")
    made_with = yaml.safe_load(params.read_text())
    changed = [key for key in UPSTREAM if values.get(key) != made_with.get(key)]
    if changed:
        raise ConfigError(
            f"a sweep starts from the triplets, so {changed[0]} cannot be swept; run `dvc exp run -S {changed[0]}=…` for that instead."
        )


class ParentRun(Callback):  # type: ignore[misc]  # hydra is untyped
    """Opens the sweep's parent run before the first trial, and writes the winner to conf/experiment/ after the last."""

    def __init__(self) -> None:
        self.results: list[tuple[float, list[str]]] = []

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Open the parent run; trials in other processes find it through the environment."""
        configure_logging()
        folder = Path(str(config.hydra.sweep.dir))
        os.environ[PARENT] = tracking.parent_run(experiment=EXPERIMENT, name=f"sweep {folder.name}", key=str(folder))

    def on_job_end(self, config: DictConfig, job_return: Any, **kwargs: Any) -> None:
        """Remember a finished trial's value."""
        if isinstance(job_return._return_value, float):
            self.results.append((job_return._return_value, list(job_return.overrides or [])))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write the winner, or say that trials ran in other processes."""
        if not self.results:
            log.info("sweep: no trial finished in this process, so no winner is written; compare the runs in `make ui`")
            return
        value, overrides = max(self.results, key=lambda item: item[0])
        write_winner(WINNER, value, overrides)
        log.info("sweep: best validation AUCPR %.4f with %s", value, " ".join(overrides))
        log.info("sweep: written to %s; train it by `dvc exp run -S experiment=%s`", WINNER, WINNER.stem)


def write_winner(path: Path, value: float, overrides: list[str], *, groups: Path = CONF) -> None:
    """Write a trial's overrides as an experiment: group choices (folders of `groups`) as defaults, single keys as values."""
    chosen = [item.partition("=") for item in overrides if not item.startswith(("hydra", "+"))]
    base = [choice for key, _, choice in chosen if key == "experiment"]
    defaults = [*base, *({f"override /{key}": choice} for key, _, choice in chosen if key != "experiment" and (groups / key).is_dir())]
    values: dict[str, Any] = {}
    for key, _, text in chosen:
        if (groups / key).is_dir():
            continue
        *sections, last = key.split(".")
        inner = values
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = yaml.safe_load(text)
    body = yaml.safe_dump({**({"defaults": defaults} if defaults else {}), **values}, sort_keys=False)
    with atomic_path(path) as temporary:
        temporary.write_text(f"# @package _global_\n# Winner of a sweep: validation AUCPR {value:.4f}.\n{body}")


def main() -> None:
    """Run a trial, or with -m a sweep, on the configuration in ./conf."""
    hydra.main(version_base="1.3", config_path=str(CONF.resolve()), config_name="config")(trial)()


if __name__ == "__main__":
    main()

"""Tracking of trainings as MLflow runs: one run a training, found again by its key and continued, never doubled.

A training's key is the digest of its inputs and settings. `training_run` opens the run under that key, `resume_run` finds it
again in later stages (evaluate, export, register), and `parent_run` groups the trials of a sweep.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from astrid.core.errors import RegistryError
from astrid.core.runtime import log
from astrid.registry.store import artifact_root, client, reaching

EXPERIMENT = "astrid"
KEY_TAG = "astrid.key"
_PARENT_TAG = "mlflow.parentRunId"
_NAME_TAG = "mlflow.runName"
_BATCH = 1000  # metrics a request, the limit of MLflow's own interface
_PARAM_BATCH = 100  # parameters and tags a request, likewise
_PARAM_CHARACTERS = 6000  # of a parameter's value, likewise
_TAG_CHARACTERS = 5000  # of a tag's value that every backend takes


@dataclass
class Run:
    """A tracked run. Every method sends at once, one request a call, so that a killed training has lost nothing it logged."""

    run_id: str
    experiment: str
    continued: bool = False  # found again by its key, with metrics already in it
    _client: Any = field(default=None, repr=False)
    _known: dict[str, dict[int, float]] = field(default_factory=dict, repr=False)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log one value a name at `step` (epoch, or threshold step). In a continued run an equal value is not logged twice."""
        self.log_series({name: [value] for name, value in metrics.items()}, steps=[step])

    def log_series(self, series: Mapping[str, Sequence[float]], steps: Sequence[int] | None = None) -> None:
        """Log whole curves in batches: `series[name][i]` at `steps[i]` (default 0, 1, 2, ...), e.g. recall over thresholds."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        pending: list[Any] = []
        with reaching("log metrics"):
            for name, values in series.items():
                at = range(len(values)) if steps is None else steps
                known = self._history(name)
                for step, value in zip(at, values, strict=True):
                    number = float(value)
                    if not _same(known.get(int(step)), number):
                        pending.append(Metric(name, number, now, int(step)))
                        known[int(step)] = number
            for begin in range(0, len(pending), _BATCH):
                self._client.log_batch(self.run_id, metrics=pending[begin : begin + _BATCH])

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log settings, nested mappings with dotted names. A parameter that the run already holds keeps its first value."""
        from mlflow.entities import Param

        flat = {name: str(value)[:_PARAM_CHARACTERS] for name, value in _flatten(params)}
        with reaching("log parameters"):
            before = self._client.get_run(self.run_id).data.params if self.continued else {}
            changed = sorted(name for name, value in flat.items() if name in before and before[name] != value)
            if changed:
                log.warning("run %s keeps its first value of %s", self.run_id, ", ".join(changed))
            new = [Param(name, value) for name, value in flat.items() if name not in before]
            for begin in range(0, len(new), _PARAM_BATCH):
                self._client.log_batch(self.run_id, params=new[begin : begin + _PARAM_BATCH])

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags, replacing those of the same name."""
        from mlflow.entities import RunTag

        items = [RunTag(name, str(value)[:_TAG_CHARACTERS]) for name, value in tags.items()]
        with reaching("set tags"):
            for begin in range(0, len(items), _PARAM_BATCH):
                self._client.log_batch(self.run_id, tags=items[begin : begin + _PARAM_BATCH])

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Store one file, or a whole folder, under the run's artifact `folder`."""
        if not path.exists():
            raise RegistryError(f"{path} does not exist, so run {self.run_id} cannot keep it; run the stage that makes it.")
        with reaching(f"keep {path.name}"):
            if path.is_dir():
                self._client.log_artifacts(self.run_id, str(path), folder)
            else:
                self._client.log_artifact(self.run_id, str(path), folder)

    def log_figure(self, figure: Any, name: str) -> None:
        """Store a matplotlib figure as the artifact `name` (ending in .png)."""
        with reaching(f"keep the figure {name}"):
            self._client.log_figure(self.run_id, figure, name)

    def log_dict(self, content: Mapping[str, Any], name: str) -> None:
        """Store plain data as the artifact `name` (ending in .json or .yaml)."""
        with reaching(f"keep {name}"):
            self._client.log_dict(self.run_id, dict(content), name)

    def _history(self, name: str) -> dict[int, float]:
        if name not in self._known:
            past = self._client.get_metric_history(self.run_id, name) if self.continued else []
            self._known[name] = {metric.step: metric.value for metric in sorted(past, key=lambda m: (m.timestamp, m.step))}
        return self._known[name]


@contextmanager
def training_run(
    *,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, Any],
    resume_key: str,
    experiment: str = EXPERIMENT,
    parent_run_id: str | None = None,
) -> Iterator[Run]:
    """The run of one training: opened under `resume_key`, or found again by it and continued.

    Parameters
    ----------
    name : the run's display name.
    params : settings, nested mappings allowed.
    tags : further tags: data digests, git commit, survey.
    resume_key : digest of inputs and settings; a killed or finished run of the same key is continued, never doubled.
    experiment : MLflow experiment, made when absent.
    parent_run_id : of a sweep's parent; the same key under another parent is another run.

    The run ends as FINISHED, KILLED on Ctrl-C and FAILED on any other exception, which goes on to the caller.
    Raises `RegistryError` when the store cannot be reached.
    """
    run = _find(resume_key, experiment, parent_run_id)
    if run is None:
        run = _open(resume_key, experiment, name, parent_run_id)
    else:
        log.info("tracking: going on in run %s", run.run_id)
        with reaching("continue a run"):
            run._client.update_run(run.run_id, status="RUNNING")
    with _ending(run):
        run.set_tags(tags)
        run.log_params(params)
        yield run


@contextmanager
def resume_run(key: str, *, experiment: str = EXPERIMENT, name: str = "restored", parent_run_id: str | None = None) -> Iterator[Run]:
    """The run that the training of `key` made, for a later stage to add to; its status stays as it is.

    Where the store has lost it (a deleted mlflow.db, another machine) a new run is opened under the key, and the log says so.
    """
    run = _find(key, experiment, parent_run_id)
    if run is not None:
        yield run
        return
    log.warning("tracking: the store has no run of training %s any more; a new one is opened for it", key[:12])
    run = _open(key, experiment, name, parent_run_id)
    with _ending(run):
        yield run


def parent_run(*, experiment: str = EXPERIMENT, name: str, key: str | None = None, tags: Mapping[str, Any] | None = None) -> str:
    """The id of the run that groups a sweep's trials, made when absent. `key` tells sweeps of one name apart (default: the name)."""
    label = f"parent:{key or name}"
    run = _find(label, experiment, None) or _open(label, experiment, name, None)
    run.set_tags(tags or {})
    with reaching("group a sweep"):
        run._client.set_terminated(run.run_id, "FINISHED")
    return run.run_id


@contextmanager
def _ending(run: Run) -> Iterator[None]:
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        with reaching("end a run"):
            run._client.set_terminated(run.run_id, status)


def _find(key: str, experiment: str, parent_run_id: str | None) -> Run | None:
    """The newest live run of a key under the same parent (or under none)."""
    store = client()
    with reaching("search runs"):
        found = store.get_experiment_by_name(experiment)
        if found is None or found.lifecycle_stage != "active":
            return None
        query = f"tags.`{KEY_TAG}` = '{key}'"
        runs = store.search_runs([found.experiment_id], query, order_by=["attributes.start_time DESC"])
        for run in runs:
            if run.data.tags.get(_PARENT_TAG) == parent_run_id:
                return Run(run.info.run_id, experiment, continued=True, _client=store)
    return None


def _open(key: str, experiment: str, name: str, parent_run_id: str | None) -> Run:
    store = client()
    tags = {KEY_TAG: key, _NAME_TAG: name}
    if parent_run_id:
        tags[_PARENT_TAG] = parent_run_id
    with reaching("open a run"):
        run = store.create_run(experiment_id(store, experiment), run_name=name, tags=tags)
    return Run(run.info.run_id, experiment, _client=store)


def experiment_id(store: Any, name: str) -> str:
    """The id of an experiment, made when absent. Raises `RegistryError` when it was deleted."""
    from mlflow.exceptions import MlflowException

    found = store.get_experiment_by_name(name)
    if found is None:
        root = artifact_root()
        try:
            return str(store.create_experiment(name, artifact_location=f"{root}/{name}" if root else None))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = store.get_experiment_by_name(name)  # another process was first
    if found.lifecycle_stage != "active":
        command = f"mlflow experiments restore -x {found.experiment_id}"
        raise RegistryError(f"the experiment {name!r} was deleted; bring it back with `{command}`, or use another name.")
    return str(found.experiment_id)


def _flatten(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _same(before: float | None, value: float) -> bool:
    return before is not None and (before == value or (math.isnan(before) and math.isnan(value)))

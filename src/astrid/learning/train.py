"""Training: a short loop of our own that stops on validation AUCPR, keeps the best weights and survives a kill.

Everything random is a function of (seed, epoch) and the learning rate is a function of the step, so an epoch depends on the
weights and the optimiser's state only: a training that goes on from its checkpoint ends bit for bit like an undisturbed one.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional

from astrid.config.schema.model import ModelConfig
from astrid.config.schema.train import TrainConfig
from astrid.core.errors import ConfigError, MissingDependencyError
from astrid.core.provenance import digest_bytes, digest_code, digest_settings
from astrid.core.runtime import log, rng_for, worker_count
from astrid.learning.checkpoint import Checkpoint
from astrid.learning.loader import (
    NormalizedStamps,
    Part,
    Rows,
    Stamps,
    Triplets,
    batches,
    class_weights,
    epoch_order,
    open_stamps,
    select,
    stretch_of,
)
from astrid.learning.models import build
from astrid.learning.predict import logits
from astrid.learning.processes import Load, loading

OnEpoch = Callable[[dict[str, float]], None]

_CODE = ("astrid.learning", "astrid.datasets.normalize")
_SEED_RANGE = 2**63
_VALIDATION_BATCH = 256  # triplets a call
_MOST_LOADERS = 8  # of loaders = auto


@dataclass(frozen=True, eq=False)
class TrainResult:
    """A trained network and how it came to be."""

    model: nn.Module  # weights of the best epoch, evaluation mode, on the CPU
    history: pd.DataFrame  # one row an epoch: epoch, train_loss, validation_loss, validation_aucpr, learning_rate
    best_epoch: int  # counted from 1
    metrics: dict[str, float]  # best_validation_aucpr, best_validation_loss, best_train_loss, best_epoch, epochs, counts by class
    key: str  # digest of data, settings and code

    @property
    def validation_aucpr(self) -> float:
        """AUCPR of the best epoch on validation: what a sweep maximises."""
        return self.metrics["best_validation_aucpr"]


@dataclass
class _State:
    """What a checkpoint holds."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)

    def save(self, checkpoint: Checkpoint) -> None:
        weights, optimizer = self.model.state_dict(), self.optimizer.state_dict()
        checkpoint.save({"model": weights, "optimizer": optimizer, "best": self.best, "history": self.history})

    def restore(self, checkpoint: Checkpoint) -> None:
        stored = checkpoint.load()
        if stored is not None:
            self.model.load_state_dict(stored["model"])
            self.optimizer.load_state_dict(stored["optimizer"])
            self.best, self.history = stored["best"], stored["history"]
            log.info("training goes on after epoch %d", len(self.history))


@dataclass(frozen=True, eq=False)
class _Wanted:
    """A batch by what it is made from."""

    positions: Rows  # (k,) within the part
    step: tuple[int, int] | None  # epoch and number within it of a batch of training; None: of validation


@dataclass(frozen=True, eq=False)
class _Batches:
    """Makes batches, each the same whoever makes it and when."""

    cfg: TrainConfig
    training: NormalizedStamps
    validation: NormalizedStamps

    def __call__(self, wanted: _Wanted, out: Stamps | None = None) -> torch.Tensor:
        if wanted.step is None:
            return self.validation.batch(wanted.positions, out)
        return self.training.augmented(wanted.positions, self.cfg.augment, partial(self._draws, *wanted.step), out)

    def _draws(self, epoch: int, number: int, effect: str) -> np.random.Generator:
        return rng_for(self.cfg.seed, "augment", effect, epoch, number)


@dataclass(frozen=True, eq=False)
class _Run:
    """What stays the same over the epochs."""

    cfg: TrainConfig
    device: torch.device
    training: Part
    validation: Part
    stretch: int  # of the order of an epoch
    load: Load[_Wanted]
    weights: torch.Tensor  # (2,) of the loss, bogus and real

    @property
    def rows(self) -> int:
        """Triplets that an epoch visits."""
        count = len(self.training.labels)
        return min(count, self.cfg.epoch_rows) if self.cfg.epoch_rows else count

    @property
    def steps(self) -> int:
        """Optimiser steps an epoch."""
        return math.ceil(self.rows / self.cfg.batch_size)


def training_key(store: Triplets, splits: pd.DataFrame, model_cfg: ModelConfig, train_cfg: TrainConfig) -> str:
    """Digest of the triplets, the split, both configurations and the code: the identity of a training."""
    ordered = splits.sort_values("candidate_id")
    split = digest_bytes(*(f"{name}\x1f{part}".encode() for name, part in zip(ordered["candidate_id"], ordered["part"], strict=True)))
    settings = digest_settings({"model": dataclasses.asdict(model_cfg), "train": dataclasses.asdict(train_cfg)})
    return digest_bytes(*(one.encode() for one in (store.digest, split, settings, digest_code(_CODE), torch.__version__)))


def train_from(
    store: Triplets,
    splits: pd.DataFrame,
    model_cfg: ModelConfig,
    train_cfg: TrainConfig,
    *,
    on_epoch: OnEpoch | None = None,
    checkpoints: Path | None = None,
) -> TrainResult:
    """Train a network on the part "train" and stop on the AUCPR of the part "validation"; "test" is not read.

    Parameters
    ----------
    store, splits
        Triplets with labels (TRIPLETS) and the part of each candidate (SPLITS).
    on_epoch
        Called after each epoch with its row of the history; epochs of an earlier, killed run are reported again first.
    checkpoints
        Folder for the checkpoint of this training; without one, a killed training begins anew.

    Raises
    ------
    DataSetError
        A part lacks a class, or the split names unknown candidates.
    ConfigError
        The loss left the finite numbers.
    """
    training, validation = (select(store.table, splits, part) for part in ("train", "validation"))
    key = training_key(store, splits, model_cfg, train_cfg)
    device = choose_device(train_cfg.device)
    with _repeatable(train_cfg, device):
        stamps = open_stamps(store, (training, validation), model_cfg.normalization, cache_mb=train_cfg.cache_mb)
        made = _Batches(train_cfg, *stamps)
        with loading(made, loader_count(train_cfg.loaders, device), max(train_cfg.batch_size, _VALIDATION_BATCH)) as load:
            weights = _loss_weights(training, train_cfg).to(device)
            run = _Run(train_cfg, device, training, validation, stretch_of(stamps[0]), load, weights)
            state = _begin(model_cfg, train_cfg, device)
            _fit(run, state, Checkpoint(checkpoints, key) if checkpoints else None, on_epoch)
        state.model.load_state_dict(state.best)
    return _result(run, state, key)


def choose_device(name: str) -> torch.device:
    """The device of a configuration's `auto`, `cpu` or `cuda`. Raises `MissingDependencyError` for cuda where there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise MissingDependencyError("train.device = cuda and torch finds no CUDA device; set it to auto or cpu.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def loader_count(asked: int | Literal["auto"], device: torch.device) -> int:
    """Processes of a configuration's `loaders`: with auto none where the CPU trains, and every core but one, 8 at most, beside a GPU."""
    if asked != "auto":
        return asked
    return 0 if device.type == "cpu" else min(worker_count(0) - 1, _MOST_LOADERS)


def learning_rate(cfg: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step (from 0): a linear warm-up, then constant or a cosine that ends at zero after `cfg.epochs`."""
    warmup = cfg.warmup_epochs * steps_per_epoch
    if step < warmup:
        return cfg.learning_rate * min(1.0, (step + 1) / warmup)
    if cfg.schedule == "constant":
        return cfg.learning_rate
    total = cfg.epochs * steps_per_epoch
    return cfg.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def better(history: list[dict[str, float]], min_delta: float) -> int:
    """Position of the best epoch in a history: the last one whose AUCPR exceeded all earlier bests by `min_delta`; 0 at first."""
    best = 0
    for position, row in enumerate(history):
        if row["validation_aucpr"] > history[best]["validation_aucpr"] + min_delta:
            best = position
    return best


@contextmanager
def _repeatable(cfg: TrainConfig, device: torch.device) -> Iterator[None]:
    """Fixed threads, deterministic kernels and a private random state; the caller's settings come back afterwards.

    Torch fills the memory of every new tensor while its kernels are deterministic, to bring reads of unset memory to light; no
    kernel here does that, and it takes a tenth of a step.
    """
    threads = torch.get_num_threads()
    deterministic, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    devices = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.set_num_threads(worker_count(cfg.threads))
        torch.use_deterministic_algorithms(True, warn_only=True)
        memory.fill_uninitialized_memory = False
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
            memory.fill_uninitialized_memory = filled


def _seed_torch(seed: int, *identity: str | int) -> None:
    torch.manual_seed(int(rng_for(seed, *identity).integers(_SEED_RANGE)))


def _loss_weights(training: Part, cfg: TrainConfig) -> torch.Tensor:
    weights = class_weights(training.labels) if cfg.balance == "loss" else np.ones(2)
    return torch.tensor(weights, dtype=torch.float32)


def _begin(model_cfg: ModelConfig, cfg: TrainConfig, device: torch.device) -> _State:
    _seed_torch(cfg.seed, "weights")
    model = build(model_cfg).to(device)
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[cfg.optimizer]
    return _State(model, kind(model.parameters(), lr=cfg.learning_rate, weight_decay=cfg.weight_decay, fused=True))


def _fit(run: _Run, state: _State, checkpoint: Checkpoint | None, on_epoch: OnEpoch | None) -> None:
    if checkpoint is not None:
        state.restore(checkpoint)
    for row in state.history if on_epoch else []:
        on_epoch(dict(row))  # type: ignore[misc]
    while len(state.history) < run.cfg.epochs and not _stalled(state.history, run.cfg):
        began = time.monotonic()
        row = _epoch(run, state, len(state.history))
        state.history.append(row)
        if better(state.history, run.cfg.min_delta) == len(state.history) - 1:
            state.best = {name: tensor.detach().clone() for name, tensor in state.model.state_dict().items()}
        if checkpoint is not None:
            state.save(checkpoint)
        seconds = time.monotonic() - began
        log.info(
            "epoch %d of %d: loss %.4f, validation loss %.4f, AUCPR %.4f, %.0f triplets/s",
            *(row["epoch"], run.cfg.epochs, row["train_loss"], row["validation_loss"], row["validation_aucpr"]),
            run.rows / seconds,
        )
        if on_epoch is not None:
            on_epoch(dict(row))


def _stalled(history: list[dict[str, float]], cfg: TrainConfig) -> bool:
    return bool(history) and len(history) - 1 - better(history, cfg.min_delta) >= cfg.patience


def _epoch(run: _Run, state: _State, epoch: int) -> dict[str, float]:
    from sklearn.metrics import average_precision_score

    cfg, labels = run.cfg, run.training.labels
    _seed_torch(cfg.seed, "dropout", epoch)
    state.model.train()
    total = 0.0
    for number, (wanted, triplets) in enumerate(run.load(_wanted(run, epoch))):
        rate = learning_rate(cfg, epoch * run.steps + number, run.steps)
        truth = torch.from_numpy(labels[wanted.positions]).to(run.device)
        total += _step(run, state, triplets.to(run.device), truth, rate) * len(truth)
    scores, loss = _validate(run, state.model)
    if not math.isfinite(total) or not np.isfinite(scores).all():
        raise ConfigError(
            f"the loss is not finite in epoch {epoch + 1}; lower train.learning_rate (now {cfg.learning_rate:g}) "
            f"or train.gradient_clip (now {cfg.gradient_clip:g})."
        )
    return {
        "epoch": epoch + 1,
        "train_loss": total / run.rows,
        "validation_loss": loss,
        "validation_aucpr": float(average_precision_score(run.validation.labels, scores)),
        "learning_rate": learning_rate(cfg, epoch * run.steps, run.steps),
    }


def _wanted(run: _Run, epoch: int) -> Iterator[_Wanted]:
    """The batches of an epoch."""
    cfg = run.cfg
    order = epoch_order(run.training.labels, cfg.balance, rng_for(cfg.seed, "epoch", epoch), stretch=run.stretch)
    for number, positions in enumerate(batches(order[: run.rows], cfg.batch_size)):
        yield _Wanted(positions, (epoch, number))


def _step(run: _Run, state: _State, triplets: torch.Tensor, labels: torch.Tensor, rate: float) -> float:
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.zero_grad(set_to_none=True)
    with torch.autocast(run.device.type, torch.bfloat16, enabled=run.cfg.precision == "bfloat16"):
        outputs = state.model(triplets.contiguous(memory_format=torch.channels_last))
    loss = _loss(run, outputs.float(), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(state.model.parameters(), run.cfg.gradient_clip)
    state.optimizer.step()
    return loss.item()


def _loss(run: _Run, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    weights = run.weights.to(outputs.device)[labels.long()]
    return functional.binary_cross_entropy_with_logits(outputs, labels, weight=weights)


def _validate(run: _Run, model: nn.Module) -> tuple[np.ndarray, float]:
    every = batches(np.arange(len(run.validation.labels)), _VALIDATION_BATCH)
    scores = logits(model, (triplets for _, triplets in run.load(_Wanted(positions, None) for positions in every)))
    return scores, _loss(run, torch.from_numpy(scores), torch.from_numpy(run.validation.labels)).item()


def _result(run: _Run, state: _State, key: str) -> TrainResult:
    best = better(state.history, run.cfg.min_delta)
    row: dict[str, Any] = state.history[best]
    metrics = {f"best_{name}": float(row[name]) for name in ("validation_aucpr", "validation_loss", "train_loss")}
    metrics |= {"best_epoch": float(best + 1), "epochs": float(len(state.history))}
    for part in (run.training, run.validation):
        metrics |= {f"{part.name}_real": float(part.real), f"{part.name}_bogus": float(part.bogus)}
    model = copy.deepcopy(state.model).cpu().eval()
    return TrainResult(model, pd.DataFrame(state.history).astype({"epoch": int}), best + 1, metrics, key)

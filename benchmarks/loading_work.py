"""One measured piece of work of the loader or of a training, in a process of its own: prints a JSON object of rates a second.

    python benchmarks/loading_work.py write FOLDER ROWS | load FOLDER | train

The stamps are those of the store's table (benchmarks/store_work.py); one triplet in ten has a masked strip.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import torch
import yaml
from numpy.typing import NDArray

from astrid.config.schema.model import ModelConfig
from astrid.config.schema.train import AugmentConfig, TrainConfig
from astrid.config.validate import validate
from astrid.core.runtime import rng_for
from astrid.io.shards import ShardWriter, TripletStore
from astrid.learning.loader import NormalizedStamps, Rows, Stamps, batches, epoch_order, stretch_of
from astrid.learning.processes import Load, Make, loading
from astrid.learning.train import train_from
from benchmarks.measure import ROOT, peak_gb
from benchmarks.store_work import BATCH, SHARD, made_up_keys, rows, stamps

NORMALIZATION = "asinh_noise.v1"
SIZE = 64  # triplets a batch
CACHED = 2_048  # triplets of the part that is kept in memory
PASSES = 5  # over it, and over the first triplets from the shards, one after the other
ROUNDS = 4  # of them, far enough apart that what disturbs one is over in another; the best pass of all counts
TRAINED = 576  # triplets of a training, the last 64 of them for validation
MASKED = 12  # px, of the strip


def load(folder: Path) -> dict[str, float]:
    """Triplets a second into turned, swapped batches, from memory and from shards, and the memory that the shards take.

    One process by its CPU time, in line; two by the clock, so that what they wait for one another counts.
    """
    store = TripletStore.open(folder)
    total = len(store)
    default = validate(AugmentConfig, _values("train", "default")["augment"], path="train.augment")
    chosen = {"no": dataclasses.replace(default, share=0.0), "default": default, "all": dataclasses.replace(default, share=1.0)}
    some = np.arange(min(CACHED, total))
    disk = NormalizedStamps(store, np.arange(total), NORMALIZATION, cache_bytes=0)
    with loading(_maker(disk, default), 0, SIZE) as load:
        _epoch(disk, load, 32 * SIZE)
        early = peak_gb()
        _epoch(disk, load, total)
    done = {"early_gb": early, "peak_gb": peak_gb(), **_held(disk, default, total)}
    parts = {"disk": NormalizedStamps(store, some, NORMALIZATION, cache_bytes=0.0)}
    parts["memory"] = NormalizedStamps(store, some, NORMALIZATION, cache_bytes=float("inf"))
    clocks = {0: time.process_time, 2: time.perf_counter}
    for _, (where, part), (name, cfg), (processes, clock) in product(range(ROUNDS), parts.items(), chosen.items(), clocks.items()):
        with loading(_maker(part, cfg), processes, SIZE) as load:
            rate = len(some) / _best(partial(_epoch, part, load, len(some)), clock)
        key = f"{where} {name} {processes}"
        done[key] = max(rate, done.get(key, 0.0))
    return done


def _held(part: NormalizedStamps, cfg: AugmentConfig, total: int) -> dict[str, float]:
    """GB that two processes and this one hold together, what they share once, after 32 batches and after `total` triplets."""
    with loading(_maker(part, cfg), 2, SIZE) as load:
        _epoch(part, load, 32 * SIZE)
        early = _proportional_gb()
        _epoch(part, load, total)
        return {"early_held_gb": early, "held_gb": _proportional_gb()}


def _proportional_gb() -> float:
    """GB of this process and its children: a page that n processes share counts a nth to each."""
    pids = ["self", *(str(child.pid) for child in multiprocessing.active_children())]
    held = [re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M) for pid in pids]
    return sum(int(one[1]) for one in held if one) * 1024 / 1e9


def write(folder: Path, total: int) -> dict[str, float]:
    """A store to load from, in a process of its own, so that its memory does not count."""
    with ShardWriter(folder, SHARD) as writer:
        for first in range(0, total, BATCH):
            drawn = stamps(first, min(BATCH, total - first)).copy()
            drawn[::10, :, :, -MASKED:] = np.nan
            writer.append(drawn, made_up_keys(rows(first, len(drawn))))
    os.sync()  # what the system writes out later would be measured with the loader
    return {"rows": float(total)}


def _epoch(part: NormalizedStamps, load: Load[tuple[int, Rows]], count: int) -> None:
    """As a training takes it, but that nothing is done with the batches."""
    order = epoch_order(np.zeros(len(part), np.float32), "none", np.random.default_rng(0), stretch=stretch_of(part))[:count]
    for _ in load(enumerate(batches(order, SIZE))):
        pass


def _maker(part: NormalizedStamps, cfg: AugmentConfig) -> Make[tuple[int, Rows]]:
    def make(wanted: tuple[int, Rows], out: Stamps | None = None) -> torch.Tensor:
        number, positions = wanted
        return part.augmented(positions, cfg, lambda effect: rng_for(1, "augment", effect, 0, number), out)

    return make


def train() -> dict[str, float]:
    """Triplets a second of CPU time of the epochs of each network, in float32 and in bfloat16, without augmentation."""
    store = _InMemory(TRAINED)
    part = np.where(np.arange(TRAINED) < TRAINED - SIZE, "train", "validation")
    splits = pd.DataFrame({"candidate_id": store.table["candidate_id"], "part": part})
    plain = {"turns": "none", "shift": 0, "swap": 0.0, "share": 0.0}
    done = {}
    for name in ("astrid_cnn", "braai"):
        model = validate(ModelConfig, _values("model", name), path="model")
        for precision in ("float32", "bfloat16"):
            values = _values("train", "default")
            values |= {"seed": 1, "epochs": PASSES, "patience": PASSES, "threads": 1, "loaders": 0, "precision": precision, "device": "cpu"}
            values["augment"] |= plain
            ends: list[float] = []
            cfg = validate(TrainConfig, values, path="train")
            train_from(store, splits, model, cfg, on_epoch=lambda _, ends=ends: ends.append(time.process_time()))  # type: ignore[misc]
            done[f"{name} in {precision}"] = (TRAINED - SIZE) / float(np.diff(ends).min())
    return done


class _InMemory:
    """Triplets that no file holds."""

    digest = "noise"

    def __init__(self, total: int) -> None:
        self.table = rows(0, total)
        self._stamps = stamps(0, total)

    def stamps(self, indices: NDArray[np.integer[Any]], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        return np.asarray(np.take(self._stamps, indices, axis=0, out=out))


def _values(group: str, choice: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "conf" / group / f"{choice}.yaml").read_text()))


def _best(work: Callable[[], None], clock: Callable[[], float]) -> float:
    seconds = []
    for _ in range(PASSES):
        start = clock()
        work()
        seconds.append(clock() - start)
    return min(seconds)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "write":
        print(json.dumps(write(Path(sys.argv[2]), int(sys.argv[3]))))
    else:
        print(json.dumps(load(Path(sys.argv[2])) if sys.argv[1] == "load" else train()))

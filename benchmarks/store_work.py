"""One measured piece of work on a triplet store, in a process of its own: prints a JSON object of rates and of the peak memory.

    python benchmarks/store_work.py write FOLDER ROWS | read FOLDER | audit FOLDER | near FOLDER

The rows are those of a survey: fields with a few exposures and a reference each, events that recur, cells of the sky. The stamps are
noise with a source, drawn batch by batch. From a million rows on, the stamps of one batch stand for all and the keys of the content are
made of the row numbers, so that writing alone is measured; and the shards are emptied once they have been written and hashed (they keep
their size, and read as zeros), so that a disk need not hold 48 GB.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from astrid.config.schema.split import SplitConfig
from astrid.config.validate import validate
from astrid.core.runtime import rng_for
from astrid.datasets.content import with_keys
from astrid.datasets.leakage import audit
from astrid.datasets.near import near_keys
from astrid.datasets.splits import COLUMNS, find_near, group_ids, split_rows
from astrid.io.shards import ShardWriter, TripletStore
from benchmarks.measure import ROOT, peak_gb

BATCH = 512  # triplets, as the stage cuts them
SHARD = 2048
PER_EXPOSURE = 64  # triplets
EPOCHS = 5  # exposures of a field, which share a reference
_LAST: dict[tuple[int, int], NDArray[np.float32]] = {}  # the batch drawn last
MANY = 1_000_000  # rows from which stamps repeat and shards are emptied


def rows(first: int, count: int) -> pd.DataFrame:
    """The table's rows `first` and on: an event has a real triplet an epoch, the others are bogus of one place each."""
    number = np.arange(first, first + count)
    exposure, within = number // PER_EXPOSURE, number % PER_EXPOSURE
    field = exposure // EPOCHS
    real = within % 4 == 0
    place = np.where(real, within, PER_EXPOSURE + (exposure % EPOCHS) * PER_EXPOSURE + within)
    frame = pd.DataFrame(
        {"candidate_id": [f"survey-f{f:06d}-e{e}:{w:03d}" for f, e, w in zip(field, exposure % EPOCHS, within, strict=True)]}
    )
    frame["pair_id"] = [f"survey-f{f:06d}-e{e}__survey-f{f:06d}-r" for f, e in zip(field, exposure % EPOCHS, strict=True)]
    frame["exposure_id"] = [f"survey-f{f:06d}-e{e}" for f, e in zip(field, exposure % EPOCHS, strict=True)]
    frame["reference_id"] = [f"survey-f{f:06d}-r" for f in field]
    frame["event_id"] = [f"survey-f{f:06d}-v{p}" for f, p in zip(field, place, strict=True)]
    frame["cell_id"] = [f"1am.{f}.{p // 8}" for f, p in zip(field, place, strict=True)]
    frame = frame.assign(
        survey="survey", instrument="camera", filter="r", detector=[f"d{f % 16}" for f in field], field_id=field.astype(str)
    )
    return frame.assign(
        mjd=60000.0 + exposure % EPOCHS * 30 + field % 365, x=1.0, y=1.0, sign=1, snr=9.0, scorable=True, label=real.astype(int)
    )


def stamps(first: int, count: int) -> NDArray[np.float32]:
    """Noise with a source in the middle, the same for the same rows."""
    if (first, count) in _LAST:
        return _LAST[first, count]
    rng = rng_for(1, "stamps", str(first))
    out = rng.standard_normal((count, 3, 63, 63), dtype=np.float32)
    out[:, 0::2, 30:33, 30:33] += 20
    _LAST.clear()
    _LAST[first, count] = out
    return out


def batches(total: int) -> Iterator[tuple[NDArray[np.float32], pd.DataFrame]]:
    for first in range(0, total, BATCH):
        count = min(BATCH, total - first)
        yield stamps(first if total < MANY else 0, count), rows(first, count)


def made_up_keys(frame: pd.DataFrame) -> pd.DataFrame:
    """Keys of the same form and length, of nothing but the names."""
    hashes = pd.util.hash_array(frame["candidate_id"].to_numpy(dtype=object)).tolist()
    words = [" ".join(f"c1-{(value + k) % 2**64:016x}" for k in range(6)) for value in hashes]
    return frame.assign(
        stamp_digest=[f"{value:064x}" for value in hashes], content_key=words, near_key=[f"n1-{value:052x}" for value in hashes]
    )


def write(folder: Path, total: int) -> dict[str, float]:
    """CPU time of keys and of writing alone; what draws the stamps is not counted."""
    keyed = written = 0.0
    early = 0.0
    emptied = 0
    with ShardWriter(folder, SHARD) as writer:
        for number, (drawn, frame) in enumerate(batches(total)):
            start = time.process_time()
            frame = with_keys(drawn, frame) if total < MANY else made_up_keys(frame)
            between = time.process_time()
            writer.append(drawn, frame)
            keyed, written = keyed + between - start, written + time.process_time() - between
            early = peak_gb() if number == 8 * SHARD // BATCH else early
            if total >= MANY and writer.rows // SHARD > emptied:
                _empty(folder, emptied)
                emptied += 1
        start = time.process_time()
        store = writer.close()
        written += time.process_time() - start
    made = {"keys": len(store) / keyed} if total < MANY else {}
    return {**made, "write": len(store) / written, "early_gb": early, "peak_gb": peak_gb()}


def _empty(folder: Path, number: int) -> None:
    """Give back the disk space of a finished shard; its size stays."""
    [path] = folder.parent.glob(f".{folder.name}.*.part/shard-{number:05d}.npy")
    size = path.stat().st_size
    with path.open("rb") as stream:
        header = stream.read(128)
    with path.open("wb") as stream:
        stream.write(header)
        stream.truncate(size)


def read(folder: Path) -> dict[str, float]:
    """Triplets a second of wall time, in batches of 256: in order, from anywhere, and in shuffled blocks of 32 rows."""
    store = TripletStore.open(folder)
    rng = np.random.default_rng(0)
    total, wanted = len(store), min(len(store), 100_000) // 256 * 256
    blocks = (rng.permutation(total // 32)[: wanted // 32, None] * 32 + np.arange(32)).ravel()
    orders = {"in order": np.arange(wanted), "from anywhere": rng.permutation(total)[:wanted], "in blocks of 32": blocks}
    rates = {}
    for name, order in orders.items():
        rates[name] = 0.0
        for _ in range(2):  # the first pass brings the files into the machine's memory
            start = time.perf_counter()
            for first in range(0, len(order), 256):
                store.stamps(order[first : first + 256])
            rates[name] = len(order) / (time.perf_counter() - start)
    return {**rates, "peak_gb": peak_gb()}


def split_and_audit(folder: Path) -> dict[str, float]:
    """Rows a second of CPU time of reading the columns, of the split and of the audit."""
    with (ROOT / "conf" / "split" / "temporal.yaml").open() as stream:
        values = yaml.safe_load(stream)
    cfg = validate(SplitConfig, {**values, "seed": 1, "strategy": "random_grouped"}, path="split")
    start = time.process_time()
    table = TripletStore.open(folder).columns(COLUMNS)
    loaded = time.process_time()
    splits = split_rows(table, cfg)
    done = time.process_time()
    audit(table, splits).raise_if_leaking()
    end = time.process_time()
    total = len(table)
    groups = float(splits["group_id"].nunique())
    return {
        "columns": total / (loaded - start),
        "split": total / (done - loaded),
        "audit": total / (end - done),
        "peak_gb": peak_gb(),
        "groups": groups,
    }


def near(folder: Path) -> dict[str, float]:
    """The search for near copies over the whole store, with one planted for every thousand rows."""
    store = TripletStore.open(folder)
    table = store.columns(COLUMNS)
    planted = np.arange(0, len(table) - 1, 1000)
    noisy = _noisy(store.stamps(planted))
    total = len(table)
    copies = table.iloc[planted].assign(near_key=near_keys(noisy))
    for name in ("candidate_id", "exposure_id", "reference_id", "event_id", "cell_id", "stamp_digest", "content_key"):
        copies[name] = [f"copy-{value}" if name != "content_key" else "" for value in copies[name]]
    both = pd.concat([table, copies], ignore_index=True)

    def some(wanted: NDArray[np.int64]) -> NDArray[np.float32]:
        out = store.stamps(np.where(wanted < total, wanted, 0))
        out[wanted >= total] = noisy[wanted[wanted >= total] - total]
        return out

    start = time.process_time()
    found = find_near(both, some)
    seconds = time.process_time() - start
    group_start = time.process_time()
    group_ids(both)
    grouping = time.process_time() - group_start
    right = (("copy-" + found["first"]) == found["second"]).sum()
    return {
        "near": total / seconds,
        "grouping": grouping,
        "found": right / len(planted),
        "false": float(len(found) - right),
        "peak_gb": peak_gb(),
    }


def _noisy(original: NDArray[np.float32]) -> NDArray[np.float32]:
    rng = np.random.default_rng(2)
    turned = np.rot90(original, 1, axes=(2, 3))
    return np.asarray(turned + 0.2 * rng.standard_normal(turned.shape, dtype=np.float32), dtype=np.float32)


if __name__ == "__main__":
    work, where = sys.argv[1], Path(sys.argv[2])
    works = {"read": read, "audit": split_and_audit, "near": near}
    print(json.dumps(write(where, int(sys.argv[3])) if work == "write" else works[work](where)))

"""Training and its loader: rates of both and what the loader's batches leave of the training's, and memory that does not grow."""

from __future__ import annotations

from typing import Any

from benchmarks.measure import ROOT, Options, Row, Table, in_process

LOADING = 20_000.0  # triplets a second into normalised batches, by two processes on two cores
FLAT = 1.1  # memory at the end of a streamed epoch over that after its first batches
SECONDS = 1800.0
PLACES = {"memory": "from memory", "disk": "from shards"}
PROCESSES = {"0": ("one process", "CPU time"), "2": ("two processes", "wall time")}


def run(options: Options) -> Table:
    count = 4_096 if options.quick else 50_000
    folder = options.scratch / "loading"
    script = str(ROOT / "benchmarks" / "loading_work.py")
    loaded = in_process([script, "write", str(folder), str(count)], memory_gb=options.memory_gb, seconds=SECONDS)
    if "error" not in loaded:
        loaded = in_process([script, "load", str(folder)], memory_gb=options.memory_gb, seconds=SECONDS)
    trained = in_process([script, "train"], memory_gb=options.memory_gb, seconds=SECONDS)
    return Table("Training and its loader", [*_loaded(count, loaded), *_trained(loaded, trained)])


def _loaded(count: int, done: dict[str, Any]) -> list[Row]:
    if "error" in done:
        return [Row("load", float("nan"), note=done["error"])]
    rows = []
    for where, place in PLACES.items():
        for effects in ("no", "default", "all"):
            for processes, (words, clock) in PROCESSES.items():
                rate = done[f"{where} {effects} {processes}"]
                asked = processes == "2" and effects != "all"
                target = {"target": f">= {LOADING:,.0f}", "passed": rate >= LOADING} if asked else {}
                name = f"batches {place}, {effects} effects, {words}"
                rows.append(Row(name, rate, "triplets/s", note=f"{clock}, turns and swaps included", **target))
    growth, held = done["peak_gb"] / done["early_gb"], done["held_gb"] / done["early_held_gb"]
    return [
        *rows,
        Row(f"memory of {count:,} triplets from shards", done["peak_gb"], "GB", note="peak of the process"),
        Row("growth of it after 32 batches", growth, "x", target=f"<= {FLAT}", passed=growth <= FLAT),
        Row(f"memory of two processes and their reader, {count:,} triplets", done["held_gb"], "GB", note="shared memory counted once"),
        Row("growth of that after 32 batches", held, "x", target=f"<= {FLAT}", passed=held <= FLAT),
    ]


def _trained(loaded: dict[str, Any], done: dict[str, Any]) -> list[Row]:
    if "error" in done:
        return [Row("train", float("nan"), note=done["error"])]
    rows = []
    for name, rate in done.items():
        rows.append(Row(f"training of {name}", rate, "triplets/s", note="CPU time of steps of 64, one thread"))
        for where, place in PLACES.items() if "error" not in loaded else ():
            ratio = loaded[f"{where} default 0"] / rate
            rows.append(Row(f"loading {place} with default effects over training of {name}", ratio, "x", target=">= 1", passed=ratio >= 1))
    return rows

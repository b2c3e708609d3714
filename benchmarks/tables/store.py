"""The triplet store: rates of writing, reading, splitting and auditing, and memory that does not grow with the rows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, Options, Row, Table, in_process

LOADING = 20_000.0  # triplets a second that reading has to exceed
FLAT = 1.1  # memory at the end of writing over that after the first eight shards
SECONDS = 1800.0


def run(options: Options) -> Table:
    rows: list[Row] = []
    counts = (10_000, 20_000) if options.quick else (100_000, 1_000_000)
    for count in counts:
        folder = options.scratch / f"store-{count}"
        name = f"{count:,} rows"
        written = _work(options, "write", folder, str(count))
        rows += _written(name, written)
        if "error" in written:
            continue
        rows += _read(name, _work(options, "read", folder))
        rows += _audited(name, _work(options, "audit", folder))
        if count == counts[0]:
            rows += _near(name, _work(options, "near", folder))
        shutil.rmtree(folder)
    return Table("Triplet store: rates and memory", rows)


def _work(options: Options, work: str, folder: Path, *more: str) -> dict[str, Any]:
    script = str(ROOT / "benchmarks" / "store_work.py")
    return in_process([script, work, str(folder), *more], memory_gb=options.memory_gb, seconds=SECONDS)


def _written(name: str, done: dict[str, Any]) -> list[Row]:
    if "error" in done:
        return [Row(f"write, {name}", float("nan"), note=done["error"])]
    growth = done["peak_gb"] / done["early_gb"]
    note = "digest, turned and shifted copies, near copies; CPU time"
    keys = [Row(f"keys of the content, {name}", done["keys"], "triplets/s", note=note)] if "keys" in done else []
    return [
        *keys,
        Row(f"write and hash, {name}", done["write"], "triplets/s", note="CPU time"),
        Row(f"memory of writing, {name}", done["peak_gb"], "GB", note="peak of the process"),
        Row(f"growth of it after eight shards, {name}", growth, "x", target=f"<= {FLAT}", passed=growth <= FLAT),
    ]


def _read(name: str, done: dict[str, Any]) -> list[Row]:
    if "error" in done:
        return [Row(f"read, {name}", float("nan"), note=done["error"])]
    orders = ("in order", "in blocks of 32", "from anywhere")
    limit = f">= {LOADING:,.0f}"
    out = [
        Row(
            f"read {order}, {name}",
            done[order],
            "triplets/s",
            target=limit,
            passed=done[order] >= LOADING,
            note="wall time, files in memory",
        )
        for order in orders
    ]
    return [*out, Row(f"memory of reading, {name}", done["peak_gb"], "GB", note="peak of the process")]


def _audited(name: str, done: dict[str, Any]) -> list[Row]:
    if "error" in done:
        return [Row(f"split and audit, {name}", float("nan"), note=done["error"])]
    groups = f"{done['groups']:,.0f} groups; CPU time"
    return [
        Row(f"read the split's columns, {name}", done["columns"], "rows/s", note="CPU time"),
        Row(f"split, {name}", done["split"], "rows/s", note=groups),
        Row(f"audit, {name}", done["audit"], "rows/s", note=groups),
        Row(f"memory of split and audit, {name}", done["peak_gb"], "GB", note="peak of the process"),
    ]


def _near(name: str, done: dict[str, Any]) -> list[Row]:
    if "error" in done:
        return [Row(f"near copies, {name}", float("nan"), note=done["error"])]
    note = f"all pairs of other groups, verified on pixels; CPU time, of which {done['grouping']:.1f} s the groups"
    return [
        Row(f"search for near copies, {name}", done["near"], "rows/s", note=note),
        Row(
            f"planted near copies found, {name}",
            done["found"],
            "",
            target=">= 0.99",
            passed=done["found"] >= 0.99,
            note="20 % new noise, turned",
        ),
        Row(f"pairs wrongly taken for copies, {name}", done["false"], "", target="0", passed=done["false"] == 0),
    ]

"""DVC stage `detect`: difference products -> data/candidates/candidates.parquet."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from astrid.config.schema import CandidatesConfig
from astrid.core.errors import AstridError
from astrid.core.records import Problem
from astrid.core.runtime import log, parallel_map, write_json
from astrid.io.tables import CANDIDATES, PAIRS, read_table, write_table
from astrid.stages.common import run, settings, workers

DIFFERENCE = Path("data/difference")
OUTPUT = Path("data/candidates/candidates.parquet")
REPORT = Path("reports/detect.json")


@dataclass(frozen=True)
class Task:
    """One difference product to search; picklable."""

    pair_id: str
    path: Path
    cfg: CandidatesConfig


def search(task: Task) -> tuple[pd.DataFrame, int] | Problem:
    """Candidates of one product and the count of those dropped by the limit; a broken product is a `Problem`."""
    from astrid.candidates.extract import find_candidates
    from astrid.io.fits import read_difference

    try:
        frame = find_candidates(read_difference(task.path), task.cfg, pair_id=task.pair_id)
    except AstridError as error:
        return Problem(task.pair_id, str(error))
    return frame, int(frame.attrs["dropped"])


def detect(folder: Path, output: Path, cfg: CandidatesConfig, *, processes: int) -> dict[str, Any]:
    """Search every pair of `folder`/pairs.parquet whose status is ok, write the table and return the report."""
    pairs = read_table(folder / "pairs.parquet", PAIRS)
    names = sorted(pairs.loc[pairs["status"] == "ok", "pair_id"])
    tasks = [Task(name, folder / f"{name}.fits", cfg) for name in names]
    found: dict[str, tuple[pd.DataFrame, int]] = {}
    problems: list[Problem] = []
    for task, result in parallel_map(search, tasks, workers=processes, description="detect"):
        if isinstance(result, Problem):
            log.warning("%s was set aside: %s", result.source, result.reason)
            problems.append(result)
        else:
            found[task.pair_id] = result
    frames = [found[name][0] for name in names if name in found and len(found[name][0])]
    table = pd.concat(frames, ignore_index=True) if frames else CANDIDATES.empty()
    write_table(table, output, CANDIDATES)
    dropped = {name: count for name, (_, count) in found.items() if count}
    return report(table, names, dropped, sorted(problems, key=lambda problem: problem.source))


def report(table: pd.DataFrame, pairs: list[str], dropped: dict[str, int], problems: list[Problem]) -> dict[str, Any]:
    """Counts for reports/detect.json: by sign and tag, a pair, what the limit dropped and what could not be searched."""
    each = table["pair_id"].value_counts().reindex(pairs, fill_value=0).to_numpy() if pairs else np.zeros(0)
    tags = Counter(name for names in table["tags"] for name in names)
    return {
        "pairs": len(pairs),
        "problems": [{"pair_id": problem.source, "reason": problem.reason} for problem in problems],
        "candidates": len(table),
        "positive": int((table["sign"] > 0).sum()),
        "negative": int((table["sign"] < 0).sum()),
        "unscorable": int((~table["scorable"].astype(bool)).sum()),
        "untagged": int(sum(len(names) == 0 for names in table["tags"])),
        "tags": dict(sorted(tags.items())),
        "candidates_a_pair": {"median": float(np.median(each)) if len(each) else 0.0, "max": int(each.max()) if len(each) else 0},
        "dropped": dict(sorted(dropped.items())),
    }


def main() -> None:
    """Run the stage in the project's root."""
    summary = detect(DIFFERENCE, OUTPUT, settings(CandidatesConfig, "candidates"), processes=workers())
    write_json(REPORT, summary)
    log.info("%d candidates in %d pairs -> %s", summary["candidates"], summary["pairs"], OUTPUT)


if __name__ == "__main__":
    run(main)

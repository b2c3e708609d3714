"""DVC stage `detect`: difference products -> data/candidates: candidates, light curves of the catalogue's events, moving objects."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from astrid.config.params import settings
from astrid.config.schema import CandidatesConfig
from astrid.core.copies import is_copy
from astrid.core.errors import AstridError
from astrid.core.executors import Executor
from astrid.core.provenance import digest_bytes, digest_code, digest_file, digest_settings
from astrid.core.runtime import log, write_json
from astrid.io.table_parts import table_in_parts
from astrid.io.tables import ASTEROIDS, CANDIDATES, CATALOG, LIGHTCURVES, PAIRS, TRACKS, conform, read_table, read_tables, write_table
from astrid.stages.common import Job, executor, finish, only_alerts, prune, recorded, run

if TYPE_CHECKING:
    from astrid.candidates.across import Marks

DIFFERENCE = Path("data/difference")
CATALOG_TABLE = Path("data/catalog/catalog.parquet")
OUTPUT = Path("data/candidates/candidates.parquet")  # the light curves, the tracks and a folder of the pairs lie beside it
REPORT = Path("reports/detect.json")
CODE = ("astrid.candidates", "astrid.io.fits", "astrid.io.tables", "astrid.core")
_TOGETHER = 64  # pairs whose candidates, or light curves as plain values, are in memory at a time


@dataclass(frozen=True)
class Task:
    """One difference product to search, and the positions whose light curves it may hold; picklable."""

    pair_id: str
    path: Path
    cfg: CandidatesConfig
    names: tuple[str, ...]
    ra: tuple[float, ...]  # deg
    dec: tuple[float, ...]  # deg


@dataclass(frozen=True)
class Counted:
    """Running counts of the candidates."""

    numbers: Counter[str] = field(default_factory=Counter)
    tags: Counter[str] = field(default_factory=Counter)
    pairs: Counter[str] = field(default_factory=Counter)

    def add(self, candidates: pd.DataFrame) -> None:
        """Count the candidates in."""
        self.numbers.update(
            candidates=len(candidates),
            positive=int((candidates["sign"] > 0).sum()),
            negative=int((candidates["sign"] < 0).sum()),
            unscorable=int((~candidates["scorable"].astype(bool)).sum()),
            untagged=int(sum(len(names) == 0 for names in candidates["tags"])),
            known=int((candidates["moving_name"] != "").sum()),
        )
        self.tags.update(name for names in candidates["tags"] for name in names)
        self.pairs.update(candidates["pair_id"])


def main() -> None:
    """Run the stage in the project's root."""
    from astrid.sky.asteroids import read_asteroids

    cfg = settings(CandidatesConfig, "candidates")
    catalog = read_table(CATALOG_TABLE, CATALOG) if CATALOG_TABLE.exists() else CATALOG.empty()
    asteroids = read_asteroids(Path(cfg.moving.asteroids)) if cfg.moving.asteroids else ASTEROIDS.empty()
    summary = detect(DIFFERENCE, OUTPUT.parent, cfg, executor=executor(), catalog=catalog, asteroids=asteroids)
    write_json(REPORT, summary)
    if not summary["pairs"] and only_alerts("detect"):
        return
    log.info("%d candidates in %d pairs -> %s", summary["candidates"], summary["pairs"], OUTPUT.parent)


def detect(
    folder: Path, output: Path, cfg: CandidatesConfig, *, executor: Executor, catalog: pd.DataFrame, asteroids: pd.DataFrame
) -> dict[str, Any]:
    """Search every pair of `folder`/pairs.parquet whose status is ok and return the report.

    Writes candidates.parquet (by survey, field and pair), lightcurves.parquet (of `catalog`'s positions) and tracks.parquet to
    `output`, and one resumable table a pair to `output`/pairs. `asteroids` (ASTEROIDS) names known moving objects. Of all
    candidates the columns alone that exposures are compared by are in memory together.
    """
    from astrid.candidates.across import compare

    pairs = read_table(folder / "pairs.parquet", PAIRS)
    usable = pairs[pairs["status"] == "ok"].sort_values(["survey", "field_id", "pair_id"], kind="stable")
    jobs = _jobs(usable["pair_id"].tolist(), folder, output / "pairs", cfg, catalog)
    lost = finish(search, jobs, description="detect", unit="pairs", executor=executor, on_loss=lambda _, reason: _problem(reason))
    prune(output / "pairs", [path for job in jobs for path in (job.output, job.record)])
    rows, points = _gathered(jobs, lost, output / "lightcurves.parquet")
    found = [job.output for job in jobs if rows[job.key]["status"] == "ok"]
    marks, tracks = compare(_compared(found), asteroids, cfg)
    counted = _marked(found, marks, output / "candidates.parquet")
    write_table(tracks, output / "tracks.parquet", TRACKS)
    return {
        **report(counted, rows),
        "light_curve_points": points["all"],
        "light_curve_detections": points["detected"],
        "tracks": len(tracks),
        "known_objects": counted.numbers["known"],
    }


def _gathered(jobs: list[Job], lost: Mapping[str, Mapping[str, Any]], path: Path) -> tuple[dict[str, dict[str, Any]], Counter[str]]:
    """What is known of each pair, by its name, and how many points the light curves have (`all`, `detected`), which go to `path`."""
    rows: dict[str, dict[str, Any]] = {}
    numbers: Counter[str] = Counter()
    with table_in_parts(path, LIGHTCURVES) as add:
        for start in range(0, len(jobs), _TOGETHER):
            some = {job.key: dict(lost.get(job.key) or recorded(job)) for job in jobs[start : start + _TOGETHER]}
            points = [point for row in some.values() for point in row.pop("light_curves")]
            if points:
                curves = conform(pd.DataFrame(points), LIGHTCURVES, source="the light curves")
                numbers.update(all=len(curves), detected=int(curves["detected"].sum()))
                add(curves)
            rows |= some
    return rows, numbers


def _compared(paths: list[Path]) -> pd.DataFrame:
    """The columns of the candidates of all pairs that exposures are compared by; equal names and tags are one object in memory."""
    from astrid.candidates.across import COLUMNS

    shared: dict[object, object] = {}
    words = {column.name for column in CANDIDATES.columns if column.kind == "str"}
    repeated = words.intersection(COLUMNS) - {"candidate_id"}
    parts = []
    for start in range(0, max(len(paths), 1), _TOGETHER):
        part = read_tables(paths[start : start + _TOGETHER], CANDIDATES, columns=COLUMNS)
        same = {name: [shared.setdefault(value, value) for value in part[name]] for name in repeated}
        same["tags"] = [shared.setdefault(tags, tags) for tags in map(tuple, part["tags"])]
        parts.append(part.assign(**{name: pd.Series(values, dtype=object) for name, values in same.items()}))
    return pd.concat(parts, ignore_index=True)


def _marked(paths: list[Path], marks: Marks, output: Path) -> Counted:
    """The candidates of all pairs with their marks written to `output`, and counted."""
    counted = Counted()
    with table_in_parts(output, CANDIDATES) as add:
        for start in range(0, len(paths), _TOGETHER):
            part = read_tables(paths[start : start + _TOGETHER], CANDIDATES)
            part = marks.on(part, counted.numbers["candidates"])
            counted.add(part)
            add(part)
    return counted


def _jobs(names: list[str], folder: Path, output: Path, cfg: CandidatesConfig, catalog: pd.DataFrame) -> list[Job]:
    """One job a pair; what links the pairs with each other is no part of its digest."""
    own = dataclasses.asdict(cfg)
    del own["moving"], own["recurring"]
    positions = tuple(tuple(catalog[name].tolist()) for name in ("object_id", "s_ra", "s_dec"))
    common = (digest_settings(own), digest_code(CODE), repr(positions))
    jobs = []
    for name in names:
        path = folder / f"{name}.fits"
        product = digest_file(path) if path.is_file() else "absent"
        digest = digest_bytes(*(part.encode() for part in (*common, name, product)))
        wanted = ((), (), ()) if is_copy(name) else positions
        jobs.append(Job(name, digest, output / f"{name}.parquet", Task(name, path, cfg, *wanted)))
    return jobs


def search(job: Job) -> dict[str, Any]:
    """Candidates of one product, written to `job.output`, and its points of the light curves; a broken product is a problem."""
    from astrid.candidates.extract import find_candidates
    from astrid.candidates.forced import light_curve
    from astrid.io.fits import read_difference

    task: Task = job.payload
    try:
        difference = read_difference(task.path)
        frame = find_candidates(difference, task.cfg, pair_id=task.pair_id)
        points = light_curve(difference, list(task.names), np.array(task.ra), np.array(task.dec), task.cfg.forced, pair_id=task.pair_id)
    except AstridError as error:
        job.output.unlink(missing_ok=True)
        return _problem(str(error))
    write_table(frame, job.output, CANDIDATES)
    return {"status": "ok", "reason": "", "dropped": int(frame.attrs["dropped"]), "light_curves": points.to_dict("records")}


def _problem(reason: str) -> dict[str, Any]:
    return {"status": "problem", "reason": reason, "dropped": 0, "light_curves": []}


def report(counted: Counted, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Counts for reports/detect.json: by sign and tag, a pair, what the limit dropped and what could not be searched."""
    each = [counted.pairs[name] for name in rows]
    problems = [{"pair_id": name, "reason": row["reason"]} for name, row in sorted(rows.items()) if row["status"] != "ok"]
    for problem in problems:
        log.warning("%s was set aside: %s", problem["pair_id"], problem["reason"])
    return {
        "pairs": len(rows),
        "problems": problems,
        **{name: counted.numbers[name] for name in ("candidates", "positive", "negative", "unscorable", "untagged")},
        "tags": dict(sorted(counted.tags.items())),
        "candidates_a_pair": {"median": float(np.median(each)) if each else 0.0, "max": max(each, default=0)},
        "dropped": {name: row["dropped"] for name, row in sorted(rows.items()) if row["dropped"]},
    }


if __name__ == "__main__":
    run(main)

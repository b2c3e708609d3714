"""DVC stage `detect`: difference products -> data/candidates: candidates, light curves of the catalogue's events, moving objects."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from astrid.config.params import settings
from astrid.config.schema import CandidatesConfig
from astrid.core.copies import is_copy
from astrid.core.errors import AstridError
from astrid.core.executors import Executor
from astrid.core.provenance import digest_bytes, digest_code, digest_file, digest_settings
from astrid.core.runtime import log, write_json
from astrid.io.tables import ASTEROIDS, CANDIDATES, CATALOG, LIGHTCURVES, PAIRS, TRACKS, conform, read_table, read_tables, write_table
from astrid.stages.common import Job, executor, finish, only_alerts, prune, recorded, run

DIFFERENCE = Path("data/difference")
CATALOG_TABLE = Path("data/catalog/catalog.parquet")
OUTPUT = Path("data/candidates/candidates.parquet")  # the light curves, the tracks and a folder of the pairs lie beside it
REPORT = Path("reports/detect.json")
CODE = ("astrid.candidates", "astrid.io.fits", "astrid.io.tables", "astrid.core")
_TOGETHER = 64  # pairs whose light curves are in memory as plain values at a time


@dataclass(frozen=True)
class Task:
    """One difference product to search, and the positions whose light curves it may hold; picklable."""

    pair_id: str
    path: Path
    cfg: CandidatesConfig
    names: tuple[str, ...]
    ra: tuple[float, ...]  # deg
    dec: tuple[float, ...]  # deg


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

    Writes candidates.parquet, lightcurves.parquet (of `catalog`'s positions) and tracks.parquet to `output`, and one resumable
    table a pair to `output`/pairs. `asteroids` (ASTEROIDS) names known moving objects.
    """
    from astrid.candidates.moving import link, mark, match_known
    from astrid.candidates.recurring import mark_recurring

    pairs = read_table(folder / "pairs.parquet", PAIRS)
    names = sorted(pairs.loc[pairs["status"] == "ok", "pair_id"])
    jobs = _jobs(names, folder, output / "pairs", cfg, catalog)
    lost = finish(search, jobs, description="detect", unit="pairs", executor=executor, on_loss=lambda _, reason: _problem(reason))
    prune(output / "pairs", [path for job in jobs for path in (job.output, job.record)])
    rows, curves = _gathered(jobs, lost)
    table = read_tables([job.output for job in jobs if rows[job.key]["status"] == "ok"], CANDIDATES)
    table = mark_recurring(table, cfg.recurring)
    copied = table["pair_id"].map(is_copy).to_numpy(dtype=bool)  # their light is that of their parents: it makes no track
    own, copies = table[~copied].reset_index(drop=True), table[copied]
    own, tracks = mark(own, link(own, cfg.moving), match_known(own, asteroids, cfg.moving))
    table = pd.concat([own, copies], ignore_index=True) if len(copies) else own
    write_table(table, output / "candidates.parquet", CANDIDATES)
    write_table(curves, output / "lightcurves.parquet", LIGHTCURVES)
    write_table(tracks, output / "tracks.parquet", TRACKS)
    return {
        **report(table, names, rows),
        "light_curve_points": len(curves),
        "light_curve_detections": int(curves["detected"].sum()),
        "tracks": len(tracks),
        "known_objects": int((table["moving_name"] != "").sum()),
    }


def _gathered(jobs: list[Job], lost: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, dict[str, Any]], pd.DataFrame]:
    """What is known of each pair, by its name, and the points of all light curves (LIGHTCURVES); records are read a few at a time."""
    rows: dict[str, dict[str, Any]] = {}
    parts = []
    for start in range(0, len(jobs), _TOGETHER):
        some = {job.key: dict(lost.get(job.key) or recorded(job)) for job in jobs[start : start + _TOGETHER]}
        points = [point for row in some.values() for point in row.pop("light_curves")]
        parts += [conform(pd.DataFrame(points), LIGHTCURVES, source="the light curves")] if points else []
        rows |= some
    return rows, pd.concat(parts, ignore_index=True) if parts else LIGHTCURVES.empty()


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


def report(table: pd.DataFrame, pairs: list[str], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Counts for reports/detect.json: by sign and tag, a pair, what the limit dropped and what could not be searched."""
    each = table["pair_id"].value_counts().reindex(pairs, fill_value=0).to_numpy() if pairs else np.zeros(0)
    tags = Counter(name for names in table["tags"] for name in names)
    problems = [{"pair_id": name, "reason": row["reason"]} for name, row in sorted(rows.items()) if row["status"] != "ok"]
    for problem in problems:
        log.warning("%s was set aside: %s", problem["pair_id"], problem["reason"])
    return {
        "pairs": len(pairs),
        "problems": problems,
        "candidates": len(table),
        "positive": int((table["sign"] > 0).sum()),
        "negative": int((table["sign"] < 0).sum()),
        "unscorable": int((~table["scorable"].astype(bool)).sum()),
        "untagged": int(sum(len(names) == 0 for names in table["tags"])),
        "tags": dict(sorted(tags.items())),
        "candidates_a_pair": {"median": float(np.median(each)) if len(each) else 0.0, "max": int(each.max()) if len(each) else 0},
        "dropped": {name: row["dropped"] for name, row in sorted(rows.items()) if row["dropped"]},
    }


if __name__ == "__main__":
    run(main)

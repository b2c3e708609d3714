"""Stage difference: data/calibrated, data/pairs and data/injected -> data/difference, one product a pair; the rest with a reason.

reports/difference holds the table of all pairs and a page of pictures of the worst.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from astrid.config.params import settings
from astrid.config.schema.imaging import DifferenceConfig, PairReportConfig
from astrid.core.copies import is_copy, parent_of
from astrid.core.errors import ImagingError, InputError
from astrid.core.executors import Executor, parallel_map
from astrid.core.provenance import digest_bytes, digest_code, digest_file, digest_settings
from astrid.core.records import Difference
from astrid.core.runtime import log, write_bytes, write_json
from astrid.imaging.copies import Added, added_sources
from astrid.io.fits import read_calibrated, write_difference
from astrid.io.planes import scratch_beside
from astrid.io.tables import EXPOSURES, PAIRS, TRUTH, read_table, write_table
from astrid.stages.common import Job, executor, only_alerts, prune, quarantine, resume, run

CALIBRATED = Path("data/calibrated")
PAIR_TABLE = Path("data/pairs/pairs.parquet")
TRUTH_TABLE = Path("data/raw/truth.parquet")
INJECTED = Path("data/injected")  # pairs.parquet and truth.parquet of the injected copies
DIFFERENCE = Path("data/difference")
REPORT = Path("reports/difference.json")
PAGES = Path("reports/difference")
CODE = ("astrid.imaging", "astrid.io.fits", "astrid.io.flags", "astrid.io.images", "astrid.io.wcs", "astrid.core")

# Kinds of truth rows that are changes on the sky; the others are artefacts.
TRANSIENT_KINDS = ("supernova", "variable", "asteroid", "injected")
OVERVIEW, INDEX = "overview.png", "index.html"
_PREFIX = "q_"
# Measured: a process with its libraries, what it holds beside a byte of calibrated file, and the most that its tiles let it grow to.
_PROCESS_BYTES, _BYTES_A_BYTE, _MOST_BYTES = 0.3e9, 7.0, 1.6e9
_NAMED_REASONS = 20  # reasons that the report repeats
_MEDIANS = ("registration_rms_px", "registration_rms_arcsec", "score_std_raw", "score_std", "overlap", "flux_scatter", "masked_fraction")


@dataclass(frozen=True)
class PairTask:
    """What a worker needs of one pair; picklable."""

    pair_id: str
    science: Path
    reference: Path
    truth: tuple[tuple[float, float], ...]  # x, y in px of the science image
    config: DifferenceConfig
    added: tuple[Added, Added] | None = None  # for an injected copy: to the science exposure and to the reference


def main() -> None:
    """Subtract every usable pair of data/pairs/pairs.parquet, and its injected copies."""
    config = settings(DifferenceConfig, "imaging.difference")
    copies, added = _copies()
    pairs = read_table(PAIR_TABLE, PAIRS)
    pairs = pd.concat([pairs, copies], ignore_index=True) if len(copies) else pairs
    exposures = read_table(CALIBRATED / "exposures.parquet", EXPOSURES)
    pairs = set_aside(pairs, exposures)
    jobs = _jobs(pairs, config, _shown(), added)
    where = executor()
    rows = resume(_subtract_one, jobs, description="difference", unit="pairs", executor=where, on_loss=quarantine)
    table = merge(pairs, {job.key: row for job, row in zip(jobs, rows, strict=True)})
    write_table(table, DIFFERENCE / "pairs.parquet", PAIRS)
    write_json(REPORT, report(table))
    prune(DIFFERENCE, [DIFFERENCE / "pairs.parquet", *(path for job in jobs for path in (job.output, job.record))])
    write_pages(table, config, settings(PairReportConfig, "imaging.report"), where)
    failed = table[table["status"] != "ok"]
    for row in failed.itertuples():
        log.warning("difference: %s is %s: %s", row.pair_id, row.status, row.reason)
    if len(failed) == len(table) and not (pairs.empty and only_alerts("difference")):
        first = f" The first: {failed['reason'].iloc[0]}" if len(table) else ""
        raise ImagingError(f"none of the {len(table)} pairs could be subtracted; see {REPORT}.{first}")


def set_aside(pairs: pd.DataFrame, exposures: pd.DataFrame) -> pd.DataFrame:
    """The pairs, those with a quarantined or unknown exposure marked as quarantined; a copy's exposures are its parents'."""
    state = {str(row.exposure_id): (str(row.status), str(row.reason)) for row in exposures.itertuples()}
    out = pairs.reset_index(drop=True).copy()
    for index in out.index[out["status"] == "ok"]:
        for role in ("science_id", "reference_id"):
            name = parent_of(str(out.at[index, role]))
            status, reason = state.get(name, ("unknown", "it is not in data/calibrated/exposures.parquet"))
            if status != "ok":
                out.loc[index, ["status", "reason"]] = ["quarantined", f"exposure {name} is {status}: {reason}"]
                break
    return out


def changes(path: Path) -> pd.DataFrame:
    """The rows of a truth table that are changes on the sky at a known pixel: exposure_id, kind, x, y and flux; none without a file."""
    columns = ("exposure_id", "kind", "x", "y", "flux")
    truth = read_table(path, TRUTH, columns=columns, where=("kind", TRANSIENT_KINDS)) if path.exists() else TRUTH.empty()[list(columns)]
    return truth[np.isfinite(truth["x"]) & np.isfinite(truth["y"])]


def places(truth: pd.DataFrame) -> dict[str, tuple[tuple[float, float], ...]]:
    """The pixels (x, y) of the rows of `changes`, by exposure."""
    return {str(name): tuple(zip(rows["x"].tolist(), rows["y"].tolist(), strict=True)) for name, rows in truth.groupby("exposure_id")}


def _shown() -> dict[str, tuple[tuple[float, float], ...]]:
    """Places of what the plane TRUTH marks; a fading source is marked where it was."""
    truth = pd.concat([changes(TRUTH_TABLE), changes(INJECTED / "truth.parquet")], ignore_index=True)
    return places(truth[(truth["flux"] > 0) | (truth["kind"] == "injected")])


def _copies() -> tuple[pd.DataFrame, dict[str, Added]]:
    """The injected copies of pairs, none where the stage inject did not run, and what their exposures have added, by exposure."""
    if not (INJECTED / "pairs.parquet").exists():
        return PAIRS.empty(), {}
    pairs, truth = read_table(INJECTED / "pairs.parquet", PAIRS), read_table(INJECTED / "truth.parquet", TRUTH)
    return pairs, added_sources(pairs, truth)


def _jobs(
    pairs: pd.DataFrame, config: DifferenceConfig, truth: Mapping[str, tuple[tuple[float, float], ...]], added: Mapping[str, Added]
) -> list[Job]:
    common = digest_settings(config) + digest_code(CODE)
    digests: dict[Path, str] = {}
    jobs = []
    for row in pairs[pairs["status"] == "ok"].to_dict("records"):
        ids = (str(row["science_id"]), str(row["reference_id"]))
        science, reference = (CALIBRATED / f"{parent_of(name)}.fits" for name in ids)
        for path in (science, reference):
            if path not in digests:
                digests[path] = digest_file(path) if path.is_file() else "absent"
        known = truth.get(parent_of(ids[0]), ()) + truth.get(ids[0], ())
        copy = (added[ids[0]], added[ids[1]]) if is_copy(str(row["pair_id"])) else None
        parts = (common, digests[science], digests[reference], repr(known), *([repr(copy)] if copy else []))
        digest = digest_bytes(*(part.encode() for part in parts))
        task = PairTask(str(row["pair_id"]), science, reference, known, config, copy)
        jobs.append(Job(task.pair_id, digest, DIFFERENCE / f"{task.pair_id}.fits", task, memory_needed(science, reference)))
    return jobs


def memory_needed(*exposures: Path) -> float:
    """Bytes that a subtraction is expected to take, from the size of its files."""
    held = _BYTES_A_BYTE * sum(path.stat().st_size for path in exposures if path.is_file())
    return min(_PROCESS_BYTES + held, _MOST_BYTES)


def _subtract_one(job: Job) -> dict[str, Any]:
    from astrid.imaging.pair import subtract_pair

    task: PairTask = job.payload
    with scratch_beside(job.output) as scratch:
        try:
            pair = [read_calibrated(path) for path in (task.science, task.reference)]
            if task.added:
                pair = [added.to(exposure, scratch) for added, exposure in zip(task.added, pair, strict=True)]
            difference = subtract_pair(pair[0], pair[1], task.config, allocate=scratch)
        except (ImagingError, InputError) as error:
            job.output.unlink(missing_ok=True)
            return {"status": "refused" if isinstance(error, ImagingError) else "quarantined", "reason": str(error)}
        write_difference(job.output, with_truth(difference, task.truth, scratch))
    return {"status": "ok", "reason": "", **quality_columns(difference)}


def with_truth(difference: Difference, positions: tuple[tuple[float, float], ...], allocate: Callable[..., Any] = np.zeros) -> Difference:
    """The product with a TRUTH plane: 1 on the pixel nearest to each known change inside the image."""
    ny, nx = difference.dq.shape
    truth = allocate((ny, nx), np.uint32)
    for x, y in positions:
        column, row = round(x), round(y)
        if 0 <= row < ny and 0 <= column < nx:
            truth[row : row + 1, column : column + 1] = 1
    return replace(difference, truth=truth)


def quality_columns(difference: Difference) -> dict[str, Any]:
    """The product's scalars as table columns `q_*`."""
    return {key if key.startswith(_PREFIX) else _PREFIX + key: value for key, value in difference.quality.items()}


def merge(pairs: pd.DataFrame, rows: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The pair table with each row's outcome; quality columns of pairs without a product are NaN or empty."""
    out = pairs.copy()
    columns = sorted({key for row in rows.values() for key in row if key.startswith(_PREFIX)})
    for key in ("status", "reason"):
        out[key] = [rows[name][key] if name in rows else before for name, before in zip(out["pair_id"], out[key], strict=True)]
    for key in columns:
        values = [rows.get(name, {}).get(key) for name in out["pair_id"]]
        words = any(isinstance(value, str) for value in values)
        out[key] = (
            [value or "" for value in values] if words else pd.to_numeric(pd.Series(values, index=out.index, dtype=object)).astype(float)
        )
    return out


def write_pages(table: pd.DataFrame, config: DifferenceConfig, wanted: PairReportConfig, where: Executor) -> None:
    """Write the index of all pairs, and the pages of those that the gate marks or that come nearest to its limits."""
    from astrid.evaluation.pairs import chosen_pairs, overview, pairs_context
    from astrid.evaluation.report import render_pairs
    from astrid.evaluation.style import png_bytes

    limits = dataclasses.asdict(config.gate) | {"min_overlap": config.min_overlap}
    pages = {name: f"{name}.png" for name in chosen_pairs(table, limits, worst=wanted.worst, most=wanted.most)}
    tasks = [(DIFFERENCE / f"{name}.fits", PAGES / page) for name, page in pages.items()]
    needs = {product: memory_needed(product) for product, _ in tasks}
    drawn = parallel_map(
        _draw, tasks, executor=where, description="pages", unit="pages", needs=lambda task: needs[task[0]], on_loss=_no_page
    )
    missing = {product.stem for (product, _), done in drawn if not done} if tasks else set()
    pages = {name: page for name, page in pages.items() if name not in missing}
    write_bytes(PAGES / OVERVIEW, png_bytes(overview(table, limits)))
    write_bytes(PAGES / INDEX, render_pairs(pairs_context(table, limits, figure=OVERVIEW, pages=pages)).encode())
    prune(PAGES, [PAGES / INDEX, PAGES / OVERVIEW, *(PAGES / page for page in pages.values())])


def _draw(task: tuple[Path, Path]) -> bool:
    from astrid.evaluation.pairpage import pair_page
    from astrid.evaluation.style import png_bytes
    from astrid.io.fits import read_difference

    product, page = task
    write_bytes(page, png_bytes(pair_page(read_difference(product))))
    return True


def _no_page(task: tuple[Path, Path], reason: str) -> bool:
    log.warning("difference: there is no page of %s: %s", task[0].stem, reason)
    return False


def report(table: pd.DataFrame) -> dict[str, Any]:
    """Counts by status, medians of the quality over the good pairs, the gate's marks, and the reasons of the others."""
    good, rest = table[table["status"] == "ok"], table[table["status"] != "ok"]
    known = [name for name in _MEDIANS if _PREFIX + name in table.columns]
    marked = int((good["q_reasons"] != "").sum()) if "q_reasons" in good.columns else 0
    return {
        "pairs": len(table),
        "status": {str(key): int(count) for key, count in table["status"].value_counts().sort_index().items()},
        "marked_by_gate": marked,
        "median": {name: float(good[_PREFIX + name].median()) for name in known} if len(good) else {},
        "reasons": {str(row.pair_id): str(row.reason) for row in rest.head(_NAMED_REASONS).itertuples()},
    }


if __name__ == "__main__":
    run(main)

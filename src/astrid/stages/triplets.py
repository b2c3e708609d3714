"""Stage triplets: label the candidates, cut their stamps and write the data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from astrid.candidates.stamps import STAMP_SIZE, cut_stamps
from astrid.config.params import settings
from astrid.config.schema.dataset import DatasetConfig
from astrid.core.errors import DataSetError, InputError
from astrid.core.provenance import digest_bytes, digest_code, digest_file
from astrid.core.runtime import atomic_path, log, track, write_json
from astrid.datasets import card, store
from astrid.datasets.copies import label_with_copies
from astrid.datasets.labels import Labelled
from astrid.datasets.precedence import CONFLICTS, conflicts, winners
from astrid.datasets.recovery import tag_table
from astrid.io.fits import read_difference
from astrid.io.shards import TripletStore
from astrid.io.tables import CANDIDATES, CATALOG, LABELS, PAIRS, TRUTH, conform, read_table, write_table
from astrid.stages import alert_triplets
from astrid.stages.common import ALERTS_PATH, run
from astrid.stages.inject import injected_truth

CANDIDATE_TABLE = Path("data/candidates/candidates.parquet")
DIFFERENCES = Path("data/difference")
PAIR_TABLE = DIFFERENCES / "pairs.parquet"
TRUTH_TABLE = Path("data/raw/truth.parquet")
CATALOG_TABLE = Path("data/catalog/catalog.parquet")
HUMAN_LABELS = Path("data/labels/human.csv")
FOLDER = Path("data/triplets")
REPORT = Path("reports/triplets.json")

CODE = ("astrid.candidates.stamps", "astrid.candidates.planes", "astrid.datasets.content", "astrid.datasets.near", "astrid.io")
_BATCH = 512  # stamps cut at a time: 24 MB and their index arrays


def main() -> None:
    """Read candidates, truth, catalogue and given labels, or alerts; write data/triplets and reports/triplets.json."""
    cfg = settings(DatasetConfig, "dataset")
    if ALERTS_PATH.exists():
        from_alerts(cfg)
    else:
        from_candidates(cfg)


def from_candidates(cfg: DatasetConfig) -> None:
    """Label what the stage detect found and cut its stamps out of the difference products."""
    candidates, found, simulated = _labelled(cfg)
    written = _cut(candidates, found, cfg)
    content = card.card(written.table, digest=written.digest, simulated=simulated)
    content["tags"] = tag_table(candidates, found.labels)
    _write_beside(found.labels, conflicts(found.labels), content)
    counts = store.selection_counts(candidates, found.columns, written.table)
    write_json(REPORT, report(counts, found.counts, written.table, content))
    log.info("triplets: %d of %d candidates, %s", len(written), len(candidates), content["labels"])


def _labelled(cfg: DatasetConfig) -> tuple[pd.DataFrame, Labelled, bool]:
    """The candidates that stay, their labels, and whether a simulator made the sky of some; the truth table goes when this ends."""
    candidates, truth = read_table(CANDIDATE_TABLE, CANDIDATES), read_table(TRUTH_TABLE, TRUTH)
    tables = (truth, injected_truth(), read_table(PAIR_TABLE, PAIRS), read_table(CATALOG_TABLE, CATALOG), read_given(HUMAN_LABELS))
    simulated = bool((truth["simulated"] & (truth["kind"] != "injected")).any())
    return *label_with_copies(candidates, *tables, cfg), simulated


def _cut(candidates: pd.DataFrame, found: Labelled, cfg: DatasetConfig) -> TripletStore:
    rows = store.select(
        candidates, found.columns, max_bogus_per_pair=cfg.max_bogus_per_pair, keep_unlabelled=cfg.keep_unlabelled, seed=cfg.seed
    )
    return store.resume(FOLDER, lambda first: batches(rows.iloc[first:]), rows_per_shard=cfg.rows_per_shard, key=inputs_digest(rows))


def from_alerts(cfg: DatasetConfig) -> None:
    """Label the alerts of data/raw and take their stamps as they are."""
    alerts = alert_triplets.read(read_given(HUMAN_LABELS), cfg)
    key = alert_triplets.inputs_digest(alerts)
    written = store.resume(
        FOLDER, lambda first: alert_triplets.batches(alerts.rows.iloc[first:]), rows_per_shard=cfg.rows_per_shard, key=key
    )
    content = card.card(written.table, digest=written.digest, simulated=False)
    content |= {"tags": {}, "set_aside": alert_triplets.set_aside(alerts.table)}
    _write_beside(alerts.labels, alerts.conflicts, content)
    counts = alert_triplets.selection_counts(alerts, len(written))
    write_json(REPORT, report(counts, alerts.counts, written.table, content) | {"set_aside_reasons": content["set_aside"]})
    log.info("triplets: %d of %d alerts, %s", len(written), len(alerts.table), content["labels"])


def _write_beside(labels: pd.DataFrame, found: pd.DataFrame, content: dict[str, Any]) -> None:
    """The tables of labels and conflicts and the card beside the store."""
    write_table(labels, FOLDER / "labels.parquet", LABELS)
    write_table(found, FOLDER / "conflicts.parquet", CONFLICTS)
    write_json(FOLDER / "card.json", content)
    with atomic_path(FOLDER / "card.md") as temporary:
        temporary.write_text(card.to_markdown(content))


def inputs_digest(rows: pd.DataFrame) -> str:
    """Digest of everything that the stamps and keys of these rows come from: the rows, their difference products and the code."""
    paths = [DIFFERENCES / f"{pair_id}.fits" for pair_id in rows["pair_id"].unique()]
    products = [digest_file(path) if path.is_file() else "absent" for path in paths]
    return digest_bytes(*(part.encode() for part in (store.digest_rows(rows), digest_code(CODE), *products)))


def batches(rows: pd.DataFrame) -> Iterator[store.Batch]:
    """Stamps and rows, pair by pair in the rows' order; one difference product is in memory at a time."""
    groups = [(str(pair_id), group) for pair_id, group in rows.groupby("pair_id", sort=False)]
    for pair_id, group in track(groups, "triplets"):
        difference = read_difference(DIFFERENCES / f"{pair_id}.fits")
        for start in range(0, len(group), _BATCH):
            part = group.iloc[start : start + _BATCH]
            yield cut_stamps(difference, part, size=STAMP_SIZE), part


def read_given(path: Path) -> pd.DataFrame:
    """The labels of people in `path`, and those in every other CSV table beside it (imported evidence, weak labels), by file name."""
    others = sorted(found for found in path.parent.glob("*.csv") if found != path)
    return pd.concat([read_human(path), *(read_human(other) for other in others)], ignore_index=True)


def read_human(path: Path) -> pd.DataFrame:
    """A label table that is appended to (CSV with the LABELS columns).

    Raises `InputError` when it is missing, not such a table, has a column that labels do not have, or a value is no label.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; restore it (git checkout {path}): its header alone is enough.")
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a readable CSV table ({error}); correct it.") from error
    unknown = [str(name) for name in frame.columns if name not in {column.name for column in LABELS.columns}]
    if unknown:
        known = ", ".join(column.name for column in LABELS.columns)
        raise InputError(f"{path} has the column {unknown[0]!r}, which the labels do not have ({known}); rename or remove it.")
    labels = conform(frame, LABELS, source=str(path))
    try:
        winners(labels)
    except DataSetError as error:
        raise InputError(f"{path}: {error}") from error
    return labels


def report(counts: Mapping[str, Any], label_rows: Mapping[str, int], table: pd.DataFrame, content: Mapping[str, Any]) -> dict[str, Any]:
    """The stage's metrics: what went in, what stayed out and why (`counts`), by label, kind and survey."""
    return {
        **counts,
        "labels": content["labels"],
        "events": content["events"],
        "duplicate_stamps": content["duplicate_stamps"],
        "label_rows": dict(label_rows),
        "kind": table.groupby("kind").size().to_dict(),
        "survey": table.groupby("survey").size().to_dict(),
        "tags": content["tags"],
        "digest": content["digest"],
    }


if __name__ == "__main__":
    run(main)

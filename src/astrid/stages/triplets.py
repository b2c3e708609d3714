"""Stage triplets: label the candidates, cut their stamps and write the data set."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
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
from astrid.datasets.counts import added
from astrid.datasets.precedence import CONFLICTS, conflicts, winners
from astrid.datasets.recovery import tag_table
from astrid.io.fits import read_difference
from astrid.io.table_parts import read_parts, table_in_parts
from astrid.io.tables import CATALOG, LABELS, TRIPLETS, conform, read_table, write_table
from astrid.stages import alert_triplets
from astrid.stages.common import ALERTS_PATH, run
from astrid.stages.fields import read_fields

DIFFERENCES = Path("data/difference")
CATALOG_TABLE = Path("data/catalog/catalog.parquet")
HUMAN_LABELS = Path("data/labels/human.csv")
FOLDER = Path("data/triplets")
LABEL_TABLE = FOLDER / "labels.parquet"
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


@dataclass(frozen=True, eq=False)
class Found:
    """What the labels of all fields tell together."""

    key: str  # digest of everything that the stamps and the rows of the store come from
    simulated: bool  # a simulator made the sky of some
    candidates: dict[str, Any]  # how many there are, and what stayed out and why
    labels: dict[str, Any]  # rows that each source gave, and what is unlabelled
    tags: dict[str, Any]  # against truth
    conflicts: pd.DataFrame  # CONFLICTS


def from_candidates(cfg: DatasetConfig) -> None:
    """Label what the stage detect found, field by field, and cut the stamps out of the difference products."""
    with _aside() as place:
        rows, labels = place / "rows.parquet", place / LABEL_TABLE.name
        found = _label(cfg, rows, labels)
        written = store.resume(FOLDER, lambda first: batches(rows, first), rows_per_shard=cfg.rows_per_shard, key=found.key)
        labels.replace(LABEL_TABLE)
    content = card.card(written.columns(card.COLUMNS), digest=written.digest, simulated=found.simulated) | {"tags": found.tags}
    _write_beside(found.conflicts, content)
    write_json(REPORT, report(found.candidates, found.labels, content))
    log.info("triplets: %d of %d candidates, %s", len(written), found.candidates["candidates"], content["labels"])


@contextmanager
def _aside() -> Iterator[Path]:
    """A folder beside the store for tables that do not outlast the stage."""
    place = FOLDER.with_name(f".{FOLDER.name}.tables.part")
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _label(cfg: DatasetConfig, rows: Path, labels: Path) -> Found:
    """Label the candidates of all fields: TRIPLETS that go into the store, without their keys, go to `rows`, LABELS to `labels`."""
    catalog = read_table(CATALOG_TABLE, CATALOG)
    number, fields = read_fields(read_given(HUMAN_LABELS))
    digests, simulated = [], False
    counts: dict[str, Any] = {}
    against = [CONFLICTS.empty()]
    with table_in_parts(rows, TRIPLETS) as add_rows, table_in_parts(labels, LABELS) as add_labels:
        for field in track(fields, "labels", number, unit="fields"):
            kept, found = label_with_copies(field.candidates, field.truth, field.injected, field.pairs, catalog, field.given, cfg)
            chosen = store.select(
                kept, found.columns, max_bogus_per_pair=cfg.max_bogus_per_pair, keep_unlabelled=cfg.keep_unlabelled, seed=cfg.seed
            )
            add_rows(chosen)
            add_labels(found.labels)
            digests.append(inputs_digest(chosen))
            simulated |= bool((field.truth["simulated"] & (field.truth["kind"] != "injected")).any())
            against.append(conflicts(found.labels))
            selected = store.selection_counts(kept, found.columns, chosen)
            counts = added(counts, {"candidates": selected, "labels": found.counts, "tags": tag_table(kept, found.labels)})
    key = digest_bytes(digest_code(CODE).encode(), *(digest.encode() for digest in digests))
    together = pd.concat(against, ignore_index=True).sort_values("candidate_id", kind="stable", ignore_index=True)
    return Found(key, simulated, counts["candidates"], counts["labels"], counts["tags"], together)


def from_alerts(cfg: DatasetConfig) -> None:
    """Label the alerts of data/raw and take their stamps as they are."""
    alerts = alert_triplets.read(read_given(HUMAN_LABELS), cfg)
    key = alert_triplets.inputs_digest(alerts)
    written = store.resume(
        FOLDER, lambda first: alert_triplets.batches(alerts.rows.iloc[first:]), rows_per_shard=cfg.rows_per_shard, key=key
    )
    content = card.card(written.columns(card.COLUMNS), digest=written.digest, simulated=False)
    content |= {"tags": {}, "set_aside": alert_triplets.set_aside(alerts.table)}
    write_table(alerts.labels, LABEL_TABLE, LABELS)
    _write_beside(alerts.conflicts, content)
    counts = alert_triplets.selection_counts(alerts, len(written))
    write_json(REPORT, report(counts, alerts.counts, content) | {"set_aside_reasons": content["set_aside"]})
    log.info("triplets: %d of %d alerts, %s", len(written), len(alerts.table), content["labels"])


def _write_beside(found: pd.DataFrame, content: dict[str, Any]) -> None:
    """The table of conflicts and the card beside the store."""
    write_table(found, FOLDER / "conflicts.parquet", CONFLICTS)
    write_json(FOLDER / "card.json", content)
    with atomic_path(FOLDER / "card.md") as temporary:
        temporary.write_text(card.to_markdown(content))


def inputs_digest(rows: pd.DataFrame) -> str:
    """Digest of these rows and their difference products."""
    paths = [DIFFERENCES / f"{pair_id}.fits" for pair_id in rows["pair_id"].unique()]
    products = [digest_file(path) if path.is_file() else "absent" for path in paths]
    return digest_bytes(*(part.encode() for part in (store.digest_rows(rows), *products)))


def batches(path: Path, first: int) -> Iterator[store.Batch]:
    """Stamps and rows of the table `path` from row `first` on, pair by pair; one difference product is in memory at a time."""
    pairs = sum(part["pair_id"].nunique() for part in read_parts(path, TRIPLETS, columns=("pair_id",), first=first))
    groups = (group for part in read_parts(path, TRIPLETS, first=first) for group in part.groupby("pair_id", sort=False))
    for pair_id, group in track(groups, "triplets", pairs, unit="pairs"):
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


def report(counts: Mapping[str, Any], label_rows: Mapping[str, int], content: Mapping[str, Any]) -> dict[str, Any]:
    """The stage's metrics: what went in, what stayed out and why (`counts`), by label, kind and survey (`content`: the card)."""
    return {
        **counts,
        "labels": content["labels"],
        "events": content["events"],
        "duplicate_stamps": content["duplicate_stamps"],
        "label_rows": dict(label_rows),
        **{name: {value: sum(row.values()) for value, row in content["by"][name].items()} for name in ("kind", "survey")},
        "tags": content["tags"],
        "digest": content["digest"],
    }


if __name__ == "__main__":
    run(main)

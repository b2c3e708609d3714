"""Stage triplets: label the candidates, cut their stamps and write the data set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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
from astrid.io.tables import CANDIDATES, CATALOG, LABELS, PAIRS, TRUTH, conform, read_table, write_table
from astrid.stages.common import run
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
    """Read candidates, truth, catalogue and given labels; write data/triplets and reports/triplets.json."""
    cfg = settings(DatasetConfig, "dataset")
    candidates = read_table(CANDIDATE_TABLE, CANDIDATES)
    truth = read_table(TRUTH_TABLE, TRUTH)
    tables = (truth, injected_truth(), read_table(PAIR_TABLE, PAIRS), read_table(CATALOG_TABLE, CATALOG), read_given(HUMAN_LABELS))
    candidates, found = label_with_copies(candidates, *tables, cfg)
    rows = store.select(
        candidates, found.columns, max_bogus_per_pair=cfg.max_bogus_per_pair, keep_unlabelled=cfg.keep_unlabelled, seed=cfg.seed
    )
    written = store.resume(FOLDER, lambda first: batches(rows.iloc[first:]), rows_per_shard=cfg.rows_per_shard, key=inputs_digest(rows))
    write_table(found.labels, FOLDER / "labels.parquet", LABELS)
    write_table(conflicts(found.labels), FOLDER / "conflicts.parquet", CONFLICTS)
    content = card.card(written.table, digest=written.digest, simulated=bool((truth["simulated"] & (truth["kind"] != "injected")).any()))
    content["tags"] = tag_table(candidates, found.labels)
    write_json(FOLDER / "card.json", content)
    with atomic_path(FOLDER / "card.md") as temporary:
        temporary.write_text(card.to_markdown(content))
    write_json(REPORT, report(candidates, found, written.table, content))
    log.info("triplets: %d of %d candidates, %s", len(written), len(candidates), content["labels"])


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


def report(candidates: pd.DataFrame, found: Labelled, table: pd.DataFrame, content: dict[str, object]) -> dict[str, object]:
    """The stage's metrics: what went in, what stayed out and why, by label, kind and survey."""
    return {
        **store.selection_counts(candidates, found.columns, table),
        "labels": content["labels"],
        "events": content["events"],
        "duplicate_stamps": content["duplicate_stamps"],
        "label_rows": found.counts,
        "kind": table.groupby("kind").size().to_dict(),
        "survey": table.groupby("survey").size().to_dict(),
        "tags": content["tags"],
        "digest": content["digest"],
    }


if __name__ == "__main__":
    run(main)

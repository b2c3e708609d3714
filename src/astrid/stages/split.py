"""Stage split: hold out a test set in whole groups, and refuse the split when the audit finds a leak."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from astrid.config.schema.split import SplitConfig
from astrid.core.runtime import log, write_json
from astrid.datasets.leakage import PARTS, AuditReport, audit
from astrid.datasets.splits import split_rows, unused_counts
from astrid.io.shards import TripletStore
from astrid.io.tables import SPLITS, write_table
from astrid.stages.common import run, settings

TRIPLETS_FOLDER = Path("data/triplets")
SPLIT_TABLE = Path("data/splits/splits.parquet")
REPORT = Path("reports/split.json")


def main() -> None:
    """Read the triplet table; write data/splits/splits.parquet and reports/split.json."""
    cfg = settings(SplitConfig, "split")
    store = TripletStore.open(TRIPLETS_FOLDER)
    splits = split_rows(store.table, cfg)
    audited = audit(store.table, splits)
    audited.raise_if_leaking()
    write_table(splits, SPLIT_TABLE, SPLITS)
    write_json(REPORT, report(store, splits, audited, cfg))
    log.info("split %s: %s", cfg.strategy, audited.counts)


def report(store: TripletStore, splits: pd.DataFrame, audited: AuditReport, cfg: SplitConfig) -> dict[str, object]:
    """The stage's metrics: counts and shares of each part, why rows are unused, and the audit."""
    groups = splits[splits["group_id"] != ""]
    share = {part: _positive_fraction(audited.counts[part]) for part in PARTS}
    return {
        "strategy": cfg.strategy,
        "triplets_digest": store.digest,
        "positive_fraction": share,
        "groups": {part: int(groups["group_id"][groups["part"] == part].nunique()) for part in PARTS},
        "unused": unused_counts(store.table, splits),
        "audit": audited.to_dict(),
    }


def _positive_fraction(counts: dict[str, int]) -> float:
    return counts["real"] / (counts["real"] + counts["bogus"])


if __name__ == "__main__":
    run(main)

"""Stage split: hold out a test set in whole groups, refuse the split when the audit finds a leak, and show what the data set is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from astrid.config.params import settings
from astrid.config.schema.split import SplitConfig
from astrid.core.runtime import atomic_path, log, track, write_bytes, write_json
from astrid.datasets import card
from astrid.datasets.leakage import PARTS, AuditReport, audit, joined
from astrid.datasets.precedence import CONFLICTS
from astrid.datasets.splits import COLUMNS, find_near, split_rows, unused_counts
from astrid.datasets.suspects import SUSPECTS, find_suspects, folds
from astrid.io.shard_files import give_back
from astrid.io.shards import TripletStore
from astrid.io.tables import SPLITS, read_table, write_table
from astrid.stages.common import prune, run

if TYPE_CHECKING:
    from astrid.datasets.suspects import Doubt

TRIPLETS_FOLDER = Path("data/triplets")
CONFLICT_TABLE = TRIPLETS_FOLDER / "conflicts.parquet"
CARD = TRIPLETS_FOLDER / "card.json"
SPLIT_TABLE = Path("data/splits/splits.parquet")
SUSPECT_TABLE = Path("data/splits/suspects.parquet")
REPORT = Path("reports/split.json")
PAGE = Path("reports/data")

_JUDGED = ("train", "validation")  # a test label that a model's opinion has mended no longer tests a model


def main() -> None:
    """Read the triplets; write data/splits, reports/split.json and the page reports/data."""
    cfg = settings(SplitConfig, "split")
    store = TripletStore.open(TRIPLETS_FOLDER)
    splits, audited = divided(store, cfg)
    doubt = doubted(store, splits, cfg)
    write_table(splits, SPLIT_TABLE, SPLITS)
    write_table(doubt.suspects if doubt else SUSPECTS.empty(), SUSPECT_TABLE, SUSPECTS)
    content = report(store, splits, audited, cfg)
    write_json(REPORT, {**content, "doubt": doubt.to_dict() if doubt else None})
    write_page(store, splits, audited, doubt, cfg)
    log.info("split %s: %s", cfg.strategy, audited.counts)


def divided(store: TripletStore, cfg: SplitConfig) -> tuple[pd.DataFrame, AuditReport]:
    """The part of each triplet (SPLITS) and the audit. Raises `LeakageError` when it finds a leak."""
    table = store.columns(COLUMNS)
    near = find_near(table, store.stamps)
    splits = split_rows(table, cfg, near)
    audited = audit(table, splits, near)
    audited.raise_if_leaking()
    return splits, audited


def report(store: TripletStore, splits: pd.DataFrame, audited: AuditReport, cfg: SplitConfig) -> dict[str, object]:
    """The stage's metrics: counts and shares of each part, why rows are unused, and the audit."""
    groups = splits[splits["group_id"] != ""]
    share = {part: _positive_fraction(audited.counts[part]) for part in PARTS}
    return {
        "strategy": cfg.strategy,
        "triplets_digest": store.digest,
        "positive_fraction": share,
        "groups": {part: int(groups["group_id"][groups["part"] == part].nunique()) for part in PARTS},
        "unused": unused_counts(store.columns(["candidate_id", "label"]), splits),
        "audit": audited.to_dict(),
    }


def doubted(store: TripletStore, splits: pd.DataFrame, cfg: SplitConfig) -> Doubt | None:
    """The labels of training and validation that scores of a forest doubt, out of fold; None where there is nothing to judge by.

    That is so with no folds asked for, fewer groups than folds, or a fold outside of which a class is missing.
    """
    from astrid.learning import features
    from astrid.learning.outoffold import score_out_of_fold

    rows = joined(store.columns(["candidate_id", "label", *features.COLUMNS]), splits)
    rows = rows[rows["part"].isin(_JUDGED) & (rows["label"] >= 0)].reset_index(drop=True)
    if not cfg.suspects.folds or rows["group_id"].nunique() < cfg.suspects.folds:
        return None
    fold = folds(rows["group_id"], rows["label"], cfg.suspects.folds, cfg.seed)
    if any(rows["label"][fold != number].nunique() < 2 for number in range(cfg.suspects.folds)):
        return None
    scores = score_out_of_fold(rows, fold, cfg.suspects, cfg.seed)
    return find_suspects(rows["candidate_id"], rows["label"], scores)


def write_page(store: TripletStore, splits: pd.DataFrame, audited: AuditReport, doubt: Doubt | None, cfg: SplitConfig) -> None:
    """Write reports/data: the card as JSON and Markdown, the figures and index.html."""
    before = _stored(CARD)
    content = card.card(store.columns(card.COLUMNS), digest=store.digest, simulated=bool(before.get("simulated", False)), splits=splits)
    content |= {"tags": before.get("tags", {}), "set_aside": before.get("set_aside", {})}

    from astrid.evaluation import datapage
    from astrid.evaluation.report import render_data
    from astrid.evaluation.style import png_bytes

    table = store.columns(datapage.COLUMNS)
    parts = joined(table, splits)["part"]
    conflicts = read_table(CONFLICT_TABLE, CONFLICTS) if CONFLICT_TABLE.exists() else CONFLICTS.empty()
    shown = partial(store.columns, datapage.SHOWN)
    data = datapage.DataSet(table, parts, content, conflicts, doubt, audited.to_dict(), cfg.strategy, shown, store.stamps)
    pictures = datapage.plates(data)
    give_back()
    for plate in track(pictures, "pictures of the data set", unit="pictures"):
        write_bytes(PAGE / "figures" / f"{plate.name}.png", png_bytes(plate.draw()))
    write_json(PAGE / "card.json", content)
    for path, text in (
        (PAGE / "card.md", card.to_markdown(content)),
        (PAGE / "index.html", render_data(datapage.data_context(data, pictures))),
    ):
        with atomic_path(path) as temporary:
            temporary.write_text(text)
    figures = [PAGE / "figures" / f"{plate.name}.png" for plate in pictures]
    prune(PAGE, [*figures, PAGE / "card.json", PAGE / "card.md", PAGE / "index.html"])


def _stored(path: Path) -> Mapping[str, Any]:
    """What the stage triplets counted of the candidates; nothing where the store came from elsewhere."""
    found: Mapping[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _positive_fraction(counts: dict[str, int]) -> float:
    return counts["real"] / max(1, counts["real"] + counts["bogus"])


if __name__ == "__main__":
    run(main)

"""What the stage triplets does with alert packets: their stamps and fields into the store, labelled by evidence and by people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astrid.config.schema.dataset import DatasetConfig
from astrid.core.errors import InputError
from astrid.core.provenance import digest_bytes, digest_code
from astrid.core.records import Problem, Triplet
from astrid.core.runtime import track
from astrid.datasets import identity, store
from astrid.datasets.evidence import in_conflict
from astrid.datasets.kinds import UNLABELLED
from astrid.datasets.precedence import CONFLICTS, PRECEDENCE, conflict_counts, conflicts, winners
from astrid.io.alert_table import ALERTS, PACKET
from astrid.io.tables import LABELS, conform, read_table
from astrid.stages.common import ALERTS_PATH, EVIDENCE_PATH
from astrid.stages.sources.base import RAW

CODE = ("astrid.datasets.content", "astrid.datasets.near", "astrid.io")
DISAGREE = "rules that disagree"  # annotator of a label that nobody gave
_BATCH = 512  # stamps in memory at a time: 24 MB
_LOCAL = ("problem", "file", "digest")  # columns of ALERTS that say nothing of a triplet


@dataclass(frozen=True, eq=False)
class Alerts:
    """The alerts of data/raw with what is said of them."""

    table: pd.DataFrame  # ALERTS: every reading, usable or not
    rows: pd.DataFrame  # TRIPLETS rows to be written, in the order of the files, with `file` and `number`
    labels: pd.DataFrame  # LABELS that count
    conflicts: pd.DataFrame  # CONFLICTS
    counts: dict[str, int]


def read(given: pd.DataFrame, cfg: DatasetConfig) -> Alerts:
    """The alerts of data/raw and their labels. `given`: LABELS of people and other tables, by candidate_id."""
    table = read_table(ALERTS_PATH, ALERTS)
    used = table[table["scorable"]].reset_index(drop=True)
    evidence = read_table(EVIDENCE_PATH, LABELS)
    named = given[given["candidate_id"].isin(used["candidate_id"])]
    undecided = in_conflict(evidence)
    counting = _stacked(evidence[~evidence["candidate_id"].isin(undecided)], named)
    won = winners(counting).reindex(used["candidate_id"])
    columns = pd.DataFrame(
        {
            "candidate_id": used["candidate_id"],
            "label": won["label"].fillna(UNLABELLED).astype("int64").to_numpy(),
            "label_source": won["source"].fillna("").to_numpy(dtype=object),
            "kind": won["transient_type"].fillna("").to_numpy(dtype=object),
            "event_id": used["event_id"],
            "cell_id": identity.sky_cells(used["s_ra"].to_numpy(), used["s_dec"].to_numpy(), size=cfg.cell_size),
            "true_snr": np.nan,
        }
    )
    used = used.drop(columns=[name for name in used if name.startswith(PACKET)]).assign(order=np.arange(len(used)))
    rows = store.select(used, columns, max_bogus_per_pair=cfg.max_bogus_per_pair, keep_unlabelled=cfg.keep_unlabelled, seed=cfg.seed)
    rows = rows.sort_values("order").drop(columns="order").reset_index(drop=True)  # as the files lie, so that each is read once
    found = _conflicts(evidence, named, set(counting["candidate_id"]))
    counts = {
        **{f"source_{name}": int((counting["source"] == name).sum()) for name in PRECEDENCE},
        "unlabelled": int((columns["label"] == UNLABELLED).sum()),
        "evidence_in_conflict": len(undecided),
        "conflicts": len(found),
        **{f"conflict_{name.replace(' ', '_')}": count for name, count in conflict_counts(found).items()},
        "human_without_candidate": len(given) - len(named),
    }
    return Alerts(table, rows, counting, found, counts)


def _stacked(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    filled = [frame for frame in (first, second) if len(frame)]
    return conform(pd.concat(filled, ignore_index=True), LABELS, source="the labels") if filled else LABELS.empty()


def _conflicts(evidence: pd.DataFrame, named: pd.DataFrame, decided: set[str]) -> pd.DataFrame:
    """CONFLICTS; where only the rules speak, and against each other, each label is a row and none counts (-1)."""
    undecided = evidence[evidence["candidate_id"].isin(in_conflict(evidence) - decided)]
    over = undecided[["candidate_id", "label", "transient_type", "source", "annotator"]].rename(columns=lambda name: f"over_{name}")
    over = over.rename(columns={"over_candidate_id": "candidate_id"})
    over = over.assign(label=UNLABELLED, transient_type="", source="evidence", annotator=DISAGREE)
    found = conflicts(_stacked(evidence.drop(undecided.index), named))
    both = [frame for frame in (found, conform(over, CONFLICTS, source="the conflicts")) if len(frame)]
    return pd.concat(both).sort_values("candidate_id", kind="stable", ignore_index=True) if both else CONFLICTS.empty()


def inputs_digest(alerts: Alerts) -> str:
    """Digest of everything that stamps and keys come from: the rows, with the digests of their files, and the code."""
    files = alerts.table.loc[alerts.table["scorable"], "digest"].unique()
    return digest_bytes(*(part.encode() for part in (store.digest_rows(alerts.rows), digest_code(CODE), *files)))


def batches(rows: pd.DataFrame) -> Iterator[store.Batch]:
    """Stamps and rows, file by file in the rows' order; each file is streamed, and one batch is in memory at a time."""
    from astrid.io.alerts import read_alerts

    columns = rows.drop(columns=["number", *_LOCAL], errors="ignore")
    files, numbers = rows["file"].to_numpy(dtype=object), rows["number"].to_numpy(dtype=np.int64)
    starts = np.flatnonzero(np.concatenate([[True], files[1:] != files[:-1]])) if len(rows) else np.zeros(0, dtype=np.int64)
    stamps: list[NDArray[np.float32]] = []
    first = 0
    for start, stop in track(list(zip(starts, [*starts[1:], len(rows)], strict=True)), "triplets", unit="files"):
        for reading in _wanted(read_alerts([RAW / files[start]]), numbers[start:stop]):
            if not isinstance(reading, Triplet):
                raise InputError(f"{RAW / files[start]} has changed since the stage acquire ({reading.reason}); run it again.")
            stamps.append(reading.stamps)
            if len(stamps) == _BATCH:
                yield np.stack(stamps), columns.iloc[first : first + _BATCH]
                first += _BATCH
                stamps.clear()
    if stamps:
        yield np.stack(stamps), columns.iloc[first:]


def _wanted(readings: Iterator[Triplet | Problem], numbers: NDArray[np.int64]) -> Iterator[Triplet | Problem]:
    """The readings of these running numbers, in ascending order; the rest of the file is not read."""
    at = 0
    for number, reading in enumerate(readings):
        if number == numbers[at]:
            yield reading
            at += 1
            if at == len(numbers):
                return
    raise InputError(f"a packet file has lost {len(numbers) - at} of its alerts since the stage acquire; run it again.")


def set_aside(table: pd.DataFrame) -> dict[str, dict[str, int]]:
    """How many readings of each survey were set aside, by the few words of the reason; files that cannot be read are of no survey."""
    aside = table[~table["scorable"]]
    survey = aside["survey"].where(aside["survey"] != "", "unknown")
    counts = aside.groupby([survey, aside["problem"]]).size()
    out: dict[str, dict[str, int]] = {}
    for (name, problem), count in counts.items():
        out.setdefault(str(name), {})[str(problem)] = int(count)
    return out


def selection_counts(alerts: Alerts, written: int) -> dict[str, Any]:
    """What went in and what stayed out: readings = triplets + set_aside + left_out."""
    aside = int((~alerts.table["scorable"]).sum())
    return {
        "files": int(alerts.table["source"].str.split("!").str[0].nunique()),
        "readings": len(alerts.table),
        "triplets": written,
        "set_aside": aside,
        "left_out": len(alerts.table) - aside - written,
    }

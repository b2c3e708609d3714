"""The card of a data set: what is in it, by everything that matters, and what it is not."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from astrid.datasets.kinds import LABEL_NAMES, REAL
from astrid.datasets.leakage import in_order, shared_hashes

SNR_EDGES = (0.0, 5.0, 7.0, 10.0, 20.0, 50.0, np.inf)
DLR_EDGES = (0.0, 0.5, 1.0, 2.0, 5.0, np.inf)  # host offset in directional light radii
# What `card` needs of a triplet table; a store reads these columns alone with `TripletStore.columns`.
COLUMNS = (
    *("candidate_id", "exposure_id", "survey", "instrument", "filter", "detector", "mjd", "sign", "snr", "host_dlr"),
    *("label", "label_source", "kind", "event_id", "stamp_digest"),
)
_NO_HOST = "no host"
_SEASON = 365.25  # d


def card(table: pd.DataFrame, *, digest: str, simulated: bool, splits: pd.DataFrame | None = None) -> dict[str, Any]:
    """Counts of a TRIPLETS table by label and by kind, S/N, host offset, change, survey, filter, detector, season and part, with notes.

    `table`: TRIPLETS or their `COLUMNS`; `simulated` says whether the labels come from a simulator; `digest` is the store's; `splits`:
    SPLITS of the same rows.
    """
    rows = table.assign(
        snr_bin=_bins(np.nan_to_num(table["snr"].to_numpy(), nan=0.0), SNR_EDGES),
        host_bin=_bins(table["host_dlr"].to_numpy(), DLR_EDGES, unknown=_NO_HOST),
        change=pd.Categorical.from_codes((table["sign"] < 0).to_numpy(dtype=np.int8), ["brightened", "faded"]),
        season=_seasons(table["mjd"].to_numpy()),
        detector_name=_joined(table, ["survey", "instrument", "detector"]),
    )
    if splits is not None:
        rows["part"] = in_order(splits, rows["candidate_id"])["part"].array
    by = {
        "kind": "kind",
        "snr": "snr_bin",
        "host offset": "host_bin",
        "change": "change",
        "survey": "survey",
        "filter": "filter",
        "detector": "detector_name",
        "season": "season",
        "source": "label_source",
    }
    if splits is not None:
        by["part"] = "part"
    digests = shared_hashes(table, "stamp", np.arange(len(table)))[1]
    return {
        "digest": digest,
        "triplets": len(rows),
        "labels": {name: int((rows["label"] == value).sum()) for value, name in LABEL_NAMES.items()},
        "events": int(rows["event_id"][rows["label"] == 1].nunique()),
        "exposures": int(rows["exposure_id"].nunique()),
        "duplicate_stamps": len(digests) - len(np.unique(digests)),
        "by": {name: _by_label(rows, column) for name, column in by.items()},
        "simulated": simulated,
        "notes": _notes(rows, simulated),
    }


def to_markdown(content: dict[str, Any]) -> str:
    """The card as Markdown, one small table a property."""
    lines = ["# Data set card", "", f"{content['triplets']} triplets, {content['events']} events, {content['exposures']} exposures.", ""]
    lines += [f"Store digest: `{content['digest']}`", "", "## Notes", "", *(f"- {note}" for note in content["notes"]), ""]
    for name, counts in content["by"].items():
        lines += [f"## By {name}", "", f"| {name} | " + " | ".join(LABEL_NAMES.values()) + " |", "|---|" + "---:|" * len(LABEL_NAMES)]
        lines += [
            f"| {value or '-'} | " + " | ".join(str(row[label]) for label in LABEL_NAMES.values()) + " |" for value, row in counts.items()
        ]
        lines.append("")
    if content.get("set_aside"):
        lines += ["## Set aside", "", "| survey | reason | number |", "|---|---|---:|"]
        for survey, reasons in content["set_aside"].items():
            lines += [f"| {survey} | {reason} | {count} |" for reason, count in reasons.items()]
        lines.append("")
    return "\n".join(lines)


def _by_label(rows: pd.DataFrame, column: str) -> dict[str, dict[str, int]]:
    counts = rows.groupby([column, "label"]).size().unstack(fill_value=0)
    return {str(value): {name: int(counts.loc[value].get(label, 0)) for label, name in LABEL_NAMES.items()} for value in counts.index}


def _joined(table: pd.DataFrame, columns: list[str]) -> pd.Categorical:
    """The words of the columns with "/" between."""
    number = table.groupby(columns).ngroup().to_numpy()
    first = np.unique(number, return_index=True)[1]
    names = np.array(["/".join(words) for words in table[columns].iloc[first].itertuples(index=False)], dtype=object)
    return pd.Categorical(names[number])


def _bins(values: Any, edges: tuple[float, ...], unknown: str = "") -> pd.Categorical:
    """The bin of each value; `unknown` is that of values that are not finite."""
    names = [f"{low:g} to {high:g}" if np.isfinite(high) else f"{low:g} and more" for low, high in pairwise(edges)]
    # The number before the name sorts the bins.
    names = [f"{number}: {name}" for number, name in enumerate(names)]
    where = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(names) - 1)
    return pd.Categorical.from_codes(np.where(np.isfinite(values), where, len(names)), [*names, unknown])


def _seasons(mjd: Any) -> pd.Categorical:
    """Years of 365.25 d since the first exposure of the table."""
    finite = mjd[np.isfinite(mjd)]
    start = float(finite.min()) if len(finite) else 0.0
    years, place = np.unique(np.where(np.isfinite(mjd), mjd - start, np.nan) // _SEASON, return_inverse=True)
    names = np.array([f"year {int(year) + 1}" if np.isfinite(year) else "unknown" for year in years], dtype=object)
    return pd.Categorical(names[place])


def _notes(rows: pd.DataFrame, simulated: bool) -> list[str]:
    labelled = rows["label"][rows["label"] >= 0]
    share = float((labelled == 1).mean()) if len(labelled) else float("nan")
    notes = []
    if simulated:
        notes.append(
            "Simulated: images, transients and artefacts come from a simulator; figures measured here say nothing certain about a real sky."
        )
    if len(labelled):
        notes.append(
            f"{share:.1%} of the labelled triplets are real; a survey's stream has far fewer, so precision has to be restated for it."
        )
    unlabelled = len(rows) - len(labelled)
    if unlabelled:
        notes.append(f"{unlabelled} triplets are unlabelled: faint or blended truth, or no truth at all; no split uses them.")
    signs = rows["sign"][rows["label"] == REAL]
    if len(signs):
        notes.append(f"{(signs < 0).mean():.1%} of the real ones have faded: they are brighter in the reference.")
    people = int((rows["label_source"] == "human").sum())
    notes.append(f"{people} labels were given by people.")
    return notes

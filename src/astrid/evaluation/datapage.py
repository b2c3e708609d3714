"""The page of a data set: counts by everything that matters, coverage, tags against truth, galleries a kind, labels in doubt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from astrid.datasets.kinds import ARTEFACT_KINDS
from astrid.datasets.suspects import Doubt
from astrid.evaluation import datafigures
from astrid.evaluation.gallery import Example, gallery
from astrid.evaluation.style import BOGUS, REAL

# What the page needs of the whole triplet table, and of the rows that it shows; a store reads them with `TripletStore.columns`.
COLUMNS = ("candidate_id", "mjd", "sign", "snr", "host_dlr", "label", "kind", "event_id")
SHOWN = ("survey", "filter", "sign", "snr", "host_dlr", "tags")

Rows = Callable[[NDArray[np.int64]], pd.DataFrame]  # row numbers of the triplet table -> the columns `SHOWN` of these rows
Stamps = Callable[[NDArray[np.int64]], NDArray[np.float32]]  # row numbers of the triplet table -> stamps (n, 3, 63, 63)

_EACH = 6  # triplets a gallery
_MOST_ROWS = 40  # of a list on the page
_LABEL = {1: "real", 0: "bogus"}
_PROPERTIES = {
    "kind": "Kind", "snr": "S/N", "host offset": "Host offset, light radii", "change": "Change", "survey": "Survey", "filter": "Filter",
    "detector": "Detector", "season": "Season", "source": "Source of the label", "part": "Part of the split",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class DataSet:
    """What the page tells of: the triplet table, what was counted of it, and a way to its rows and stamps."""

    table: pd.DataFrame  # TRIPLETS or their `COLUMNS`
    parts: pd.Series  # part of each row of the table
    card: Mapping[str, Any]  # of datasets.card, with `tags` of datasets.recovery where truth is known
    conflicts: pd.DataFrame  # CONFLICTS
    doubt: Doubt | None  # of the training and validation labels; None where nothing was judged
    audit: Mapping[str, Any]  # of the split
    strategy: str
    rows: Rows
    stamps: Stamps


@dataclass(frozen=True)
class Plate:
    """A picture of the page: its file's name, a title, a caption, "wide" or "" and how it is drawn."""

    name: str
    section: str
    title: str
    caption: str
    shape: str
    draw: Callable[[], Figure]


def plates(data: DataSet) -> list[Plate]:
    """Every picture of the page, in order; none is drawn yet, so that one at a time is in memory."""
    counts = data.card["by"]
    panels = {key: _PROPERTIES[key] for key in ("survey", "filter", "detector", "season")}
    found = [
        Plate("kinds", "counts", "Kinds", "Labelled triplets of each kind, on a logarithmic axis.", "wide",
              partial(datafigures.kinds_figure, data.table)),
        Plate("groups", "counts", "Where they come from", "Labelled triplets by survey, filter, detector and season; more than 24 "
              "values in the order of their size.", "wide",
              partial(datafigures.groups_figure, counts, panels)),
        Plate("time", "counts", "Parts over time", f"Parts of the split ({data.strategy.replace('_', ' ')}) by date.", "wide",
              partial(datafigures.time_figure, data.table, data.parts)),
        Plate("significance", "coverage", "Significance", "The S/N at which the detections stand.", "",
              partial(datafigures.significance_figure, data.table)),
        Plate("host_plane", "coverage", "Significance and host", "Real ones by S/N and offset from their host in directional light radii; "
              "the dashed line is one radius.", "", partial(datafigures.host_plane_figure, data.table)),
    ]  # fmt: skip
    order = _truth_order(data)
    if order:
        found.append(
            Plate("tags", "tags", "Tags by true cause", "Share of the candidates of each true cause that carry a tag; one may carry "
                  "several. Framed: the tags that name the cause.", "wide", partial(datafigures.tags_figure, data.card["tags"], order))
        )  # fmt: skip
    return [*found, *_galleries(data), *_doubted(data)]


def _truth_order(data: DataSet) -> list[str]:
    tags = data.card.get("tags", {})
    return [*(kind for kind in ARTEFACT_KINDS if kind in tags), *(kind for kind in tags if kind not in ARTEFACT_KINDS)]


def _galleries(data: DataSet) -> list[Plate]:
    out = []
    for label, section in ((1, "real"), (0, "bogus")):
        kinds = data.table["kind"][data.table["label"] == label].astype(object)
        for kind, count in kinds.value_counts().items():
            rows = spread(data.table.loc[kinds.index[kinds == kind], ["snr", "candidate_id", "event_id"]], _EACH).index.to_numpy()
            name = str(kind).replace("_", " ") or "no kind given"
            file = "".join(letter if letter.isalnum() else "_" for letter in f"{section}_{name}").lower()
            text = f"{count:,} triplets; from faint to bright."
            draw = partial(_gallery, data, rows, REAL if label else BOGUS)
            out.append(Plate(file, section, name[:1].upper() + name[1:], text, "wide", draw))
    return out


def spread(rows: pd.DataFrame, number: int) -> pd.DataFrame:
    """Up to `number` rows that stand for all: evenly spaced in the order of S/N, each of another event where there are as many."""
    ordered = rows.sort_values("candidate_id", kind="stable").sort_values("snr", kind="stable")
    one_each = ordered.drop_duplicates("event_id")
    ordered = one_each if len(one_each) >= number else ordered
    # The outermost twentieth is left out on either side where there are many: extremes are not typical.
    places = np.linspace(0.05, 0.95, number) * (len(ordered) - 1) if len(ordered) > number else np.arange(len(ordered))
    return ordered.iloc[np.unique(np.rint(places).astype(int))]


def _gallery(data: DataSet, numbers: NDArray[np.int64], colour: str, notes: Sequence[str] = ()) -> Figure:
    rows = list(data.rows(numbers).itertuples())
    texts = notes or [_caption(row) for row in rows]
    return gallery([Example(stamp, _title(row), text, colour) for stamp, row, text in zip(data.stamps(numbers), rows, texts, strict=True)])


def _title(row: Any) -> str:
    return f"{row.survey} {row.filter}   S/N {row.snr:.3g}{'   faded' if row.sign < 0 else ''}"


def _caption(row: Any) -> str:
    tags = ", ".join(word.replace("_", " ") for word in row.tags) if row.tags is not None and len(row.tags) else "no tag"
    host = f"host {row.host_dlr:.2g} radii" if np.isfinite(row.host_dlr) else "no host"
    return f"{tags}; {host}"


def _doubted(data: DataSet) -> list[Plate]:
    if data.doubt is None or data.doubt.suspects.empty:
        return []
    out = []
    for label, title in ((0, "Called bogus, perhaps real"), (1, "Called real, perhaps bogus")):
        own = data.doubt.suspects[data.doubt.suspects["label"] == label].head(2 * _EACH)
        if len(own):
            rows = _places(data.table, own["candidate_id"])
            notes = [
                f"{str(kind).replace('_', ' ') or 'no kind'}; score {score:.2f}"
                for kind, score in zip(data.table["kind"].iloc[rows], own["score"], strict=True)
            ]
            text = "The most doubted first. The score is that of a forest that saw none of the same field."
            draw = partial(_gallery, data, rows, REAL if label else BOGUS, notes)
            out.append(Plate(f"suspects_{_LABEL[label]}", "suspects", title, text, "wide", draw))
    return out


def _places(table: pd.DataFrame, names: pd.Series) -> NDArray[np.int64]:
    """The row numbers of candidates."""
    found = table["candidate_id"][table["candidate_id"].isin(names)]
    return np.asarray(pd.Series(found.index, index=found).loc[names], dtype=np.int64)


def data_context(data: DataSet, pictures: Sequence[Plate]) -> dict[str, Any]:
    """What the template shows, plain and formatted. `pictures`: the plates that were written as figures/<name>.png."""
    card = data.card
    sections = {section: [_picture(plate) for plate in pictures if plate.section == section] for section in (
        "counts", "coverage", "tags", "real", "bogus", "suspects")}  # fmt: skip
    return {
        "title": "The data set",
        "lead": _lead(data),
        "simulated": bool(card["simulated"]),
        "cards": _cards(data),
        "notes": [*card["notes"], _audit_note(data)],
        "sections": sections,
        "tables": [_table(key, title, card["by"][key]) for key, title in _PROPERTIES.items() if key in card["by"]],
        "recovery": [_recovery(kind, card["tags"][kind]) for kind in _truth_order(data)],
        "conflicts": data.conflicts.head(_MOST_ROWS).to_dict("records"),
        "conflict_count": len(data.conflicts),
        "doubt": _doubt(data),
        "digest": card["digest"],
    }


def _picture(plate: Plate) -> dict[str, str]:
    return {"file": f"figures/{plate.name}.png", "title": plate.title, "caption": plate.caption, "shape": plate.shape}


def _lead(data: DataSet) -> str:
    surveys = len(data.card["by"]["survey"])
    kinds = data.table.loc[data.table["label"] == 0, "kind"].nunique()
    types = data.table.loc[data.table["label"] == 1, "kind"].nunique()
    return (
        f"{len(data.table):,} triplets of science, reference and difference from {_counted(surveys, 'survey')}: "
        f"{_counted(types, 'real kind')} and {_counted(kinds, 'bogus kind')}, by part, with "
        "the labels that are in doubt."
    )


def _counted(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _cards(data: DataSet) -> list[dict[str, str]]:
    card, sign = data.card, data.table["sign"][data.table["label"] == 1]
    labels = card["labels"]
    labelled = labels["real"] + labels["bogus"]
    faded = float((sign < 0).mean()) if len(sign) else float("nan")
    return [
        {"label": "Triplets", "value": f"{card['triplets']:,}", "hint": f"{labels['unlabelled']:,} of them unlabelled"},
        {"label": "Real", "value": f"{labels['real']:,}", "hint": f"{labels['real'] / max(labelled, 1):.0%} of the labelled"},
        {"label": "Bogus", "value": f"{labels['bogus']:,}", "hint": f"{labels['bogus'] / max(labelled, 1):.0%} of the labelled"},
        {"label": "Real events", "value": f"{card['events']:,}", "hint": f"in {card['exposures']:,} science exposures"},
        {"label": "Faded", "value": f"{faded:.0%}" if np.isfinite(faded) else "–", "hint": "of the real ones: brighter in the reference"},
    ]


def _audit_note(data: DataSet) -> str:
    leaks = data.audit["leaks"]
    checked = ", ".join(f"{data.audit['distinct'][key]:,} {key} values" for key in leaks)
    return f"The split's audit looked at {checked}; {sum(leaks.values())} stand in more than one part."


def _table(key: str, title: str, counts: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    lines = [{"name": str(value).replace("_", " ") or "–", **row, "share": _share(row)} for value, row in counts.items()]
    return {"key": key, "title": title, "lines": lines}


def _share(row: Mapping[str, int]) -> str:
    labelled = row["real"] + row["bogus"]
    return f"{row['real'] / labelled:.0%}" if labelled else "–"


def _recovery(kind: str, record: Mapping[str, Any]) -> dict[str, Any]:
    found = record["recovered"]
    ranked = sorted(record["tags"].items(), key=lambda item: -item[1])
    total = record["candidates"]
    return {
        "kind": kind.replace("_", " "),
        "candidates": total,
        "expected": " or ".join(word.replace("_", " ") for word in record["expected"])
        or ("no tag of its own" if kind in ARTEFACT_KINDS else "–"),
        "recovered": "–" if found is None else f"{found:,}",
        "recall": "–" if found is None else f"{found / total:.0%}",
        "tags": ", ".join(f"{word.replace('_', ' ')} {count / total:.0%}" for word, count in ranked),
        "untagged": f"{record['untagged'] / total:.0%}",
    }


def _doubt(data: DataSet) -> dict[str, Any] | None:
    if data.doubt is None:
        return None
    rows = data.doubt.suspects.head(_MOST_ROWS)
    kinds = data.table["kind"].iloc[_places(data.table, rows["candidate_id"])]
    lines = [
        {"name": row.candidate_id, "label": _LABEL[row.label], "kind": str(kind), "score": f"{row.score:.3f}"}
        for row, kind in zip(rows.itertuples(), kinds, strict=True)
    ]
    joint = data.doubt.joint
    return {
        "share": f"{data.doubt.share:.2%}",
        "to_real": f"{joint[0, 1]:.2%}",
        "to_bogus": f"{joint[1, 0]:.2%}",
        "count": len(data.doubt.suspects),
        "lines": lines,
    }

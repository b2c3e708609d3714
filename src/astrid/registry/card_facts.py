"""What the card says that has to be found first: what the model learnt from, its weakest slices, and what it has not seen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from astrid.registry.markdown import interval, listed, number

_ENOUGH = 20  # rows of a class below which a slice says little
_SHOWN = 3  # groups that the lead names
_OF_CLASSES = {"survey": "survey", "S/N": "S/N", "host offset (DLR)": "host offset (directional light radii)"}
_KINDS = {"transient kind": ("kind of real source", "recall"), "bogus kind": ("kind of artefact", "fpr")}
_WORDS = {"aucpr": "AUCPR", "recall": "recall", "fpr": "false-positive rate"}
_PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Training:
    """What a model learnt from and was measured on, in counts. `parts`: columns part, real, bogus, unlabelled, rows, events."""

    parts: pd.DataFrame
    by_survey: pd.DataFrame  # survey and a column a part, labelled rows
    label_sources: Mapping[str, int]
    filters: tuple[str, ...]  # of the training part
    snr: tuple[float, float]  # of the training part, 1st and 99th percentile (sigma)
    scale: tuple[float, float]  # its smallest and largest pixel (arcsec)

    @property
    def simulated(self) -> bool:
        """Whether every label comes from a simulation's truth."""
        return set(self.label_sources) == {"truth"}

    @property
    def injected(self) -> bool:
        """Whether some labels are of sources that were put into images."""
        return "injection" in self.label_sources

    def surveys(self, part: str = "train") -> list[str]:
        """The surveys of a part."""
        return [str(name) for name in self.by_survey.loc[self.by_survey[part] > 0, "survey"]]


@dataclass(frozen=True, eq=False)
class Slice:
    """A way to cut the test part, the worst group first."""

    name: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def training(triplets: pd.DataFrame, splits: pd.DataFrame) -> Training:
    """Count what a split of a triplet table holds. `triplets`, `splits`: columns of `TRIPLETS` and `SPLITS`."""
    rows = triplets.drop(columns=["part"], errors="ignore").merge(splits[["candidate_id", "part"]], on="candidate_id")
    rows = rows[rows["scorable"]]
    labelled = rows[rows["label"].isin((0, 1)) & rows["part"].isin(_PARTS)]
    train = labelled[labelled["part"] == "train"]
    lines = []
    for part in (*_PARTS, "unused"):
        own = rows[rows["part"] == part]
        counts = [int((own["label"] == label).sum()) for label in (1, 0, -1)]
        if len(own):
            lines.append((part, *counts, len(own), int(own["event_id"].nunique())))
    surveys = pd.crosstab(labelled["survey"].astype(str), labelled["part"]).reindex(columns=list(_PARTS), fill_value=0)
    return Training(
        parts=pd.DataFrame(lines, columns=["part", "real", "bogus", "unlabelled", "rows", "events"]),
        by_survey=surveys.rename_axis(columns=None).reset_index(),
        label_sources={str(name): int(count) for name, count in labelled["label_source"].value_counts().items()},
        filters=tuple(sorted(set(train["filter"].astype(str)) - {""})),
        snr=_range(train["snr"].abs(), 1, 99),
        scale=_range(train["pixel_scale"], 0, 100),
    )


def slices(frame: pd.DataFrame) -> list[Slice]:
    """The tables of the card from reports/plots/slices.csv."""
    if frame.empty:
        return []
    found = []
    for name, title in _OF_CLASSES.items():
        part = frame[frame["slice"] == name]
        if not part.empty:
            head = (title, "real", "bogus", "AUCPR", "recall", "false-positive rate")
            found.append(Slice(title, head, tuple(_line(part, group, ("aucpr", "recall", "fpr")) for group in _order(part, "aucpr"))))
    for name, (title, metric) in _KINDS.items():
        part = frame[(frame["slice"] == name) & (frame["metric"] == metric)]
        if not part.empty:
            found.append(
                Slice(title, (title, "rows", _WORDS[metric]), tuple(_line(part, group, (metric,)) for group in _order(part, metric)))
            )
    return found


def weakest(frame: pd.DataFrame) -> list[str]:
    """The worst group of each slice that has rows enough, in words, the lowest AUCPR first, then kinds."""
    if frame.empty:
        return []
    words = []
    for name, metric in [*((name, "aucpr") for name in _OF_CLASSES), *((name, metric) for name, (_, metric) in _KINDS.items())]:
        part = frame[(frame["slice"] == name) & (frame["metric"] == metric)]
        counted = part["rows"] if name in _KINDS else part[["positives", "negatives"]].min(axis=1)
        part = part[counted >= _ENOUGH]
        order = _order(part, metric)
        if len(order) > 1:
            row = part[part["group"] == order[0]].iloc[0]
            words.append(f"{_of(name)} {order[0]} ({_WORDS[metric]} {_cell(row)})")
    return words


def limits(
    manifest: Mapping[str, Any], facts: Training, evaluation: Mapping[str, Any], frame: pd.DataFrame, prevalence: float | None
) -> list[str]:
    """What the model has not seen and what its numbers do not say, one line each.

    `evaluation`: reports/evaluate.json; `frame`: reports/plots/slices.csv; `prevalence`: the share of real ones in a stream.
    """
    lines = []
    if facts.simulated:
        lines.append(
            "It has seen no real exposure. Residues of real bright stars and a real detector's faults differ from the simulated ones: "
            "measure it on labelled real detections before it is used (`astrid score --evidence`)."
        )
    seen = listed(facts.surveys())
    unseen = [name for name in facts.surveys("test") if name not in facts.surveys("train")]
    if unseen:
        lines.append(f"The test part is of {listed(unseen)}, which training never saw; every survey but {seen} is new to it.")
    else:
        lines.append(f"Test and training are of the same surveys ({seen}): how much worse it is on another one was not measured.")
    lines.append(
        f"Training held S/N {number(facts.snr[0], 1)} to {number(facts.snr[1], 0)} (1st to 99th percentile), pixels of "
        f"{number(facts.scale[0], 2)} to {number(facts.scale[1], 2)} arcsec and the filters {listed(facts.filters)}; "
        "beyond these its score is an extrapolation."
    )
    rare = _rare(frame)
    if rare:
        lines.append(f"Fewer than {_ENOUGH} test detections each of {listed(rare)}: their numbers say little.")
    precision = evaluation.get("test.precision_at_prevalence")
    if precision is not None and prevalence is not None:
        lines.append(
            f"The test part has {100 * float(evaluation['test.positive_fraction']):.0f} % real detections and a survey's stream far fewer: "
            f"where {100 * prevalence:g} % are real, {100 * float(precision):.1f} % of those above this threshold are."
        )
    lines.append("The score says real or bogus, not which type of transient. Moving objects and variable stars count as real.")
    size = manifest["stamp_size"]
    lines.append(f"It judges one detection by {size} x {size} pixels: no light curve, no catalogue, no neighbour outside the stamp.")
    return lines


def _rare(frame: pd.DataFrame) -> list[str]:
    if frame.empty:
        return []
    part = frame[frame["slice"].isin(_KINDS) & (frame["rows"] < _ENOUGH)]
    return sorted({str(group) for group in part["group"]} - {"unknown"})


def _order(part: pd.DataFrame, metric: str) -> list[str]:
    """The groups by a metric, the worst first; those without a value come last."""
    ordered = part[part["metric"] == metric].sort_values("value", ascending=metric != "fpr", na_position="last", kind="stable")
    return [str(group) for group in ordered["group"]]


def _line(part: pd.DataFrame, group: str, metrics: tuple[str, ...]) -> tuple[str, ...]:
    own = part[part["group"] == group]
    first = own.iloc[0]
    counts = (str(first["positives"]), str(first["negatives"])) if len(metrics) > 1 else (str(first["rows"]),)
    found = {row["metric"]: row for _, row in own.iterrows()}
    return (group, *counts, *(_cell(found.get(metric)) for metric in metrics))


def _cell(row: Any) -> str:
    if row is None or not math.isfinite(row["value"]):
        return number(None)
    spread = interval(row["low"], row["high"])
    return number(float(row["value"])) + (f" ({spread})" if spread else "")


def _of(name: str) -> str:
    return {"host offset (DLR)": "host offset", "transient kind": "real", "bogus kind": "bogus"}.get(name, name)


def _range(values: pd.Series, low: float, high: float) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    return (float(np.percentile(finite, low)), float(np.percentile(finite, high))) if len(finite) else (math.nan, math.nan)

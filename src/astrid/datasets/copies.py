"""Labels of injected copies: what matches an injection, and nothing else, since all other light stands in the parent pair too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from astrid.core.copies import is_copy
from astrid.datasets.kinds import BOGUS, KIND_OF_TAG, NOISE, UNLABELLED
from astrid.datasets.labels import Labelled, label_candidates
from astrid.io.tables import CATALOG, LABELS, conform

if TYPE_CHECKING:
    from astrid.config.schema.dataset import DatasetConfig

_OWN_SOURCES = ("injection", "human")  # sources that may speak of a copy's candidate


def label_with_copies(
    candidates: pd.DataFrame,
    truth: pd.DataFrame,
    injected: pd.DataFrame,
    pairs: pd.DataFrame,
    catalog: pd.DataFrame,
    human: pd.DataFrame,
    cfg: DatasetConfig,
) -> tuple[pd.DataFrame, Labelled]:
    """Label the candidates of pairs and of their injected copies.

    Parameters
    ----------
    candidates, truth, pairs, catalog, human
        As `label_candidates` takes them; `candidates` and `pairs` hold those of the copies too.
    injected
        TRUTH of the copies, the references' fluxes on the scale of their science exposures.
    cfg
        Radii, significance and confidences.

    Returns
    -------
    The candidates that stay, the copies' after the others, and their labels: every candidate of a pair, and of a copy those that
    match an injection or that a person has labelled. `counts["unmatched_in_copies"]` tells how many candidates went.
    """
    copied = candidates["pair_id"].map(is_copy).to_numpy(dtype=bool)
    about_copies = human["candidate_id"].map(is_copy).to_numpy(dtype=bool)
    mine = candidates[~copied] if copied.any() else candidates
    own = label_candidates(mine, truth, pairs, catalog, human[~about_copies], cfg)
    counts = {**own.counts, "unmatched_in_copies": 0}
    if not copied.any():
        return candidates, Labelled(own.labels, own.columns, counts)
    theirs = label_candidates(candidates[copied], injected, pairs, CATALOG.empty(), human[about_copies], cfg)
    matched = theirs.columns["label_source"].isin(_OWN_SOURCES).to_numpy()
    columns = theirs.columns[matched]
    said = theirs.labels["source"].isin(_OWN_SOURCES) & theirs.labels["candidate_id"].isin(columns["candidate_id"])
    labels = theirs.labels[said]
    for source in _OWN_SOURCES:
        counts[f"source_{source}"] += int((labels["source"] == source).sum())
    counts["unmatched_in_copies"] = int((~matched).sum())
    counts["human_without_candidate"] += theirs.counts["human_without_candidate"]
    kept = pd.concat([mine, candidates[copied][matched]], ignore_index=True)
    together = Labelled(_stacked(own.labels, labels), _stacked(own.columns, columns), counts)
    return kept, together


def unmatched_as_bogus(candidates: pd.DataFrame, found: Labelled, confidence: float) -> Labelled:
    """The labels with a weak one of `confidence` for every candidate about which no source speaks: bogus, of its tag's kind.

    For a pair whose observer knows that nothing has changed in it, such as two exposures of one night.
    """
    silent = (found.columns["label"] == UNLABELLED).to_numpy()
    kinds = [next((kind for tag, kind in KIND_OF_TAG.items() if tag in tags), NOISE) for tags in candidates["tags"][silent]]
    rows = pd.DataFrame(
        {
            "candidate_id": found.columns["candidate_id"][silent],
            "label": BOGUS,
            "transient_type": kinds,
            "source": "weak",
            "annotator": "nothing is known here",
            "confidence": confidence,
            "time": "",
        }
    )
    columns = found.columns.copy()
    columns.loc[silent, "label"] = BOGUS
    columns.loc[silent, "label_source"] = "weak"
    columns.loc[silent, "kind"] = kinds
    labels = _stacked(found.labels, conform(rows, LABELS, source="the weak labels"))
    return Labelled(labels, columns, {**found.counts, "source_weak": found.counts["source_weak"] + len(rows), "unlabelled": 0})


def _stacked(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([frame for frame in (first, second) if len(frame)] or [first], ignore_index=True)

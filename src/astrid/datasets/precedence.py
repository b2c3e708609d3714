"""Several labels of one candidate: which one counts, where they contradict each other, and labels that a score suggests."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from astrid.core.errors import DataSetError
from astrid.datasets.kinds import BOGUS, REAL
from astrid.io.tables import LABELS, Column, Table, conform

PRECEDENCE = ("human", "injection", "truth", "catalogue", "evidence", "weak")  # the first that speaks wins
GIVEN = ("human", "catalogue", "evidence", "weak")  # may be appended to the label table; the others are derived

CONFLICTS = Table(
    "conflicts",
    (
        Column("candidate_id", "str", "", "candidate about which labels disagree"),
        Column("label", "int", "", "the label that counts"),
        Column("transient_type", "str", "", "its type or kind"),
        Column("source", "str", "", "its source"),
        Column("annotator", "str", "", "who or what said so"),
        Column("over_label", "int", "", "the label that was overruled"),
        Column("over_transient_type", "str", "", "its type or kind"),
        Column("over_source", "str", "", "its source"),
        Column("over_annotator", "str", "", "who or what said so"),
    ),
    ("candidate_id", "label", "source", "over_label", "over_source"),
)


def winners(labels: pd.DataFrame) -> pd.DataFrame:
    """The label that counts of each candidate, indexed by candidate_id.

    A source earlier in `PRECEDENCE` wins; within a source the later time, then the higher confidence, then the later row.
    Raises `DataSetError` for a source or label that is not known.
    """
    return _ordered(labels).drop_duplicates("candidate_id").set_index("candidate_id")


def conflicts(labels: pd.DataFrame) -> pd.DataFrame:
    """Every label that is overruled by one of the other value, a row each: CONFLICTS, ordered by candidate.

    Two labels of one value with another kind are no conflict. A later label of the same annotator and source replaces his earlier
    one: a mind changed is none either. Raises `DataSetError` as `winners` does.
    """
    ordered = _ordered(labels)
    ordered = ordered.drop_duplicates(["candidate_id", "source", "annotator"])
    first = ordered.drop_duplicates("candidate_id").set_index("candidate_id")
    won = first.loc[ordered["candidate_id"]].reset_index(drop=True)
    lost = ordered.reset_index(drop=True)
    columns = ["label", "transient_type", "source", "annotator"]
    both = pd.concat([lost[["candidate_id"]], won[columns], lost[columns].add_prefix("over_")], axis=1)
    both = both[both["label"] != both["over_label"]].sort_values("candidate_id", kind="stable")
    return conform(both, CONFLICTS, source="the conflicts")


def conflict_counts(found: pd.DataFrame) -> dict[str, int]:
    """How many rows of CONFLICTS each pair of sources gave, e.g. {"human over truth": 3}."""
    names = found["source"] + " over " + found["over_source"]
    return {str(name): int(count) for name, count in names.value_counts().sort_index().items()}


def weak_labels(candidate_ids: ArrayLike, scores: ArrayLike, *, below: float, above: float, annotator: str) -> pd.DataFrame:
    """LABELS rows of the source "weak": bogus at or below the score `below`, real at or above `above`, nothing between.

    `scores`: calibrated probabilities of being real, (n,); NaN gives no label. The confidence is the probability of the label.
    `annotator`: the model and its version. Raises `DataSetError` for limits that do not leave 0 <= below < above <= 1, a score
    outside [0, 1], or arrays of unlike length.
    """
    if not 0 <= below < above <= 1:
        raise DataSetError(f"weak labels at or below {below:g} and at or above {above:g} overlap; give 0 <= below < above <= 1.")
    names, values = np.asarray(candidate_ids, dtype=object), np.asarray(scores, dtype=np.float64)
    if len(names) != len(values):
        raise DataSetError(f"{len(names)} candidates have {len(values)} scores; give one each.")
    outside = int(((values < 0) | (values > 1)).sum())
    if outside:
        raise DataSetError(f"{outside} of {len(values)} scores are no probabilities; calibrate them into 0 to 1.")
    real = values >= above
    rows = pd.DataFrame({"candidate_id": names, "label": np.where(real, REAL, BOGUS), "transient_type": "", "source": "weak"})
    rows = rows.assign(annotator=annotator, confidence=np.where(real, values, 1 - values), time="")
    return conform(rows[real | (values <= below)], LABELS, source="the weak labels")


def _ordered(labels: pd.DataFrame) -> pd.DataFrame:
    """The labels, those that win first; checked."""
    unknown = sorted(set(labels["source"]) - set(PRECEDENCE))
    if unknown:
        raise DataSetError(f"{unknown[0]!r} is no source of labels; use one of {', '.join(PRECEDENCE)}.")
    wrong = labels[~labels["label"].isin((REAL, BOGUS))]
    if len(wrong):
        first = wrong.iloc[0]
        raise DataSetError(f"{len(wrong)} labels are neither 1 nor 0, {first['label']} for {first['candidate_id']} first; correct them.")
    ordered = labels.assign(_rank=labels["source"].map(PRECEDENCE.index), _row=np.arange(len(labels)))
    ordered = ordered.sort_values(["_rank", "time", "confidence", "_row"], ascending=[True, False, False, False], kind="stable")
    return ordered.drop(columns=["_rank", "_row"])

"""Whether the artefact tags of candidates name what the truth table knows to be there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astrid.datasets.kinds import ARTEFACT_KINDS, REAL, TAGS_OF_KIND
from astrid.datasets.labels import TRUTH_TABLE, UNMATCHED

NOTHING, SOURCE = "nothing in the truth", "real source"


def tag_table(candidates: pd.DataFrame, labels: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Tags against truth, a record a kind of truth: artefacts in the order of their names' list, then `NOTHING` and `SOURCE`.

    `candidates`: CANDIDATES, scorable or not; `labels`: every label row of theirs (LABELS). Only what the truth table itself says
    counts: a kind that was read off the tags cannot test them. A record holds `candidates`, `tags` (how many carry each tag; one
    may carry several), `untagged`, `expected` (the tags that name this kind) and `recovered` (how many carry one of those; None
    for a kind that no tag names).
    """
    kinds = _true_kinds(candidates, labels)
    tags = [frozenset(words) if words is not None else frozenset() for words in candidates["tags"]]
    out = {}
    for kind in (*ARTEFACT_KINDS, NOTHING, SOURCE):
        rows = np.flatnonzero(kinds == kind)
        if not len(rows):
            continue
        own = [tags[row] for row in rows]
        expected = TAGS_OF_KIND.get(kind, ())
        words = sorted({word for present in own for word in present})
        out[kind] = {
            "candidates": len(rows),
            "tags": {word: sum(word in present for present in own) for word in words},
            "untagged": sum(not present for present in own),
            "expected": list(expected),
            "recovered": sum(not present.isdisjoint(expected) for present in own) if expected else None,
        }
    return out


def _true_kinds(candidates: pd.DataFrame, labels: pd.DataFrame) -> NDArray[np.object_]:
    """What the truth table says is at each candidate, "" where it says nothing or too little: (n,)."""
    spoken = labels[labels["annotator"].isin((TRUTH_TABLE, UNMATCHED))].drop_duplicates("candidate_id").set_index("candidate_id")
    spoken = spoken.reindex(candidates["candidate_id"])
    real, named = (spoken["label"] == REAL).to_numpy(), (spoken["annotator"] == TRUTH_TABLE).to_numpy()
    nothing = (spoken["annotator"] == UNMATCHED).to_numpy()
    kinds = np.where(named, spoken["transient_type"].fillna("").to_numpy(dtype=object), "")
    return np.asarray(np.where(real, SOURCE, np.where(nothing, NOTHING, kinds)), dtype=object)

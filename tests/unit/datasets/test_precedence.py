"""Precedence: which label counts, what contradicts it, and labels that scores suggest."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from astrid.core.errors import DataSetError
from astrid.datasets.precedence import CONFLICTS, GIVEN, PRECEDENCE, conflict_counts, conflicts, weak_labels, winners
from astrid.io.tables import LABELS, conform


def labels(*rows: tuple[str, int, str, str, str]) -> pd.DataFrame:
    """Rows of candidate, label, source, annotator and time."""
    frame = pd.DataFrame(rows, columns=["candidate_id", "label", "source", "annotator", "time"])
    return conform(frame.assign(confidence=1.0), LABELS, source="test")


def test_an_overruled_label_of_the_other_value_is_a_conflict() -> None:
    found = conflicts(
        labels(("b", 1, "truth", "t", ""), ("b", 0, "human", "eve", "2026"), ("a", 1, "weak", "m", ""), ("a", 0, "truth", "t", ""))
    )
    assert list(found.columns) == [column.name for column in CONFLICTS.columns]
    assert list(found["candidate_id"]) == ["a", "b"]
    assert list(found["source"] + found["over_source"]) == ["truthweak", "humantruth"]
    assert list(found["label"]) == [0, 0]
    assert list(found["over_annotator"]) == ["m", "t"]
    assert conflict_counts(found) == {"human over truth": 1, "truth over weak": 1}


def test_agreement_and_a_changed_mind_are_no_conflict() -> None:
    agreeing = labels(("a", 1, "truth", "t", ""), ("a", 1, "human", "eve", "2026"))
    assert conflicts(agreeing).empty
    changed = labels(("a", 0, "human", "eve", "2025"), ("a", 1, "human", "eve", "2026"))
    assert winners(changed).loc["a", "label"] == 1
    assert conflicts(changed).empty
    two_people = labels(("a", 0, "human", "ann", "2025"), ("a", 1, "human", "eve", "2026"))
    assert list(conflicts(two_people)["over_annotator"]) == ["ann"]


def test_weak_labels_speak_only_where_the_score_does() -> None:
    got = weak_labels(list("abcde"), [0.01, 0.05, 0.5, 0.97, np.nan], below=0.05, above=0.95, annotator="m 1")
    assert list(got["candidate_id"]) == ["a", "b", "d"]
    assert list(got["label"]) == [0, 0, 1]
    np.testing.assert_allclose(got["confidence"], [0.99, 0.95, 0.97])
    assert set(got["source"]) == {"weak"}
    assert winners(pd.concat([got, labels(("d", 0, "evidence", "tags", ""))])).loc["d", "label"] == 0


def test_given_sources_are_those_that_nothing_derives() -> None:
    assert set(PRECEDENCE) - set(GIVEN) == {"truth", "injection"}


def test_what_is_no_label_is_refused() -> None:
    with pytest.raises(DataSetError, match=r"at or below 0.6 and at or above 0.5 overlap"):
        weak_labels(["a"], [0.1], below=0.6, above=0.5, annotator="m")
    with pytest.raises(DataSetError, match="2 candidates have 1 scores"):
        weak_labels(["a", "b"], [0.1], below=0.1, above=0.9, annotator="m")
    with pytest.raises(DataSetError, match="1 of 2 scores are no probabilities"):
        weak_labels(["a", "b"], [0.1, 3.0], below=0.1, above=0.9, annotator="m")
    with pytest.raises(DataSetError, match="'guess' is no source of labels"):
        conflicts(labels(("a", 1, "guess", "x", "")))

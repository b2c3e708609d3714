"""Recovery: tags are counted against what the truth table says, never against kinds that the tags gave themselves."""

from __future__ import annotations

import pandas as pd

from astrid.datasets.kinds import ARTEFACT_KINDS, KIND_OF_TAG, TAGS_OF_KIND
from astrid.datasets.labels import TRUTH_TABLE, UNMATCHED
from astrid.datasets.recovery import NOTHING, SOURCE, tag_table


def test_tags_are_counted_by_true_cause() -> None:
    candidates = pd.DataFrame({"candidate_id": list("abcdefg")})
    candidates["tags"] = [["cosmic_ray", "edge"], [], ["trail"], ["dipole"], [], None, ["trail"]]
    rows = [
        ("a", 0, "cosmic_ray", TRUTH_TABLE), ("b", 0, "cosmic_ray", TRUTH_TABLE), ("c", 0, "satellite_trail", TRUTH_TABLE),
        ("d", 0, "dipole", UNMATCHED), ("e", 1, "SN Ia", TRUTH_TABLE), ("f", 0, "fringe", TRUTH_TABLE), ("g", 1, "k", "eve"),
    ]  # fmt: skip
    labels = pd.DataFrame(rows, columns=["candidate_id", "label", "transient_type", "annotator"])
    got = tag_table(candidates, labels)
    assert list(got) == ["cosmic_ray", "satellite_trail", "fringe", NOTHING, SOURCE]
    assert got["cosmic_ray"] == {
        "candidates": 2, "tags": {"cosmic_ray": 1, "edge": 1}, "untagged": 1, "expected": ["cosmic_ray"], "recovered": 1,
    }  # fmt: skip
    assert got["satellite_trail"]["recovered"] == 1
    assert (got["fringe"]["recovered"], got["fringe"]["untagged"]) == (0, 1)
    assert got[NOTHING]["tags"] == {"dipole": 1}
    assert got[SOURCE]["candidates"] == 1


def test_the_words_agree_with_each_other() -> None:
    assert len(set(ARTEFACT_KINDS)) == len(ARTEFACT_KINDS)
    assert set(TAGS_OF_KIND) <= set(ARTEFACT_KINDS)
    assert {tag for tags in TAGS_OF_KIND.values() for tag in tags} <= set(KIND_OF_TAG)

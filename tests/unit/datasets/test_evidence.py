"""Rules over evidence: what they mean, what they refuse, and the labels that they give."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from astrid.core.errors import ConfigError
from astrid.datasets.evidence import check_columns, evidence_labels, in_conflict, matches, parse_rule
from astrid.datasets.precedence import winners

TABLE = pd.DataFrame(
    {
        "solar": ["True", "False", "", "true"],
        "tns": ["(TNS) SN II", "", "SN Ia", "AGN, old"],
        "drb": ["0.05", "", "0.1", "0.9"],
        "n": [1.0, 2.0, np.nan, 3.0],
        "flag": [True, False, True, False],
        "simbad": ["RRLyr", "S*", None, "QSO"],
    }
)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("solar = true", [0, 3]),
        ("solar = false", [1]),
        ("solar != true", [1]),
        ("flag = true", [0, 2]),
        ("drb < 0.1", [0]),
        ("drb <= 0.1", [0, 2]),
        ("drb >= 0.1", [2, 3]),
        ("drb = 0.10", [2]),
        ("n = 1", [0]),
        ("n != 1", [1, 3]),
        ("n in [1, 3]", [0, 3]),
        ("n not in [1, 3]", [1]),
        ("tns = SN Ia", [2]),
        ("tns = '(TNS) SN II'", [0]),
        ("tns in [SN Ia, (TNS) SN II]", [0, 2]),
        ('tns in ["AGN, old"]', [3]),
        ("tns is given", [0, 2, 3]),
        ("tns is not given", [1]),
        ("simbad in variable_classes", [0, 3]),
        ("simbad not in variable_classes", [1]),
        ("drb > 0.01 and drb < 0.5 and n = 1", [0]),
        ("n is given and tns is not given", [1]),
    ],
)
def test_a_rule_means_what_it_reads(text: str, rows: list[int]) -> None:
    assert list(np.flatnonzero(matches(parse_rule(text), TABLE))) == rows


def test_a_cell_that_says_nothing_meets_no_comparison() -> None:
    blank = pd.DataFrame({"a": ["", None, float("nan"), " "]})
    for text in ("a = 1", "a != 1", "a < 1", "a > -1", "a in [1]", "a not in [1]", "a is given"):
        assert not matches(parse_rule(text), blank).any(), text
    assert matches(parse_rule("a is not given"), blank).all()


def test_a_rule_names_its_columns_and_its_kind() -> None:
    rule = parse_rule("alert.ssdistnr >= 0 and alert.ssdistnr <= 5 and tns = SN Ia as SN Ia-CSM")
    assert rule.columns == ("alert.ssdistnr", "tns")
    assert rule.kind == "SN Ia-CSM"
    assert rule.conditions[2].values == ("SN Ia",)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "drb",
        "drb <",
        "drb << 1",
        "drb < 0.1 or n = 1",
        "drb < 0.1 and",
        "tns in SN Ia, SN II]",
        "__import__('os').system('x')",
        "1 < drb",
    ],
)
def test_a_rule_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read from"):
        parse_rule(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("drb < low", "which is no number"),
        ("tns in sn_classes", "names the list 'sn_classes', which is not known; use variable_classes"),
        ("tns in []", "has an empty list"),
        ("drb < 0.1 as", "names no kind after `as`"),
    ],
)
def test_a_rule_with_a_wrong_part_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_rule(text)


def test_a_missing_column_is_named_with_those_that_are_there() -> None:
    with pytest.raises(ConfigError, match=r"'drb < 1 and rb < 1' reads the column 'rb', which is not there; the packets have drb, n\."):
        check_columns([parse_rule("drb < 1 and rb < 1")], ["drb", "n"], where="the packets")


def test_words_cannot_be_ordered() -> None:
    with pytest.raises(ConfigError, match=r"orders the column 'tns', which holds words such as '\(TNS\) SN II'"):
        matches(parse_rule("tns < 3"), TABLE)


def test_the_first_rule_that_holds_gives_the_label_and_both_sides_are_a_conflict() -> None:
    names = pd.Series(["a", "b", "c", "d"])
    real = [parse_rule("solar = true as moving"), parse_rule("tns is given")]
    found = evidence_labels(names, TABLE, real, [parse_rule("drb < 0.5")], confidence=0.7)
    assert list(zip(found["candidate_id"], found["label"], found["transient_type"], strict=True)) == [
        ("a", 1, "moving"),
        ("d", 1, "moving"),
        ("c", 1, ""),
        ("a", 0, ""),
        ("c", 0, ""),
    ]
    assert set(found["source"]) == {"evidence"}
    assert set(found["confidence"]) == {0.7}
    assert found["annotator"].iloc[0] == "solar = true as moving"
    assert in_conflict(found) == {"a", "c"}
    assert winners(found[~found["candidate_id"].isin(in_conflict(found))]).index.tolist() == ["d"]


def test_no_rule_gives_no_label() -> None:
    assert evidence_labels(pd.Series(["a"] * 4), TABLE, [], [], confidence=1.0).empty

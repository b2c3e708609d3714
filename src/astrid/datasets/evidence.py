"""Labels from columns of evidence: rules as one reads them, such as `solar_system_match = true` or `drb < 0.1 and ndethist = 1`.

A rule is one or more conditions with `and` between them, and may end with `as` and the kind that it gives:

    solar_system_match_5arcsec = true as moving
    tnsclass in [SN Ia, SN II]
    simbad_class in variable_classes as variable
    alert.ssdistnr >= 0 and alert.ssdistnr <= 5

A condition compares one column with a number, a word, true or false (=, !=, <, <=, >, >=), asks whether it is one of several
(in, not in), or whether it says anything (is given, is not given). A cell that says nothing meets no condition but `is not given`.
Rules are parsed, never executed.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astrid.core.errors import ConfigError
from astrid.datasets.kinds import BOGUS, REAL, VARIABLE_CLASSES
from astrid.io.tables import LABELS, conform

Bools = NDArray[np.bool_]

SETS = {"variable_classes": VARIABLE_CLASSES}  # lists that a rule may name
_TRUE, _FALSE = ("true", "yes", "1", "1.0"), ("false", "no", "0", "0.0")
_NAME = r"[A-Za-z_][\w.]*"
_VALUE = r"\"[^\"]*\"|'[^']*'|[^\[\]\"',<>=!]+?"
_CONDITION = re.compile(
    rf"\s*(?P<column>{_NAME})\s*(?:"
    rf"(?P<test>is\s+not\s+given|is\s+given)|"
    rf"(?P<member>not\s+in|in)\s+(?P<list>\[[^\]]*\]|{_NAME})|"
    rf"(?P<operator><=|>=|!=|=|<|>)\s*(?P<value>{_VALUE})"
    rf")\s*(?P<next>\band\b|\bas\b|$)",
)
_KIND = re.compile(r"\s*([\w][\w /.+-]*?)\s*$")
_ORDER: dict[str, Callable[[NDArray[np.float64], float], Bools]] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}


@dataclass(frozen=True)
class Condition:
    """One comparison of a column; `operator` is a comparison, `in`, `not in`, `is given` or `is not given`."""

    column: str
    operator: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """Conditions that must all hold, and the kind of what they hold for."""

    text: str
    conditions: tuple[Condition, ...]
    kind: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the rule reads."""
        return tuple(dict.fromkeys(condition.column for condition in self.conditions))


def parse_rule(text: str) -> Rule:
    """Read a rule. Raises `ConfigError` with the place where it cannot be read on."""
    conditions, at, kind = [], 0, ""
    while True:
        found = _CONDITION.match(text, at)
        if found is None:
            raise ConfigError(
                f"the rule {text!r} cannot be read from {text[at:].strip()[:40]!r} on; write e.g. drb < 0.1, tnsclass in [SN Ia, SN II], "
                "tnsclass is given, with `and` between conditions."
            )
        conditions.append(_condition(found, text))
        at = found.end()
        if found["next"] == "as":
            named = _KIND.match(text, at)
            if named is None:
                raise ConfigError(f"the rule {text!r} names no kind after `as`; write e.g. `as moving`, or leave `as` out.")
            kind = named[1]
        if found["next"] != "and":
            return Rule(text, tuple(conditions), kind)


def _condition(found: re.Match[str], text: str) -> Condition:
    if found["test"]:
        return Condition(found["column"], " ".join(found["test"].split()))
    if found["member"]:
        return Condition(found["column"], " ".join(found["member"].split()), _members(found["list"], text))
    value = found["value"].strip().strip("\"'")
    if found["operator"] in _ORDER and not _is_number(value):
        raise ConfigError(f"the rule {text!r} asks whether {found['column']} is {found['operator']} {value!r}, which is no number.")
    return Condition(found["column"], found["operator"], (value,))


def _members(listed: str, text: str) -> tuple[str, ...]:
    if not listed.startswith("["):
        if listed not in SETS:
            raise ConfigError(f"the rule {text!r} names the list {listed!r}, which is not known; use {', '.join(SETS)} or [a, b].")
        return tuple(sorted(SETS[listed]))
    quote = "'" if "'" in listed else '"'
    values = [value.strip() for value in next(csv.reader([listed[1:-1]], skipinitialspace=True, quotechar=quote), [])]
    if not any(values):
        raise ConfigError(f"the rule {text!r} has an empty list; give the values that count.")
    return tuple(value for value in values if value)


def _is_number(value: str) -> bool:
    try:
        return bool(np.isfinite(float(value)))
    except ValueError:
        return False


def check_columns(rules: Sequence[Rule], names: Sequence[str], *, where: str) -> None:
    """Raise `ConfigError` for the first rule that reads a column which is not among `names`, those that `where` have."""
    for rule in rules:
        for column in rule.columns:
            if column not in names:
                raise ConfigError(
                    f"the rule {rule.text!r} reads the column {column!r}, which is not there; {where} have {', '.join(names)}."
                )


def matches(rule: Rule, table: pd.DataFrame) -> Bools:
    """Which rows of the table meet all conditions of the rule: (n,).

    Raises `ConfigError` where a column that is compared with < or > holds words.
    """
    held = np.ones(len(table), dtype=bool)
    for condition in rule.conditions:
        held &= _holds(condition, table[condition.column], rule)
    return held


def _holds(condition: Condition, column: pd.Series, rule: Rule) -> Bools:
    words = column.astype(object).where(column.notna(), "").astype(str).str.strip()
    given = _bools(words != "")
    if condition.operator in ("is given", "is not given"):
        return given if condition.operator == "is given" else ~given
    if condition.operator in _ORDER:
        numbers = pd.to_numeric(words.where(given), errors="coerce").to_numpy(dtype=np.float64)
        lost = given & np.isnan(numbers)
        if lost.any():
            raise ConfigError(
                f"the rule {rule.text!r} orders the column {condition.column!r}, which holds words such as {words[lost].iloc[0]!r}; "
                "compare words with = or in."
            )
        return given & _ORDER[condition.operator](numbers, float(condition.values[0]))
    same = _same(words, condition.values)
    return given & (same if condition.operator in ("=", "in") else ~same)


def _same(words: pd.Series, values: tuple[str, ...]) -> Bools:
    """Where a word is one of the values; true and false in any of their spellings, numbers by their value."""
    out = _bools(words.isin(values))
    lower = {value.lower() for value in values}
    for names in (_TRUE, _FALSE):
        if lower & set(names[:2]):
            out |= _bools(words.str.lower().isin(names))
    numbers = [float(value) for value in values if _is_number(value)]
    if numbers:
        out |= _bools(pd.to_numeric(words, errors="coerce").isin(numbers))
    return out


def _bools(column: pd.Series) -> Bools:
    return np.array(column, dtype=np.bool_)


def evidence_labels(
    names: pd.Series, table: pd.DataFrame, real: Sequence[Rule], bogus: Sequence[Rule], *, confidence: float
) -> pd.DataFrame:
    """LABELS of the source "evidence": what the rules say of the rows of `table`, whose candidate_ids are `names`.

    A row gets at most one label real and one bogus, each from the first rule that it meets, whose text is the annotator; one that gets
    both is in conflict, see `in_conflict`. Rows come in the table's order, the real ones first.
    """
    out = []
    for label, rules in ((REAL, real), (BOGUS, bogus)):
        open_rows = np.ones(len(table), dtype=bool)
        for rule in rules:
            met = open_rows & matches(rule, table)
            open_rows &= ~met
            values = {"label": label, "transient_type": rule.kind, "source": "evidence", "annotator": rule.text, "confidence": confidence}
            out.append(pd.DataFrame({"candidate_id": names[met], **values, "time": "", "x": np.nan, "y": np.nan}))
    filled = [frame for frame in out if len(frame)]
    return conform(pd.concat(filled), LABELS, source="the evidence") if filled else LABELS.empty()


def in_conflict(labels: pd.DataFrame) -> set[str]:
    """The candidates that LABELS call real and bogus alike."""
    both = labels.groupby("candidate_id")["label"].nunique()
    return set(both.index[both > 1])

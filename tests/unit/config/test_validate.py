from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from astrid.config.compose import compose
from astrid.config.schema._base import Fraction, PositiveCount, section
from astrid.config.validate import validate
from astrid.core.errors import ConfigError

CONF = Path(__file__).resolve().parents[3] / "conf"


@section
class Inner:
    rate: Fraction
    kind: Literal["one", "two"]


@section
class Outer:
    count: PositiveCount
    inner: Inner


def values(**changes: object) -> dict[str, object]:
    return {"count": 2, "inner": {"rate": 0.5, "kind": "one"}} | changes


def test_a_good_mapping_becomes_a_frozen_section() -> None:
    built = validate(Outer, values())
    assert built.inner.rate == 0.5
    with pytest.raises(AttributeError):
        built.count = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (values(count=0), r"^train\.count = 0 is not allowed: input should be greater than 0"),
        (values(count="x"), r"^train\.count = 'x' is not allowed"),
        (values(inner={"rate": 2, "kind": "one"}), r"^train\.inner\.rate = 2 is not allowed"),
        (values(inner={"rate": 0.1, "kind": "three"}), r"^train\.inner\.kind = 'three' is not allowed: input should be 'one' or 'two'"),
        (values(inner={"rat": 0.1, "rate": 0.1, "kind": "one"}), r"^train\.inner\.rat is not a configuration key; did you mean 'rate'\?"),
        (values(zebra=1), r"^train\.zebra is not a configuration key; remove it\."),
        ({"count": 2}, r"^train\.inner is missing"),
        (values(inner={"rate": float("nan"), "kind": "one"}), r"^train\.inner\.rate = nan is not allowed"),
    ],
)
def test_an_offence_is_one_sentence_with_its_path(bad: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        validate(Outer, bad, path="train")
    assert "\n" not in str(caught.value)


def test_further_offences_are_counted() -> None:
    with pytest.raises(ConfigError, match=r"\(1 more like it\)"):
        validate(Outer, values(count=-1, inner={"rate": 7, "kind": "one"}))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            "catalog.discovered=[60000,53200]",
            r"^survey\.archive\.catalog is not allowed: discovered = \[60000, 53200\] ends before it begins",
        ),
        ("choose.science_from=70", r"^survey\.archive\.choose is not allowed: science_from = 70 and science_until = 60 leave no day"),
        ("search.server=127.0.0.1:8080", r"^survey\.archive\.search\.server = '127\.0\.0\.1:8080' is not allowed: .*https\?://"),
        ("download.server=mast.stsci.edu", r"^survey\.archive\.download\.server = 'mast\.stsci\.edu' is not allowed"),
    ],
)
def test_an_archive_with_settings_that_do_not_go_together_is_refused(change: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        compose(CONF, ["survey=mast", f"survey.archive.{change}"])

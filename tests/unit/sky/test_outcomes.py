from __future__ import annotations

from typing import Any, get_args

import pandas as pd
import pytest

from astrid.io.archive_tables import QUESTIONS
from astrid.io.tables import CATALOG, conform
from astrid.sky.choose import WHYS, Fate
from astrid.sky.download.plan import PASSING, Why
from astrid.sky.outcomes import outcomes

KEY = ("SN 1", "swift")


def tell(
    *,
    discovery: float = 57000.0,
    question: dict[str, Any] | None = None,
    fate: tuple[int, str] | None = (2, ""),
    fetched: int = 2,
    problems: tuple[Fate, ...] = (),
    pairs: tuple[tuple[str, str], ...] = (),
) -> dict[str, Any]:
    """The one outcome of one event, of which each step is given."""
    events = conform(pd.DataFrame([{"object_id": KEY[0], "s_ra": 1.0, "s_dec": 2.0, "discovery_mjd": discovery}]), CATALOG, source="test")
    asked = {"object_id": KEY[0], "mission": KEY[1], "key": "k", "status": "answered", "observations": 5, "products": 5, "reason": ""}
    questions = pd.DataFrame([] if question == {} else [asked | (question or {})])
    columns = ["object_id", "mission", "observations", "chosen", "why", "reason"]
    rows = [] if fate is None else [(*KEY, 5, fate[0], fate[1], f"sentence on {fate[1]}." if fate[1] else "")]
    table = outcomes(
        events, ["swift"], conform(questions, QUESTIONS, source="test") if len(questions) else QUESTIONS.empty(),
        pd.DataFrame(rows, columns=columns), pd.DataFrame([KEY] * fetched, columns=["object_id", "mission"]),
        [(KEY, problem) for problem in problems],
        pd.DataFrame([(*KEY, *pair) for pair in pairs], columns=["object_id", "mission", "status", "reason"]),
    )  # fmt: skip
    assert len(table) == 1
    row: dict[str, Any] = table.iloc[0].to_dict()
    return row


NO_REFERENCE = ("refused", "there is no reference exposure at all; give one the role reference.")
GONE = Fate("not delivered", "b.fits: the archive has no such file (status 404).")


@pytest.mark.parametrize(
    ("given", "stage", "why"),
    [
        ({"pairs": (("ok", ""), ("refused", "no."))}, "paired", ""),
        ({"pairs": (("refused", "too far."),)}, "fetched", "pairing refused"),
        ({"pairs": (NO_REFERENCE,), "problems": (GONE,)}, "chosen", "not delivered"),
        ({"pairs": (("refused", "too far."),), "problems": (GONE,)}, "fetched", "pairing refused"),
        ({"problems": (GONE, Fate("header disagrees", "another filter."))}, "fetched", "header disagrees"),
        ({"problems": (Fate("beyond the budget", "too much."),)}, "chosen", "beyond the budget"),
        ({}, "fetched", "pairing refused"),
        ({"fate": (0, "no overlap")}, "found", "no overlap"),
        ({"fate": None}, "found", "nothing in the archive"),
        ({"fate": None, "question": {"observations": 0}}, "asked", "nothing in the archive"),
        ({"fate": None, "question": {"status": "failed", "reason": "it was down."}}, "asked", "no answer"),
        ({"fate": None, "question": {"status": "not asked", "reason": "its position is not known."}}, "asked", "not asked"),
        ({"fate": None, "question": {}}, "asked", "not asked"),
        ({"fate": None, "discovery": float("nan")}, "asked", "no date"),
    ],
)
def test_the_furthest_step_gives_the_reason(given: dict[str, Any], stage: str, why: str) -> None:
    row = tell(**given)
    assert (row["stage"], row["why"]) == (stage, why)
    assert (row["reason"] == "") == (why == "")
    assert row["observations"] in (0, 5)


def test_every_loss_of_a_file_is_a_reason_of_an_event() -> None:
    assert set(get_args(Why)) <= set(WHYS)
    assert PASSING in get_args(Why)

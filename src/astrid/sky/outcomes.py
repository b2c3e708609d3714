"""How far every event came in every mission, and why no further: from the question to the pair."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from astrid.io.archive_tables import OUTCOMES
from astrid.io.tables import conform
from astrid.sky.choose import Fate

_NOT_FETCHED = ("too large", "beyond the budget", "not delivered", "download failed")
_LOST = re.compile(r"^there is no reference exposure at all|^no reference of")

Key = tuple[str, str]  # event, mission


@dataclass(frozen=True, eq=False)
class _Told:
    """What is known of an event in a mission; rows of QUESTIONS and of the choice, None where it has none."""

    question: Any
    choice: Any
    worst: Fate | None  # of its files that did not come or cannot be used
    refused: str  # reason of its first refused pair


def outcomes(
    catalog: pd.DataFrame,
    missions: Sequence[str],
    questions: pd.DataFrame,
    fates: pd.DataFrame,
    files: pd.DataFrame,
    problems: Iterable[tuple[Key, Fate]],
    pairs: pd.DataFrame,
) -> pd.DataFrame:
    """One row an event and mission (OUTCOMES), sorted.

    Parameters
    ----------
    catalog, questions
        CATALOG and QUESTIONS.
    missions
        That were searched.
    fates
        Of `choose.choose`.
    files
        Images and companions in place: object_id, mission.
    problems
        Of files that were not fetched or cannot be used.
    pairs
        object_id, mission, status, reason of the pairs after reading the headers.
    """
    asked = {(str(row.object_id), str(row.mission)): row for row in questions.itertuples()}
    chosen = {(str(row.object_id), str(row.mission)): row for row in fates.itertuples()}
    fetched = files.groupby(["object_id", "mission"]).size().to_dict()
    usable = pairs[pairs["status"] == "ok"].groupby(["object_id", "mission"]).size().to_dict()
    refused = pairs[pairs["status"] != "ok"].groupby(["object_id", "mission"])["reason"].first().to_dict()
    worst: dict[Key, Fate] = {}
    for key, fate in problems:
        if key not in worst or fate.rank > worst[key].rank:
            worst[key] = fate
    rows = []
    for event in catalog.sort_values("object_id").drop_duplicates("object_id").itertuples():
        for mission in sorted(missions):
            key = (str(event.object_id), mission)
            count = int(usable.get(key, 0))
            counts = {"fetched": int(fetched.get(key, 0)), "pairs": count}
            told = _Told(asked.get(key), chosen.get(key), worst.get(key), refused.get(key, ""))
            stage, why, reason = ("paired", "", "") if count else _short(key, event, told)
            found = max(
                0 if told.question is None else int(told.question.observations), 0 if told.choice is None else int(told.choice.observations)
            )
            wanted = 0 if told.choice is None else int(told.choice.chosen)
            row = {"object_id": key[0], "mission": mission, "discovery_mjd": event.discovery_mjd, "stage": stage, "observations": found}
            rows.append({**row, "chosen": wanted, **counts, "why": why, "reason": reason})
    return conform(pd.DataFrame(rows, columns=[column.name for column in OUTCOMES.columns]), OUTCOMES, source="the outcomes")


def _short(key: Key, event: Any, told: _Told) -> tuple[str, str, str]:
    stage, fate = _ended(key, event, told)
    return stage, fate.why, fate.reason


def _ended(key: Key, event: Any, told: _Told) -> tuple[str, Fate]:
    """Where an event without a pair ended, and why."""
    name, mission = key
    question, choice = told.question, told.choice
    if not np.isfinite(event.discovery_mjd):
        return "asked", Fate("no date", f"{name} has no discovery date, so that before and after cannot be told apart.")
    if choice is None:
        if question is None:
            return "asked", Fate("not asked", f"{mission} was not asked for {name}; run the stage search.")
        if question.status == "not asked":
            return "asked", Fate("not asked", f"{mission} was not asked for {name}: {question.reason}")
        if question.status != "answered":
            return "asked", Fate("no answer", str(question.reason))
        if question.observations:
            text = f"none of {question.observations} observations of {mission} near {name} has an image that is read."
            return "found", Fate("nothing in the archive", text)
        text = f"{mission} has no observation of {name} within survey.archive.search.radius, .before_days and .after_days."
        return "asked", Fate("nothing in the archive", text)
    if choice.why:
        return "found", Fate(str(choice.why), str(choice.reason))
    # A pair that is refused because there is no reference is missing a file, where one did not come.
    if told.refused and (told.worst is None or not _LOST.search(told.refused)):
        return "fetched", Fate("pairing refused", told.refused)
    if told.worst is not None:
        return ("chosen" if told.worst.why in _NOT_FETCHED else "fetched"), told.worst
    return "fetched", Fate("pairing refused", f"no science image of {name} in {mission} is left after the headers were read.")

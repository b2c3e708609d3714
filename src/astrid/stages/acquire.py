"""Stage acquire: raw exposures into data/raw, the truth about them where it is known, the pairs, and why there are no more."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from astrid.config.params import settings
from astrid.config.schema import SurveyConfig
from astrid.core.errors import InputError
from astrid.core.records import Problem
from astrid.core.runtime import log, write_bytes, write_json
from astrid.io.archive_tables import OUTCOMES
from astrid.io.table_parts import write_parts
from astrid.io.tables import CATALOG, EXPOSURES, PAIRS, TRUTH, read_table, write_table
from astrid.stages.common import prune, run
from astrid.stages.sources.alerts import alerts
from astrid.stages.sources.base import CATALOG_PATH, EXPOSURES_PATH, OUTCOMES_PATH, PAIRS_PATH, QUARANTINE_PATH, RAW, TRUTH_PATH, Acquired
from astrid.stages.sources.folder import folder
from astrid.stages.sources.simulated import simulated

SUMMARY_PATH = Path("reports/acquire.json")
PAGE_PATH = Path("reports/acquire.html")


def main() -> None:
    """Fill data/raw from the configured source, pair its exposures, and account for what is missing."""
    from astrid.sky.download.kept import park
    from astrid.sky.pairs import pair_exposures

    survey = settings(SurveyConfig, "survey")
    catalog = read_table(CATALOG_PATH, CATALOG)
    acquired = SOURCES[survey.kind](survey)
    pairs = pair_exposures(acquired.exposures, catalog, survey.pair)
    outcomes = OUTCOMES.empty() if acquired.outcomes is None else acquired.outcomes(pairs)
    write_table(acquired.exposures, EXPOSURES_PATH, EXPOSURES)
    write_parts(acquired.truth, TRUTH_PATH, TRUTH)
    write_json(QUARANTINE_PATH, [dataclasses.asdict(problem) for problem in acquired.problems])
    park(RAW, acquired.files)
    prune(RAW, [*acquired.files, EXPOSURES_PATH, TRUTH_PATH, QUARANTINE_PATH])
    write_table(outcomes, OUTCOMES_PATH, OUTCOMES)
    _report(survey.kind, acquired, pairs, outcomes)
    usable = int((pairs["status"] == "ok").sum())
    if not usable and acquired.needs_pairs:
        ended = _no_event(outcomes) if len(outcomes) else _no_pair(pairs, acquired.problems)
        raise InputError(f"{ended} {acquired.incomplete}".rstrip())
    write_table(pairs, PAIRS_PATH, PAIRS)
    log.info(
        "acquire: %d exposures, %d quarantined, %d pairs, %d refused",
        len(acquired.exposures), len(acquired.problems), usable, len(pairs) - usable,
    )  # fmt: skip
    for problem in acquired.problems:
        log.warning("quarantined %s: %s", problem.source, problem.reason)
    if acquired.incomplete:
        raise InputError(acquired.incomplete)


def _archive(survey: SurveyConfig) -> Acquired:
    from astrid.stages.sources.archive import archive  # heavy, and of no use to the other sources

    return archive(survey)


SOURCES: dict[str, Callable[[SurveyConfig], Acquired]] = {
    "simulated": simulated, "folder": folder, "alerts": alerts, "archive": _archive,
}  # fmt: skip


def _report(kind: str, acquired: Acquired, pairs: pd.DataFrame, outcomes: pd.DataFrame) -> None:
    from astrid.evaluation.acquirepage import Acquisition, acquire_context, acquire_summary
    from astrid.evaluation.report import render_acquire

    problems = [(problem.source, problem.reason) for problem in acquired.problems]
    data = Acquisition(kind, acquired.exposures, pairs, outcomes, problems, acquired.alerts)
    write_json(SUMMARY_PATH, acquire_summary(data))
    write_bytes(PAGE_PATH, render_acquire(acquire_context(data)).encode())


def _no_event(outcomes: pd.DataFrame) -> str:
    """The sentence of a run that ends without a pair though an archive was asked."""
    why = outcomes["why"].value_counts()
    first = outcomes.loc[outcomes["why"] == why.index[0], "reason"].iloc[0]
    return (
        f"none of {outcomes['object_id'].nunique()} events has a usable pair, {why.iloc[0]} of them by {why.index[0]!r}, the first: "
        f"{first} {PAGE_PATH} and {OUTCOMES_PATH} have the reason of each."
    )


def _no_pair(pairs: pd.DataFrame, problems: Sequence[Problem]) -> str:
    aside = f" {len(problems)} files were set aside, the first because {problems[0].reason}" if problems else ""
    if pairs.empty:
        return f"there is no science exposure to pair; give one the role science.{aside}"
    return f"none of {len(pairs)} science exposures has a reference: {pairs['reason'].iloc[0]}{aside}"


if __name__ == "__main__":
    run(main)

"""Stage search: what the archive has near the events of the catalogue, frozen so that it is asked once."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from astrid.config.params import settings
from astrid.config.schema import SurveyConfig
from astrid.core.errors import ConfigError, InputError
from astrid.core.runtime import log
from astrid.io.tables import CATALOG, read_table
from astrid.sky.frozen import leave
from astrid.stages.common import incomplete, prune, run

OUTPUT = Path("data/manifest")
MANIFEST_PATH = OUTPUT / "manifest.parquet"
QUESTIONS_PATH = OUTPUT / "questions.parquet"
_CATALOG_PATH = Path("data/catalog/catalog.parquet")


def main() -> None:
    """Fill data/manifest; its tables are empty where the exposures do not come from an archive."""
    survey = settings(SurveyConfig, "survey")
    short = ""
    if survey.kind != "archive":
        leave(OUTPUT)
    else:
        short = _search(survey)
    prune(OUTPUT, [MANIFEST_PATH, QUESTIONS_PATH])
    if short:
        raise InputError(short)


def _search(survey: SurveyConfig) -> str:
    """Ask, and say what the stage must end with, where too much has no answer."""
    from astrid.sky.manifest import search

    if survey.archive is None:
        raise ConfigError("survey.archive is null but survey.kind is archive; choose survey=mast or set survey.archive.")
    catalog = read_table(_CATALOG_PATH, CATALOG)
    questions = search(catalog, survey.archive, survey.missions, OUTPUT)
    _report(questions)
    status = questions["status"]
    failed, asked = int((status == "failed").sum()), int((status != "not asked").sum())
    key = "survey.archive.search.accept_failed"
    return incomplete(failed, asked, survey.archive.search.accept_failed, what="questions have no answer", key=key)


def _report(questions: pd.DataFrame) -> None:
    without = questions[questions["status"] != "answered"]
    log.info(
        "search: %d events, %d questions, %d answered, %d observations, %d files",
        questions["object_id"].nunique(), len(questions), len(questions) - len(without),
        questions["observations"].sum(), questions["products"].sum(),
    )  # fmt: skip
    for reason, group in without.groupby("reason"):
        log.warning("search: %d questions without an answer, first %s: %s", len(group), group["object_id"].iloc[0], reason)


if __name__ == "__main__":
    run(main)

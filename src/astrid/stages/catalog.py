"""Stage catalog: the events that are known, from the simulated surveys, a user's table, or catalogues of supernovae."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from astrid.config.params import settings
from astrid.config.schema import SimulateConfig, SurveyConfig
from astrid.core.errors import ConfigError, InputError
from astrid.core.runtime import log, write_bytes, write_json
from astrid.io.tables import CATALOG, write_table
from astrid.stages.common import run

OUTPUT = Path("data/catalog/catalog.parquet")
MERGED, REFUSED, REPORT = (OUTPUT.with_name(name) for name in ("merged.csv", "refused.csv", "compile.json"))


def _simulated(_: SurveyConfig) -> pd.DataFrame:
    from astrid.sky.simulate import survey_catalog

    return survey_catalog(settings(SimulateConfig, "simulate"))


def _folder(survey: SurveyConfig) -> pd.DataFrame:
    from astrid.sky.catalog import read_catalog

    if survey.folder is None:
        raise ConfigError("survey.folder is null but survey.kind is folder; set survey.folder.root and the rest.")
    if survey.folder.catalog is None:
        return CATALOG.empty()
    return read_catalog(Path(survey.folder.root) / survey.folder.catalog)


def _alerts(_: SurveyConfig) -> pd.DataFrame:
    """No events: a catalogue is there to look for images of events and to label by place; an alert names its object itself."""
    return CATALOG.empty()


def _archive(survey: SurveyConfig) -> pd.DataFrame:
    from astrid.sky.catalog.compile import account, compile_catalogs

    if survey.archive is None:
        raise ConfigError("survey.archive is null but survey.kind is archive; use survey=mast or set survey.archive.")
    compiled = compile_catalogs(survey.archive.catalog.sources, survey.archive.catalog)
    for path, content in ((MERGED, compiled.merged), (REFUSED, compiled.refused)):
        write_bytes(path, content.to_csv(index=False).encode())
    write_json(REPORT, compiled.report)
    log.info("%s", account(compiled.report))
    if compiled.catalog.empty:
        raise InputError(f"no event is left of {account(compiled.report)}; see {REFUSED} and survey.archive.catalog.")
    return compiled.catalog


SOURCES: dict[str, Callable[[SurveyConfig], pd.DataFrame]] = {
    "simulated": _simulated,
    "folder": _folder,
    "archive": _archive,
    "alerts": _alerts,
}


def main() -> None:
    """Write data/catalog/catalog.parquet, and for an archive what was merged and refused on the way there."""
    survey = settings(SurveyConfig, "survey")
    for stale in (MERGED, REFUSED, REPORT):
        stale.unlink(missing_ok=True)
    catalog = SOURCES[survey.kind](survey)
    write_table(catalog, OUTPUT, CATALOG)
    log.info("catalog: %d events", len(catalog))
    undated = int((~np.isfinite(catalog["discovery_mjd"])).sum())
    if undated:
        log.warning("catalog: %d events have no discovery date; they name detections but label none", undated)


if __name__ == "__main__":
    run(main)

"""Stage catalog: the events that are known, from the simulated surveys or a user's table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from astrid.config.params import settings
from astrid.config.schema import SimulateConfig, SurveyConfig
from astrid.core.errors import ConfigError
from astrid.core.runtime import log
from astrid.io.tables import CATALOG, write_table
from astrid.stages.common import run

OUTPUT = Path("data/catalog/catalog.parquet")


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


SOURCES: dict[str, Callable[[SurveyConfig], pd.DataFrame]] = {"simulated": _simulated, "folder": _folder}


def main() -> None:
    """Write data/catalog/catalog.parquet."""
    survey = settings(SurveyConfig, "survey")
    catalog = SOURCES[survey.kind](survey)
    write_table(catalog, OUTPUT, CATALOG)
    log.info("catalog: %d events", len(catalog))
    undated = int((~np.isfinite(catalog["discovery_mjd"])).sum())
    if undated:
        log.warning("catalog: %d events have no discovery date; they name detections but label none", undated)


if __name__ == "__main__":
    run(main)

"""Seeded synthetic surveys: raw exposures as FITS, and the truth about them.

`randomise` draws surveys where asked to, `schedule` plans the visits, `scene`, `galaxies` and `events` make the sky, `optics`
brings its light to the focal plane, `detector` and `artifacts` spoil it, `render` writes the files. Everything is a pure function
of the settings, which include the seed.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from astrid.config.schema.simulate import SimulateConfig
from astrid.io.tables import CATALOG, conform
from astrid.sky.simulate import optics
from astrid.sky.simulate.events import Transient
from astrid.sky.simulate.randomise import expand
from astrid.sky.simulate.scene import build_scene
from astrid.sky.simulate.schedule import Visit, plan

__all__ = ["expand", "plan", "survey_catalog"]


def survey_catalog(cfg: SimulateConfig) -> pd.DataFrame:
    """The supernova catalogue that the synthetic surveys would publish (CATALOG).

    A supernova is discovered at the first science exposure in which it is brighter than the band's limit; one that never is stays
    unknown. Positions are of the supernova and its host, ICRS.
    """
    cfg = expand(cfg)
    by_field: dict[str, list[Visit]] = {}
    for visit in plan(cfg):
        if visit.role == "science":
            by_field.setdefault(visit.field_id, []).append(visit)
    rows = [row for visits in by_field.values() for row in _field_rows(cfg, visits)]
    return conform(pd.DataFrame(rows) if rows else CATALOG.empty(), CATALOG, source="the simulated catalogue")


def _field_rows(cfg: SimulateConfig, visits: list[Visit]) -> list[dict[str, Any]]:
    first = visits[0]
    spec = cfg.surveys[first.survey]
    wcs = optics.field_wcs(cfg, first)
    rows = []
    for source in build_scene(cfg, first.survey, first.detector, first.field).transients:
        seen = [v.mjd for v in visits if source.curve.magnitude(v.mjd, spec.filters[v.filter].wavelength) < spec.filters[v.filter].limit]
        if source.kind == "supernova" and seen:
            rows.append(_row(source, min(seen), wcs, first.survey))
    return rows


def _row(source: Transient, discovery: float, wcs: Any, survey: str) -> dict[str, Any]:
    ra, dec = (float(value) for value in wcs.all_pix2world(source.x, source.y, 0))
    host_ra = host_dec = float("nan")
    if source.host_id:
        host_ra, host_dec = (float(value) for value in wcs.all_pix2world(source.host_x, source.host_y, 0))
    return {
        "object_id": source.object_id,
        "s_ra": ra,
        "s_dec": dec,
        "discovery_mjd": discovery,
        "transient_type": source.transient_type,
        "redshift": source.redshift,
        "host": source.host_id,
        "host_ra": host_ra,
        "host_dec": host_dec,
        "source": survey,
    }

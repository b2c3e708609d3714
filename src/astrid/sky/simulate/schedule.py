"""The observing plan: every exposure that the synthetic surveys take, as a pure function of the settings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from astrid.config.schema.simulate import SimulateConfig, SurveySpec
from astrid.core.runtime import rng_for
from astrid.sky.simulate.randomise import expand


@dataclass(frozen=True, slots=True)
class Visit:
    """One exposure of one detector, before it is rendered."""

    exposure_id: str
    survey: str
    detector: str
    field: int
    field_id: str
    filter: str
    role: str  # science or reference
    mjd: float  # d, middle of the exposure
    exptime: float  # s, of all its frames
    frames: int  # exposures averaged in it
    s_ra: float  # deg, nominal centre
    s_dec: float  # deg


def plan(cfg: SimulateConfig) -> list[Visit]:
    """Every visit, ordered by survey, detector, field and filter, the reference before its science exposures."""
    visits: list[Visit] = []
    cfg = expand(cfg)
    for survey, spec in cfg.surveys.items():
        for detector in spec.detectors:
            for field in range(cfg.schedule.fields):
                visits.extend(_field_visits(cfg, survey, spec, detector, field))
    return visits


def field_filters(cfg: SimulateConfig, spec: SurveySpec, field: int) -> list[str]:
    """The filters in which a field is observed."""
    names = list(spec.filters)
    if field < cfg.schedule.two_filter_fields:
        return names
    return [names[(field + field // 2) % len(names)]]  # out of step with the fields' seasons, so that both see each filter


def field_seasons(cfg: SimulateConfig, field: int) -> tuple[int, ...]:
    """The seasons (from 0) in which a field is observed, earliest first."""
    pattern = cfg.schedule.field_seasons
    chosen = {(number - 1) % len(cfg.schedule.season_starts) for number in pattern[field % len(pattern)]}
    return tuple(sorted(chosen))


def field_id(survey: str, detector: str, field: int) -> str:
    """Name of a field."""
    return f"{survey}-{detector}-f{field:02d}"


def field_centre(cfg: SimulateConfig, spec: SurveySpec, detector: str, field: int) -> tuple[float, float]:
    """Right ascension and declination of a field's centre, deg."""
    dec = spec.s_dec + spec.detectors.index(detector) * cfg.schedule.field_spacing
    ra = spec.s_ra + field * cfg.schedule.field_spacing / np.cos(np.radians(dec))
    return float(ra % 360.0), float(dec)


def reference_date(cfg: SimulateConfig, spec: SurveySpec, field: int) -> float:
    """MJD of the night in which a field's references are taken."""
    return cfg.schedule.season_starts[field_seasons(cfg, field)[0]] - spec.reference_lead


def _field_visits(cfg: SimulateConfig, survey: str, spec: SurveySpec, detector: str, field: int) -> list[Visit]:
    ra, dec = field_centre(cfg, spec, detector, field)
    name = field_id(survey, detector, field)
    visits = []
    for band in field_filters(cfg, spec, field):
        for suffix, role, mjd, exptime in _dates(cfg, spec, name, field, band):
            frames = spec.reference_frames if role == "reference" else 1
            visits.append(
                Visit(f"{name}-{band}-{suffix}", survey, detector, field, name, band, role, mjd, exptime * frames, frames, ra, dec)
            )
    return visits


def field_dates(cfg: SimulateConfig, spec: SurveySpec, name: str, field: int) -> list[tuple[str, float]]:
    """Filter and MJD of every exposure of a field of this name, the references included."""
    return [(band, mjd) for band in field_filters(cfg, spec, field) for _, _, mjd, _ in _dates(cfg, spec, name, field, band)]


def _dates(cfg: SimulateConfig, spec: SurveySpec, name: str, field: int, band: str) -> list[tuple[str, str, float, float]]:
    """Suffix, role, MJD and exposure time of the exposures of a field in one filter."""
    rng = rng_for(cfg.seed, name, band, "schedule")
    dates = _epochs(cfg, field_seasons(cfg, field), rng)
    rows = [("ref", "reference", reference_date(cfg, spec, field) + rng.uniform(0.0, 1.0), spec.reference_exptime)]
    rows += [(f"e{number:02d}", "science", date, spec.exptime) for number, date in enumerate(dates, start=1)]
    return [(suffix, role, round(float(mjd), 6), exptime) for suffix, role, mjd, exptime in rows]


def _epochs(cfg: SimulateConfig, seasons: tuple[int, ...], rng: np.random.Generator) -> list[float]:
    """Dates of the science exposures: spread evenly over the field's seasons, each moved by up to a third of the spacing."""
    dates: list[float] = []
    for season, share in zip(seasons, np.array_split(np.arange(cfg.schedule.epochs), len(seasons)), strict=True):
        start = cfg.schedule.season_starts[season]
        steps = (np.arange(len(share)) + 0.5 + rng.uniform(-1 / 3, 1 / 3, len(share))) / max(1, len(share))
        dates.extend(start + cfg.schedule.season_days * steps)
    return dates

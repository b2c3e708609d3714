"""Which reference belongs to which science exposure, and why some have none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from astrid.config.schema.survey import PairRule
from astrid.io.tables import PAIRS, conform


def pair_exposures(exposures: pd.DataFrame, catalog: pd.DataFrame, cfg: PairRule) -> pd.DataFrame:
    """Give every science exposure its reference, or a reason why it has none.

    Parameters
    ----------
    exposures
        EXPOSURES rows of both roles.
    catalog
        CATALOG rows; an event in the footprint that was discovered not long before keeps references taken after it away.
    cfg
        The rule.

    Returns
    -------
    DataFrame
        PAIRS: one row a science exposure, in their order, status ok or refused.
    """
    references = exposures[exposures["role"] == "reference"]
    rows = [_pair(science, references, catalog, cfg) for _, science in exposures[exposures["role"] == "science"].iterrows()]
    return conform(pd.DataFrame(rows, columns=[column.name for column in PAIRS.columns]), PAIRS, source="the pairing rule")


def separation(ra: float, dec: float, ras: pd.Series, decs: pd.Series) -> pd.Series:
    """Angles (arcsec) on the sky between one position and others, all in degrees, by the haversine formula."""
    half_ra, half_dec = np.radians(ras - ra) / 2, np.radians(decs - dec) / 2
    chord = np.sin(half_dec) ** 2 + np.cos(np.radians(dec)) * np.cos(np.radians(decs)) * np.sin(half_ra) ** 2
    return np.degrees(2 * np.arcsin(np.sqrt(chord.clip(0, 1)))) * 3600.0


@dataclass(frozen=True)
class _Step:
    """One condition on references: which pass, and the sentence to say when none of those left does."""

    passed: Callable[[pd.DataFrame], pd.Series]
    sentence: Callable[[pd.DataFrame], str]


def _pair(science: pd.Series, references: pd.DataFrame, catalog: pd.DataFrame, cfg: PairRule) -> dict[str, object]:
    row: dict[str, object] = {name: science[name] for name in ("survey", "instrument", "detector", "filter", "field_id", "mjd")}
    row["science_id"] = science["exposure_id"]
    left = references
    for step in _steps(science, catalog, cfg):
        passed = left[step.passed(left).astype(bool)] if len(left) else left
        if passed.empty:
            reason = step.sentence(left) if len(left) else "there is no reference exposure at all; give one the role reference."
            nothing = {"reference_id": "", "reference_mjd": float("nan"), "status": "refused", "reason": reason}
            return {**row, **nothing, "pair_id": f"{science['exposure_id']}__"}
        left = passed
    order = ["exptime", "mjd", "exposure_id"] if cfg.prefer == "deepest" else ["mjd", "exptime", "exposure_id"]
    best = left.sort_values(order, ascending=[False, False, True], kind="stable").iloc[0]
    found = {"reference_id": best["exposure_id"], "reference_mjd": best["mjd"], "status": "ok", "reason": ""}
    return {**row, **found, "pair_id": f"{science['exposure_id']}__{best['exposure_id']}"}


def _steps(science: pd.Series, catalog: pd.DataFrame, cfg: PairRule) -> Iterator[_Step]:
    yield _equal("survey", science, "images of different missions are not subtracted")
    yield _equal("instrument", science, "images of different instruments are not subtracted")
    yield _equal("filter", science, "images of different filters are not subtracted")
    if cfg.same_detector:
        yield _equal("detector", science, "survey.pair.same_detector asks for the same")
    if cfg.same_field:
        yield _equal("field_id", science, "survey.pair.same_field asks for the same")
    yield _overlap(science, cfg)
    yield _Step(
        lambda frame: frame["mjd"] <= science["mjd"] - cfg.min_days,
        lambda frame: (
            f"no reference is {cfg.min_days:g} d older than the science exposure of MJD {science['mjd']:.3f}; "
            f"the oldest is of MJD {frame['mjd'].min():.3f} (survey.pair.min_days)."
        ),
    )
    name, discovery = _first_event(science, catalog, cfg)
    if name:
        yield _Step(
            lambda frame: frame["mjd"] <= discovery - cfg.discovery_margin,
            lambda frame: (
                f"no reference is {cfg.discovery_margin:g} d older than the discovery of {name} at MJD {discovery:.3f}; "
                f"the oldest is of MJD {frame['mjd'].min():.3f} (survey.pair.discovery_margin)."
            ),
        )


def _equal(column: str, science: pd.Series, why: str) -> _Step:
    return _Step(
        lambda frame: frame[column] == science[column],
        lambda frame: (
            f"no reference of {column.removesuffix('_id')} {science[column]!r}, only of "
            f"{', '.join(repr(value) for value in sorted(frame[column].unique())[:4])}; {why}."
        ),
    )


def _overlap(science: pd.Series, cfg: PairRule) -> _Step:
    def distance(frame: pd.DataFrame) -> pd.Series:
        return separation(science["s_ra"], science["s_dec"], frame["s_ra"], frame["s_dec"])

    return _Step(
        lambda frame: distance(frame) <= cfg.max_separation,
        lambda frame: (
            f"the nearest reference points {distance(frame).min():.1f} arcsec away, the limit is {cfg.max_separation:g} arcsec "
            "(survey.pair.max_separation)."
        ),
    )


def _first_event(science: pd.Series, catalog: pd.DataFrame, cfg: PairRule) -> tuple[str, float]:
    """The earliest discovered event that may shine in the science exposure; an empty name when there is none."""
    if catalog.empty:
        return "", float("nan")
    near = separation(science["s_ra"], science["s_dec"], catalog["s_ra"], catalog["s_dec"]) <= cfg.event_radius
    age = science["mjd"] - catalog["discovery_mjd"]
    active = catalog[near & (age >= -cfg.discovery_margin) & (age <= cfg.event_days)]
    if active.empty:
        return "", float("nan")
    first = active.sort_values(["discovery_mjd", "object_id"]).iloc[0]
    return str(first["object_id"]), float(first["discovery_mjd"])

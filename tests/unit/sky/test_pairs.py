from __future__ import annotations

import dataclasses
from typing import Any

import pandas as pd
import pytest
from astropy.coordinates import SkyCoord

from astrid.config.schema.survey import PairRule
from astrid.io.tables import CATALOG, EXPOSURES, conform
from astrid.sky.pairs import pair_exposures, separation


def _exposure(name: str, role: str, mjd: float, **changes: Any) -> dict[str, Any]:
    row = {"exposure_id": name, "path": f"{name}.fits", "role": role, "survey": "s", "instrument": "i", "detector": "d", "filter": "g"}
    return {**row, "field_id": "f", "mjd": mjd, "exptime": 30.0, "s_ra": 10.0, "s_dec": 60.0, **changes}


def _pairs(rows: list[dict[str, Any]], rule: PairRule, events: list[dict[str, Any]] | None = None) -> pd.DataFrame:
    catalog = conform(pd.DataFrame(events), CATALOG, source="test") if events else CATALOG.empty()
    return pair_exposures(conform(pd.DataFrame(rows), EXPOSURES, source="test"), catalog, rule)


def test_deepest_reference_wins_then_the_latest(pair_rule: PairRule) -> None:
    rows = [
        _exposure("old", "reference", 100.0, exptime=100.0),
        _exposure("deep", "reference", 110.0, exptime=300.0),
        _exposure("deeper", "reference", 120.0, exptime=300.0),
        _exposure("late", "reference", 150.0, exptime=50.0),
        _exposure("sci", "science", 200.0),
    ]
    assert _pairs(rows, pair_rule)["reference_id"].tolist() == ["deeper"]
    latest = _pairs(rows, dataclasses.replace(pair_rule, prefer="latest")).iloc[0]
    assert (latest["reference_id"], latest["pair_id"], latest["status"], latest["reason"]) == ("late", "sci__late", "ok", "")
    assert latest["reference_mjd"] == 150.0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"survey": "t"}, r"no reference of survey 's', only of 't'; images of different missions are not subtracted"),
        ({"instrument": "j"}, r"no reference of instrument 's?i', only of 'j'"),
        ({"filter": "r"}, r"no reference of filter 'g', only of 'r'"),
        ({"detector": "e"}, r"no reference of detector 'd', only of 'e'; survey\.pair\.same_detector asks for the same"),
        ({"field_id": "h"}, r"no reference of field 'f', only of 'h'"),
        ({"s_dec": 60.1}, r"nearest reference points 360\.0 arcsec away, the limit is 60 arcsec"),
        ({"mjd": 195.0}, r"no reference is 10 d older than the science exposure of MJD 200\.000"),
        ({"role": "science"}, r"there is no reference exposure at all"),
    ],
)
def test_refusals_say_why(pair_rule: PairRule, change: dict[str, Any], reason: str) -> None:
    rows = [_exposure("ref", "reference", 100.0), _exposure("sci", "science", 200.0)]
    rows[0].update(change)
    pair = _pairs(rows, pair_rule).set_index("science_id").loc["sci"]
    assert (pair["status"], pair["reference_id"], pair["pair_id"]) == ("refused", "", "sci__")
    assert pd.Series([pair["reason"]]).str.contains(reason).all(), pair["reason"]


def test_another_detector_is_allowed_when_asked(pair_rule: PairRule) -> None:
    rows = [_exposure("ref", "reference", 100.0, detector="e"), _exposure("sci", "science", 200.0)]
    assert _pairs(rows, dataclasses.replace(pair_rule, same_detector=False))["status"].tolist() == ["ok"]


def test_every_science_exposure_ends_as_one_row(pair_rule: PairRule) -> None:
    rows = [_exposure("ref", "reference", 100.0), *[_exposure(f"s{i}", "science", 95.0 + 10 * i) for i in range(5)]]
    pairs = _pairs(rows, pair_rule)
    assert pairs["science_id"].tolist() == [f"s{i}" for i in range(5)]
    assert pairs["status"].tolist() == ["refused", "refused", "ok", "ok", "ok"]


def test_a_reference_taken_after_the_discovery_is_refused(pair_rule: PairRule) -> None:
    rows = [
        _exposure("before", "reference", 100.0),
        _exposure("after", "reference", 150.0, exptime=900.0),
        _exposure("sci", "science", 200.0),
    ]
    event = {"object_id": "SN 1", "s_ra": 10.01, "s_dec": 60.0, "discovery_mjd": 130.0}
    assert _pairs(rows, pair_rule)["reference_id"].tolist() == ["after"]
    assert _pairs(rows, pair_rule, [event])["reference_id"].tolist() == ["before"]
    assert _pairs(rows[1:], pair_rule, [event])["reason"].str.contains("5 d older than the discovery of SN 1 at MJD 130.000").all()


@pytest.mark.parametrize("event", [{"s_ra": 11.0}, {"discovery_mjd": float("nan")}, {"discovery_mjd": 300.0}, {"discovery_mjd": -50.0}])
def test_events_elsewhere_or_at_other_times_do_not_count(pair_rule: PairRule, event: dict[str, Any]) -> None:
    rows = [_exposure("after", "reference", 150.0), _exposure("sci", "science", 200.0)]
    base = {"object_id": "SN 1", "s_ra": 10.0, "s_dec": 60.0, "discovery_mjd": 130.0}
    assert _pairs(rows, pair_rule, [{**base, **event}])["status"].tolist() == ["ok"]


def test_separation_agrees_with_astropy() -> None:
    ras, decs = pd.Series([10.001, 359.9, 190.0]), pd.Series([60.0, -60.0, -59.0])
    expected = SkyCoord(0.1, 60.0, unit="deg").separation(SkyCoord(ras, decs, unit="deg")).arcsec
    assert separation(0.1, 60.0, ras, decs).to_numpy() == pytest.approx(expected, rel=1e-9)

"""What a packet says in the columns of the house, survey by survey, and which alerts are set aside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from astrid.core.errors import InputError
from astrid.core.records import Problem, Triplet
from astrid.io.alerts import AlertProblem, read_alerts
from astrid.sky.alert_survey import alert_row, alert_rows, packets, stamp_problem
from support.packets import record, stamps, write_packet

NAN = float("nan")


def triplet(survey: str, **meta: Any) -> Triplet:
    planes = np.stack(stamps(1)).astype(np.float32)
    return Triplet("17", "OBJ1", survey, planes, 1, {"source": "x.avro", "ra": 10.0, "dec": -5.0, **meta})


def test_a_ztf_alert_fills_the_columns_that_its_packet_has() -> None:
    row = alert_row(
        triplet(
            "ZTF", jd=2459000.5, exptime=30.0, fid=2, rcid=35, field=507, pid=121540793515, rfid=507120135, scorr=14.5, sigmapsf=0.1,
            fwhm=2.3, elong=1.1, chipsf=1.2, mindtoedge=94.0, sgscore1=0.9, distpsnr1=1.0, sgscore2=0.1, distpsnr2=4.0, sgscore3=0.2,
            distpsnr3=3.0, drb=0.98,
        )
    )  # fmt: skip
    assert (row["candidate_id"], row["event_id"]) == ("ztf:17", "ztf:OBJ1")
    assert (row["exposure_id"], row["reference_id"]) == ("ztf-121540793515", "ztf-ref-507120135")
    assert row["pair_id"] == "ztf-121540793515__ztf-ref-507120135"
    assert (row["survey"], row["instrument"], row["detector"], row["filter"], row["field_id"]) == ("ztf", "ztf", "35", "r", "507")
    assert row["mjd"] == pytest.approx(59000.0 + 15 / 86400, abs=1e-9)  # jd is the start
    assert (row["s_ra"], row["s_dec"], row["sign"], row["snr"]) == (10.0, -5.0, 1, 14.5)
    assert (row["fwhm"], row["elongation"], row["chi2"], row["edge_distance"]) == (2.3, 1.1, 1.2, 94.0)
    assert row["host_offset"] == 3.0  # the nearest neighbour is a star
    assert row["alert.drb"] == 0.98
    assert np.isnan(row["alert.rb"])


def test_what_an_old_packet_does_not_say_stays_empty() -> None:
    row = alert_row(triplet("ZTF", jd=2459000.5, fid=1, sigmapsf=0.1, fwhm=-999.0, sgscore1=-999.0, distpsnr1=-999.0, distpsnr2=2.0))
    assert row["snr"] == pytest.approx(2.5 / np.log(10) / 0.1)
    assert row["mjd"] == 59000.0
    assert all(np.isnan(row[name]) for name in ("fwhm", "elongation", "host_offset", "edge_distance", "x", "y"))
    assert (row["reference_id"], row["detector"]) == ("", "")


@pytest.mark.parametrize(
    ("survey", "meta", "said"),
    [
        ("PGIR", {"jd": 2459394.5, "stackquadid": 3002253, "field": 809}, ("pgir-3002253", "gattini", "", "J")),
        ("WINTER", {"jd": 2460381.5, "fid": 2, "field": 18156}, ("winter-2460381.500000-18156", "winter", "", "H")),
        ("TURBO", {"jd": 2459875.5, "fid": 1}, ("turbo-2459875.500000", "turbo", "", "fid1")),
        (
            "LSST",
            {"midpointMjdTai": 61105.0, "visit": 20260305, "detector": 140, "band": "i"},
            ("lsst-20260305-140", "lsstcam", "140", "i"),
        ),
    ],
)
def test_each_survey_names_exposure_instrument_detector_and_filter(survey: str, meta: dict[str, Any], said: tuple[str, ...]) -> None:
    row = alert_row(triplet(survey, **meta))
    assert (row["exposure_id"], row["instrument"], row["detector"], row["filter"]) == said


def test_a_rubin_source_gives_utc_significance_and_its_own_event_without_an_object() -> None:
    alert = triplet("LSST", midpointMjdTai=61105.0, visit=1, detector=2, band="r", psfFlux=-50.0, psfFluxErr=5.0, psfChi2=20.0, psfNdata=10)
    nameless = Triplet("17", "0", "LSST", alert.stamps, -1, alert.meta)
    row = alert_row(nameless)
    assert row["mjd"] == pytest.approx(61105.0 - 37 / 86400, abs=1e-9)
    assert (row["snr"], row["chi2"], row["event_id"], row["sign"]) == (10.0, 2.0, "lsst:17", -1)


def test_stamps_that_show_no_observation_are_told_from_faint_and_odd_ones() -> None:
    rng = np.random.default_rng(3)
    good = np.stack(stamps(2))
    assert stamp_problem(good, 30.0) == ("", "")
    assert stamp_problem(np.stack(stamps(2, flux=60.0)), 30.0) == ("", "")  # a source that hardly shows
    assert stamp_problem(np.stack(stamps(2, sign=-1)), 30.0) == ("", "")  # in the reference alone
    noise = rng.normal(100, 5, (2, 63, 63))
    assert stamp_problem(np.stack([*noise, good[2]]).astype(np.float32), 30.0)[0] == "noise stamps"
    assert stamp_problem(np.stack([*noise, good[2]]).astype(np.float32), 1e4) == ("", "")
    kind, reason = stamp_problem(np.stack([good[0], np.full((63, 63), 7, np.float32), good[2]]), 30.0)
    assert (kind, reason) == ("flat stamp", "the reference stamp has the value 7 everywhere.")


@pytest.mark.parametrize(
    ("fields", "kind"),
    [({"ra": None}, "no position"), ({"dec": NAN}, "no position"), ({"jd": None}, "no time")],
)
def test_an_alert_without_place_or_time_is_set_aside(tmp_path: Path, fields: dict[str, Any], kind: str) -> None:
    path = write_packet(tmp_path / "a.avro", record(1, **fields), record(2))
    first, second = alert_rows(read_alerts([path]), path, "a.avro", contrast=30.0)
    assert (first["problem"], first["scorable"], second["problem"], second["scorable"]) == (kind, False, "", True)
    assert (first["number"], second["number"], first["source"]) == (0, 1, "a.avro")


def test_problems_keep_what_is_known_of_them() -> None:
    known = AlertProblem("/raw/f.tar!m.avro", "the alert has no cutoutScience.", "5", "OBJ", "ZTF", "no cut-out")
    first, second = alert_rows([known, Problem("/raw/f.tar", "the archive breaks off.")], Path("/raw/f.tar"), "night.tar", contrast=30.0)
    assert (first["candidate_id"], first["event_id"], first["problem"], first["source"]) == (
        "ztf:5", "ztf:OBJ", "no cut-out", "night.tar!m.avro",
    )  # fmt: skip
    assert (second["candidate_id"], second["survey"], second["problem"]) == ("", "", "broken file")


def test_a_root_that_is_not_there_or_holds_no_packet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="which does not exist; name a folder of alert packets"):
        packets(tmp_path / "none")
    with pytest.raises(InputError, match=r"holds no \.avro file and no tar archive"):
        packets(tmp_path)
    path = write_packet(tmp_path / "b/a.avro", record(1))
    assert packets(tmp_path) == [(path, "b/a.avro")]
    assert packets(path) == [(path, "a.avro")]

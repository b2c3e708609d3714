from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from astrid.config.compose import compose
from astrid.config.schema.survey import FolderConfig
from astrid.config.validate import validate
from astrid.sky.arrivals import Arrival, exposure_names, field_names, is_exposure, read_arrival
from support.archive_server.missions import Supernova, product
from support.archive_server.queries import observation

ROOT = Path(__file__).resolve().parents[3]
RA, DEC, DAY = 210.8, 54.3, 57000.0
EVENTS = [Supernova(RA, DEC, DAY)]


@pytest.fixture(scope="module")
def cfg() -> FolderConfig:
    return validate(FolderConfig, compose(ROOT / "conf", ["survey=mast"])["survey"]["folder"], path="survey.folder")


def arrived(folder: Path, mission: str, name: str, file: str, **cards: object) -> Arrival:
    one = observation(mission, name, RA, DEC, mjd=DAY + 5, exptime=400.0)
    (folder / file).write_bytes(product(one, file, EVENTS, **cards))
    return Arrival(file, f"SN_{name}", "SN", "science", mission, one.filters, one.t_min, one.t_max, RA, DEC)


def test_the_longest_snapshot_or_all_of_them(tmp_path: Path, cfg: FolderConfig) -> None:
    arrival = arrived(tmp_path, "swift", "00032819001", "sw00032819001uw1_sk.img")
    longest = read_arrival(tmp_path, arrival, cfg, edge=5.0, longest=True)
    assert [(row["exposure_id"], row["exptime"]) for row in longest.rows] == [("SN_00032819001-2", 260.0)]
    every = read_arrival(tmp_path, arrival, cfg, edge=5.0, longest=False)
    assert [row["hdu"] for row in every.rows] == ["1", "2"]
    assert {row["role"] for row in every.rows} == {"science"}
    assert {(row["survey"], row["field_id"], row["filter"]) for row in every.rows} == {("swift", "SN", "UVW1")}


def test_only_the_chip_with_the_event_is_an_exposure(tmp_path: Path, cfg: FolderConfig) -> None:
    arrival = arrived(tmp_path, "hst", "ibxx01010", "ibxx01010_flc.fits")
    reading = read_arrival(tmp_path, arrival, cfg, edge=1.0, longest=False)
    assert [row["detector"] for row in reading.rows] == ["UVIS2"]


@pytest.mark.parametrize(
    ("cards", "changes", "why", "sentence"),
    [
        ({"FILTER": "UVM2"}, {}, "header disagrees", "its header has the filter UVM2, the archive says UVW1; the file is not used."),
        (
            {},
            {"t_min": DAY + 40, "t_max": DAY + 41},
            "header disagrees",
            "its header has the date MJD 57005.001, the archive says 57040.000",
        ),
        ({}, {"mission": "galex"}, "header disagrees", "its header is one of swift, the archive says galex"),
        ({}, {"ra": RA + 1.0}, "not inside", "the event at 211.80000, 54.30000 deg does not lie 5 arcsec inside"),
        ({"CTYPE1": "LINEAR", "CTYPE2": "LINEAR"}, {}, "file broken", "has no celestial WCS"),
    ],
)
def test_what_the_header_says_otherwise_is_refused(
    tmp_path: Path, cfg: FolderConfig, cards: dict[str, object], changes: dict[str, object], why: str, sentence: str
) -> None:
    arrival = replace(arrived(tmp_path, "swift", "00032819001", "sw00032819001uw1_sk.img", **cards), **changes)  # type: ignore[arg-type]
    reading = read_arrival(tmp_path, arrival, cfg, edge=5.0, longest=True)
    assert (reading.rows, reading.why) == ((), why)
    assert sentence in reading.reason


def test_the_edge_is_kept_from_the_images_border(tmp_path: Path, cfg: FolderConfig) -> None:
    """The image has 192 px of 2 arcsec: 190 arcsec north of its middle there are about 2 arcsec left."""
    arrival = replace(arrived(tmp_path, "swift", "00032819001", "sw00032819001uw1_sk.img"), dec=DEC + 188 / 3600)
    assert read_arrival(tmp_path, arrival, cfg, edge=0.0, longest=True).rows
    assert read_arrival(tmp_path, arrival, cfg, edge=10.0, longest=True).why == "not inside"


def test_names_are_safe_and_differ() -> None:
    fields = field_names(["SN 2011fe", "SN-2011fe", "SN 2014J"])
    assert fields["SN 2014J"] == "SN-2014J"
    assert len(set(fields.values())) == 3
    files = pd.DataFrame(
        [("SN 2014J", "hst", "science", "i1", "hst/SN-2014J/science/a.fits"), ("SN 2014J", "hst", "reference", "i2", "x/a.fits.gz"),
         ("SN 2014J", "hst", "science", "i3", "x/b_drc.fits")],
        columns=["object_id", "mission", "role", "obs_id", "path"],
    )  # fmt: skip
    assert exposure_names(files, fields) == ["SN-2014J_hst-science-i1_a", "SN-2014J_hst-reference-i2_a", "SN-2014J_b_drc"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [("a/x_drc.fits", True), ("a/sw00032819001uw1_sk.img.gz", True), ("a/sw00032819001uw1_ex.img.gz", False), ("a/readme.txt", False),
     ("rings.v3.skycell.1725.051.stk.i.unconv.mask.fits", False)],
)  # fmt: skip
def test_what_can_be_an_exposure(path: str, expected: bool) -> None:
    assert is_exposure(path) is expected

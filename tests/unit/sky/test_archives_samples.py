"""What the archive really answered: the samples of its answers that astroquery, which is installed, brings for its own tests."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import pytest

from astrid.sky.archives import Observation
from astrid.sky.archives.mast import _file, _missing, _observation
from astrid.sky.archives.products import PRODUCTS
from astrid.sky.footprints import area, inside, parse_region


def sample(name: str) -> Any:
    path = resources.files("astroquery.mast").joinpath("tests", "data", name)
    if not path.is_file():
        pytest.skip("this astroquery comes without its tests")
    return json.loads(path.read_text())


def observations(name: str) -> list[Observation]:
    return [one for row in sample(name)["data"] if (one := _observation(row)) is not None]


def test_hubble_observations_are_read_and_those_of_other_collections_left() -> None:
    every = observations("caom.json")
    assert len(every) < len(sample("caom.json")["data"])
    found = [one for one in every if one.mission == "hst"]
    assert found
    assert {(one.instrument, one.calib_level) for one in found} == {("WFPC2/WFC", 3)}
    assert all(one.number.isdigit() and one.t_min < one.t_max and one.exptime > 0 for one in found)
    for one in found:  # "POLYGON GSC1 ...", closed
        footprint = parse_region(one.region)
        assert inside(footprint, one.ra, one.dec)
        assert 0.001 < area(footprint) < 0.002  # square degrees


def test_a_galex_tile_is_one_number_with_a_line_for_each_band() -> None:
    found = observations("advSearchPos.json")
    assert {(one.mission, one.instrument) for one in found} == {("galex", "GALEX")}
    assert {one.filters for one in found} == {"NUV", "FUV"}
    bands: dict[str, set[str]] = {}
    for one in found:
        bands.setdefault(one.number, set()).add(one.filters)
        assert area(parse_region(one.region)) == pytest.approx(1.227, rel=0.02)  # a circle of 0.625 deg
    assert any(len(one) == 2 for one in bands.values())
    assert max(one.t_max - one.t_min for one in found) > 365  # a tile's coadd may span years


def test_products_have_their_name_size_and_number() -> None:
    rows = sample("products.json")["data"]
    found = [_file(row) for row in rows]
    assert len(found) == 22
    for row, file in zip(rows, found, strict=True):
        assert file is not None
        assert file.uri == f"mast:HST/product/{file.filename}"
        assert (file.observation, file.size) == (str(row["obsID"]), row["size"])
        assert file.size > 0


@pytest.mark.parametrize("name", ["caom.json", "advSearchPos.json", "products.json", "countsResp.json"])
def test_a_whole_answer_lacks_no_row(name: str) -> None:
    answer = sample(name)
    assert answer["status"] == "COMPLETE"
    assert _missing(answer) == 0
    assert _missing({**answer, "data": answer["data"][1:]}) == 1


def test_times_are_compared_as_numbers_and_collections_as_words() -> None:
    columns = sample("columnsconfig.json")
    assert {columns[name]["vot.datatype"] for name in ("t_min", "t_max")} == {"double"}
    assert {columns[name]["vot.datatype"] for name in ("obs_collection", "dataproduct_type")} == {"char"}


def test_the_spellings_of_filters_instruments_and_kinds() -> None:
    counts = {}
    for column in sample("missions.extjs")["data"]["Tables"][0]["Columns"]:
        found = column["ExtendedProperties"].get("histObj", {}).get("hist", [])
        counts[column["text"]] = {one["key"]: one["count"] for one in found} if isinstance(found, list) else {}
    assert {"SWIFT", "GALEX", "HST"} <= set(counts["obs_collection"])
    assert {"UVOT", "GALEX", "ACS/WFC", "ACS/HRC", "WFC3/UVIS", "WFC3/IR", "WFPC2/WFC", "WFPC2/PC"} <= set(counts["instrument_name"])
    assert set(PRODUCTS["swift"].bands.values()) | set(PRODUCTS["galex"].bands.values()) <= set(counts["filters"])
    assert {"CLEAR1L", "CLEAR2L", "CLEAR1S", "CLEAR_NIC1", "F555W-F606W"} <= set(counts["filters"])
    assert {"image", "cube", "timeseries", "spectrum"} <= set(counts["dataproduct_type"])
    uvot = sum(counts["filters"][band] for band in (*PRODUCTS["swift"].bands.values(), "UGRISM", "VGRISM"))
    assert uvot == pytest.approx(counts["instrument_name"]["UVOT"], rel=1e-3)  # a line a filter

"""The catalogue of the predecessor, 6,539 rows of pipe-delimited text."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy import units as u
from astropy.coordinates import SkyCoord

from astrid.config.schema.archive import CatalogConfig, CatalogSource
from astrid.config.schema.survey import SurveyConfig
from astrid.config.validate import validate
from astrid.sky.catalog.compile import Compiled, compile_catalogs
from astrid.sky.catalog.files import detect_format, read_pipes
from astrid.sky.catalog.formats import given
from astrid.sky.catalog.rows import read_rows

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("ASTRID_SHARED_DATA", ROOT.parent / "shared/data"))
TEXT = SHARED / "catalog/sncat_compiled.txt"

pytestmark = pytest.mark.skipif(not TEXT.exists(), reason=f"{TEXT} is not here")

# Names of the Supernova Legacy Survey and the designations beside them at one place and date; SN 2003fg is SNLS-03D3bb, which has no
# date in the file: Howell et al. 2006, Nature 443, 308.
TWICE = {
    "SNLS-03D4ag": "SN2003ha", "SNLS-03D3cd": "SN2003fi", "SNLS-03D3cc": "SN2003fj", "SNLS-03D3bl": "SN2003fk", "SNLS-03D3bh": "SN2003fh",
    "SNLS-03D3ba": "SN2003fn", "SNLS-03D3aw": "SN2003fp", "SNLS-03D3bb": "SN2003fg", "SNLS-03D3af": "SN2003ff",
}  # fmt: skip
YEAR_OFF = {"2010lt", "2009ny", "2010E", "2005mb", "2006hb", "2006ha", "2006C", "1995bf", "1961U", "1959E"}


@pytest.fixture(scope="module")
def cfg() -> CatalogConfig:
    survey = validate(SurveyConfig, yaml.safe_load((ROOT / "conf/survey/mast.yaml").read_text()), path="survey")
    assert survey.archive is not None
    return survey.archive.catalog


@pytest.fixture(scope="module")
def compiled(cfg: CatalogConfig) -> Compiled:
    return compile_catalogs((CatalogSource(format=detect_format(TEXT), path=str(TEXT)),), cfg)


def test_nothing_is_lost(compiled: Compiled) -> None:
    report = compiled.report
    assert (report["rows"], report["events"], report["merged"], report["refused"]) == (6539, 6530, 9, 0)
    assert report["rows"] == sum("|" in line for line in TEXT.read_text().splitlines()) - 1
    assert len(compiled.catalog) == compiled.catalog["object_id"].nunique() == 6530
    assert report["odd"] == []


def test_every_row_stands_where_astropy_puts_it() -> None:
    raw = read_pipes(TEXT)
    rows = read_rows(given(raw, "sncat"), 0, own_names=False).rows
    assert len(rows) == len(raw) == 6539
    written = raw["sn_dec"].str.replace(r"^([+-]) ", r"\1", regex=True)
    expected = SkyCoord(raw["sn_ra"].tolist(), written.tolist(), unit=(u.hourangle, u.deg))
    ours = SkyCoord([row.ra for row in rows], [row.dec for row in rows], unit="deg")
    assert float(ours.separation(expected).arcsec.max()) < 0.01
    assert all(row.dec < 0 for row, text in zip(rows, raw["sn_dec"], strict=True) if text.startswith("- 0"))
    assert raw["sn_dec"].str.startswith("- 0").sum() == 433


def test_the_second_names_of_nine_supernovae_are_merged_and_neighbours_are_not(compiled: Compiled) -> None:
    events = compiled.catalog.set_index("object_id")
    merged = {alias: name for name, aliases in events["aliases"].items() for alias in aliases}
    assert merged == TWICE
    assert set(compiled.merged["object_id"]) == set(TWICE.values())
    assert len(compiled.report["apart"]) == 10  # within 3 arcsec, of other years
    assert {"SN2013ek", "SN2012im", "SN1972L", "SN2000dj"} <= set(events.index)


def test_dates_types_and_names(compiled: Compiled) -> None:
    events = compiled.catalog.set_index("object_id")
    assert events["discovery_mjd"].isna().sum() == 85  # 86 rows without a date, one of them merged into one with
    assert set(events["discovery_precision"].dropna()) == {1.0}
    assert {one["object_id"][2:] for one in compiled.report["year_disagrees"]} == YEAR_OFF
    assert (events["transient_type"] == "").sum() == 1154
    assert events.loc["SN2014dl", ["transient_type", "type_peculiar", "type_uncertain"]].tolist() == ["SN Ia", True, False]
    assert events["type_uncertain"].sum() == sum(":" in one for one in read_pipes(TEXT)["sn_type"])
    assert (events["host_source"] != "").sum() == (events["host"] != "").sum()
    assert np.isfinite(events["s_ra"]).all()
    assert set(compiled.report["by_type"]) == {
        "SN", "SN I", "SN II", "SN IIL", "SN IIP", "SN IIb", "SN IIn", "SN Ia", "SN Ib", "SN Ibc", "SN Ic", "unknown",
    }  # fmt: skip

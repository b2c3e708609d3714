from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table

from astrid.core.errors import InputError
from astrid.sky.catalog import read_catalog


def _csv(folder: Path, text: str) -> Path:
    path = folder / "events.csv"
    path.write_text(text)
    return path


def test_degrees_and_sexagesimal_agree(tmp_path: Path) -> None:
    catalog = read_catalog(
        _csv(tmp_path, "name,ra,dec,type,discoverdate,redshift\nA,188.73625,-0.5,SN Ia,2020-01-01,0.1\nB,12:34:56.7,-00 30 00,,58849,\n")
    )
    assert catalog["s_ra"].tolist() == pytest.approx([188.73625, 188.73625])
    assert catalog["s_dec"].tolist() == pytest.approx([-0.5, -0.5])
    assert catalog["discovery_mjd"].tolist() == [58849.0, 58849.0]
    assert catalog["transient_type"].tolist() == ["SN Ia", ""]
    assert np.isnan(catalog["redshift"][1])
    assert set(catalog["source"]) == {"events.csv"}


def test_parquet_ecsv_and_julian_dates(tmp_path: Path) -> None:
    frame = pd.DataFrame({"object_id": ["A"], "s_ra": [1.0], "s_dec": [2.0], "discovery_mjd": [2458849.5]})
    frame.to_parquet(tmp_path / "a.parquet")
    Table.from_pandas(frame).write(tmp_path / "a.ecsv", format="ascii.ecsv")
    for name in ("a.parquet", "a.ecsv"):
        assert read_catalog(tmp_path / name)["discovery_mjd"].tolist() == [58849.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ra,dec\n1,2\n", "has no column for object_id"),
        ("name,dec\nA,2\n", r"has no column for s_ra \(looked for s_ra, ra"),
        ("name,ra,dec\nA,1,95\n", "row 1: s_dec = 95 lies outside -90 to 90"),
        ("name,ra,dec\nA,1,2\nB,far,2\n", "row 2: s_ra = 'far' is neither degrees nor sexagesimal"),
        ("name,ra,dec\nA,12:61:00,2\n", "neither degrees nor sexagesimal"),
        ("name,ra,dec\nA,,2\n", "row 1: s_ra is empty"),
        ("name,ra,dec\nA,1,2\nA,3,4\n", "names 'A' more than once"),
        ("name,ra,dec\n,1,2\n", "has 1 rows without a name"),
        ("name,ra,dec,date\nA,1,2,soon\n", "row 1: the date 'soon'"),
        ("name,ra,dec,z\nA,1,2,high\n", "column 'redshift' should hold float"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_catalog(_csv(tmp_path, text))


def test_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_catalog(tmp_path / "none.csv")
    (tmp_path / "a.xls").write_text("x")
    with pytest.raises(InputError, match=r"neither \.csv, \.parquet nor \.ecsv"):
        read_catalog(tmp_path / "a.xls")
    (tmp_path / "a.parquet").write_text("x")
    with pytest.raises(InputError, match="not a readable parquet table"):
        read_catalog(tmp_path / "a.parquet")

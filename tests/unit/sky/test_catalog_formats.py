from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from astrid.core.errors import InputError
from astrid.sky.catalog.files import detect_format, read_export, read_pipes
from astrid.sky.catalog.formats import given
from astrid.sky.catalog.rows import Read, read_rows

SNCAT = """\
  sn_name  | gal_name |  max_date  | disc_date  | sn_type |    sn_ra     |   sn_dec    | surveys
-----------+----------+------------+------------+---------+--------------+-------------+---------
 2014dm    | NGC1516A |            | 2014-09-27 | Ia      | 04 08 07.13  | - 8 49 37.0 |
 1946B     | NGC4632  |            |            | II:     | 12 42 33.41  | - 0 04 47.5 |
(2 rows)
"""
TNS = """\
"ID","Name","RA","DEC","Obj. Type","Redshift","Host Name","Disc. Internal Name","Discovery Date (UT)","Remarks"
"1","SN 2023ixf","14:03:38.562","+54:18:41.94","SN II","0.0008","M101","PTSS-23ixf, ZTF23aaklqou","2023-05-19 17:27:15.000","see #3"
"""
DUMP = """\
"2023-10-10 00:00:00"
"objid","name_prefix","name","ra","declination","redshift","type","discoverydate","internal_names"
"1","AT","2023abc","210.910675","54.311650","","","2023-05-19 17:27:15.000","ATLAS23xyz,ZTF23aaa"
"""
OSC = """\
"Name","Aliases","Disc. Date","Max Date","Host Name","R.A.","Dec.","z","Type"
"SN2011fe","PTF11kly,SN2011fe","2011/08/24","2011/09/11","M101","14:03:05.81,14:03:05.7","+54:16:25.4,+54:16:25.3","0.0012,0.0008","Ia,Ia?"
"SN1994D","","","1994/03/20","NGC 4526","12:34:02.45","+07:42:04.7","","Ia Pec"
"""
API = "event,alias,discoverdate,maxdate,host,ra,dec,redshift,claimedtype\nSN1604A,,1604/10,,,17:30:35.98,-21:28:56.2,,Ia\n"


def _file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def _rows(path: Path) -> Read:
    kind = detect_format(path)
    return read_rows(given(read_pipes(path) if kind == "sncat" else read_export(path), kind), 0, own_names=False)


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("a.txt", SNCAT, "sncat"), ("a.csv", TNS, "tns"), ("b.csv", DUMP, "tns"), ("c.csv", OSC, "osc"), ("d.csv", API, "osc"),
        ("e.csv", "name,ra,dec\nA,1,2\n", "table"), ("f.parquet", "", "table"), ("g.ecsv", "", "table"),
    ],
)  # fmt: skip
def test_a_file_tells_its_format(tmp_path: Path, name: str, text: str, kind: str) -> None:
    assert detect_format(_file(tmp_path, name, text)) == kind


def test_the_pipe_delimited_text(tmp_path: Path) -> None:
    read = _rows(_file(tmp_path, "sncat.txt", SNCAT))
    first, second = read.rows
    assert (first.name, first.host, first.date.mjd, first.type.name) == ("SN2014dm", "NGC1516A", 56927.0, "SN Ia")
    assert first.dec == pytest.approx(-8.826944444)
    assert second.dec == pytest.approx(-0.079861111)
    assert (second.type.name, second.type.uncertain) == ("SN II", True)
    assert not read.refused
    assert not read.notes


def test_the_exports_of_tns(tmp_path: Path) -> None:
    (search,) = _rows(_file(tmp_path, "a.csv", TNS)).rows
    assert (search.name, search.aliases, search.host) == ("SN2023ixf", ("PTSS-23ixf", "ZTF23aaklqou"), "M101")
    assert (search.date.mjd, search.date.precision) == (pytest.approx(60083.727257, abs=1e-6), 0.0)
    (dump,) = _rows(_file(tmp_path, "b.csv", DUMP)).rows
    assert (dump.name, dump.ra, dump.aliases) == ("AT2023abc", 210.910675, ("ATLAS23xyz", "ZTF23aaa"))


def test_the_exports_of_the_open_supernova_catalog(tmp_path: Path) -> None:
    read = _rows(_file(tmp_path, "c.csv", OSC))
    first, second = read.rows
    assert (first.name, first.aliases, first.redshift, first.type.name) == ("SN2011fe", ("PTF11kly",), 0.0012, "SN Ia")
    assert (first.ra, first.at_maximum) == (pytest.approx(210.774208333), False)
    assert (second.date.mjd, second.date.precision, second.at_maximum) == (49431.0 - 30, 31.0, True)
    assert read.notes == [(2, "SN1994D", "it has no date of discovery; the 30 days before its maximum stand in.")]
    (kepler,) = _rows(_file(tmp_path, "d.csv", API)).rows
    assert (kepler.name, kepler.date.precision) == ("SN1604A", 31.0)


def test_a_row_without_name_or_place_is_refused_and_another_bad_cell_only_noted() -> None:
    frame = pd.DataFrame(
        {
            "object_id": ["A", "", "C", "D"], "s_ra": ["1", "1", "", "1"], "s_dec": ["2", "2", "2", "92"], "redshift": ["high", "", "", ""],
            "discovery_mjd": ["soon", "", "", ""], "transient_type": ["blob", "", "", ""], "host_ra": ["370", "", "", ""],
        }
    )  # fmt: skip
    read = read_rows(frame, 0, own_names=True)
    assert [row.name for row in read.rows] == ["A"]
    assert [(row, name) for row, name, _ in read.refused] == [(2, ""), (3, "C"), (4, "D")]
    assert [reason.split(";")[0] for *_, reason in read.refused] == [
        "it has no name", "s_ra is empty", "s_dec = 92 lies outside -90 to 90 degrees",
    ]  # fmt: skip
    assert [note[:20] for *_, note in read.notes] == [
        "discovery_mjd: the d", "its type 'blob' is n", "redshift = 'high' is", "host_ra = 370 lies o",
    ]  # fmt: skip


def test_a_users_own_names_stay_with_the_designation_as_an_alias() -> None:
    frame = pd.DataFrame({"object_id": ["sn 2014DM", "mine"], "s_ra": [1, 2], "s_dec": [1, 2], "aliases": [["x"], None]})
    assert [(row.name, row.aliases) for row in read_rows(frame, 0, own_names=True).rows] == [("sn 2014DM", ("SN2014dm", "x")), ("mine", ())]
    assert [row.name for row in read_rows(frame, 0, own_names=False).rows] == ["SN2014dm", "mine"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "some words\n", "is of no known format; name it with --format"),
        ("a.json", "{}", "is of no known format"),
        ("no.csv", None, "does not exist; correct the path"),
        ("folder", "", "is a folder; name a file in it"),
    ],
)
def test_a_file_of_no_format_is_named(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None and "." not in name:
        (tmp_path / name).mkdir()
    elif text is not None:
        _file(tmp_path, name, text)
    with pytest.raises(InputError, match=message):
        detect_format(tmp_path / name)


def test_a_broken_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no pipe-delimited table"):
        read_pipes(_file(tmp_path, "a.txt", "a,b\n"))
    with pytest.raises(InputError, match="line 3 has 2 cells where the header has 3"):
        read_pipes(_file(tmp_path, "a.txt", "a|b|c\n1|2|3\n1|2\n"))
    (tmp_path / "b.txt").write_bytes(b"a|b\n\xff|1\n")
    with pytest.raises(InputError, match=r"is no text in UTF-8 \(byte 4\)"):
        read_pipes(tmp_path / "b.txt")
    with pytest.raises(InputError, match="is not a readable csv export"):
        read_export(_file(tmp_path, "a.csv", ""))

"""Tables that are written and read in parts."""

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from astrid.core.errors import InputError
from astrid.io.table_parts import read_parts, table_in_parts, write_parts
from astrid.io.tables import EXPOSURES, TRUTH, read_table, write_table


def exposures(count: int) -> pd.DataFrame:
    same = {"path": "a.fits", "role": "science", "survey": "wide", "instrument": "cam", "filter": "g", "mjd": 60000.0}
    return pd.DataFrame([{"exposure_id": f"e{number}", **same} for number in range(count)])


def test_a_table_in_parts_reads_as_one(tmp_path: Path) -> None:
    path, frame = tmp_path / "exposures.parquet", exposures(7)
    write_table(frame, tmp_path / "whole.parquet", EXPOSURES)
    write_parts((frame.iloc[start : start + 3] for start in (0, 3, 6)), path, EXPOSURES)
    pd.testing.assert_frame_equal(read_table(path, EXPOSURES), read_table(tmp_path / "whole.parquet", EXPOSURES))
    assert pq.read_schema(path).equals(pq.read_schema(tmp_path / "whole.parquet"), check_metadata=True)


def test_parts_come_one_by_one_from_any_row_on(tmp_path: Path) -> None:
    path, frame = tmp_path / "exposures.parquet", exposures(7)
    write_parts((frame.iloc[start : start + 3] for start in (0, 3, 6)), path, EXPOSURES)
    assert [len(part) for part in read_parts(path, EXPOSURES)] == [3, 3, 1]
    assert [list(part["exposure_id"]) for part in read_parts(path, EXPOSURES, first=4)] == [["e4", "e5"], ["e6"]]
    assert list(read_parts(path, EXPOSURES, first=7)) == []
    assert [list(part.columns) for part in read_parts(path, EXPOSURES, columns=("mjd",), first=6)] == [["mjd"]]
    pd.testing.assert_frame_equal(pd.concat(read_parts(path, EXPOSURES), ignore_index=True), read_table(path, EXPOSURES))


def test_a_table_without_parts_is_empty(tmp_path: Path) -> None:
    write_parts([], tmp_path / "none.parquet", TRUTH)
    assert read_table(tmp_path / "none.parquet", TRUTH).empty


def test_parts_without_rows_leave_the_others_as_they_are(tmp_path: Path) -> None:
    frame = exposures(2).assign(further="x")
    none = frame.iloc[:0]
    for name, frames in (("some", [none, frame, none]), ("one", [frame])):
        write_parts(frames, tmp_path / name, EXPOSURES)
    assert (tmp_path / "some").read_bytes() == (tmp_path / "one").read_bytes()
    write_parts([none], tmp_path / "none", EXPOSURES)
    assert "further" in read_table(tmp_path / "none", EXPOSURES).columns


def test_a_part_that_fails_leaves_the_table_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "exposures.parquet"
    write_table(exposures(1), path, EXPOSURES)
    with pytest.raises(InputError, match="lacks the column 'filter'"):
        write_parts([exposures(2), exposures(1).drop(columns="filter")], path, EXPOSURES)
    with pytest.raises(InputError, match="lacks the column 'mjd'"), table_in_parts(path, EXPOSURES) as add:
        add(exposures(1).drop(columns="mjd"))
    assert len(read_table(path, EXPOSURES)) == 1
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_a_missing_and_a_broken_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        next(read_parts(tmp_path / "none.parquet", TRUTH))
    (tmp_path / "broken.parquet").write_text("<html>")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        next(read_parts(tmp_path / "broken.parquet", TRUTH))

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from astrid.core.errors import InputError
from astrid.io import tables


def exposure(**changes: object) -> dict[str, object]:
    row: dict[str, object] = {
        "exposure_id": "e1", "path": "a.fits", "role": "science", "survey": "s", "instrument": "i", "filter": "r", "mjd": 60000.5,
    }  # fmt: skip
    return row | changes


@pytest.mark.parametrize("table", [tables.CATALOG, tables.EXPOSURES, tables.TRUTH, tables.PAIRS, tables.CANDIDATES, tables.TRIPLETS])
def test_an_empty_table_keeps_its_columns_on_disk(table: tables.Table, tmp_path: Path) -> None:
    path = tmp_path / "empty.parquet"
    tables.write_table(table.empty(), path, table)
    back = tables.read_table(path, table)
    assert list(back.columns) == [column.name for column in table.columns]
    assert len(back) == 0


def test_units_and_meanings_are_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "exposures.parquet"
    tables.write_table(pd.DataFrame([exposure()]), path, tables.EXPOSURES)
    assert pq.read_schema(path).field("exptime").metadata[b"unit"] == b"s"


def test_absent_columns_are_filled_by_kind_and_extra_ones_follow() -> None:
    frame = tables.conform(pd.DataFrame([exposure(note="mine")]), tables.EXPOSURES, source="here")
    assert frame.loc[0, "psf_path"] == ""
    assert pd.isna(frame.loc[0, "gain"])
    assert frame.columns[-1] == "note"


def test_a_required_column_is_named() -> None:
    with pytest.raises(InputError, match="here lacks the column 'role' of the exposures table"):
        tables.conform(pd.DataFrame([exposure()]).drop(columns="role"), tables.EXPOSURES, source="here")


def test_a_wrong_type_is_named() -> None:
    with pytest.raises(InputError, match="column 'mjd' should hold float values"):
        tables.conform(pd.DataFrame([exposure(mjd="yesterday")]), tables.EXPOSURES, source="here")


@pytest.mark.parametrize(("text", "value"), [("true", True), ("No", False), ("", False), (1, True), (None, False)])
def test_truth_values_of_a_users_table(text: object, value: bool) -> None:
    frame = tables.conform(pd.DataFrame([exposure(calibrated=text)]), tables.EXPOSURES, source="here")
    assert bool(frame.loc[0, "calibrated"]) is value


def test_a_word_is_not_a_truth_value() -> None:
    with pytest.raises(InputError, match="'maybe' is neither true nor false"):
        tables.conform(pd.DataFrame([exposure(calibrated="maybe")]), tables.EXPOSURES, source="here")


def test_a_missing_and_a_broken_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        tables.read_table(tmp_path / "none.parquet", tables.PAIRS)
    (tmp_path / "broken.parquet").write_text("<html>")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        tables.read_table(tmp_path / "broken.parquet", tables.PAIRS)


def test_the_same_frame_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        tables.write_table(pd.DataFrame([exposure()]), tmp_path / name, tables.EXPOSURES)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_rows_with_other_values_are_left_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "exposures.parquet"
    tables.write_table(
        pd.DataFrame([exposure(exposure_id=name, filter=name[0]) for name in ("r1", "g1", "r2", "i1")]), path, tables.EXPOSURES
    )
    read = tables.read_table(path, tables.EXPOSURES, columns=("exposure_id", "filter"), where=("filter", ("r", "i")))
    assert read.to_dict("list") == {"exposure_id": ["r1", "r2", "i1"], "filter": ["r", "r", "i"]}


@pytest.mark.parametrize("asked", [{"columns": ("exposure_id", "flux")}, {"where": ("flux", ("r",))}])
def test_an_asked_column_that_is_not_there_is_named(tmp_path: Path, asked: dict[str, tuple[str, ...]]) -> None:
    tables.write_table(pd.DataFrame([exposure()]), tmp_path / "exposures.parquet", tables.EXPOSURES)
    with pytest.raises(InputError, match=r"exposures.parquet lacks the column 'flux' of the truth table; run the stage"):
        tables.read_table(tmp_path / "exposures.parquet", tables.TRUTH, **asked)


def test_categories_of_strings_are_kept_and_others_become_strings(tmp_path: Path) -> None:
    frame = pd.DataFrame([exposure(filter=name, unit=unit) for name, unit in (("r", "adu"), ("g", None))])
    frame = frame.astype({"filter": "category", "unit": "category"}).assign(survey=pd.Categorical([1, 2]))
    typed = tables.conform(frame, tables.EXPOSURES, source="test")
    assert typed["filter"].dtype == "category"
    assert typed["unit"].to_list() == ["adu", ""]
    assert typed["survey"].to_list() == ["1", "2"]
    tables.write_table(typed, tmp_path / "e.parquet", tables.EXPOSURES)
    tables.write_table(typed.astype({"filter": "str"}), tmp_path / "plain.parquet", tables.EXPOSURES)
    assert (tmp_path / "e.parquet").read_bytes() == (tmp_path / "plain.parquet").read_bytes()


def test_several_files_read_as_one_table(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.parquet" for number in range(3)]
    frames = [pd.DataFrame([exposure(exposure_id=f"e{number}{row}") for row in range(number)]) for number in range(3)]
    for frame, path in zip(frames, paths, strict=True):
        tables.write_table(frame if len(frame) else tables.EXPOSURES.empty(), path, tables.EXPOSURES)
    read = tables.read_tables(paths, tables.EXPOSURES)
    assert list(read["exposure_id"]) == ["e10", "e20", "e21"]
    pd.testing.assert_frame_equal(read, pd.concat([tables.read_table(path, tables.EXPOSURES) for path in paths], ignore_index=True))
    assert list(tables.read_tables([], tables.EXPOSURES).columns) == list(read.columns)
    with pytest.raises(InputError, match=r"3.parquet does not exist"):
        tables.read_tables([*paths, tmp_path / "3.parquet"], tables.EXPOSURES)

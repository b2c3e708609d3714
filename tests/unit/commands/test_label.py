"""Appending labels: nothing that stands is touched, places go along, and what is no label is refused before a byte is written."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from astrid.commands.label import import_labels, import_scores, label
from astrid.core.errors import DataSetError, InputError
from astrid.io.tables import CANDIDATES, SCORES, write_table
from astrid.stages.triplets import read_given


@pytest.fixture
def place(tmp_path: Path) -> Path:
    frame = pd.DataFrame({"candidate_id": ["p:1", "p:2"], "pair_id": "p", "x": [5.25, 7.5], "y": [6.0, 8.0], "sign": 1, "snr": 9.0})
    write_table(frame, tmp_path / "candidates.parquet", CANDIDATES)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/human.csv").write_text("candidate_id,label,transient_type,source,annotator,confidence,time,x,y\n")
    return tmp_path


def test_people_append_and_what_stands_stays(place: Path) -> None:
    table = place / "labels/human.csv"
    label(["p:2"], value=0, kind="dipole", annotator="eve", table=table, candidates=place / "candidates.parquet")
    first = table.read_bytes()
    label(["p:1", "p:2"], value=1, kind="SN Ia", annotator="ann", table=table, candidates=place / "candidates.parquet")
    assert table.read_bytes().startswith(first)
    got = read_given(table)
    assert list(got["candidate_id"]) == ["p:2", "p:1", "p:2"]
    assert list(got["x"]) == [7.5, 5.25, 7.5]
    assert got["time"].str.endswith("Z").all()


def test_a_table_without_places_keeps_its_columns(place: Path) -> None:
    table = place / "labels/human.csv"
    table.write_text("candidate_id,label,source,annotator\np:1,1,human,old")  # no last newline either
    label(["p:2"], value=0, kind="dipole", annotator="eve", table=table, candidates=place / "candidates.parquet")
    assert table.read_text() == "candidate_id,label,source,annotator\np:1,1,human,old\np:2,0,human,eve\n"


def test_evidence_and_scores_become_tables_of_their_own(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "e.csv").write_text("candidate_id,label\np:1,1\nelsewhere:3,0\n")
    known = place / "candidates.parquet"
    import_labels(place / "e.csv", source="evidence", annotator="TNS", table=place / "labels/evidence.csv", candidates=known)
    assert "1 label appended" in capsys.readouterr().out
    scores = pd.DataFrame({"candidate_id": ["p:1", "p:2"], "source": "f", "score": [0.5, 0.01], "reason": "", "model_version": "m 3"})
    write_table(scores, place / "s.parquet", SCORES)
    import_scores(place / "s.parquet", below=0.05, above=0.95, table=place / "labels/weak.csv", candidates=known)
    got = read_given(place / "labels/human.csv").set_index("source")
    assert list(got.index) == ["evidence", "weak"]
    assert got.loc["evidence", "annotator"] == "TNS"
    assert (got.loc["weak", "candidate_id"], got.loc["weak", "label"], got.loc["weak", "annotator"]) == ("p:2", 0, "m 3")


def test_what_is_no_label_is_refused_and_nothing_is_written(place: Path) -> None:
    table, known = place / "labels/human.csv", place / "candidates.parquet"
    before = table.read_bytes()
    with pytest.raises(InputError, match="q:9 is no candidate of"):
        label(["q:9"], value=0, kind="", annotator="eve", table=table, candidates=known)
    with pytest.raises(InputError, match="a label needs a name to it"):
        label(["p:1"], value=0, kind="", annotator=" ", table=table, candidates=known)
    with pytest.raises(DataSetError, match="1 labels are neither 1 nor 0, 7 for p:1 first"):
        label(["p:1"], value=7, kind="", annotator="eve", table=table, candidates=known)
    with pytest.raises(InputError, match="labels of the source 'truth' cannot be given"):
        import_labels(place / "e.csv", source="truth", annotator="a", table=table, candidates=known)
    with pytest.raises(InputError, match=r"nowhere.csv is not a readable CSV table"):
        import_labels(place / "nowhere.csv", source="weak", annotator="a", table=table, candidates=known)
    assert table.read_bytes() == before
    table.write_text("candidate_id,label,colour\n")
    with pytest.raises(InputError, match="has the column 'colour', which the labels do not have"):
        label(["p:1"], value=1, kind="", annotator="eve", table=table, candidates=known)
    with pytest.raises(InputError, match="cannot be appended to"):
        label(["p:1"], value=1, kind="", annotator="eve", table=place / "labels", candidates=known)

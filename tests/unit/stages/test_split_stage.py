"""Stage split: files, the audit's refusal, and the same bytes twice."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from astrid.core.errors import InputError, LeakageError
from astrid.datasets.suspects import SUSPECTS
from astrid.io.shards import ShardWriter, TripletStore
from astrid.io.tables import SPLITS, read_table
from astrid.stages import split

ROOT = Path(__file__).parents[3]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load((ROOT / "conf/split/random_grouped.yaml").read_text())
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"seed": 1, "split": {**values, "seed": 1}}))
    return tmp_path


def fill(folder: Path) -> None:
    number = np.arange(36)
    group = (number // 4).astype(str)
    frame = pd.DataFrame({"candidate_id": [f"c{n:02d}" for n in number], "pair_id": group, "exposure_id": group, "event_id": group})
    frame = frame.assign(cell_id=group, x=1.0, y=1.0, sign=1, snr=9.0, label=np.where(number % 9 == 8, -1, number % 2), survey="a")
    with ShardWriter(folder / "data/triplets", 16) as writer:
        writer.append(np.zeros((36, 3, 63, 63), np.float32), frame)


def test_it_writes_splits_and_their_audit(project: Path) -> None:
    fill(project)
    split.main()
    splits = read_table(project / "data/splits/splits.parquet", SPLITS)
    report = json.loads((project / "reports/split.json").read_text())
    assert len(splits) == 36
    assert report["strategy"] == "random_grouped"
    assert report["unused"] == {"unlabelled": 4, "straddling": 0}
    assert report["audit"]["leaks"] == {"cell": 0, "copy": 0, "event": 0, "exposure": 0, "near": 0, "stamp": 0}
    assert sum(report["groups"].values()) == 9
    assert 0 < report["positive_fraction"]["test"] < 1
    before = contents(project)
    (project / "reports/data/figures/stale.png").write_bytes(b"")
    split.main()
    assert contents(project) == before


def contents(project: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for name in ("data/splits", "reports")
        for path in sorted((project / name).rglob("*"))
        if path.is_file()
    }


def test_the_page_shows_the_parts_and_the_doubts_leave_the_test_part_alone(project: Path) -> None:
    fill(project)
    split.main()
    card = json.loads((project / "reports/data/card.json").read_text())
    assert card["by"]["part"]["unused"]["unlabelled"] == 4
    page = (project / "reports/data/index.html").read_text()
    shown = set(re.findall(r'src="(figures/[^"]+)"', page))
    assert shown == {f"figures/{path.name}" for path in (project / "reports/data/figures").iterdir()}
    doubted = read_table(project / "data/splits/suspects.parquet", SUSPECTS)
    part = read_table(project / "data/splits/splits.parquet", SPLITS).set_index("candidate_id")["part"]
    assert set(part[doubted["candidate_id"]]) <= {"train", "validation"}
    report = json.loads((project / "reports/split.json").read_text())
    assert report["doubt"]["suspects"] == len(doubted)


def test_no_folds_or_too_few_groups_leave_no_doubt(project: Path) -> None:
    fill(project)
    values = yaml.safe_load((project / "params.yaml").read_text())
    for folds in (0, 9):
        values["split"]["suspects"]["folds"] = folds
        (project / "params.yaml").write_text(yaml.safe_dump(values))
        split.main()
        assert json.loads((project / "reports/split.json").read_text())["doubt"] is None
        assert read_table(project / "data/splits/suspects.parquet", SUSPECTS).empty


def test_it_never_reads_the_whole_table(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[set[str]] = []
    read = TripletStore.columns

    def columns(store: TripletStore, names: Sequence[str], rows: object = None) -> pd.DataFrame:
        asked.extend([set(names)] if rows is None else [])
        return read(store, names, rows)  # type: ignore[arg-type]

    def whole(store: TripletStore) -> pd.DataFrame:
        raise AssertionError("the whole table was read")

    fill(project)
    monkeypatch.setattr(TripletStore, "table", property(whole))
    monkeypatch.setattr(TripletStore, "columns", columns)
    split.main()
    assert max(map(len, asked)) <= 16
    keys = {"content_key", "near_key"}
    assert [names & keys for names in asked if names & keys] == [keys]  # the longest ones once, and not with the measurements


def test_it_writes_nothing_when_the_audit_refuses(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(project)

    def leaking(table: pd.DataFrame, cfg: object, near: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"candidate_id": table["candidate_id"], "part": ["train", "test"] * 18, "group_id": "g"})

    monkeypatch.setattr(split, "split_rows", leaking)
    with pytest.raises(LeakageError, match="the split leaks: 9 of 9 event values"):
        split.main()
    assert not (project / "data/splits").exists()


def test_it_says_what_is_missing(project: Path) -> None:
    with pytest.raises(InputError, match="run the stage triplets"):
        split.main()

"""The triplet store: bounded writing and reading, equal bytes, and a sentence for every broken file."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from astrid.core.errors import DataSetError, InputError
from astrid.core.provenance import digest_file
from astrid.datasets import normalize
from astrid.io import shards, tables
from astrid.io.shards import ShardWriter, TripletStore


def rows(start: int, count: int) -> tuple[np.ndarray, pd.DataFrame]:
    stamps = np.zeros((count, 3, 63, 63), dtype=np.float32) + np.arange(start, start + count, dtype=np.float32)[:, None, None, None]
    stamps[:, 0, 0, 0] = np.nan
    names = [f"p:{number}" for number in range(start, start + count)]
    frame = pd.DataFrame({"candidate_id": names, "pair_id": "p", "x": 1.0, "y": 2.0, "sign": 1, "snr": 7.0, "exposure_id": "e"})
    return stamps, frame.assign(label=1, event_id="v", cell_id="c", tags=[["edge"]] * count)


def write(folder: Path, counts: list[int], rows_per_shard: int = 4) -> TripletStore:
    with ShardWriter(folder, rows_per_shard) as writer:
        start = 0
        for count in counts:
            writer.append(*rows(start, count))
            start += count
        return writer.close()


def contents(folder: Path) -> dict[str, str]:
    return {path.name: digest_file(path) for path in folder.iterdir()}


def test_rows_come_back_in_the_asked_order_across_shards(tmp_path: Path) -> None:
    store = write(tmp_path / "s", [3, 6, 1])
    assert [part.rows for part in store.shards] == [4, 4, 2]
    assert len(store) == 10
    asked = np.array([9, 0, 4, 4, 3, 8])
    got = store.stamps(asked)
    assert got.dtype == np.float32
    assert got.shape == (6, 3, 63, 63)
    np.testing.assert_array_equal(got[:, 1, 5, 5], asked)
    assert np.isnan(got[:, 0, 0, 0]).all()
    assert list(store.table["candidate_id"]) == [f"p:{number}" for number in range(10)]
    np.testing.assert_array_equal(store.stamps(slice(2, 7))[:, 2, 1, 1], np.arange(2, 7))


def test_rows_are_read_into_the_memory_that_is_given(tmp_path: Path) -> None:
    store = write(tmp_path / "s", [3, 6, 1])
    memory = np.empty((3, 3, 63, 63), np.float32)
    asked = np.array([8, 1, 2])
    assert store.stamps(asked, memory) is memory
    np.testing.assert_array_equal(memory, store.stamps(asked))


def test_bytes_do_not_depend_on_how_rows_were_batched(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", [3, 6, 1]), write(tmp_path / "b", [10])
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert first.digest == second.digest
    assert write(tmp_path / "c", [9]).digest != first.digest


def test_an_empty_store_opens(tmp_path: Path) -> None:
    store = write(tmp_path / "s", [])
    assert len(store) == 0
    assert store.stamps([]).shape == (0, 3, 63, 63)
    store.verify()


def test_a_store_pickles_without_its_maps(tmp_path: Path) -> None:
    store = write(tmp_path / "s", [5])
    store.stamps([0])
    assert len(pickle.dumps(store)) < 20_000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).stamps([3])[0, 1, 1, 1], 3)


def test_nothing_stands_under_the_name_before_close(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "s", 2)
    writer.append(*rows(0, 5))
    assert not (tmp_path / "s").exists()
    writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_the_earlier_store(tmp_path: Path) -> None:
    before = write(tmp_path / "s", [5]).digest
    stamps, frame = rows(0, 2)
    with pytest.raises(InputError, match="lacks the column"), ShardWriter(tmp_path / "s", 1) as writer:
        [writer.append(stamps, part) for part in (frame.assign(candidate_id=["a", "b"]), frame.drop(columns="label"))]
    assert TripletStore.open(tmp_path / "s").digest == before
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_new_store_replaces_the_old_one_whole(tmp_path: Path) -> None:
    write(tmp_path / "s", [10])
    (tmp_path / "s" / "labels.parquet").write_text("stale")
    assert len(write(tmp_path / "s", [2])) == 2
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["index.json", "shard-00000.npy", "triplets-00000.parquet"]


def test_extending_adds_shards_and_rewrites_none(tmp_path: Path) -> None:
    write(tmp_path / "s", [5])
    stamp = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "s").iterdir() if path.name != "index.json"}
    assert len(stamp) == 4
    with ShardWriter.extend(tmp_path / "s", 4) as writer:
        writer.append(*rows(5, 3))
    store = TripletStore.open(tmp_path / "s")
    store.verify()
    assert [part.rows for part in store.shards] == [4, 1, 3]
    assert {name: (tmp_path / "s" / name).stat().st_mtime_ns for name in stamp} == stamp
    np.testing.assert_array_equal(store.stamps(np.arange(8))[:, 1, 1, 1], np.arange(8))
    assert list(store.table["candidate_id"]) == [f"p:{number}" for number in range(8)]
    with (
        pytest.raises(DataSetError, match="1 candidate_ids stand on more than one row, 'p:7' first"),
        ShardWriter.extend(tmp_path / "s", 4) as writer,
    ):
        writer.append(*rows(7, 2))
    assert TripletStore.open(tmp_path / "s").digest == store.digest


def test_extending_nothing_begins_a_store(tmp_path: Path) -> None:
    with ShardWriter.extend(tmp_path / "s", 4) as writer:
        writer.append(*rows(0, 1))
    assert len(TripletStore.open(tmp_path / "s")) == 1


def as_version_1(folder: Path) -> None:
    """The same store as it was written before each shard had its own table."""
    store = TripletStore.open(folder)
    old = replace(tables.TRIPLETS, columns=tuple(column for column in tables.TRIPLETS.columns if column.name != "stamp_digest"))
    tables.write_table(store.table.drop(columns="stamp_digest"), folder / "triplets-000000006.parquet", old)
    for part in store.index.tables:
        (folder / part.name).unlink()
    index = json.loads((folder / "index.json").read_text())
    del index["tables"]
    table = {"name": "triplets-000000006.parquet", "rows": 6, "sha256": digest_file(folder / "triplets-000000006.parquet")}
    (folder / "index.json").write_text(json.dumps({**index, "version": 1, "table": table}))


def test_a_store_of_version_1_opens_and_grows(tmp_path: Path) -> None:
    write(tmp_path / "s", [6])
    as_version_1(tmp_path / "s")
    store = TripletStore.open(tmp_path / "s")
    store.verify()
    assert store.columns(["stamp_digest", "label"]).to_dict("list") == {"label": [1] * 6, "stamp_digest": [""] * 6}
    with ShardWriter.extend(tmp_path / "s", 4) as writer:
        stamps, frame = rows(6, 3)
        writer.append(stamps, frame.assign(stamp_digest="d", sign=-1))
    store = TripletStore.open(tmp_path / "s")
    assert list(store.table["stamp_digest"]) == [""] * 6 + ["d"] * 3
    assert list(store.table["sign"]) == [1] * 6 + [-1] * 3
    np.testing.assert_array_equal(store.stamps(slice(None))[:, 1, 1, 1], np.arange(9))


def killed(folder: Path, key: str, count: int) -> None:
    """A process that dies without a word after appending `count` rows one by one."""
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from astrid.io.shards import ShardWriter; "
        "from test_shards import rows; writer = ShardWriter.resume(Path(sys.argv[2]), 4, sys.argv[3]); "
        "[writer.append(*rows(number, 1)) for number in range(writer.rows, int(sys.argv[4]))]; os.kill(os.getpid(), 9)"
    )
    arguments = [sys.executable, "-c", code, str(Path(__file__).parent), str(folder), key, str(count)]
    assert subprocess.run(arguments, check=False).returncode == -9


def test_a_killed_writer_goes_on_with_the_same_bytes(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", [11])
    killed(tmp_path / "s", "inputs", 10)
    assert not (tmp_path / "s").exists()
    with ShardWriter.resume(tmp_path / "s", 4, "inputs") as writer:
        assert writer.rows == 8
        writer.append(*rows(8, 3))
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")
    assert TripletStore.open(tmp_path / "s").digest == whole.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s", "whole"]


def test_what_a_killed_writer_left_counts_only_when_it_is_whole_and_of_the_same_inputs(tmp_path: Path) -> None:
    killed(tmp_path / "s", "inputs", 13)
    [staging] = tmp_path.iterdir()
    shard = staging / "shard-00001.npy"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    writer = ShardWriter.resume(tmp_path / "s", 4, "inputs")
    assert writer.rows == 4
    writer.append(*rows(0, 4))
    with pytest.raises(DataSetError, match="4 candidate_ids stand on more than one row, 'p:0' first"):
        writer.close()
    killed(tmp_path / "s", "inputs", 5)
    assert ShardWriter.resume(tmp_path / "s", 4, "other inputs").rows == 0
    assert not staging.exists()
    assert ShardWriter.resume(tmp_path / "s", 2, "inputs").rows == 0


def test_an_exception_leaves_what_a_resumable_writer_has_finished(tmp_path: Path) -> None:
    stamps, frame = rows(0, 6)
    with pytest.raises(InputError, match="lacks the column"), ShardWriter.resume(tmp_path / "s", 4, "inputs") as writer:
        [writer.append(stamps, part) for part in (frame, frame.drop(columns="label"))]
    writer = ShardWriter.resume(tmp_path / "s", 4, "inputs")
    assert writer.rows == 4
    writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_columns_come_without_the_rest_of_the_table(tmp_path: Path) -> None:
    store = write(tmp_path / "s", [3, 6])
    some = store.columns(["label", "candidate_id"])
    pd.testing.assert_frame_equal(some, store.table[["candidate_id", "label"]])
    assert write(tmp_path / "e", []).columns(["label"]).shape == (0, 1)
    with pytest.raises(DataSetError, match="'colour' is no column of the triplets table"):
        store.columns(["label", "colour"])


def test_recurring_words_come_as_categories_in_alphabetical_order(tmp_path: Path) -> None:
    frame = rows(0, 6)[1].assign(survey=["wide", "deep", "wide", "all", "deep", "all"], filter="")
    with ShardWriter(tmp_path / "s", 2) as writer:
        writer.append(rows(0, 6)[0], frame)
    store = TripletStore.open(tmp_path / "s")
    some = store.columns(["candidate_id", "survey", "filter"])
    assert list(some["survey"].cat.categories) == ["all", "deep", "wide"]
    assert list(some["survey"]) == list(frame["survey"])
    assert list(some["filter"].cat.categories) == [""]
    assert some["candidate_id"].dtype == "str"
    assert store.table["survey"].dtype == "str"
    first = tmp_path / "s" / store.index.tables[0].name  # as written before the table had the column
    tables.write_table(store.table.iloc[:2], first, tables.Table("old", (), ()))
    pq.write_table(pq.read_table(first).drop_columns("survey"), first)
    assert list(store.columns(["survey"])["survey"]) == ["", "", "wide", "all", "deep", "all"]


def test_columns_of_some_rows_read_the_files_that_hold_them(tmp_path: Path) -> None:
    store = write(tmp_path / "s", [7], rows_per_shard=2)
    (tmp_path / "s" / store.index.tables[1].name).unlink()
    wanted = np.array([6, 0, 4, 1])
    some = store.columns(["candidate_id", "exposure_id"], wanted)
    assert list(some["candidate_id"]) == [f"p:{number}" for number in wanted]
    assert list(some.index) == [0, 1, 2, 3]
    assert store.columns(["label"], wanted[:0]).shape == (0, 1)
    with pytest.raises(InputError, match="is not a readable Parquet file"):
        store.columns(["candidate_id"], np.array([2]))


def test_a_pass_over_the_store_needs_the_memory_of_a_batch(tmp_path: Path) -> None:
    batch = rows(0, 32)[0].nbytes  # a shard is five of them, the store sixteen
    tracemalloc.start()
    try:
        store = write(tmp_path / "s", [32] * 16, rows_per_shard=160)
        assert tracemalloc.get_traced_memory()[1] < 4 * batch
        tracemalloc.reset_peak()
        for start in range(0, 512, 32):
            store.stamps((np.arange(start, start + 32) * 37) % 512)
        assert tracemalloc.get_traced_memory()[1] < 4 * batch
    finally:
        tracemalloc.stop()


def test_writer_refuses(tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match="a shard of 0 rows"):
        ShardWriter(tmp_path / "s", 0)
    writer = ShardWriter(tmp_path / "s", 4)
    stamps, frame = rows(0, 2)
    with pytest.raises(DataSetError, match=r"float64 of the shape \(2, 3, 63, 63\)"):
        writer.append(stamps.astype(np.float64), frame)
    with pytest.raises(DataSetError, match=r"the shape \(2, 3, 61, 63\)"):
        writer.append(stamps[:, :, 1:-1], frame)
    with pytest.raises(DataSetError, match="1 stamps came with 2 rows"):
        writer.append(stamps[:1], frame)
    with pytest.raises(InputError, match="lacks the column 'cell_id'"):
        writer.append(stamps, frame.drop(columns="cell_id"))
    writer.append(stamps, frame)
    writer.append(stamps, frame)
    with pytest.raises(DataSetError, match="2 candidate_ids stand on more than one row, 'p:0' first"):
        writer.close()
    assert list(tmp_path.iterdir()) == []


def test_reader_refuses_a_broken_store(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    with pytest.raises(InputError, match=r"is no triplet store \(it has no index.json\)"):
        TripletStore.open(folder)
    write(folder, [6])
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text("{")
    with pytest.raises(InputError, match="is not readable"):
        TripletStore.open(folder)
    (folder / "index.json").write_text(json.dumps({**index, "version": 99}))
    with pytest.raises(InputError, match="no index of a triplet store of version 2"):
        TripletStore.open(folder)
    (folder / "index.json").write_text(json.dumps({key: value for key, value in index.items() if key != "shards"}))
    with pytest.raises(InputError, match="lacks the key 'shards'"):
        TripletStore.open(folder)
    (folder / "index.json").write_text(json.dumps({**index, "shards": index["shards"][:1]}))
    with pytest.raises(InputError, match="has 4 triplets in its shards and 6 in its tables"):
        TripletStore.open(folder)


def test_reader_names_the_broken_shard(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    store = write(folder, [6])
    with pytest.raises(DataSetError, match="outside the store's 6 rows"):
        store.stamps([6])
    with pytest.raises(DataSetError, match="outside the store's 6 rows"):
        store.stamps([-1])
    with pytest.raises(DataSetError, match="one-dimensional"):
        store.stamps(np.zeros((1, 1), dtype=int))
    shard = folder / "shard-00001.npy"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-8] + b"\1" * 8)
    with pytest.raises(InputError, match=r"shard-00001.npy has the SHA-256"):
        TripletStore.open(folder).verify()
    reader = TripletStore.open(folder)
    reader.stamps([5])
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"shard-00001.npy ends within its row 1"):
        reader.stamps([5])
    with pytest.raises(InputError, match=r"shard-00001.npy is not a readable shard"):
        TripletStore.open(folder).stamps([5])
    np.save(shard, np.zeros((1, 3, 63, 63), dtype=np.float32))
    with pytest.raises(InputError, match=r"holds float32 \(1, 3, 63, 63\) and the index says 2"):
        TripletStore.open(folder).stamps([5])
    table = folder / "triplets-00001.parquet"
    part = table.read_bytes()
    table.write_bytes((folder / "triplets-00000.parquet").read_bytes())
    with pytest.raises(InputError, match=r"triplets-00001.parquet has 4 rows and the index says 2"):
        TripletStore.open(folder).table  # noqa: B018
    table.write_bytes(part[:-9])
    with pytest.raises(InputError, match=r"triplets-00001.parquet is not a readable Parquet file"):
        TripletStore.open(folder).columns(["label"])
    shard.unlink()
    with pytest.raises(InputError, match=r"shard-00001.npy is missing"):
        TripletStore.open(folder)


def test_the_store_and_the_normalisations_mean_the_same_stamps() -> None:
    assert shards.STAMP_SHAPE == normalize.STAMP_SHAPE

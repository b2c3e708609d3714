"""The triplet store: bounded writing, memory-mapped reading, equal bytes, and a sentence for every broken file."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from astrid.core.errors import DataSetError, InputError
from astrid.core.provenance import digest_file
from astrid.datasets import normalize
from astrid.io import shards
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
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["index.json", "shard-00000.npy", "triplets-000000002.parquet"]


def test_extending_adds_shards_and_rewrites_none(tmp_path: Path) -> None:
    write(tmp_path / "s", [5])
    stamp = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "s").glob("shard-*")}
    with ShardWriter.extend(tmp_path / "s", 4) as writer:
        writer.append(*rows(5, 3))
    store = TripletStore.open(tmp_path / "s")
    store.verify()
    assert [part.rows for part in store.shards] == [4, 1, 3]
    assert {name: (tmp_path / "s" / name).stat().st_mtime_ns for name in stamp} == stamp
    np.testing.assert_array_equal(store.stamps(np.arange(8))[:, 1, 1, 1], np.arange(8))
    assert len(list((tmp_path / "s").glob("*.parquet"))) == 1


def test_extending_nothing_begins_a_store(tmp_path: Path) -> None:
    with ShardWriter.extend(tmp_path / "s", 4) as writer:
        writer.append(*rows(0, 1))
    assert len(TripletStore.open(tmp_path / "s")) == 1


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
    with pytest.raises(InputError, match="no index of a triplet store of version 1"):
        TripletStore.open(folder)
    (folder / "index.json").write_text(json.dumps({key: value for key, value in index.items() if key != "shards"}))
    with pytest.raises(InputError, match="lacks the key 'shards'"):
        TripletStore.open(folder)
    (folder / "index.json").write_text(json.dumps({**index, "shards": index["shards"][:1]}))
    with pytest.raises(InputError, match="has 4 triplets in its shards and 6 in its table"):
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
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"shard-00001.npy is not a readable shard"):
        TripletStore.open(folder).stamps([5])
    np.save(shard, np.zeros((1, 3, 63, 63), dtype=np.float32))
    with pytest.raises(InputError, match=r"holds float32 \(1, 3, 63, 63\) and the index says 2"):
        TripletStore.open(folder).stamps([5])
    shard.unlink()
    with pytest.raises(InputError, match=r"shard-00001.npy is missing"):
        TripletStore.open(folder)


def test_the_store_and_the_normalisations_mean_the_same_stamps() -> None:
    assert shards.STAMP_SHAPE == normalize.STAMP_SHAPE

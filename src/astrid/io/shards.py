"""The triplet store: a few large .npy shards, one Parquet table of the same length and order, and an index.

    index.json                 what belongs to the store: shards and table, each with its rows and SHA-256
    shard-00000.npy ...        float32 (rows, 3, 63, 63): science, reference, difference
    triplets-000012345.parquet the TRIPLETS table; the number is its count of rows

The index is the point of commitment: a file that it does not name does not belong to the store. Equal rows in equal order
give equal bytes, so a version-control system of data sees a change only where there is one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astrid.core.errors import DataSetError, InputError
from astrid.core.provenance import digest_bytes, digest_file
from astrid.core.runtime import write_json
from astrid.io.tables import TRIPLETS, conform, read_table, write_table

STAMP_SHAPE = (3, 63, 63)  # science, reference, difference; pixels
_FORMAT = "astrid-triplets"
_VERSION = 1
_INDEX = "index.json"


@dataclass(frozen=True, slots=True)
class Part:
    """A file of the store as the index names it."""

    name: str
    rows: int
    sha256: str


def check_folder(folder: Path) -> None:
    """Raise `DataSetError` when a store written to `folder` would replace something else than an earlier store."""
    empty = folder.is_dir() and not any(folder.iterdir())
    if folder.exists() and not empty and not (folder / _INDEX).is_file():
        raise DataSetError(f"{folder} holds something else than a triplet store, which would be replaced; name a new or empty folder.")


class ShardWriter:
    """Writes a triplet store, row after row, in bounded memory (one shard).

    `ShardWriter(folder, rows_per_shard)` makes a new store, which replaces one of that name when `close` is called;
    `ShardWriter.extend(folder, rows_per_shard)` adds shards to an existing store and rewrites none of its shards. Until
    `close` nothing changes under the final name; a writer that is dropped, or left by an exception in a `with` block,
    leaves the earlier store as it was.
    """

    def __init__(self, folder: Path, rows_per_shard: int) -> None:
        if rows_per_shard < 1:
            raise DataSetError(f"a shard of {rows_per_shard} rows cannot be written; set rows_per_shard to 1 or more.")
        check_folder(folder)
        self._folder = folder
        self._rows = rows_per_shard
        self._staging = folder.with_name(f".{folder.name}.{os.getpid()}.part")
        shutil.rmtree(self._staging, ignore_errors=True)
        self._staging.mkdir(parents=True)
        self._before: tuple[Part, ...] = ()
        self._old_table: pd.DataFrame | None = None
        self._parts: list[Part] = []
        self._stamps: list[NDArray[np.float32]] = []
        self._waiting = 0
        self._frames: list[pd.DataFrame] = []

    @classmethod
    def extend(cls, folder: Path, rows_per_shard: int) -> ShardWriter:
        """A writer whose rows follow those of the store at `folder`, or begin one where there is none."""
        store = TripletStore.open(folder) if (folder / _INDEX).exists() else None
        writer = cls(folder, rows_per_shard)
        if store is not None:
            writer._before = store.shards
            writer._old_table = store.table
        return writer

    def append(self, stamps: NDArray[np.float32], frame: pd.DataFrame) -> None:
        """Add rows: `stamps` float32 (n, 3, 63, 63) and a frame of n rows with the required columns of TRIPLETS.

        Raises `DataSetError` for a wrong shape, dtype or count and `InputError` for a frame that is no TRIPLETS table.
        """
        if stamps.ndim != 4 or stamps.shape[1:] != STAMP_SHAPE or stamps.dtype != np.float32:
            raise DataSetError(f"stamps are {stamps.dtype} of the shape {stamps.shape}; give float32 of (n, 3, 63, 63).")
        if len(stamps) != len(frame):
            raise DataSetError(f"{len(stamps)} stamps came with {len(frame)} rows of the table; give one row a triplet, in the same order.")
        self._frames.append(conform(frame, TRIPLETS, source="the rows of a triplet store"))
        start = 0
        while start < len(stamps):
            taken = stamps[start : start + self._rows - self._waiting]
            self._stamps.append(taken.copy())
            self._waiting += len(taken)
            start += len(taken)
            if self._waiting == self._rows:
                self._flush()

    def close(self) -> TripletStore:
        """Write what is left, put the store under its name and open it.

        Raises `DataSetError` when a candidate_id stands on more than one row; nothing is changed then.
        """
        if self._waiting:
            self._flush()
        frames = [*([self._old_table] if self._old_table is not None else []), *self._frames]
        table = pd.concat(frames, ignore_index=True) if frames else TRIPLETS.empty()
        try:
            twice = table["candidate_id"][table["candidate_id"].duplicated()]
            if len(twice):
                raise DataSetError(f"{len(twice)} candidate_ids stand on more than one row, {twice.iloc[0]!r} first; keep one row each.")
            name = f"triplets-{len(table):09d}.parquet"
            write_table(table, self._staging / name, TRIPLETS)
            described = Part(name, len(table), digest_file(self._staging / name))
            _write_index(self._staging, (*self._before, *self._parts), described)
            self._publish()
        finally:
            self.discard()
        return TripletStore.open(self._folder)

    def discard(self) -> None:
        """Drop everything that was appended and not closed."""
        shutil.rmtree(self._staging, ignore_errors=True)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None and self._staging.exists():
            self.close()
        else:
            self.discard()

    def _flush(self) -> None:
        path = self._staging / f"shard-{len(self._before) + len(self._parts):05d}.npy"
        np.save(path, np.concatenate(self._stamps), allow_pickle=False)
        self._parts.append(Part(path.name, self._waiting, digest_file(path)))
        self._stamps.clear()
        self._waiting = 0

    def _publish(self) -> None:
        if self._old_table is None:
            _replace_folder(self._staging, self._folder)
            return
        stale = [path for path in self._folder.glob("triplets-*.parquet") if not (self._staging / path.name).exists()]
        names = sorted(path.name for path in self._staging.iterdir() if path.name != _INDEX)
        for name in [*names, _INDEX]:  # the index last: until it is there, the store is the earlier one
            (self._staging / name).replace(self._folder / name)
        for path in stale:
            path.unlink()


def _write_index(folder: Path, shards: Sequence[Part], table: Part) -> None:
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "dtype": "float32",
        "stamp_shape": list(STAMP_SHAPE),
        "rows": table.rows,
        "shards": [asdict(part) for part in shards],
        "table": asdict(table),
    }
    write_json(folder / _INDEX, content)


def _replace_folder(staging: Path, folder: Path) -> None:
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.replace(aside)
    staging.replace(folder)
    shutil.rmtree(aside, ignore_errors=True)


class TripletStore:
    """A triplet store on disk, read through memory maps: opening it reads the table and no stamp.

    The maps are opened on first use and are not pickled, so a store can be handed to the workers of a loader.
    """

    def __init__(self, folder: Path, shards: Sequence[Part], table: pd.DataFrame, digest: str) -> None:
        self.folder = folder
        self.shards = tuple(shards)
        self.table = table  # TRIPLETS, one row a triplet, in the order of the stamps
        self.digest = digest  # SHA-256 over the digests of every shard and of the table
        self._table_part: Part | None = None
        self._starts = np.cumsum([0, *(part.rows for part in self.shards)])
        self._maps: dict[int, NDArray[np.float32]] = {}

    @classmethod
    def open(cls, folder: Path) -> TripletStore:
        """Open the store at `folder`.

        Raises `InputError` when the index, the table or a shard is missing, broken or of another size than the index says.
        """
        content = _read_index(folder)
        shards = [Part(**part) for part in content["shards"]]
        described = Part(**content["table"])
        for part in [*shards, described]:
            if not (folder / part.name).is_file():
                raise InputError(
                    f"{folder / part.name} is missing from the triplet store; fetch it (dvc pull) or run the stage triplets again."
                )
        table = read_table(folder / described.name, TRIPLETS)
        rows = sum(part.rows for part in shards)
        if not len(table) == rows == described.rows:
            raise InputError(f"{folder} has {rows} triplets in its shards and {len(table)} in its table; run the stage triplets again.")
        digest = digest_bytes(*(part.sha256.encode() for part in [*shards, described]))
        store = cls(folder, shards, table, digest)
        store._table_part = described
        return store

    def __len__(self) -> int:
        return len(self.table)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    def stamps(self, indices: NDArray[np.integer[Any]] | Sequence[int] | slice) -> NDArray[np.float32]:
        """The stamps of the rows `indices`, in the asked order: float32 (n, 3, 63, 63), a copy in memory.

        Raises `DataSetError` for an index outside the store and `InputError` for a broken shard.
        """
        wanted = np.arange(len(self))[indices] if isinstance(indices, slice) else np.asarray(indices, dtype=np.int64)
        if wanted.ndim != 1:
            raise DataSetError(f"indices have the shape {wanted.shape}; give a one-dimensional list of row numbers.")
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise DataSetError(f"row {wanted.max()} or {wanted.min()} is outside the store's {len(self)} rows; ask for rows of its table.")
        out = np.empty((len(wanted), *STAMP_SHAPE), dtype=np.float32)
        owner = np.searchsorted(self._starts, wanted, side="right") - 1
        for number in np.unique(owner):
            here = np.flatnonzero(owner == number)
            out[here] = self._map(int(number))[wanted[here] - self._starts[number]]
        return out

    def verify(self) -> None:
        """Read every byte and compare it with the index. Raises `InputError` naming the first file that differs."""
        parts = [*self.shards, *([self._table_part] if self._table_part else [])]
        for part in parts:
            measured = digest_file(self.folder / part.name)
            if measured != part.sha256:
                raise InputError(
                    f"{self.folder / part.name} has the SHA-256 {measured[:12]} and the index says {part.sha256[:12]}; "
                    "fetch it again (dvc pull) or run the stage triplets again."
                )

    def _map(self, number: int) -> NDArray[np.float32]:
        if number not in self._maps:
            part = self.shards[number]
            path = self.folder / part.name
            try:
                mapped = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise InputError(f"{path} is not a readable shard ({error}); fetch it again or run the stage triplets again.") from error
            if mapped.shape != (part.rows, *STAMP_SHAPE) or mapped.dtype != np.float32:
                raise InputError(f"{path} holds {mapped.dtype} {mapped.shape} and the index says {part.rows} triplets; fetch it again.")
            self._maps[number] = mapped
        return self._maps[number]


def _read_index(folder: Path) -> Mapping[str, Any]:
    path = folder / _INDEX
    if not path.is_file():
        raise InputError(f"{folder} is no triplet store (it has no {_INDEX}); run the stage triplets, or correct the path.")
    try:
        content = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not readable ({error}); fetch it again (dvc pull) or run the stage triplets again.") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT or content.get("version") != _VERSION:
        raise InputError(f"{path} is no index of a triplet store of version {_VERSION}; run the stage triplets again.")
    absent = [key for key in ("shards", "table") if key not in content]
    if absent:
        raise InputError(f"{path} lacks the key {absent[0]!r}; fetch it again (dvc pull) or run the stage triplets again.")
    return content

"""The triplet store: a few large .npy shards, a Parquet table of the same length and order a shard, and an index.

    index.json                 what belongs to the store: each shard and each table with its rows and SHA-256
    shard-00000.npy ...        float32 (rows, 3, 63, 63): science, reference, difference; any reader of .npy can memory-map it
    triplets-00000.parquet ... the TRIPLETS rows of the shard of that number

The index is the point of commitment: a file that it does not name does not belong to the store. Equal rows in equal order
give equal bytes, so a version-control system of data sees a change only where there is one. Nothing here grows with the number
of stamps: a writer holds one batch and eight bytes a row, a reader what it was asked for.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astrid.core.errors import DataSetError, InputError
from astrid.core.provenance import digest_bytes, digest_file
from astrid.io.shard_files import INDEX, STAMP_SHAPE, Index, OpenShard, Part, read_index, read_parts, write_index
from astrid.io.tables import TRIPLETS, Table, conform, write_table

# Columns whose words recur from row to row; `TripletStore.columns` gives them as categories, a few bytes a row.
RECURRING = (
    *("pair_id", "exposure_id", "reference_id", "survey", "instrument", "detector", "filter", "field_id"),
    *("reference_detector", "label_source", "kind", "cell_id"),
)

_STAMP_BYTES = 4 * STAMP_SHAPE[0] * STAMP_SHAPE[1] * STAMP_SHAPE[2]


def check_folder(folder: Path) -> None:
    """Raise `DataSetError` when a store written to `folder` would replace something else than an earlier store."""
    empty = folder.is_dir() and not any(folder.iterdir())
    if folder.exists() and not empty and not (folder / INDEX).is_file():
        raise DataSetError(f"{folder} holds something else than a triplet store, which would be replaced; name a new or empty folder.")


class ShardWriter:
    """Writes a triplet store, row after row, in the memory of one batch.

    `ShardWriter(folder, rows_per_shard)` makes a new store, which replaces one of that name when `close` is called;
    `ShardWriter.extend(folder, rows_per_shard)` adds shards and their tables to an existing store and rewrites none of its
    files but the index. Until `close` nothing changes under the final name; a writer that is dropped, or left by an exception
    in a `with` block, leaves the earlier store as it was.

    `ShardWriter.resume(folder, rows_per_shard, key)` makes a new store too, and goes on where a writer of the same key was
    killed: `rows` says how many rows are there already, in whole shards, and the next ones are to be appended. One writer of
    a key at a time.
    """

    def __init__(self, folder: Path, rows_per_shard: int) -> None:
        self._begin(folder, rows_per_shard, f".{folder.name}.{os.getpid()}.part")
        shutil.rmtree(self._staging, ignore_errors=True)
        self._staging.mkdir(parents=True)

    def _begin(self, folder: Path, rows_per_shard: int, staging: str) -> None:
        if rows_per_shard < 1:
            raise DataSetError(f"a shard of {rows_per_shard} rows cannot be written; set rows_per_shard to 1 or more.")
        check_folder(folder)
        self._folder = folder
        self._rows_per_shard = rows_per_shard
        self._staging = folder.with_name(staging)
        self._resumable = False
        self._before = Index((), ())
        self._done = Index((), ())
        self._open: OpenShard | None = None
        self._frames: list[pd.DataFrame] = []
        self._names: list[NDArray[np.uint64]] = []  # hashes of the candidate_ids

    @classmethod
    def extend(cls, folder: Path, rows_per_shard: int) -> ShardWriter:
        """A writer whose rows follow those of the store at `folder`, or begin one where there is none."""
        store = TripletStore.open(folder) if (folder / INDEX).exists() else None
        writer = cls(folder, rows_per_shard)
        if store is not None:
            writer._before = store.index
            writer._names.append(_hashes(store.columns(["candidate_id"])))
        return writer

    @classmethod
    def resume(cls, folder: Path, rows_per_shard: int, key: str) -> ShardWriter:
        """A writer of a new store from the inputs that `key` names, with the whole shards that a killed one has left.

        `key`: a digest of everything that the rows come from; what was left under another key is dropped. A shard counts as
        left when its bytes and those of its table have the digests that were written beside them.
        """
        writer = cls.__new__(cls)
        mark = digest_bytes(key.encode(), str(rows_per_shard).encode())[:16]
        writer._begin(folder, rows_per_shard, f".{folder.name}.key-{mark}.part")
        writer._resumable = True
        for other in folder.parent.glob(f".{folder.name}.key-*.part"):
            if other != writer._staging:
                shutil.rmtree(other)
        writer._staging.mkdir(parents=True, exist_ok=True)
        writer._recover()
        return writer

    @property
    def rows(self) -> int:
        """Rows of this writer that are in whole shards already."""
        return self._done.rows

    def append(self, stamps: NDArray[np.float32], frame: pd.DataFrame) -> None:
        """Add rows: `stamps` float32 (n, 3, 63, 63) and a frame of n rows with the required columns of TRIPLETS.

        Raises `DataSetError` for a wrong shape, dtype or count and `InputError` for a frame that is no TRIPLETS table.
        """
        if stamps.ndim != 4 or stamps.shape[1:] != STAMP_SHAPE or stamps.dtype != np.float32:
            raise DataSetError(f"stamps are {stamps.dtype} of the shape {stamps.shape}; give float32 of (n, 3, 63, 63).")
        if len(stamps) != len(frame):
            raise DataSetError(f"{len(stamps)} stamps came with {len(frame)} rows of the table; give one row a triplet, in the same order.")
        rows = conform(frame, TRIPLETS, source="the rows of a triplet store")
        self._names.append(_hashes(rows))
        start = 0
        while start < len(stamps):
            if self._open is None:
                number = len(self._before.shards) + len(self._done.shards)
                self._open = OpenShard(self._staging / f"shard-{number:05d}.npy", self._rows_per_shard)
            stop = start + min(len(stamps) - start, self._rows_per_shard - self._open.rows)
            self._open.write(stamps[start:stop])
            self._frames.append(rows.iloc[start:stop])
            start = stop
            if self._open.rows == self._rows_per_shard:
                self._flush(self._open)

    def close(self) -> TripletStore:
        """Write what is left, put the store under its name and open it.

        Raises `DataSetError` when a candidate_id stands on more than one row; nothing is changed then.
        """
        try:
            if self._open is not None:
                self._flush(self._open)
            self._refuse_repeated()
            write_index(self._staging, self._before + self._done)
            self._publish()
        finally:
            self.discard()
        return TripletStore.open(self._folder)

    def discard(self) -> None:
        """Drop everything that was appended and not closed, the whole shards of a resumable writer as well."""
        self._leave()
        shutil.rmtree(self._staging, ignore_errors=True)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None and self._staging.exists():
            self.close()
        elif kind is not None and self._resumable:
            self._leave()
        else:
            self.discard()

    def _leave(self) -> None:
        if self._open is not None:
            self._open.abandon()
            self._open = None

    def _flush(self, shard: OpenShard) -> None:
        """Finish a shard, write its table, and then say so in the staging folder's own index."""
        part = shard.finish()
        table = self._staging / f"triplets-{len(self._before.shards) + len(self._done.shards):05d}.parquet"
        write_table(pd.concat(self._frames, ignore_index=True), table, TRIPLETS)
        self._done += Index((part,), (Part(table.name, part.rows, digest_file(table)),))
        write_index(self._staging, self._done)
        self._open = None
        self._frames.clear()

    def _recover(self) -> None:
        if not (self._staging / INDEX).is_file():
            return
        left = read_index(self._staging)
        for shard, table in zip(left.shards, left.tables, strict=True):
            if any(
                not (self._staging / part.name).is_file() or digest_file(self._staging / part.name) != part.sha256
                for part in (shard, table)
            ):
                break
            self._done += Index((shard,), (table,))
        if self._done.rows:
            self._names.append(_hashes(read_parts(self._staging, self._done.tables, _only(["candidate_id"]))))

    def _refuse_repeated(self) -> None:
        """Hashes first, in 8 bytes a row; where two agree, the names themselves decide."""
        hashes = np.concatenate(self._names) if self._names else np.zeros(0, np.uint64)
        hashes.sort()
        if not (hashes[1:] == hashes[:-1]).any():
            return
        names = pd.concat([read_parts(folder, index.tables, _only(["candidate_id"])) for folder, index in self._sides()], ignore_index=True)
        twice = names["candidate_id"][names["candidate_id"].duplicated()]
        if len(twice):
            raise DataSetError(f"{len(twice)} candidate_ids stand on more than one row, {twice.iloc[0]!r} first; keep one row each.")

    def _sides(self) -> list[tuple[Path, Index]]:
        return [(self._folder, self._before), (self._staging, self._done)]

    def _publish(self) -> None:
        if not self._before.shards:
            _replace_folder(self._staging, self._folder)
            return
        for part in (*self._done.shards, *self._done.tables):
            (self._staging / part.name).replace(self._folder / part.name)
        (self._staging / INDEX).replace(self._folder / INDEX)  # last: until it is there, the store is the earlier one


def _hashes(rows: pd.DataFrame) -> NDArray[np.uint64]:
    hashes: NDArray[np.uint64] = pd.util.hash_array(rows["candidate_id"].to_numpy(dtype=object), categorize=False)
    return hashes


def _only(names: Sequence[str]) -> Table:
    """The TRIPLETS table of some of its columns."""
    return Table(TRIPLETS.name, tuple(column for column in TRIPLETS.columns if column.name in names), ())


def _replace_folder(staging: Path, folder: Path) -> None:
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.replace(aside)
    staging.replace(folder)
    shutil.rmtree(aside, ignore_errors=True)


class TripletStore:
    """A triplet store on disk: opening it reads the index alone, `table` and `stamps` what they are asked for.

    Stamps are read into the caller's memory and none of it is kept, so that a pass over millions of rows needs no more than a
    batch, and a shard that was cut short is an error with a sentence. (A memory map would count the whole store to the process and
    end it at the missing page.) Nothing read is pickled: a store can be handed to the workers of a loader.
    """

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder = folder
        self.index = index
        self.digest = index.digest  # SHA-256 over the digests of every shard and table
        self._starts = np.cumsum([0, *(part.rows for part in index.shards)])
        self._offsets: dict[int, int] = {}  # bytes of the header of each shard that was looked at

    @property
    def shards(self) -> tuple[Part, ...]:
        """The shards in order."""
        return self.index.shards

    @classmethod
    def open(cls, folder: Path) -> TripletStore:
        """Open the store at `folder`.

        Raises `InputError` when the index, a table or a shard is missing, broken or of another size than the index says.
        """
        index = read_index(folder)
        for part in (*index.shards, *index.tables):
            if not (folder / part.name).is_file():
                raise InputError(
                    f"{folder / part.name} is missing from the triplet store; fetch it (dvc pull) or run the stage triplets again."
                )
        return cls(folder, index)

    @cached_property
    def table(self) -> pd.DataFrame:
        """TRIPLETS, one row a triplet, in the order of the stamps; read on first use. For some columns see `columns`.

        Raises `InputError` when a table is broken or has another number of rows than the index says.
        """
        return read_parts(self.folder, self.index.tables, TRIPLETS)

    def columns(self, names: Sequence[str], rows: NDArray[np.int64] | None = None) -> pd.DataFrame:
        """Some declared columns of the table, in the order of TRIPLETS, without reading the others; columns that the files lack are empty.

        Strings that recur (`RECURRING`) come as categories in alphabetical order. `rows`: these alone, in this order, from the
        files that hold them. Raises `DataSetError` for a name that TRIPLETS does not declare.
        """
        wanted = _only(names)
        unknown = set(names) - {column.name for column in wanted.columns}
        if unknown:
            raise DataSetError(f"{min(unknown)!r} is no column of the triplets table; use those that io.tables declares.")
        categories = [name for name in names if name in RECURRING]
        if rows is None:
            return read_parts(self.folder, self.index.tables, wanted, categories)
        starts = np.cumsum([0, *(part.rows for part in self.index.tables)])
        owner = np.searchsorted(starts, rows, side="right") - 1
        used, place = np.unique(owner, return_inverse=True)
        first = np.cumsum([0, *(self.index.tables[number].rows for number in used)])
        found = read_parts(self.folder, [self.index.tables[number] for number in used], wanted, categories)
        return found.iloc[first[place] + rows - starts[owner]].reset_index(drop=True)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "table"}

    def stamps(
        self, indices: NDArray[np.integer[Any]] | Sequence[int] | slice, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """The stamps of the rows `indices`, in the asked order: float32 (n, 3, 63, 63), a copy in memory.

        Rows that follow one another on disk and in the asked order are read in one go. `out`: a contiguous array of that shape to
        read into, which is returned; memory that is used again costs no page faults. Raises `DataSetError` for an index outside
        the store and `InputError` for a broken shard.
        """
        wanted = np.arange(len(self))[indices] if isinstance(indices, slice) else np.asarray(indices, dtype=np.int64)
        if wanted.ndim != 1:
            raise DataSetError(f"indices have the shape {wanted.shape}; give a one-dimensional list of row numbers.")
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise DataSetError(f"row {wanted.max()} or {wanted.min()} is outside the store's {len(self)} rows; ask for rows of its table.")
        out = np.empty((len(wanted), *STAMP_SHAPE), dtype=np.float32) if out is None else out
        order = np.argsort(wanted, kind="stable")
        rows = wanted[order]
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(order) != 1) | (np.diff(owner) != 0)) + 1
        first = np.concatenate([[0], breaks])[: len(wanted)]
        last = np.concatenate([breaks, [len(wanted)]])[: len(first)]
        for number in np.unique(owner).tolist():
            mine = owner[first] == number
            runs = zip(
                order[first[mine]].tolist(), (last - first)[mine].tolist(), (rows[first[mine]] - self._starts[number]).tolist(), strict=True
            )
            self._read(number, [(out[place : place + count], row) for place, count, row in runs])
        return out

    def verify(self) -> None:
        """Read every byte and compare it with the index. Raises `InputError` naming the first file that differs."""
        for part in (*self.index.shards, *self.index.tables):
            measured = digest_file(self.folder / part.name)
            if measured != part.sha256:
                raise InputError(
                    f"{self.folder / part.name} has the SHA-256 {measured[:12]} and the index says {part.sha256[:12]}; "
                    "fetch it again (dvc pull) or run the stage triplets again."
                )

    def _read(self, number: int, runs: Sequence[tuple[NDArray[np.float32], int]]) -> None:
        """Fill each array of `runs` from the row of the shard that stands beside it."""
        offset = self._offset(number)
        path = self.folder / self.shards[number].name
        with path.open("rb", buffering=0) as stream:
            file = stream.fileno()
            for target, row in runs:
                at, done = offset + row * _STAMP_BYTES, 0
                while done < target.nbytes:
                    rest = target.data.cast("B")[done:] if done else target.data
                    got = os.preadv(file, [rest], at + done)
                    if not got:
                        raise InputError(f"{path} ends within its row {row}; fetch it again or run the stage triplets again.")
                    done += got

    def _offset(self, number: int) -> int:
        if number not in self._offsets:
            part = self.shards[number]
            path = self.folder / part.name
            try:
                mapped = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise InputError(f"{path} is not a readable shard ({error}); fetch it again or run the stage triplets again.") from error
            if mapped.shape != (part.rows, *STAMP_SHAPE) or mapped.dtype != np.float32:
                raise InputError(f"{path} holds {mapped.dtype} {mapped.shape} and the index says {part.rows} triplets; fetch it again.")
            self._offsets[number] = path.stat().st_size - mapped.nbytes
        return self._offsets[number]

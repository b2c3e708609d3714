"""The files of a triplet store: its index, the tables that it names, and a shard while it is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from astrid.core.errors import InputError
from astrid.core.provenance import digest_bytes, digest_file
from astrid.core.runtime import write_json
from astrid.io.tables import Table, conform

INDEX = "index.json"
STAMP_SHAPE = (3, 63, 63)  # science, reference, difference; pixels
_FORMAT = "astrid-triplets"
_VERSION = 2
_ONE_TABLE = 1  # the version before: one table for all the shards, under the key "table"
_TOGETHER = 8  # tables that are brought together at a time
_FILL = {"int": 0, "bool": False}  # of a column that a part lacks


@dataclass(frozen=True, slots=True)
class Part:
    """A file of the store as the index names it."""

    name: str
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Index:
    """The shards of a store and the tables of their rows, both in order."""

    shards: tuple[Part, ...]
    tables: tuple[Part, ...]

    @property
    def rows(self) -> int:
        """Triplets of the store."""
        return sum(part.rows for part in self.shards)

    @property
    def digest(self) -> str:
        """SHA-256 over the digests of every shard and of every table."""
        return digest_bytes(*(part.sha256.encode() for part in (*self.shards, *self.tables)))

    def __add__(self, other: Index) -> Index:
        return Index((*self.shards, *other.shards), (*self.tables, *other.tables))


def write_index(folder: Path, index: Index) -> None:
    """Write the index of a store, atomically."""
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "dtype": "float32",
        "stamp_shape": list(STAMP_SHAPE),
        "rows": index.rows,
        "shards": [asdict(part) for part in index.shards],
        "tables": [asdict(part) for part in index.tables],
    }
    write_json(folder / INDEX, content)


def read_index(folder: Path) -> Index:
    """Read the index of the store at `folder`, of this version or of the one before.

    Raises `InputError` when there is none, or it is broken or names other numbers of stamps and of rows.
    """
    path = folder / INDEX
    if not path.is_file():
        raise InputError(f"{folder} is no triplet store (it has no {INDEX}); run the stage triplets, or correct the path.")
    try:
        content = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not readable ({error}); fetch it again (dvc pull) or run the stage triplets again.") from error
    version = content.get("version") if isinstance(content, dict) and content.get("format") == _FORMAT else None
    if version not in (_ONE_TABLE, _VERSION):
        raise InputError(f"{path} is no index of a triplet store of version {_VERSION}; run the stage triplets again.")
    tables = "tables" if version == _VERSION else "table"
    absent = [key for key in ("shards", tables) if key not in content]
    if absent:
        raise InputError(f"{path} lacks the key {absent[0]!r}; fetch it again (dvc pull) or run the stage triplets again.")
    described: list[dict[str, Any]] = content[tables] if version == _VERSION else [content[tables]]
    index = Index(tuple(Part(**part) for part in content["shards"]), tuple(Part(**part) for part in described))
    listed = sum(part.rows for part in index.tables)
    if index.rows != listed:
        raise InputError(f"{folder} has {index.rows} triplets in its shards and {listed} in its tables; run the stage triplets again.")
    return index


def read_parts(folder: Path, parts: Sequence[Part], table: Table, categories: Sequence[str] = ()) -> pd.DataFrame:
    """The rows of the Parquet files `parts` in order, as one frame with the columns of `table`; a column that a file lacks is empty.

    Columns beyond those of `table` follow where `table` requires any, that is, where it stands for the whole. `categories`: columns
    of strings that are read as categories, in alphabetical order. Raises `InputError` when a file is broken, lacks a required
    column or has another number of rows than the index says.
    """
    if not parts:
        return table.empty()
    give_back()
    names = None if table.required else [column.name for column in table.columns]
    pieces = [
        _in_one_piece([_read_part(folder, part, names, categories) for part in parts[start : start + _TOGETHER]])
        for start in range(0, len(parts), _TOGETHER)
    ]
    joined = pa.concat_tables(pieces, promote_options="default").unify_dictionaries()
    del pieces
    for column in table.columns:
        where = joined.schema.get_field_index(column.name)
        if where >= 0 and column.kind in _FILL and joined.column(where).null_count:
            joined = joined.set_column(where, column.name, pc.fill_null(joined.column(where), _FILL[column.kind]))
    frame = joined.to_pandas(self_destruct=True, split_blocks=True)
    del joined
    give_back()
    for name in frame.columns[frame.dtypes == "category"]:
        frame[name] = frame[name].cat.reorder_categories(frame[name].cat.categories.sort_values())
    return conform(frame, table, source=str(folder))


def give_back() -> None:
    """Return to the system what was freed and would be kept for later, by Arrow's own allocator and by that of the C library."""
    for pool in (pa.default_memory_pool(), pa.system_memory_pool()):
        pool.release_unused()


def _in_one_piece(tables: list[pa.Table]) -> pa.Table:
    """The rows of tables, which are used up, with each column in one piece of memory; many small ones take half as much again.

    The columns are still divided as the tables were, which the pages of a Parquet file that is written from them follow.
    """
    starts = np.cumsum([0, *(table.num_rows for table in tables)])
    joined = pa.concat_tables(tables, promote_options="default").unify_dictionaries()
    tables.clear()
    joined = joined.combine_chunks()
    give_back()
    return pa.concat_tables([joined.slice(start, stop - start) for start, stop in pairwise(starts)])


def _read_part(folder: Path, part: Part, names: Sequence[str] | None, categories: Sequence[str]) -> pa.Table:
    path = folder / part.name
    try:
        with pq.ParquetFile(path) as file:
            there = [name for name in file.schema_arrow.names if name in names] if names is not None else None
            got = file.read(columns=there, use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        first = " ".join(str(error).split()).split(". ")[0].rstrip(".")
        raise InputError(f"{path} is not a readable Parquet file ({first}); fetch it again or run the stage triplets again.") from error
    if got.num_rows != part.rows:
        raise InputError(f"{path} has {got.num_rows} rows and the index says {part.rows}; fetch it again or run the stage triplets again.")
    for name in categories:
        where = got.schema.get_field_index(name)
        if where >= 0 and pa.types.is_string(got.schema.types[where]):
            got = got.set_column(where, name, got.column(where).dictionary_encode())
    return got


class OpenShard:
    """A shard while it is written: an .npy header for all its rows, then stamps as they come, hashed on the way."""

    def __init__(self, path: Path, rows: int) -> None:
        self._path = path
        self._planned = rows
        self.rows = 0
        self._header = _header(rows)
        self._sha = hashlib.sha256(self._header)
        self._stream: BinaryIO = path.open("wb")
        self._stream.write(self._header)

    def write(self, stamps: NDArray[np.float32]) -> None:
        """Add float32 (n, 3, 63, 63), n at least 1."""
        view = np.ascontiguousarray(stamps).data.cast("B")
        self._stream.write(view)
        self._sha.update(view)
        self.rows += len(stamps)

    def finish(self) -> Part:
        """Close the file and describe it; a short shard gets the header of the rows that it has."""
        short = self.rows < self._planned
        if short:
            self._stream.seek(0)
            self._stream.write(_header(self.rows))
        self._stream.close()
        return Part(self._path.name, self.rows, digest_file(self._path) if short else self._sha.hexdigest())

    def abandon(self) -> None:
        """Close the file and remove it."""
        self._stream.close()
        self._path.unlink(missing_ok=True)


def _header(rows: int) -> bytes:
    """The header of an .npy file of `rows` stamps; its length is the same for every number of rows."""
    stream = BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (rows, *STAMP_SHAPE)})
    return stream.getvalue()

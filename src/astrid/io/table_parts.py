"""Tables of the house that are written and read in parts, one of which is in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from astrid.core.runtime import atomic_path
from astrid.io.tables import Table, conform, readable, to_arrow, to_frame


@contextmanager
def table_in_parts(path: Path, table: Table) -> Iterator[Callable[[pd.DataFrame], None]]:
    """A function that adds a frame to the Parquet table `path`, which takes its name when the block ends well.

    The frames have the same columns; each is a row group of the file. Without any row the table is empty.
    """
    with atomic_path(path) as temporary, ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        none = table.empty()

        def add(frame: pd.DataFrame) -> None:
            nonlocal writer, none
            arrow = to_arrow(frame, table, source=path.name)
            if not len(frame):
                none = frame
                return
            writer = writer or stack.enter_context(pq.ParquetWriter(temporary, arrow.schema, compression="zstd"))
            writer.write_table(arrow)

        yield add
        if writer is None:
            pq.write_table(to_arrow(none, table, source=path.name), temporary, compression="zstd")


def write_parts(frames: Iterable[pd.DataFrame], path: Path, table: Table) -> None:
    """As `tables.write_table`, of a table that comes in parts with the same columns."""
    with table_in_parts(path, table) as add:
        for frame in frames:
            add(frame)


def read_parts(path: Path, table: Table, *, columns: Sequence[str] | None = None, first: int = 0) -> Iterator[pd.DataFrame]:
    """The rows of a Parquet table from row `first` on, a row group at a time. Raises as `tables.read_table`.

    `columns`: these alone.
    """
    with readable(path), pq.ParquetFile(path) as file:
        start = 0
        for number in range(file.num_row_groups):
            stop = start + file.metadata.row_group(number).num_rows
            if stop > first:
                frame = to_frame(file.read_row_group(number, columns=list(columns) if columns else None))
                rows = frame if columns else conform(frame, table, source=str(path))
                yield rows.iloc[max(first - start, 0) :].reset_index(drop=True)
            start = stop

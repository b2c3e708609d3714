"""The tables of given labels: CSV files that are only ever appended to."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd

from astrid.core.errors import InputError
from astrid.io.tables import LABELS, conform

_COLUMNS = [column.name for column in LABELS.columns]


def append_labels(rows: pd.DataFrame, path: Path) -> int:
    """Append LABELS rows to a CSV table, which is made with its header when absent; returns how many.

    The lines already there are not touched, and the new ones are written in one call. The file's own header says which columns are
    written. Raises `InputError` for rows that are no labels, a header with another column, or a file that cannot be written.
    """
    frame = conform(rows, LABELS, source="the labels to append")[_COLUMNS]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_bytes() if path.exists() else b""
        header = before.split(b"\n", 1)[0].decode().strip().split(",") if before else _COLUMNS
        unknown = [name for name in header if name not in _COLUMNS]
        if unknown:
            raise InputError(f"{path} has the column {unknown[0]!r}, which the labels do not have; rename or remove it.")
        text = io.StringIO()
        frame[header].to_csv(text, index=False, header=not before, lineterminator="\n")
        gap = b"\n" if before and not before.endswith(b"\n") else b""
        with path.open("ab") as stream:
            stream.write(gap + text.getvalue().encode())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be appended to ({error}); mend it or choose another file.") from error
    return len(frame)

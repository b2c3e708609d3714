"""Tables as they lie on disk, and which catalogue a file is."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pandas as pd

from astrid.config.schema.archive import CatalogFormat
from astrid.core.errors import InputError

# Columns, in lower case, by which an export is known: any of the sets suffices.
_MARKS: dict[CatalogFormat, tuple[frozenset[str], ...]] = {
    "tns": (
        frozenset(("name_prefix", "name", "declination")),
        frozenset(("name", "obj. type", "discovery date (ut)")),
        frozenset(("name", "disc. internal name")),
    ),
    "osc": (
        frozenset(("name", "disc. date", "r.a.")),
        frozenset(("event", "claimedtype")),
        frozenset(("event", "discoverdate")),
        frozenset(("name", "claimedtype")),
    ),
}
_PREAMBLE = 2  # lines that may stand above the header of a TNS dump
_FILE_FORMATS = ("sncat", "osc", "tns", "table")


def read_table_file(path: Path) -> pd.DataFrame:
    """Read a csv, parquet or ecsv table as it is, text columns stripped.

    Raises `InputError` when the file is missing, of another kind, or unreadable.
    """
    _require(path)
    readers: dict[str, Callable[[Path], pd.DataFrame]] = {".csv": _read_csv, ".parquet": pd.read_parquet, ".ecsv": _read_ecsv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path} is neither .csv, .parquet nor .ecsv; convert it to one of them.")
    return _read(path, reader, f"{path.suffix[1:]} table")


def read_export(path: Path) -> pd.DataFrame:
    """Read the csv export of a catalogue as text, without the lines that TNS writes above its header. Raises `InputError`."""
    _require(path)
    return _read(path, lambda path: _strip(pd.read_csv(path, dtype=str, skipinitialspace=True, skiprows=_header_line(path))), "csv export")


def read_pipes(path: Path) -> pd.DataFrame:
    """Read a pipe-delimited text with one header line, a rule below it, and maybe a count of rows at the end, as databases print it.

    Raises `InputError` when the file is missing, has no such header, or a line has another number of cells.
    """
    _require(path)
    lines = _lines(path)
    header = [name.strip() for name in lines[0].split("|")] if lines else []
    if len(header) < 2:
        raise InputError(f"{path} is no pipe-delimited table: its first line has no |; name its format or correct the path.")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        cells = [cell.strip() for cell in line.split("|")]
        if not line.strip() or set(line.strip()) <= set("-+") or line.strip().startswith("("):
            continue
        if len(cells) != len(header):
            raise InputError(f"{path}, line {number} has {len(cells)} cells where the header has {len(header)}; correct the line.")
        rows.append(cells)
    return pd.DataFrame(rows, columns=header, dtype=str)


def detect_format(path: Path) -> CatalogFormat:
    """Which catalogue a file is, from its header. Raises `InputError` when it is missing or of no known format."""
    _require(path)
    if path.suffix.lower() in (".parquet", ".ecsv"):
        return "table"
    for line in _head(path):
        if "|" in line and {"sn_name", "sn_ra", "sn_dec"} <= {name.strip().lower() for name in line.split("|")}:
            return "sncat"
        names = _header(line)
        for kind, marks in _MARKS.items():
            if any(mark <= names for mark in marks):
                return kind
    if path.suffix.lower() == ".csv":
        return "table"
    raise InputError(
        f"{path} is of no known format; name it with --format ({', '.join(_FILE_FORMATS)}), or convert it to .csv, .parquet or .ecsv."
    )


def _require(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file in it.")
    if not path.is_file():
        raise InputError(f"{path} does not exist; correct the path.")


def _read(path: Path, reader: Callable[[Path], pd.DataFrame], what: str) -> pd.DataFrame:
    try:
        frame = reader(path)
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is not a readable {what} ({' '.join(str(error).split())[:200]}); correct it.") from error
    frame.columns = [str(name).strip() for name in frame.columns]
    return frame


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8 (byte {error.start}); convert it.") from error


def _head(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return [line.rstrip("\n") for line in islice(file, _PREAMBLE + 1)]


def _header(line: str) -> frozenset[str]:
    return frozenset(cell.strip().strip('"').lower() for cell in line.split(","))


def _header_line(path: Path) -> int:
    """Lines above the header, the first line of which names an event."""
    lines = _head(path)
    return next((number for number, line in enumerate(lines) if _header(line) & {"name", "event"}), 0)


def _strip(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.apply(lambda column: column.str.strip())


def _read_csv(path: Path) -> pd.DataFrame:
    return _strip(pd.read_csv(path, dtype=str, skipinitialspace=True, comment="#"))


def _read_ecsv(path: Path) -> pd.DataFrame:
    from astropy.table import Table

    frame: pd.DataFrame = Table.read(path, format="ascii.ecsv").to_pandas()
    return frame

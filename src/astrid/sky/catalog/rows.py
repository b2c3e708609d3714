"""Cells under the house's names -> typed rows; strictly for a user's own table, with a list of what failed for a compilation."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from astrid.core.errors import InputError
from astrid.io.tables import CATALOG, conform
from astrid.sky.catalog.files import read_table_file
from astrid.sky.catalog.formats import TABLE, mapped
from astrid.sky.catalog.names import name_key, normal_name
from astrid.sky.catalog.types import TransientType, read_type
from astrid.sky.catalog.values import UNKNOWN, Date, angle, date, number, text_of

RISE = 30.0  # d before its maximum within which an event counts as discovered where only the maximum has a date
_COORDINATES = {"s_ra": (True, 0.0, 360.0), "s_dec": (False, -90.0, 90.0), "host_ra": (True, 0.0, 360.0), "host_dec": (False, -90.0, 90.0)}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of one catalogue, understood."""

    source: int  # place of the catalogue in the list
    number: int  # of the row in it, from 1
    name: str
    aliases: tuple[str, ...]
    ra: float  # deg, ICRS
    dec: float
    date: Date
    type: TransientType
    redshift: float
    host: str
    host_ra: float
    host_dec: float
    at_maximum: bool  # the date is made of that of the maximum


def read_catalog(path: Path) -> pd.DataFrame:
    """Read a catalogue of events (CATALOG) from csv, parquet or ecsv.

    A name and coordinates are needed; coordinates are ICRS in degrees, or sexagesimal with hours for right ascension
    ("12:34:56.7 -08 49 37"). Dates are MJD, JD or ISO 8601, types get their normal form. Column names of common catalogues
    are understood.

    Raises
    ------
    InputError
        A column is missing, a coordinate or date cannot be read, or a name stands twice.
    """
    frame = mapped(read_table_file(path), TABLE)
    require_columns(frame, TABLE, str(path))
    for name, (hours, low, high) in _COORDINATES.items():
        if name in frame.columns:
            required = name.startswith("s_")
            frame[name] = [
                _angle(value, hours, low, high, required, f"{path}, row {row}: {name}") for row, value in enumerate(frame[name], 1)
            ]
    if "discovery_mjd" in frame.columns:
        dates = [date(value, f"{path}, row {row}") for row, value in enumerate(frame["discovery_mjd"], 1)]
        frame["discovery_mjd"], frame["discovery_precision"] = [one.mjd for one in dates], [one.precision for one in dates]
    if "transient_type" in frame.columns:
        types = [read_type(text_of(value)) for value in frame["transient_type"]]
        frame["transient_type"] = [one.name for one in types]
        frame["type_uncertain"], frame["type_peculiar"] = [one.uncertain for one in types], [one.peculiar for one in types]
    if "aliases" in frame.columns:
        frame["aliases"] = [split_names(value) for value in frame["aliases"]]
    if "source" not in frame.columns:
        frame["source"] = path.name
    catalog = conform(frame.drop(columns="maximum", errors="ignore"), CATALOG, source=str(path))
    _check_names(catalog, path)
    return catalog


def require_columns(frame: pd.DataFrame, names: dict[str, tuple[str, ...]], where: str) -> None:
    """Raise `InputError` where a table has no column for the name or the coordinates."""
    for name in ("object_id", "s_ra", "s_dec"):
        if name not in frame.columns:
            raise InputError(f"{where} has no column for {name} (looked for {', '.join(names[name])}); rename one.")


def _check_names(catalog: pd.DataFrame, path: Path) -> None:
    if (catalog["object_id"].str.strip() == "").any():
        raise InputError(f"{path} has {int((catalog['object_id'].str.strip() == '').sum())} rows without a name; give each event one.")
    twice = catalog["object_id"][catalog["object_id"].duplicated()]
    if len(twice):
        raise InputError(f"{path} names {twice.iloc[0]!r} more than once ({len(twice)} such rows); keep one row an event.")


def _angle(value: object, hours: bool, low: float, high: float, required: bool, where: str) -> float:
    degrees = angle(value, hours, low, high, where)
    if required and np.isnan(degrees):
        raise InputError(f"{where} is empty; give every event its coordinates.")
    return degrees


def split_names(value: object) -> list[str]:
    """The names of a cell: a list, or text with commas or semicolons between them."""
    if isinstance(value, list | tuple | np.ndarray):
        return [text_of(one) for one in value if text_of(one)]
    return [name for name in re.split(r"\s*[,;]\s*", text_of(value)) if name]


@dataclass(frozen=True)
class Read:
    """A catalogue's rows, those that are no event with their reason, and what was odd in those that are."""

    rows: list[Row]
    refused: list[tuple[int, str, str]]  # row, its name as given, reason
    notes: list[tuple[int, str, str]]  # the same of rows that are kept


def read_rows(frame: pd.DataFrame, source: int, *, own_names: bool) -> Read:
    """Typed rows of a frame with the house's columns, e.g. of `formats.given`.

    A row without a name or with coordinates that cannot be read is refused; another cell that cannot be read counts as empty
    and is noted. `own_names`: the names are the user's and stay as they are; else designations get their normal form.
    """
    read = Read([], [], [])
    columns = {name: frame[name].tolist() for name in frame.columns}
    empty = [""] * len(frame)

    def cell(name: str, row: int) -> object:
        return columns.get(name, empty)[row]

    for row in range(len(frame)):
        given = text_of(cell("object_id", row))
        try:
            if not given:
                raise InputError("it has no name; give every event one.")
            ra = _angle(cell("s_ra", row), *_COORDINATES["s_ra"], True, "s_ra")
            dec = _angle(cell("s_dec", row), *_COORDINATES["s_dec"], True, "s_dec")
        except InputError as error:
            read.refused.append((row + 1, given, str(error)))
            continue
        _append(read, cell, row, source, given, (ra, dec), own_names)
    return read


def _append(
    read: Read, cell: Callable[[str, int], object], row: int, source: int, given: str, place: tuple[float, float], own_names: bool
) -> None:
    notes: list[str] = []
    (found, at_maximum), normal = _dated(cell, row, notes), normal_name(given)
    kind = _flagged(read_type(text_of(cell("transient_type", row))), cell, row)
    if not kind.known:
        notes.append(f"its type {kind.name!r} is none that is known here; it is kept as it is.")
    redshift = _optional(lambda: number(cell("redshift", row), "redshift"), notes)
    host_ra = _optional(lambda: angle(cell("host_ra", row), *_COORDINATES["host_ra"], "host_ra"), notes)
    host_dec = _optional(lambda: angle(cell("host_dec", row), *_COORDINATES["host_dec"], "host_dec"), notes)
    if np.isnan(host_ra) or np.isnan(host_dec):
        host_ra = host_dec = float("nan")
    name = given if own_names else normal
    others = [normal_name(other) for other in split_names(cell("aliases", row))]
    aliases = tuple(dict.fromkeys(other for other in ([normal] if own_names else [given]) + others if other != name))
    aliases = tuple(other for other in aliases if own_names or name_key(other) != name_key(name))
    host = " ".join(text_of(cell("host", row)).split())
    read.rows.append(Row(source, row + 1, name, aliases, *place, found, kind, redshift, host, host_ra, host_dec, at_maximum))
    read.notes.extend((row + 1, given, note) for note in notes)


def _dated(cell: Callable[[str, int], object], row: int, notes: list[str]) -> tuple[Date, bool]:
    """The date of the discovery; without one the time before the maximum, and true."""
    for name in ("discovery_mjd", "maximum"):
        try:
            found = date(cell(name, row), name)
        except InputError as error:
            notes.append(f"{error} It counts as empty.")
            continue
        if np.isfinite(found.mjd) and name == "discovery_mjd":
            precision = _optional(lambda: number(cell("discovery_precision", row), "discovery_precision"), notes)
            return replace(found, precision=precision if np.isfinite(precision) else found.precision), False
        if np.isfinite(found.mjd):
            notes.append(f"it has no date of discovery; the {RISE:.0f} days before its maximum stand in.")
            return Date(found.mjd - RISE, found.precision + RISE), True
    return UNKNOWN, False


def _flagged(kind: TransientType, cell: Callable[[str, int], object], row: int) -> TransientType:
    """The type with the flags that a compiled catalogue has beside it."""
    uncertain, peculiar = (text_of(cell(name, row)).lower() == "true" for name in ("type_uncertain", "type_peculiar"))
    return replace(kind, uncertain=kind.uncertain or uncertain, peculiar=kind.peculiar or peculiar)


def _optional(read: Callable[[], float], notes: list[str]) -> float:
    try:
        return read()
    except InputError as error:
        notes.append(f"{error} It counts as empty.")
        return float("nan")

"""A user's table of events -> one clean catalogue."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from astrid.core.errors import InputError
from astrid.io.tables import CATALOG, conform

# Names that catalogues give to the house's columns, compared in lower case; the first present wins.
_ALIASES: dict[str, tuple[str, ...]] = {
    "object_id": ("object_id", "name", "objname", "event", "id", "iauid"),
    "s_ra": ("s_ra", "ra", "raj2000", "ra_deg", "r.a."),
    "s_dec": ("s_dec", "dec", "dej2000", "decj2000", "dec_deg", "decl."),
    "discovery_mjd": ("discovery_mjd", "mjd", "discovery_date", "discoverdate", "date"),
    "transient_type": ("transient_type", "type", "obj. type", "claimedtype", "class"),
    "redshift": ("redshift", "z"),
    "host": ("host", "host_name", "galaxy"),
    "host_ra": ("host_ra", "hostra"),
    "host_dec": ("host_dec", "hostdec"),
    "source": ("source",),
}


def read_table_file(path: Path) -> pd.DataFrame:
    """Read a csv, parquet or ecsv table as it is, text columns stripped.

    Raises `InputError` when the file is missing, of another kind, or unreadable.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; correct the path.")
    readers: dict[str, Callable[[Path], pd.DataFrame]] = {".csv": _read_csv, ".parquet": pd.read_parquet, ".ecsv": _read_ecsv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path} is neither .csv, .parquet nor .ecsv; convert it to one of them.")
    try:
        frame = reader(path)
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is not a readable {path.suffix[1:]} table ({' '.join(str(error).split())[:200]}); correct it.") from error
    frame.columns = [str(name).strip() for name in frame.columns]
    return frame


def _read_csv(path: Path) -> pd.DataFrame:
    frame = pd.read_csv(path, dtype=str, skipinitialspace=True, comment="#")
    return frame.apply(lambda column: column.str.strip())


def _read_ecsv(path: Path) -> pd.DataFrame:
    from astropy.table import Table

    frame: pd.DataFrame = Table.read(path, format="ascii.ecsv").to_pandas()
    return frame


def read_catalog(path: Path) -> pd.DataFrame:
    """Read a catalogue of events (CATALOG) from csv, parquet or ecsv.

    A name and coordinates are needed; coordinates are ICRS in degrees, or sexagesimal with hours for right ascension
    ("12:34:56.7 -08 49 37"). Dates are MJD, JD or ISO 8601. Column names of common catalogues are understood.

    Raises
    ------
    InputError
        A column is missing, a coordinate or date cannot be read, or a name stands twice.
    """
    given = read_table_file(path)
    columns = {name.lower(): name for name in given.columns}
    frame = pd.DataFrame(index=given.index)
    for name, aliases in _ALIASES.items():
        found = next((columns[alias] for alias in aliases if alias in columns), None)
        if found is not None:
            frame[name] = given[found]
    for name in ("object_id", "s_ra", "s_dec"):
        if name not in frame.columns:
            raise InputError(f"{path} has no column for {name} (looked for {', '.join(_ALIASES[name])}); rename one.")
    for ra, dec in (("s_ra", "s_dec"), ("host_ra", "host_dec")):
        for name, hours, low, high in ((ra, True, 0.0, 360.0), (dec, False, -90.0, 90.0)):
            if name in frame.columns:
                required = name.startswith("s_")
                frame[name] = [
                    _angle(value, hours, low, high, required, f"{path}, row {row}: {name}") for row, value in enumerate(frame[name], 1)
                ]
    if "discovery_mjd" in frame.columns:
        frame["discovery_mjd"] = [_date(value, f"{path}, row {row}") for row, value in enumerate(frame["discovery_mjd"], 1)]
    if "source" not in frame.columns:
        frame["source"] = path.name
    catalog = conform(frame, CATALOG, source=str(path))
    _check_names(catalog, path)
    return catalog


def _check_names(catalog: pd.DataFrame, path: Path) -> None:
    if (catalog["object_id"].str.strip() == "").any():
        raise InputError(f"{path} has {int((catalog['object_id'].str.strip() == '').sum())} rows without a name; give each event one.")
    twice = catalog["object_id"][catalog["object_id"].duplicated()]
    if len(twice):
        raise InputError(f"{path} names {twice.iloc[0]!r} more than once ({len(twice)} such rows); keep one row an event.")


def _angle(value: object, hours: bool, low: float, high: float, required: bool, where: str) -> float:
    """Degrees of a number or sexagesimal text; NaN for an empty optional one."""
    text = "" if value is None else str(value).strip()
    if text.lower() in ("", "nan", "none"):
        if required:
            raise InputError(f"{where} is empty; give every event its coordinates.")
        return float("nan")
    try:
        degrees = float(text)
    except ValueError:
        degrees = _sexagesimal(text, hours, where)
    if not low <= degrees <= high:
        raise InputError(f"{where} = {text} lies outside {low:g} to {high:g} degrees; correct it.")
    return degrees


def _sexagesimal(text: str, hours: bool, where: str) -> float:
    sign = -1.0 if text.startswith("-") else 1.0
    parts = text.lstrip("+-").translate(str.maketrans("hdms:°'\"", "        ")).split()
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if not 1 < len(numbers) <= 3 or any(number < 0 for number in numbers) or any(number >= 60 for number in numbers[1:]):
        raise InputError(f"{where} = {text!r} is neither degrees nor sexagesimal; write 12:34:56.7 or 188.736.")
    return sign * float(np.dot(numbers, [1.0, 1 / 60, 1 / 3600][: len(numbers)])) * (15.0 if hours else 1.0)


def _date(value: object, where: str) -> float:
    text = "" if value is None else str(value).strip()
    if text.lower() in ("", "nan", "nat", "none"):
        return float("nan")
    try:
        number = float(text)
    except ValueError:
        from astropy.time import Time

        try:
            return float(Time(text.replace("/", "-"), scale="utc").mjd)
        except ValueError:
            raise InputError(f"{where}: the date {text!r} is neither MJD, JD nor ISO 8601; correct it.") from None
    return number - 2_400_000.5 if number > 2_400_000.0 else number

"""A user's folder of FITS files -> exposures, with what is broken set aside and said."""

from __future__ import annotations

import dataclasses
import difflib
import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from astrid.config.schema.survey import FolderConfig, RoleRule
from astrid.core.errors import ConfigError, InputError
from astrid.core.records import Problem
from astrid.io.headers import header_mjd, header_number, header_text
from astrid.io.images import COMPANIONS as COMPANIONS
from astrid.io.images import Listing, list_exposures
from astrid.io.missions import is_companion
from astrid.io.tables import EXPOSURES, Table, conform
from astrid.sky.catalog import read_table_file

if TYPE_CHECKING:
    from astropy.io.fits import Header

_TEXT = ("survey", "instrument", "detector", "filter", "field_id", "unit")
_NUMBERS = ("exptime", "gain", "read_noise", "saturation")
_REQUIRED = ("survey", "instrument", "filter")
_POSITIVE = ("exptime", "gain", "saturation")
_NEAR = 0.75  # likeness (difflib's ratio) from which a column counts as a slip of the pen
_SUFFIX = re.compile(r"\.(fits|fit|fts|img)(\.(gz|fz|bz2))?$", re.IGNORECASE)
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, eq=False)
class FolderScan:
    """What a folder holds."""

    exposures: pd.DataFrame  # EXPOSURES; paths relative to the folder
    problems: tuple[Problem, ...]  # files that cannot be used


def read_folder(cfg: FolderConfig) -> pd.DataFrame:
    """The usable exposures of a folder (EXPOSURES, paths relative to it); see `scan_folder` for those that are not."""
    return scan_folder(cfg).exposures


def scan_folder(cfg: FolderConfig) -> FolderScan:
    """Open every exposure of a folder, complete its row from its header, and set aside what cannot be used.

    An exposure is usable when it opens, holds pixels that differ, has a celestial WCS, and its role, survey, instrument,
    filter and date are known.

    Raises
    ------
    InputError
        The folder or table is missing, the table lacks the column path, an exposure_id stands twice, or nothing is usable.
    """
    root = Path(cfg.root)
    if not root.is_dir():
        raise InputError(f"the folder {root} does not exist; set survey.folder.root.")
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    entries = _table_entries(root, cfg.table) if cfg.table else _found_entries(root, cfg)
    for entry in entries:
        try:
            rows.extend(_exposures(root, entry, cfg))
        except InputError as error:
            problems.append(Problem(str(entry["path"]), str(error)))
    if not rows:
        patterns = ", ".join(cfg.pattern)
        first = f" No file matches {patterns}; correct them."
        if problems:
            first = f" The first of {len(problems)} problems: {problems[0].reason}"
        raise InputError(f"{root} holds no usable exposure.{first}")
    frame = conform(pd.DataFrame(rows), EXPOSURES, source=str(root))
    twice = frame[frame["exposure_id"].duplicated(keep=False)]
    if len(twice):
        name = twice["exposure_id"].iloc[0]
        both = " and ".join(twice["path"][twice["exposure_id"] == name].head(2))
        raise InputError(f"{both} in {root} are both named {name!r}; give each its own exposure_id in a table.")
    return FolderScan(frame, tuple(problems))


def _table_entries(root: Path, name: str) -> list[dict[str, Any]]:
    table = read_table_file(root / name)
    if "path" not in table.columns:
        raise InputError(f"{root / name} lacks the column 'path'; it has {', '.join(table.columns)}. Name the column of files path.")
    _check_columns(list(table.columns), root / name)
    entries = []
    for row in table.to_dict("records"):
        entries.append({str(key): value for key, value in row.items() if not _empty(value)})
    absent = [number for number, entry in enumerate(entries, 1) if "path" not in entry]
    if absent:
        raise InputError(f"{root / name} has no path in row {absent[0]}; name a file in every row.")
    return entries


def _check_columns(given: list[str], table: Path) -> None:
    """Refuse a column that is nearly one of EXPOSURES; columns of the user's own are left alone."""
    known = [column.name for column in EXPOSURES.columns]
    for name in given:
        near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=_NEAR)
        if name not in known and near and near[0] not in given:
            raise InputError(f"{table} has the column {name!r}; did you mean {near[0]!r}? Rename it, or a column of your own more clearly.")


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value)) or str(value).strip() == ""


def _found_entries(root: Path, cfg: FolderConfig) -> list[dict[str, Any]]:
    if cfg.role_rule is None:
        raise ConfigError("survey.folder needs a table or a role_rule to tell science from reference; set one of them.")
    found = {path.relative_to(root).as_posix() for pattern in cfg.pattern for path in root.glob(pattern) if path.is_file()}
    names = {path.rsplit("/", 1)[-1] for path in found}
    kept = [name for name in sorted(found) if not any(_matches(name, pattern) for pattern in cfg.exclude)]
    return [{"path": name} for name in kept if not is_companion(Path(name), names)]


def _matches(name: str, pattern: str) -> bool:
    return fnmatch(name, pattern) or fnmatch(name, pattern.removeprefix("**/"))


def _exposures(root: Path, entry: dict[str, Any], cfg: FolderConfig) -> list[dict[str, Any]]:
    return [row for row, _ in read_file(root, entry, cfg)]


def read_file(root: Path, entry: dict[str, Any], cfg: FolderConfig) -> list[tuple[dict[str, Any], Listing]]:
    """Complete EXPOSURES rows of one file, one an exposure in it, each with what was read.

    `entry` has the columns that are known, `path` (relative to `root`) among them; it wins over the mission and header, these over the
    configuration. Raises `InputError` where the file or a row cannot be used.
    """
    path = root / str(entry["path"])
    listings = list_exposures(path, str(entry.get("hdu", cfg.hdu)))
    several = len(listings) > 1
    return [(_exposure(root, path, entry, listing, cfg, several=several), listing) for listing in listings]


def _exposure(root: Path, path: Path, entry: dict[str, Any], listing: Listing, cfg: FolderConfig, *, several: bool) -> dict[str, Any]:
    header, hdu = listing.header, listing.hdu
    row: dict[str, Any] = {"calibrated": cfg.calibrated or listing.identity is not None, **entry, "hdu": hdu}
    _type(row, path)
    if listing.identity is not None:
        for column, value in dataclasses.asdict(listing.identity).items():
            if value and value == value:  # neither empty nor NaN
                row.setdefault(column, value)
    for column in _TEXT:
        row.setdefault(column, header_text(header, _keywords(cfg, column)))
    for column in _NUMBERS:
        # The gain of a known mission's product is its mission's to say.
        row.setdefault(column, None if listing.identity and column != "exptime" else header_number(header, _keywords(cfg, column)))
    row["survey"] = row["survey"] or cfg.survey
    row["unit"] = row["unit"] or cfg.unit
    if "mjd" not in row:
        exptime = float("nan") if row["exptime"] is None else float(row["exptime"])
        row["mjd"] = header_mjd(header, _keywords(cfg, "mjd"), exptime)
    if row["mjd"] is None:
        raise InputError(f"{path} has no date in {_listed(cfg, 'mjd')}; give the column mjd or the keyword.")
    if "role" not in row and cfg.role_rule is not None:
        row["role"] = _role(header, float(row["mjd"]), cfg.role_rule, path)
    _check(row, cfg, path)
    for column in ("survey", "field_id"):
        row[column] = safe_name(str(row[column] or "field"))
    stem = file_stem(path.name)
    own = hdu if several or (hdu and "hdu" in entry) else ""
    name = f"{stem}-{own}" if own else stem
    if "exposure_id" in entry:
        name = f"{entry['exposure_id']}-{own}" if several else str(entry["exposure_id"])
    row["exposure_id"] = safe_name(name)
    centre = listing.wcs.pixel_to_world_values((listing.shape[1] - 1) / 2, (listing.shape[0] - 1) / 2)
    row["s_ra"], row["s_dec"] = float(centre[0]) % 360.0, float(centre[1])
    row.update({f"{kind}_path": _companion(root, path, stem, entry, kind, cfg, listing) for kind in COMPANIONS})
    return row


def _type(row: dict[str, Any], path: Path) -> None:
    """Give the table's numbers and truth values their type, in place, so that one wrong cell sets one exposure aside."""
    for column in EXPOSURES.columns:
        if column.kind in ("float", "bool") and column.name in row:
            one = pd.DataFrame({column.name: [row[column.name]]})
            row[column.name] = conform(one, Table("exposures", (column,), ()), source=str(path))[column.name].iloc[0]


def _keywords(cfg: FolderConfig, column: str) -> tuple[str, ...]:
    return {str(name): words for name, words in cfg.keywords.items()}.get(column, ())


def _listed(cfg: FolderConfig, column: str) -> str:
    return f"the keywords {', '.join(_keywords(cfg, column))}" if _keywords(cfg, column) else "any keyword (none is configured)"


def _check(row: dict[str, Any], cfg: FolderConfig, path: Path) -> None:
    if not row.get("role"):
        raise InputError(f"{path} has no role; give the column role in a table, science or reference, or set survey.folder.role_rule.")
    for column in _REQUIRED:
        if not row.get(column):
            raise InputError(
                f"{path} has no {column} in {_listed(cfg, column)}; give the column {column} in a table or survey.folder.keywords.{column}."
            )
    if row["role"] not in ("science", "reference"):
        raise InputError(f"{path} has the role {row['role']!r}; it must be science or reference.")
    for column in _POSITIVE:
        if row[column] is not None and row[column] <= 0:
            raise InputError(f"{path} has {column} = {row[column]:g}, which must be positive; give the column {column} in a table.")


def _role(header: Header, mjd: float, rule: RoleRule, path: Path) -> str:
    if rule.by == "date":
        return "reference" if mjd < rule.split_mjd else "science"
    value = header_text(header, (rule.keyword,))
    for role, values in (("science", rule.science), ("reference", rule.reference)):
        if value in values:
            return role
    known = ", ".join((*rule.science, *rule.reference))
    raise InputError(f"{path} has {rule.keyword} = {value!r}, which survey.folder.role_rule does not know ({known}); add it there.")


def _companion(root: Path, path: Path, stem: str, entry: dict[str, Any], kind: str, cfg: FolderConfig, listing: Listing) -> str:
    """A companion as `_named`. One that the table names must exist, one of the pattern or mission may."""
    given = entry.get(f"{kind}_path")
    if given is not None:
        if not (root / str(given)).is_file():
            raise InputError(f"{path} names the {kind} file {given}, which does not exist; correct the column {kind}_path.")
        return str(given)
    pattern = {str(name): text for name, text in cfg.companions.items()}.get(kind, "")
    beside = path.parent / pattern.format(stem=stem)
    if pattern and beside.is_file():
        return _named(beside, root)
    return _named(listing.siblings[kind], root) if kind in listing.siblings else ""


def _named(path: Path, root: Path) -> str:
    """A path as the exposures' table names it: relative to the folder, whole where it lies outside."""
    return (path.relative_to(root) if path.is_relative_to(root) else path.absolute()).as_posix()


def file_stem(name: str) -> str:
    """A file's name without the ending of FITS and of its packing."""
    return _SUFFIX.sub("", name)


def safe_name(name: str) -> str:
    """A name that can be a folder or file: letters, digits, _ and -."""
    return _UNSAFE.sub("-", name.strip()).strip("-") or "unnamed"

"""Several catalogues -> one CATALOG, with a report of what was merged, refused, kept apart and odd."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from astrid.config.schema.archive import CatalogConfig, CatalogSource
from astrid.io.tables import CATALOG, conform
from astrid.sky.catalog import merge
from astrid.sky.catalog.files import read_export, read_pipes, read_table_file
from astrid.sky.catalog.formats import BY_FORMAT, given
from astrid.sky.catalog.names import designated_year, designation, name_key
from astrid.sky.catalog.rows import Read, Row, read_rows, require_columns
from astrid.sky.catalog.types import is_one_of, wanted_types
from astrid.sky.catalog.values import year_of
from astrid.sky.catalog.vizier import fetch_table

MERGED = ("object_id", "name", "source", "row", "into", "into_source", "into_row", "by", "separation", "days", "gave")
REFUSED = ("source", "row", "name", "reason")


@dataclass(frozen=True)
class Compiled:
    """What came of the catalogues."""

    catalog: pd.DataFrame  # CATALOG
    merged: pd.DataFrame  # a row of input that went into an event of an earlier one: MERGED columns
    refused: pd.DataFrame  # a row of input that is no event: REFUSED columns
    report: dict[str, Any]  # counts, by source, type and year; odd cells, names and dates that disagree, near pairs that are two events


def compile_catalogs(sources: Sequence[CatalogSource], cfg: CatalogConfig) -> Compiled:
    """Compile catalogues into one, an earlier one winning field by field.

    Every row of input is one event, merged into one, or refused: rows = events + merged + refused. `types`, `discovered` and
    `limit` of the settings then leave events out, which the report counts apart.

    Raises
    ------
    InputError
        A file is missing, unreadable or without names and coordinates, or VizieR does not answer.
    ConfigError
        A wanted type is not known.
    """
    wanted = wanted_types(cfg.types, "survey.archive.catalog.types")
    labels = _labels(sources)
    reads = [_read(source, place, cfg.server) for place, source in enumerate(sources)]
    rows = [row for read in reads for row in read.rows]
    matches = merge.match(rows, radius=cfg.match_radius, days=cfg.match_days, name_radius=cfg.name_radius)
    events = [_event([rows[number] for number in group], labels) for group in matches.groups]
    catalog = conform(pd.DataFrame(events) if events else CATALOG.empty(), CATALOG, source="the compiled catalogue")
    refused = _refused(reads, rows, matches, labels)
    merged = _merged(rows, matches, events, labels)
    total = sum(len(read.rows) + len(read.refused) for read in reads)
    if total != len(events) + len(merged) + len(refused):
        raise AssertionError(f"{total} rows are not {len(events)} events, {len(merged)} merged and {len(refused)} refused")
    kept, left_out = _wanted(catalog, cfg, wanted)
    counts = {"rows": total, "events": len(events), "merged": len(merged), "refused": len(refused), "kept": len(kept), "left_out": left_out}
    report = {
        **counts,
        "sources": _by_source(sources, labels, reads, merged, refused),
        "by_type": dict(sorted(Counter(name or "unknown" for name in kept["transient_type"]).items())),
        "by_year": _by_year(kept),
        "uncertain": int(kept["type_uncertain"].sum()),
        "peculiar": int(kept["type_peculiar"].sum()),
        "undated": int(kept["discovery_mjd"].isna().sum()),
        "year_disagrees": _year_disagrees(catalog),
        "apart": [_apart(rows[one], rows[other], arcsec, reason, labels) for one, other, arcsec, reason in matches.apart],
        "odd": [
            {"source": labels[place], "row": row, "name": name, "note": note}
            for place, read in enumerate(reads)
            for row, name, note in read.notes
        ],
    }
    return Compiled(kept, merged, refused, report)


def account(report: Mapping[str, Any]) -> str:
    """The sum of a compilation: 6539 rows = 6530 events + 9 merged + 0 refused."""
    text = "{rows} rows = {events} events + {merged} merged + {refused} refused".format(**report)
    left_out = {name: number for name, number in report["left_out"].items() if number}
    return text + (
        f"; {report['kept']} kept, left out by {', '.join(f'{name} {number}' for name, number in left_out.items())}" if left_out else ""
    )


def _labels(sources: Sequence[CatalogSource]) -> list[str]:
    """The file's name or the catalogue's in VizieR; the whole path where names are the same."""
    names = [source.path if source.format == "vizier" else Path(source.path).name for source in sources]
    return [source.path if names.count(name) > 1 else name for source, name in zip(sources, names, strict=True)]


def _read(source: CatalogSource, place: int, server: str) -> Read:
    if source.format == "vizier":
        frame = fetch_table(source.path, server=server)
    else:
        reader = {"sncat": read_pipes, "table": read_table_file}.get(source.format, read_export)
        frame = reader(Path(source.path))
    found = given(frame, source.format)
    require_columns(found, BY_FORMAT[source.format], source.path)
    return read_rows(found, place, own_names=source.format == "table")


def _event(rows: Sequence[Row], labels: Sequence[str]) -> dict[str, Any]:
    """A row of CATALOG: each field from the first of the rows that has it, with where it comes from."""
    named = _named(rows)
    names = {name_key(name): name for row in reversed(rows) for name in (*reversed(row.aliases), row.name)}
    others = {key: names[key] for row in rows for key in map(name_key, (row.name, *row.aliases)) if names[key] != named.name}
    dated, typed, shifted, hosted = _dated(rows), _first(rows, "type"), _first(rows, "redshift"), _first(rows, "host")
    placed = next((row for row in rows if np.isfinite(row.host_ra)), None)
    sources = dict.fromkeys([labels[named.source], *(labels[row.source] for row in rows)])
    return {
        "object_id": named.name,
        "s_ra": rows[0].ra,
        "s_dec": rows[0].dec,
        "discovery_mjd": dated.date.mjd if dated else np.nan,
        "transient_type": typed.type.name if typed else "",
        "redshift": shifted.redshift if shifted else np.nan,
        "host": hosted.host if hosted else "",
        "host_ra": placed.host_ra if placed else np.nan,
        "host_dec": placed.host_dec if placed else np.nan,
        "source": "; ".join(sources),
        "aliases": list(others.values()),
        "discovery_precision": dated.date.precision if dated else np.nan,
        "type_uncertain": bool(typed and typed.type.uncertain),
        "type_peculiar": bool(typed and typed.type.peculiar),
        "position_source": labels[rows[0].source],
        "discovery_source": labels[dated.source] if dated else "",
        "type_source": labels[typed.source] if typed else "",
        "redshift_source": labels[shifted.source] if shifted else "",
        "host_source": "; ".join(dict.fromkeys(labels[row.source] for row in (hosted, placed) if row)),
    }


def _named(rows: Sequence[Row]) -> Row:
    """The row that names the event: of the first catalogue among them, a designation before another name."""
    return min((row for row in rows if row.source == rows[0].source), key=lambda row: designation(row.name) == "")


def _dated(rows: Sequence[Row]) -> Row | None:
    """The first row with a date of discovery, or else with one of the maximum."""
    dated = [row for row in rows if np.isfinite(row.date.mjd)]
    return min(dated, key=lambda row: row.at_maximum) if dated else None


_HAS: dict[str, Callable[[Row], bool]] = {
    "type": lambda row: bool(row.type.name),
    "redshift": lambda row: bool(np.isfinite(row.redshift)),
    "host": lambda row: bool(row.host),
    "date": lambda row: bool(np.isfinite(row.date.mjd)),
}


def _first(rows: Sequence[Row], field: str) -> Row | None:
    return next((row for row in rows if _HAS[field](row)), None)


def _merged(rows: Sequence[Row], matches: merge.Matches, events: Sequence[dict[str, Any]], labels: Sequence[str]) -> pd.DataFrame:
    out = []
    for group, event in zip(matches.groups, events, strict=True):
        members = [rows[number] for number in group]
        givers = {
            "name": _named(members),
            "date": _dated(members),
            **{field: _first(members, field) for field in ("type", "redshift", "host")},
        }
        for row in members[1:]:
            keys = set(map(name_key, (row.name, *row.aliases)))
            shares = any(other is not row and keys & set(map(name_key, (other.name, *other.aliases))) for other in members)
            gave = " ".join(field for field, giver in givers.items() if giver is row)
            apart, days = merge.separation(members[0], row), merge.gap(members[0].date, row.date)
            by = "name" if shares else "position and date" if np.isfinite(days) else "position and year of the name"
            place, into = (row.name, labels[row.source], row.number), (members[0].name, labels[members[0].source], members[0].number)
            out.append((event["object_id"], *place, *into, by, round(apart, 3), round(days, 3), gave))
    return pd.DataFrame(out, columns=list(MERGED))


def _refused(reads: Sequence[Read], rows: Sequence[Row], matches: merge.Matches, labels: Sequence[str]) -> pd.DataFrame:
    out = [(place, row, name, reason) for place, read in enumerate(reads) for row, name, reason in read.refused]
    for number, (other, arcsec) in matches.refused.items():
        row, taken = rows[number], rows[other]
        reason = (
            f"its name is that of row {taken.number} of {labels[taken.source]}, {arcsec:.0f} arcsec away; correct the name or the place."
        )
        out.append((row.source, row.number, row.name, reason))
    return pd.DataFrame([(labels[place], *rest) for place, *rest in sorted(out)], columns=list(REFUSED))


def _wanted(catalog: pd.DataFrame, cfg: CatalogConfig, types: Iterable[str]) -> tuple[pd.DataFrame, dict[str, int]]:
    """The events that the settings ask for, in their order, and how many others each setting left out."""
    left_out = dict.fromkeys(("types", "discovered", "limit"), 0)

    def keep(frame: pd.DataFrame, good: Any, why: str) -> pd.DataFrame:
        left_out[why] = int(len(frame) - np.count_nonzero(good))
        return frame[good]

    kept, types = catalog, tuple(types)
    if types:
        kept = keep(kept, np.array([is_one_of(name, types) for name in kept["transient_type"]], bool), "types")
    if cfg.discovered is not None:
        kept = keep(kept, kept["discovery_mjd"].between(*cfg.discovered).to_numpy(), "discovered")
    if cfg.limit:
        latest = kept.sort_values(["discovery_mjd", "object_id"], ascending=[False, True], kind="stable").index[: cfg.limit]
        kept = keep(kept, kept.index.isin(latest), "limit")
    return kept.reset_index(drop=True), left_out


def _by_source(
    sources: Sequence[CatalogSource], labels: Sequence[str], reads: Sequence[Read], merged: pd.DataFrame, refused: pd.DataFrame
) -> list[dict[str, Any]]:
    return [
        {
            "source": label,
            "format": source.format,
            "rows": len(read.rows) + len(read.refused),
            "merged": int((merged["source"] == label).sum()),
            "refused": int((refused["source"] == label).sum()),
            "odd": len(read.notes),
        }
        for source, label, read in zip(sources, labels, reads, strict=True)
    ]


def _by_year(catalog: pd.DataFrame) -> dict[str, int]:
    dated = catalog["discovery_mjd"].dropna()
    return {str(year): count for year, count in sorted(Counter(map(year_of, dated)).items())}


def _year_disagrees(catalog: pd.DataFrame) -> list[dict[str, Any]]:
    """Events whose designation tells another year than their date; they are kept."""
    out = []
    for row in catalog.itertuples(index=False):
        told = designated_year(row.object_id)
        if told is not None and np.isfinite(row.discovery_mjd):
            first, last = year_of(row.discovery_mjd), year_of(row.discovery_mjd + max(row.discovery_precision - 1.0, 0.0))
            if not first <= told <= last:
                out.append({"object_id": row.object_id, "named": told, "discovered": first, "discovery_mjd": row.discovery_mjd})
    return out


def _apart(one: Row, other: Row, arcsec: float, reason: str, labels: Sequence[str]) -> dict[str, Any]:
    names = [f"{row.name} ({labels[row.source]}, row {row.number})" for row in (one, other)]
    return {"events": names, "separation": round(arcsec, 3), "reason": reason}

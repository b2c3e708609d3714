"""`astrid catalog`: supernovae of one or several catalogues in one table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from astrid.commands.paths import check_outputs
from astrid.config.schema.archive import CatalogConfig, CatalogFormat, CatalogSource
from astrid.core.errors import InputError
from astrid.core.runtime import write_bytes, write_json
from astrid.io.tables import CATALOG, write_table

_IN_VIZIER = re.compile(r"(B|[IVX]+|J)(/[\w+.&-]+)+$")  # how VizieR names catalogues: B/sn/sncat, II/283/sncat, J/A+A/538/A120
_LONG = 30  # years of discoveries from which the table shows decades
_SHOWN = 5  # odd cells, near pairs and such that are printed; all are in the report


def catalog(sources: Sequence[str], output: Path, *, formats: Sequence[CatalogFormat], cfg: CatalogConfig) -> None:
    """Compile catalogues into a CATALOG table, with the lists of what was merged and refused beside it, and print the sums.

    `sources`: files, or names of catalogues in VizieR; `formats`: none (they are detected), one for all, or one each. Besides
    `output` it writes <its name>.merged.csv, .refused.csv and .json. `cfg` gives the rest, its own sources do not count.

    Raises
    ------
    InputError
        A source is missing, of no known format, lacks names or coordinates, VizieR does not answer, or no event is left.
    """
    from astrid.sky.catalog.compile import account, compile_catalogs

    chosen = tuple(_source(text, kind) for text, kind in zip(sources, _each(formats, len(sources)), strict=True))
    if output.suffix != ".parquet":
        raise InputError(
            f"{output} does not end in .parquet, and the catalogue is a Parquet table; name it {output.with_suffix('.parquet')}."
        )
    merged, refused, report = (output.with_name(f"{output.stem}{end}") for end in (".merged.csv", ".refused.csv", ".json"))
    check_outputs([Path(one.path) for one in chosen if one.format != "vizier"], [output, merged, refused, report])
    compiled = compile_catalogs(chosen, replace(cfg, sources=chosen))
    for path, content in ((merged, compiled.merged), (refused, compiled.refused)):
        write_bytes(path, content.to_csv(index=False).encode())
    write_json(report, compiled.report)
    if compiled.catalog.empty:
        raise InputError(f"no event is left of {account(compiled.report)}; see {refused} and {report}.")
    write_table(compiled.catalog, output, CATALOG)
    print(_summary(compiled.report, account(compiled.report)))
    print(f"events -> {output}\nmerged -> {merged}\nrefused -> {refused}\nreport -> {report}")


def _each(formats: Sequence[CatalogFormat], number: int) -> Sequence[CatalogFormat | None]:
    if len(formats) not in (0, 1, number):
        raise InputError(f"{len(formats)} formats are given for {number} sources; give none, one for all, or one for each in their order.")
    if len(formats) == number:
        return formats
    return [formats[0] if formats else None] * number


def _source(text: str, kind: CatalogFormat | None) -> CatalogSource:
    """The source with its format, which the file tells where none is given."""
    from astrid.sky.catalog.files import detect_format

    if kind is None and _IN_VIZIER.match(text) and not Path(text).exists():
        kind = "vizier"
    return CatalogSource(format=kind or detect_format(Path(text)), path=text)


def _summary(report: Mapping[str, Any], account: str) -> str:
    lines = [f"{'source':32} {'format':7} {'rows':>7} {'merged':>7} {'refused':>8} {'odd':>5}"]
    for one in report["sources"]:
        lines.append(f"{one['source']:32} {one['format']:7} {one['rows']:7d} {one['merged']:7d} {one['refused']:8d} {one['odd']:5d}")
    lines += ["", account, "", *_beside(_types(report), _times(report)), ""]
    lines += _listed("designations tell another year than the date", [_disagreement(one) for one in report["year_disagrees"]])
    lines += _listed("near pairs are kept as two events", [f"{' and '.join(one['events'])}: {one['reason']}" for one in report["apart"]])
    lines += _listed("cells are odd", [f"{one['source']}, row {one['row']}, {one['name']}: {one['note']}" for one in report["odd"]])
    return "\n".join(lines)


def _disagreement(one: Mapping[str, Any]) -> str:
    return f"{one['object_id']}, discovered {one['discovered']}"


def _types(report: Mapping[str, Any]) -> list[str]:
    most = sorted(report["by_type"].items(), key=lambda item: (-item[1], item[0]))
    lines = [f"{'type':16} {'events':>7}", *(f"{name[:16]:16} {count:7d}" for name, count in most)]
    return [*lines, f"{'(uncertain)':16} {report['uncertain']:7d}", f"{'(peculiar)':16} {report['peculiar']:7d}"]


def _times(report: Mapping[str, Any]) -> list[str]:
    years = {int(year): count for year, count in report["by_year"].items()}
    decades = bool(years) and max(years) - min(years) >= _LONG
    counts: Counter[str] = Counter()
    for year, count in years.items():
        counts[f"{year // 10 * 10}s" if decades else str(year)] += count
    lines = [f"{'discovered':12} {'events':>7}", *(f"{name:12} {count:7d}" for name, count in counts.items())]
    return [*lines, f"{'no date':12} {report['undated']:7d}"]


def _beside(left: list[str], right: list[str]) -> list[str]:
    width, rows = max(map(len, left)), max(len(left), len(right))
    return [
        f"{a:{width}}    {b}".rstrip() for a, b in zip(left + [""] * (rows - len(left)), right + [""] * (rows - len(right)), strict=True)
    ]


def _listed(what: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    more = [f"  and {len(lines) - _SHOWN} more in the report"] if len(lines) > _SHOWN else []
    return [f"{len(lines)} {what}:", *(f"  {line}" for line in lines[:_SHOWN]), *more]

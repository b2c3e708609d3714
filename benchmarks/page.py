"""The tables as text, JSON, one HTML page and one picture."""

from __future__ import annotations

import html
import json
import math
import platform
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Row, Table

_STYLE = """body{font:15px/1.45 system-ui,sans-serif;max-width:78rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse;width:100%}
td,th{padding:.25rem .6rem;border-bottom:1px solid #d8dee4;text-align:left;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}td.note{color:#57606a;font-size:.87em}
.ok{color:#1a7f37;font-weight:600}.no{color:#cf222e;font-weight:600}img{max-width:100%}
@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}td,th{border-color:#30363d}td.note{color:#9198a1}img{background:#fff}}"""


def number(value: float) -> str:
    """Three significant digits, or a dash."""
    if not math.isfinite(value):
        return "-"
    if value == 0 or 0.01 <= abs(value) < 10:
        return f"{value:.3f}"
    return f"{value:.1f}" if 10 <= abs(value) < 1e4 else f"{value:.2e}"


def verdict(row: Row) -> str:
    return {True: "pass", False: "FAIL", None: ""}[row.passed]


def interval(row: Row) -> str:
    return f"[{number(row.low)}, {number(row.high)}]" if math.isfinite(row.low) and math.isfinite(row.high) else ""


def text(table: Table) -> str:
    """A table for the terminal."""
    widest = max((len(row.name) for row in table.rows), default=0)
    lines = [table.title, "-" * len(table.title)]
    for row in table.rows:
        cells = f"{row.name:<{widest}}  {number(row.value):>9} {row.unit:<8} {interval(row):<20}"
        lines.append(f"{cells} {row.target:<14} {verdict(row):<5} {row.note}".rstrip())
    return "\n".join([*lines, ""])


def summary(tables: list[Table]) -> str:
    judged = [row for table in tables for row in table.rows if row.passed is not None]
    failed = [row for row in judged if not row.passed]
    lines = [f"{len(judged) - len(failed)} of {len(judged)} figures with a target reach it"]
    lines += [f"  FAIL  {row.name}: {number(row.value)} {row.unit} ({row.target})" for row in failed]
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """What the seconds were measured on, in words without names."""
    import scipy

    model = next((line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    return {"processor": model, "python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__}


def _lines(path: str) -> list[str]:
    place = Path(path)
    return place.read_text().splitlines() if place.exists() else []


def merge(path: Path, tables: dict[str, Table], settings: dict[str, Any]) -> dict[str, Any]:
    """The record on disk with these tables in place of their older selves: `--only` renews a part."""
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    old = record.get("tables", {})
    new = {name: {**table.record(), "settings": settings} for name, table in tables.items()}
    return {"machine": machine(), "tables": {**old, **new}}


def write(folder: Path, record: dict[str, Any]) -> list[Path]:
    """benchmarks.json, benchmarks.png and benchmarks.html."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmarks.json").write_text(json.dumps(_plain(record), indent=1) + "\n")
    tables = {
        name: Table(entry["title"], [_row(row) for row in entry["rows"]], entry["curves"]) for name, entry in record["tables"].items()
    }
    draw(tables, folder / "benchmarks.png")
    (folder / "benchmarks.html").write_text(_html(record["machine"], list(tables.values())))
    return [folder / f"benchmarks.{ending}" for ending in ("json", "png", "html")]


def _plain(value: Any) -> Any:
    """NaN as null, six digits of a float: equal figures are equal bytes."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def _row(values: dict[str, Any]) -> Row:
    return Row(**{**values, **{key: float("nan") for key in ("value", "low", "high") if values[key] is None}})


def _html(about: dict[str, Any], tables: list[Table]) -> str:
    parts = [
        "<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'><title>AstrID benchmarks</title>",
        f"<style>{_STYLE}</style><h1>AstrID benchmarks</h1>",
        f"<p>{html.escape('; '.join(f'{key} {value}' for key, value in about.items()))}. Intervals are 68 %. "
        "Ratios are of one run and carry over to other machines, seconds do not.</p>",
        "<p><img src='benchmarks.png' alt='benchmark figures'></p>",
        f"<pre>{html.escape(summary(tables))}</pre>",
    ]
    for table in tables:
        parts.append(f"<h2>{html.escape(table.title)}</h2><table><tr><th>figure<th>value<th>interval<th>target<th><th>")
        for row in table.rows:
            mark = f"<span class={'ok' if row.passed else 'no'}>{verdict(row)}</span>" if row.passed is not None else ""
            cells = [html.escape(cell) for cell in (row.name, f"{number(row.value)} {row.unit}", interval(row), row.target)]
            values = "<td class=n>".join(cells[1:])
            parts.append(f"<tr><td>{cells[0]}<td class=n>{values}<td>{mark}<td class=note>{html.escape(row.note)}")
        parts.append("</table>")
    return "\n".join(parts) + "\n"


def draw(tables: dict[str, Table], path: Path) -> None:
    """Completeness against theory, and every figure with a numeric limit as its share of the limit."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
    curves = tables["quality"].curves if "quality" in tables else {}
    for name, curve in curves.items():
        snr, found, n = (np.array(curve[key]) for key in ("snr", "found", "n"))
        middle = (found * n + 0.5) / (n + 1)
        half = np.sqrt(middle * (1 - middle) / (n + 1) + 0.25 / (n + 1) ** 2)  # Wilson's 68 % interval
        error = np.clip(np.stack([found - middle + half, middle + half - found]), 0, None)
        left.errorbar(snr, found, error, fmt="o", ms=4, label=name.removeprefix("completeness, "))
    if curves:
        first = next(iter(curves.values()))
        left.plot(first["snr"], first["theory"], "k-", lw=1, label="theory, sum of Phi(S/N - 5)")
        left.set(xlabel="matched-filter S/N of the injected source", ylabel="fraction found", title="Completeness", ylim=(-0.05, 1.08))
        left.legend(fontsize=8, loc="lower right")
    limits = [
        (row.name, abs(row.value) / limit, bool(row.passed))
        for table in tables.values()
        for row in table.rows
        if "<=" in row.target
        and math.isfinite(row.value)
        and (limit := float(row.target.split("<=")[1].split()[0]))  # of 0 there is no share
    ]
    colours = ["tab:green" if good else "tab:red" for _, _, good in limits]
    right.barh([name for name, _, _ in limits], [share for _, share, _ in limits], color=colours)
    right.axvline(1.0, color="k", lw=1)
    right.invert_yaxis()
    right.tick_params(axis="y", labelsize=6)
    right.set(xlabel="measured over the limit", title="Figures with a limit")
    figure.savefig(path, metadata={"Software": None})

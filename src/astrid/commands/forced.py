"""`astrid forced`: light curves at given positions of the sky on any number of difference products."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from astrid.commands.paths import check_outputs
from astrid.config.schema.candidates import ForcedConfig
from astrid.core.errors import AstridError, InputError
from astrid.core.runtime import atomic_path, log
from astrid.io.tables import LIGHTCURVES, write_table

_SHOWN = 20  # rows of the printed table
_PANELS = 12  # positions of a picture
_INCHES, _DPI = (8.0, 2.4), 120  # a panel


def forced(
    products: Sequence[Path], output: Path, *, at: Sequence[str], positions: Path | None, cfg: ForcedConfig, picture: Path | None
) -> None:
    """Measure every position on every product that holds it, write a LIGHTCURVES table to `output` and print it.

    `at`: positions as "RA,DEC", deg or sexagesimal, ICRS; `positions`: a table (csv, parquet, ecsv) with a name and coordinates
    for each; `picture`: PNG of flux against time. A product that cannot be read is named and left out.

    Raises `InputError` when no position is given or read, no product can be read, or none holds a position.
    """
    check_outputs([*products, positions], [output, picture])
    names, ra, dec = _positions(at, positions)
    curves = _measure(products, names, ra, dec, cfg)
    write_table(curves, output, LIGHTCURVES)
    print(_summary(curves, output))
    if picture is not None:
        _draw(curves, picture)
        print(f"picture -> {picture}")


def _positions(at: Sequence[str], path: Path | None) -> tuple[list[str], Any, Any]:
    from astrid.sky.catalog import read_catalog

    frames = [pd.DataFrame([_parsed(text) for text in at], columns=["object_id", "s_ra", "s_dec"])]
    if path is not None:
        frames.append(read_catalog(path)[["object_id", "s_ra", "s_dec"]])
    table = pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)
    if not len(table):
        raise InputError("no position is given; name one with --at RA,DEC or a table of them with --positions.")
    return table["object_id"].tolist(), table["s_ra"].to_numpy(np.float64), table["s_dec"].to_numpy(np.float64)


def _parsed(text: str) -> tuple[str, float, float]:
    from astropy.coordinates import SkyCoord

    parts = [part.strip() for part in text.split(",")]
    try:
        ra, dec = parts
        sexagesimal = ":" in text or " " in ra
        place = SkyCoord(ra, dec, unit=("hourangle", "deg")) if sexagesimal else SkyCoord(float(ra), float(dec), unit="deg")
    except ValueError:
        raise InputError(f"the position {text!r} is not RA,DEC; write 188.7364,-8.8270 or 12:34:56.7,-08:49:37.") from None
    return text, float(place.ra.deg), float(place.dec.deg)


def _measure(products: Sequence[Path], names: list[str], ra: Any, dec: Any, cfg: ForcedConfig) -> pd.DataFrame:
    from astrid.candidates.forced import light_curve
    from astrid.io.fits import read_difference

    frames, problems = [], []
    for path in products:
        try:
            difference = read_difference(path)
        except AstridError as error:
            problems.append(str(error))
            log.warning("%s is left out: %s", path, error)
            continue
        pair = path.name.removesuffix(".gz").removesuffix(".fits")
        frames.append(light_curve(difference, names, ra, dec, cfg, pair_id=pair))
    if not frames:
        raise InputError(f"none of the {len(products)} products can be read. The first: {problems[0] if problems else 'none was named'}")
    full = [frame for frame in frames if len(frame)]
    if not full:
        raise InputError(
            f"none of the {len(names)} positions lies in one of the {len(frames)} products; check the coordinates (deg, ICRS)."
        )
    return pd.concat(full, ignore_index=True).sort_values(["position_id", "filter", "mjd", "pair_id"], kind="stable").reset_index(drop=True)


def _summary(curves: pd.DataFrame, output: Path) -> str:
    count = curves["position_id"].nunique()
    lines = [f"{len(curves)} points of {count} positions, {int(curves['detected'].sum())} detected -> {output}"]
    lines.append(f"{'position':<24} {'mjd':>12} {'filter':>8} {'flux':>12} {'error':>10} {'S/N':>7} {'limit':>12} flags")
    for row in curves.head(_SHOWN).itertuples():
        limit = f"{row.upper_limit:12.4g}" if np.isfinite(row.upper_limit) else f"{'-':>12}"
        values = f"{row.flux:12.4g} {row.flux_err:10.3g} {row.snr:+7.1f} {limit}"
        lines.append(f"{row.position_id[:24]:<24} {row.mjd:12.5f} {row.filter[:8]:>8} {values} {' '.join(row.flags) or '-'}")
    if len(curves) > _SHOWN:
        lines.append(f"... and {len(curves) - _SHOWN} more in the table")
    return "\n".join(lines)


def _draw(curves: pd.DataFrame, path: Path) -> None:
    """Flux against time, a panel a position and a colour a filter; open arrows are upper limits, hollow points are not usable."""
    from matplotlib.figure import Figure

    shown = curves["position_id"].unique()[:_PANELS]
    figure = Figure(figsize=(_INCHES[0], 0.6 + _INCHES[1] * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), 1, squeeze=False, sharex=True)[:, 0]
    for axes, name in zip(panels, shown, strict=True):
        here = curves[curves["position_id"] == name]
        for number, (band, rows) in enumerate(here.groupby("filter", sort=True)):
            _draw_band(axes, rows, str(band), f"C{number}")
        axes.axhline(0.0, color="0.7", linewidth=0.8, zorder=0)
        axes.set(title=str(name), ylabel=f"flux, {' or '.join(sorted(here['unit'].unique()))}")
        axes.legend(fontsize=7, loc="best")
    panels[-1].set_xlabel("MJD, d")
    if curves["position_id"].nunique() > len(shown):
        figure.suptitle(f"the first {len(shown)} of {curves['position_id'].nunique()} positions", fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=_DPI, format="png", metadata={"Software": None})


def _draw_band(axes: Any, rows: pd.DataFrame, band: str, colour: str) -> None:
    for usable, face in ((True, colour), (False, "none")):
        seen = rows[rows["detected"] & (rows["usable"] == usable)]
        axes.errorbar(seen["mjd"], seen["flux"], seen["flux_err"], fmt="o", ms=4, color=colour, mfc=face, label=band if usable else None)
    limits = rows[~rows["detected"] & rows["usable"] & np.isfinite(rows["upper_limit"])]
    axes.scatter(limits["mjd"], limits["upper_limit"], marker="v", facecolors="none", edgecolors=colour, label=f"{band}, upper limit")

"""`astrid asteroids`: known moving objects in the fields of a table of exposures."""

from __future__ import annotations

from pathlib import Path

from astrid.commands.paths import check_outputs
from astrid.io.tables import ASTEROIDS, EXPOSURES, read_table, write_table


def asteroids(exposures: Path, output: Path, *, radius: float, location: str) -> None:
    """Ask SkyBoT for the fields of `exposures` (EXPOSURES) and write an ASTEROIDS table.

    `radius`: of the cone about each centre, deg; `location`: IAU code of the observatory. Raises `InputError` without a network.
    """
    from astrid.sky.asteroids import fetch_asteroids

    check_outputs([exposures], [output])
    found = fetch_asteroids(read_table(exposures, EXPOSURES), radius=radius, location=location)
    write_table(found, output, ASTEROIDS)
    print(f"{len(found)} positions of {found['name'].nunique()} known objects -> {output}")

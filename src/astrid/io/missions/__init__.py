"""Archive products by mission: which pixels are an exposure, what is already done to them, and what their noise and flags are.

A file is claimed by the first mission that knows its headers; a file that nobody claims is read as before, by its generic
keywords. A mission is one module here with one `Mission`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from astrid.io.missions._base import Companions, Mission, Product
from astrid.io.missions.galex import GALEX
from astrid.io.missions.hst import HST
from astrid.io.missions.jwst import JWST
from astrid.io.missions.panstarrs import PANSTARRS
from astrid.io.missions.tess import TESS
from astrid.io.missions.uvot import UVOT

if TYPE_CHECKING:
    from astropy.io.fits import HDUList

__all__ = ["MISSIONS", "Companions", "Mission", "Product", "is_companion", "mission_of"]

MISSIONS: tuple[Mission, ...] = (UVOT, GALEX, PANSTARRS, HST, JWST, TESS)


def mission_of(hdus: HDUList) -> Mission | None:
    """The mission that claims an open file by its headers; None = a file of no known mission."""
    headers = [hdu.header for hdu in hdus]
    return next((mission for mission in MISSIONS if mission.claims(headers)), None)


def is_companion(path: Path, names: Iterable[str]) -> bool:
    """True when a file's name says that it belongs to another of the `names` in its folder: an exposure map, mask, weight."""
    return any(mission.is_companion(path.name, names) for mission in MISSIONS)

"""Fetched files as exposures: read by their mission's headers, compared with what the archive had said of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from astrid.config.schema.survey import FolderConfig
from astrid.core.errors import InputError
from astrid.core.provenance import digest_bytes
from astrid.io.images import Listing
from astrid.io.missions import is_companion
from astrid.sky.choose import filter_key
from astrid.sky.folder import file_stem, read_file, safe_name

_DATE_TOLERANCE = 1.0  # d by which a header's date may leave the span that the archive gives


@dataclass(frozen=True)
class Arrival:
    """A fetched image and what was wanted with it."""

    path: str  # relative to the root of raw files
    exposure_id: str
    field_id: str
    role: str
    mission: str
    filter: str  # as the archive names it
    t_min: float  # d (MJD)
    t_max: float  # d (MJD)
    ra: float  # deg, of the event
    dec: float  # deg


@dataclass(frozen=True)
class Reading:
    """Exposures of one file (EXPOSURES rows), or why it has none: one of `choose.WHYS` and the sentence."""

    rows: tuple[dict[str, Any], ...]
    why: str = ""
    reason: str = ""


def field_names(events: Iterable[str]) -> dict[str, str]:
    """The field_id of every event; where two would share one, each bears a digest of its name."""
    names = sorted(set(events))
    plain = {name: safe_name(name) for name in names}
    shared = Counter(plain.values())
    return {name: field if shared[field] == 1 else f"{field}-{digest_bytes(name.encode())[:6]}" for name, field in plain.items()}


def exposure_names(files: pd.DataFrame, fields: Mapping[str, str]) -> list[str]:
    """The exposure_id of every file (CHOSEN columns and path): its event and its own name, with the observation's where two are equal."""
    stems = [file_stem(path.rpartition("/")[2]) for path in files["path"]]
    short = [f"{fields[event]}_{stem}" for event, stem in zip(files["object_id"], stems, strict=True)]
    shared = Counter(short)
    return [
        name if shared[name] == 1 else f"{fields[event]}_{mission}-{role}-{obs_id}_{stem}"
        for name, event, mission, role, obs_id, stem in zip(
            short, files["object_id"], files["mission"], files["role"], files["obs_id"], stems, strict=True
        )
    ]


def is_exposure(path: str) -> bool:
    """Whether a file's name can be that of an exposure: FITS, and no mission's companion, as a .tar product has them too."""
    name = path.rpartition("/")[2]
    return file_stem(name) != name and not is_companion(Path(name), ())


def read_arrival(root: Path, arrival: Arrival, cfg: FolderConfig, *, edge: float, longest: bool) -> Reading:
    """The exposures of a fetched file in which the event lies.

    Parameters
    ----------
    root
        Folder of the raw files.
    arrival
        The file.
    cfg
        How headers are read.
    edge
        arcsec by which the event must lie inside.
    longest
        Of several exposures in the file keep the one with the longest exposure time.
    """
    entry = {"path": arrival.path, "exposure_id": arrival.exposure_id, "field_id": arrival.field_id, "role": arrival.role}
    try:
        found = read_file(root, {**entry, "survey": arrival.mission}, cfg)
    except InputError as error:
        return Reading((), "file broken", str(error))
    disagrees = next((text for row, listing in found if (text := _disagrees(row, listing, arrival))), "")
    if disagrees:
        return Reading((), "header disagrees", f"{root / arrival.path}: {disagrees}")
    held = [row for row, listing in found if _holds(listing, arrival, edge)]
    if not held:
        where = f"{arrival.ra:.5f}, {arrival.dec:.5f} deg"
        text = f"{root / arrival.path}: the event at {where} does not lie {edge:g} arcsec inside (survey.archive.choose.edge)."
        return Reading((), "not inside", text)
    if longest:
        held = [max(held, key=lambda row: np.nan_to_num(float(row["exptime"] or 0.0)))]
    return Reading(tuple(held))


def _disagrees(row: Mapping[str, Any], listing: Listing, arrival: Arrival) -> str:
    """What in the header contradicts the archive; empty where nothing does."""
    if listing.identity is not None and listing.identity.survey != arrival.mission:
        return f"its header is one of {listing.identity.survey}, the archive says {arrival.mission}; the file is not used."
    said, wanted = filter_key(str(row["filter"])), filter_key(arrival.filter)
    if said not in wanted.split("+") and wanted not in said.split("+") and said != wanted:
        return f"its header has the filter {row['filter']}, the archive says {arrival.filter}; the file is not used."
    mjd = float(row["mjd"])
    end = arrival.t_max if np.isfinite(arrival.t_max) else arrival.t_min
    if not arrival.t_min - _DATE_TOLERANCE <= mjd <= end + _DATE_TOLERANCE:
        return f"its header has the date MJD {mjd:.3f}, the archive says {arrival.t_min:.3f} to {end:.3f}; the file is not used."
    return ""


def _holds(listing: Listing, arrival: Arrival, edge: float) -> bool:
    """Whether the event lies in the image, `edge` arcsec from its border."""
    from astropy.wcs import NoConvergence
    from astropy.wcs.utils import proj_plane_pixel_scales

    try:
        x, y = (float(value) for value in listing.wcs.world_to_pixel_values(arrival.ra, arrival.dec))
    except NoConvergence:
        return False
    margin = edge / 3600.0 / float(np.mean(proj_plane_pixel_scales(listing.wcs)))
    ny, nx = listing.shape
    return bool(-0.5 + margin <= x <= nx - 0.5 - margin and -0.5 + margin <= y <= ny - 0.5 - margin)

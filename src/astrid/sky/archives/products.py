"""Which files of an observation are exposures that AstrID reads, by mission; their companions are those of the mission's reader.

A mission's archive holds many files an observation. `PRODUCTS` says for each mission which are images, in the order of
preference (where an observation has several kinds, only the first is taken), and what a file's name tells.

Documents on the names: Swift UVOT Software Guide (HEASARC); GALEX pipeline data guide; "PS1 Stack images" and "PS1 Warp
images" (STScI); HST Introduction to the data handbooks, file names; JWST pipeline documentation, data products; TESS Science
Data Products Description Document (EXP-TESS-ARC-ICD-0014).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from astrid.core.provenance import digest_settings
from astrid.io.missions import MISSIONS
from astrid.sky.archives._base import Archive, ArchiveFile, Event, Observation

_SECONDS_A_DAY = 86400.0
_MJD_UNIX = 40587.0  # MJD of 1970-01-01
_ENDINGS = ("", ".gz", ".fz")


@dataclass(frozen=True)
class Products:
    """One mission's rule. A pattern is searched in the URI; its groups tell:

    `obs` the name of the exposure, `band` the filter (through `bands` where that has it), `day` and `part` the start (MJD and
    its decimals), `clock` the start in UTC as year, day of the year, hour, minute, second.
    """

    images: tuple[str, ...]
    instruments: str = ""  # pattern of the archive's instrument names; empty = every one
    bands: Mapping[str, str] = field(default_factory=dict)
    every: float = 0.0  # d; of the files of one observation the first in each such span is taken; 0 = all
    seconds: Mapping[str, float] = field(default_factory=dict)  # band -> s of one exposure, where the archive gives the sum of all


PRODUCTS: Mapping[str, Products] = {
    # Sky images (counts) with their exposure maps (_ex); raw frames (_rw) and grism images (ugu, ugv) are left out.
    "swift": Products(
        (r"/(?P<obs>sw\d{11}(?P<band>uvv|ubb|uuu|uw1|um2|uw2|uwh))_sk\.img(\.gz)?$",),
        bands={"uvv": "V", "ubb": "B", "uuu": "U", "uw1": "UVW1", "um2": "UVM2", "uw2": "UVW2", "uwh": "WHITE"},
    ),
    # Intensity maps with relative response (-rrhr) and flags; a tile's coadd before its single visits, grisms (-ng, -fg) left out.
    "galex": Products(
        (
            r"/d/01-main/.*/(?P<obs>[^/]+-(?P<band>[nf]d))-int\.fits(\.gz)?$",
            r"/(?P<obs>[^/]+-(?P<band>[nf]d))-int\.fits(\.gz)?$",
        ),
        bands={"nd": "NUV", "fd": "FUV"},
    ),
    # Single-epoch warps and stacks, each with mask and variance (.mask, .wt); weights and counts of exposures are left out. The
    # archive gives a stack's time; a warp's is that of the survey (Chambers et al. 2016, arXiv:1612.05560).
    "ps1": Products(
        (
            r"/(?P<obs>rings\.v\d\.skycell\.\d{4}\.\d{3}\.wrp\.(?P<band>[grizy])\.(?P<day>\d{5})_(?P<part>\d{5}))\.fits(\.fz)?$",
            r"/(?P<obs>rings\.v\d\.skycell\.\d{4}\.\d{3}\.stk\.(?P<band>[grizy])\.unconv)\.fits(\.fz)?$",
        ),
        seconds={"g": 43.0, "r": 40.0, "i": 45.0, "z": 30.0, "y": 30.0},
    ),
    # Drizzled images, corrected for charge transfer (drc) before those that are not (drz), else detector frames (flc, flt).
    "hst": Products(
        tuple(rf"/(?P<obs>[a-z][a-z0-9]{{8}})_{kind}\.fits(\.gz|\.fz)?$" for kind in ("drc", "drz", "flc", "flt")),
        instruments=r"^(WFC3|ACS|WFPC2)\b",
    ),
    # Resampled images of a whole observation (level 3), then of one exposure, else calibrated detector frames.
    "jwst": Products(
        (
            r"/(?P<obs>jw\d{5}-[a-z]\d{3,4}_[ts]\d+_[a-z0-9_-]+)_i2d\.fits$",
            r"/(?P<obs>jw\d{11}_\d{5}_\d{5}_[a-z0-9]+)_i2d\.fits$",
            r"/(?P<obs>jw\d{11}_\d{5}_\d{5}_[a-z0-9]+)_cal\.fits$",
        ),
        instruments=r"^(NIRCAM|NIRISS|MIRI)(/IMAGE)?$",
    ),
    # Calibrated full-frame images; of the hundreds a day one is enough.
    "tess": Products((r"/(?P<obs>tess(?P<clock>\d{13})-s\d{4}-\d-\d-\d{4}-[a-z])_ffic\.fits(\.gz)?$",), every=1.0),
}


@dataclass(frozen=True)
class _Image:
    """A file that is an image, and what its name says of it."""

    file: ArchiveFile
    found: Mapping[str, str | None]

    @cached_property
    def start(self) -> float | None:
        """d (MJD), where the name tells."""
        if self.found.get("day"):
            return float(f"{self.found['day']}.{self.found['part']}")
        if self.found.get("clock"):
            try:
                when = datetime.strptime(str(self.found["clock"]), "%Y%j%H%M%S").replace(tzinfo=UTC)
            except ValueError:
                return None
            return _MJD_UNIX + when.timestamp() / _SECONDS_A_DAY
        return None


def fingerprint(mission: str) -> str:
    """Digest of a mission's rules: when they change, what was found by them is asked again."""
    rule = PRODUCTS[mission]
    return digest_settings({"images": list(rule.images), "instruments": rule.instruments, "bands": dict(rule.bands), "every": rule.every,
                            "seconds": dict(rule.seconds),
                            "beside": {kind: list(map(list, rules)) for kind, rules in _beside(mission).items()}})  # fmt: skip


def wanted(mission: str, observation: Observation) -> bool:
    """Whether an observation may hold images that AstrID reads."""
    pattern = PRODUCTS[mission].instruments
    return not pattern or re.search(pattern, observation.instrument, re.IGNORECASE) is not None


def merged(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one event, sorted as the MANIFEST is; of a file that several observations list the first row counts."""
    out: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        out.setdefault((row["mission"], row["obs_id"], row["filename"]), row)
    return [out[key] for key in sorted(out)]


def rows(archive: Archive, event: Event, planes: Sequence[Observation], files: Sequence[ArchiveFile]) -> Iterator[dict[str, Any]]:
    """Rows of the MANIFEST for one observation of an event: its images within the window and their companions.

    Parameters
    ----------
    planes
        The observation; several where the archive lists it once a filter.
    files
        Its files.
    """
    mission = planes[0].mission
    rule = PRODUCTS[mission]
    by_name = {file.filename: file for file in sorted(files, key=lambda file: file.uri, reverse=True)}
    seen_spans: set[float] = set()
    for image in sorted(_images(rule, files), key=lambda image: image.file.filename):
        band = image.found.get("band")
        band = rule.bands.get(band, band) if band else None
        plane = next((one for one in planes if band and band.upper() in one.filters.upper().split(";")), planes[0])
        if image.start is not None and rule.seconds:
            plane = replace(plane, exptime=rule.seconds.get(band or "", plane.exptime))
        plane = replace(_dated(plane, image.start), filters=band or plane.filters)
        if not (plane.t_min <= event.last and plane.t_max >= event.first):
            continue
        if rule.every:
            span = math.floor(plane.t_min / rule.every)
            if span in seen_spans:
                continue
            seen_spans.add(span)
        obs_id = str(image.found["obs"])
        yield _row(archive, event, plane, obs_id, "image", image.file)
        for name in companions(mission, image.file.filename):
            if name in by_name:
                yield _row(archive, event, plane, obs_id, "companion", by_name[name])


def _images(rule: Products, files: Sequence[ArchiveFile]) -> list[_Image]:
    """The files of the first kind that there is, each name once."""
    for pattern in rule.images:
        found: dict[str, _Image] = {}
        for file in sorted(files, key=lambda file: file.uri):
            match = re.search(pattern, file.uri)
            if match:
                found.setdefault(file.filename, _Image(file, match.groupdict()))
        if found:
            return list(found.values())
    return []


def _dated(plane: Observation, start: float | None) -> Observation:
    """The observation with the time of one of its files."""
    if start is None:
        return plane
    length = plane.exptime / _SECONDS_A_DAY if math.isfinite(plane.exptime) else 0.0
    return replace(plane, t_min=start, t_max=start + length)


def _beside(mission: str) -> Mapping[str, tuple[tuple[str, str], ...]]:
    return next((reader.beside for reader in MISSIONS if reader.name == mission), {})


def companions(mission: str, image: str) -> list[str]:
    """Names that the files have which the mission's reader looks for beside an image."""
    names = []
    for rules in _beside(mission).values():
        for pattern, replacement in rules:
            name, count = re.subn(pattern, replacement, image)
            if count:
                names += [re.sub(r"\.(gz|fz)$", "", name) + ending for ending in _ENDINGS]
    return [name for name in names if name != image]


def _row(archive: Archive, event: Event, plane: Observation, obs_id: str, kind: str, file: ArchiveFile) -> dict[str, Any]:
    return {
        "object_id": event.object_id,
        "mission": plane.mission,
        "instrument": plane.instrument.lower(),
        "filter": plane.filters,
        "obs_id": obs_id,
        "kind": kind,
        "filename": file.filename,
        "uri": file.uri,
        "cloud_uri": archive.cloud_uri(plane.mission, file.filename, file.uri),
        "size": file.size,
        "checksum": file.checksum,
        "calib_level": file.calib_level or plane.calib_level,
        "t_min": plane.t_min,
        "t_max": plane.t_max,
        "exptime": plane.exptime,
        "s_ra": plane.ra,
        "s_dec": plane.dec,
        "s_region": plane.region,
        "rights": file.rights or plane.rights,
    }

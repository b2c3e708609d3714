"""What MAST's portal answers about a pretend sky: observations near a place, their products, columns, pages, states.

    sky = PretendSky([observation("swift", "00032819001", 210.8, 54.3, mjd=59000.0, band="UVW1"), ...])
    with ArchiveServer(sky.routes()) as server: ...

The protocol is that of https://mast.stsci.edu/api/v0: a form field `request` with JSON, an answer with status, paging,
fields and data. `companions` and `images` say which files an observation has; their bytes are made elsewhere, by URI.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from support.archive_server.faults import Reply, table
from support.archive_server.server import Request, Route

INVOKE = "/api/v0/invoke"
WARPS = "/cgi-bin/ps1filenames.py"
COLUMNS = "/portal/Mashup/Mashup.asmx/columnsconfig"

# Columns of an observation with the types that the portal gives in its answers.
_OBSERVATION = {
    "intentType": "string",
    "obs_collection": "string",
    "provenance_name": "string",
    "instrument_name": "string",
    "project": "string",
    "filters": "string",
    "target_name": "string",
    "obs_id": "string",
    "s_ra": "float",
    "s_dec": "float",
    "dataproduct_type": "string",
    "calib_level": "int",
    "t_min": "float",
    "t_max": "float",
    "t_exptime": "float",
    "s_region": "string",
    "dataRights": "string",
    "obsid": "string",
    "distance": "float",
}
_PRODUCT = {
    "obsID": "string",
    "obs_collection": "string",
    "dataproduct_type": "string",
    "obs_id": "string",
    "description": "string",
    "type": "string",
    "dataURI": "string",
    "productType": "string",
    "productSubGroupDescription": "string",
    "project": "string",
    "productFilename": "string",
    "size": "int",
    "parent_obsid": "string",
    "dataRights": "string",
    "calib_level": "int",
    "filters": "string",
}
_CONTINUOUS = ("s_ra", "s_dec", "t_min", "t_max", "t_exptime", "distance")


@dataclass(frozen=True)
class File:
    """A product of an observation."""

    uri: str
    size: int = 0  # byte; 0 = the archive does not say
    calib_level: int = 2
    rights: str = "PUBLIC"
    filters: str = ""

    @property
    def name(self) -> str:
        return self.uri.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Observation:
    """One row of the archive's table of observations."""

    obsid: str  # the archive's number
    collection: str
    instrument: str
    filters: str
    obs_id: str
    ra: float  # deg
    dec: float  # deg
    t_min: float  # d (MJD)
    t_max: float  # d
    exptime: float  # s
    region: str  # STC-S
    reach: float  # deg, radius of the footprint
    kind: str = "image"
    calib_level: int = 2
    rights: str = "PUBLIC"
    target: str = ""
    files: tuple[File, ...] = field(default=())

    def row(self, distance: float) -> dict[str, Any]:
        return {
            "intentType": "science",
            "obs_collection": self.collection,
            "provenance_name": self.collection,
            "instrument_name": self.instrument,
            "project": self.collection,
            "filters": self.filters,
            "target_name": self.target,
            "obs_id": self.obs_id,
            "s_ra": self.ra,
            "s_dec": self.dec,
            "dataproduct_type": self.kind,
            "calib_level": self.calib_level,
            "t_min": self.t_min,
            "t_max": self.t_max,
            "t_exptime": self.exptime,
            "s_region": self.region,
            "dataRights": self.rights,
            "obsid": int(self.obsid),
            "distance": distance,
        }

    def products(self) -> list[dict[str, Any]]:
        return [
            {
                "obsID": int(self.obsid),
                "obs_collection": self.collection,
                "dataproduct_type": self.kind,
                "obs_id": self.obs_id,
                "description": "",
                "type": "S",
                "dataURI": file.uri,
                "productType": "SCIENCE",
                "productSubGroupDescription": None,
                "project": self.collection,
                "productFilename": file.name,
                "size": file.size or None,
                "parent_obsid": int(self.obsid),
                "dataRights": file.rights,
                "calib_level": file.calib_level,
                "filters": file.filters or self.filters,
            }
            for file in self.files
        ]


_UVOT_LETTERS = {"V": "uvv", "B": "ubb", "U": "uuu", "UVW1": "uw1", "UVM2": "um2", "UVW2": "uw2", "WHITE": "uwh"}
# mission -> collection, instrument, product type, calibration level, radius of the footprint (deg), usual band
_KINDS: Mapping[str, tuple[str, str, str, int, float, str]] = {
    "swift": ("SWIFT", "UVOT", "cube", 2, 0.14, "UVW1"),
    "galex": ("GALEX", "GALEX", "image", 2, 0.6, "NUV"),
    "ps1": ("PS1", "GPC1", "image", 3, 0.2, "r"),
    "hst": ("HST", "WFC3/UVIS", "image", 3, 0.03, "F606W"),
    "jwst": ("JWST", "NIRCAM/IMAGE", "image", 3, 0.03, "F200W"),
    "tess": ("TESS", "Photometer", "image", 3, 8.0, "TESS"),
}


def observation(
    mission: str,
    name: str,
    ra: float,
    dec: float,
    *,
    mjd: float,
    exptime: float = 500.0,
    band: str = "",
    days: float = 0.01,
    files: Sequence[str] | None = None,
    rights: str = "PUBLIC",
    number: int | None = None,
) -> Observation:
    """An observation as the mission's are: names of files, product types, footprint.

    Parameters
    ----------
    name
        Swift: 11 digits; GALEX: a tile; PS1: projection and cell, e.g. 1334.061; HST: 9 letters; JWST: e.g.
        jw01234-o001_t001; TESS: the sector.
    ra, dec
        Centre, deg.
    mjd, days
        Start (MJD) and length; for TESS the length of the sector.
    files
        URIs instead of the mission's usual ones.
    number
        The archive's number of it; one made from its name if None.
    """
    collection, instrument, kind, level, reach, usual = _KINDS[mission]
    band = band or usual
    obs_id, uris = _names(mission, name, band, mjd, days)
    obsid = str(number if number is not None else _number(f"{mission} {obs_id} {band}"))
    return Observation(
        obsid, collection, instrument, band, obs_id, ra, dec, mjd, mjd + days, exptime, region(mission, ra, dec, reach), reach,
        kind, level, rights, "TESS FFI" if mission == "tess" else name,
        tuple(File(uri, 2880 * 10, level, rights, band) for uri in (uris if files is None else files)),
    )  # fmt: skip


def _names(mission: str, name: str, band: str, mjd: float, days: float) -> tuple[str, list[str]]:
    """The observation's name and its products' URIs, those that AstrID leaves aside as well."""
    if mission == "swift":
        base = f"mast:SWIFT/{name}/uvot/image/sw{name}{_UVOT_LETTERS[band]}"
        return name, [f"{base}_{part}.img.gz" for part in ("sk", "ex", "rw")] + [f"mast:SWIFT/{name}/auxil/sw{name}sat.fits.gz"]
    if mission == "galex":
        base = f"mast:GALEX/url/data/GR6/pipe/02-vsn/{name}/d/01-main/0001-img/07-try/{name}-{band[0].lower()}d"
        return name, [f"{base}-{part}.fits.gz" for part in ("int", "cnt", "rrhr", "flags", "skybg")]
    if mission == "ps1":
        stem = f"rings.v3.skycell.{name}.stk.{band}"
        return stem, [f"mast:PS1/product/{stem}.unconv.{part}fits" for part in ("", "mask.", "wt.", "exp.", "num.")]
    if mission == "hst":
        return name, [f"mast:HST/product/{name}_{part}.fits" for part in ("raw", "flc", "drz", "drc")]
    if mission == "jwst":
        stem = f"{name}_nircam_clear-{band.lower()}"
        return stem, [f"mast:JWST/product/{stem}_{part}.fits" for part in ("i2d", "segm")] + [f"mast:JWST/product/{stem}_cat.ecsv"]
    frames = [tess_frame(name, mjd + step / 8.0, count) for count, step in enumerate(range(int(days * 8)))]
    return f"tess-s{int(name):04d}-1-1", [f"mast:TESS/product/{frame}_{part}.fits" for frame in frames for part in ("ffir", "ffic")]


def tess_frame(sector: str, mjd: float, count: int) -> str:
    """The stem of a full-frame image's name: the start in UTC as year, day of the year, hour, minute, second."""
    from astropy.time import Time

    day, clock = Time(mjd, format="mjd").yday.rsplit(".", 1)[0].split(":", 2)[:2], Time(mjd, format="mjd").strftime("%H%M%S")
    return f"tess{day[0]}{day[1]}{clock}-s{int(sector):04d}-1-1-{count:04d}-s"


_FRAMES = {"hst": " GSC1 ", "jwst": " ICRS ", "tess": ""}  # as the archive writes them, with the first corner again at the end


def region(mission: str, ra: float, dec: float, reach: float) -> str:
    """A footprint in the archive's spelling: GALEX's is a circle, the others' a square with the half side `reach` (deg)."""
    if mission == "galex":
        return f"CIRCLE ICRS {ra:.8f}  {dec:.8f} {reach:g}"
    wide = reach / math.cos(math.radians(dec))
    corners = ((-wide, -reach), (-wide, reach), (wide, reach), (wide, -reach))
    closed = corners + corners[:1] if mission in _FRAMES else corners
    return f"POLYGON{_FRAMES.get(mission, ' ICRS')} " + " ".join(f"{ra + x:.6f} {dec + y:.6f}" for x, y in closed)


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")


class PretendSky:
    """Observations and the answers about them; `executing` = how often a question is still under way before it is answered."""

    def __init__(self, observations: Iterable[Observation], *, executing: int = 0, warps: Sequence[str] = ()) -> None:
        self.observations = tuple(observations)
        self.executing = executing
        self.warps = tuple(warps)  # paths on PS1's image server, of every position
        self.questions: list[dict[str, Any]] = []  # every request to INVOKE
        self._polls: Counter[str] = Counter()
        self._lock = threading.Lock()

    def sized(self, size: Callable[[str], int]) -> PretendSky:
        """The same sky with the sizes that the files (by URI) really have."""
        known = [replace(one, files=tuple(replace(file, size=size(file.uri)) for file in one.files)) for one in self.observations]
        return PretendSky(known, executing=self.executing, warps=self.warps)

    @property
    def uris(self) -> list[str]:
        """Every product's."""
        return [file.uri for one in self.observations for file in one.files]

    def routes(self) -> dict[str, Route]:
        """For `ArchiveServer`; add `server.DOWNLOAD` for the files."""
        return {INVOKE: self._invoke, COLUMNS: _columns, WARPS: self._list}

    def _list(self, request: Request) -> Reply:
        """The lines of PS1's image server; right ascension and declination are those that were asked for."""
        lines = ["projcell subcell ra dec filter mjd type filename shortname badflag"]
        for path in self.warps:
            name = path.rsplit("/", 1)[-1]
            cell, band, day = re.search(r"skycell\.(\d+\.\d+)\.wrp\.(\w)\.(\d+_\d+)", name).groups()  # type: ignore[union-attr]
            place, mjd = f"{cell.replace('.', ' ')} {request.query['ra']} {request.query['dec']}", day.replace("_", ".")
            lines.append(f"{place} {band} {mjd} warp {path} {name} 0")
        return Reply("\n".join([*lines, ""]).encode(), "text/plain")

    def _invoke(self, request: Request) -> Reply:
        asked = json.loads(request.form["request"])
        breaker = str(asked.pop("cacheBreaker", ""))
        with self._lock:
            self.questions.append(asked)
            self._polls[breaker] += 1
            polls = self._polls[breaker]
        if polls <= self.executing:
            return table({"status": "EXECUTING", "msg": "", "percent complete": 0.5})
        answers = {
            "Mast.Caom.Filtered.Position": lambda: self._near(asked["params"], cone=False),
            "Mast.Caom.Filtered": lambda: self._near(asked["params"], cone=False),
            "Mast.Caom.Cone": lambda: self._near(asked["params"], cone=True),
            "Mast.Caom.Products": lambda: self._products(asked["params"]),
        }
        if asked["service"] not in answers:
            return table({"status": "ERROR", "msg": f"Unknown service {asked['service']}", "data": []})
        return table(_paged(answers[asked["service"]](), asked, _PRODUCT if "Products" in asked["service"] else _OBSERVATION))

    def _near(self, params: Mapping[str, Any], *, cone: bool) -> list[dict[str, Any]]:
        place = (
            (params["ra"], params["dec"], params["radius"]) if cone else tuple(float(x) for x in params.get("position", "").split(",") if x)
        )
        rows = []
        for one in self.observations:
            if place and abs(place[1] - one.dec) > place[2] + one.reach:
                continue
            distance = _separation(place[0], place[1], one.ra, one.dec) if place else 0.0
            if place and distance > place[2] + one.reach:
                continue
            row = one.row(distance * 3600.0)
            if all(_passes(row, rule) for rule in params.get("filters", [])):
                rows.append(row)
        if params.get("columns", "*").startswith("COUNT"):
            return [{"Column1": len(rows)}]
        return rows

    def _products(self, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        wanted = set(str(params["obsid"]).split(","))
        return [row for one in self.observations if one.obsid in wanted for row in one.products()]


def _paged(rows: list[dict[str, Any]], asked: Mapping[str, Any], types: Mapping[str, str]) -> dict[str, Any]:
    size, page = int(asked.get("pagesize", 50000)), int(asked.get("page", 1))
    part = rows[(page - 1) * size : page * size]
    if rows and "Column1" in rows[0]:
        types = {"Column1": "int"}
    return {
        "status": "COMPLETE",
        "msg": "",
        "data": part,
        "fields": [{"name": name, "type": kind} for name, kind in types.items()],
        "paging": {
            "page": page, "pageSize": size, "pagesFiltered": max(-(-len(rows) // size), 1), "rows": len(part),
            "rowsFiltered": len(rows), "rowsTotal": len(rows),
        },
    }  # fmt: skip


def _passes(row: Mapping[str, Any], rule: Mapping[str, Any]) -> bool:
    value = row[rule["paramName"]]
    if rule["paramName"] in _CONTINUOUS:
        return any(value is not None and span["min"] <= value <= span["max"] for span in rule["values"])
    return str(value) in [str(wanted) for wanted in rule["values"]]


def _separation(ra: float, dec: float, other_ra: float, other_dec: float) -> float:
    """deg, by the haversine formula."""
    one, two = math.radians(dec), math.radians(other_dec)
    half = math.sin((one - two) / 2) ** 2 + math.cos(one) * math.cos(two) * math.sin(math.radians(ra - other_ra) / 2) ** 2
    return math.degrees(2 * math.asin(math.sqrt(half)))


def _columns(request: Request) -> Reply:
    """The columns of a service: those that hold numbers to compare are of the type double."""
    types = _PRODUCT if "Products" in request.body.decode() else _OBSERVATION
    return table({name: {"text": name, "vot.datatype": "double" if name in _CONTINUOUS else "char"} for name in types})

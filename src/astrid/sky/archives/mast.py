"""The Mikulski Archive for Space Telescopes, asked by astroquery: its portal's tables of observations (CAOM) and their products.

Documents: the MAST API (mast.stsci.edu/api/v0: services Mast.Caom.Filtered.Position and Mast.Caom.Products, fields, paging,
states) and astroquery's `Observations`. The client gives the questions; its answers are read here as they come, so that
nothing of astropy's tables and no global setting of the client is shared by the threads.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import requests

from astrid.config.schema.archive import SearchConfig
from astrid.sky.archives._base import Archive, ArchiveFile, Event, Observation
from astrid.sky.archives.products import PRODUCTS, wanted
from astrid.sky.archives.warps import Warps, is_warp, warp_files
from astrid.sky.manners import LONGEST_WISH, ArchiveError, Manners, PassingError, PoliteAdapter, is_page, rest

if TYPE_CHECKING:
    from astroquery.mast import ObservationsClass

Listed = TypeVar("Listed", Observation, ArchiveFile)

_COLLECTIONS = {"swift": "SWIFT", "galex": "GALEX", "ps1": "PS1", "hst": "HST", "jwst": "JWST", "tess": "TESS"}
_MISSIONS = {collection: mission for mission, collection in _COLLECTIONS.items()}
_KINDS = ("image", "cube")  # a Swift UVOT product, which holds one image a snapshot, is listed as a cube
_EVER = (0.0, 100000.0)  # d (MJD), for the open end of a window
_FULL_FRAME = "TESS FFI"  # target of the full-frame images, which the archive's own manual writes with a hyphen
_BATCH = 50  # observations a question for products: 20 to 300 rows each, so that an answer is a few pages at most
_LONG_BATCH = 1  # of TESS, where a sector, camera and chip is one observation of 2500 (30 min an image) to over 20000 rows (200 s)
_BETWEEN_POLLS = 5.0  # s at most, between two looks at a question that is still worked on
_MESSAGE = 200  # characters of the archive's own words in a reason
_BUCKET = "s3://stpubdata"


class Mast(Archive):
    """MAST's portal, and the image server of PS1 for its single epochs.

    Parameters
    ----------
    cfg
        What is asked; `server` replaces the archive's own address.
    manners
        Kept by every request of the client, its polls and pages too.
    """

    name = "mast"
    missions = tuple(_COLLECTIONS)

    def __init__(self, cfg: SearchConfig, manners: Manners) -> None:
        self._cfg = cfg
        self._manners = manners
        self._warps = Warps(cfg, manners)
        self._columns: dict[str, Any] = {}  # what the client learns of the services' columns; asked once, by `connect`
        self._idle: list[_Client] = []  # clients that no thread uses at the moment

    @property
    def address(self) -> str:
        if self._cfg.server:
            return self._cfg.server.rstrip("/")
        from astroquery.mast import conf

        return str(conf.server)

    def connect(self) -> None:
        with self._client() as client:
            portal, own = client.api._portal_api_connection, client.api
            client.ask(lambda: portal._get_col_config(own._caom_filtered_position, own._caom_cone))
            client.ask(lambda: portal._get_col_config(own._caom_products))

    def observations(self, event: Event, missions: Sequence[str]) -> list[Observation]:
        from astropy import units
        from astropy.coordinates import SkyCoord

        with self._client() as client:
            answer = client.ask(
                lambda: client.api.query_criteria_async(
                    coordinates=SkyCoord(event.ra, event.dec, unit="deg"),
                    radius=self._cfg.radius * units.arcsec,
                    obs_collection=[_COLLECTIONS[mission] for mission in missions],
                    dataproduct_type=list(_KINDS),
                    t_min=[_EVER[0], event.last],
                    t_max=[event.first, _EVER[1]],
                    pagesize=self._cfg.page,
                )
            )
        found = [one for row in answer if (one := _observation(row)) is not None and one.mission in missions]
        if "ps1" in missions:
            found += self._warps.near(event, dict(PRODUCTS["ps1"].seconds))
        return _once(found)

    def files(self, numbers: Sequence[str]) -> list[ArchiveFile]:
        found = warp_files([number for number in numbers if is_warp(number)])
        listed = [number for number in numbers if not is_warp(number)]
        if listed:
            with self._client() as client:
                answer = client.ask(lambda: client.api.get_product_list_async(listed))
            found += [file for row in answer if (file := _file(row)) is not None]
        return _once(found)

    def batch(self, mission: str) -> int:
        return _LONG_BATCH if mission == "tess" else _BATCH

    def cloud_uri(self, mission: str, filename: str, uri: str) -> str:
        return cloud_uri(mission, filename, uri)

    @contextmanager
    def _client(self) -> Iterator[_Client]:
        """A client for one question; it keeps its connection for the next."""
        client = self._idle.pop() if self._idle else _Client(self.address, self._cfg, self._manners, self._columns)
        try:
            yield client
        finally:
            self._idle.append(client)


class _Client:
    """One astroquery client, which sends by way of the manners and to the configured address; for one thread at a time."""

    def __init__(self, address: str, cfg: SearchConfig, manners: Manners, columns: dict[str, Any]) -> None:
        from astroquery.mast import ObservationsClass

        self.api: ObservationsClass = ObservationsClass()
        self._address = address
        self._cfg = cfg
        self._manners = manners
        self._since: float | None = None  # s (monotonic), since when the archive works on the question
        session: requests.Session = self.api._session
        adapter = PoliteAdapter(manners, cfg.timeout, self._check)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        portal = self.api._portal_api_connection
        portal.MAST_REQUEST_URL = f"{address}/api/v0/invoke"
        portal.COLUMNS_CONFIG_URL = f"{address}/portal/Mashup/Mashup.asmx/columnsconfig"
        portal.PAGESIZE = cfg.page
        portal.TIMEOUT = 10 * cfg.timeout + LONGEST_WISH  # s, of all pages with their pauses; one request has its own limit
        portal._column_configs = columns

    def ask(self, question: Callable[[], Any]) -> list[dict[str, Any]]:
        """The rows of an answer, all pages. Raises `ArchiveError` with the reason."""
        from astroquery.exceptions import InvalidQueryError, RemoteServiceError

        self._since = None
        try:
            return [row for response in question() or () for row in response.json().get("data", [])]
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else "an error"
            raise ArchiveError(f"{self._address}: it answered with status {status}.") from error
        except (requests.RequestException, RemoteServiceError, InvalidQueryError, TimeoutError, KeyError, ValueError) as error:
            raise ArchiveError(f"{self._address}: the answer cannot be used ({_short(str(error))}).") from error

    def _check(self, response: requests.Response) -> None:
        """Raise `PassingError` for an answer that is none: a web page, an error, fewer rows than it says itself."""
        try:
            content = response.json()
        except requests.exceptions.JSONDecodeError:
            page = is_page(response.content[:64], response.headers.get("Content-Type", ""))
            raise PassingError(f"it answered with {'a web page' if page else 'something else'} instead of a table") from None
        status = content.get("status") if isinstance(content, dict) else None
        if status == "ERROR":
            raise PassingError(f"it answered with the error {_short(str(content.get('msg', '')))!r}")
        if status == "EXECUTING":
            self._patience()
            return
        self._since = None
        if status == "COMPLETE" and (missing := _missing(content)):
            raise PassingError(f"it answered with {missing} rows less than it announced")

    def _patience(self) -> None:
        """Wait before the client looks again; the client itself would look without a pause."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since > self._cfg.timeout:
            raise ArchiveError(f"{self._address}: the question was still worked on after {self._cfg.timeout:g} s.")
        rest(min(1.0 / self._cfg.rate, _BETWEEN_POLLS), self._manners.stop)


def _once(items: Iterable[Listed]) -> list[Listed]:
    """Sorted by number, nothing twice; by what an item shows, since an unknown number (NaN) equals nothing."""
    shown = {repr(item): item for item in items}
    return [shown[key] for key in sorted(shown)]


def _missing(content: Mapping[str, Any]) -> int:
    """Rows that a page lacks, by what the answer says of its pages; 0 where it says nothing."""
    paging, rows = content.get("paging"), content.get("data")
    if not isinstance(paging, dict) or not isinstance(rows, list):
        return 0
    total, size, page = (paging.get(key) for key in ("rowsFiltered", "pageSize", "page"))
    if not (isinstance(total, int) and isinstance(size, int) and isinstance(page, int)):
        return 0
    return max(min(size, total - (page - 1) * size) - len(rows), 0)


def _observation(row: Mapping[str, Any]) -> Observation | None:
    """An observation of the answer, or None where it is none of ours or lacks its time."""
    mission = _MISSIONS.get(str(row.get("obs_collection", "")).upper())
    t_min, t_max = _float(row.get("t_min")), _float(row.get("t_max"))
    number = str(row.get("obsid") or "")
    if mission is None or not number or t_min != t_min or t_max != t_max:
        return None
    if mission == "tess" and str(row.get("target_name", "")).upper().replace("-", " ") != _FULL_FRAME:
        return None
    if _int(row.get("calib_level")) < 0:  # planned, not yet taken
        return None
    observation = Observation(
        number=number,
        mission=mission,
        instrument=str(row.get("instrument_name") or ""),
        filters=str(row.get("filters") or ""),
        calib_level=_int(row.get("calib_level")),
        t_min=t_min,
        t_max=t_max,
        exptime=_float(row.get("t_exptime")),
        ra=_float(row.get("s_ra")),
        dec=_float(row.get("s_dec")),
        region=" ".join(str(row.get("s_region") or "").split()),
        rights=_rights(row.get("dataRights")) or "public",
    )
    return observation if wanted(mission, observation) else None


def _file(row: Mapping[str, Any]) -> ArchiveFile | None:
    uri = str(row.get("dataURI") or "")
    number = str(row.get("parent_obsid") or row.get("obsID") or "")
    if not uri or not number:
        return None
    return ArchiveFile(
        observation=number,
        filename=str(row.get("productFilename") or uri.rsplit("/", 1)[-1]),
        uri=uri,
        size=max(_int(row.get("size")), 0),
        calib_level=max(_int(row.get("calib_level")), 0),
        rights=_rights(row.get("dataRights")),
    )


def cloud_uri(mission: str, filename: str, uri: str) -> str:
    """The key of a public file in MAST's bucket, where the rule is known; the archive itself is the way back.

    The layouts are those of the keys that astroquery's cloud tests, MAST's notebooks (GALEX) and readers of the bucket name (TESS,
    JWST: exposures and mosaics of an observation; those of candidates, jw01345-c1018_..., are not known).
    """
    if mission == "hst" and (match := re.match(r"([a-z][a-z0-9]{8})_", filename)):
        return f"{_BUCKET}/hst/public/{match[1][:4]}/{match[1]}/{filename}"
    if mission == "ps1" and (match := re.match(r"rings\.v(\d)\.skycell\.(\d{4})\.(\d{3})\.", filename)):
        return f"{_BUCKET}/panstarrs/ps1/public/rings.v{match[1]}.skycell/{match[2]}/{match[3]}/{filename}"
    if mission == "tess" and (match := re.match(r"tess(\d{4})(\d{3})\d{6}-(s\d{4})-(\d)-(\d)-", filename)):
        return f"{_BUCKET}/tess/public/ffi/{match[3]}/{match[1]}/{match[2]}/{match[4]}-{match[5]}/{filename}"
    if mission == "jwst" and (match := re.match(r"(jw\d{5})\d{6}_", filename)):
        return f"{_BUCKET}/jwst/public/{match[1]}/{filename[:13]}/{filename}"
    if mission == "jwst" and (match := re.match(r"(jw\d{5})-(o\d{3})_t", filename)):
        return f"{_BUCKET}/jwst/public/{match[1]}/L3/t/{match[2]}/{filename}"
    if mission == "galex" and (match := re.search(r"/(GR\d+/pipe/.+)$", uri)):
        return f"{_BUCKET}/galex/{match[1]}"
    return ""


def _rights(value: object) -> str:
    return str(value or "").strip().lower()


def _float(value: object) -> float:
    try:
        return float(str(value)) if value is not None else float("nan")
    except ValueError:
        return float("nan")


def _int(value: object) -> int:
    number = _float(value)
    return int(number) if number == number and abs(number) < 2**62 else 0


def _short(message: str) -> str:
    text = " ".join(message.split())
    return text if len(text) <= _MESSAGE else f"{text[:_MESSAGE]}..."

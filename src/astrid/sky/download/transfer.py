"""One file over HTTP: from the public bucket or the archive, resumed by byte range, into a temporary file."""

from __future__ import annotations

import json
import os
import re
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import requests

from astrid.config.schema.archive import DownloadConfig
from astrid.core.runtime import write_json
from astrid.sky.download.plan import GB, Item, Why
from astrid.sky.manners import ArchiveError, Manners, PassingError, RateLimit, StoppedError, is_page, passing_status

ARCHIVE = "https://mast.stsci.edu"
TOKEN = "MAST_API_TOKEN"  # environment variable, as the archive's own client reads it
_SERVICE = "/api/v0.1/Download/file?uri="
_COOKIE = "mast_token"  # how the archive takes a token
_CHUNK = 1 << 16  # bytes
_PLACE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)$")
_GROWN = 1_000_000  # bytes by which a file must have grown for a new round of attempts
_CLOUD_RETRIES = 1  # the archive is the way back, so that a bucket need not be asked often


class RefusedError(Exception):
    """The archive does not deliver the file, and another attempt is no use."""

    def __init__(self, reason: str, why: Why = "not delivered") -> None:
        super().__init__(reason)
        self.why = why


@dataclass(frozen=True)
class _Source:
    url: str
    manners: Manners
    session: requests.Session


class Transfers:
    """Fetches files within the archive's manners; one for all threads.

    Parameters
    ----------
    cfg
        Servers, rates, time limits.
    seed
        Of the jitter in the pauses.
    count
        Called with the number of bytes whenever some have arrived.
    """

    def __init__(self, cfg: DownloadConfig, seed: int, count: Callable[[int], None]) -> None:
        self._cfg = cfg
        self._count = count
        self.manners = Manners(cfg.rate, cfg.retries, seed=seed)
        self.stop = self.manners.stop
        self._cloud_manners = Manners(cfg.rate, min(cfg.retries, _CLOUD_RETRIES), seed=seed)
        self._cloud_manners.limit, self._cloud_manners.stop = self.manners.limit, self.stop
        self._bytes = RateLimit(cfg.megabytes_a_second * 1e6, stop=self.stop) if cfg.megabytes_a_second else None
        self._local = threading.local()
        self._answered: set[str] = set()
        self._announced: dict[str, int] = {}  # the wrong length that was last announced for a file

    def fetch(self, item: Item, part: Path, accept: Callable[[], None]) -> None:
        """Bring a file into `part` and have it accepted.

        Parameters
        ----------
        item
            The file.
        part
            Where its bytes gather; what an earlier run left there is completed if it belongs to the same content.
        accept
            Called with the whole file in `part`; raises `PassingError` where another transfer may help (`part` must be gone then).

        Raises
        ------
        RefusedError, ArchiveError, StoppedError
            The archive has no such file, does not answer, or the run is being ended.
        """
        part.parent.mkdir(parents=True, exist_ok=True)
        cloud = cloud_url(item, self._cfg)
        if cloud:
            try:
                self._from(_Source(cloud, self._cloud_manners, self._session("")), item, part, accept)
            except (RefusedError, ArchiveError):
                clear(part)  # the archive is the way back
            else:
                return
        url = archive_url(item, self._cfg)
        session = self._session("" if _direct(item) else url)
        self._from(_Source(url, self.manners, session), item, part, accept)

    def answered(self, item: Item) -> bool:
        """Whether the archive ever answered with something that could be this file."""
        return item.uri in self._answered

    def _from(self, source: _Source, item: Item, part: Path, accept: Callable[[], None]) -> None:
        """Ask until it is there: a round of attempts that brought the file on is followed by another."""

        def once() -> None:
            self._attempt(source, item, part)
            accept()

        while True:
            before = _length(part)
            try:
                return source.manners.ask(item.uri, once)
            except ArchiveError:
                if _length(part) < before + _GROWN:
                    raise

    def _session(self, url: str) -> requests.Session:
        """This thread's connections; the token goes to the archive alone."""
        kept: dict[bool, requests.Session] = self._local.__dict__.setdefault("sessions", {})
        if bool(url) not in kept:
            session = requests.Session()
            session.headers.update({"Accept-Encoding": "identity", "User-Agent": "astrid"})
            token = os.environ.get(TOKEN, "")
            if url and token:
                place = urllib.parse.urlsplit(url)
                session.cookies.set(_COOKIE, token, domain=place.hostname, path="/", secure=place.scheme == "https")
            kept[bool(url)] = session
        return kept[bool(url)]

    def _attempt(self, source: _Source, item: Item, part: Path) -> None:
        """One request and the bytes that it brings; raises `PassingError` unless `part` is whole."""
        have = _resumable(part, source.url)
        if have and have.length == (item.size or have.total):
            return
        with source.session.get(source.url, headers=have.headers if have else {}, stream=True, timeout=self._cfg.timeout) as response:
            first, total = self._accept_head(response, item, have, part)
            if first == 0:
                _begin(part, source.url, response.headers.get("ETag", ""), total)
            if total is None or first < total:
                self._stream(response, part, first)
        if total is not None and _length(part) != total:
            if _length(part) > total:
                clear(part)
            raise PassingError("the connection failed or was cut")

    def _accept_head(self, response: requests.Response, item: Item, have: _Have | None, part: Path) -> tuple[int, int | None]:
        """Where the body begins in the file, and how long the file is (None = not said)."""
        status = response.status_code
        if status == 416 and have is not None:
            clear(part)
            raise PassingError("it has no such part of the file any more")
        passing = passing_status(status, response.headers)
        if passing is not None:
            raise passing
        if status in (401, 403):
            given = "with the token given" if os.environ.get(TOKEN) else f"without a token; set {TOKEN} where it is yours to read"
            raise RefusedError(f"the archive does not deliver it (status {status}) {given}")
        if status not in (200, 206):
            raise RefusedError(f"the archive has no such file (status {status})")
        if is_page(b"", response.headers.get("Content-Type", "")):
            raise PassingError("it answered with a page for people")
        self._answered.add(item.uri)
        length = response.headers.get("Content-Length", "")
        first, total = 0, int(length) if length.isdigit() else None
        if status == 206:
            place = _PLACE.match(response.headers.get("Content-Range", ""))
            if have is None or place is None or int(place[1]) != have.length or (have.total and place[3] != str(have.total)):
                clear(part)
                raise PassingError("it answered with another part of the file")
            first, total = have.length, None if place[3] == "*" else int(place[3])
        if total is not None:
            self._check_length(total, item, part)
        return first, total

    def _check_length(self, total: int, item: Item, part: Path) -> None:
        if item.size and total != item.size:
            clear(part)
            if self._announced.get(item.uri) == total:
                raise RefusedError(
                    f"the archive listed {item.size} bytes and twice announced {total}; it may have replaced the file: search again"
                )
            self._announced[item.uri] = total
            raise PassingError(f"it announced {total} bytes and had listed {item.size}")
        if total > self._cfg.max_file_gb * GB:
            reason = f"it has {total / GB:.2f} GB and survey.archive.download.max_file_gb is {self._cfg.max_file_gb:g}"
            raise RefusedError(reason, "too large")

    def _stream(self, response: requests.Response, part: Path, first: int) -> None:
        limit = self._cfg.max_file_gb * GB
        with part.open("r+b", buffering=0) as stream:  # what has come is on disk when the process is killed
            stream.truncate(first)
            stream.seek(first)
            while chunk := response.raw.read1(_CHUNK):
                if self.stop.is_set():
                    raise StoppedError
                if self._bytes is not None:
                    self._bytes.wait(len(chunk))
                if first == 0 and stream.tell() == 0 and is_page(chunk):
                    raise PassingError("it answered with a page for people")
                if stream.tell() + len(chunk) > limit:
                    reason = f"it has more than {self._cfg.max_file_gb:g} GB, which is survey.archive.download.max_file_gb"
                    raise RefusedError(reason, "too large")
                stream.write(chunk)
                self._count(len(chunk))


def _direct(item: Item) -> bool:
    """Whether the file lies under its own address, beside the file service (PS1's single epochs)."""
    return item.uri.startswith("https://")


def archive_url(item: Item, cfg: DownloadConfig) -> str:
    """Address of a file: in the archive's file service, built as the archive's own client builds it, or its own."""
    if _direct(item):
        return cfg.server.rstrip("/") + urllib.parse.urlsplit(item.uri).path if cfg.server else item.uri
    return (cfg.server.rstrip("/") or ARCHIVE) + _SERVICE + urllib.parse.quote(item.uri, safe=":/")


def cloud_url(item: Item, cfg: DownloadConfig) -> str:
    """Address of the same file in the public bucket, which is read without signing; empty where it is in none or none is wanted."""
    bucket, _, key = item.cloud_uri.removeprefix("s3://").partition("/")
    if not (cfg.cloud and item.cloud_uri.startswith("s3://") and bucket and key):
        return ""
    server = f"{cfg.cloud_server.rstrip('/')}/{bucket}" if cfg.cloud_server else f"https://{bucket}.s3.amazonaws.com"
    return f"{server}/{urllib.parse.quote(key)}"


@dataclass(frozen=True)
class _Have:
    """What an earlier attempt left."""

    length: int
    etag: str
    total: int | None

    @property
    def headers(self) -> dict[str, str]:
        """A strong ETag has the server send the whole file where it is no longer the same."""
        strong = {"If-Range": self.etag} if self.etag and not self.etag.startswith("W/") else {}
        return {"Range": f"bytes={self.length}-", **strong}


def _notes(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _resumable(part: Path, url: str) -> _Have | None:
    """What lies in `part`, where it is of this address and there is a way to see that the rest belongs to it."""
    try:
        notes = json.loads(_notes(part).read_text())
        length, etag, total = part.stat().st_size, str(notes["etag"]), notes["total"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    if notes["url"] != url or not length or not (etag or total) or (total and length > total):
        return None
    return _Have(length, etag, total)


def _begin(part: Path, url: str, etag: str, total: int | None) -> None:
    """An empty `part` with the notes that a later attempt needs; in this order, so that notes never speak of other bytes."""
    part.write_bytes(b"")
    write_json(_notes(part), {"url": url, "etag": etag, "total": total})


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def clear(part: Path) -> None:
    """Forget what has gathered."""
    part.unlink(missing_ok=True)
    _notes(part).unlink(missing_ok=True)

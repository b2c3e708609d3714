"""An HTTP/1.1 server on localhost: routes, byte ranges, faults by plan, and a count of what was asked."""

from __future__ import annotations

import hashlib
import http.server
import re
import socket
import struct
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from support.archive_server import faults
from support.archive_server.faults import Fault, Plan, Reply

DOWNLOAD = "/api/v0.1/Download/file"  # where MAST delivers a file by ?uri=
BUCKET = "/stpubdata/"  # where its public bucket would be at s3.amazonaws.com

_RANGE = re.compile(r"bytes=(\d+)-(\d*)$")
_BREAKER = re.compile(r"%22cacheBreaker%22%3A(?:%20|\+)?%22[^%]*%22")  # astroquery's random part of a request
_DRIPS = 5  # pieces that a slow answer comes in


@dataclass(frozen=True)
class Request:
    """What was asked."""

    method: str
    path: str
    query: Mapping[str, str]  # the last value of each key
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        """The fields of a posted form, e.g. `request` of MAST's invoke."""
        return dict(urllib.parse.parse_qsl(self.body.decode(), keep_blank_values=True))

    @property
    def name(self) -> str:
        """What a plan of faults and the counts know the request by."""
        query = urllib.parse.urlencode(sorted(self.query.items()))
        body = _BREAKER.sub("", self.body.decode(errors="replace"))
        return f"{self.method} {self.path}?{urllib.parse.unquote(query)} {body}"


Route = Callable[[Request], Reply]


def files(content: Callable[[str], bytes | None], *, ranges: bool = True) -> Route:
    """The route of MAST's file service: bytes by data URI, None = no such file."""
    return lambda request: _file(content(request.query.get("uri", "")), ranges)


def bucket(content: Callable[[str], bytes | None], *, ranges: bool = True) -> Route:
    """The route of a public bucket (at `BUCKET`): bytes by key, None = no such object."""
    return lambda request: _file(content(urllib.parse.unquote(request.path).split("/", 2)[2]), ranges)


def _file(body: bytes | None, ranges: bool) -> Reply:
    return Reply(b"no such file\n", "text/plain", 404) if body is None else Reply(body, ranges=ranges)


class ArchiveServer:
    """A context manager: `with ArchiveServer({DOWNLOAD: files(...)}) as server: server.url`.

    A route answers every path that begins with its key, the longest key first. `counts` has the requests by path, `asked`
    by whole request, `sent` the bytes of bodies, `ranges` the requests for a part.
    """

    def __init__(self, routes: Mapping[str, Route], plan: Plan = faults.none, *, port: int = 0) -> None:
        self.routes = dict(routes)
        self.plan = plan
        self.counts: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.faulty: Counter[str] = Counter()  # by kind
        self.ranges = 0
        self.sent = 0
        self.together = 0  # requests at this moment
        self.most_together = 0
        self.times: list[float] = []  # s, monotonic clock, of every request
        self.headers: dict[str, dict[str, str]] = {}  # the last headers, by path
        self.lock = threading.Lock()
        self._http = _Server(("127.0.0.1", port), _Handler)
        self._http.archive = self
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def total(self) -> int:
        """Requests since the start or the last `forget`."""
        return sum(self.counts.values())

    def forget(self) -> None:
        """Count from nothing again; the plan of faults begins anew as well."""
        with self.lock:
            for counter in (self.counts, self.asked, self.faulty):
                counter.clear()
            self.times.clear()
            self.ranges = self.sent = self.most_together = 0

    def __enter__(self) -> ArchiveServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def answer(self, request: Request) -> tuple[Reply, Fault | None]:
        with self.lock:
            attempt = self.asked[request.name]
            self.asked[request.name] += 1
            self.counts[request.path] += 1
            self.ranges += "range" in request.headers
            self.times.append(time.monotonic())
            self.headers[request.path] = dict(request.headers)
            fault = self.plan(request.name, attempt)
            if fault is not None:
                self.faulty[fault.kind] += 1
        known = [prefix for prefix in self.routes if request.path.startswith(prefix)]
        if not known:
            return Reply(b"no such service\n", "text/plain", 404), None
        reply = self.routes[max(known, key=len)](request)
        if fault is not None and reply.status < 400:
            reply = faults.spoil(reply, fault)
        return _part(reply, request), fault


def _part(reply: Reply, request: Request) -> Reply:
    """The answer to a range where one is asked for and the content is still the one it belongs to (RFC 9110, 13.1.5, 14)."""
    if not reply.ranges or reply.status != 200:
        return reply
    tag = f'"{hashlib.sha256(reply.body).hexdigest()[:20]}"'
    headers = {**reply.headers, "ETag": tag, "Accept-Ranges": "bytes"}
    wanted = _RANGE.match(request.headers.get("range", ""))
    if wanted is None or request.headers.get("if-range", tag) != tag:
        return Reply(reply.body, reply.kind, 200, headers)
    first, last = int(wanted[1]), int(wanted[2] or len(reply.body) - 1)
    if first >= len(reply.body):
        return Reply(b"", reply.kind, 416, {**headers, "Content-Range": f"bytes */{len(reply.body)}"})
    part = reply.body[first : last + 1]
    place = f"bytes {first}-{first + len(part) - 1}/{len(reply.body)}"
    return Reply(part, reply.kind, 206, {**headers, "Content-Range": place})


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    archive: ArchiveServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is no error of the test."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server
    timeout = 60

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the test's screen."""

    def _serve(self) -> None:
        archive = self.server.archive
        url = urllib.parse.urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, url.path, dict(urllib.parse.parse_qsl(url.query)), headers, body)
        with archive.lock:
            archive.together += 1
            archive.most_together = max(archive.most_together, archive.together)
        try:
            reply, fault = archive.answer(request)
            self._send(reply, fault)
        finally:
            with archive.lock:
                archive.together -= 1

    def _send(self, reply: Reply, fault: Fault | None) -> None:
        lines = [f"HTTP/1.1 {reply.status} {http.HTTPStatus(reply.status).phrase}", f"Content-Type: {reply.kind}"]
        lines += [f"Content-Length: {len(reply.body)}", *(f"{name}: {value}" for name, value in reply.headers.items())]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        whole = head + (b"" if self.command == "HEAD" else reply.body)
        with self.server.archive.lock:
            self.server.archive.sent += len(whole) - len(head)
        if fault is not None and fault.kind == "cut":
            self._cut(whole[: int(fault.at * len(whole))], fault)
        elif fault is not None and fault.kind == "slow":
            step = max(-(-len(whole) // _DRIPS), 1)
            for start in range(0, len(whole), step):
                time.sleep(fault.seconds / _DRIPS)
                self.connection.sendall(whole[start : start + step])
        else:
            self.connection.sendall(whole)

    def _cut(self, part: bytes, fault: Fault) -> None:
        self.connection.sendall(part)
        if fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

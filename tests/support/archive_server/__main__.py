"""The test archive as a process of its own.

    PYTHONPATH=src:tests python -m support.archive_server --routes support.archive_server.survey:routes --events 500 --address server.txt

`--routes` names a function that takes a number of events and gives the routes. The address is written when the server listens; it
ends when its standard input closes, so that it does not outlive whoever started it. GET /-/counts tells what was asked, and
GET /-/forget counts from nothing again.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from support.archive_server import faults
from support.archive_server.faults import Both, Reply, Seeded, table
from support.archive_server.server import DOWNLOAD, ArchiveServer, Request

_CONTROL = "/-/"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--routes", required=True, help="module:function")
    parser.add_argument("--events", type=int, default=40)
    parser.add_argument("--address", required=True, type=Path, help="file that gets the address")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--faults", type=float, default=0.0, help="share of answers that go wrong")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    module, _, function = given.routes.partition(":")
    routes = getattr(importlib.import_module(module), function)(given.events)
    downloads = Seeded(given.seed, given.faults, faults.FILES, seconds=0.05, only=DOWNLOAD)
    tables = Seeded(given.seed, given.faults, faults.TABLES, seconds=0.05, only="POST ")
    with ArchiveServer(routes, Both((downloads, tables)), port=given.port) as server:
        server.routes[_CONTROL] = lambda request: _control(server, request)
        given.address.write_text(server.url)
        sys.stdin.read()


def _control(server: ArchiveServer, request: Request) -> Reply:
    if request.path.endswith("forget"):
        server.forget()
    with server.lock:
        asked = {path: count for path, count in server.counts.items() if not path.startswith(_CONTROL)}
        return table({"asked": asked, "faulty": dict(server.faulty), "most_together": server.most_together, "ranges": server.ranges})


if __name__ == "__main__":
    main()

"""Eight supernovae in a pretend archive: two have pairs, the others a different reason each; for tests and for a first look.

PYTHONPATH=tests:. python -m support.archive_server --routes support.archive_server.eight:routes --address server.txt
PYTHONPATH=tests:. python -m support.archive_server.eight > events.csv
"""

from __future__ import annotations

import sys

from support.archive_server.missions import Content, Supernova, product
from support.archive_server.queries import Observation, PretendSky, observation
from support.archive_server.server import DOWNLOAD, Route, files

CATALOGUE = """name,ra,dec,discovery_date,type
SN 2014A,210.8021,54.3488,2014-05-10,SN Ia
SN 2014B,40.2503,-8.4331,2014-05-20,SN II
SN 2014C,120.5,10.1,2014-06-01,SN Ia
SN 2014D,121.5,10.1,,SN Ia
SN 2014E,122.5,10.1,2014-06-01,SN Ia
SN 2014F,123.5,10.1,2014-06-01,SN Ia
SN 2014G,124.5,10.1,2014-06-01,SN Ia
SN 2014H,125.5,10.1,2014-06-01,SN Ia
"""
PLACES = {"A": (210.8021, 54.3488, 56787.0), "B": (40.2503, -8.4331, 56797.0), **{name: (120.5 + number, 10.1, 56809.0)
          for number, name in enumerate("CDEFGH")}}  # fmt: skip


def visit(event: str, number: int, day: float, band: str = "UVW1", exptime: float = 400.0) -> Observation:
    ra, dec, discovery = PLACES[event]
    name = f"0003{ord(event):03d}{number:04d}"
    shift = 8 / 3600 * number  # no visit points where the last one did
    return observation("swift", name, ra + shift, dec - shift, mjd=discovery + day, band=band, exptime=exptime)


VISITS = [
    visit("A", 1, -40, exptime=900.0), visit("A", 2, -20), visit("A", 3, 12), visit("A", 4, 200),
    visit("B", 1, -300, band="U", exptime=700.0), visit("B", 2, 8, band="U"),
    visit("C", 1, 5),
    visit("F", 1, -20, band="U"), visit("F", 2, 5, band="V"),
    visit("G", 1, -20), visit("G", 2, 5),
    visit("H", 1, -20), visit("H", 2, 5),
]  # fmt: skip


class Sky:
    """What the archive has of them; one science file has another filter in its header, and one reference is gone."""

    def __init__(self) -> None:
        self.sky = PretendSky(VISITS)
        self.content = Content(VISITS, [Supernova(*PLACES[name]) for name in PLACES])
        wrong = next(uri for uri in self.sky.uris if "00030710002" in uri and "_sk" in uri)
        self.content._made[wrong] = product(visit("G", 2, 5), wrong.rsplit("/", 1)[-1], FILTER="UVM2")
        self.sky = self.sky.sized(lambda uri: self.content.size(uri) if "_sk." in uri or "_ex." in uri else 0)
        self.gone = "00030720001"

    def file(self, uri: str) -> bytes | None:
        return None if self.gone in uri else self.content(uri)


def routes(_: int = 0) -> dict[str, Route]:
    """The routes of a server; the number of events is what it is."""
    sky = Sky()
    return {**sky.sky.routes(), DOWNLOAD: files(sky.file)}


if __name__ == "__main__":
    sys.stdout.write(CATALOGUE)

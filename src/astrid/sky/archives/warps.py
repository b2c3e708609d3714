"""Pan-STARRS1 single-epoch images (warps), which MAST's table of observations does not list: its image server's list of names.

Documents: "PS1 Image Cutout Service" (STScI, PS1 archive documentation: the image list service ps1filenames.py). A question by
position is answered by one line an image of the sky cells that hold it, the first line naming the columns.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import requests

from astrid.config.schema.archive import SearchConfig
from astrid.sky.archives._base import ArchiveFile, Event, Observation
from astrid.sky.manners import ArchiveError, Manners, PassingError, is_page, passing_status

SERVER = "https://ps1images.stsci.edu"
LIST = "/cgi-bin/ps1filenames.py"
_SOUTHERNMOST = -31.5  # deg, no image lies further south
_OBSERVED = (54900.0, 57250.0)  # d (MJD), begin and end of the survey with some days to spare
_COLUMNS = {"projcell", "subcell", "filter", "mjd", "type", "filename"}
_NUMBER = re.compile(r"\d+(\.\d*)?")
_BESIDE = ("", ".mask", ".wt")  # the image, its flags, its variance


class Warps:
    """The image server. `near` may be called from several threads at once."""

    def __init__(self, cfg: SearchConfig, manners: Manners) -> None:
        self._cfg = cfg
        self._manners = manners
        self._url = (cfg.server.rstrip("/") or SERVER) + LIST

    def near(self, event: Event, seconds: dict[str, float]) -> list[Observation]:
        """The warps that hold the event within its window, of one sky cell; `seconds` is the exposure time by band.

        The list says nothing of an image's outline, which stays unknown; its header tells later.
        Raises `ArchiveError` when the server gives no list.
        """
        if event.dec < _SOUTHERNMOST or event.last < _OBSERVED[0] or event.first > _OBSERVED[1]:
            return []
        lines = [line for line in self._lines(event) if line["type"] == "warp" and line.get("badflag", "0") == "0"]
        cells = Counter((line["projcell"], line["subcell"]) for line in lines)
        cell = min(cells, key=lambda one: (-cells[one], one), default=None)
        found = []
        for line in lines:
            path, band, start = line["filename"], line["filter"], float(line["mjd"])
            length = seconds.get(band, float("nan"))
            end = start + seconds.get(band, 0.0) / 86400.0
            if (line["projcell"], line["subcell"]) == cell and start <= event.last and end >= event.first:
                found.append(Observation(path, "ps1", "GPC1", band, 2, start, end, length, event.ra, event.dec, "", "public"))
        return found

    def _lines(self, event: Event) -> list[dict[str, str]]:
        try:
            return self._manners.ask(self._url, lambda: self._list(event))
        except requests.RequestException as error:
            raise ArchiveError(f"{self._url}: the list cannot be had ({error}).") from error

    def _list(self, event: Event) -> list[dict[str, str]]:
        asked = {"ra": repr(event.ra), "dec": repr(event.dec), "filters": "grizy", "type": "warp"}
        response = requests.get(self._url, params=asked, timeout=self._cfg.timeout)
        if (passing := passing_status(response.status_code, response.headers)) is not None:
            raise passing
        if response.status_code != requests.codes.ok:
            raise ArchiveError(f"{self._url}: it answered with status {response.status_code}.")
        head, *lines = [line.split() for line in response.text.splitlines() if line.strip()] or [[]]
        rows = [dict(zip(head, line, strict=False)) for line in lines if len(line) == len(head)]
        if not set(head) >= _COLUMNS or len(rows) < len(lines) or not all(_NUMBER.fullmatch(row["mjd"]) for row in rows):
            page = is_page(response.content[:64], response.headers.get("Content-Type", ""))
            raise PassingError(f"it answered with {'a web page' if page else 'something else'} instead of a list of images")
        return rows


def is_warp(number: str) -> bool:
    """Whether an observation's number is a warp's: its path on the image server."""
    return number.startswith("/")


def warp_files(numbers: Sequence[str]) -> list[ArchiveFile]:
    """The files of warps: image, mask and variance; their sizes are not known."""
    found = []
    for number in numbers:
        stem = number.removesuffix(".fits")
        for beside in _BESIDE:
            name = f"{stem.rsplit('/', 1)[-1]}{beside}.fits"
            found.append(ArchiveFile(number, name, f"{SERVER}{stem}{beside}.fits", 0, 2, ""))
    return found

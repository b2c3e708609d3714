"""What is to be fetched and where it goes, and what the limits on disk leave of it."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import pandas as pd

from astrid.config.schema.archive import DownloadConfig
from astrid.core.errors import InputError

GB = 1e9  # bytes
_TAR = re.compile(r"\.(tar|tgz|tar\.gz|tar\.bz2)$", re.IGNORECASE)
_UNSAFE = re.compile(r"[^A-Za-z0-9_.+-]+")
_NAME = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9_.+,=@~-]*")  # names of files that archives have; none begins with a point

# Why a file is not in place: of these, `PASSING` alone may be gone another time.
Why = Literal["too large", "beyond the budget", "not delivered", "download failed", "file broken", "not inside"]
PASSING: Why = "download failed"


@dataclass(frozen=True)
class Loss:
    """Why a file is not in place, in a word and in half a sentence."""

    why: Why
    reason: str


@dataclass(frozen=True)
class Place:
    """Where a file belongs and what must be in it."""

    path: str  # relative to the root; a folder for a .tar product
    row: int  # of the chosen table
    image: bool  # must be an image of the event; False = a companion, which must only be readable
    target: tuple[float, float] | None  # deg, ICRS; None where the catalogue lacks the event


@dataclass(frozen=True)
class Item:
    """One file of the archive; several events may want it."""

    uri: str
    cloud_uri: str
    filename: str
    size: int  # bytes; 0 = unknown
    checksum: str  # algorithm:hex, or empty
    group: tuple[str, str]  # event and mission, whose files are fetched together or not at all
    places: tuple[Place, ...]

    @property
    def key(self) -> str:
        """Digest of what says which bytes these are: name, size and checksum."""
        return hashlib.sha256(f"{self.uri}\n{self.size}\n{self.checksum}".encode()).hexdigest()[:24]

    @property
    def packed(self) -> bool:
        """Whether it is a .tar product, which is unpacked."""
        return _TAR.search(self.filename) is not None


@dataclass(frozen=True)
class Plan:
    """All files, in the order of the chosen table, and rows that no file can be made of."""

    items: tuple[Item, ...]
    problems: tuple[tuple[int, Loss], ...]  # (row, why)


def make_plan(chosen: pd.DataFrame, catalog: pd.DataFrame) -> Plan:
    """Group the chosen rows by file and give each its place: `<mission>/<event>/<role>/<filename>`.

    Where two files of a role have the same name, all files of the later observations lie one folder deeper, named by their obs_id.
    """
    chosen = chosen.reset_index(drop=True)
    targets = {
        str(name): (float(ra), float(dec)) for name, ra, dec in zip(catalog["object_id"], catalog["s_ra"], catalog["s_dec"], strict=True)
    }
    folders = _folders(sorted({str(name) for name in chosen["object_id"]}))
    problems: list[tuple[int, Loss]] = []
    rows: list[dict[str, str]] = []
    for number, row in enumerate(chosen.to_dict("records")):
        text = {str(key): str(value) for key, value in row.items()}
        text["row"] = str(number)
        if not _NAME.fullmatch(text["filename"]):
            problems.append((number, Loss("not delivered", f"its name {text['filename']!r} cannot be that of a file here")))
        else:
            rows.append(text)
    deeper = _deeper(rows)
    places: dict[str, list[Place]] = defaultdict(list)
    first: dict[str, dict[str, str]] = {}
    for text in rows:
        first.setdefault(text["uri"], text)
        name = _TAR.sub("", text["filename"])
        folder = PurePosixPath(safe(text["mission"]), folders[text["object_id"]], safe(text["role"]))
        if (text["object_id"], text["mission"], text["role"], text["obs_id"]) in deeper:
            folder /= safe(text["obs_id"])
        place = Place(str(folder / name), int(text["row"]), text["kind"] == "image", targets.get(text["object_id"]))
        if place.path not in {other.path for other in places[text["uri"]]}:
            places[text["uri"]].append(place)
    items = [
        Item(
            uri=uri,
            cloud_uri=text.get("cloud_uri", ""),
            filename=text["filename"],
            size=int(float(text["size"])),
            checksum=text.get("checksum", ""),
            group=(text["object_id"], text["mission"]),
            places=tuple(places[uri]),
        )
        for uri, text in first.items()
    ]
    return Plan(tuple(items), tuple(problems))


def _folders(names: Sequence[str]) -> dict[str, str]:
    """A folder for every event; where two would have the same, both bear a digest of their name."""
    plain = {name: safe(name) for name in names}
    shared = [folder.lower() for folder in plain.values()]
    return {
        name: folder if shared.count(folder.lower()) == 1 else f"{folder}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
        for name, folder in plain.items()
    }


def _deeper(rows: Iterable[dict[str, str]]) -> set[tuple[str, str, str, str]]:
    """Observations that bring a name which an earlier one of the same event, mission and role has already for another file."""
    owner: dict[tuple[str, str, str, str], str] = {}
    found: set[tuple[str, str, str, str]] = set()
    for row in sorted(rows, key=lambda row: (row["obs_id"], row["uri"])):
        where = (row["object_id"], row["mission"], row["role"])
        if owner.setdefault((*where, _TAR.sub("", row["filename"])), row["uri"]) != row["uri"]:
            found.add((*where, row["obs_id"]))
    return found


def safe(name: str) -> str:
    """A name as a folder can have it."""
    return _UNSAFE.sub("-", name.strip()).strip("-.") or "unnamed"


def within_budget(wanted: Sequence[Item], there: int, cfg: DownloadConfig) -> tuple[list[Item], list[tuple[Item, Loss]]]:
    """Split what is wanted into what the limits allow and what they do not, with the reason.

    Parameters
    ----------
    wanted
        Files that are not there yet.
    there
        Bytes of those that are.

    The files of an event in a mission go together: half a pair is of no use.
    """
    groups: dict[tuple[str, str], list[Item]] = defaultdict(list)
    refused: list[tuple[Item, Loss]] = []
    for item in wanted:
        if item.size > cfg.max_file_gb * GB:
            reason = f"it has {item.size / GB:.2f} GB and survey.archive.download.max_file_gb is {cfg.max_file_gb:g}"
            refused.append((item, Loss("too large", reason)))
        else:
            groups[item.group].append(item)
    allowed: list[Item] = []
    total = there
    for items in groups.values():
        size = sum(item.size for item in items)
        if total + size > cfg.budget_gb * GB:
            reason = (
                f"the event's files have {size / GB:.3g} GB, and with {total / GB:.3g} GB of others they would exceed "
                f"survey.archive.download.budget_gb = {cfg.budget_gb:g}"
            )
            refused += [(item, Loss("beyond the budget", reason)) for item in items]
            continue
        total += size
        allowed += items
    return allowed, refused


def need_disk(items: Sequence[Item], folder: Path, free: int) -> None:
    """Refuse to begin what the disk cannot hold; raises `InputError` with both numbers."""
    size = sum(item.size * (2 if item.packed else 1) for item in items)
    if size > free:
        raise InputError(
            f"{size / GB:.3g} GB are to be fetched and {free / GB:.3g} GB are free in {folder}; free space or lower "
            "survey.archive.download.budget_gb."
        )

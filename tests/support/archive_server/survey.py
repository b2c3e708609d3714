"""A whole acquisition against the test archive: many supernovae, their observations and files, and a process that fetches them.

    PYTHONPATH=src:tests python -m support.archive_server.survey FOLDER SERVER EVENTS [KEY=VALUE ...]

searches, chooses and downloads into FOLDER as the stages do, and prints a JSON object of counts, seconds and peak memory.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from astrid.config.schema import SurveyConfig
from astrid.config.validate import validate
from astrid.io.tables import CATALOG, conform
from support.archive_server import faults, small
from support.archive_server.faults import Both, Plan, Seeded
from support.archive_server.queries import INVOKE, Observation, PretendSky, observation
from support.archive_server.server import DOWNLOAD, Route, files

ROOT = Path(__file__).resolve().parents[3]
FIRST = 57000.0  # d (MJD), first discovery
DAYS_BEFORE, DAYS_AFTER = 100.0, 10.0  # d, the reference and the science image
SIZE = 40  # px a side of an image


def catalog(count: int) -> pd.DataFrame:
    """Events (CATALOG) on a spiral that keeps them degrees apart where they are few and never closer than 0.5 degrees."""
    number = np.arange(count)
    rows = {
        "object_id": [f"SN-{n:05d}" for n in number],
        "s_ra": (number * 137.50776) % 360.0,
        "s_dec": np.degrees(np.arcsin(np.clip(-0.9 + 1.8 * (number + 0.5) / count, -1, 1))),
        "discovery_mjd": FIRST + 1.5 * number,
    }
    frame = pd.DataFrame(rows)
    for column in CATALOG.columns:
        if column.name not in frame:
            frame[column.name] = {"str": "", "float": np.nan, "int": 0, "bool": False}.get(column.kind)
    return conform(frame, CATALOG, source="the test's catalogue")


def observations(count: int) -> list[Observation]:
    """A reference and a science observation of every event, Swift's."""
    found = []
    for n, event in enumerate(catalog(count).itertuples()):
        for role, mjd in enumerate((event.discovery_mjd - DAYS_BEFORE, event.discovery_mjd + DAYS_AFTER)):
            found.append(observation("swift", f"{n:08d}{role:03d}", event.s_ra, event.s_dec, mjd=mjd, number=10 * n + role + 1))
    return found


class Files:
    """The bytes of every file by URI, made when asked for; the last ones are kept, so that memory does not grow with the events."""

    def __init__(self, sky: list[Observation]) -> None:
        self._places = {file.uri: (one.ra, one.dec) for one in sky for file in one.files}
        self._make = lru_cache(maxsize=64)(self._image)

    def __call__(self, uri: str) -> bytes | None:
        return self._make(uri) if uri in self._places else None

    def _image(self, uri: str) -> bytes:
        ra, dec = self._places[uri]
        return small.image(uri, size=SIZE, ra=ra, dec=dec)


def routes(count: int) -> dict[str, Route]:
    """Questions and files for `ArchiveServer`; the archive says no sizes, as it often does not."""
    sky = observations(count)
    unsized = [type(one)(**{**vars(one), "files": tuple(type(file)(**{**vars(file), "size": 0}) for file in one.files)}) for one in sky]
    return {**PretendSky(unsized).routes(), DOWNLOAD: files(Files(sky))}


def misbehaving(seed: int, share: float) -> Plan:
    """Faults in a share of all answers, of the questions and of the files."""
    tables = Seeded(seed, share, faults.TABLES, seconds=0.05, only=INVOKE)
    return Both((tables, Seeded(seed, share, faults.FILES, seconds=0.05, only=DOWNLOAD)))


def settings(server: str, changes: Mapping[str, str]) -> SurveyConfig:
    """conf/survey/mast.yaml with another server; `changes` by dotted key below `archive`."""
    tree: dict[str, Any] = yaml.safe_load((ROOT / "conf/survey/mast.yaml").read_text())
    tree["archive"]["search"]["server"] = tree["archive"]["download"]["server"] = server
    for key, value in changes.items():
        group, name = key.split(".")
        tree["archive"][group][name] = yaml.safe_load(value)
    return validate(SurveyConfig, tree, path="survey")


def acquire(folder: Path, cfg: SurveyConfig, events: pd.DataFrame) -> dict[str, Any]:
    """Search, choose, fetch; the seconds of each."""
    from astrid.sky.choose import choose
    from astrid.sky.download import fetch
    from astrid.sky.frozen import read_manifest
    from astrid.sky.manifest import search

    assert cfg.archive is not None
    clock, peaks = [time.monotonic()], [_peak_mb()]
    (folder / "manifest").mkdir(parents=True, exist_ok=True)
    questions = search(events, cfg.archive, cfg.missions, folder / "manifest")
    clock.append(time.monotonic())
    peaks.append(_peak_mb())
    choice = choose(read_manifest(folder / "manifest" / "manifest.parquet"), events, cfg.archive.choose, cfg.pair)
    clock.append(time.monotonic())
    peaks.append(_peak_mb())
    fetched = fetch(choice.chosen, events, folder / "raw", cfg.archive.download)
    clock.append(time.monotonic())
    peaks.append(_peak_mb())
    seconds = dict(zip(("search", "choose", "fetch"), np.diff(clock).round(3).tolist(), strict=True))
    return {
        "manifest": int(questions["products"].sum()), "chosen": len(choice.chosen), "files": len(fetched.files),
        "problems": len(fetched.problems),
        "seconds": seconds, "peak_mb": peaks[-1], "peaks_mb": dict(zip(("start", "search", "choose", "fetch"), peaks, strict=True)),
    }  # fmt: skip


def _peak_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def digest(path: Path) -> str:
    """Of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def content(folder: Path) -> dict[str, str]:
    """Digests of the frozen tables and of every file below raw; what a later run may differ in is not there."""
    kept = [folder / "manifest" / "manifest.parquet", *sorted((folder / "raw").rglob("*"))]
    digests = {path.relative_to(folder).as_posix(): digest(path) for path in kept if path.is_file()}
    questions = pd.read_parquet(folder / "manifest" / "questions.parquet").drop(columns="key")  # which holds the server's address
    return {**digests, "questions": hashlib.sha256(questions.to_json().encode()).hexdigest()}


def main() -> None:
    folder, server, count, *changes = sys.argv[1:]
    cfg = settings(server, dict(change.split("=", 1) for change in changes))
    sys.stdout.write(json.dumps(acquire(Path(folder), cfg, catalog(int(count)))) + "\n")


if __name__ == "__main__":
    main()

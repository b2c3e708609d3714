from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from astrid.config.compose import compose
from astrid.config.schema import SurveyConfig
from astrid.config.schema.archive import ArchiveConfig
from astrid.config.validate import validate
from astrid.sky.archives import Archive, Event, open_archive
from astrid.sky.archives.products import merged, rows
from astrid.sky.download.plan import Item
from astrid.sky.download.transfer import archive_url
from astrid.sky.manners import ArchiveError, Manners
from support.archive_server import faults
from support.archive_server.faults import Fault, Plan, Reply
from support.archive_server.queries import INVOKE, WARPS, PretendSky, observation
from support.archive_server.server import ArchiveServer

ROOT = Path(__file__).resolve().parents[3]
EVENT = Event("SN 2012X", 83.63, 22.01, 55000.0, 56000.0)
CELL = "/rings.v3.skycell/1784/059/rings.v3.skycell.1784.059.wrp"
PATHS = (f"{CELL}.g.55560_46188.fits", f"{CELL}.r.55200_25000.fits", f"{CELL}.r.56600_25000.fits",
         "/rings.v3.skycell/1784/060/rings.v3.skycell.1784.060.wrp.r.55201_25000.fits")  # fmt: skip


@cache
def plain() -> ArchiveConfig:
    archive = validate(SurveyConfig, compose(ROOT / "conf", ["survey=mast"])["survey"], path="survey").archive
    assert archive is not None
    return archive


@contextmanager
def served(sky: PretendSky, plan: Plan = faults.none) -> Iterator[tuple[Archive, ArchiveServer]]:
    with ArchiveServer(sky.routes(), plan) as server:
        cfg = dataclasses.replace(plain().search, server=server.url, rate=1000.0, timeout=10.0)
        yield open_archive("mast", cfg, Manners(cfg.rate, cfg.retries)), server


def manifest(mast: Archive, event: Event = EVENT) -> list[dict[str, Any]]:
    mast.connect()
    found = mast.observations(event, ["ps1"])
    return merged(row for one in found for row in rows(mast, event, [one], mast.files([one.number])))


def test_the_single_epochs_of_one_sky_cell_come_with_flags_and_variance() -> None:
    with served(PretendSky([], warps=PATHS)) as (mast, server):
        table = manifest(mast)
        assert server.counts[WARPS] == 1
        assert server.counts[INVOKE] == 1  # no question for files
    assert [(row["filter"], row["kind"], row["t_min"], row["exptime"]) for row in table] == [
        ("g", "image", 55560.46188, 43.0), ("g", "companion", 55560.46188, 43.0), ("g", "companion", 55560.46188, 43.0),
        ("r", "image", 55200.25, 40.0), ("r", "companion", 55200.25, 40.0), ("r", "companion", 55200.25, 40.0),
    ]  # fmt: skip
    stem = "rings.v3.skycell.1784.059.wrp.g.55560_46188"
    assert [row["filename"] for row in table[:3]] == [f"{stem}.fits", f"{stem}.mask.fits", f"{stem}.wt.fits"]
    assert table[0]["uri"] == f"https://ps1images.stsci.edu/rings.v3.skycell/1784/059/{stem}.fits"
    assert {(row["instrument"], row["rights"], row["s_region"], row["s_ra"]) for row in table} == {("gpc1", "public", "", 83.63)}


def test_stacks_and_single_epochs_are_asked_for_together() -> None:
    stack = observation("ps1", "1784.059", 83.63, 22.01, mjd=55100.0, days=800.0)
    with served(PretendSky([stack], warps=PATHS)) as (mast, server):
        mast.connect()
        numbers = [one.number for one in mast.observations(EVENT, ["ps1"])]
        assert sorted(numbers) == sorted([stack.obsid, PATHS[0], PATHS[1]])
        files = mast.files(numbers)
        assert server.counts[INVOKE] == 2
    assert {file.observation for file in files} == set(numbers)


@pytest.mark.parametrize("changes", [{"dec": -45.0}, {"first": 58000.0, "last": 59000.0}, {"first": 53000.0, "last": 54000.0}])
def test_nothing_is_asked_of_a_place_or_time_that_the_survey_has_not_seen(changes: dict[str, float]) -> None:
    with served(PretendSky([], warps=PATHS)) as (mast, server):
        assert manifest(mast, dataclasses.replace(EVENT, **changes)) == []
        assert server.counts[WARPS] == 0


@pytest.mark.parametrize("kind", ["500", "429", "cut", "html"])
def test_a_fault_in_the_list_changes_nothing(kind: str) -> None:
    with served(PretendSky([], warps=PATHS)) as (mast, _):
        whole = manifest(mast)
    plan = faults.Listed({WARPS: (Fault(kind, seconds=0.05),)})
    with served(PretendSky([], warps=PATHS), plan) as (mast, server):
        assert manifest(mast) == whole
        assert server.counts[WARPS] == 2


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(b"", "text/plain"), "instead of a list of images"),
        (Reply(b"Traceback: no such column\n", "text/plain"), "instead of a list of images"),
        (Reply(b"projcell subcell filter mjd type filename\n1 2 r\n", "text/plain"), "instead of a list of images"),
        (Reply(b"projcell subcell filter mjd type filename\n1 2 r none warp /a\n", "text/plain"), "instead of a list of images"),
        (Reply(b"gone", "text/plain", 404), "answered with status 404"),
    ],
)
def test_an_answer_that_is_none_fails_with_its_reason(reply: Reply, reason: str) -> None:
    sky = PretendSky([])
    with served(sky) as (mast, server):
        server.routes[WARPS] = lambda _request: reply
        with pytest.raises(ArchiveError, match=reason):
            manifest(mast)


def test_a_bad_image_is_left_out() -> None:
    with served(PretendSky([])) as (mast, server):
        head = "projcell subcell ra dec filter mjd type filename shortname badflag"
        text = f"{head}\n1784 59 83.63 22.01 r 55200.25 warp {PATHS[1]} x 1\n1784 59 83.63 22.01 g 55560.46188 warp {PATHS[0]} x 0\n"
        server.routes[WARPS] = lambda _request: Reply(text.encode(), "text/plain")
        assert {row["filter"] for row in manifest(mast)} == {"g"}


def test_its_files_lie_under_their_own_address() -> None:
    item = Item(f"https://ps1images.stsci.edu{PATHS[0]}", "", PATHS[0].rsplit("/", 1)[-1], 0, "", ("SN 2012X", "ps1"), ())
    cfg = plain().download
    assert archive_url(item, dataclasses.replace(cfg, server="")) == item.uri
    assert archive_url(item, dataclasses.replace(cfg, server="http://localhost:1/")) == f"http://localhost:1{PATHS[0]}"

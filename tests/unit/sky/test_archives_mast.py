"""The real astroquery client against a server on this machine that speaks the portal's protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

from astrid.config.schema.archive import SearchConfig
from astrid.sky.archives import Archive, Event, open_archive
from astrid.sky.manners import ArchiveError, Manners
from support.archive_server import faults
from support.archive_server.faults import Fault, Plan, Reply
from support.archive_server.queries import COLUMNS, INVOKE, WARPS, PretendSky, observation
from support.archive_server.server import ArchiveServer

EVENT = Event("SN 2020X", 210.8, 54.3, 57000.0, 59365.0)
MISSIONS = ("swift", "galex", "ps1", "hst", "jwst", "tess")
SKY = [
    observation("swift", "00032819001", 210.8, 54.3, mjd=59000.0, exptime=812.5),
    observation("swift", "00032819002", 210.7, 54.3, mjd=58000.0, band="UVM2"),
    observation("swift", "00032819003", 210.8, 54.3, mjd=56000.0),  # before the window
    observation("swift", "00032819004", 250.0, 54.3, mjd=58000.0),  # elsewhere
    observation("galex", "AIS_101", 210.9, 54.4, mjd=58100.0),
    observation("ps1", "1334.061", 210.8, 54.3, mjd=56500.0, days=1500.0),  # begins before the window and ends in it
    observation("hst", "jbf801010", 210.8, 54.3, mjd=58200.0, rights="EXCLUSIVE_ACCESS"),
    observation("jwst", "jw01234-o001_t001", 210.8, 54.3, mjd=59010.0),
    observation("tess", "26", 212.0, 55.0, mjd=59005.0, days=3),
]


def settings(url: str, **changes: Any) -> SearchConfig:
    plain = {"server": url, "radius": 30.0, "before_days": 1.0, "after_days": 1.0, "chunk": 10, "parallel": 2, "rate": 1000.0, "retries": 8,
             "timeout": 10.0, "page": 5000, "accept_failed": 0.5}  # fmt: skip
    return SearchConfig(**{**plain, **changes})


@contextmanager
def archive(sky: PretendSky, plan: Plan = faults.none, **changes: Any) -> Iterator[tuple[Archive, ArchiveServer]]:
    with ArchiveServer(sky.routes(), plan) as server:
        cfg = settings(server.url, **changes)
        yield open_archive("mast", cfg, Manners(cfg.rate, cfg.retries)), server


def ask(sky: PretendSky, plan: Plan = faults.none, **changes: Any) -> tuple[list[Any], list[Any]]:
    with archive(sky, plan, **changes) as (mast, _):
        mast.connect()
        found = mast.observations(EVENT, MISSIONS)
        return found, mast.files([one.number for one in found])


def test_one_question_finds_every_mission_by_place_and_time() -> None:
    sky = PretendSky(SKY)
    with archive(sky) as (mast, server):
        mast.connect()
        found = mast.observations(EVENT, MISSIONS)
        assert server.counts == {COLUMNS: 2, INVOKE: 1, WARPS: 1}
    assert sorted((one.mission, one.filters) for one in found) == [
        ("galex", "NUV"), ("hst", "F606W"), ("jwst", "F200W"), ("ps1", "r"), ("swift", "UVM2"), ("swift", "UVW1"), ("tess", "TESS"),
    ]  # fmt: skip
    swift = next(one for one in found if one.filters == "UVW1")
    assert (swift.instrument, swift.t_min, swift.exptime, swift.ra, swift.dec, swift.rights) == (
        "UVOT",
        59000.0,
        812.5,
        210.8,
        54.3,
        "public",
    )
    assert swift.region.startswith("POLYGON ICRS ")
    assert next(one for one in found if one.mission == "hst").rights == "exclusive_access"


def test_what_is_planned_and_what_is_a_cut_out_is_left_out() -> None:
    """Webb lists what is not taken yet at level -1; TESS's images are full frames by their target, written in either way."""
    webb, tess = SKY[7], SKY[8]
    known = [
        dataclasses.replace(webb, obsid="1", calib_level=-1),
        dataclasses.replace(tess, obsid="2", target="TESS-FFI"),
        dataclasses.replace(tess, obsid="3", target="261136679"),
    ]
    with archive(PretendSky([webb, tess, *known])) as (mast, _):
        mast.connect()
        assert {one.number for one in mast.observations(EVENT, ("jwst", "tess"))} == {webb.obsid, tess.obsid, "2"}


def test_only_the_missions_that_are_asked_for_are_found() -> None:
    with archive(PretendSky(SKY)) as (mast, _):
        mast.connect()
        assert {one.mission for one in mast.observations(EVENT, ["swift", "ps1"])} == {"swift", "ps1"}


def test_products_of_several_observations_are_one_question() -> None:
    with archive(PretendSky(SKY)) as (mast, server):
        mast.connect()
        files = mast.files([SKY[0].obsid, SKY[6].obsid])
        assert server.counts[INVOKE] == 1
    assert {file.filename for file in files} >= {"sw00032819001uw1_sk.img.gz", "jbf801010_drc.fits"}
    assert {file.observation for file in files} == {SKY[0].obsid, SKY[6].obsid}
    assert {file.size for file in files} == {28800}


@pytest.mark.parametrize("page", [1, 3, 7])
def test_answers_of_several_pages_are_whole(page: int) -> None:
    sky = PretendSky(SKY)
    assert ask(sky, page=page) == ask(PretendSky(SKY))
    assert {question["pagesize"] for question in sky.questions} == {page}
    assert max(question["page"] for question in sky.questions) > 1


def test_a_question_that_is_still_worked_on_is_looked_at_again_after_a_pause() -> None:
    with archive(PretendSky(SKY, executing=3), rate=20.0) as (mast, server):
        mast.connect()
        assert len(mast.observations(EVENT, MISSIONS)) == 7
        assert server.counts[INVOKE] == 4
        looks = server.times[-4:]
        assert all(after - before >= 0.045 for before, after in pairwise(looks))


def test_a_question_that_is_never_done_fails_in_time() -> None:
    with archive(PretendSky(SKY, executing=10**9), timeout=0.3) as (mast, _):
        mast.connect()
        with pytest.raises(ArchiveError, match=r"the question was still worked on after 0\.3 s"):
            mast.observations(EVENT, MISSIONS)


@pytest.mark.parametrize("kind", faults.TABLES)
def test_a_fault_in_any_answer_changes_nothing(kind: str) -> None:
    at = 0.7 if kind == "cut" else 0.5
    bad = (Fault(kind, at, 0.05), Fault(kind, 0.2, 0.05, reset=True))
    assert ask(PretendSky(SKY), faults.Listed({"": bad}), page=4) == ask(PretendSky(SKY))


def test_an_observation_and_a_file_that_are_listed_twice_are_one() -> None:
    doubled = PretendSky([*SKY, *SKY])
    assert ask(doubled) == ask(PretendSky(SKY))


def test_nothing_near_is_an_answer() -> None:
    with archive(PretendSky([])) as (mast, _):
        mast.connect()
        assert mast.observations(EVENT, MISSIONS) == []


def test_an_observation_without_a_number_of_its_own_stays_one() -> None:
    unknown = dataclasses.replace(SKY[0], exptime=float("nan"))
    with archive(PretendSky([unknown, unknown])) as (mast, _):
        mast.connect()
        assert len(mast.observations(EVENT, ["swift"])) == 1


def always(make: Callable[[], Reply]) -> PretendSky:
    sky = PretendSky(SKY)
    sky._invoke = lambda request: make()  # type: ignore[method-assign]
    return sky


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(b"gone", "text/plain", 404), r"it answered with status 404\."),
        (Reply(b"busy", "text/plain", 503), r"it answered with status 503 \(3 attempts\)"),
        (Reply(b"<html>down</html>", "text/html"), r"it answered with a web page instead of a table \(3 attempts\)"),
        (Reply(b"SIMPLE = T", "application/octet-stream"), r"it answered with something else instead of a table"),
        (faults.table({"status": "ERROR", "msg": "the database  is away"}), r"it answered with the error 'the database is away'"),
        (faults.table({"status": "COMPLETE", "data": [], "paging": {"page": 1, "pageSize": 9, "pagesFiltered": 1, "rowsFiltered": 4}}),
         r"it answered with 4 rows less than it announced"),
    ],
)  # fmt: skip
def test_an_answer_that_is_none_fails_with_its_reason(reply: Reply, reason: str) -> None:
    with archive(always(lambda: reply), retries=2) as (mast, _):
        mast.connect()
        with pytest.raises(ArchiveError, match=reason):
            mast.observations(EVENT, MISSIONS)


def test_a_server_that_is_not_there_is_named() -> None:
    with archive(PretendSky(SKY), retries=1) as (mast, server):
        url = server.url
    with pytest.raises(ArchiveError, match=rf"{url}.*the connection failed or was cut \(2 attempts\)"):
        mast.connect()


def test_the_requests_keep_the_rate() -> None:
    with archive(PretendSky(SKY, executing=6), rate=50.0) as (mast, server):
        mast.connect()
        mast.observations(EVENT, MISSIONS)
        times = sorted(server.times)
    assert all(after - before > 0.01 for before, after in pairwise(times))


def test_the_client_of_other_code_in_this_program_stays_as_it_is() -> None:
    from astroquery.mast import Observations, conf

    ask(PretendSky(SKY))
    portal = Observations._portal_api_connection
    assert conf.server == "https://mast.stsci.edu"
    assert portal.MAST_REQUEST_URL == "https://mast.stsci.edu/api/v0/invoke"
    assert portal._column_configs == {}
    assert open_archive("mast", settings(""), Manners(1.0, 0)).address == "https://mast.stsci.edu"

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from astrid.config.schema.archive import CatalogConfig, CatalogSource
from astrid.core.errors import InputError
from astrid.sky.catalog import compile as compiling
from astrid.sky.catalog.vizier import fetch_table
from support.archive_server import faults, vizier
from support.archive_server.faults import Fault
from support.archive_server.server import ArchiveServer

ROWS = (
    (
        1,
        "",
        "2011fe",
        "",
        "NGC5457",
        "14 03 12.6",
        "+54 20 57",
        0.000804,
        "Ia",
        "2011/09/10",
        "",
        "PTF",
        "14 03 05.81",
        "+54 16 25.4",
        210.77,
        54.27,
    ),
    (2, "", "1946B", "?", "NGC4632", "", "", "", "II:", "1946/05/03", "*", "Mayall", "12 42 33.41", "-00 04 47.5", 190.6, -0.08),
    (3, "", "2000xx", "", "", "", "", "", "", "", "", "", "", "", "", ""),
)
OTHER = (("Star", "char", ""), ("Vmag", "float", "mag"))
TABLES = {"B/sn/sncat": (vizier.ASIAGO, ROWS), "J/A+A/1/1/stars": (OTHER, (("a", 1.0),)), "J/A+A/2/2/one": (vizier.ASIAGO, ROWS)}


@pytest.fixture
def server() -> Iterator[ArchiveServer]:
    tables: Any = TABLES | {"J/A+A/2/2/two": (vizier.ASIAGO, ROWS)}
    with ArchiveServer({vizier.VOTABLE: vizier.route(tables)}) as running:
        yield running


def _settings(server: str) -> CatalogConfig:
    sources = (CatalogSource(format="vizier", path="B/sn/sncat"),)
    return CatalogConfig(
        sources=sources, server=server, name_radius=300.0, match_radius=3.0, match_days=30.0, types=(), discovered=None, limit=0
    )


def test_the_asiago_catalogue_comes_through_astroquery_whole(server: ArchiveServer) -> None:
    cfg = _settings(server.url)
    got = compiling.compile_catalogs(cfg.sources, cfg)
    events = got.catalog.set_index("object_id")
    assert events.index.tolist() == ["SN2011fe", "SN1946B"]
    assert events.loc["SN2011fe", ["s_ra", "s_dec"]].tolist() == pytest.approx([210.774208333, 54.273722222])
    assert events.loc["SN1946B", "s_dec"] == pytest.approx(-0.079861111)
    assert events.loc["SN2011fe", ["transient_type", "host", "source"]].tolist() == ["SN Ia", "NGC5457", "B/sn/sncat"]
    assert events.loc["SN2011fe", "redshift"] == 0.000804  # the digits of VizieR, not those of its 32 bits
    assert events.loc["SN2011fe", "host_ra"] == pytest.approx(210.8025)
    assert events.loc["SN1946B", ["discovery_mjd", "discovery_precision"]].tolist() == [31943.0, 1.0]  # marked as of the discovery
    assert events.loc["SN2011fe", ["discovery_mjd", "discovery_precision"]].tolist() == [55814.0 - 30, 31.0]  # of the maximum
    assert got.refused[["source", "row", "name"]].to_numpy().tolist() == [["B/sn/sncat", 3, "2000xx"]]
    asked = next(iter(server.asked))
    assert "-out.max=unlimited" in asked
    assert "-out.all" in asked


def test_every_compilation_asks_anew_and_leaves_no_setting_behind(server: ArchiveServer) -> None:
    from astroquery.vizier import Vizier, conf

    before = conf.server, Vizier.VIZIER_SERVER, Vizier.ROW_LIMIT
    for _ in range(2):
        fetch_table("B/sn/sncat", server=server.url)
    assert server.total == 2
    assert (conf.server, Vizier.VIZIER_SERVER, Vizier.ROW_LIMIT) == before


@pytest.mark.parametrize("fault", [Fault("500"), Fault("429", seconds=0), Fault("cut", at=0.7), Fault("html")])
def test_a_passing_fault_changes_nothing(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("astrid.sky.catalog.vizier._RATE", 1000.0)
    with ArchiveServer({vizier.VOTABLE: vizier.route(TABLES)}) as good:
        expected = fetch_table("B/sn/sncat", server=good.url)
    with ArchiveServer({vizier.VOTABLE: vizier.route(TABLES)}, faults.Listed({"sncat": (fault,)})) as bad:
        assert fetch_table("B/sn/sncat", server=bad.url).equals(expected)
        assert bad.total == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("B/none/none", "has no table B/none/none with rows"),
        ("J/A+A/1/1", r"no table with names and coordinates \(its columns begin Star, Vmag"),
        ("J/A+A/2/2", r"has 2 tables with names and coordinates \(J/A\+A/2/2/one, J/A\+A/2/2/two\); name one"),
    ],
)
def test_what_vizier_does_not_have_is_named(server: ArchiveServer, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fetch_table(name, server=server.url)


def test_vizier_out_of_reach_is_one_sentence_with_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("astrid.sky.catalog.vizier._RATE", 1000.0)
    with ArchiveServer({}) as gone:
        address = gone.url
    with pytest.raises(InputError, match=r"B/sn/sncat cannot be had: .*\(4 attempts\); try later, name a mirror in survey.archive"):
        fetch_table("B/sn/sncat", server=address)
    with ArchiveServer({}) as elsewhere, pytest.raises(InputError, match="cannot be had: 404"):
        fetch_table("B/sn/sncat", server=elsewhere.url)

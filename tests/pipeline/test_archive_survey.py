"""From a catalogue to labelled triplets with the archive's own client, against a server on this machine that speaks its protocol."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from astrid.core.errors import InputError
from astrid.io.archive_tables import MANIFEST, OUTCOMES, QUESTIONS
from astrid.io.shards import TripletStore
from astrid.io.tables import EXPOSURES, PAIRS, read_table
from astrid.stages import acquire, catalog, search
from support.archive_server.eight import CATALOGUE, routes
from support.archive_server.faults import Fault, none
from support.archive_server.server import DOWNLOAD, ArchiveServer
from support.tiny import configure, inside, new_project, products, run_stages

pytestmark = pytest.mark.xdist_group("pipeline")

STAGES = ("catalog", "search", "acquire", "calibrate", "inject", "difference", "detect", "triplets")


@pytest.fixture(scope="module")
def server() -> Iterator[ArchiveServer]:
    with ArchiveServer(routes()) as running:
        yield running


@pytest.fixture
def prepared(tmp_path: Path, server: ArchiveServer) -> Iterator[Callable[..., Path]]:
    def prepare(text: str = CATALOGUE, *overrides: str) -> Path:
        project = new_project(tmp_path / "project")
        (project / "events.csv").write_text(text)
        configure(
            project, "survey=mast", "survey.missions=[swift]", "survey.archive.catalog.sources=[{format: table, path: events.csv}]",
            f"survey.archive.search.server={server.url}", f"survey.archive.download.server={server.url}",
            "survey.archive.search.rate=500", "survey.archive.download.rate=500", "survey.archive.search.retries=1", *overrides,
        )  # fmt: skip
        return project

    yield prepare
    server.plan = none


def test_a_catalogue_becomes_labelled_triplets(prepared: Callable[..., Path], server: ArchiveServer) -> None:
    project = prepared()
    run_stages(project, STAGES)
    outcomes = read_table(project / "data/pairs/outcomes.parquet", OUTCOMES).set_index("object_id")
    assert outcomes["why"].to_dict() == {
        "SN 2014A": "", "SN 2014B": "", "SN 2014C": "no reference before", "SN 2014D": "no date", "SN 2014E": "nothing in the archive",
        "SN 2014F": "filters differ", "SN 2014G": "header disagrees", "SN 2014H": "not delivered",
    }  # fmt: skip
    assert "filter UVM2, the archive says UVW1" in outcomes["reason"]["SN 2014G"]
    assert outcomes["stage"].to_dict()["SN 2014A"] == "paired"
    pairs = read_table(project / "data/pairs/pairs.parquet", PAIRS)
    usable = pairs[pairs["status"] == "ok"].set_index("field_id")
    assert sorted(usable.index) == ["SN-2014A", "SN-2014B"]
    assert usable["reference_mjd"]["SN-2014A"] == pytest.approx(56787 - 40, abs=0.02)  # the deepest
    exposures = read_table(project / "data/raw/exposures.parquet", EXPOSURES)
    assert all((project / "data/raw" / path).is_file() for column in ("path", "exposure_path") for path in exposures[column])
    summary = json.loads((project / "reports/acquire.json").read_text())
    assert summary["pairs_by_mission"] == {"swift": {"U": 1, "UVW1": 1}}
    assert summary["missions"]["swift"] == {"asked": 8, "found": 6, "chosen": 4, "fetched": 3, "paired": 2}
    page = (project / "reports/acquire.html").read_text()
    assert "SN 2014F, swift" in page
    assert "references of SN 2014F in U and science images in V, in no filter both" in page

    table = TripletStore.open(project / "data/triplets").table
    labels = pd.read_parquet(project / "data/triplets/labels.parquet")
    real = table[table["label"] == 1]
    for event, kind in (("SN 2014A", "SN Ia"), ("SN 2014B", "SN II")):
        mine = real[real["event_id"] == event]
        assert len(mine) == 1, event
        assert mine["kind"].iloc[0] == kind
        assert mine["snr"].iloc[0] > 10
        assert mine["sign"].iloc[0] == 1
    assert set(labels.loc[labels["label"] == 1, "source"]) == {"catalogue"}

    before = products(project / "data/raw") | products(project / "data/pairs") | products(project / "data/manifest")
    server.forget()
    run_stages(project, ("search", "acquire"))  # what is frozen and in place is not asked for again, but for what failed
    assert [path for path in server.asked if "00030720001" not in path] == []
    assert products(project / "data/raw") | products(project / "data/pairs") | products(project / "data/manifest") == before


def test_no_pair_at_all_is_one_sentence_with_the_table_written(prepared: Callable[..., Path]) -> None:
    lines = CATALOGUE.splitlines()
    project = prepared("\n".join([lines[0], *lines[3:6], lines[7], ""]))
    with inside(project):
        catalog.main()
        search.main()
        with pytest.raises(InputError, match=r"none of 4 events has a usable pair, .* have the reason of each"):
            acquire.main()
    outcomes = read_table(project / "data/pairs/outcomes.parquet", OUTCOMES)
    assert len(outcomes) == 4
    assert (outcomes["reason"] != "").all()
    assert (project / "reports/acquire.html").is_file()
    assert any((project / "data/raw/swift/SN-2014G").rglob("*_sk.img.gz"))  # kept: the next run need not fetch them again


def test_no_file_at_all_is_said_with_the_reason_of_the_first(prepared: Callable[..., Path], server: ArchiveServer) -> None:
    project = prepared("\n".join([*CATALOGUE.splitlines()[:3], ""]), "survey.archive.download.budget_gb=1e-6")
    server.forget()
    with inside(project):
        catalog.main()
        search.main()
        with pytest.raises(InputError, match=r"none of 2 events has a usable pair, 2 of them by 'beyond the budget', the first: sw\w+"):
            acquire.main()
    outcomes = read_table(project / "data/pairs/outcomes.parquet", OUTCOMES)
    assert outcomes["why"].tolist() == ["beyond the budget"] * 2
    assert (project / "reports/acquire.html").is_file()
    assert server.counts[DOWNLOAD] == 0


def test_a_file_service_that_is_down_is_said_with_the_way_on(prepared: Callable[..., Path]) -> None:
    project = prepared(
        "\n".join([*CATALOGUE.splitlines()[:3], ""]),
        "survey.archive.download.server=http://127.0.0.1:1",
        "survey.archive.download.retries=0",
    )
    with inside(project):
        catalog.main()
        search.main()
        with pytest.raises(InputError, match=r"by 'download failed'.* 8 of 8 files could not be transferred.*type the same command again"):
            acquire.main()


def test_what_failed_in_passing_ends_the_stages_until_it_is_there(prepared: Callable[..., Path], server: ArchiveServer) -> None:
    # A place that is not answered and then a file that does not come: all else is done, and the same stages again ask for these alone.
    lines = CATALOGUE.splitlines()
    project = prepared("\n".join([*lines[:3], ""]), "survey.archive.download.retries=1")
    pairs, raw, manifest = (project / path for path in ("data/pairs/pairs.parquet", "data/raw", "data/manifest"))
    with inside(project):
        catalog.main()
        server.plan = failing("40.2503")
        with pytest.raises(InputError, match=r"1 of 2 questions have no answer, and survey\.archive\.search\.accept_failed accepts 0.05"):
            search.main()
        assert set(read_table(manifest / "manifest.parquet", MANIFEST)["object_id"]) == {"SN 2014A"}
        server.plan = failing("00030660002uw1_sk", "00030660002uuu_sk")
        server.forget()
        search.main()
        assert not [path for path in server.asked if "210.8021" in path]
        with pytest.raises(InputError, match=r"1 of 8 files could not be transferred, and survey\.archive\.download\.accept_failed"):
            acquire.main()
        assert (read_table(pairs, PAIRS)["status"] == "ok").sum() == 1
        outcome = read_table(project / "data/pairs/outcomes.parquet", OUTCOMES).set_index("object_id")["why"]
        assert outcome.to_dict() == {"SN 2014A": "", "SN 2014B": "download failed"}
        server.plan = none
        server.forget()
        acquire.main()
        assert server.total == 1
    assert (read_table(pairs, PAIRS)["status"] == "ok").sum() == 2
    there = products(raw) | products(manifest) | products(project / "data/pairs")

    shutil.rmtree(project)  # no fault at all leaves the same
    run_stages(prepared("\n".join([*lines[:3], ""]), "survey.archive.download.retries=1"), ("catalog", "search", "acquire"))
    assert products(raw) | products(manifest) | products(project / "data/pairs") == there


def failing(*words: str) -> Callable[[str, int], Fault | None]:
    """A plan by which requests that hold one of the words are never answered."""
    return lambda request, _attempt: Fault("500") if any(word in request for word in words) else None


def test_a_share_of_failures_can_be_accepted(prepared: Callable[..., Path], server: ArchiveServer) -> None:
    lines = CATALOGUE.splitlines()
    half = ("survey.archive.download.retries=1", "survey.archive.search.accept_failed=0.5", "survey.archive.download.accept_failed=0.5")
    project = prepared("\n".join([*lines[:3], *lines[7:8], ""]), *half)
    server.plan = failing("40.2503", "00030710001")
    run_stages(project, ("catalog", "search", "acquire"))
    outcome = read_table(project / "data/pairs/outcomes.parquet", OUTCOMES).set_index("object_id")["why"]
    assert outcome.to_dict() == {"SN 2014A": "", "SN 2014B": "no answer", "SN 2014G": "header disagrees"}


def test_every_epoch_where_all_are_wanted(prepared: Callable[..., Path]) -> None:
    lines = CATALOGUE.splitlines()
    project = prepared("\n".join([*lines[:2], ""]), "survey.archive.choose.take=all", "survey.archive.choose.science_until=300")
    run_stages(project, ("catalog", "search", "acquire"))
    pairs = read_table(project / "data/pairs/pairs.parquet", PAIRS)
    assert (pairs["status"] == "ok").sum() == 4  # two snapshots of two visits
    assert read_table(project / "data/manifest/questions.parquet", QUESTIONS)["status"].tolist() == ["answered"]

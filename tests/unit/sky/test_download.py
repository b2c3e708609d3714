"""Fetching files from an archive that misbehaves: what arrives is whole, what cannot be used is said, and nothing is asked twice."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from astrid.core.errors import InputError
from astrid.sky.download import Fetched, fetch, park, work_folder
from support.archive_server import small
from support.archive_server.faults import Fault, Listed, Plan, Seeded, none
from support.archive_server.server import BUCKET, DOWNLOAD, ArchiveServer, bucket, files

Start = Callable[..., ArchiveServer]


@pytest.fixture
def start() -> Iterator[Start]:
    """Servers of given files by URI, which end with the test."""
    running: list[ArchiveServer] = []

    def begin(content: dict[str, bytes], plan: Plan = none, *, ranges: bool = True, cloud: dict[str, bytes] | None = None) -> ArchiveServer:
        routes = {DOWNLOAD: files(content.get, ranges=ranges), BUCKET: bucket((cloud or {}).get)}
        running.append(ArchiveServer(routes, plan).__enter__())
        return running[-1]

    yield begin
    for server in running:
        server.__exit__(None, None, None)


def one(
    start: Start, content: bytes, folder: Path, plan: Plan = none, *, name: str = "a.fits", ranges: bool = True, **values: Any
) -> tuple[Fetched, ArchiveServer]:
    """Fetch one file; `values` of the row, and `set_*` of the settings."""
    changes = {key.removeprefix("set_"): values.pop(key) for key in list(values) if key.startswith("set_")}
    entry = small.row(name, content, **values)
    server = start({entry["uri"]: content}, plan, ranges=ranges)
    return fetch(small.chosen([entry]), small.catalog(), folder / "raw", small.settings(server.url, **changes)), server


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("name", ["a.fits", "a.fits.gz", "a.fits.fz", "sw1_sk.img.gz"])
def test_a_file_arrives_under_its_name(start: Start, tmp_path: Path, name: str) -> None:
    content = small.image(name, hdus=2)
    fetched, server = one(start, content, tmp_path, name=name, checksum=f"md5:{hashlib.md5(content).hexdigest()}")
    assert fetched.paths == (f"swift/SN-1/science/{name}",)
    assert (tmp_path / "raw" / fetched.paths[0]).read_bytes() == content
    assert fetched.files["sha256"].tolist() == [hashlib.sha256(content).hexdigest()]
    assert fetched.missing.empty
    assert server.total == 1
    assert list(tree(tmp_path / "raw")) == list(fetched.paths)
    assert not list((work_folder(tmp_path / "raw") / "partial").glob("*"))


@pytest.mark.parametrize("at", [0.0, 0.004, 0.01, 0.02, 0.3, 0.7, 0.9999])
@pytest.mark.parametrize("reset", [True, False])
def test_a_cut_connection_goes_on_where_it_was(start: Start, tmp_path: Path, at: float, reset: bool) -> None:
    content = small.image("a.fits", size=128)
    fetched, server = one(start, content, tmp_path, Listed({"a.fits": (Fault("cut", at, reset=reset),)}))
    assert (tmp_path / "raw" / fetched.paths[0]).read_bytes() == content
    assert server.total == 2
    if at >= 0.3 and not reset:
        assert server.ranges == 1
        assert server.sent < 2 * len(content)


def test_a_server_without_ranges_starts_again(start: Start, tmp_path: Path) -> None:
    content = small.image("a.fits", size=128)
    fetched, server = one(start, content, tmp_path, Listed({"a.fits": (Fault("cut", 0.5), Fault("cut", 0.8))}), ranges=False)
    assert (tmp_path / "raw" / fetched.paths[0]).read_bytes() == content
    assert server.total == 3


def test_the_rest_of_another_file_is_not_joined(start: Start, tmp_path: Path) -> None:
    old, new = small.image("old.fits", size=128), small.image("new.fits", size=128)
    content = {"mast:SWIFT/SN-1/a.fits": old}
    rows = small.chosen([small.row("a.fits", old)])
    server = start(content, lambda request, attempt: Fault("cut", 0.5) if attempt == 0 else Fault("500"))
    cfg = small.settings(server.url, retries=1)
    assert fetch(rows, small.catalog(), tmp_path / "raw", cfg).problems
    assert list((work_folder(tmp_path / "raw") / "partial").glob("*a.fits"))
    content["mast:SWIFT/SN-1/a.fits"] = new  # of the same size: only the ETag tells
    server.plan = none
    fetched = fetch(rows, small.catalog(), tmp_path / "raw", cfg)
    assert (tmp_path / "raw" / fetched.paths[0]).read_bytes() == new


@pytest.mark.parametrize("kind", ["slow", "500", "429", "html", "short", "long", "cut"])
@pytest.mark.parametrize("known", [True, False])
def test_faults_leave_the_same_bytes(start: Start, tmp_path: Path, kind: str, known: bool) -> None:
    for name in ("a.fits", "a.fits.gz"):
        content = small.image(name, size=64)
        values = {} if known else {"size": 0}
        fetched, server = one(start, content, tmp_path / name, Listed({name: (Fault(kind, 0.41), Fault(kind, 0.62))}), name=name, **values)
        assert (tmp_path / name / "raw" / fetched.paths[0]).read_bytes() == content
        assert server.total == (1 if kind == "slow" else 3)


def test_an_archive_that_names_a_time_is_left_alone_for_it(start: Start, tmp_path: Path) -> None:
    began = time.monotonic()
    fetched, _ = one(start, small.image("a"), tmp_path, Listed({"a.fits": (Fault("429", seconds=1.0),)}))
    assert len(fetched.paths) == 1
    assert time.monotonic() - began >= 1.0


def test_a_silent_server_counts_as_broken(start: Start, tmp_path: Path) -> None:
    fetched, server = one(start, small.image("a"), tmp_path, Listed({"a.fits": (Fault("slow", seconds=15.0),)}), set_timeout=0.5)
    assert len(fetched.paths) == 1
    assert server.total == 2


def test_files_of_another_survey_in_between_come_back_unasked(start: Start, tmp_path: Path) -> None:
    content = {f"mast:SWIFT/SN-1/{name}": small.image(name) for name in ("a.fits", "b.fits")}
    rows = small.chosen(small.row(name, content[f"mast:SWIFT/SN-1/{name}"]) for name in ("a.fits", "b.fits"))
    server, raw = start(content), tmp_path / "raw"
    first = fetch(rows, small.catalog(), raw, small.settings(server.url))
    before = tree(raw)
    park(raw, [raw / first.paths[0]])
    assert list(tree(raw)) == [first.paths[0]]
    park(raw, [])
    assert not tree(raw)
    server.forget()
    again = fetch(rows, small.catalog(), raw, small.settings(server.url))
    assert server.total == 0
    assert tree(raw) == before
    assert again.paths == first.paths


def test_files_of_other_hands_are_not_kept(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "own.fits").write_bytes(b"own")
    park(tmp_path / "raw", [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


def test_a_second_run_asks_nothing(start: Start, tmp_path: Path) -> None:
    names = [f"{number}.fits" for number in range(6)]
    content = {f"mast:SWIFT/SN-1/{name}": small.image(name) for name in names}
    content["mast:SWIFT/SN-1/5.fits"] = small.image("5.fits", ra=20.0)  # another place of the sky
    rows = small.chosen(small.row(name, content[f"mast:SWIFT/SN-1/{name}"]) for name in names)
    server = start(content)
    first = fetch(rows, small.catalog(), tmp_path / "raw", small.settings(server.url))
    before = tree(tmp_path / "raw")
    server.forget()
    again = fetch(rows, small.catalog(), tmp_path / "raw", small.settings(server.url))
    assert server.total == 0
    assert tree(tmp_path / "raw") == before
    pd.testing.assert_frame_equal(again.files, first.files)
    assert again.problems == first.problems
    for path in first.paths[:3]:  # put back by another hand: the digest decides
        os.utime(tmp_path / "raw" / path, (1, 1))
    fetch(rows, small.catalog(), tmp_path / "raw", small.settings(server.url))
    assert server.total == 0
    for file in work_folder(tmp_path / "raw").glob("*.jsonl"):  # a fresh clone after `dvc pull`
        file.unlink()
    pd.testing.assert_frame_equal(fetch(rows, small.catalog(), tmp_path / "raw", small.settings(server.url)).files, first.files)
    assert server.total == 0


def test_a_changed_file_is_fetched_again(start: Start, tmp_path: Path) -> None:
    content = small.image("a.fits")
    fetched, server = one(start, content, tmp_path)
    path = tmp_path / "raw" / fetched.paths[0]
    damaged = bytearray(content)
    damaged[-3000] ^= 1
    path.write_bytes(damaged)
    fetch(small.chosen([small.row("a.fits", content)]), small.catalog(), tmp_path / "raw", small.settings(server.url))
    assert path.read_bytes() == content
    assert server.total == 2


def test_two_events_share_a_file(start: Start, tmp_path: Path) -> None:
    content = small.image("a.fits")
    rows = [small.row("a.fits", content, event, uri="mast:SWIFT/a.fits") for event in ("SN-1", "SN-2", "SN-9")]
    server = start({"mast:SWIFT/a.fits": content})
    places = small.catalog(["SN-1", "SN-2", "SN-9"])
    places.loc[2, "s_ra"] = 20.0
    fetched = fetch(small.chosen(rows), places, tmp_path / "raw", small.settings(server.url))
    assert fetched.paths == ("swift/SN-1/science/a.fits", "swift/SN-2/science/a.fits")
    assert fetched.missing["object_id"].tolist() == ["SN-9"]
    assert "not in its image" in fetched.missing["reason"][0]
    assert fetched.missing["why"].tolist() == ["not inside"]
    assert server.total == 1
    fetch(small.chosen(rows), places, tmp_path / "raw", small.settings(server.url))
    assert server.total == 1


def test_names_that_meet_are_kept_apart(start: Start, tmp_path: Path) -> None:
    rows = [small.row("a.fits", small.image(obs), obs_id=obs, uri=f"mast:SWIFT/{obs}/a.fits") for obs in ("o1", "o2")]
    rows += [small.row("b.fits", small.image(event), event) for event in ("SN 3", "SN/3")]
    server = start({entry["uri"]: small.image(entry["obs_id"] if entry["filename"] == "a.fits" else entry["object_id"]) for entry in rows})
    fetched = fetch(small.chosen(rows), small.catalog(["SN-1", "SN 3", "SN/3"]), tmp_path / "raw", small.settings(server.url))
    assert {path for path in fetched.paths if path.endswith("a.fits")} == {"swift/SN-1/science/a.fits", "swift/SN-1/science/o2/a.fits"}
    assert len({path for path in fetched.paths if path.endswith("b.fits")}) == 2


@pytest.mark.parametrize("name", ["../a.fits", ".hidden.fits", "", "a/b.fits"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    fetched = fetch(small.chosen([small.row(name, None)]), small.catalog(), tmp_path / "raw", small.settings("http://127.0.0.1:9"))
    assert "cannot be that of a file here" in fetched.problems[0].reason
    assert fetched.missing["why"].tolist() == ["not delivered"]


def test_what_goes_beyond_the_limits_is_reported_and_not_fetched(start: Start, tmp_path: Path) -> None:
    content = {f"mast:SWIFT/SN-{number}/{role}.fits": small.image(f"{number}{role}") for number in range(4) for role in "ab"}
    size = len(small.image("0a"))
    rows = [small.row(f"{role}.fits", small.image("0a"), f"SN-{number}") for number in range(4) for role in "ab"]
    rows.append(small.row("huge.fits", None, "SN-0", size=10**9))
    server = start(content)
    cfg = small.settings(server.url, budget_gb=5.5 * size / 1e9)
    places = small.catalog([f"SN-{number}" for number in range(4)])
    for _ in range(2):  # what is there counts
        fetched = fetch(small.chosen(rows), places, tmp_path / "raw", cfg)
        assert sorted({path.split("/")[1] for path in fetched.paths}) == ["SN-0", "SN-1"]
        assert server.total == 4
    reasons = dict(zip(fetched.missing["object_id"] + fetched.missing["filename"], fetched.missing["reason"], strict=True))
    assert fetched.missing["why"].value_counts().to_dict() == {"beyond the budget": 4, "too large": 1}
    assert "budget_gb" in reasons["SN-2a.fits"]
    assert "max_file_gb is 0.1" in reasons["SN-0huge.fits"]


def test_a_file_of_unknown_size_is_bounded_too(start: Start, tmp_path: Path) -> None:
    fetched, _ = one(start, small.image("a.fits", size=256), tmp_path, size=0, set_max_file_gb=1e-4)
    assert "max_file_gb is 0.0001" in fetched.problems[0].reason
    assert fetched.missing["why"].tolist() == ["too large"]


def test_a_full_disk_is_said_before_the_start(tmp_path: Path) -> None:
    rows = small.chosen([small.row("a.fits", None, size=10**18)])
    cfg = small.settings("http://127.0.0.1:9", budget_gb=1e12, max_file_gb=1e12)
    with pytest.raises(InputError, match=r"1e\+09 GB are to be fetched and .* GB are free"):
        fetch(rows, small.catalog(), tmp_path / "raw", cfg)


def test_two_runs_do_not_meet(start: Start, tmp_path: Path) -> None:
    content = small.image("a.fits")
    rows = small.chosen([small.row("a.fits", content)])
    server = start({"mast:SWIFT/SN-1/a.fits": content}, Listed({"a.fits": (Fault("slow", seconds=1.5),)}))
    thread = threading.Thread(target=fetch, args=(rows, small.catalog(), tmp_path / "raw", small.settings(server.url)))
    thread.start()
    while not server.total:
        time.sleep(0.01)
    with pytest.raises(InputError, match="another run fetches files"):
        fetch(rows, small.catalog(), tmp_path / "raw", small.settings(server.url))
    thread.join()


def test_what_the_archive_has_not_is_said_and_the_rest_goes_on(start: Start, tmp_path: Path) -> None:
    content = {"mast:SWIFT/SN-1/a.fits": small.image("a")}
    server = start(content)
    rows = small.chosen([small.row("a.fits", content["mast:SWIFT/SN-1/a.fits"]), small.row("gone.fits", None)])
    fetched = fetch(rows, small.catalog(), tmp_path / "raw", small.settings(server.url))
    assert fetched.paths == ("swift/SN-1/science/a.fits",)
    assert fetched.problems[0].source == "mast:SWIFT/SN-1/gone.fits"
    assert "no such file (status 404)" in fetched.problems[0].reason
    assert (fetched.missing["why"].tolist(), fetched.passing) == (["not delivered"], 0)
    assert server.total == 2


def test_an_archive_that_is_down_is_not_asked_for_every_file(start: Start, tmp_path: Path) -> None:
    names = [f"{number}.fits" for number in range(60)]
    server = start({}, lambda _request, _attempt: Fault("500"))
    server.routes[DOWNLOAD] = files(lambda _uri: b"x")
    rows = small.chosen(small.row(name, None) for name in names)
    fetched = fetch(rows, small.catalog(), tmp_path / "raw", small.settings(server.url, retries=1, parallel=2))
    assert len(fetched.missing) == 60
    assert (set(fetched.missing["why"]), fetched.passing) == ({"download failed"}, 60)
    assert server.total < 40
    assert any("run it again when the archive is back" in reason for reason in fetched.missing["reason"])
    assert any("status 500 (2 attempts)" in reason for reason in fetched.missing["reason"])


def test_a_replaced_file_is_told_from_a_broken_transfer(start: Start, tmp_path: Path) -> None:
    fetched, server = one(start, small.image("a.fits"), tmp_path, size=12345)
    assert "listed 12345 bytes and twice announced" in fetched.problems[0].reason
    assert fetched.missing["why"].tolist() == ["not delivered"]
    assert server.total == 2


def test_a_wrong_checksum_is_no_use_twice(start: Start, tmp_path: Path) -> None:
    fetched, server = one(start, small.image("a.fits"), tmp_path, checksum="sha256:" + "0" * 64)
    assert "its sha256 is" in fetched.problems[0].reason
    assert "came so twice" in fetched.problems[0].reason
    assert (fetched.missing["why"].tolist(), fetched.passing) == (["file broken"], 0)
    assert not tree(tmp_path / "raw")
    assert server.total == 2


def test_the_bucket_comes_first_and_the_archive_is_the_way_back(start: Start, tmp_path: Path) -> None:
    content = {name: small.image(name) for name in ("a.fits", "b.fits", "c.fits")}
    archive = {f"mast:SWIFT/SN-1/{name}": data for name, data in content.items()}
    plan = Listed({"stpubdata/swift/public/b.fits": (Fault("500"),) * 9})
    server = start(archive, plan, cloud={"swift/public/a.fits": content["a.fits"], "swift/public/b.fits": content["b.fits"]})
    rows = small.chosen(small.row(name, data, cloud_uri=f"s3://stpubdata/swift/public/{name}") for name, data in content.items())
    cfg = small.settings(server.url, cloud=True, cloud_server=server.url)
    fetched = fetch(rows, small.catalog(), tmp_path / "raw", cfg)
    assert [(tmp_path / "raw" / path).read_bytes() for path in fetched.paths] == list(content.values())
    assert server.counts == {
        DOWNLOAD: 2,
        f"{BUCKET}swift/public/a.fits": 1,
        f"{BUCKET}swift/public/b.fits": 2,
        f"{BUCKET}swift/public/c.fits": 1,
    }


def test_the_token_goes_to_the_archive_alone(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MAST_API_TOKEN", "secret-token")
    content = small.image("a.fits")
    entry = small.row("a.fits", content, cloud_uri="s3://stpubdata/x/a.fits")
    server = start({entry["uri"]: content})
    cfg = small.settings(server.url, cloud=True, cloud_server=server.url)
    fetched = fetch(small.chosen([entry]), small.catalog(), tmp_path / "raw", cfg)
    assert len(fetched.paths) == 1
    assert server.headers[DOWNLOAD]["cookie"] == "mast_token=secret-token"
    assert "cookie" not in server.headers[f"{BUCKET}x/a.fits"]
    assert "secret-token" not in caplog.text
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"secret-token" in path.read_bytes()]


def test_a_file_that_is_not_public_says_so(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from support.archive_server.faults import Reply

    monkeypatch.delenv("MAST_API_TOKEN", raising=False)
    server = start({})
    server.routes[DOWNLOAD] = lambda _request: Reply(b"", status=401)
    fetched = fetch(small.chosen([small.row("a.fits", None)]), small.catalog(), tmp_path / "raw", small.settings(server.url))
    assert "status 401) without a token; set MAST_API_TOKEN" in fetched.problems[0].reason


def test_the_rate_and_the_number_at_once_are_kept(start: Start, tmp_path: Path) -> None:
    content = {f"mast:SWIFT/SN-1/{number}.fits": small.image(f"{number}") for number in range(12)}
    server = start(content, Seeded(1, 1.0, ("slow",), seconds=0.1))
    rows = small.chosen(small.row(uri.rsplit("/", 1)[1], data) for uri, data in content.items())
    fetch(rows, small.catalog(), tmp_path / "raw", small.settings(server.url, rate=20.0, parallel=3))
    assert server.most_together <= 3
    assert server.times[-1] - server.times[0] >= 11 / 20 - 0.05


def test_the_bytes_a_second_are_kept(start: Start, tmp_path: Path) -> None:
    content = small.image("a.fits", size=512)
    began = time.monotonic()
    one(start, content, tmp_path, set_megabytes_a_second=1.0)
    assert time.monotonic() - began >= (len(content) - 2**16) / 1e6


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_many_faults_end_like_none(start: Start, tmp_path: Path, share: float) -> None:
    names = [f"{number}.fits{end}" for number in range(12) for end in ("", ".gz")]
    content = {f"mast:SWIFT/SN-1/{name}": small.image(name, size=48) for name in names}
    rows = small.chosen(small.row(name, content[f"mast:SWIFT/SN-1/{name}"], size=0) for name in names)
    server = start(content, Seeded(5, share, seconds=0.05))
    fetched = fetch(rows, small.catalog(), tmp_path / "raw", small.settings(server.url))
    assert sum(server.faulty.values()) > 3
    assert {path: (tmp_path / "raw" / path).read_bytes() for path in fetched.paths} == {
        f"swift/SN-1/science/{name}": content[f"mast:SWIFT/SN-1/{name}"] for name in names
    }


def test_a_tar_becomes_a_folder(start: Start, tmp_path: Path) -> None:
    members = {"top/a_sk.fits": small.image("a"), "top/b_ex.fits": small.image("b", ra=20.0), "top/notes.txt": b"read me"}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as made:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            made.addfile(entry, io.BytesIO(content))
    fetched, server = one(start, stream.getvalue(), tmp_path, Listed({".tar": (Fault("cut", 0.4),)}), name="set.tar")
    folder = "swift/SN-1/science/set"
    assert fetched.paths == (f"{folder}/a_sk.fits", f"{folder}/b_ex.fits", f"{folder}/notes.txt")
    rows = small.chosen([small.row("set.tar", stream.getvalue())])
    (work_folder(tmp_path / "raw") / "verified.jsonl").unlink()
    for _ in range(2):
        assert fetch(rows, small.catalog(), tmp_path / "raw", small.settings(server.url)).paths == fetched.paths
    assert server.total == 2
    (tmp_path / "raw" / folder / "notes.txt").unlink()
    assert fetch(rows, small.catalog(), tmp_path / "raw", small.settings(server.url)).paths == fetched.paths
    assert server.total == 3


@pytest.mark.parametrize(
    ("ra", "damaged", "why", "reason"),
    [(20.0, False, "not inside", "none of its 1 files is an image of the event"), (small.RA, True, "file broken", "came so twice")],
)
def test_a_tar_of_no_use_is_set_aside(start: Start, tmp_path: Path, ra: float, damaged: bool, why: str, reason: str) -> None:
    content = bytearray(small.image("a", ra=ra))
    content[-3500] ^= damaged
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as made:
        entry = tarfile.TarInfo("a.fits")
        entry.size = len(content)
        made.addfile(entry, io.BytesIO(bytes(content)))
    fetched, server = one(start, stream.getvalue(), tmp_path, name="set.tar")
    assert reason in fetched.problems[0].reason
    assert fetched.missing["why"].tolist() == [why]
    assert not tree(tmp_path / "raw")
    asked = server.total
    again = fetch(small.chosen([small.row("set.tar", stream.getvalue())]), small.catalog(), tmp_path / "raw", small.settings(server.url))
    assert again.problems == fetched.problems
    assert server.total == asked

from __future__ import annotations

import copy
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from astrid.config.compose import compose
from astrid.config.schema import SurveyConfig
from astrid.config.schema.archive import ArchiveConfig
from astrid.config.validate import validate
from astrid.core.errors import ConfigError, InputError
from astrid.core.runtime import exit_codes
from astrid.io.archive_tables import MANIFEST, QUESTIONS
from astrid.io.tables import CATALOG, conform, read_table, to_arrow, write_table
from astrid.sky import manifest
from astrid.sky.frozen import leave, read_manifest
from astrid.sky.manners import ArchiveError
from astrid.stages import search as stage
from support.archive_server import faults
from support.archive_server.queries import INVOKE, PretendSky, observation
from support.archive_server.server import ArchiveServer, Request

ROOT = Path(__file__).resolve().parents[3]
DISCOVERY = 59000.0


def place(number: int) -> tuple[float, float]:
    return 5.0 + (number % 20) * 10.0, -60.0 + (number // 20) * 2.0


def catalog(count: int, *, undated: int = 0) -> pd.DataFrame:
    rows = [
        {"object_id": f"SN{number:04d}", "s_ra": place(number)[0], "s_dec": place(number)[1],
         "discovery_mjd": DISCOVERY if number < count - undated else float("nan")}
        for number in range(count)
    ]  # fmt: skip
    return conform(pd.DataFrame(rows), CATALOG, source="test")


def sky(count: int, *, visits: int = 2) -> PretendSky:
    """Swift observations of every event before and after it, and a GALEX one of every third."""
    known = []
    for number in range(count):
        ra, dec = place(number)
        for visit in range(visits):
            mjd = DISCOVERY + 5.0 if visit == 1 else DISCOVERY - 400.0 - visit
            known.append(observation("swift", f"{number:08d}{visit + 1:03d}", ra, dec, mjd=mjd))
        if number % 3 == 0:
            known.append(observation("galex", f"AIS_{number}", ra, dec, mjd=DISCOVERY - 900.0))
    return PretendSky(known)


@cache
def plain() -> dict[str, Any]:
    survey: dict[str, Any] = compose(ROOT / "conf", ["survey=mast", "survey.missions=[swift,galex]"])["survey"]
    return survey


def values(url: str, **changes: Any) -> dict[str, Any]:
    survey = copy.deepcopy(plain())
    survey["archive"]["search"] |= {"server": url, "chunk": 4, "parallel": 4, "rate": 2000, "retries": 6, "timeout": 10} | changes
    return survey


def config(url: str, **changes: Any) -> ArchiveConfig:
    archive = validate(SurveyConfig, values(url, **changes), path="survey").archive
    assert archive is not None
    return archive


@pytest.fixture
def served() -> Iterator[Callable[..., ArchiveServer]]:
    running = []

    def start(known: PretendSky, plan: faults.Plan = faults.none) -> ArchiveServer:
        server = ArchiveServer(known.routes(), plan).__enter__()
        running.append(server)
        return server

    yield start
    for server in running:
        server.__exit__(None, None, None)


def both(folder: Path) -> tuple[bytes, bytes]:
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.parquet", "questions.parquet"]
    return (folder / "manifest.parquet").read_bytes(), (folder / "questions.parquet").read_bytes()


def ask(
    folder: Path, server: ArchiveServer, events: pd.DataFrame, missions: tuple[str, ...] = ("swift", "galex"), **changes: Any
) -> pd.DataFrame:
    return manifest.search(events, config(server.url, **changes), missions, folder)


def test_a_catalogue_is_asked_once(served: Callable[..., ArchiveServer], tmp_path: Path) -> None:
    server = served(sky(9))
    questions = ask(tmp_path, server, catalog(10, undated=1))
    assert server.counts[INVOKE] == 9 + 3 + 2  # an event's missions share a question, a chunk's observations one a mission
    assert list(questions["object_id"].unique()) == [f"SN{number:04d}" for number in range(10)]
    assert (questions["status"] == "answered").sum() == 18
    assert set(questions[questions["object_id"] == "SN0009"]["reason"]) == {
        "its discovery date is not known, so that there is no window to search."
    }
    table = read_table(tmp_path / "manifest.parquet", MANIFEST)
    assert len(table) == 9 * 2 * 2 + 3 * 3
    assert questions["products"].sum() == len(table)
    assert questions["observations"].sum() == 9 * 2 + 3
    order = ["object_id", "mission", "obs_id", "filename"]
    assert table[order].equals(table.sort_values(order, ignore_index=True)[order])
    before = both(tmp_path)
    server.forget()
    ask(tmp_path, server, catalog(10, undated=1))
    assert server.total == 0
    assert both(tmp_path) == before


def test_faults_chunks_threads_and_pages_leave_the_same_bytes(served: Callable[..., ArchiveServer], tmp_path: Path) -> None:
    server = served(sky(12))
    ask(tmp_path / "calm", server, catalog(12))
    server.plan = faults.Seeded(3, 0.3, faults.TABLES, seconds=0.05)
    server.forget()
    ask(tmp_path / "storm", server, catalog(12))
    assert server.faulty.total() > 5
    server.plan = faults.none
    ask(tmp_path / "other", server, catalog(12).sample(frac=1.0, random_state=1), chunk=5, parallel=1, page=3)
    assert both(tmp_path / "calm") == both(tmp_path / "storm") == both(tmp_path / "other")


def test_only_new_events_and_missions_are_asked_and_what_is_not_wanted_goes(served: Callable[..., ArchiveServer], tmp_path: Path) -> None:
    server = served(sky(9))
    ask(tmp_path / "grown", server, catalog(6), ("swift",))
    server.forget()
    ask(tmp_path / "grown", server, catalog(9), ("swift",))
    assert server.counts[INVOKE] == 3 + 1
    server.forget()
    ask(tmp_path / "grown", server, catalog(9), ("galex", "swift"))
    assert server.counts[INVOKE] == 9 + 2
    ask(tmp_path / "whole", server, catalog(9))
    assert both(tmp_path / "grown") == both(tmp_path / "whole")
    ask(tmp_path / "grown", server, catalog(4), ("swift",))
    assert set(read_table(tmp_path / "grown/manifest.parquet", MANIFEST)["mission"]) == {"swift"}
    assert len(read_table(tmp_path / "grown/questions.parquet", QUESTIONS)) == 4


def test_what_is_not_wanted_any_more_comes_back_unasked(served: Callable[..., ArchiveServer], tmp_path: Path) -> None:
    server, folder = served(sky(9)), tmp_path / "manifest"
    ask(folder, server, catalog(9))
    before = both(folder)
    server.forget()
    leave(folder)  # another survey
    assert read_table(folder / "manifest.parquet", MANIFEST).empty
    assert read_table(folder / "questions.parquet", QUESTIONS).empty
    leave(folder)  # and that again
    ask(folder, server, catalog(4), ("swift",))
    ask(folder, server, catalog(9), ("galex",))
    ask(folder, server, catalog(9))
    assert server.total == 0
    assert both(folder) == before


def test_leaving_an_archive_that_was_never_asked_keeps_nothing(tmp_path: Path) -> None:
    leave(tmp_path / "manifest")
    assert [path.name for path in tmp_path.iterdir()] == ["manifest"]


def test_the_key_covers_what_the_answer_depends_on(tmp_path: Path) -> None:
    def keys(events: pd.DataFrame, url: str = "http://a", **changes: Any) -> list[str]:
        return [question.key for question in manifest.plan(events, config(url, **changes), ("swift",))]

    one = catalog(1)
    assert keys(one) == keys(one, chunk=9, parallel=1, rate=1, retries=0, timeout=1, page=7)
    moved, later = one.assign(s_ra=one["s_ra"] + 1e-9), one.assign(discovery_mjd=DISCOVERY + 1)
    others = [keys(moved), keys(later), keys(one, "http://b"), keys(one, radius=9), keys(one, before_days=9), keys(one, after_days=9)]
    assert len({tuple(other) for other in [keys(one), *others]}) == 7
    assert manifest.plan(one, config("http://a"), ("swift",))[0].key != manifest.plan(one, config("http://a"), ("galex",))[0].key
    with pytest.raises(InputError, match=r"survey\.missions is empty; name what to search"):
        manifest.plan(one, config("http://a"), ())
    (nowhere,) = manifest.plan(one.assign(s_ra=float("nan")), config("http://a"), ("swift",))
    assert nowhere.reason == "its position is not known."


class Refuse:
    """Answers 404 to what is asked about some declinations, or for products of some observations."""

    def __init__(self, known: PretendSky) -> None:
        self.known = known
        self.texts: tuple[str, ...] = ()

    def routes(self) -> dict[str, Any]:
        plain = self.known.routes()

        def invoke(request: Request) -> faults.Reply:
            asked = json.dumps(json.loads(request.form["request"])["params"])
            return faults.Reply(b"", "text/plain", 404) if any(text in asked for text in self.texts) else plain[INVOKE](request)

        return {**plain, INVOKE: invoke}


def refused(numbers: Iterable[int]) -> tuple[str, ...]:
    return tuple(f'"{place(number)[0]}, {place(number)[1]}, ' for number in numbers)


def test_a_failed_question_keeps_its_reason_and_is_the_only_one_asked_again(served: Callable[..., ArchiveServer], tmp_path: Path) -> None:
    known = sky(8)
    refuse = Refuse(known)
    server = served(refuse)  # type: ignore[arg-type]
    refuse.texts = (*refused([3]), next(one.obsid for one in known.observations if one.obs_id == "00000006001"))
    questions = ask(tmp_path / "twice", server, catalog(8)).set_index(["object_id", "mission"])
    failed = questions[questions["status"] == "failed"]
    # The event whose place is refused, and all whose Swift files were asked together with the refused ones.
    assert set(failed.index) == {("SN0003", "swift"), ("SN0003", "galex"), *((f"SN{n:04d}", "swift") for n in (4, 5, 6, 7))}
    assert set(failed["reason"]) == {f"{server.url}: it answered with status 404."}
    assert (failed["products"] == 0).all()
    refuse.texts = ()
    server.forget()
    again = ask(tmp_path / "twice", server, catalog(8))
    assert (again["status"] == "answered").all()
    assert server.counts[INVOKE] == 5 + 3
    ask(tmp_path / "once", server, catalog(8))
    assert both(tmp_path / "twice") == both(tmp_path / "once")


def test_an_archive_that_answers_nothing_is_one_sentence(served: Callable[..., ArchiveServer], tmp_path: Path) -> None:
    refuse = Refuse(sky(40))
    refuse.texts = ("position",)
    server = served(refuse)  # type: ignore[arg-type]
    said = r"does not answer \(http.*: it answered with status 404\); run it again later: what was answered is kept\."
    with pytest.raises(ArchiveError, match=said):
        ask(tmp_path, server, catalog(40), parallel=1)
    assert server.counts[INVOKE] == 10  # and the other thirty are not tried
    with pytest.raises(ArchiveError, match=said):
        ask(tmp_path / "few", server, catalog(3))
    server.routes.clear()
    with pytest.raises(ArchiveError, match=said):
        ask(tmp_path / "none", server, catalog(3))


def test_an_archive_that_falls_silent_keeps_what_it_said(served: Callable[..., ArchiveServer], tmp_path: Path) -> None:
    refuse = Refuse(sky(40))
    server = served(refuse)  # type: ignore[arg-type]
    refuse.texts = refused(range(13, 40))
    with pytest.raises(ArchiveError, match="run it again later: what was answered is kept"):
        ask(tmp_path / "a", server, catalog(40))
    refuse.texts = ()
    server.forget()
    ask(tmp_path / "a", server, catalog(40))
    assert 27 + 7 <= server.counts[INVOKE] <= 27 + 2 * 8
    ask(tmp_path / "b", server, catalog(40))
    assert both(tmp_path / "a") == both(tmp_path / "b")


def test_events_that_always_fail_do_not_keep_the_rest_from_ending(served: Callable[..., ArchiveServer], tmp_path: Path) -> None:
    refuse = Refuse(sky(30))
    server = served(refuse)  # type: ignore[arg-type]
    refuse.texts = refused(range(12))
    with pytest.raises(ArchiveError, match="does not answer"):
        ask(tmp_path, server, catalog(30), parallel=1)
    with pytest.raises(ArchiveError, match="does not answer"):
        ask(tmp_path, server, catalog(12), parallel=1)
    questions = ask(tmp_path, server, catalog(30), parallel=1)
    assert (questions["status"] == "failed").sum() == 24
    assert (questions["status"] == "answered").sum() == 36


@pytest.mark.parametrize("victim", ["rows", "questions"])
def test_a_damaged_part_or_table_is_asked_again(served: Callable[..., ArchiveServer], tmp_path: Path, victim: str) -> None:
    server = served(sky(6))
    ask(tmp_path, server, catalog(6))
    before = both(tmp_path)
    (tmp_path / ("manifest.parquet" if victim == "rows" else "questions.parquet")).write_bytes(b"PAR1 and no more")
    server.forget()
    ask(tmp_path, server, catalog(6))
    assert server.counts[INVOKE] >= 6
    assert both(tmp_path) == before


def test_a_manifest_that_lost_rows_is_asked_again(served: Callable[..., ArchiveServer], tmp_path: Path) -> None:
    server = served(sky(6))
    ask(tmp_path, server, catalog(6))
    before = both(tmp_path)
    table = read_table(tmp_path / "manifest.parquet", MANIFEST)
    write_table(table[table["object_id"] != "SN0002"], tmp_path / "manifest.parquet", MANIFEST)
    server.forget()
    ask(tmp_path, server, catalog(6))
    assert server.counts[INVOKE] == 1 + 1
    assert both(tmp_path) == before


# The stage


def project(folder: Path, survey: dict[str, Any], events: pd.DataFrame) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump({"survey": survey}))
    write_table(events, folder / "data/catalog/catalog.parquet", CATALOG)


_MEASURED = """
import sys
from pathlib import Path
from astrid.stages.common import run
from astrid.stages.search import main
run(main)
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")), file=sys.stderr)
"""


def run_stage(folder: Path, *how: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, *(how or ("-m", "astrid.stages.search"))],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "MALLOC_ARENA_MAX": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_at_any_time_the_stage_ends_with_the_same_bytes(
    served: Callable[..., ArchiveServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = sky(40)
    server = served(known, faults.Seeded(5, 0.2, faults.TABLES, seconds=0.05))
    survey = values(server.url, rate=150, chunk=3)
    events = catalog(40, undated=2)
    for name in ("killed", "calm"):
        project(tmp_path / name, survey, events)
    for share, how, code in ((0.3, signal.SIGKILL, -signal.SIGKILL), (0.7, signal.SIGINT, 130)):
        running = run_stage(tmp_path / "killed")
        aim, end = share * 40, time.monotonic() + 60
        while len({str(q["params"].get("position")) for q in list(known.questions)}) < aim and time.monotonic() < end:
            time.sleep(0.005)
        running.send_signal(how)
        assert running.wait() == code
        assert not (tmp_path / "killed/data/manifest/manifest.parquet").exists()
    answered = manifest.Known.read(tmp_path / "killed/data/manifest").answered
    assert len(answered) >= 2 * 3
    known.questions.clear()
    last = run_stage(tmp_path / "killed")
    said = last.communicate()[1]
    assert last.returncode == 0, said
    assert "2 questions without an answer" not in said  # 4: two events, two missions
    assert "4 questions without an answer, first SN0038: its discovery date is not known" in said
    asked = {str(q["params"]["position"]) for q in known.questions if "position" in q["params"]}
    assert len(asked) == 38 - len(answered) // 2  # nothing that was answered before
    server.plan = faults.none
    monkeypatch.chdir(tmp_path / "calm")
    stage.main()
    assert both(tmp_path / "killed/data/manifest") == both(tmp_path / "calm/data/manifest")


def test_the_stage_ends_with_one_sentence_and_2_when_the_archive_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with ArchiveServer({}) as server:
        url = server.url
    project(tmp_path, values(url, retries=1), catalog(3))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended, exit_codes():
        stage.main()
    assert ended.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"astrid: the archive at {url} does not answer ({url}")
    assert said.endswith("run it again later: what was answered is kept.")


@pytest.mark.parametrize("group", [1, 2, 5, 7, 100])
def test_a_manifest_is_read_in_tables_of_whole_events(tmp_path: Path, group: int) -> None:
    counts = {"a": 3, "b": 7, "c": 1, "d": 6}
    common = {"mission": "swift", "instrument": "uvot", "filter": "U", "filename": "f", "uri": "u", "t_min": 1.0}
    rows = [{"object_id": name, "obs_id": str(n), **common} for name, count in counts.items() for n in range(count)]
    frame = conform(pd.DataFrame(rows), MANIFEST, source="test")
    path = tmp_path / "manifest.parquet"
    pq.write_table(to_arrow(frame, MANIFEST, source="test"), path, row_group_size=group)
    parts = list(read_manifest(path))
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), frame, check_dtype=False)
    assert [name for part in parts for name in part["object_id"].unique()] == list(counts)  # none in two of them
    assert len(parts) > 1 or group == 100
    write_table(MANIFEST.empty(), path, MANIFEST)
    assert list(read_manifest(path)) == []


def test_a_manifest_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    with pytest.raises(InputError, match="does not exist; run the stage search"):
        list(read_manifest(path))
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"is not a readable Parquet file .* search again"):
        list(read_manifest(path))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell a program's largest memory")
def test_three_hundred_events_take_no_more_memory_than_a_hundred(served: Callable[..., ArchiveServer], tmp_path: Path) -> None:
    """Some 60 files an event, more than one merged group in either case: all rows of 300 events at once are some 40 MB."""

    def peak(count: int) -> float:
        server = served(known := sky(count, visits=30))
        known.questions = _Forgetful()
        project(tmp_path / str(count), values(server.url, chunk=10), catalog(count))
        running = run_stage(tmp_path / str(count), "-c", _MEASURED)
        said = running.communicate()[1].splitlines()
        assert running.returncode == 0, said
        return float(said[-1].split()[1]) / 1e3  # MB

    few, many = peak(100), peak(300)
    assert len(read_table(tmp_path / "300/data/manifest/manifest.parquet", MANIFEST)) == 300 * 60 + 100 * 3
    assert many < few + 16.0  # runs of one size differ by up to 7 MB


class _Forgetful(list[Any]):
    def append(self, _: Any) -> None: ...


@pytest.mark.parametrize("kind", ["simulated", "folder", "alerts"])
def test_other_kinds_of_survey_have_empty_tables(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    survey = dict(compose(ROOT / "conf", ["survey=simulated"])["survey"], kind=kind)
    project(tmp_path, survey, catalog(1))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/manifest/parts").mkdir(parents=True)
    (tmp_path / "data/manifest/parts/stale.parquet").write_text("of another run")
    stage.main()
    assert read_table(stage.MANIFEST_PATH, MANIFEST).empty
    assert read_table(stage.QUESTIONS_PATH, QUESTIONS).empty
    both(tmp_path / "data/manifest")


def test_an_archive_survey_needs_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project(tmp_path, {**values("http://a"), "archive": None}, catalog(1))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"survey\.archive is null but survey\.kind is archive; choose survey=mast"):
        stage.main()


def test_the_sky_of_the_tests_is_described_once() -> None:
    """What others build on: sizes that are set by URI."""
    known = sky(1).sized(len)
    assert all(file.size == len(file.uri) for one in known.observations for file in one.files)
    assert dataclasses.is_dataclass(known.observations[0])

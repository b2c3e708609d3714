"""Supernovae through query, choosing and download against a pretended archive: rate against its manners, memory, faults and a kill.

    python benchmarks/acquisition.py [--events 500]

The archive is the one of the tests, a process of its own on this machine; the files are small, so that the cost of a file and not of
a byte is measured. Every run is a process of its own as well.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from benchmarks.measure import Options, Row, Table  # noqa: E402

EVENTS = 500
FEW = 100  # events of the smaller run
FAULTY = 0.2  # share of the answers
POLITE = 10.0  # requests a second of the run that shall be bound by its manners
POLITE_EVENTS = 50
_UNBOUND = ("search.rate=2000", "download.rate=2000")
_MEMORY_GROWTH = 1.1  # of the peak from the smaller to the larger run
_DOWNLOAD = "/api/v0.1/Download/file"


@dataclass(frozen=True)
class Archive:
    """The pretended archive as its clients see it."""

    url: str

    def told(self, word: str = "counts") -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/-/{word}") as answer:
            told: dict[str, Any] = json.load(answer)
        return told

    @property
    def asked(self) -> int:
        return int(sum(self.told()["asked"].values()))


@contextlib.contextmanager
def archive(scratch: Path, events: int, faults: float = 0.0) -> Iterator[Archive]:
    """A server with the sky of `events` supernovae."""
    address = scratch / "address.txt"
    address.unlink(missing_ok=True)
    routes = "support.archive_server.survey:routes"
    command = [sys.executable, "-m", "support.archive_server", "--routes", routes, "--events", str(events), "--address", str(address)]
    process = subprocess.Popen([*command, "--faults", str(faults)], env=_environment(), stdin=subprocess.PIPE)
    try:
        while not address.exists() or not address.read_text():
            if process.poll() is not None:
                raise SystemExit(f"the pretended archive ended with status {process.returncode}")
            time.sleep(0.05)
        yield Archive(address.read_text())
    finally:
        process.communicate()


def _environment() -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def client(folder: Path, server: Archive, events: int, *changes: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "support.archive_server.survey", str(folder), server.url, str(events), *changes]
    return subprocess.Popen(command, env=_environment(), text=True, stdout=subprocess.PIPE)


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the acquisition ended with status {process.returncode}")
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def content(folder: Path) -> dict[str, str]:
    from support.archive_server.survey import content as digests

    return digests(folder)


def run(options: Options) -> Table:
    """All figures; `quick` takes a tenth of the events."""
    scale = 10 if options.quick else 1
    return figures(EVENTS // scale, FEW // scale, options.scratch)


def figures(events: int, few: int, scratch: Path) -> Table:
    """A smaller run and a larger one without faults, one with faults and a kill, and one that is bound by its manners."""
    with archive(scratch, few) as server:
        small = finished(client(scratch / "few", server, few, *_UNBOUND))
    with archive(scratch, events) as server:
        large = finished(client(scratch / "many", server, events, *_UNBOUND))
        server.told("forget")
        finished(client(scratch / "many", server, events, *_UNBOUND))
        again = server.asked
    rows = [
        Row(f"files a second, manners set aside, {events} events", large["files"] / large["seconds"]["fetch"], "1/s"),
        Row(f"questions: seconds for {events} events, manners set aside", large["seconds"]["search"], "s"),
        _bound("requests of a second run", again, 0, "", f"{large['files']} files"),
        Row(f"peak memory, {few} events", small["peak_mb"], "MB"),
        _bound(f"peak memory, {events} events", large["peak_mb"], _MEMORY_GROWTH * small["peak_mb"], "MB", _grown(small, large)),
        *_disturbed(events, scratch),
        _polite(min(POLITE_EVENTS, few), scratch),
    ]
    return Table("Acquisition against a pretended archive", rows)


def _grown(small: dict[str, Any], large: dict[str, Any]) -> str:
    """How much more the larger run had taken by the end of each step."""
    more = {step: large["peaks_mb"][step] - value for step, value in small["peaks_mb"].items()}
    return ", ".join(f"{step} {value:+.1f} MB" for step, value in more.items())


def _bound(name: str, value: float, limit: float, unit: str, note: str = "") -> Row:
    return Row(name, value, unit, target=f"<= {limit:.4g}", passed=value <= limit, note=note)


def _disturbed(events: int, scratch: Path) -> list[Row]:
    """Faults, and a kill -9 when half of the files have come: what is left must be what the undisturbed run left."""
    folder, expected = scratch / "disturbed", content(scratch / "many")
    files = sum(name.startswith("raw/") for name in expected)
    with archive(scratch, events, FAULTY) as server:
        process = client(folder, server, events, *_UNBOUND)
        while server.told()["asked"].get(_DOWNLOAD, 0) < files // 2:
            time.sleep(0.2)
            if process.poll() is not None:
                raise SystemExit("the acquisition ended before it could be killed")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed = {path.relative_to(folder).as_posix(): path for path in (folder / "raw").rglob("*") if path.is_file()}
        partial = _partial(killed, expected)
        finished(client(folder, server, events, *_UNBOUND))
        told = server.told()
        faulty = sum(told["faulty"].values()) / sum(told["asked"].values())
        after = content(folder)
        server.told("forget")
        finished(client(folder, server, events, *_UNBOUND))
        again = server.asked
    different = sum(after.get(name) != expected.get(name) for name in {*after, *expected})
    note = f"{faulty:.0%} of the answers faulty, killed with {len(killed)} of {files} files in place"
    return [
        _bound("faults and kill -9: partial files under a final name", partial, 0, "", note),
        _bound("faults and kill -9: products that differ at the end", different, 0, "", f"of {len(expected)}"),
        _bound("faults and kill -9: requests of a later run", again, 0, ""),
    ]


def _partial(killed: dict[str, Path], expected: dict[str, str]) -> int:
    from support.archive_server.survey import digest

    return sum(digest(path) != expected.get(name) for name, path in killed.items())


def _polite(events: int, scratch: Path) -> Row:
    """Files a second where the manners allow so many requests a second: one request brings one file."""
    with archive(scratch, events) as server:
        done = finished(client(scratch / "polite", server, events, "search.rate=2000", f"download.rate={POLITE}"))
    share = done["files"] / done["seconds"]["fetch"] / POLITE
    return Row("files a second over requests a second that the manners allow", share, "", target=">= 0.95", passed=share >= 0.95)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--few", type=int, default=FEW)
    given = parser.parse_args()
    from benchmarks.page import text

    with tempfile.TemporaryDirectory() as scratch:
        print(text(figures(given.events, given.few, Path(scratch))))


if __name__ == "__main__":
    main()

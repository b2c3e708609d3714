"""Processes that promote for real, to be killed or to race: run as a script, since each needs a registry connection of its own.

    python promoters.py kill NAME SEED KILLS FIRST SECOND     promotions of the two in turn, each killed by SIGKILL at a random moment
    python promoters.py race NAME ROUNDS FIRST SECOND THIRD   the second and the third at once, after the first was made the champion

The script imports MLflow once and forks before it has opened the store. A line of JSON a kill or round tells how the registry stood:
`raw` the aliases as the dead left them, `aliases` as the journal has them, `settled` after the next call, `numbers` of the journal.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from astrid.core.errors import RegistryError
from astrid.registry import promote, versions
from astrid.registry.gates import Gate
from astrid.registry.journal import OvertakenError
from astrid.registry.store import load_mlflow

OPEN = (Gate("aucpr", 0.9, 0.8, True, "fine."),)
WON, OVERTAKEN, FAILED = 0, 3, 4
_WRITING = 1.2  # of a promotion's time, over which the moments of death are spread


def forked(work: Callable[[], int]) -> int:
    """The id of a new process that does `work` and ends with what it returns."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os._exit(work())
    except RegistryError as error:
        os.write(2, f"{error}\n".encode())
        os._exit(FAILED)


def ended(pid: int) -> int:
    """How a process ended: its exit status, or minus the signal's number."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def promoter(name: str, number: int, ready: int, begin: int | None = None) -> Callable[[], int]:
    """Promote a version. It tells `ready` when it has read the journal, and waits for a byte in `begin` where that is given."""

    def work() -> int:
        journal, one = promote.settle(name), versions.version(name, number)
        os.write(ready, b"r")
        if begin is not None:
            os.read(begin, 1)
        try:
            promote.promote(journal, one, ["onnx"], OPEN, why="a real process")
        except OvertakenError:
            return OVERTAKEN
        return WON

    return work


def standing(name: str) -> dict[str, Any]:
    """How the registry stands, read by a process of its own."""
    ours, theirs = os.pipe()

    def work() -> int:
        raw, journal = versions.standing(name), promote.settle(name)
        numbers = [entry.number for entry in journal.entries]
        found = {"raw": raw, "aliases": journal.aliases, "settled": versions.standing(name), "numbers": numbers}
        os.write(theirs, json.dumps(found).encode())
        return 0

    pid = forked(work)
    os.close(theirs)
    with os.fdopen(ours, "rb") as stream:
        found: dict[str, Any] = json.loads(stream.read())
    ended(pid)
    return found


def tell(found: dict[str, Any]) -> None:
    """A line of JSON, at once: what a forked process would inherit in a buffer is told twice."""
    os.write(1, f"{json.dumps(found)}\n".encode())


def kill(name: str, seed: int, kills: int, *pair: int) -> None:
    """Promotions of a pair in turn, killed at random moments after they have begun to write; a last one is left alive."""
    rng = random.Random(seed)
    ready, told = os.pipe()
    took = 0.0
    for turn in range(kills + 1):
        champion = standing(name)["aliases"].get("onnx-champion")
        number = next(one for one in pair if one != champion)
        pid = forked(promoter(name, number, told))
        os.read(ready, 1)
        start = time.perf_counter()
        if turn in (0, kills):  # the first is timed, the last has to work
            status = ended(pid)
            took = max(took, time.perf_counter() - start)
        else:
            time.sleep(rng.uniform(0, _WRITING * took))
            os.kill(pid, signal.SIGKILL)
            status = ended(pid)
        tell({"number": number, "before": champion, "status": status, **standing(name)})


def race(name: str, rounds: int, first: int, *pair: int) -> None:
    """Two processes that have read the same journal promote at once."""
    for _ in range(rounds):
        ready, told = os.pipe()
        begin, go = os.pipe()
        ended(forked(promoter(name, first, told)))
        os.read(ready, 1)
        pids = [forked(promoter(name, number, told, begin)) for number in pair]
        for _ in pids:
            os.read(ready, 1)
        os.write(go, b"gg")
        statuses = [ended(pid) for pid in pids]
        tell({"statuses": statuses, **standing(name)})


if __name__ == "__main__":
    load_mlflow()
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 (imported once, before the processes part)

    {"kill": kill, "race": race}[sys.argv[1]](sys.argv[2], *map(int, sys.argv[3:]))

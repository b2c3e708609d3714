"""Processes of this machine, one pipe each: a worker that is killed takes its one item with it and nothing else."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from astrid.core.errors import AstridError
from astrid.core.executors import Backlog, Needs, memory_limit
from astrid.core.runtime import worker_count

_CONTEXT = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
_READY = b"ready"
_PATIENCE = 5.0  # s, that a worker has to clean up after itself
_STATM = Path("/proc/self/statm")


@dataclass(frozen=True)
class LocalPool:
    """The executor of `compute=local`."""

    workers: int = 0  # processes; 0 = every core
    memory: float = 0.0  # bytes, of all workers together; 0 = what the machine has
    retries: int = 2  # further attempts at an item whose worker died

    def outcomes(self, function: Callable[[Any], Any], items: Sequence[Any], needs: Needs) -> Iterator[tuple[Any, Any]]:
        """See `Executor`. With one worker, or one item, everything runs in this process.

        A worker is started when there is an item for it, is replaced when it dies, and is dismissed after an item when it
        keeps more than its share of the memory.

        Raises `AstridError` when workers die before they begin.
        """
        count = min(worker_count(self.workers), len(items))
        if count <= 1:
            yield from ((item, function(item)) for item in items)
            return
        limit = memory_limit(self.memory)
        backlog = Backlog([needs(item) for item in items], limit, self.retries + 1)
        crew = _Crew(function, count, limit / count)
        try:
            yield from self._work(crew, backlog, items)
            crew.dismiss()
        finally:
            crew.end()

    def _work(self, crew: _Crew, backlog: Backlog, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        stillborn = 0
        while True:
            while crew.has_room and (index := backlog.take()) is not None:
                crew.assign(index, items[index])
            if not crew.busy:
                return
            for worker in crew.heard():
                answer = worker.answer()
                if answer is _READY:
                    worker.send()
                elif isinstance(answer, _Answer):
                    backlog.done(worker.index)
                    crew.release(worker, answer.resident)
                    if answer.error is not None:
                        raise answer.error
                    yield items[worker.index], answer.result
                else:
                    cause = crew.bury(worker)
                    stillborn = 0 if worker.began else stillborn + 1
                    if stillborn > self.retries:
                        raise AstridError(f"{cause} before it could begin; see the messages above, or set compute.workers=1.")
                    if (lost := backlog.died(worker.index, cause)) is not None:
                        yield items[worker.index], lost


@dataclass(frozen=True)
class _Answer:
    result: Any
    error: Exception | None
    resident: int  # bytes


class _Worker:
    """One process, its end of the pipe and the item that it works on."""

    def __init__(self, function: Callable[[Any], Any], index: int, item: Any) -> None:
        self.index, self._item = index, item
        self.began = False  # it came up and was sent its first item
        self.pipe, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_serve, args=(theirs, function), daemon=True)
        self.process.start()
        theirs.close()  # so that its death closes the pipe

    def assign(self, index: int, item: Any) -> None:
        """Give an idle worker its next item."""
        self.index, self._item = index, item
        self.send()

    def send(self) -> None:
        """Send what is assigned, once the process is up."""
        self.began = True
        with suppress(OSError):  # it died; the pipe says so when it is read
            self.pipe.send(self._item)

    def answer(self) -> _Answer | bytes | None:
        """What the worker sent: that it is ready, an answer, or None when it is dead."""
        try:
            content = self.pipe.recv_bytes()
        except (EOFError, OSError):
            return None
        return _READY if content == _READY else _Answer(*pickle.loads(content))


class _Crew:
    """The workers: those that are busy and those that wait."""

    def __init__(self, function: Callable[[Any], Any], count: int, share: float) -> None:
        self._function, self._count, self._share = function, count, share
        self.busy: list[_Worker] = []
        self._idle: list[_Worker] = []

    @property
    def has_room(self) -> bool:
        return len(self.busy) < self._count

    def assign(self, index: int, item: Any) -> None:
        if self._idle:
            worker = self._idle.pop()
            worker.assign(index, item)
        else:
            worker = _Worker(self._function, index, item)
        self.busy.append(worker)

    def heard(self) -> list[_Worker]:
        """Wait until a busy worker says something or dies."""
        ready = set(wait([worker.pipe for worker in self.busy]))
        return [worker for worker in self.busy if worker.pipe in ready]

    def release(self, worker: _Worker, resident: int) -> None:
        """A worker ended its item: it waits for the next, or goes when it keeps too much memory."""
        self.busy.remove(worker)
        if resident <= self._share:
            self._idle.append(worker)
        else:
            worker.pipe.close()

    def bury(self, worker: _Worker) -> str:
        """Remove a dead worker and say what killed it."""
        self.busy.remove(worker)
        worker.pipe.close()
        worker.process.join()
        code = worker.process.exitcode or 0
        return f"a worker process was killed by signal {-code}" if code < 0 else f"a worker process ended with exit code {code}"

    def dismiss(self) -> None:
        """Let the waiting workers go, and wait for it."""
        for worker in self._idle:
            worker.pipe.close()
        for worker in self._idle:
            worker.process.join(_PATIENCE)

    def end(self) -> None:
        """Stop whoever is still there: with time to remove what is half written, then without."""
        everyone = [*self.busy, *self._idle]
        for worker in everyone:
            worker.process.terminate()
        for worker in everyone:
            worker.process.join(_PATIENCE)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()


def _serve(pipe: Connection, function: Callable[[Any], Any]) -> None:
    """What a worker process does until its pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and ends its workers
    signal.signal(signal.SIGTERM, _leave)
    pipe.send_bytes(_READY)
    while True:
        try:
            item = pipe.recv()
        except (EOFError, OSError):  # dismissed, or the parent is gone
            return
        content = _attempt(function, item)
        try:
            pipe.send_bytes(content)
        except OSError:
            return


def _leave(*_: Any) -> None:
    sys.exit(128 + signal.SIGTERM)  # so that `finally` blocks remove what is half written


def _attempt(function: Callable[[Any], Any], item: Any) -> bytes:
    try:
        return pickle.dumps((function(item), None, _resident()))
    except Exception as error:  # noqa: BLE001 - every exception of an item belongs to the caller, who raises it
        return pickle.dumps((None, portable(error), _resident()))


def portable(error: Exception) -> Exception:
    """The exception with its traceback as a note, or its text where it cannot be sent."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever its own __reduce__ raises
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _resident() -> int:
    """Bytes that this process keeps in memory; 0 where the system does not say."""
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if _STATM.is_file() else 0

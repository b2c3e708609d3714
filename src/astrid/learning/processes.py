"""Processes that make batches beside the training, in memory that they share with it.

They are forked once, before the first epoch: what is in memory by then (the stamps, the table) is theirs without a copy, and
nothing but descriptions of batches and their lengths goes through the pipes. A batch lies in a slot of a ring that is
allocated before the fork and used again as soon as nobody holds the batch: fresh shared memory for each batch, as torch's
DataLoader takes it, costs a page fault every 4 kB on both sides, as long again as the batch itself.
"""

from __future__ import annotations

import gc
import multiprocessing
import signal
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import Connection
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from astrid.core.errors import AstridError
from astrid.core.pool import portable
from astrid.core.runtime import log
from astrid.datasets.normalize import STAMP_SHAPE
from astrid.learning.memory import shared

Stamps = NDArray[np.float32]
Wanted = TypeVar("Wanted")
Described = TypeVar("Described", contravariant=True)
Load = Callable[[Iterable[Wanted]], Iterator[tuple[Wanted, torch.Tensor]]]

_AHEAD = 2  # batches that a process is asked for at a time: the one that it makes and the next


class Make(Protocol[Described]):
    """Makes a batch from its description, the same in every process."""

    def __call__(self, wanted: Described, out: Stamps | None = None) -> torch.Tensor:
        """Float32 (k, 3, 63, 63), in the first k triplets of `out` where that is given."""
        ...


@contextmanager
def loading(make: Make[Wanted], processes: int, largest: int) -> Iterator[Load[Wanted]]:
    """A function from descriptions of batches to (description, batch) in the same order, made by `processes` processes ahead of the caller.

    Parameters
    ----------
    make
        Makes a batch. What it refers to is as it was when the block began; it must not use a GPU.
    processes
        0 makes the batches in line, when they are asked for; so does a system other than Linux, where a fork is not safe.
    largest
        Triplets of the largest batch. The memory is that of 2 `processes` + 1 such batches at most, whatever is asked for.

    Raises
    ------
    AstridError
        From the function: a process was killed. An exception of `make` comes out at the place of its batch.
    """
    if processes and not sys.platform.startswith("linux"):
        log.info("train.loaders = %d needs a fork, which is safe on Linux alone; batches are prepared in line", processes)
        processes = 0
    if processes == 0:
        yield lambda wanted: ((one, make(one)) for one in wanted)
        return
    crew = _Crew(make, processes, largest)
    try:
        yield crew.load
    finally:
        crew.end()


class _Crew(Generic[Wanted]):
    """The processes, the slots that they fill, and what they were asked for."""

    def __init__(self, make: Make[Wanted], processes: int, largest: int) -> None:
        self._make = make
        count = processes * _AHEAD + 1  # one for the batch that the caller works on
        self._slots: Stamps = shared(count, largest, *STAMP_SHAPE)
        self._free = deque(range(count))
        self._asked: deque[tuple[_Worker, Wanted, int]] = deque()  # in the order of the batches, with their slots
        self._workers: deque[_Worker] = deque()
        for _ in range(processes):
            self._workers.append(_Worker(make, self._slots, [worker.pipe for worker in self._workers]))

    def load(self, wanted: Iterable[Wanted]) -> Iterator[tuple[Wanted, torch.Tensor]]:
        """See `loading`. A caller who holds on to every slot gets batches in fresh memory, made in line."""
        source = iter(wanted)
        while self._asked:  # by a caller who stopped early
            self._receive()
        while True:
            for one in islice(source, min(len(self._free), len(self._workers) * _AHEAD - len(self._asked))):
                self._ask(one)
            if self._asked:
                yield self._receive()
            elif (rest := next(source, None)) is not None:
                yield rest, self._make(rest)
            else:
                return

    def _ask(self, wanted: Wanted) -> None:
        """Each process is asked in its turn, so that its answers come in the order of the batches."""
        worker, place = self._workers[0], self._free.popleft()
        self._workers.rotate(-1)
        worker.ask(wanted, place)
        self._asked.append((worker, wanted, place))

    def _receive(self) -> tuple[Wanted, torch.Tensor]:
        worker, wanted, place = self._asked.popleft()
        length = worker.answer()
        if isinstance(length, Exception):
            self._free.append(place)
            raise length
        batch = self._slots[place, :length]
        weakref.finalize(batch, self._free.append, place).atexit = False  # what is made of the array holds it
        return wanted, torch.from_numpy(batch)

    def end(self) -> None:
        """End the processes at once: they hold nothing that would have to be put in order."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()


class _Worker:
    """One process and its end of the pipe."""

    def __init__(self, make: Make[Wanted], slots: Stamps, others: list[Connection]) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(make, slots, theirs, [self.pipe, *others]), name="loader", daemon=True)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # until the process ignores it
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # so that its death closes the pipe

    def ask(self, wanted: object, place: int) -> None:
        try:
            self.pipe.send((wanted, place))
        except OSError:
            raise self._death() from None

    def answer(self) -> int | Exception:
        """The length of the batch that was asked for first, or what happened instead."""
        try:
            answer: int | Exception = self.pipe.recv()
        except (EOFError, OSError):
            raise self._death() from None
        return answer

    def _death(self) -> AstridError:
        self.process.join()
        code = self.process.exitcode or 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return AstridError(f"a process that prepares batches {how}; see whether memory ran out, or set train.loaders=0.")


def _serve(make: Make[Wanted], slots: Stamps, pipe: Connection, others: list[Connection]) -> None:
    """What a process does until its pipe is closed: when the parent has gone, however it went."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and ends its processes
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in others:  # the parent's ends: a pipe is closed when nobody holds them
        other.close()
    gc.freeze()  # what was there before is shared with the parent until somebody writes to it, and a collection would
    torch.set_num_threads(1)
    while True:
        try:
            wanted, place = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            pipe.send(_attempt(make, wanted, slots[place]))
        except OSError:
            return


def _attempt(make: Make[Wanted], wanted: Wanted, slot: Stamps) -> int | Exception:
    try:
        return len(make(wanted, slot))
    except Exception as error:  # noqa: BLE001 - every exception of a batch belongs to the caller, who raises it
        return portable(error)

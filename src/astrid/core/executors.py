"""One parallel map for every room: what is in flight is bounded by memory, a lost worker costs its item alone."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from astrid.core.errors import AstridError
from astrid.core.runtime import log, track
from astrid.core.threads import hold_to_one_thread

Item = TypeVar("Item")
Result = TypeVar("Result")

Needs = Callable[[Any], float]  # bytes that an item is expected to take while it runs

_SHARE = 0.8  # of the machine's memory, that a run may fill where configuration names no limit
_GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Lost:
    """What takes a result's place when an item's worker died every time that it was tried."""

    reason: str


class Executor(Protocol):
    """Where items run: the processes of this machine (`core.pool`), or a Dask cluster (`core.cluster`)."""

    def outcomes(self, function: Callable[[Any], Any], items: Sequence[Any], needs: Needs) -> Iterator[tuple[Any, Any]]:
        """Yield (item, result or `Lost`) as each is done; an exception of `function` reaches the caller."""
        ...


def parallel_map(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    executor: Executor,
    description: str,
    unit: str = "items",
    needs: Needs | None = None,
    on_loss: Callable[[Item, str], Result] | None = None,
) -> Iterator[tuple[Item, Result]]:
    """Apply a picklable function to the items and yield (item, result) as each is done, with progress on standard error.

    Parameters
    ----------
    function, items
        What runs, and on what. The order of the results is that of completion.
    executor
        Where they run. No more items are in flight than it has workers for, and no more than its memory holds.
    unit
        The plural that progress counts, e.g. "pairs".
    needs
        Bytes that an item is expected to take while it runs; 0 for all where None.
    on_loss
        What stands for the result of an item whose worker died at every attempt; called with the item and the reason.

    Raises
    ------
    AstridError
        When items were lost and there is no `on_loss`; every other item was yielded before.
    """
    hold_to_one_thread()
    lost: list[str] = []
    with closing(_generator(executor.outcomes(function, items, needs or _nothing))) as outcomes:
        for item, outcome in track(outcomes, description, total=len(items), unit=unit):
            if not isinstance(outcome, Lost):
                yield item, outcome
            elif on_loss is not None:
                yield item, on_loss(item, outcome.reason)
            else:
                lost.append(outcome.reason)
    if lost:
        raise AstridError(f"{description}: {len(lost)} of {len(items)} {unit} were lost, the first because {lost[0]}")


def _nothing(_: Any) -> float:
    return 0.0


def _generator(outcomes: Iterator[tuple[Any, Any]]) -> Any:
    yield from outcomes


def memory_limit(requested: float) -> float:
    """Bytes that a run may fill: `requested`, or four fifths of what this machine (or its control group) has when it is 0."""
    if requested > 0:
        return requested
    limits = [float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")]
    text = _GROUP_LIMIT.read_text().strip() if _GROUP_LIMIT.is_file() else "max"
    return _SHARE * min([*limits, *([float(text)] if text.isdigit() else [])])


@dataclass
class Backlog:
    """What is still to be done, by its place in the list of items: in order while memory lasts, what was lost alone at the end.

    An item that needs more than the limit by itself runs alone, and so does one whose worker died: then its death can be
    blamed on no other, and the memory is its own.
    """

    needs: Sequence[float]  # bytes, one an item
    limit: float  # bytes
    attempts: int  # that an item has
    _next: int = 0
    _again: deque[int] = field(default_factory=deque)
    _running: set[int] = field(default_factory=set)
    _deaths: dict[int, int] = field(default_factory=dict)

    def take(self) -> int | None:
        """The next item that may run beside those that do; None when none may (now, or ever again)."""
        if self._next < len(self.needs):
            taken = sum(self.needs[index] for index in self._running)
            if self._running and taken + self.needs[self._next] > self.limit:
                return None
            index = self._next
            self._next += 1
        elif self._again and not self._running:
            index = self._again.popleft()
        else:
            return None
        self._running.add(index)
        return index

    def done(self, index: int) -> None:
        """The item ended."""
        self._running.discard(index)

    def died(self, index: int, cause: str) -> Lost | None:
        """The item's worker died: `Lost` when that was its last attempt, None when it will be tried again."""
        self._running.discard(index)
        self._deaths[index] = tries = self._deaths.get(index, 0) + 1
        if tries < self.attempts:
            log.warning("%s; what it worked on is tried again (attempt %d of %d)", cause, tries + 1, self.attempts)
            self._again.append(index)
            return None
        times = "once" if tries == 1 else f"{tries} times"
        return Lost(
            f"{cause} {times} while it was at work, most often for want of memory; free memory or lower compute.workers or "
            "compute.memory_gb, and run the stage again."
        )

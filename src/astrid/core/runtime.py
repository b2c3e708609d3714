"""Seeds, logging, progress, atomic files and the parallel map: how work runs, the same in every room."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from astrid.core.errors import AstridError, InputError
from astrid.core.threads import hold_to_one_thread

Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger("astrid")

_REPORT_SECONDS = 10.0
INTERRUPTED = 130
_STORAGE_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def rng_for(seed: int, *identity: str | int) -> np.random.Generator:
    """A generator that depends only on the run's seed and an object's identity, so that a subset reproduces."""
    text = "\x1f".join([str(seed), *map(str, identity)])
    return np.random.default_rng(np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype=np.uint32))


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {"time": record.created, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        return json.dumps(entry)


def configure_logging(*, json_logs: bool = False, level: int = logging.INFO) -> None:
    """Send AstrID's log to standard error, as plain lines or as one JSON object a line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if json_logs else logging.Formatter("%(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(level)
    log.propagate = False


def fail(sentence: str) -> None:
    """Say on standard error the one sentence that ends a command, as a JSON line where the log is one."""
    if any(isinstance(handler.formatter, _JsonFormatter) for handler in log.handlers):
        log.error(sentence)
    else:
        sys.stderr.write(f"astrid: {sentence}\n")


@contextmanager
def exit_codes() -> Iterator[None]:
    """One sentence and an exit code for what a user can mend: 2 for an `AstridError` or a full or closed disk, 130 for Ctrl-C."""
    try:
        yield
    except AstridError as error:
        fail(str(error))
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        fail("interrupted; run the same command again to go on from here.")
        raise SystemExit(INTERRUPTED) from None
    except OSError as error:
        if error.errno not in _STORAGE_FULL:
            raise
        fail(f"{error.filename or 'a file'} cannot be used ({error.strerror}); free space or mend the permissions, and run it again.")
        raise SystemExit(AstridError.exit_code) from None


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items with a progress bar on a terminal, and with a plain line now and then elsewhere."""
    count = total if total is not None else len(items) if isinstance(items, Sequence) else None
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track as rich_track

        yield from rich_track(items, description=description, total=count, console=Console(stderr=True))
        return
    start = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= _REPORT_SECONDS:
            last = now
            log.info("%s: %d%s done, %.0f s", description, done, f" of {count}" if count else "", now - start)
    log.info("%s: %d done in %.1f s", description, done, time.monotonic() - start)


def worker_count(requested: int) -> int:
    """Processes to use: `requested`, or every core this process may run on when it is 0."""
    return requested if requested > 0 else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel_map(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int, description: str
) -> Iterator[tuple[Item, Result]]:
    """Apply a picklable function to the items over processes and yield (item, result) as each is done.

    At most two items a worker are in flight, so memory is bounded by the workers and not by the items. The order of the
    results is that of completion. An exception of `function` reaches the caller; Ctrl-C cancels what has not begun.
    Raises `AstridError` when a worker was killed from outside.
    """
    hold_to_one_thread()
    count = min(worker_count(workers), max(1, len(items)))
    if count == 1:
        yield from track(((item, function(item)) for item in items), description, total=len(items))
        return
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=_leave_interrupts_to_parent) as pool:
        try:
            yield from track(_in_flight(pool, function, items, 2 * count), description, total=len(items))
        except BrokenProcessPool:
            raise AstridError(
                f"{description}: a worker process was killed, most often for want of memory; set compute.workers below {count} and "
                "run the same command again."
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _in_flight(
    pool: ProcessPoolExecutor, function: Callable[[Item], Result], items: Sequence[Item], limit: int
) -> Iterator[tuple[Item, Result]]:
    waiting: dict[Future[Result], Item] = {}
    queue = iter(items)
    exhausted = False
    while waiting or not exhausted:
        while not exhausted and len(waiting) < limit:
            try:
                item = next(queue)
            except StopIteration:
                exhausted = True
                break
            waiting[pool.submit(function, item)] = item
        done, _ = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            yield waiting.pop(future), future.result()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name only when the block ends well; nothing partial is ever left under it.

    Raises `InputError` when `path` is a folder or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder; name a file to write.")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another place or mend the permissions.") from error
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write plain data as readable, key-sorted JSON, atomically; NaN becomes null."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(_finite(content), indent=2, sort_keys=True, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.ndarray):
        return _finite(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value

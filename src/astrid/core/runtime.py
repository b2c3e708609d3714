"""Seeds, logging, progress and atomic files: how work runs, the same in every room."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from astrid.core.errors import AstridError, InputError

Item = TypeVar("Item")

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


def track(items: Iterable[Item], description: str, total: int | None = None, *, unit: str = "items") -> Iterator[Item]:
    """Yield the items with a progress bar on a terminal, and with a plain line now and then elsewhere.

    Either tells how many `unit` a minute there are and, where the total is known, the time left.
    """
    count = total if total is not None else len(items) if isinstance(items, Sequence) else None
    if sys.stderr.isatty():
        yield from _bar(items, description, count, unit)
        return
    start = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= _REPORT_SECONDS:
            last = now
            log.info("%s", progress_line(description, done, count, now - start, unit))
    log.info("%s: %d %s done in %.1f s", description, done, unit, time.monotonic() - start)


def progress_line(description: str, done: int, count: int | None, seconds: float, unit: str) -> str:
    """How far a run is: "difference: 40 of 210 pairs, 58.2 a minute, 2.9 min left"."""
    rate = 60.0 * done / max(seconds, 1e-3)
    left = f", {(count - done) / rate:.1f} min left" if count and done else ""
    return f"{description}: {done}{f' of {count}' if count else ''} {unit}, {rate:.1f} a minute{left}"


def _bar(items: Iterable[Item], description: str, count: int | None, unit: str) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=count, rate="")
        start = time.monotonic()
        for done, item in enumerate(items, 1):
            yield item
            minutes = max(time.monotonic() - start, 1e-3) / 60
            progress.update(task, completed=done, rate=f"{done / minutes:.0f} {unit} a minute")


def worker_count(requested: int) -> int:
    """Processes to use: `requested`, or every core this process may run on when it is 0."""
    return requested if requested > 0 else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


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

"""A Dask cluster, from the processes of this machine to a scheduler's address: needs the optional packages `dask`, `distributed`."""

from __future__ import annotations

import importlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astrid.core.errors import AstridError, MissingDependencyError
from astrid.core.executors import Backlog, Needs, memory_limit
from astrid.core.runtime import worker_count

_AHEAD = 2  # items a thread that are with the scheduler
_POLL = 5.0  # s between two looks at whether there are workers
_PATIENCE = 60.0  # s without a worker, after which the run gives up


@dataclass(frozen=True)
class DaskCluster:
    """The executor of `compute=dask`."""

    scheduler: str = ""  # e.g. tcp://host:8786; empty = a cluster of this machine's processes, for this run
    workers: int = 0  # processes of the local cluster; 0 = every core
    threads: int = 1  # a worker of the local cluster
    worker_memory: float = 0.0  # bytes a worker of the local cluster, beyond which Dask restarts it; 0 = an equal share
    memory: float = 0.0  # bytes, of all items in flight together; 0 = the machine's, without limit on a scheduler's cluster
    retries: int = 2  # further attempts at an item whose worker died

    def outcomes(self, function: Callable[[Any], Any], items: Sequence[Any], needs: Needs) -> Iterator[tuple[Any, Any]]:
        """See `Executor`. Items run in the folder that this process is in, which a cluster's machines must share.

        Raises
        ------
        MissingDependencyError
            Without the package distributed.
        AstridError
            When the scheduler cannot be reached, is lost, or has no worker for a minute.
        """
        require_dask()
        limit = memory_limit(self.memory) if self.memory or not self.scheduler else float("inf")
        backlog = Backlog([needs(item) for item in items], limit, self.retries + 1)
        with self._client() as client:
            yield from _Run(client, _Here(str(Path.cwd()), function), self.scheduler).work(backlog, items)

    @contextmanager
    def _client(self) -> Iterator[Any]:
        distributed = require_dask()
        if self.scheduler:
            try:
                client = distributed.Client(self.scheduler, timeout=_POLL)
            except (OSError, TimeoutError, ValueError) as error:
                raise AstridError(
                    f"no Dask scheduler answers at {self.scheduler} ({_first_line(error)}); start one, or mend compute.dask.scheduler."
                ) from error
            with client:
                yield client
            return
        count = worker_count(self.workers)
        share = self.worker_memory or memory_limit(self.memory) / count
        # A dead worker's items come back at once, to be tried alone: Dask would blame whatever lay beside the one that killed it.
        with (
            importlib.import_module("dask").config.set({"distributed.scheduler.allowed-failures": 0}),
            distributed.LocalCluster(
                n_workers=count,
                threads_per_worker=self.threads,
                memory_limit=int(share),
                processes=True,
                dashboard_address="127.0.0.1:0",  # any free port: two clusters of one machine are not told of each other
                silence_logs=logging.CRITICAL,
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client


def require_dask() -> Any:
    """The package distributed. Raises `MissingDependencyError` with the command that installs it."""
    try:
        return importlib.import_module("distributed")
    except ImportError as error:
        raise MissingDependencyError(
            'compute=dask needs the package distributed; install it with `pip install -e ".[dask]" -c constraints.txt`.'
        ) from error


@dataclass(frozen=True)
class _Here:
    """A function that runs in one folder, wherever its worker was started."""

    folder: str
    function: Callable[[Any], Any]

    def __call__(self, item: Any) -> Any:
        if os.getcwd() != self.folder:  # noqa: PTH109 - a cheap comparison before every item
            if not Path(self.folder).is_dir():
                raise AstridError(f"the Dask workers do not see {self.folder}; run from a folder that every machine of the cluster shares.")
            os.chdir(self.folder)
        return self.function(item)


class _Run:
    """One map over the cluster: what is submitted, what comes back."""

    def __init__(self, client: Any, function: _Here, scheduler: str) -> None:
        self._client, self._function = client, function
        self._name = scheduler or "the local Dask cluster"
        self._futures: dict[Any, int] = {}
        self._last_seen = time.monotonic()

    def work(self, backlog: Backlog, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Keep the cluster busy and yield (item, result or `Lost`)."""
        try:
            while True:
                room = _AHEAD * self._threads()
                while len(self._futures) < room and (index := backlog.take()) is not None:
                    self._futures[self._client.submit(self._function, items[index], pure=False)] = index
                if not self._futures and room:
                    return
                for future in self._finished():
                    yield from self._collect(future, backlog, items)
        finally:
            self._client.cancel(list(self._futures))

    def _threads(self) -> int:
        """Threads of the cluster now; raises when there has been none for a while."""
        threads = int(sum(self._client.nthreads().values()))
        now = time.monotonic()
        if threads:
            self._last_seen = now
        elif now - self._last_seen > _PATIENCE:
            raise AstridError(f"{self._name} has had no worker for {_PATIENCE:.0f} s; start workers and run it again to go on from here.")
        return threads

    def _finished(self) -> list[Any]:
        if not self._futures:
            time.sleep(_POLL / 10)
            return []
        try:
            done: Any = require_dask().wait(list(self._futures), timeout=_POLL, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            return []
        return list(done)

    def _collect(self, future: Any, backlog: Backlog, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        index = self._futures.pop(future)
        if future.status == "finished":
            backlog.done(index)
            yield items[index], future.result()
            return
        if future.status != "error":
            raise AstridError(f"{self._name} is gone ({future.status}); run it again to go on from here.")
        error = future.exception()
        if not isinstance(error, require_dask().KilledWorker):
            raise error
        if (lost := backlog.died(index, "a Dask worker was killed")) is not None:
            yield items[index], lost


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__

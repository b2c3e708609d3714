"""Runs a peer in its own environment, in a subprocess with a time limit; a peer that cannot run says why."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import ROOT, Options, in_process

WORKER = Path(__file__).with_name("worker.py")
ABSENT = "its environment is absent: make bench-peers"


@dataclass(frozen=True)
class Peer:
    """A tool of the registry. `task`: what the worker does with it."""

    name: str  # of the distribution
    task: str  # subtraction, mapping or psf


@dataclass(frozen=True, eq=False)
class Answer:
    """What a peer gave back."""

    arrays: dict[str, Any]
    seconds: float  # CPU, without imports
    peak_gb: float
    version: str


def python_of_peers() -> Path:
    """The interpreter of the peers' environment: ASTRID_BENCH_PYTHON, or .venv-bench beside the code."""
    return Path(os.environ.get("ASTRID_BENCH_PYTHON", ROOT / ".venv-bench" / "bin" / "python"))


def run_peer(peer: Peer, arrays: dict[str, Any], options: Options, **settings: Any) -> Answer | str:
    """The peer's answer, or in one sentence why there is none."""
    python = python_of_peers()
    if not python.exists():
        return ABSENT
    source, target = options.scratch / f"{peer.name}_in.npz", options.scratch / f"{peer.name}_out.npz"
    given: dict[str, Any] = {**arrays, **settings}
    np.savez(source, **given)
    try:
        command = [str(WORKER), peer.name, peer.task, str(source), str(target)]
        said = in_process(command, memory_gb=options.memory_gb, seconds=options.peer_seconds, python=str(python))
        if "error" in said:
            return str(said["error"])
        with np.load(target) as found:
            return Answer(dict(found), float(said["cpu_s"]), float(said["peak_gb"]), str(said["version"]))
    finally:
        source.unlink(missing_ok=True)
        target.unlink(missing_ok=True)

"""What the tables share: CPU time as a ratio to bare transforms of the same run, memory of a process, intervals, configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy import stats

from astrid.config.schema.candidates import CandidatesConfig
from astrid.config.schema.imaging import ImagingConfig
from astrid.config.validate import validate

ROOT = Path(__file__).resolve().parents[1]
SIGMA = 0.6827  # of a Gaussian within one sigma: every interval is of this content
_DRAWS = 400  # of a bootstrap


@dataclass(frozen=True)
class Row:
    """One measured figure. `low`, `high`: 68 % interval; `passed` None = no target."""

    name: str
    value: float
    unit: str = ""
    low: float = float("nan")
    high: float = float("nan")
    target: str = ""
    passed: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of one part of the benchmarks; `curves` are for the page alone: name -> columns."""

    title: str
    rows: list[Row]
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Options:
    """What the command was asked for."""

    seeds: int
    quick: bool
    peer_seconds: float  # limit of one run of a peer, s
    memory_gb: float  # address space of a measured process, GB
    scratch: Path

    @property
    def side(self) -> int:
        """px, of the quality pairs."""
        return 1024 if self.quick else 2048

    @property
    def repeats(self) -> int:
        return 3 if self.quick else 9


@lru_cache(maxsize=1)
def imaging_config() -> ImagingConfig:
    return validate(ImagingConfig, yaml.safe_load((ROOT / "conf" / "imaging" / "default.yaml").read_text()))


@lru_cache(maxsize=1)
def candidates_config() -> CandidatesConfig:
    return validate(CandidatesConfig, yaml.safe_load((ROOT / "conf" / "candidates" / "default.yaml").read_text()))


# --- time -------------------------------------------------------------------------------------------------------------------


def eight_ffts(shape: tuple[int, int]) -> Callable[[], None]:
    """Four forward and four inverse float32 transforms of `shape`, planned by measurement, on one thread: the floor of ZOGY."""
    import pyfftw

    real = pyfftw.zeros_aligned(shape, dtype="float32")
    hat = pyfftw.zeros_aligned((shape[0], shape[1] // 2 + 1), dtype="complex64")
    flags = ("FFTW_MEASURE", "FFTW_DESTROY_INPUT")
    forward = pyfftw.FFTW(real, hat, axes=(0, 1), flags=flags, threads=1)
    inverse = pyfftw.FFTW(hat, real, axes=(0, 1), direction="FFTW_BACKWARD", flags=flags, threads=1)
    real[:] = 1.0

    def work() -> None:
        for _ in range(4):
            forward.execute()
            inverse.execute()

    return work


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of one call, all threads of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def against(works: Sequence[Callable[[], object]], floor: Callable[[], object], repeats: int) -> list[tuple[float, float, float, float]]:
    """(ratio to the floor, low, high, CPU seconds) of each work, from interleaved runs of which the first does not count.

    Other work on the machine only ever adds to a time, so that the least of each is what the code costs. The interval reaches from
    there to the median of the runs' own ratios, which shows how busy the machine was.
    """
    times = np.array([[cpu_seconds(work) for work in (floor, *works)] for _ in range(repeats + 1)])[1:]
    least, typical = times.min(axis=0), np.median(times[:, 1:] / times[:, :1], axis=0)
    ratios = least[1:] / least[0]
    return [(float(r), float(min(r, m)), float(max(r, m)), float(t)) for r, m, t in zip(ratios, typical, least[1:], strict=True)]


# --- memory -----------------------------------------------------------------------------------------------------------------


def in_process(arguments: Sequence[str], *, memory_gb: float, seconds: float, python: str = sys.executable) -> dict[str, Any]:
    """Run a script that prints one JSON object as its last line; what went wrong is under the key `error`.

    The process has one thread a library, and an address space of `memory_gb`.
    """
    import resource

    limit = int(memory_gb * 2**30)
    variables = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    try:
        done = subprocess.run(
            [python, *arguments],
            cwd=ROOT,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {seconds:.0f} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:] or [f"exit status {done.returncode}"]
        return {"error": f"needs more than {memory_gb:g} GB" if "MemoryError" in last[0] or "allocate" in last[0] else last[0].strip()}
    return dict(json.loads(lines[-1]))


def peak_gb() -> float:
    """Largest resident memory of this process so far, GB (its own, unlike ru_maxrss, which a child inherits from its parent)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1e6
    return float("nan")


# --- intervals --------------------------------------------------------------------------------------------------------------


def poisson(count: int, area: float) -> tuple[float, float, float]:
    """Rate an area with its 68 % interval (Gehrels 1986, by the chi-squared distribution)."""
    tail = (1 - SIGMA) / 2
    low = stats.chi2.ppf(tail, 2 * count) / 2 if count else 0.0
    return count / area, float(low) / area, float(stats.chi2.ppf(1 - tail, 2 * count + 2)) / 2 / area


def wilson(found: float, total: float) -> tuple[float, float, float]:
    """Fraction with its 68 % Wilson interval."""
    if total <= 0:
        return (float("nan"),) * 3
    share, z = found / total, 1.0
    middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z * np.sqrt(max(share * (1 - share), 0.0) / total + z**2 / (4 * total**2)) / (1 + z**2 / total)
    return share, float(middle - half), float(middle + half)


def bootstrap(statistic: Callable[[NDArray[np.float64]], float], samples: NDArray[np.float64]) -> tuple[float, float, float]:
    """A statistic of rows with its 68 % bootstrap interval."""
    if len(samples) < 2:
        return (float(statistic(samples)) if len(samples) else float("nan"), float("nan"), float("nan"))
    rng = np.random.default_rng(0)
    drawn = [statistic(samples[rng.integers(len(samples), size=len(samples))]) for _ in range(_DRAWS)]
    low, high = np.percentile(drawn, [16, 84])
    return float(statistic(samples)), float(low), float(high)

"""The gate of agreement: an artifact gives what the network gives, on real stamps and on hostile ones, or the export fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid.core.errors import GateError
from astrid.datasets.normalize import STAMP_SHAPE, normalize

Stamps = NDArray[np.float32]
Scorer = Callable[[Stamps], NDArray[np.float32]]

_HOSTILE = 8  # stamps a case
_HUGE = 1e30  # flux unit near the end of float32
_TINY = 1e-30
_SUBNORMAL = 1e-40  # below float32's smallest normal number
_SATURATED = 6.5e4  # electrons


@dataclass(frozen=True)
class Parity:
    """How far an artifact is from its network."""

    differences: dict[str, float]  # largest |difference of probability| by case; infinite where one side is not finite
    stamps: int  # compared

    @property
    def largest(self) -> float:
        """Largest difference over all cases."""
        return max(self.differences.values())

    @property
    def worst(self) -> str:
        """The case of the largest difference."""
        return max(self.differences, key=lambda case: self.differences[case])


def hostile_stamps(rng: np.random.Generator, count: int = _HOSTILE) -> dict[str, Stamps]:
    """Raw stamps that break careless code, float32 (count, 3, 63, 63) by case: masked, empty, constant, saturated, huge, tiny."""
    noise = rng.standard_normal((count, *STAMP_SHAPE), dtype=np.float32)
    holes = np.where(rng.random(noise.shape) < 0.2, np.float32(np.nan), noise)
    blank = noise.copy()
    blank[:, rng.integers(STAMP_SHAPE[0])] = np.nan
    saturated = noise.copy()
    saturated[:, :2, 20:43, 20:43] = _SATURATED
    infinite = noise.copy()
    infinite[:, :, 31, 31] = np.inf
    return {
        "noise": noise,
        "holes": holes,
        "one stamp masked": blank,
        "all masked": np.full_like(noise, np.nan),
        "zero": np.zeros_like(noise),
        "constant": np.full_like(noise, 100.0),
        "saturated": saturated,
        "infinite": infinite,
        "huge": noise * np.float32(_HUGE),
        "tiny": noise * np.float32(_TINY),
    }


def damaged_stamps(stamps: Stamps, rng: np.random.Generator) -> dict[str, Stamps]:
    """Real raw triplets, float32 (n, 3, 63, 63), as a broken camera or a foreign unit would give them; the same shape by case."""
    shape = stamps.shape
    fraction = rng.uniform(0, 0.6, (len(stamps), 1, 1, 1))
    holes = np.where(rng.random(shape) < fraction, np.float32(np.nan), stamps)
    saturated = stamps.copy()
    middle = slice(STAMP_SHAPE[1] // 2 - 4, STAMP_SHAPE[1] // 2 + 5)
    saturated[:, 0, middle, middle] = _SATURATED
    saturated[:, 2, middle, middle] = np.nan
    flat = stamps.copy()
    flat[:, 1] = 0
    with np.errstate(over="ignore"):
        scaled = {"real, huge": stamps * np.float32(_HUGE), "real, tiny": stamps * np.float32(_TINY)}
    return {"real, holes": holes, "real, saturated": saturated, "real, empty reference": flat, **scaled}


def hostile_inputs(rng: np.random.Generator, count: int = _HOSTILE) -> dict[str, Stamps]:
    """Inputs within the range of every normalisation that no stamp leads to, float32 (count, 3, 63, 63) by case."""
    noise = rng.uniform(-1, 1, (count, *STAMP_SHAPE)).astype(np.float32)
    subnormal = noise * np.float32(_SUBNORMAL)
    return {"input ones": np.ones_like(noise), "input noise": noise, "input subnormal": subnormal}


def compare(network: Scorer, artifact: Scorer, cases: Mapping[str, Stamps], *, batch: int) -> Parity:
    """Compare two scorers of normalised stamps over named cases, in batches of `batch` and once with a single triplet."""
    return compare_all(network, {"artifact": artifact}, cases, batch=batch)["artifact"]


def compare_all(network: Scorer, artifacts: Mapping[str, Scorer], cases: Mapping[str, Stamps], *, batch: int) -> dict[str, Parity]:
    """The same for several artifacts of one network, which scores every stamp once: a `Parity` by artifact."""
    differences: dict[str, dict[str, float]] = {name: dict.fromkeys(cases, 0.0) for name in artifacts}
    for case, stamps in cases.items():
        for chunk in (stamps[:1], *(stamps[start : start + batch] for start in range(0, len(stamps), batch))):
            expected = network(chunk)
            for name, artifact in artifacts.items():
                differences[name][case] = max(differences[name][case], largest_difference(expected, artifact(chunk)))
    count = sum(len(stamps) for stamps in cases.values())
    return {name: Parity(found, count) for name, found in differences.items()}


def gate(parity: Parity, limit: float, *, artifact: str) -> None:
    """Raise `GateError` with the numbers when an artifact is further than `limit` from its network on any stamp."""
    if not parity.largest <= limit:
        raise GateError(
            f"{artifact} differs from the network by {parity.largest:.2e} in probability on the case {parity.worst!r} "
            f"({parity.stamps} stamps compared, limit {limit:.0e}); it is not exported."
        )


def normalized_cases(raw: Mapping[str, Stamps], normalization_id: str) -> dict[str, Stamps]:
    """Raw cases through the normalisation of the model."""
    return {case: normalize(stamps, normalization_id) for case, stamps in raw.items()}


def onnx_scorer(content: bytes, input_name: str, *, threads: int = 0) -> Scorer:
    """A scorer that runs a serialized ONNX model with ONNX Runtime on the CPU; `threads` within a call, 0 = its own choice."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    session: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def score(stamps: Stamps) -> NDArray[np.float32]:
        probability: NDArray[np.float32] = session.run(None, {input_name: stamps})[0]
        return probability

    return score


def draw(count: int, wanted: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Row numbers of `wanted` of `count` triplets, ascending, without repetition (all of them where there are fewer)."""
    return np.sort(rng.permutation(count)[:wanted])


def largest_difference(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Largest |difference| of two arrays of one shape; infinite where the shapes differ or one side is not finite."""
    if expected.shape != found.shape or not (np.isfinite(expected).all() and np.isfinite(found).all()):
        return float("inf")
    return float(np.abs(expected.astype(np.float64) - found).max(initial=0.0))

"""One scoring interface over every runtime: a model folder in, scores out. numpy and one runtime only.

A model folder holds artifacts for targets: `onnx` (float32) and `onnx-int8` for ONNX Runtime, `tflite-int8` for a TFLite runtime,
`edgetpu` for an Edge TPU. `open_engine` takes the one that is asked for or the best that this machine can run, and says what is
missing; `ScoringEngine` puts normalisation, calibration and threshold around it, which are the same for every target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from astrid.core.errors import InputError, MissingDependencyError
from astrid.core.runtime import log
from astrid.datasets.normalize import normalize
from astrid.export.folder import TARGETS
from astrid.serving import runtimes
from astrid.serving.description import ArtifactFile, ModelDescription, describe, read_description

__all__ = ["AUTO", "Engine", "ModelDescription", "Scores", "ScoringEngine", "describe", "open_engine", "read_description"]

AUTO = "auto"
# The device that was bought for it first, then the float32 graph, then the integers: the best of what is there.
_PREFERENCE = ("edgetpu", "onnx", "tflite-int8", "onnx-int8")


class Engine(Protocol):
    """An opened artifact. `artifact`: which file; `runtime`: what runs it, with its version."""

    artifact: ArtifactFile
    runtime: str

    def scores(self, normalized: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probability before calibration, float32 (n,), of normalised triplets, float32 (n, 3, 63, 63)."""
        ...


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of n triplets, NaN where a stamp has no finite pixel. `raw`: float32 (n,), the network's sigmoid;
    `calibrated`: float64 (n,), the probability of being real; `real`: bool (n,), calibrated >= threshold."""

    raw: NDArray[np.float32]
    calibrated: NDArray[np.float64]
    real: NDArray[np.bool_]


class ScoringEngine:
    """Scores raw triplets by a model folder; make one with `load`."""

    def __init__(self, description: ModelDescription, engine: Engine, batch: int) -> None:
        self.description = description
        self.engine = engine
        self.version = description.version_of(engine.artifact)  # what a score names as its model
        self._batch = batch

    @classmethod
    def load(
        cls, folder: Path, *, batch: int = 256, target: str = AUTO, providers: Sequence[str] | None = None, threads: int = 0
    ) -> ScoringEngine:
        """Open a model folder.

        Parameters
        ----------
        folder : holds model.json and the artifact of at least one target.
        batch : triplets a call of the network (48 kB of input each).
        target : "auto", "onnx", "onnx-int8", "tflite-int8" or "edgetpu".
        providers : ONNX Runtime's execution providers in order of preference; a missing one is an error, not a fallback. None: CUDA
            where this ONNX Runtime has it, then the CPU.
        threads : of the runtime within a call; 0 = its own choice.

        Raises `InputError` for a folder that is incomplete, damaged or needs what this AstrID does not know, and
        `MissingDependencyError` without a runtime for it.
        """
        description = read_description(folder)
        return cls(description, _open(description, folder, target, providers, threads), batch)

    def score(self, stamps: NDArray[np.float32]) -> Scores:
        """Score raw triplets, floating (n, 3, 63, 63): science, reference, difference turned so that the source is positive."""
        raw = np.full(len(stamps), np.nan, dtype=np.float32)
        for start in range(0, len(stamps), self._batch):
            chunk = stamps[start : start + self._batch]
            usable: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(chunk).any(axis=(2, 3)), axis=1)
            if usable.any():
                inputs = normalize(chunk[usable], self.description.normalization)
                raw[start : start + len(chunk)][usable] = self.engine.scores(inputs)
        calibrated = self.description.calibration.apply(raw)
        return Scores(raw, calibrated, calibrated >= self.description.threshold)


def open_engine(folder: Path, target: str = AUTO, *, providers: Sequence[str] | None = None, threads: int = 0) -> Engine:
    """The engine of a model folder for a target, or for "auto" the first that this machine can run of edgetpu, onnx, tflite-int8
    and onnx-int8. Parameters and errors as for `ScoringEngine.load`."""
    return _open(read_description(folder), folder, target, providers, threads)


def _open(description: ModelDescription, folder: Path, target: str, providers: Sequence[str] | None, threads: int) -> Engine:
    if target == AUTO:
        return _best(description, folder, providers, threads)
    if target not in TARGETS:
        raise InputError(f"{target!r} is no target; choose one of {AUTO}, {', '.join(TARGETS)}.")
    if not description.of(target):
        have = ", ".join(dict.fromkeys(artifact.target for artifact in description.artifacts))
        raise InputError(f"{folder} holds no artifact for {target!r}, only for {have}; export or compile it, or choose another target.")
    return _make(description, target, providers, threads)


def _best(description: ModelDescription, folder: Path, providers: Sequence[str] | None, threads: int) -> Engine:
    """The preferred target whose file is in the folder and whose runtime is here."""
    present = [target for target in _PREFERENCE if any(artifact.path.is_file() for artifact in description.of(target))]
    if not present and description.artifacts:
        raise InputError(f"{description.artifacts[0].path} does not exist; run the stage export, or give a whole model folder.")
    missing = []
    for target in present:
        runtime = _RUNTIMES[target]()
        if not runtime.there:
            missing.append(f"{target}: {runtime.detail}")
            continue
        try:
            return _make(description, target, providers, threads)
        except MissingDependencyError as error:
            if target != "edgetpu":
                raise
            log.warning("%s The next target is tried.", error)  # the library without its device
            missing.append(f"{target}: {error}")
    raise MissingDependencyError(f"{folder} cannot be scored with on this machine. {' '.join(missing)}")


def _make(description: ModelDescription, target: str, providers: Sequence[str] | None, threads: int) -> Engine:
    files = [(artifact, description.content(artifact)) for artifact in description.of(target)]
    if target.startswith("onnx"):
        from astrid.serving.by_onnx import OnnxEngine

        return OnnxEngine(*files[0], providers=providers, threads=threads)
    from astrid.serving.by_tflite import TfliteEngine

    return TfliteEngine(files, threads=threads)


_RUNTIMES: dict[str, Callable[[], runtimes.Found]] = {
    "edgetpu": runtimes.edge_tpu,
    "onnx": runtimes.onnx_runtime,
    "tflite-int8": runtimes.tflite_runtime,
    "onnx-int8": runtimes.onnx_runtime,
}

"""The scoring engine: a model folder in, scores out. numpy and ONNX Runtime only.

A model folder holds `model.onnx` and `model.json`; the latter names the normalisation, the channels, the stamp's size, the
calibration and the threshold, and the engine refuses a folder whose description it cannot follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid.core.errors import DataSetError, InputError, MissingDependencyError
from astrid.core.provenance import digest_bytes
from astrid.datasets.normalize import CHANNELS, NORMALIZATIONS, STAMP_SHAPE, normalize
from astrid.evaluation.calibration import Calibration
from astrid.export.folder import MANIFEST_FILE, ONNX_FILE, read_manifest

PROVIDERS = ("CPUExecutionProvider",)


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of n triplets, NaN where a stamp has no finite pixel. `raw`: float32 (n,), the network's sigmoid;
    `calibrated`: float64 (n,), the probability of being real; `real`: bool (n,), calibrated >= threshold."""

    raw: NDArray[np.float32]
    calibrated: NDArray[np.float64]
    real: NDArray[np.bool_]


@dataclass(frozen=True)
class ModelDescription:
    """What `model.json` says that scoring needs."""

    version: str  # name@version, the version being a digest of everything that changes a score
    normalization: str
    threshold: float  # on the calibrated score
    calibration: Calibration


class ScoringEngine:
    """Scores triplets by the ONNX model of a folder; make one with `load`."""

    def __init__(self, description: ModelDescription, session: Any, batch: int) -> None:
        self.description = description
        self._session = session
        self._batch = batch
        self._input = session.get_inputs()[0].name

    @classmethod
    def load(cls, folder: Path, *, batch: int = 256, providers: Sequence[str] = PROVIDERS, threads: int = 0) -> ScoringEngine:
        """Open a model folder.

        Parameters
        ----------
        folder : holds model.onnx and model.json.
        batch : triplets a call of the network (48 kB of input each).
        providers : ONNX Runtime's execution providers in order of preference; a missing one is an error, not a fallback.
        threads : of ONNX Runtime within a call; 0 = every core.

        Raises `InputError` for a folder that is incomplete, damaged or needs what this AstrID does not know, and
        `MissingDependencyError` without ONNX Runtime or one of the providers.
        """
        description = describe(folder)
        return cls(description, _session(folder / ONNX_FILE, providers, threads), batch)

    def score(self, stamps: NDArray[np.float32]) -> Scores:
        """Score raw triplets, floating (n, 3, 63, 63): science, reference, difference turned so that the source is positive."""
        raw = np.full(len(stamps), np.nan, dtype=np.float32)
        for start in range(0, len(stamps), self._batch):
            chunk = stamps[start : start + self._batch]
            usable: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(chunk).any(axis=(2, 3)), axis=1)
            if usable.any():
                inputs = normalize(chunk[usable], self.description.normalization)
                outputs = self._session.run(None, {self._input: inputs})[0]
                raw[start : start + len(chunk)][usable] = np.asarray(outputs, dtype=np.float32).reshape(-1)
        calibrated = self.description.calibration.apply(raw)
        return Scores(raw, calibrated, calibrated >= self.description.threshold)


def describe(folder: Path) -> ModelDescription:
    """Read and check a folder's `model.json` against this AstrID and against `model.onnx`. Raises `InputError`."""
    content, where = read_manifest(folder), folder / MANIFEST_FILE
    normalization = _entry(content, "normalization", where)
    if normalization not in NORMALIZATIONS:
        raise InputError(
            f"{where} asks for the normalisation {normalization!r}; this AstrID knows {', '.join(NORMALIZATIONS)}, so update it."
        )
    channels = tuple(_entry(content, "channel_order", where))
    if channels != CHANNELS:
        raise InputError(
            f"{where} orders the channels {', '.join(map(str, channels))}; stamps come as {', '.join(CHANNELS)}, so export anew."
        )
    size = _entry(content, "stamp_size", where)
    if size != STAMP_SHAPE[-1]:
        raise InputError(f"{where} takes stamps of {size} pixels; AstrID cuts {STAMP_SHAPE[-1]}, so export anew.")
    threshold = _entry(content, "threshold", where)
    if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise InputError(f"{where} has the threshold {threshold!r}; a probability lies between 0 and 1, so evaluate and export anew.")
    try:
        calibration = Calibration.from_dict(_entry(content, "calibration", where))
    except DataSetError as error:
        raise InputError(f"{where}: {error}") from error
    _check_graph(folder / ONNX_FILE, _entry(content, "files", where).get(ONNX_FILE, ""))
    version = f"{_entry(content, 'name', where)}@{_entry(content, 'version', where)}"
    return ModelDescription(version, normalization, float(threshold), calibration)


def _check_graph(path: Path, declared: str) -> None:
    if not path.is_file():
        raise InputError(f"{path} does not exist; run the stage export, or give a whole model folder.")
    digest = digest_bytes(path.read_bytes())
    if digest != declared:
        raise InputError(f"{path} has the digest {digest[:12]}, but its {MANIFEST_FILE} was written for {declared[:12]!r}; export anew.")


def _entry(content: Mapping[str, Any], key: str, where: Path) -> Any:
    if key not in content:
        raise InputError(f"{where} lacks {key!r}; export the model anew.")
    return content[key]


def _session(path: Path, providers: Sequence[str], threads: int) -> Any:
    try:
        import onnxruntime as ort
        from onnxruntime.capi import onnxruntime_pybind11_state as errors
    except ImportError as error:
        raise MissingDependencyError("ONNX Runtime is not installed; run `pip install onnxruntime`.") from error
    missing = [name for name in providers if name not in ort.get_available_providers()]
    if missing:
        have = ", ".join(ort.get_available_providers())
        raise MissingDependencyError(
            f"ONNX Runtime has no {missing[0]} here (it has {have}); install its build or choose another provider."
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    try:
        return ort.InferenceSession(str(path), options, providers=list(providers))
    except (
        errors.Fail,
        errors.InvalidProtobuf,
        errors.InvalidGraph,
        errors.InvalidArgument,
        errors.NotImplemented,
        errors.NoModel,
    ) as error:
        raise InputError(f"{path} is not a model that ONNX Runtime can open ({str(error).splitlines()[0][:160]}).") from error

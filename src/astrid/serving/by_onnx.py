"""Scoring with ONNX Runtime, on the CPU or CUDA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid.core.errors import InputError, MissingDependencyError
from astrid.serving.description import ArtifactFile
from astrid.serving.runtimes import load_onnx

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"


class OnnxEngine:
    """An ONNX file, opened. `scores`: float32 (n, 3, 63, 63), normalised -> probability, float32 (n,); any n."""

    def __init__(self, artifact: ArtifactFile, content: bytes, *, providers: Sequence[str] | None, threads: int) -> None:
        """`providers`: execution providers in order of preference, a missing one is an error; None: CUDA where it is, then the CPU."""
        ort = load_onnx()
        self.artifact = artifact
        self._session = _session(ort, artifact, content, _chosen(ort, providers), threads)
        self._input = self._session.get_inputs()[0].name
        self.runtime = f"onnxruntime {ort.__version__}, {self._session.get_providers()[0]}"

    def scores(self, normalized: NDArray[np.float32]) -> NDArray[np.float32]:
        """See the class."""
        return np.asarray(self._session.run(None, {self._input: normalized})[0], dtype=np.float32).reshape(-1)


def _chosen(ort: Any, providers: Sequence[str] | None) -> list[str]:
    have = ort.get_available_providers()
    if providers is None:
        return [name for name in (CUDA, CPU) if name in have]
    missing = [name for name in providers if name not in have]
    if missing:
        raise MissingDependencyError(
            f"ONNX Runtime has no {missing[0]} here (it has {', '.join(have)}); install its build or choose another provider."
        )
    return list(providers)


def _session(ort: Any, artifact: ArtifactFile, content: bytes, providers: Sequence[str], threads: int) -> Any:
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    try:
        return ort.InferenceSession(content, options, providers=list(providers))
    except (
        errors.Fail,
        errors.InvalidProtobuf,
        errors.InvalidGraph,
        errors.InvalidArgument,
        errors.NotImplemented,
        errors.NoModel,
    ) as error:
        first = (str(error).splitlines() or ["no reason given"])[0][:160]
        raise InputError(f"{artifact.path} is not a model that ONNX Runtime can open ({first}).") from error

"""How MLflow keeps a model folder: as an ONNX model whose files are the folder's own, and whose `predict` takes raw triplets.

`mlflow.onnx.load_model` gives the graph, which wants normalised triplets; `mlflow.pyfunc.load_model` and `mlflow models serve`
go through `astrid.serving.pyfunc`, with the model's normalisation, calibration and threshold. They need AstrID where they run
(`mlflow models serve --env-manager local`).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from astrid.registry.store import load_mlflow

INPUT = "triplets"  # as the graph names it
_LOADER = "astrid.serving.pyfunc"  # named, not imported: MLflow does that where the model is used
_REQUIREMENTS = ["onnx", "onnxruntime", "numpy"]


def log_folder(folder: Path, run_id: str) -> str:
    """Keep a model folder with a run and return the id that MLflow gives it."""
    mlflow = load_mlflow()
    from mlflow.models import Model

    with mlflow.start_run(run_id=run_id, log_system_metrics=False):
        kept = Model.log(artifact_path=None, name="model", flavor=sys.modules[__name__], folder=folder)
    return str(kept.model_id)


def save_model(path: str, mlflow_model: Any, folder: Path) -> None:
    """What `Model.log` calls to write the model to `path`: MLflow's description, then the folder's own bytes."""
    mlflow = load_mlflow()
    import onnx

    graph = onnx.load(str(folder / "model.onnx"))
    mlflow.onnx.save_model(
        graph, path, mlflow_model=mlflow_model, signature=signature(), pip_requirements=_REQUIREMENTS, save_as_external_data=False
    )
    shutil.copytree(folder, path, dirs_exist_ok=True)
    function = mlflow_model.flavors["python_function"]
    function["loader_module"] = _LOADER
    del function["data"]  # the loader gets the whole folder
    mlflow_model.save(str(Path(path) / "MLmodel"))


def signature() -> Any:
    """Raw triplets in, scores out, as MLflow writes it."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    given = Schema([TensorSpec(np.dtype(np.float32), (-1, 3, 63, 63), INPUT)])
    names = {"score": np.float64, "raw_score": np.float32, "real": np.bool_}
    return ModelSignature(given, Schema([TensorSpec(np.dtype(kind), (-1,), name) for name, kind in names.items()]))

"""What MLflow's own tools call: `mlflow.pyfunc.load_model` and `mlflow models serve` score raw triplets with the engine of the house.

A registered model names this module as its loader. MLflow is not imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid.core.errors import DataSetError
from astrid.serving.engine import AUTO, ScoringEngine

INPUT = "triplets"  # the tensor's name in the signature


class TripletModel:
    """A model folder as MLflow sees it; made by `_load_pyfunc`."""

    def __init__(self, engine: ScoringEngine) -> None:
        self.engine = engine

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> dict[str, NDArray[Any]]:
        """Score raw triplets, floating (n, 3, 63, 63): science, reference, difference turned so that the source is positive; NaN
        where masked, not normalised.

        `model_input`: the array, or a mapping with it under "triplets". `params` are taken and mean nothing. Returns arrays (n,):
        score (calibrated probability of being real), raw_score (the network's), real (score at or above the threshold); NaN and
        false where a stamp has no finite pixel.

        Raises `DataSetError` for another name, shape or type.
        """
        if isinstance(model_input, Mapping):
            if set(model_input) != {INPUT}:
                raise DataSetError(f"the input holds {', '.join(map(str, model_input)) or 'nothing'}; give one array, {INPUT!r}.")
            model_input = model_input[INPUT]
        scores = self.engine.score(np.asarray(model_input, dtype=np.float32))
        return {"score": scores.calibrated, "raw_score": scores.raw, "real": scores.real}


def _load_pyfunc(path: str) -> TripletModel:
    """MLflow's entry: the model folder at `path`, scored with whatever this machine can run best."""
    return TripletModel(ScoringEngine.load(Path(path), target=AUTO))

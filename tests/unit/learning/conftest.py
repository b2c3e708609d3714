from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from astrid.config.schema import ModelConfig, TrainConfig
from astrid.config.schema.train import AugmentConfig
from astrid.config.validate import validate
from support.tiny import training_values

CONF = Path(__file__).resolve().parents[3] / "conf"


@dataclass
class ToyStore:
    table: pd.DataFrame
    array: np.ndarray
    digest: str = "toy"

    def stamps(self, indices: Any, out: np.ndarray | None = None) -> np.ndarray:
        return np.take(self.array, np.asarray(indices), axis=0, out=out)


def toy_store(count: int, seed: int = 0) -> ToyStore:
    """Point sources (real) and dipoles (bogus) on noise, with feature columns that tell them apart too."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:63, :63] - 31
    labels = np.arange(count) % 2
    stamps = rng.standard_normal((count, 3, 63, 63)).astype(np.float32)
    source = np.exp(-(x**2 + y**2) / 4.5)
    dipole = np.exp(-((x - 2) ** 2 + y**2) / 4.5) - np.exp(-((x + 2) ** 2 + y**2) / 4.5)
    shape = np.where(labels[:, None, None] == 1, source, dipole) * rng.uniform(4, 12, (count, 1, 1))
    stamps[:, 0] += shape
    stamps[:, 2] += shape
    names = ("snr", "fwhm", "elongation", "sharpness", "roundness", "chi2", "science_snr", "reference_snr", "bad_fraction", "psf_fwhm")
    table = pd.DataFrame({name: rng.uniform(1, 2, count) for name in names})
    table["symmetry"] = np.where(labels == 1, 0.1, 0.9) + rng.normal(0, 0.05, count)
    table["host_dlr"] = np.nan
    table["edge_distance"], table["star_distance"] = 500.0, np.inf
    table["candidate_id"] = [f"c{number}" for number in range(count)]
    table["label"], table["scorable"], table["sign"] = labels, True, 1
    return ToyStore(table, stamps)


def toy_splits(store: ToyStore) -> pd.DataFrame:
    count = len(store.table)
    part = np.where(np.arange(count) < 0.75 * count, "train", "validation")
    return pd.DataFrame({"candidate_id": store.table["candidate_id"], "part": part, "group_id": ""})


def model_config(name: str = "astrid_cnn", **changes: Any) -> ModelConfig:
    values = yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text()) | changes
    return validate(ModelConfig, values, path="model")


def train_config(**changes: Any) -> TrainConfig:
    values = training_values(seed=5) | changes
    return validate(TrainConfig, values, path="train")


@pytest.fixture
def toy() -> ToyStore:
    return toy_store(64)


@pytest.fixture
def splits(toy: ToyStore) -> pd.DataFrame:
    return toy_splits(toy)


@pytest.fixture
def make_toy() -> Any:
    return toy_store


@pytest.fixture
def make_splits() -> Any:
    return toy_splits


@pytest.fixture
def augment_config() -> Any:
    """An AugmentConfig with everything off but what is asked for."""
    off = dict.fromkeys(("shift", "swap", "share", "subpixel", "gain", "blur", "background", "gradient", "noise", "border", "cores"), 0)
    return lambda **on: validate(AugmentConfig, {"turns": "none", **off, **on}, path="train.augment")


@pytest.fixture
def everything() -> dict[str, Any]:
    """Every augmentation of the default configuration, on half of the triplets each."""
    values: dict[str, Any] = yaml.safe_load((CONF / "train/default.yaml").read_text())["augment"]
    return values | {"share": 0.5}


@pytest.fixture
def make_model() -> Any:
    return model_config


@pytest.fixture
def make_train() -> Any:
    return train_config

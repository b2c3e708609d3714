from __future__ import annotations

from pathlib import Path

import pytest

from support.tiny_model import write_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def store_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(autouse=True)
def store(store_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One tracking database for the whole module: making it takes seconds."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store_folder / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", str(store_folder / "mlartifacts"))
    return store_folder

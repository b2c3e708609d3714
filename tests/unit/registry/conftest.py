from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from astrid.config.schema import RegistryConfig
from astrid.config.validate import validate
from support.servers import postgresql, s3
from support.tiny_model import write_tiny_model

FILES = "SQLite and a folder"
SERVERS = "PostgreSQL and S3"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("mlflow")
    return {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}", "MLFLOW_DEFAULT_ARTIFACT_ROOT": str(folder / "mlartifacts")}


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[str, str]]:
    with ExitStack() as stack:
        uri = stack.enter_context(postgresql())
        yield {"MLFLOW_TRACKING_URI": uri, **stack.enter_context(s3())}


@pytest.fixture(autouse=True)
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One tracking store for all tests: making it takes seconds. A module asks for both kinds by `each_store`."""
    kind = getattr(request, "param", FILES)
    for name, value in request.getfixturevalue("files" if kind == FILES else "servers").items():
        monkeypatch.setenv(name, value)
    return kind


@pytest.fixture(scope="session")
def registry_values(project_root: Path) -> dict[str, Any]:
    """The `registry` subtree of conf/ as plain values."""
    text = (project_root / "conf/registry/default.yaml").read_text().replace("${seed}", "7")
    values: dict[str, Any] = yaml.safe_load(text)
    return values


@pytest.fixture(scope="session")
def registry_config(registry_values: dict[str, Any]) -> RegistryConfig:
    return validate(RegistryConfig, registry_values, path="registry")

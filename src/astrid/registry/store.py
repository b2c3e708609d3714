"""Where runs and models are kept: the tracking database and the artifact folder, made whole on first use.

The default is `sqlite:///mlflow.db` with artifacts under `mlartifacts/`, both relative to the working directory. The
environment variables `MLFLOW_TRACKING_URI` and `MLFLOW_DEFAULT_ARTIFACT_ROOT` name other places, e.g. a tracking server.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from astrid.core.errors import RegistryError
from astrid.core.runtime import log

TRACKING_URI = "sqlite:///mlflow.db"
ARTIFACT_ROOT = "mlartifacts"
_SQLITE = "sqlite:///"
_HTTP_RETRIES = "2"  # MLflow's own default keeps a user waiting for minutes when a server is down


def tracking_uri() -> str:
    """The tracking store in use, with a SQLite path made absolute so that a changed working directory keeps its store."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or TRACKING_URI
    path = _sqlite_path(uri)
    return uri if path is None else f"{_SQLITE}{path}"


def artifact_root() -> str | None:
    """Where new experiments keep artifacts, as a URI; None where a tracking server decides."""
    named = os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT")
    if named:
        return named if "://" in named else Path(named).resolve().as_uri()
    return None if tracking_uri().startswith("http") else Path(ARTIFACT_ROOT).resolve().as_uri()


def client() -> Any:
    """An `mlflow.MlflowClient` on the tracking store, which is made on first use (some seconds).

    Raises `RegistryError` when the store cannot be made or reached.
    """
    uri = tracking_uri()
    with reaching("answer"):
        mlflow = load_mlflow()
        path = _sqlite_path(uri)
        if path is not None and not path.exists():
            _make_database(path)
        mlflow.set_tracking_uri(uri)
        return _client(uri)


def load_mlflow() -> Any:
    """Import MLflow with telemetry off and its migration chatter quiet."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", _HTTP_RETRIES)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    for name in ("alembic", "mlflow.store.db", "mlflow.store.model_registry", "mlflow.tracking"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow


@contextmanager
def reaching(what: str) -> Iterator[None]:
    """Turn a failure of the tracking store, the registry or the artifact folder into one `RegistryError`."""
    load_mlflow()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        advice = f"check MLFLOW_TRACKING_URI ({tracking_uri()}), or move a broken mlflow.db away"
        raise RegistryError(f"the tracking store failed to {what}: {first_line}; {advice}.") from error


def _sqlite_path(uri: str) -> Path | None:
    if not uri.startswith(_SQLITE) or uri.endswith(":memory:"):
        return None
    return Path(uri.removeprefix(_SQLITE)).resolve()


@cache
def _client(uri: str) -> Any:
    from mlflow import MlflowClient

    made = MlflowClient(uri)
    made.search_experiments(max_results=1)  # fails here, with the store's name, rather than in the middle of a training
    return made


def _make_database(path: Path) -> None:
    """Migrate a database beside `path` and give it its name only when whole; a process that came second keeps the first's."""
    from mlflow.store.tracking import sqlalchemy_store

    log.info("making the tracking database %s (some seconds, once)", path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.unlink(missing_ok=True)
    maker: Any = sqlalchemy_store.SqlAlchemyStore
    try:
        store: Any = maker(f"{_SQLITE}{temporary}", artifact_root() or ARTIFACT_ROOT)
        store.engine.dispose()
        os.link(temporary, path)
    except FileExistsError:
        log.info("%s was made by another process meanwhile; using it", path.name)
    finally:
        for leftover in path.parent.glob(f"{temporary.name}*"):
            leftover.unlink(missing_ok=True)

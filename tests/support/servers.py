"""PostgreSQL and an S3 server on this machine, for the tests that ask the registry to run on them; a skip says what is not installed."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_BUCKET = "astrid"
_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}  # what the test server takes


def _tool(name: str) -> str:
    """A program of PostgreSQL, which Debian keeps off the path."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(places[-1]) if places else "")


@contextmanager
def postgresql() -> Iterator[str]:
    """A PostgreSQL cluster in a temporary folder; yields the URI of an empty database for SQLAlchemy."""
    initdb, control = _tool("initdb"), _tool("pg_ctl")
    if not (initdb and control and importlib.util.find_spec("psycopg2")):
        pytest.skip("PostgreSQL is not installed here (`apt-get install postgresql`, `pip install psycopg2-binary`)")
    as_user: list[str] = []
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="astrid-pg-") as folder:  # not pytest's own, whose parents only their owner may enter
        if os.geteuid() == 0:  # the server refuses to run as root
            try:
                owner = pwd.getpwnam("postgres")
            except KeyError:
                pytest.skip("PostgreSQL does not run as root, and there is no user postgres here")
            os.chown(folder, owner.pw_uid, owner.pw_gid)
            as_user = ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
        data = f"{folder}/data"
        _quiet([*as_user, initdb, "-D", data, "-U", "astrid", "-A", "trust", "--no-sync"], folder)
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        _quiet([*as_user, control, "-D", data, "-o", options, "-l", f"{folder}/log", "-w", "start"], folder)
        try:
            yield f"postgresql+psycopg2://astrid@127.0.0.1:{port}/postgres"
        finally:
            _quiet([*as_user, control, "-D", data, "-m", "immediate", "stop"], folder)


def _quiet(command: list[str], folder: str) -> None:
    subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)


@contextmanager
def s3() -> Iterator[dict[str, str]]:
    """An S3 server with an empty bucket; yields the environment that MLflow finds it by."""
    if not (importlib.util.find_spec("moto") and importlib.util.find_spec("boto3")):
        pytest.skip("no S3 server is installed here (`pip install 'moto[s3]'`)")
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=_free_port(), verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    key, secret = _CREDENTIALS["AWS_ACCESS_KEY_ID"], _CREDENTIALS["AWS_SECRET_ACCESS_KEY"]
    boto3.client("s3", endpoint_url=url, aws_access_key_id=key, aws_secret_access_key=secret, region_name="us-east-1").create_bucket(
        Bucket=_BUCKET
    )
    try:
        yield {**_CREDENTIALS, "MLFLOW_S3_ENDPOINT_URL": url, "MLFLOW_DEFAULT_ARTIFACT_ROOT": f"s3://{_BUCKET}/mlartifacts"}
    finally:
        server.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

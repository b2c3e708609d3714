"""Raw files of an archive under DVC: pushed to an S3 remote, pulled back, and not asked for again."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from astrid.sky.download import fetch, work_folder
from support.archive_server import small
from support.archive_server.server import DOWNLOAD, ArchiveServer, files
from support.servers import s3


@pytest.fixture
def remote() -> Iterator[dict[str, str]]:
    if importlib.util.find_spec("dvc_s3") is None:
        pytest.skip("DVC has no S3 remote here (`pip install -e '.[s3]'`)")
    with s3() as environment:
        yield environment


def test_raw_files_come_back_from_an_s3_remote(tmp_path: Path, remote: dict[str, str]) -> None:
    def dvc(*words: str) -> str:
        environment = {**os.environ, **remote, "DVC_NO_ANALYTICS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    content = {f"mast:SWIFT/SN-{number}/a{number}.fits.gz": small.image(f"a{number}.fits.gz") for number in range(3)}
    rows = small.chosen(small.row(uri.rsplit("/", 1)[1], data, uri.split("/")[1]) for uri, data in content.items())
    places = small.catalog(rows["object_id"])
    raw = tmp_path / "data" / "raw"
    with ArchiveServer({DOWNLOAD: files(content.get)}) as server:
        first = fetch(rows, places, raw, small.settings(server.url))
        before = {path: (raw / path).read_bytes() for path in first.paths}
        assert len(before) == 3
        dvc("init", "-q", "--no-scm")
        bucket = remote["MLFLOW_DEFAULT_ARTIFACT_ROOT"].rsplit("/", 1)[0]
        where = f"url = {bucket}/dvc\n    endpointurl = {remote['MLFLOW_S3_ENDPOINT_URL']}\n"
        (tmp_path / ".dvc" / "config").write_text(f"[core]\n    remote = store\n    no_scm = True\n['remote \"store\"']\n    {where}")
        dvc("add", "-q", "data/raw")
        tracked = (tmp_path / "data" / "raw.dvc").read_text()
        assert "4 files pushed" in dvc("push")  # three files and the list of the folder
        for folder in (raw, work_folder(raw), tmp_path / ".dvc" / "cache"):
            shutil.rmtree(folder)
        dvc("pull", "-q")
        assert {path.relative_to(raw).as_posix(): path.read_bytes() for path in raw.rglob("*") if path.is_file()} == before
        server.forget()
        again = fetch(rows, places, raw, small.settings(server.url))
        assert again.paths == first.paths
        assert server.total == 0
        dvc("add", "-q", "data/raw")  # nothing that DVC versions has changed
        assert (tmp_path / "data" / "raw.dvc").read_text() == tracked

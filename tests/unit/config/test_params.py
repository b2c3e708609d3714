"""What params.yaml holds, and sentences for what it lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from astrid.config.params import settings
from astrid.config.schema import ComputeConfig
from astrid.core.errors import ConfigError


def test_one_section_is_read_and_validated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("project: {compute: {workers: 2, memory_gb: 0, retries: 1, dask: null}}\n")
    assert settings(ComputeConfig, "project.compute").workers == 2
    Path("params.yaml").write_text("compute: {workers: two, memory_gb: 0, retries: 1, dask: null}\n")
    with pytest.raises(ConfigError, match=r"compute\.workers = 'two' is not allowed"):
        settings(ComputeConfig, "compute")


def test_a_missing_file_a_broken_one_and_a_missing_key_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"params\.yaml is not here"):
        settings(ComputeConfig, "compute")
    Path("params.yaml").write_text("compute: {workers")
    with pytest.raises(ConfigError, match=r"params\.yaml is no readable YAML"):
        settings(ComputeConfig, "compute")
    Path("params.yaml").write_text("compute: 3\n")
    with pytest.raises(ConfigError, match=r"no key imaging\.calibrate"):
        settings(ComputeConfig, "imaging.calibrate")
    with pytest.raises(ConfigError, match=r"no key compute\.dask"):
        settings(ComputeConfig, "compute.dask")

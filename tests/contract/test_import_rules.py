"""The rules of the house, as written in pyproject.toml, hold for the code as it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "mlflow", "astropy", "photutils", "galsim", "matplotlib", "hydra", "onnxruntime", "pandas", "sklearn")


def test_import_linter_finds_no_broken_contract(project_root: Path) -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=project_root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_an_import_of_a_stage_is_refused_wherever_it_stands(project_root: Path, tmp_path: Path) -> None:
    shutil.copytree(project_root / "src/astrid", tmp_path / "src/astrid", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(project_root / "pyproject.toml", tmp_path)
    modules = ("cli", "sweep", "commands/detect", "serving/engine")
    for module in modules:
        with (tmp_path / f"src/astrid/{module}.py").open("a") as file:
            file.write("\n\ndef _late() -> None:\n    from astrid.stages import detect\n")
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--contract", "stages"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "src")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    for module in modules:
        assert f"astrid.{module.replace('/', '.')} -> astrid.stages.detect" in done.stdout


def test_the_command_line_imports_nothing_heavy() -> None:
    code = f"import sys, astrid.cli; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["astrid.serving.engine", "astrid.datasets.normalize", "astrid.io.alerts", "astrid.io.shards"])
def test_what_serving_needs_imports_no_training_stack(module: str) -> None:
    stack = ("torch", "mlflow", "photutils", "galsim", "sklearn", "hydra", "matplotlib", "sep")
    code = f"import sys, {module}; print([name for name in {stack!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

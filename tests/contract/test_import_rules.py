"""The rules of the house, as written in pyproject.toml, hold for the code as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "mlflow", "astropy", "photutils", "galsim", "matplotlib", "hydra", "onnxruntime", "pandas", "sklearn")


def test_import_linter_finds_no_broken_contract(project_root: Path) -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=project_root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


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

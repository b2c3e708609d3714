from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from astrid.config.schema.imaging import DifferenceConfig
from astrid.config.validate import validate

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").exists())


@pytest.fixture(scope="session")
def skies() -> ModuleType:
    """tests/support/skies.py: synthetic pairs with known truth."""
    name = "astrid_tests_skies"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / "support" / "skies.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def difference_values() -> dict:
    """The `difference` subtree of conf/imaging/default.yaml as a plain mapping."""
    return yaml.safe_load((ROOT / "conf" / "imaging" / "default.yaml").read_text())["difference"]


@pytest.fixture(scope="session")
def difference_config(difference_values) -> DifferenceConfig:
    return validate(DifferenceConfig, difference_values)

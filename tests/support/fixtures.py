"""Fixtures that the unit and the physics tests of imaging share: import them into a conftest."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from astrid.config.schema.imaging import DifferenceConfig
from astrid.config.validate import validate
from support import skies as synthetic_skies

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def skies() -> ModuleType:
    """Synthetic pairs with known truth."""
    return synthetic_skies


@pytest.fixture(scope="session")
def difference_values() -> dict[str, Any]:
    """The `difference` subtree of conf/imaging/default.yaml as a plain mapping."""
    return yaml.safe_load((ROOT / "conf" / "imaging" / "default.yaml").read_text())["difference"]


@pytest.fixture(scope="session")
def difference_config(difference_values: dict[str, Any]) -> DifferenceConfig:
    return validate(DifferenceConfig, difference_values)

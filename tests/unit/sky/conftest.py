from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from astrid.config.schema.simulate import SimulateConfig
from astrid.config.schema.survey import SurveyConfig
from astrid.config.validate import validate

CONF = Path(__file__).parents[3] / "conf"


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    for key, value in above.items():
        below[key] = _merge(dict(below[key]), value) if isinstance(value, dict) and isinstance(below.get(key), dict) else value
    return below


@pytest.fixture(scope="session")
def simulate_values() -> Callable[..., dict[str, Any]]:
    """Plain values of conf/simulate: the default under the tiny choice, with changes on top."""

    def build(**changes: Any) -> dict[str, Any]:
        default = yaml.safe_load((CONF / "simulate/default.yaml").read_text())
        tiny = yaml.safe_load((CONF / "simulate/tiny.yaml").read_text())
        tiny.pop("defaults")
        return _merge(_merge(default, tiny), {"seed": 7, **changes})

    return build


@pytest.fixture(scope="session")
def simulate_cfg(simulate_values: Callable[..., dict[str, Any]]) -> SimulateConfig:
    return validate(SimulateConfig, simulate_values(), path="simulate")


@pytest.fixture
def survey_values() -> Callable[[str], dict[str, Any]]:
    def build(choice: str) -> dict[str, Any]:
        values: dict[str, Any] = yaml.safe_load((CONF / f"survey/{choice}.yaml").read_text())
        return values

    return build


@pytest.fixture
def pair_rule(survey_values: Callable[[str], dict[str, Any]]) -> Any:
    return validate(SurveyConfig, survey_values("simulated"), path="survey").pair

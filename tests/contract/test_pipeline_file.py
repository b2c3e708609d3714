"""dvc.yaml, the stages and params.yaml name the same things."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_is_a_module_of_its_name(name: str) -> None:
    assert STAGES[name]["cmd"] == f"python -m astrid.stages.{name}"
    assert (ROOT / "src/astrid/stages" / f"{name}.py").exists()


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_params_and_paths_that_exist(name: str) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for key in STAGES[name].get("params", []):
        values = params
        for step in key.split("."):
            assert step in values, key
            values = values[step]
    for dependency in STAGES[name]["deps"]:
        if dependency.startswith("src/"):
            assert (ROOT / dependency).exists(), dependency


def test_no_two_stages_after_acquisition_share_a_params_subtree() -> None:
    keys = [key for name, stage in STAGES.items() if name != "catalog" for key in stage.get("params", [])]
    assert len(keys) == len(set(keys))

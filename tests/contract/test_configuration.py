"""conf/ composes in every choice, agrees with the schema and with params.yaml, and explains its errors in one sentence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from astrid.config.compose import compose, render, stale_keys
from astrid.config.schema import Config
from astrid.config.validate import validate
from astrid.core.errors import ConfigError

CONF = Path(__file__).resolve().parents[2] / "conf"
GROUPS = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name != "hydra")
CHOICES = [f"{group}={file.stem}" for group in GROUPS for file in sorted((CONF / group).glob("*.yaml"))]


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_and_is_valid(choice: str) -> None:
    values = compose(CONF, [choice])
    assert isinstance(validate(Config, values), Config)


def test_params_yaml_is_current(project_root: Path) -> None:
    assert stale_keys(compose(CONF), project_root / "params.yaml") == []


def test_params_yaml_says_that_it_is_generated(project_root: Path) -> None:
    assert (project_root / "params.yaml").read_text().splitlines()[0].startswith("# Generated from conf/")


def test_render_round_trips() -> None:
    values = compose(CONF)
    assert yaml.safe_load(render(values)) == values


def test_stale_keys_names_the_changed_key(tmp_path: Path) -> None:
    values = compose(CONF)
    path = tmp_path / "params.yaml"
    path.write_text(render({**values, "seed": values["seed"] + 1}))
    assert stale_keys(values, path) == ["seed"]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("+train.epoch=3", r"train\.epoch is not a configuration key; did you mean 'epochs'\?"),
        ("train.epochs=many", r"train\.epochs = 'many' is not allowed"),
        ("train.epochs=0", r"train\.epochs = 0 is not allowed"),
        ("split=by_luck", r"split/by_luck"),
        ("train.nonsense=1", r"nonsense"),
        ("~seed", r"seed"),
    ],
)
def test_a_wrong_key_is_one_sentence_with_its_path(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        compose(CONF, [override])
    assert "\n" not in str(caught.value)


def keys_with_and_without_comment(folder: Path) -> tuple[set[str], set[str]]:
    """Names of value keys in a group's files: those with a comment beside or above them, and the others."""
    explained, silent = set(), set()
    for path in folder.glob("*.yaml"):
        above = ""
        for line in path.read_text().splitlines():
            key = re.match(r"^\s*([\w/]+):\s*([^#\s].*)?", line)
            if key and key[2] and not key[1].startswith("_"):
                (explained if "#" in line or above.startswith("#") else silent).add(key[1])
            above = line.strip()
    return explained, silent


@pytest.mark.parametrize("folder", [CONF, *sorted(path for path in CONF.rglob("*") if path.is_dir())], ids=lambda folder: folder.name)
def test_every_key_carries_a_comment_where_it_is_first_named(folder: Path) -> None:
    explained, silent = keys_with_and_without_comment(folder)
    assert silent - explained == set()


def test_missing_conf_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no config\.yaml"):
        compose(tmp_path)

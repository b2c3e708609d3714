"""conf/ -> the composed configuration -> params.yaml: the one place that knows how Hydra composes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from astrid.config.schema import Config
from astrid.config.validate import validate
from astrid.core.errors import ConfigError
from astrid.core.runtime import atomic_path

HEADER = "# Generated from conf/ by `astrid params`: change conf/, not this file.\n"


def compose(conf: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The configuration under `conf` with Hydra overrides, resolved to plain values and validated against the schema.

    Raises `ConfigError` with one sentence that names the key or the group.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException, OverrideParseException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not (conf / "config.yaml").exists():
        raise ConfigError(f"{conf} holds no config.yaml; run from the project's root or pass --conf.")
    try:
        with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
            composed = hydra_compose("config", overrides=list(overrides))
        values = OmegaConf.to_container(composed, resolve=True)
    except OverrideParseException as error:
        raise ConfigError(f"the override {error.override!r} is not KEY=VALUE; quote text that holds spaces or brackets.") from None
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(_unknown_key(conf, error, overrides) or _one_sentence(error)) from None
    if not isinstance(values, dict):
        raise ConfigError(f"{conf}/config.yaml composes to {type(values).__name__}, not to a mapping.")
    plain = {str(key): value for key, value in values.items()}
    validate(Config, plain)
    return plain


def _unknown_key(conf: Path, error: Exception, overrides: Sequence[str]) -> str:
    """A sentence on the override whose key is not in the configuration, with the nearest that is; "" for another error."""
    found = re.match(r"Could not override '([^']+)'", str(error))
    if not found or not overrides:
        return ""
    key = found[1]
    values: Any = compose(conf)
    group = key.split(".")[0]
    for depth, step in enumerate(key.split("."), 1):
        values = values.get(step, {}) if isinstance(values, dict) else {}
        if values is None:
            return f"{'.'.join(key.split('.')[:depth])} is null here, so {key} cannot be set; choose another {group}=... before it."
    near = difflib.get_close_matches(key, _dotted(compose(conf)), n=1)
    hint = f"did you mean {near[0]!r}?" if near else "look it up under conf/."
    return f"{key} is not a configuration key; {hint}"


def _dotted(values: dict[str, Any], path: str = "") -> list[str]:
    keys = []
    for key, value in values.items():
        keys.append(f"{path}{key}")
        if isinstance(value, dict):
            keys += _dotted(value, f"{path}{key}.")
    return keys


def _one_sentence(error: Exception) -> str:
    """The first sentence of Hydra's explanation, with the choices that it lists and without its advice to set HYDRA_FULL_ERROR."""
    text = str(error.__cause__ or error) if "error" in str(error).lower() and error.__cause__ else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip() and "HYDRA_FULL_ERROR" not in line]
    if not lines:
        return f"the configuration does not compose ({type(error).__name__})."
    sentence = lines[0].rstrip(".")
    options = [line for line in lines[1:] if re.fullmatch(r"[\w./-]+", line)]
    listed = f"; choose one of {', '.join(options)}" if "Available options" in text and options else ""
    return f"{sentence}{listed}."


def render(values: dict[str, Any]) -> str:
    """params.yaml's text for a composed configuration."""
    return HEADER + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)


def write_params(values: dict[str, Any], path: Path) -> None:
    """Write params.yaml atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(render(values))


def stale_keys(values: dict[str, Any], path: Path) -> list[str]:
    """Dotted keys in which params.yaml differs from the composed configuration; empty when it is current."""
    if not path.exists():
        return [path.name]
    found = yaml.safe_load(path.read_text())
    return sorted(_differences(values, found, ""))


def _differences(expected: Any, found: Any, path: str) -> list[str]:
    if isinstance(expected, dict) and isinstance(found, dict):
        keys = expected.keys() | found.keys()
        inner = ((key, _differences(expected.get(key), found.get(key), f"{path}.{key}" if path else str(key))) for key in keys)
        return [difference for _, differences in inner for difference in differences]
    return [] if expected == found else [path]

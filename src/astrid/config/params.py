"""params.yaml -> a validated section of the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml

from astrid.config.validate import validate
from astrid.core.errors import ConfigError

Section = TypeVar("Section")

PARAMS = Path("params.yaml")


def settings(section: type[Section], key: str) -> Section:
    """The section under the dotted `key` of params.yaml in the working directory.

    Raises `ConfigError` when the file is missing or broken, lacks the key, or holds what the section does not allow.
    """
    if not PARAMS.exists():
        raise ConfigError("params.yaml is not here; run `astrid params` in the project's root.")
    try:
        values: Any = yaml.safe_load(PARAMS.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{PARAMS} is no readable YAML ({' '.join(str(error).split())[:99]}); write it with `astrid params`.") from error
    for step in key.split("."):
        if not isinstance(values, dict) or step not in values:
            raise ConfigError(f"params.yaml has no key {key}; run `astrid params` to write it from conf/.")
        values = values[step]
    return validate(section, values, path=key)

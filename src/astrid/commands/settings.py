"""Where a verb's settings come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

Section = TypeVar("Section")


def section(kind: type[Section], key: str, overrides: Sequence[str] = ()) -> Section:
    """A section of the configuration: from conf/ when overrides are given or params.yaml is absent, else from params.yaml."""
    from astrid.config.params import PARAMS, settings
    from astrid.config.validate import validate

    if PARAMS.exists() and not overrides:
        return settings(kind, key)
    from astrid.config.compose import compose
    from astrid.config.locate import conf_folder

    values: Any = compose(conf_folder(), overrides)
    for step in key.split("."):
        values = values[step]
    return validate(kind, values, path=key)

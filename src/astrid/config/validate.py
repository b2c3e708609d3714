"""Plain mappings -> schema sections, with errors of one sentence that name the key's path."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ArgsKwargs

from astrid.core.errors import ConfigError

Section = TypeVar("Section")


def validate(section: type[Section], values: Mapping[str, Any], *, path: str = "") -> Section:
    """Build a section from a plain mapping.

    Raises `ConfigError` with the first offence: an unknown key (and the nearest known one), a missing key, a wrong type or
    an impossible value. `path` is the dotted path of the mapping itself.
    """
    try:
        built: Section = TypeAdapter(section).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([*([path] if path else []), *map(str, first["loc"])])
        raise ConfigError(_sentence(section, first, where, more=error.error_count() - 1)) from None
    return built


def _sentence(section: type[Any], error: Any, where: str, *, more: int) -> str:
    tail = f" ({more} more like it)" if more else ""
    if error["type"] == "unexpected_keyword_argument":
        near = difflib.get_close_matches(str(error["loc"][-1]), _keys_at(section, error["loc"][:-1]), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "; remove it."
        return f"{where} is not a configuration key{hint}{tail}"
    if error["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{where} is missing; add it to its file under conf/.{tail}"
    message = (error["msg"][0].lower() + error["msg"][1:]).removeprefix("value error, ")
    if isinstance(error["input"], Mapping | ArgsKwargs):  # values that do not go together: the message names them
        return f"{where} is not allowed: {message}.{tail}"
    return f"{where} = {error['input']!r} is not allowed: {message}.{tail}"


def _keys_at(section: Any, location: tuple[Any, ...]) -> list[str]:
    for step in location:
        section = get_type_hints(section).get(str(step)) if dataclasses.is_dataclass(section) else None
    return [field.name for field in dataclasses.fields(section)] if dataclasses.is_dataclass(section) else []

"""The one decorator of the schema: frozen dataclasses that reject unknown keys, wrong types and impossible values."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

Section = TypeVar("Section")

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0)]


@dataclass_transform(kw_only_default=True, frozen_default=True)
def section(cls: type[Section]) -> type[Section]:
    """Make a class a section of the configuration: frozen, keyword-only, with no unknown key and no NaN."""
    decorated: Any = dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))(cls)
    return decorated  # type: ignore[no-any-return]

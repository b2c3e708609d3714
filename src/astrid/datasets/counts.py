"""Counts of the parts of a whole, added up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def added(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Both counts together: numbers are added, nested counts as well; what else stands there is that of the first that has it."""
    out = dict(first)
    for name, value in second.items():
        if isinstance(value, Mapping):
            out[name] = added(first.get(name, {}), value)
        elif isinstance(value, int) and name in first:
            out[name] = first[name] + value
        elif name not in first:
            out[name] = value
    return out

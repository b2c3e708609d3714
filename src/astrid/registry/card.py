"""The card of a registered version in Markdown: the model's own card, its place in the registry, its gates and its lineage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from astrid.export.folder import card as model_card
from astrid.registry.gates import Gate


def registry_card(manifest: Mapping[str, Any], gates: Sequence[Gate], lineage: Mapping[str, str]) -> str:
    """The card that the registry shows with a version.

    `manifest`: content of model.json; `gates`: verdicts in order; `lineage`: names and digests of what it was made from.
    """
    rows = ["| gate | measured | limit | verdict |", "|---|---|---|---|"]
    rows += [
        f"| {g.name} | {_number(g.measured)} | {_number(g.limit)} | {'passed' if g.passed else 'refused'}: {g.sentence} |" for g in gates
    ]
    made_from = [f"- {name}: `{value}`" for name, value in sorted(lineage.items())] or ["Nothing recorded."]
    parts = [model_card(manifest).rstrip("\n"), "## Gates of promotion", "\n".join(rows), "## Lineage", "\n".join(made_from)]
    return "\n\n".join(parts) + "\n"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.6g}"

"""The card of a registered version in Markdown: what it is for, its data, what it reached and where it fails, its gates, its lineage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from astrid.export.folder import card as model_card
from astrid.registry.gates import Gate
from astrid.registry.lineage import RAW, Step

DESCRIPTION_CHARACTERS = 5000  # of a version's description in every store that MLflow has
_METRICS = ("aucpr", "roc_auc", "precision", "recall", "f1", "fpr", "fnr", "ece", "brier", "precision_at_prevalence")
_SLICED = ("aucpr", "recall", "fpr")
_PARTS = ("train", "validation", "test", "unused")
_CAPTIONS = {"gallery_missed.png": "Real test detections that it misses", "gallery_false_alarms.png": "Bogus ones that it takes for real"}


@dataclass(frozen=True, eq=False)
class CardInputs:
    """What a card is made of: the contents of model.json and of the reports, and where the model comes from."""

    manifest: Mapping[str, Any]
    gates: Sequence[Gate]
    digests: Mapping[str, str]
    steps: Sequence[Step]  # the products on the way back to the raw files
    evaluation: Mapping[str, Any]  # reports/evaluate.json
    split: Mapping[str, Any]  # reports/split.json
    slices: pd.DataFrame  # reports/plots/slices.csv
    galleries: Sequence[str]  # pictures of failures under card/


def registry_card(inputs: CardInputs) -> str:
    """The whole card: the model folder's own, with data, intervals, slices, failures, gates and lineage after it."""
    parts = [
        model_card(inputs.manifest).rstrip("\n"),
        "## Data and split\n" + _data(inputs.split),
        "## Metrics on test\n" + _metrics(inputs.evaluation),
        "## Slices of the test part\n" + _slices(inputs.slices),
        "## Failures\n" + _failures(inputs.galleries),
        "## Gates of promotion\n" + _gates(inputs.gates),
        "## Lineage\n" + _lineage(inputs),
    ]
    return "\n\n".join(parts) + "\n"


def short_card(inputs: CardInputs) -> str:
    """The card as the registry's description: metrics, gates and lineage, within what every store keeps."""
    manifest = inputs.manifest
    head = f"# {manifest['name']} {manifest['version']}\n\nThe whole card is `card.md` beside the model.\n\n## Metrics on test\n"
    parts = [head + _metrics(inputs.evaluation), "## Gates of promotion\n" + _gates(inputs.gates), "## Lineage\n" + _lineage(inputs)]
    text = "\n\n".join(parts)
    return text if len(text) <= DESCRIPTION_CHARACTERS else text[: DESCRIPTION_CHARACTERS - 4] + "\n..."


def _data(split: Mapping[str, Any]) -> str:
    counts, audit = split.get("audit", {}).get("counts", {}), split.get("audit", {}).get("leaks", {})
    rows = ["| part | real | bogus | unlabelled |", "|---|---|---|---|"]
    for part in _PARTS:
        if part in counts:
            rows.append(f"| {part} | " + " | ".join(str(counts[part].get(name, 0)) for name in ("real", "bogus", "unlabelled")) + " |")
    leaks = ", ".join(f"{name} {count}" for name, count in sorted(audit.items())) or "not audited"
    return "\n".join([f"Strategy of the split: `{split.get('strategy', 'unknown')}`. Leaks found by the audit: {leaks}.", "", *rows])


def _metrics(evaluation: Mapping[str, Any]) -> str:
    rows = ["| metric | value | interval |", "|---|---|---|"]
    for name in _METRICS:
        value = evaluation.get(f"test.{name}")
        if value is not None:
            low, high = (_number(evaluation.get(f"test.{name}_{end}")) for end in ("low", "high"))
            rows.append(f"| {name} | {_number(value)} | {low} to {high} |")
    return "\n".join(rows) if len(rows) > 2 else "Nothing recorded."


def _slices(frame: pd.DataFrame) -> str:
    if frame.empty:
        return "Nothing recorded."
    rows = ["| slice | group | rows | " + " | ".join(f"{name} (interval)" for name in _SLICED) + " |", "|---" * (3 + len(_SLICED)) + "|"]
    for (name, group), part in frame.groupby(["slice", "group"], sort=False):
        found = {row.metric: row for row in part.itertuples()}
        if name == "all" or not {"aucpr", "recall"} & set(found):
            continue
        cells = [_cell(found.get(metric)) for metric in _SLICED]
        rows.append(f"| {name} | {group} | {part['rows'].iloc[0]} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _failures(galleries: Sequence[str]) -> str:
    pictures = [f"![{_CAPTIONS.get(name, name)}](card/{name})" for name in galleries]
    return "\n\n".join(pictures) or "No picture was made."


def _gates(gates: Sequence[Gate]) -> str:
    rows = ["| gate | measured | limit | verdict |", "|---|---|---|---|"]
    rows += [
        f"| {g.name} | {_number(g.measured)} | {_number(g.limit)} | {'passed' if g.passed else 'refused'}: {g.sentence} |" for g in gates
    ]
    return "\n".join(rows)


def _lineage(inputs: CardInputs) -> str:
    lines = [f"- {name}: `{value}`" for name, value in sorted(inputs.digests.items())]
    for step in inputs.steps:
        files = f", {step.files} files" if step.files else ""
        tail = " (each with its own digest in `evidence/lineage.json`)" if step.path == RAW else ""
        lines.append(f"- {step.path} by `{step.stage}`: MD5 `{step.digest}`{files}{tail}")
    return "\n".join(lines) or "Nothing recorded."


def _cell(row: Any) -> str:
    if row is None or not math.isfinite(row.value):
        return "–"
    return f"{row.value:.4f} ({row.low:.4f} to {row.high:.4f})"


def _number(value: Any) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.6g}"

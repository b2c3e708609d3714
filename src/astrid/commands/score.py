"""`astrid score`: alerts, triplet stores or difference products -> a table of scores, and how it ranks independent evidence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astrid.commands.paths import check_outputs
from astrid.core.errors import InputError
from astrid.core.records import Triplet
from astrid.core.runtime import atomic_path, rng_for, write_json

if TYPE_CHECKING:
    from astrid.config.schema.candidates import CandidatesConfig
    from astrid.serving.score import Scored

REPORT = Path("reports/alerts.json")
CARD = Path("data/triplets/card.json")  # of this project's triplets
_REGISTRY_SCHEME = "models:/"
_REASONS_SHOWN = 12


def score(
    inputs: list[Path], output: Path, *, model: str = "models/export", batch: int = 256, evidence: Path | None = None, report: Path = REPORT
) -> None:
    """Score the inputs with a model folder or a registry URI (models:/NAME@ALIAS), write SCORES and print what was found.

    With `evidence`, a CSV of independent evidence an alert, the ranking is written to `report` and, as a page, beside it.
    """
    from astrid.serving.engine import ScoringEngine
    from astrid.serving.score import check_inputs, difference_products, score_inputs

    check_inputs(inputs)
    known = read_evidence(evidence) if evidence is not None else None
    check_outputs([*inputs, evidence], [output, *([report, report.with_suffix(".html")] if evidence is not None else [])])
    folder = _model_folder(model)
    engine = ScoringEngine.load(folder, batch=batch)
    candidates = _candidates() if any(path.exists() and difference_products(path) for path in inputs) else None
    scored = score_inputs(inputs, output, engine, batch=batch, candidates=candidates)
    _show(scored, output)
    if known is not None:
        rank(output, known, report, model_facts(folder))


def read_evidence(path: Path) -> pd.DataFrame:
    """The table of independent evidence. Raises `InputError` when it is missing, broken or lacks a column."""
    from astrid.evaluation.ranking import EVIDENCE_COLUMNS

    if not path.is_file():
        raise InputError(f"{path} does not exist; give the table of independent evidence.")
    try:
        evidence = pd.read_csv(path, dtype={"candid": str})
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is not a readable CSV table ({error}); correct it.") from error
    missing = [name for name in EVIDENCE_COLUMNS if name not in evidence.columns]
    if missing:
        raise InputError(f"{path} lacks the column {missing[0]!r}; evidence needs {', '.join(EVIDENCE_COLUMNS)}.")
    return evidence


def rank(scores: Path, evidence: pd.DataFrame, output_json: Path, model: ModelFacts) -> None:
    """Rank the scored alerts against the evidence; write the result as JSON and as a page beside it (.html).

    See `evaluation.ranking` for what is ranked against what.
    """
    from astrid.evaluation.alerts import alert_context
    from astrid.evaluation.ranking import rank_alerts
    from astrid.evaluation.report import render_alerts
    from astrid.io.tables import SCORES, read_table

    table = read_table(scores, SCORES)
    result = rank_alerts(table, evidence, rng_for(0, "rank"))
    result |= {"model": model.identity, "model_digest": model.identity["network"]}
    page = output_json.with_suffix(".html")
    context = alert_context(result, table, evidence, stamps_of, threshold=model.threshold, trained_on=model.trained_on)
    write_json(output_json, result)
    with atomic_path(page) as temporary:
        temporary.write_text(render_alerts(context), encoding="utf-8")
    print(f"\n{result['statement']}")
    columns = ["evidence", "positives", "negatives", "roc_auc", "roc_auc_low", "roc_auc_high", "recall_at_fpr_5pct", "recall_at_fpr_1pct"]
    print(pd.DataFrame(result["ranking"])[columns].to_string(index=False, float_format="%.3f", na_rep="-"))
    print(f"ranking -> {output_json}, page -> {page}")


@dataclass(frozen=True)
class ModelFacts:
    """Which model scored: `identity` (version, digests), its threshold, and a sentence on its training set where that is known."""

    identity: dict[str, str]
    threshold: float
    trained_on: str


def model_facts(folder: Path) -> ModelFacts:
    """What model.json says of a model, and the data card of this project's triplets where the model was trained on them."""
    from astrid.export.folder import read_manifest

    content = read_manifest(folder)
    data = content["data"]
    identity = {"version": f"{content['name']}@{content['version']}", "digest": str(content["digest"])}
    identity |= {name: str(data.get(name, "")) for name in ("network", "training", "triplets", "splits")}
    trained_on = ""
    if CARD.is_file():
        card = json.loads(CARD.read_text())
        if card.get("digest") == data.get("triplets") and card.get("simulated"):
            trained_on = "The model was trained on simulated exposures alone and has never seen an image of this survey."
    return ModelFacts(identity, float(content["threshold"]), trained_on)


def stamps_of(rows: pd.DataFrame) -> dict[Any, NDArray[np.float32]]:
    """Stamps of scored alerts, by row label: their files are read once more."""
    from astrid.io.alerts import read_alerts

    wanted = {(str(row.source), str(row.candid)): row.Index for row in rows.itertuples()}
    files = sorted({Path(source.split("!")[0]) for source, _ in wanted})
    found = {}
    for reading in read_alerts(files):
        if isinstance(reading, Triplet) and (key := (str(reading.meta["source"]), reading.candidate_id)) in wanted:
            found[wanted[key]] = reading.stamps
    return found


def _model_folder(model: str) -> Path:
    if not model.startswith(_REGISTRY_SCHEME):
        return Path(model)
    from astrid.registry.promote import fetch

    return fetch(model)


def _candidates() -> CandidatesConfig:
    from astrid.commands.settings import section
    from astrid.config.schema.candidates import CandidatesConfig

    return section(CandidatesConfig, "candidates")


def _show(scored: Scored, output: Path) -> None:
    table = scored.table
    with_score = table["score"].notna()
    by_survey = (
        table.assign(survey=table["survey"].where(table["survey"] != "", "unknown"), scored=with_score)
        .groupby("survey")
        .agg(rows=("scored", "size"), scored=("scored", "sum"), real=("real", "sum"), median_score=("score", "median"))
    )
    print(by_survey.to_string(float_format="%.3f"))
    reasons = table["reason"][~with_score].value_counts()
    if len(reasons):
        print(f"\n{int((~with_score).sum())} without a score:")
        for reason, count in reasons.head(_REASONS_SHOWN).items():
            print(f"  {count:5d}  {reason}")
        if len(reasons) > _REASONS_SHOWN:
            print(f"  {reasons.iloc[_REASONS_SHOWN:].sum():5d}  for {len(reasons) - _REASONS_SHOWN} other reasons, see the column `reason`")
    rate = len(table) / scored.seconds if scored.seconds > 0 else float("inf")
    print(f"\n{int(with_score.sum())} of {len(table)} scored in {scored.seconds:.1f} s ({rate:.0f} a second): {output}")

"""`astrid score`: alerts, triplet stores or difference products -> a table of scores, and how it ranks independent evidence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from astrid.core.errors import InputError
from astrid.core.runtime import rng_for, write_json

if TYPE_CHECKING:
    from astrid.config.schema.candidates import CandidatesConfig
    from astrid.serving.score import Scored

REPORT = Path("reports/alerts.json")
_REGISTRY_SCHEME = "models:/"
_REASONS_SHOWN = 12


def score(
    inputs: list[Path], output: Path, *, model: str = "models/export", batch: int = 256, evidence: Path | None = None, report: Path = REPORT
) -> None:
    """Score the inputs with a model folder or a registry URI (models:/NAME@ALIAS), write SCORES and print what was found.

    With `evidence`, a CSV of independent evidence an alert, the ranking is written to `report` as well.
    """
    from astrid.serving.engine import ScoringEngine
    from astrid.serving.score import difference_products, score_inputs

    engine = ScoringEngine.load(_model_folder(model), batch=batch)
    candidates = _candidates() if any(path.exists() and difference_products(path) for path in inputs) else None
    scored = score_inputs(inputs, output, engine, batch=batch, candidates=candidates)
    _show(scored, output)
    if evidence is not None:
        rank(output, evidence, report)


def rank(scores: Path, index_csv: Path, output_json: Path) -> None:
    """Rank the scored alerts against the evidence in `index_csv` and write the result as JSON. See `evaluation.ranking`."""
    from astrid.evaluation.ranking import rank_alerts
    from astrid.io.tables import SCORES, read_table

    if not index_csv.exists():
        raise InputError(f"{index_csv} does not exist; give the table of independent evidence.")
    table = read_table(scores, SCORES)
    try:
        evidence = pd.read_csv(index_csv, dtype={"candid": str})
    except (ValueError, OSError) as error:
        raise InputError(f"{index_csv} is not a readable CSV table ({error}).") from error
    result = rank_alerts(table, evidence, rng_for(0, "rank"))
    result["model_version"] = str(table["model_version"].iloc[0]) if len(table) else ""
    write_json(output_json, result)
    print(f"\n{result['statement']}")
    columns = ["evidence", "positives", "negatives", "roc_auc", "roc_auc_low", "roc_auc_high", "recall_at_fpr_5pct", "recall_at_fpr_1pct"]
    print(pd.DataFrame(result["ranking"])[columns].to_string(index=False, float_format="%.3f", na_rep="-"))
    print(f"ranking: {output_json}")


def _model_folder(model: str) -> Path:
    if not model.startswith(_REGISTRY_SCHEME):
        return Path(model)
    from astrid.registry.promote import fetch

    return fetch(model)


def _candidates() -> CandidatesConfig:
    from astrid.config.schema.candidates import CandidatesConfig
    from astrid.stages.common import settings

    return settings(CandidatesConfig, "candidates")


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

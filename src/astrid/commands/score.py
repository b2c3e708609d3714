"""`astrid score`: alerts, triplets or difference products -> a table of scores, and how it ranks independent evidence.

Scoring imports numpy and a runtime alone; pandas comes with a Parquet table or with evidence.
"""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from astrid.commands.paths import check_outputs
from astrid.core.errors import InputError, MissingDependencyError
from astrid.core.records import Triplet
from astrid.core.runtime import atomic_path, rng_for, write_json

if TYPE_CHECKING:
    import pandas as pd

    from astrid.config.schema.candidates import CandidatesConfig
    from astrid.serving.score import Scored

REPORT = Path("reports/alerts.json")
CARD = Path("data/triplets/card.json")  # of this project's triplets
_REGISTRY_SCHEME = "models:/"
_REASONS_SHOWN = 12


def score(
    inputs: list[Path],
    output: Path,
    *,
    model: str = "models/export",
    target: str = "auto",
    batch: int = 256,
    evidence: Path | None = None,
    report: Path = REPORT,
) -> None:
    """Score the inputs with a model folder or a registry URI (models:/NAME@ALIAS), write SCORES and print what was found.

    `target` names the artifact and with it the runtime; "auto" is the best that this machine can run. With `evidence`, a CSV of
    independent evidence an alert, the ranking is written to `report` and, as a page, beside it; that needs a Parquet table.
    """
    from astrid.serving.engine import ScoringEngine
    from astrid.serving.score import check_inputs, needs_candidates, score_inputs

    check_inputs(inputs)
    if evidence is not None and output.suffix.lower() == ".csv":
        raise InputError(f"{output} is CSV, and ranking against evidence reads the scores back from Parquet; name a .parquet file.")
    known = read_evidence(evidence) if evidence is not None else None
    check_outputs([*inputs, evidence], [output, *([report, report.with_suffix(".html")] if evidence is not None else [])])
    folder = _model_folder(model)
    engine = ScoringEngine.load(folder, batch=batch, target=target)
    candidates = _candidates() if any(needs_candidates(path) for path in inputs) else None
    scored = score_inputs(inputs, output, engine, batch=batch, candidates=candidates)
    _show(scored, output)
    print(f"{engine.version} by {engine.engine.runtime}")
    if known is not None:
        rank(output, known, report, model_facts(folder))


def read_evidence(path: Path) -> pd.DataFrame:
    """The table of independent evidence. Raises `InputError` when it is missing, broken or lacks a column."""
    import pandas as pd

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
    import pandas as pd

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
    if importlib.util.find_spec("mlflow") is None:
        raise MissingDependencyError(f"{model} names a model of the registry, which needs MLflow; give a model folder, or install it.")
    from astrid.registry.versions import fetch

    return fetch(model)


def _candidates() -> CandidatesConfig:
    from astrid.commands.settings import section
    from astrid.config.schema.candidates import CandidatesConfig

    return section(CandidatesConfig, "candidates")


def _show(scored: Scored, output: Path) -> None:
    with_score = [row for row in scored.rows if not np.isnan(row["score"])]
    print(f"{'survey':<12} {'rows':>7} {'scored':>7} {'real':>7} {'median score':>13}")
    for survey, count in sorted(Counter(row["survey"] or "unknown" for row in scored.rows).items()):
        scores = [row["score"] for row in with_score if (row["survey"] or "unknown") == survey]
        real = sum(row["real"] for row in with_score if (row["survey"] or "unknown") == survey)
        middle = f"{np.median(scores):.3f}" if scores else "-"
        print(f"{survey:<12} {count:>7} {len(scores):>7} {real:>7} {middle:>13}")
    reasons = Counter(row["reason"] for row in scored.rows if np.isnan(row["score"])).most_common()
    if reasons:
        print(f"\n{len(scored.rows) - len(with_score)} without a score:")
        for reason, count in reasons[:_REASONS_SHOWN]:
            print(f"  {count:5d}  {reason}")
        if rest := reasons[_REASONS_SHOWN:]:
            print(f"  {sum(count for _, count in rest):5d}  for {len(rest)} other reasons, see the column `reason`")
    rate = len(scored.rows) / scored.seconds if scored.seconds > 0 else float("inf")
    print(f"\n{len(with_score)} of {len(scored.rows)} scored in {scored.seconds:.1f} s ({rate:.0f} a second): {output}")

"""How a score ranks real alerts against those that another classifier calls bogus.

Public alert packets hold hardly any confirmed bogus detection. What they hold is independent evidence that some alerts are
real (a Solar System object at the place, a TNS class, a catalogued class of variables) and the opinion of a peer: braai
d6_m7 (Duev et al. 2019) below 0.1. The numbers here are a ranking of the first against the second and are called so; they
are no purity.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from astrid.core.errors import DataSetError
from astrid.datasets.kinds import VARIABLE_CLASSES
from astrid.evaluation.metrics import Estimate, MetricSettings, evaluate, make_rows, roc_frame

SURVEY = "ZTF"
PEER = "braai_d6_m7_recomputed"
PEER_LIMIT = 0.1
REPLICATES = 1000
INTERVAL = 0.95
FALSE_ALARM_RATES = (0.05, 0.01)
EVIDENCE_COLUMNS = ("survey", "candid", "objectId", "file", PEER, "solar_system_match_5arcsec", "tnsclass", "simbad_class")

_UNDEFINED = Estimate(float("nan"))
# Of these only the ranks, the intervals and the false-alarm rates are used: threshold, prevalence and bins touch nothing here.
_SETTINGS = MetricSettings(
    threshold=0.5, replicates=REPLICATES, interval=INTERVAL, prevalence=0.5, false_positive_rates=FALSE_ALARM_RATES, bins=10
)

_STATEMENT = (
    f"Negatives are {SURVEY} alerts without independent evidence that braai d6_m7 scores below {PEER_LIMIT}: "
    "a peer's opinion, not the truth. "
    "Positives carry independent evidence of being real; a SIMBAD class that does not vary by nature is weak evidence and stands apart."
)


def rank_alerts(scores: pd.DataFrame, evidence: pd.DataFrame, rng: np.random.Generator) -> dict[str, Any]:
    """Rank alerts with evidence of being real against peer-low ones.

    Parameters
    ----------
    scores : a SCORES table; `source` ends with the evidence's `file`.
    evidence : one row an alert with the columns of `EVIDENCE_COLUMNS`.
    rng : draws the bootstrap over objects.

    Returns
    -------
    Plain values: `statement`, `counts`, `median_score` a group, and `ranking`, one record a kind of positives (strong, strong
    and brightened, strong and faded, weak, all) with `positives`, `negatives`, `objects`, and value, _low, _high (95 %,
    bootstrap over objects) of `roc_auc`, `recall_at_fpr_5pct` and `recall_at_fpr_1pct`; NaN where a group is empty.

    Raises `DataSetError` when a column is missing or no alert of the survey was scored.
    """
    joined = join_evidence(scores, evidence)
    scored = joined[joined["score"].notna()]
    if scored.empty:
        raise DataSetError(
            f"none of the {len(joined)} {SURVEY} alerts of the evidence has a score; score the folder that the evidence describes."
        )
    negative = (scored["group"] == "peer_low").to_numpy()
    groups = {name: int((scored["group"] == name).sum()) for name in ("strong", "weak", "peer_low", "other")}
    return {
        "statement": _STATEMENT,
        "counts": {"alerts": len(joined), "scored": len(scored), "unscored": len(joined) - len(scored), **groups},
        "median_score": {name: float(scored["score"][scored["group"] == name].median()) for name in groups if groups[name]},
        "ranking": [_row(name, scored, positive, negative, rng) for name, positive in _positives(scored).items()],
    }


def evidence_group(evidence: pd.DataFrame) -> pd.Series:
    """ "strong", "weak", "peer_low" or "other" a row; an alert with any evidence is never a negative."""
    simbad, tns = (evidence[name].astype(object).fillna("").astype(str) for name in ("simbad_class", "tnsclass"))
    strong = evidence["solar_system_match_5arcsec"].astype(str).str.lower().eq("true")
    strong |= tns.ne("") | simbad.isin(VARIABLE_CLASSES)
    low = evidence[PEER] < PEER_LIMIT
    group = np.select([strong, simbad.ne(""), low], ["strong", "weak", "peer_low"], "other")
    return pd.Series(group, index=evidence.index)


def join_evidence(scores: pd.DataFrame, evidence: pd.DataFrame) -> pd.DataFrame:
    """The evidence of the survey's alerts with `score`, `sign`, `source` (NaN where it was not scored) and `group`.

    Raises `DataSetError` when the evidence lacks a column.
    """
    missing = [name for name in EVIDENCE_COLUMNS if name not in evidence.columns]
    if missing:
        raise DataSetError(f"the table of evidence lacks the column {missing[0]!r}; it needs {', '.join(EVIDENCE_COLUMNS)}.")
    wanted = evidence[evidence["survey"] == SURVEY].assign(candidate_id=lambda frame: frame["candid"].astype(str))
    pairs = wanted.reset_index(names="evidence_row").merge(
        scores[["candidate_id", "source", "score", "sign"]], on="candidate_id", how="left"
    )
    same = [
        isinstance(source, str) and f"/{source}".endswith(f"/{file}") for source, file in zip(pairs["source"], pairs["file"], strict=True)
    ]
    found = pairs[same].drop_duplicates("evidence_row").set_index("evidence_row")
    joined = wanted.assign(score=found["score"], sign=found["sign"], source=found["source"])
    return joined.assign(group=evidence_group(joined))


def roc_curves(joined: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The ROC (columns threshold, fpr, recall) of each kind of positives against the peer-low alerts; empty groups are left out."""
    scored = joined[joined["score"].notna()]
    negative = (scored["group"] == "peer_low").to_numpy()
    curves = {}
    for name, positive in _positives(scored).items():
        if positive.any() and negative.any():
            used = positive | negative
            curves[name] = roc_frame(make_rows(positive[used], scored["score"].to_numpy()[used], scored["objectId"].astype(str)[used]))
    return curves


def disagreements(joined: pd.DataFrame, count: int) -> dict[str, pd.DataFrame]:
    """The alerts that score and evidence judge most differently, and for comparison those on which they agree, `count` rows each.

    "missed": strong evidence, lowest scores; "claimed": peer-low, highest scores; "agreed_real" and "agreed_low" the reverse.
    """
    scored = joined[joined["score"].notna()].sort_values(["score", "candid"], kind="stable")
    strong, low = scored[scored["group"] == "strong"], scored[scored["group"] == "peer_low"]
    return {
        "missed": strong.head(count),
        "claimed": low.tail(count).iloc[::-1],
        "agreed_real": strong.tail(count).iloc[::-1],
        "agreed_low": low.head(count),
    }


def _positives(scored: pd.DataFrame) -> dict[str, np.ndarray[Any, Any]]:
    strong = (scored["group"] == "strong").to_numpy()
    weak = (scored["group"] == "weak").to_numpy()
    brightened = (scored["sign"] > 0).to_numpy()
    return {
        "strong": strong,
        "strong, brightened": strong & brightened,
        "strong, faded": strong & ~brightened,
        "weak": weak,
        "all": strong | weak,
    }


def _row(name: str, scored: pd.DataFrame, positive: Any, negative: Any, rng: np.random.Generator) -> dict[str, Any]:
    used = scored[positive | negative]
    counts = {"positives": int(positive.sum()), "negatives": int(negative.sum()), "objects": int(used["objectId"].nunique())}
    if positive.any() and negative.any():
        events = used["objectId"].astype(str).to_numpy()
        found = evaluate(make_rows(positive[positive | negative], used["score"].to_numpy(), events), _SETTINGS, rng)
    else:
        found = {}
    out: dict[str, Any] = {"evidence": name, **counts, **_columns("roc_auc", found.get("roc_auc", _UNDEFINED))}
    for rate in FALSE_ALARM_RATES:
        miss = found.get(f"fnr_at_fpr_{100 * rate:g}pct", _UNDEFINED)
        out |= _columns(f"recall_at_fpr_{100 * rate:g}pct", Estimate(1 - miss.value, 1 - miss.high, 1 - miss.low))
    return out


def _columns(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: float(estimate.value), f"{name}_low": float(estimate.low), f"{name}_high": float(estimate.high)}

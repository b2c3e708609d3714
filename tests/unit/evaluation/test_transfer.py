import numpy as np
import pandas as pd
import pytest

from astrid.evaluation.report import render_transfer
from astrid.evaluation.transfer import compare, disagreement, transfer_context
from support.evidence import evidence

GROUPS = ["strong"] * 40 + ["peer_low"] * 40


def scores(values):
    rows = [{"candidate_id": str(k), "source": f"/d/night/{k}.avro", "survey": "ZTF", "score": v, "sign": 1} for k, v in enumerate(values)]
    rows.append({"candidate_id": "w", "source": "/d/w.avro", "survey": "WINTER", "score": 0.25, "sign": 1})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def outcomes():
    rng = np.random.default_rng(4)
    good = [scores(np.r_[rng.uniform(0.4, 1.0, 40), rng.uniform(0.0, 0.6, 40)]) for _ in range(3)]
    chance = [scores(rng.uniform(0, 1, 80)) for _ in range(3)]
    return [("wide", seed, good[seed]) for seed in range(3)] + [("plain", seed, chance[seed]) for seed in range(3)]


def test_the_summary_is_the_seeds_median_with_their_span(outcomes):
    result = compare(outcomes, evidence(GROUPS))
    assert [record["training"] for record in result["summary"]] == ["wide", "plain"]
    wide = result["summary"][0]
    seeds = sorted(r["roc_auc"] for r in result["ranking"] if r["training"] == "wide" and r["evidence"] == "strong")
    assert [wide["roc_auc_least"], wide["roc_auc"], wide["roc_auc_most"]] == seeds
    assert wide["roc_auc_low"] < wide["roc_auc"] < wide["roc_auc_high"]
    assert wide["roc_auc"] > 0.8 > result["summary"][1]["roc_auc"]


@pytest.mark.parametrize("measure", ["roc_auc", "recall_at_fpr_5pct", "recall_at_fpr_1pct"])
def test_an_interval_is_that_of_the_seed_whose_value_is_shown(measure, outcomes):
    result = compare(outcomes, evidence(GROUPS))
    for record in result["summary"]:
        mine = [row for row in result["ranking"] if row["training"] == record["training"] and row["evidence"] == "strong"]
        shown = [f"{measure}{end}" for end in ("", "_low", "_high")]
        assert [record[name] for name in shown] in [[row[name] for name in shown] for row in mine]


def test_other_surveys_are_looked_at(outcomes):
    assert compare(outcomes, evidence(GROUPS))["surveys"][0] == {
        "training": "wide",
        "seed": 0,
        "survey": "WINTER",
        "alerts": 1,
        "median": 0.25,
    }


def test_every_disagreement_is_listed():
    values = np.r_[np.full(38, 0.9), 0.2, 0.1, np.linspace(0.0, 0.4, 38), 0.7, 0.8]
    joined = scores(values).assign(candid=lambda f: f["candidate_id"], group=[*GROUPS, "other"])
    missed, claimed = disagreement(joined)
    assert missed["score"].tolist() == [0.1, 0.2]
    assert claimed["score"].tolist() == [0.8, 0.7]


def test_the_page_shows_the_best_training_and_its_disagreements(outcomes):
    known = evidence(GROUPS)
    result = compare(outcomes, known) | {
        "model": {"name": "braai", "normalization": "l2.v1"},
        "parts": ["train", "test"],
        "trainings": [
            {"name": name, "folders": ["a", "b"], "digest": "f" * 64, "real": 3, "bogus": 4, "validation_real": 1, "validation_bogus": 2}
            for name in ("wide", "plain")
        ],
    }
    asked = []

    def stamps(rows):
        asked.extend(rows["candid"])
        return {index: np.random.default_rng(0).normal(size=(3, 63, 63)).astype(np.float32) for index in rows.index}

    context = transfer_context(result, outcomes, known, stamps)
    page = render_transfer(context)
    assert context["best"] == "wide"
    assert asked
    assert page.count("<figure") == len(context["pictures"]) == 4
    assert "braai" in page
    assert "a, b" in page
    assert "The rows of the part train and of the part test train;" in page

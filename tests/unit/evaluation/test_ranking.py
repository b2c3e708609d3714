import numpy as np
import pandas as pd
import pytest

from astrid.core.errors import DataSetError
from astrid.evaluation.alerts import alert_context
from astrid.evaluation.ranking import disagreements, evidence_group, join_evidence, rank_alerts, roc_curves
from astrid.evaluation.report import render_alerts
from support.evidence import evidence


def scores(values, folder="/data/"):
    rows = [
        {"candidate_id": str(k), "source": f"{folder}night/{k}.avro", "score": v, "sign": 1 - 2 * (k % 2)} for k, v in enumerate(values)
    ]
    return pd.DataFrame(rows)


GROUPS = ["strong"] * 40 + ["peer_low"] * 40 + ["weak"] * 10 + ["other"] * 5


def ranked(values):
    result = rank_alerts(scores(values), evidence(GROUPS), np.random.default_rng(0))
    return result, {record["evidence"]: record for record in result["ranking"]}


def test_a_perfect_score_ranks_perfectly_and_a_reversed_one_not_at_all():
    _, good = ranked([0.9] * 40 + [0.1] * 40 + [0.5] * 15)
    _, bad = ranked([0.1] * 40 + [0.9] * 40 + [0.5] * 15)
    assert good["strong"]["roc_auc"] == good["strong"]["recall_at_fpr_1pct"] == 1
    assert bad["strong"]["roc_auc"] == bad["strong"]["recall_at_fpr_5pct"] == 0


def test_the_area_is_the_share_of_rightly_ordered_pairs():
    values = np.random.default_rng(1).random(95)
    values[:40] += 0.3
    values /= values.max()
    _, rows = ranked(values)
    pairs = (values[:40, None] > values[None, 40:80]).mean()
    assert rows["strong"]["roc_auc"] == pytest.approx(pairs)
    assert rows["strong"]["roc_auc_low"] < pairs < rows["strong"]["roc_auc_high"]
    highest = np.sort(values[40:80])[::-1]
    assert rows["strong"]["recall_at_fpr_5pct"] == pytest.approx((values[:40] > highest[2]).mean())


def test_groups_are_counted_and_weak_evidence_stands_apart():
    result, rows = ranked([0.9] * 40 + [0.1] * 40 + [np.nan] * 5 + [0.3] * 10)
    assert result["counts"] == {"alerts": 95, "scored": 90, "unscored": 5, "strong": 40, "weak": 5, "peer_low": 40, "other": 5}
    assert (rows["weak"]["positives"], rows["all"]["positives"]) == (5, 45)
    assert rows["strong, brightened"]["positives"] + rows["strong, faded"]["positives"] == 40
    assert "peer's opinion" in result["statement"]


def test_evidence_beats_the_peers_opinion():
    frame = evidence(["peer_low"] * 4)
    frame["simbad_class"] = ["RRLyr", "S*", "", None]
    assert list(evidence_group(frame)) == ["strong", "weak", "peer_low", "peer_low"]
    frame["tnsclass"] = ["", "(TNS) SN Ia", None, ""]
    assert list(evidence_group(frame))[1] == "strong"


@pytest.mark.filterwarnings("error")
def test_a_column_without_any_class_is_read_as_none():
    frame = evidence(["strong", "peer_low", "other"]).assign(simbad_class=np.nan, tnsclass=np.nan)  # as an empty column of a CSV comes
    assert list(evidence_group(frame)) == ["strong", "peer_low", "other"]


def test_the_file_decides_where_an_alert_stands_in_two_files():
    both = pd.concat([scores([0.1] * 95, "/other/x"), scores([0.9] * 95)])
    both.loc[both["source"].str.startswith("/other"), "source"] = "/other/0.avro"
    result = rank_alerts(both, evidence(GROUPS), np.random.default_rng(0))
    assert result["median_score"]["strong"] == 0.9


def test_an_empty_group_has_no_numbers():
    result = rank_alerts(scores([0.5] * 4), evidence(["strong"] * 4), np.random.default_rng(0))
    assert np.isnan(result["ranking"][0]["roc_auc"])


def test_a_missing_column_and_a_foreign_table_are_refused():
    with pytest.raises(DataSetError, match="lacks the column 'objectId'"):
        rank_alerts(scores([1.0]), evidence(["strong"]).drop(columns="objectId"), np.random.default_rng(0))
    with pytest.raises(DataSetError, match="none of the 1 ZTF alerts"):
        rank_alerts(scores([1.0]).assign(candidate_id="9"), evidence(["strong"]), np.random.default_rng(0))


def test_disagreements_are_the_extremes_of_their_groups():
    values = np.linspace(0, 1, 95)
    chosen = disagreements(join_evidence(scores(values), evidence(GROUPS)), 3)
    assert chosen["missed"]["candid"].tolist() == ["0", "1", "2"]
    assert chosen["claimed"]["candid"].tolist() == ["79", "78", "77"]
    assert chosen["agreed_real"]["candid"].tolist() == ["39", "38", "37"]
    assert chosen["agreed_low"]["candid"].tolist() == ["40", "41", "42"]


def test_curves_end_where_they_must_and_leave_empty_groups_out():
    joined = join_evidence(scores(np.linspace(0, 1, 95)), evidence(GROUPS))
    curves = roc_curves(joined)
    assert curves["strong"][["fpr", "recall"]].to_numpy()[[0, -1]].tolist() == [[0, 0], [1, 1]]
    assert roc_curves(joined[joined["group"] != "peer_low"]) == {}


def test_the_page_says_which_model_what_the_negatives_are_and_every_number():
    table, known = scores(np.linspace(0, 1, 95)), evidence(GROUPS)
    result, rows = ranked(np.linspace(0, 1, 95))
    result["model"] = {"version": "net@abc", "network": "d" * 64}
    asked = []

    def stamps(frame):
        asked.extend(frame["candid"])
        return {label: np.random.default_rng(0).normal(size=(3, 63, 63)).astype(np.float32) for label in frame.index}

    page = render_alerts(alert_context(result, table, known, stamps, threshold=0.5, trained_on="Trained on <simulations>."))
    assert {"0", "79"} <= set(asked)
    for text in (
        "net@abc",
        "d" * 64,
        "a peer&#39;s opinion",
        "Trained on &lt;simulations&gt;.",
        f"{rows['weak']['roc_auc']:.3f}",
        "40 alerts stand for bogus",
    ):
        assert text in page
    assert page.count("data:image/png;base64,") == 7
    assert "<script" not in page

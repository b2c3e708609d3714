"""Splits: no strategy ever leaks, every part has both classes, and the audit refuses each planted leak."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import yaml

from astrid.config.schema.split import SplitConfig
from astrid.config.validate import validate
from astrid.core.errors import ConfigError, DataSetError, LeakageError
from astrid.datasets import leakage
from astrid.datasets.leakage import KEYS, audit, shared_values
from astrid.datasets.splits import COLUMNS, group_ids, split_rows, unused_counts

STRATEGIES = ("temporal", "cross_instrument", "cross_survey", "random_grouped")


def config(strategy: str, **changes: object) -> SplitConfig:
    with open(f"conf/split/{strategy}.yaml") as stream:  # noqa: PTH123
        return validate(SplitConfig, {**yaml.safe_load(stream), "seed": 4, **changes}, path="split")


def table(seed: int = 0, *, fields: int = 8, epochs: int = 6, each: int = 8, tangle: float = 0.02) -> pd.DataFrame:
    """Random triplets of three surveys: fields of a detector with their own reference, and now and then something shared."""
    rng = np.random.default_rng(seed)
    rows = []
    for survey in ("a", "b", "c"):
        for field in range(fields):
            for epoch in range(epochs):
                exposure = f"{survey}{field}e{epoch}"
                for number in range(each):
                    place = int(rng.integers(20))
                    rows.append(
                        {
                            "candidate_id": f"{exposure}:{number}",
                            "pair_id": exposure,
                            "exposure_id": exposure,
                            "reference_id": f"{survey}{field}r",
                            "survey": survey,
                            "instrument": f"i{field % 2}",
                            "detector": f"d{field % 3}",
                            "field_id": f"{survey}{field}",
                            "mjd": 60000.0 + 30 * epoch + field,
                            "event_id": f"{survey}{field}ev{place}",
                            "cell_id": f"{survey}{field}c{place // 4}",
                            "stamp_digest": f"{exposure}:{number}",
                            "content_key": f"c1-{exposure}:{number} c1-{exposure}:{number}b",
                            "label": int(rng.choice([1, 0, -1], p=[0.3, 0.6, 0.1])),
                        }
                    )
    out = pd.DataFrame(rows)
    for column in ("cell_id", "event_id", "stamp_digest", "reference_id", "content_key"):
        swap = rng.random(len(out)) < tangle / each
        out.loc[swap, column] = rng.choice(out[column], swap.sum())
    return out.assign(x=1.0, y=1.0, sign=1, snr=9.0)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("seed", range(3))
def test_no_strategy_ever_leaks(strategy: str, seed: int) -> None:
    rows = table(seed, fields=12, tangle=(0.008, 0.016, 0.02)[seed % 3])
    cfg = config(strategy, seed=seed, held_out_column=("detector", "instrument")[seed % 2])
    splits = split_rows(rows, cfg)
    report = audit(rows, splits)
    report.raise_if_leaking()
    assert set(report.leaks.values()) == {0}
    for part in ("train", "validation", "test"):
        assert report.counts[part]["real"] > 0
        assert report.counts[part]["bogus"] > 0
        assert report.counts[part]["unlabelled"] == 0
    joined = rows.merge(splits, on="candidate_id")
    for key, columns in KEYS.items():  # said again without the audit's own code
        long = pd.concat([joined[[column, "part"]].set_axis(["value", "part"], axis=1) for column in columns])
        long = long.assign(value=long["value"].str.split(" ")).explode("value")
        long = long[long["part"] != "unused"]
        assert long.groupby("value")["part"].nunique().max() == 1, key
    assert sum(unused_counts(rows, splits).values()) == (splits["part"] == "unused").sum()
    assert unused_counts(rows, splits)["unlabelled"] == (rows["label"] == -1).sum()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_split_depends_on_seed_and_rows_but_not_on_their_order(strategy: str) -> None:
    rows = table(1)
    first = split_rows(rows, config(strategy))
    pd.testing.assert_frame_equal(first, split_rows(rows, config(strategy)))
    shuffled = rows.sample(frac=1, random_state=2)
    again = split_rows(shuffled, config(strategy))
    assert list(again["candidate_id"]) == list(shuffled["candidate_id"])
    assert first.set_index("candidate_id")["part"].to_dict() == again.set_index("candidate_id")["part"].to_dict()
    assert not split_rows(rows, config(strategy, seed=5)).equals(first)


def parts(rows: pd.DataFrame, cfg: SplitConfig) -> pd.DataFrame:
    return rows.merge(split_rows(rows, cfg)[["candidate_id", "part"]], on="candidate_id")


def test_temporal_trains_on_the_past_and_tests_on_the_future() -> None:
    got = parts(table(tangle=0), config("temporal"))
    training = got[got["part"].isin(("train", "validation"))]
    assert training["mjd"].max() < got[got["part"] == "test"]["mjd"].min()
    cut = parts(table(tangle=0), config("temporal", cut_mjd=60061.0))
    assert cut[cut["part"] == "test"]["mjd"].min() > 60061.0
    assert cut[cut["part"] == "train"]["mjd"].max() <= 60061.0


def test_temporal_shares_the_straddling_fields_as_asked() -> None:
    got = parts(table(fields=20, tangle=0), config("temporal", straddling_to_test=0.25))
    fields = got[got["part"] == "test"]["field_id"].nunique()
    assert 0.15 * 60 <= fields <= 0.35 * 60


def test_cross_instrument_holds_out_the_last_detector_of_each_survey() -> None:
    got = parts(table(tangle=0), config("cross_instrument"))
    # field % 2 and field % 3 belong together here, so the last is (i1, d2) of each survey
    test = got[got["part"] == "test"]
    assert set(zip(test["survey"], test["instrument"], test["detector"], strict=True)) == {(survey, "i1", "d2") for survey in "abc"}
    rest = got[got["part"].isin(("train", "validation"))]
    assert not ((rest["instrument"] == "i1") & (rest["detector"] == "d2")).any()


def test_cross_instrument_holds_out_by_name() -> None:
    got = parts(table(tangle=0), config("cross_instrument", held_out=["i0"], held_out_column="instrument"))
    assert set(got[got["part"] == "test"]["instrument"]) == {"i0"}
    assert set(got[got["part"].isin(("train", "validation"))]["instrument"]) == {"i1"}


def test_cross_survey_holds_out_a_survey() -> None:
    got = parts(table(tangle=0), config("cross_survey"))
    assert set(got[got["part"] == "test"]["survey"]) == {"c"}
    named = parts(table(tangle=0), config("cross_survey", held_out=["a"]))
    assert set(named[named["part"] == "test"]["survey"]) == {"a"}


@pytest.mark.parametrize("fraction", [0.2, 0.5])
def test_random_grouped_meets_its_fractions(fraction: float) -> None:
    got = parts(table(fields=20, tangle=0), config("random_grouped", test_fraction=fraction, validation_fraction=0.25))
    labelled = got[got["label"] >= 0]
    assert (labelled["part"] == "test").mean() == pytest.approx(fraction, abs=0.05)
    assert (labelled["part"] == "validation").mean() == pytest.approx(0.25 * (1 - fraction), abs=0.05)
    assert (labelled["part"] == "unused").sum() == 0


def test_rare_reals_reach_every_part() -> None:
    rows = table(3, fields=4, tangle=0)
    rows["label"] = 0
    for field in ("a0", "b1", "c2"):
        rows.loc[rows["field_id"] == field, "label"] = np.where(np.arange((rows["field_id"] == field).sum()) % 3 == 0, 1, 0)
    for seed in range(4):
        report = audit(rows, split_rows(rows, config("random_grouped", seed=seed)))
        assert all(report.counts[part]["real"] > 0 for part in ("train", "validation", "test"))


def test_training_only_holds_nothing_out_and_needs_no_second_class() -> None:
    rows = table()
    splits = split_rows(rows, config("training_only")).set_index("candidate_id")
    assert (splits.loc[rows["candidate_id"][rows["label"] >= 0], "part"] == "train").all()
    assert (splits.loc[rows["candidate_id"][rows["label"] < 0], "part"] == "unused").all()
    reals = split_rows(rows[rows["label"] == 1].reset_index(drop=True), config("training_only"))
    assert (reals["part"] == "train").all()


def test_groups_join_everything_that_is_shared() -> None:
    rows = pd.DataFrame(
        {
            "candidate_id": list("fedcba"),
            "event_id": ["1", "1", "2", "3", "4", "5"],
            "cell_id": ["p", "q", "r", "r", "s", "t"],
            "exposure_id": ["u", "v", "w", "x", "y", "z"],
            "reference_id": ["k", "l", "m", "n", "x", ""],
            "stamp_digest": ["", "", "", "", "", ""],
        }
    )
    assert list(group_ids(rows)) == ["e", "e", "b", "b", "b", "a"]
    rows["stamp_digest"] = ["h", "", "", "", "", "h"]
    assert list(group_ids(rows)) == ["a", "a", "b", "b", "b", "a"]
    assert len(shared_values(rows, "exposure")) == 11
    rows["content_key"] = ["", "c1-1 c1-2", "c1-3", "", "", "c1-2 c1-9"]
    assert list(group_ids(rows)) == ["a", "a", "b", "b", "b", "a"]
    near = pd.DataFrame({"first": ["a", "a"], "second": ["c", "not here"]})
    assert set(group_ids(rows, near)) == {"a"}


def test_groups_and_leaks_are_the_same_of_categories_and_of_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = table(tangle=0)
    words = ["survey", "instrument", "detector", "exposure_id", "reference_id", "cell_id"]
    expected = split_rows(rows, config("random_grouped"))
    leaking = expected.assign(part=np.where(np.arange(len(rows)) % 2, "train", "test"))
    report = audit(rows, leaking)
    monkeypatch.setattr(leakage, "_CHUNK", 7)
    few = rows.astype(dict.fromkeys(words, "category"))
    pd.testing.assert_frame_equal(split_rows(few, config("random_grouped")), expected)
    again = audit(few, leaking)
    assert (again.leaks, again.distinct, again.examples["event"]) == (report.leaks, report.distinct, report.examples["event"])
    assert (report.leaks["event"] > 3, len(report.examples["event"])) == (True, 3)


def test_an_exposure_with_injected_sources_is_the_exposure_it_was_made_from() -> None:
    rows = pd.DataFrame({"candidate_id": ["a", "b", "c"], "exposure_id": ["e", "e-inj0", "f-inj1"], "reference_id": ["", "r-inj0-e", "r"]})
    rows = rows.assign(event_id=["1", "2", "3"], cell_id=["1", "2", "3"])
    assert sorted(shared_values(rows, "exposure")) == ["e", "e", "f", "r", "r"]
    assert list(group_ids(rows)) == ["a", "a", "a"]


def test_splits_and_audit_need_a_few_columns_of_the_table() -> None:
    rows = table(tangle=0)
    some = rows[[name for name in rows.columns if name in COLUMNS]]
    assert len(some.columns) < len(rows.columns)
    cfg = config("random_grouped")
    pd.testing.assert_frame_equal(split_rows(some, cfg), split_rows(rows, cfg))
    assert audit(some, split_rows(some, cfg)) == audit(rows, split_rows(rows, cfg))


def test_near_copies_go_together_and_are_refused_apart() -> None:
    rows = table(tangle=0)
    cfg = config("random_grouped")
    splits = split_rows(rows, cfg).set_index("candidate_id")["part"]
    train, test = (splits.index[splits == name][0] for name in ("train", "test"))
    near = pd.DataFrame({"first": [train], "second": [test]})
    report = audit(rows, split_rows(rows, cfg), near)
    assert (report.leaks["near"], report.distinct["near"]) == (1, 1)
    with pytest.raises(LeakageError, match=f"1 of 1 near values \\({train} in train and {test} in test\\)"):
        report.raise_if_leaking()
    together = audit(rows, split_rows(rows, cfg, near), near)
    together.raise_if_leaking()
    assert together.leaks["near"] == 0
    with pytest.raises(DataSetError, match="1 near copies name triplets that are not in the table"):
        audit(rows, split_rows(rows, cfg), near.assign(first="nobody"))


def test_rows_that_share_nothing_are_groups_of_their_own() -> None:
    rows = table(tangle=0)
    for key in ("event_id", "cell_id", "exposure_id", "reference_id", "stamp_digest", "content_key"):
        rows[key] = rows["candidate_id"]
    splits = split_rows(rows, config("random_grouped"))
    assert splits["group_id"].nunique() - 1 == (rows["label"] >= 0).sum()
    report = audit(rows, splits)
    report.raise_if_leaking()
    assert report.distinct["stamp"] == (splits["part"] != "unused").sum()


def test_impossible_splits_are_refused_with_counts() -> None:
    one = table(tangle=0, fields=1)
    one = one[one["survey"] == "a"]
    with pytest.raises(DataSetError, match=r"the random_grouped split of \d+ labelled triplets in 1 groups leaves validation"):
        split_rows(one, config("random_grouped"))
    only_real = table().assign(label=1)
    with pytest.raises(DataSetError, match=r"leaves train without both classes \(train \d+ real and 0 bogus"):
        split_rows(only_real, config("temporal"))
    with pytest.raises(DataSetError, match="of 0 labelled triplets in 0 groups"):
        split_rows(table().assign(label=-1), config("temporal"))
    with pytest.raises(DataSetError, match="the triplets come from 1 survey"):
        split_rows(one, config("cross_survey"))
    with pytest.raises(DataSetError, match="no survey has two detectors with labels"):
        split_rows(one, config("cross_instrument"))
    with pytest.raises(DataSetError, match="names the survey 'jwst'; the labelled triplets have a, b, c"):
        split_rows(table(), config("cross_survey", held_out=["jwst"]))
    with pytest.raises(DataSetError, match="names the detector 'd9'"):
        split_rows(table(), config("cross_instrument", held_out=["d0", "d9"]))
    with pytest.raises(ConfigError, match=r"split.test_fraction = 1.0 is not allowed"):
        config("temporal", test_fraction=1.0)


@pytest.mark.parametrize(
    ("key", "column"),
    [
        ("event", "event_id"),
        ("cell", "cell_id"),
        ("exposure", "exposure_id"),
        ("exposure", "reference_id"),
        ("stamp", "stamp_digest"),
        ("copy", "content_key"),
    ],
)
@pytest.mark.parametrize("part", ["validation", "test"])
def test_each_planted_leak_is_refused(key: str, column: str, part: str) -> None:
    rows = table(tangle=0)
    splits = split_rows(rows, config("random_grouped"))
    train, other = (rows.index[splits["part"] == name][0] for name in ("train", part))
    rows.loc[other, column] = rows.loc[train, column].split()[0]
    report = audit(rows, splits)
    assert report.leaks == {name: int(name == key) for name in KEYS}
    assert report.to_dict()["leaks"][key] == 1
    with pytest.raises(LeakageError, match=rf"the split leaks: 1 of \d+ {key} values \({rows.loc[train, column].split()[0]} in .*train"):
        report.raise_if_leaking()


def test_a_reference_that_is_a_science_exposure_elsewhere_is_a_leak() -> None:
    rows = table(tangle=0)
    splits = split_rows(rows, config("random_grouped"))
    train, other = (rows.index[splits["part"] == name][0] for name in ("train", "test"))
    rows.loc[other, "reference_id"] = rows.loc[train, "exposure_id"]
    with pytest.raises(LeakageError, match=r"1 of .* exposure values"):
        audit(rows, splits).raise_if_leaking()


def test_what_is_unused_cannot_leak() -> None:
    rows = table(tangle=0)
    splits = split_rows(rows, config("random_grouped"))
    idle, other = (rows.index[splits["part"] == name][0] for name in ("unused", "test"))
    rows.loc[other, "cell_id"] = rows.loc[idle, "cell_id"] = "new"
    audit(rows, splits).raise_if_leaking()


def test_audit_refuses_tables_that_do_not_match() -> None:
    rows = table(tangle=0)
    splits = split_rows(rows, config("random_grouped"))
    with pytest.raises(DataSetError, match="the splits lack 5 triplets and name 0"):
        audit(rows, splits.iloc[5:])
    with pytest.raises(DataSetError, match="the splits lack 0 triplets and name 3"):
        audit(rows.iloc[3:], splits)
    with pytest.raises(DataSetError, match="1 candidate_ids stand on more than one row of the splits"):
        audit(rows, pd.concat([splits, splits.iloc[:1]]))
    with pytest.raises(DataSetError, match="more than one row of the triplet table"):
        audit(pd.concat([rows, rows.iloc[:1]]), splits)
    with pytest.raises(DataSetError, match="'dev' is no part of a split"):
        audit(rows, splits.replace({"part": {"test": "dev"}}))

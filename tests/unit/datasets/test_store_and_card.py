"""Building the store, choosing its rows, and the card."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from astrid.core.errors import DataSetError
from astrid.datasets import card, store
from astrid.io.tables import CANDIDATES, conform


def candidates(count: int = 12) -> pd.DataFrame:
    number = np.arange(count)
    frame = pd.DataFrame(
        {"candidate_id": [f"c{n:02d}" for n in number], "pair_id": np.where(number % 2, "a", "b"), "snr": 4.0 + number * 5}
    )
    frame = frame.assign(x=1.0, y=1.0, sign=1, survey="wide", instrument="cam", detector="d1", filter="g", mjd=60000.0 + 200 * number)
    frame = frame.assign(exposure_id=frame["pair_id"], scorable=number != 3, reason=np.where(number == 3, "the stamp leaves the image", ""))
    return conform(frame, CANDIDATES, source="test")


def columns(frame: pd.DataFrame) -> pd.DataFrame:
    label = np.array([1, 0, 0, 0, -1, 0] * 2)[: len(frame)]
    kind = np.where(label == 1, "SN Ia", np.where(label == 0, "noise", ""))
    out = pd.DataFrame(
        {"candidate_id": frame["candidate_id"], "label": label, "label_source": np.where(label >= 0, "truth", ""), "kind": kind}
    )
    return out.assign(event_id=frame["candidate_id"], cell_id="c", true_snr=np.nan)


def chosen(**changes: object) -> pd.DataFrame:
    frame = candidates()
    options = {"max_bogus_per_pair": 0, "keep_unlabelled": True, "seed": 1, **changes}
    return store.select(frame, columns(frame), **options)  # type: ignore[arg-type]


def test_select_leaves_out_what_cannot_be_scored_and_orders_by_pair() -> None:
    rows = chosen()
    assert len(rows) == 11
    assert "c03" not in set(rows["candidate_id"])
    assert list(rows["pair_id"]) == sorted(rows["pair_id"])
    assert list(rows[rows["pair_id"] == "a"]["candidate_id"]) == ["c01", "c05", "c07", "c09", "c11"]


def test_select_caps_bogus_by_seed_and_pair_alone() -> None:
    rows = chosen(max_bogus_per_pair=2)
    assert rows[rows["label"] == 0].groupby("pair_id").size().to_dict() == {"a": 2, "b": 2}
    pd.testing.assert_frame_equal(rows, chosen(max_bogus_per_pair=2))
    drawn = {tuple(chosen(max_bogus_per_pair=2, seed=seed)["candidate_id"]) for seed in range(6)}
    assert len(drawn) > 1
    frame = candidates()
    frame = frame[frame["pair_id"] == "a"].reset_index(drop=True)
    alone = store.select(
        frame,
        columns(candidates())[lambda c: c["candidate_id"].isin(frame["candidate_id"])],
        max_bogus_per_pair=2,
        keep_unlabelled=True,
        seed=1,
    )
    assert list(alone["candidate_id"]) == list(rows[rows["pair_id"] == "a"]["candidate_id"])


def test_what_stayed_out_is_counted() -> None:
    frame = candidates()
    rows = chosen(max_bogus_per_pair=2, keep_unlabelled=False)
    counts = store.selection_counts(frame, columns(frame), rows)
    assert counts == {
        "candidates": 12,
        "triplets": 6,
        "unscorable": 1,
        "unscorable_reasons": {"the stamp leaves the image": 1},
        "bogus_over_cap": 3,
        "unlabelled_left_out": 2,
    }


def test_select_refuses_labels_of_other_candidates() -> None:
    frame = candidates()
    with pytest.raises(DataSetError, match="12 candidates and 12 labels differ or differ in order"):
        store.select(frame, columns(frame)[::-1], max_bogus_per_pair=0, keep_unlabelled=True, seed=1)


def test_build_writes_batches_and_finds_duplicates_by_digest(tmp_path: Path) -> None:
    rows = chosen()
    stamps = np.random.default_rng(0).normal(size=(11, 3, 63, 63)).astype(np.float32)
    stamps[7] = stamps[2]
    stamps[9] = np.rot90(stamps[1], 1, axes=(1, 2))
    parts = [(stamps[:5], rows.iloc[:5]), (stamps[5:], rows.iloc[5:])]
    written = store.build(tmp_path / "s", parts, rows_per_shard=4)
    np.testing.assert_array_equal(written.stamps(np.arange(11)), stamps)
    digests = written.table["stamp_digest"]
    assert digests.nunique() == 10
    assert digests[7] == digests[2]
    keys = written.table["content_key"]
    assert (keys[7], keys[9]) == (keys[2], keys[1])
    assert keys.nunique() == written.table["near_key"].nunique() == 9


def test_resume_goes_on_after_the_whole_shards_that_were_left(tmp_path: Path) -> None:
    rows = chosen()
    stamps = np.random.default_rng(0).normal(size=(11, 3, 63, 63)).astype(np.float32)
    asked = []

    def parts(first: int, fail: int) -> Iterator[store.Batch]:
        asked.append(first)
        for number in range(first, 11):
            if number == fail:
                raise DataSetError("row 9 is broken")
            yield stamps[number : number + 1], rows.iloc[number : number + 1]

    whole = store.resume(tmp_path / "whole", lambda first: parts(first, -1), rows_per_shard=4, key="k")
    with pytest.raises(DataSetError, match="row 9 is broken"):
        store.resume(tmp_path / "s", lambda first: parts(first, 9), rows_per_shard=4, key="k")
    assert store.resume(tmp_path / "s", lambda first: parts(first, -1), rows_per_shard=4, key="k").digest == whole.digest
    assert asked == [0, 0, 8]


def test_rows_are_digested_in_their_order_with_their_tags() -> None:
    rows = chosen()
    assert store.digest_rows(rows) == store.digest_rows(rows.copy())
    tagged = rows.assign(tags=[["edge"], *rows["tags"][1:]])
    assert len({store.digest_rows(other) for other in (rows, rows[::-1], tagged, rows.assign(x=2.0), rows.drop(columns="y"))}) == 5


def test_the_card_counts_everything_and_says_what_it_is_not() -> None:
    rows = chosen().assign(stamp_digest="")
    splits = pd.DataFrame({"candidate_id": rows["candidate_id"], "part": np.where(rows["label"] >= 0, "train", "unused"), "group_id": "g"})
    content = card.card(rows, digest="abc", simulated=True, splits=splits)
    assert content["labels"] == {"real": 2, "bogus": 7, "unlabelled": 2}
    assert content["by"]["kind"]["noise"] == {"real": 0, "bogus": 7, "unlabelled": 0}
    assert content["by"]["detector"] == {"wide/cam/d1": content["labels"]}
    assert content["by"]["part"]["unused"]["unlabelled"] == 2
    assert sum(sum(row.values()) for row in content["by"]["snr"].values()) == 11
    assert content["by"]["snr"]["0: 0 to 5"]["real"] == 1
    assert content["by"]["snr"]["5: 50 and more"]["unlabelled"] == 1
    assert content["by"]["change"] == {"brightened": content["labels"]}
    assert content["by"]["host offset"] == {"no host": content["labels"]}
    offsets = card.card(rows.assign(host_dlr=np.linspace(0.1, 5.5, 11), sign=-1), digest="abc", simulated=True)
    assert list(offsets["by"]["host offset"]) == ["0: 0 to 0.5", "1: 0.5 to 1", "2: 1 to 2", "3: 2 to 5", "4: 5 and more"]
    assert any(note.startswith("100.0% of the real ones have faded") for note in offsets["notes"])
    assert list(content["by"]["season"]) == [f"year {number}" for number in range(1, 8)]
    assert content["notes"][0].startswith("Simulated")
    assert "22.2% of the labelled" in content["notes"][1]
    text = card.to_markdown(content)
    assert "| noise | 0 | 7 | 0 |" in text
    assert "| - | 0 | 0 | 2 |" in text
    assert not card.card(rows, digest="abc", simulated=False)["notes"][0].startswith("Simulated")

"""The page of a data set: every kind has a gallery, every count its place, and nothing is drawn before it is wanted."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from astrid.datasets import card
from astrid.datasets.precedence import CONFLICTS
from astrid.datasets.suspects import find_suspects
from astrid.evaluation.datapage import DataSet, data_context, plates, spread
from astrid.evaluation.report import render_data
from astrid.evaluation.style import png_bytes
from astrid.io.tables import TRIPLETS, conform

AUDIT = {"leaks": {"event": 0, "cell": 0}, "distinct": {"event": 12, "cell": 7}}
TAGS = {
    "cosmic_ray": {"candidates": 8, "tags": {"cosmic_ray": 6, "edge": 1}, "untagged": 1, "expected": ["cosmic_ray"], "recovered": 6},
    "fringe": {"candidates": 4, "tags": {}, "untagged": 4, "expected": [], "recovered": None},
}


def table(count: int = 60) -> pd.DataFrame:
    number = np.arange(count)
    label = np.array([1, 0, 0, -1])[number % 4]
    kind = np.where(label == 1, np.where(number % 8 == 0, "SN Ia", "moving"), np.where(label == 0, "cosmic_ray", ""))
    frame = pd.DataFrame({"candidate_id": [f"p{n % 5}:{n}" for n in number], "pair_id": "p", "label": label, "kind": kind})
    frame = frame.assign(exposure_id=[f"e{n % 5}" for n in number], event_id=[f"o{n // 2}" for n in number], cell_id="c", x=9.0, y=9.0)
    frame = frame.assign(
        survey="wide", instrument="cam", detector="d1", filter="g", mjd=60000.0 + number, snr=5.0 + number, label_source="truth"
    )
    frame = frame.assign(sign=np.where(number % 3, 1, -1), host_dlr=np.where(number % 2, np.nan, 0.1 + number))
    return conform(frame, TRIPLETS, source="test")


def dataset(**changes: object) -> DataSet:
    rows = table()
    content = card.card(rows, digest="d" * 64, simulated=True, splits=pd.DataFrame({"candidate_id": rows["candidate_id"], "part": "train"}))
    labelled = rows[rows["label"] >= 0]
    score = np.where(labelled["label"] == 1, 0.9, 0.1)
    score[:2] = 1 - score[:2]
    values: dict[str, object] = {
        "table": rows,
        "parts": pd.Series("train", index=rows.index),
        "card": {**content, "tags": TAGS},
        "conflicts": conform(
            pd.DataFrame(
                [{"candidate_id": "p0:0", "label": 0, "source": "human", "annotator": "<eve>", "over_label": 1, "over_source": "truth"}]
            ),
            CONFLICTS,
            source="test",
        ),
        "doubt": find_suspects(labelled["candidate_id"], labelled["label"], score),
        "audit": AUDIT,
        "strategy": "random_grouped",
        "rows": lambda indices: rows.iloc[indices],
        "stamps": lambda indices: np.random.default_rng(0).normal(size=(len(indices), 3, 63, 63)).astype(np.float32),
    }
    return DataSet(**{**values, **changes})  # type: ignore[arg-type]


def test_every_picture_is_drawn_and_every_kind_has_its_gallery() -> None:
    found = plates(dataset())
    names = [plate.name for plate in found]
    assert len(set(names)) == len(names)
    assert {"real_sn_ia", "real_moving", "bogus_cosmic_ray", "tags", "suspects_real", "suspects_bogus"} <= set(names)
    for plate in found:
        content = png_bytes(plate.draw())
        assert content.startswith(b"\x89PNG")
    assert png_bytes(found[-1].draw()) == content


def test_the_page_says_what_was_counted() -> None:
    data = dataset()
    page = render_data(data_context(data, plates(data)))
    assert "60 triplets of science, reference and difference from 1 survey: 2 real kinds and 1 bogus kind" in page
    assert re.search(r"<td>cosmic ray</td><td>8</td><td>cosmic ray</td><td>6</td><td>75%</td>", page)
    assert re.search(r"<td>fringe</td><td>4</td><td>no tag of its own</td><td>–</td>", page)
    assert "12 event values, 7 cell values; 0 stand in more than one part" in page
    assert "human, &lt;eve&gt;" in page
    assert 'src="figures/bogus_cosmic_ray.png"' in page
    assert page.count("<img") == len(plates(data))
    for title in ("By S/N", "By host offset, light radii", "By part of the split", "By source of the label", "Labels in doubt"):
        assert title in page
    assert page == render_data(data_context(data, plates(data)))


def test_without_truth_conflicts_and_doubt_the_page_stays_whole() -> None:
    bare = dataset(card={**dataset().card, "tags": {}, "simulated": False}, conflicts=CONFLICTS.empty(), doubt=None)
    page = render_data(data_context(bare, plates(bare)))
    assert "Tags against truth" not in page
    assert "Labels in doubt" not in page
    assert "No two sources contradict each other" in page
    assert "simulated data" not in page


@pytest.mark.parametrize("rows", [0, 1])
def test_a_store_with_little_in_it_still_has_a_page(rows: int) -> None:
    few = table().iloc[:rows].reset_index(drop=True)
    content = card.card(few, digest="d", simulated=False)
    data = dataset(table=few, parts=pd.Series("unused", index=few.index), card=content, doubt=None)
    for plate in plates(data):
        png_bytes(plate.draw())
    assert "The data set" in render_data(data_context(data, plates(data)))


def test_a_gallery_spans_the_brightness_and_shows_different_events() -> None:
    rows = table()
    chosen = spread(rows, 6)
    assert len(chosen) == 6
    assert chosen["event_id"].nunique() == 6
    assert list(chosen["snr"]) == sorted(chosen["snr"])
    assert np.ptp(chosen["snr"]) > 0.8 * np.ptp(rows["snr"])
    assert len(spread(rows.iloc[:3], 6)) == 3
    one_event = rows.assign(event_id="o")
    assert len(spread(one_event, 6)) == 6

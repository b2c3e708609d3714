from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from astrid.evaluation.acquirepage import Acquisition, acquire_context, acquire_summary, yield_figure, yields
from astrid.evaluation.report import render_acquire
from astrid.evaluation.style import png_bytes
from astrid.io.archive_tables import OUTCOMES
from astrid.io.tables import EXPOSURES, PAIRS, conform


def pairs(count: int = 12) -> pd.DataFrame:
    rows = [
        {
            "pair_id": f"s{n}__r", "science_id": f"s{n}", "reference_id": "r", "mjd": 55197.0 + 200 * n,
            "survey": ("swift", "hst")[n % 2], "filter": ("UVW1", "F606W")[n % 2],
            "status": "ok" if n % 6 else "refused", "reason": "" if n % 6 else f"no reference of filter 'U{n}' <b>",
        }
        for n in range(count)
    ]  # fmt: skip
    return conform(pd.DataFrame(rows), PAIRS, source="test")


def outcomes() -> pd.DataFrame:
    lines = [
        ("a", "swift", "paired", 3, ""), ("b", "swift", "found", 0, "filters differ"), ("c", "swift", "found", 0, "filters differ"),
        ("a", "hst", "asked", 0, "nothing in the archive"), ("b", "hst", "chosen", 0, "download failed"),
        ("c", "hst", "asked", 0, "no date"),
    ]  # fmt: skip
    rows = [
        {"object_id": name, "mission": mission, "stage": stage, "pairs": number, "why": why, "reason": f"why of {name}." if why else ""}
        for name, mission, stage, number, why in lines
    ]
    return conform(pd.DataFrame(rows), OUTCOMES, source="test")


def acquisition(**changes: object) -> Acquisition:
    problems = [(f"file{n}.fits", f"file{n}.fits is truncated at {n} bytes.") for n in range(4)]
    values: dict[str, object] = {
        "kind": "archive", "exposures": EXPOSURES.empty(), "pairs": pairs(), "outcomes": outcomes(), "problems": problems
    }  # fmt: skip
    return Acquisition(**{**values, **changes})  # type: ignore[arg-type]


def test_pairs_are_counted_by_mission_filter_and_year() -> None:
    table = yields(pairs())
    assert table["pairs"].sum() == 10  # two are refused
    assert table.iloc[0].to_dict() == {"mission": "hst", "filter": "F606W", "year": 2010, "pairs": 1}
    last_day = conform(pairs(2).iloc[1:].assign(mjd=57022.9999), PAIRS, source="test")
    assert yields(last_day)["year"].tolist() == [2014]
    assert yields(last_day.assign(mjd=57023.0))["year"].tolist() == [2015]


def test_the_summary_adds_up() -> None:
    summary = acquire_summary(acquisition())
    assert (summary["pairs"], summary["refused"], summary["quarantined"]) == (10, 2, 4)
    assert summary["missions"]["swift"] == {"asked": 3, "found": 3, "chosen": 1, "fetched": 1, "paired": 1}
    assert summary["missions"]["hst"] == {"asked": 3, "found": 1, "chosen": 1, "fetched": 0, "paired": 0}
    assert summary["reasons"] == {"no date": 1, "nothing in the archive": 1, "filters differ": 2, "download failed": 1}
    assert sum(summary["reasons"].values()) == (outcomes()["pairs"] == 0).sum()
    assert (summary["events"], summary["events_with_pairs"]) == (3, 1)


def test_the_page_names_every_reason_with_its_count_and_examples() -> None:
    page = render_acquire(acquire_context(acquisition()))
    assert page == render_acquire(acquire_context(acquisition()))
    assert "<b>filters differ</b></td><td>2</td><td>0</td><td>2</td>" in page
    assert "<b>b, swift</b>: why of b." in page
    assert page.count("data:image/png;base64,") == 2
    assert "<tr><td>4</td>" in page  # four files with one reason are one line
    assert "&lt;b&gt;" in page
    assert "simulated data" not in page


def test_other_sources_have_their_page_too() -> None:
    data = acquisition(kind="simulated", outcomes=OUTCOMES.empty(), problems=[])
    page = render_acquire(acquire_context(data))
    assert "simulated data" in page
    assert page.count("data:image/png;base64,") == 1
    assert "events" not in acquire_summary(data)
    alerts = acquisition(kind="alerts", outcomes=OUTCOMES.empty(), pairs=PAIRS.empty(), problems=[("a", "it is broken.")], alerts=744)
    page = render_acquire(acquire_context(alerts))
    assert "744 usable alerts, which bring their stamps; 1 set aside" in page
    assert acquire_summary(alerts)["alerts"] == 744
    assert "Pairs" not in page
    assert "data:image" not in page


def test_many_filters_and_years_fit() -> None:
    table = pd.DataFrame([{"mission": f"m{n % 6}", "filter": f"F{n}", "year": 1960 + n, "pairs": n + 1} for n in range(60)])
    assert png_bytes(yield_figure(table)).startswith(b"\x89PNG")


@pytest.mark.parametrize("most", [1, 2, 3, 1000])
def test_the_numbers_of_the_yield_picture_stand_out_from_their_shade(most: int) -> None:
    pairs = sorted({1, most // 3 or 1, most})
    axes = yield_figure(pd.DataFrame([{"mission": "m", "filter": "F", "year": 2000 + n, "pairs": n} for n in pairs])).axes[0]
    image = axes.images[0]
    for label in axes.texts:
        shade = _luminance(np.ravel(image.to_rgba(np.array([float(label.get_text())]))))
        ink = _luminance(to_rgb(label.get_color()))
        assert (max(shade, ink) + 0.05) / (min(shade, ink) + 0.05) > 3.0, label.get_text()


def _luminance(color: Iterable[float]) -> float:
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in islice(color, 3))
    return float(0.2126 * red + 0.7152 * green + 0.0722 * blue)

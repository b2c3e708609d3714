from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from astrid.config.compose import compose
from astrid.config.schema import SurveyConfig
from astrid.config.validate import validate
from astrid.io.archive_tables import MANIFEST
from astrid.io.tables import CATALOG, conform
from astrid.sky.choose import Choice, choose, filter_key
from astrid.sky.footprints import parse_region

ROOT = Path(__file__).resolve().parents[3]
FIELD = "CIRCLE ICRS 150.0 2.0 0.1"
DISCOVERY = 57000.0


def config(**changes: Any) -> SurveyConfig:
    values = compose(ROOT / "conf", ["survey=mast", *(f"survey.{key}={value}" for key, value in changes.items())])
    return validate(SurveyConfig, values["survey"], path="survey")


@pytest.fixture(scope="module")
def survey() -> SurveyConfig:
    return config()


@pytest.fixture
def decide(survey: SurveyConfig) -> Callable[..., Choice]:
    def decide(*rows: dict[str, Any], discovery: float = DISCOVERY, precision: float = 1.0, **changes: Any) -> Choice:
        cfg = config(**changes) if changes else survey
        assert cfg.archive is not None
        events = pd.DataFrame([{"object_id": "SN 2014X", "s_ra": 150.0, "s_dec": 2.0, "discovery_mjd": discovery}]).assign(
            discovery_precision=precision
        )
        manifest = conform(pd.DataFrame(rows), MANIFEST, source="test")
        return choose(manifest, conform(events, CATALOG, source="test"), cfg.archive.choose, cfg.pair)

    return decide


def row(obs_id: str, day: float, **changes: Any) -> dict[str, Any]:
    """A row of the manifest, `day` after the discovery."""
    values = {
        "object_id": "SN 2014X", "mission": "swift", "instrument": "uvot", "filter": "UVW1", "obs_id": obs_id, "kind": "image",
        "filename": f"{obs_id}_sk.img.gz", "uri": f"mast:SWIFT/{obs_id}", "cloud_uri": "", "size": 1000, "checksum": "", "calib_level": 2,
        "t_min": DISCOVERY + day, "t_max": DISCOVERY + day + 0.01, "exptime": 100.0, "s_ra": 150.0, "s_dec": 2.0, "s_region": FIELD,
        "rights": "PUBLIC",
    }  # fmt: skip
    return values | changes


def fate(choice: Choice) -> tuple[str, str]:
    assert choice.chosen.empty
    assert len(choice.fates) == 1
    return str(choice.fates["why"][0]), str(choice.fates["reason"][0])


def named(choice: Choice, role: str) -> list[str]:
    return sorted(choice.chosen.loc[choice.chosen["role"] == role, "obs_id"].unique())


def test_the_deepest_of_both_make_the_best_pair(decide: Callable[..., Choice]) -> None:
    rows = [row("old", -100), row("deep", -50, exptime=900.0), row("early", 1), row("long", 20, exptime=500.0), row("late", 300)]
    choice = decide(*rows)
    assert (named(choice, "reference"), named(choice, "science")) == (["deep"], ["long"])
    assert choice.fates[["observations", "chosen", "why", "reason"]].to_numpy().tolist() == [[5, 2, "", ""]]


def test_all_pairs_and_several_references(decide: Callable[..., Choice]) -> None:
    rows = [
        row("r1", -100),
        row("r2", -50, exptime=900.0),
        row("r3", -40, exptime=5.0),
        *(row(f"s{n}", n, exptime=100.0 + n) for n in range(5)),
    ]
    choice = decide(*rows, **{"archive.choose.take": "all", "archive.choose.max_science": 3, "archive.choose.references": 3})
    assert named(choice, "reference") == ["r1", "r2"]  # the third lasts less than min_exptime
    assert named(choice, "science") == ["s2", "s3", "s4"]


def test_the_latest_reference_where_the_rule_says_so(decide: Callable[..., Choice]) -> None:
    rows = [row("deep", -100, exptime=900.0), row("near", -10), row("s", 3)]
    assert named(decide(*rows), "reference") == ["deep"]
    assert named(decide(*rows, **{"pair.prefer": "latest"}), "reference") == ["near"]


def test_companions_come_with_their_image(decide: Callable[..., Choice]) -> None:
    rows = [row("r", -20), row("s", 5)]
    rows += [row(name, 5, kind="companion", filename=f"{name}_ex.img.gz") for name in ("r", "s", "other")]
    rows += [row("s", 5, kind="companion", filename="s_other_filter_ex.img.gz", filter="UVM2")]
    choice = decide(*rows)
    assert sorted(choice.chosen["filename"]) == ["r_ex.img.gz", "r_sk.img.gz", "s_ex.img.gz", "s_sk.img.gz"]
    assert choice.chosen.groupby("obs_id")["role"].unique().map(list).to_dict() == {"r": ["reference"], "s": ["science"]}


def test_one_file_an_observation_of_the_highest_level(decide: Callable[..., Choice]) -> None:
    rows = [row("r", -20), row("r", -20, filename="combined.fits", calib_level=3), row("s", 5)]
    assert sorted(decide(*rows).chosen["filename"]) == ["combined.fits", "s_sk.img.gz"]


def test_filters_and_instruments_are_never_mixed(decide: Callable[..., Choice]) -> None:
    rows = [row("r", -20), row("s", 5, filter="UVM2"), row("s2", 6, instrument="xrt")]
    why, reason = fate(decide(*rows))
    assert why == "filters differ"
    assert "references of SN 2014X in UVW1 and science images in UVM2, UVW1" in reason
    both = decide(row("r", -20, filter="clear1l;F814W"), row("s", 5, filter="F814W"))
    assert len(both.chosen) == 2


def test_missions_are_never_mixed(decide: Callable[..., Choice]) -> None:
    choice = decide(row("r", -20), row("s", 5, mission="galex"))
    assert choice.chosen.empty
    assert choice.fates.set_index("mission")["why"].to_dict() == {"swift": "no science in the window", "galex": "no reference before"}


@pytest.mark.parametrize(
    ("rows", "why", "sentence"),
    [
        ([row("s", 5)], "no reference before", "ended 5 d before the discovery; the first of 1 began 5.0 d after it"),
        ([row("r", -4.0), row("s", 5)], "no reference before", "the first of 2 began 4.0 d before it"),
        ([row("r", -20)], "no science in the window", "1 references in swift UVW1, but no observation -2 to 60 d"),
        ([row("r", -20), row("s", 61)], "no science in the window", r"nearest began at +61.0 d"),
        ([row("r", -20, exptime=5), row("s", 5, exptime=9)], "too short", "none of 2 observations in swift UVW1 lasts 10 s; the longest"),
        ([row("r", -20, s_region="CIRCLE 150.15 2 0.1"), row("s", 5, s_region="CIRCLE 149.9 2 0.1")], "no overlap", "at best 0%"),
        ([row("r", -20, s_ra=151.0), row("s", 5)], "no overlap", "centres 3598 arcsec apart"),
        ([row("r", -20), row("s", 5, s_region="CIRCLE 150.09 2 0.088")], "not inside", "5 arcsec inside the science images"),
        ([row("r", -20, s_region="CIRCLE 150.05 2 0.048"), row("s", 5)], "not inside", "5 arcsec inside the references"),
        ([row("r", -20, rights="EXCLUSIVE_ACCESS"), row("s", 5)], "not public", r"is not public (EXCLUSIVE_ACCESS)"),
        ([row("r", -20, kind="companion")], "nothing in the archive", "the archive names no image of swift at SN 2014X"),
    ],
)  # fmt: skip
def test_every_event_without_a_pair_has_its_reason(
    decide: Callable[..., Choice], rows: list[dict[str, Any]], why: str, sentence: str
) -> None:
    found, reason = fate(decide(*rows))
    assert found == why
    assert sentence in reason
    assert reason.endswith(".")


def test_no_date_no_pair(decide: Callable[..., Choice]) -> None:
    assert fate(decide(row("r", -20), row("s", 5), discovery=float("nan")))[0] == "no date"


def test_of_several_filters_the_furthest_fate_is_named(decide: Callable[..., Choice]) -> None:
    rows = [row("a", 5, filter="UVM2"), row("r", -20, rights="PROPRIETARY"), row("s", 5), row("b", -20, filter="U")]
    assert fate(decide(*rows))[0] == "not public"


def test_an_unknown_footprint_counts_by_its_centre(decide: Callable[..., Choice]) -> None:
    near = {"s_region": "", "s_ra": 150.0 + 50 / 3600}
    assert len(decide(row("r", -20, **near), row("s", 5)).chosen) == 2
    assert fate(decide(row("r", -20, s_region="", s_ra=150.0 + 70 / 3600), row("s", 5)))[0] == "not inside"


def test_a_manifest_in_parts_gives_the_same_and_keeps_no_footprint(survey: SurveyConfig) -> None:
    assert survey.archive is not None
    rows = [
        row(f"{role}{event}", day, object_id=f"SN {event}", s_region=f"CIRCLE ICRS 150.0 {2.0 + event / 1000} 0.1")
        for event in range(6)
        for role, day in (("s", 5), ("r", -20))
    ]
    manifest = conform(pd.DataFrame(rows), MANIFEST, source="test")
    events = pd.DataFrame([{"object_id": f"SN {event}", "s_ra": 150.0, "s_dec": 2.0, "discovery_mjd": DISCOVERY} for event in range(5)])
    catalog = conform(events, CATALOG, source="test")
    whole = choose(manifest, catalog, survey.archive.choose, survey.pair)
    parts = [manifest[manifest["object_id"].isin(names)] for names in (["SN 0"], ["SN 1", "SN 2", "SN 3"], ["SN 5"], ["SN 4"])]
    apart = choose(iter(parts), catalog, survey.archive.choose, survey.pair)
    assert len(whole.chosen) == 10
    pd.testing.assert_frame_equal(apart.chosen, whole.chosen)
    pd.testing.assert_frame_equal(apart.fates.sort_values("object_id", ignore_index=True), whole.fates)
    assert parse_region.cache_info().currsize == 0
    nothing = choose(iter([]), catalog, survey.archive.choose, survey.pair)
    assert list(nothing.chosen.columns) == list(whole.chosen.columns)
    assert nothing.fates.empty


def test_the_order_of_the_rows_does_not_matter(decide: Callable[..., Choice]) -> None:
    rows = [row(f"r{n}", -20 - n) for n in range(4)] + [row(f"s{n}", 5 + n) for n in range(4)]
    pd.testing.assert_frame_equal(decide(*rows).chosen, decide(*rows[::-1]).chosen)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("CLEAR1L;F814W", "F814W"),
        ("F606W;CLEAR2L", "CLEAR1S;F606W"),  # Hubble's two wheels, in either order
        ("F814W;N/A", "F814W"),
        ("F555W-F606W", "F606W;F555W"),
        ("F150W2;F162M", "F162M,F150W2"),  # Webb's filter and pupil
        ("CLEAR;F150W", "F150W"),
        ("CLEAR1L;CLEAR2L", "CLEAR_NIC1"),
        ("g", "g.00000"),
        ("UVW1", "uvw1"),
        ("CLEAR", "clear"),
    ],
)
def test_a_filter_has_one_spelling(one: str, other: str) -> None:
    assert filter_key(one) == filter_key(other) != filter_key("other")


def test_a_date_that_names_a_month_delays_the_window(decide: Callable[..., Choice]) -> None:
    """Nothing is science that may have been taken before the discovery, nor a reference that may have been taken after it."""
    rows = [row("r", -20), row("between", 10), row("after", 40)]
    assert named(decide(*rows, precision=31.0), "science") == ["after"]
    why, reason = fate(decide(*rows[:2], precision=31.0))
    assert why == "no science in the window"
    assert "its date is good to 31 d only" in reason

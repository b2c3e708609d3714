"""Labels: what truth, catalogue, tags and people say about a detection, and who wins."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import yaml

from astrid.config.schema.dataset import DatasetConfig
from astrid.config.validate import validate
from astrid.core.errors import DataSetError, InputError
from astrid.datasets.kinds import ARTEFACT_KINDS, PHOTOMETRIC
from astrid.datasets.labels import label_candidates, winners
from astrid.io.tables import CATALOG, LABELS, TRUTH

SCALE = 0.5  # arcsec/px
PAIRS = pd.DataFrame(
    {
        "pair_id": ["s__r", "t__r"],
        "science_id": ["s", "t"],
        "reference_id": "r",
        "status": "ok",
        "mjd": [60010.0, 60020.0],
        "reference_mjd": 59000.0,
    }
)


def config(**changes: object) -> DatasetConfig:
    with open("conf/dataset/default.yaml") as stream:  # noqa: PTH123
        values = {**yaml.safe_load(stream), "seed": 1, **changes}
    return validate(DatasetConfig, values, path="dataset")


def sky(x: float, y: float) -> tuple[float, float]:
    return 10.0 + x * SCALE / 3600, y * SCALE / 3600  # at the equator, x along right ascension


def candidate(number: int, x: float, y: float, *, sign: int = 1, exposure: str = "s", **more: object) -> dict[str, object]:
    ra, dec = sky(x, y)
    row = {"candidate_id": f"{exposure}__r:{number}", "pair_id": f"{exposure}__r", "exposure_id": exposure, "reference_id": "r"}
    row |= {"survey": "wide", "field_id": "f1", "mjd": 60010.0 if exposure == "s" else 60020.0, "x": x, "y": y, "s_ra": ra, "s_dec": dec}
    row |= {"sign": sign, "snr": 10.0, "flux": 100.0 * sign, "flux_err": 10.0, "psf_fwhm": 4.0, "pixel_scale": SCALE, "tags": []}
    return {**row, **more}


def truth_row(name: str, kind: str, x: float, y: float, *, flux: float = 500.0, exposure: str = "s", **more: object) -> dict[str, object]:
    ra, dec = sky(x, y)
    row = {"object_id": name, "kind": kind, "exposure_id": exposure, "s_ra": ra, "s_dec": dec, "x": x, "y": y, "flux": flux}
    return {**row, "transient_type": "", "magnitude": np.nan, "simulated": True, **more}


def label(candidates, truth=(), *, catalog=None, human=None, pairs=PAIRS, **changes):  # type: ignore[no-untyped-def]
    table = pd.DataFrame(list(truth)) if len(truth) else TRUTH.empty()
    catalog = CATALOG.empty() if catalog is None else pd.DataFrame(catalog)
    human = LABELS.empty() if human is None else pd.DataFrame(human)
    return label_candidates(pd.DataFrame(candidates), table, pairs, catalog, human, config(**changes))


def row(found):  # type: ignore[no-untyped-def]
    assert len(found.columns) == 1
    return found.columns.iloc[0]


def test_without_truth_nothing_is_assumed_bogus() -> None:
    got = label([candidate(1, 50, 50, tags=["cosmic_ray"]), candidate(2, 90, 90)])
    assert list(got.columns["label"]) == [-1, -1]
    assert len(got.labels) == 0
    assert got.counts["unlabelled"] == 2


def test_a_detection_at_a_supernova_is_real() -> None:
    got = row(label([candidate(1, 51, 50)], [truth_row("sn1", "supernova", 50, 50, transient_type="SN Ia")]))
    assert (got["label"], got["kind"], got["label_source"], got["event_id"]) == (1, "SN Ia", "truth", "sn1")
    assert got["true_snr"] == pytest.approx(50)


@pytest.mark.parametrize(("distance", "expected"), [(3.9, 1), (4.1, -1), (11.9, -1), (12.1, 0)])
def test_the_radii_follow_the_psf(distance: float, expected: int) -> None:
    assert row(label([candidate(1, 50 + distance, 50)], [truth_row("sn1", "supernova", 50, 50)]))["label"] == expected


def test_the_radius_has_a_floor_in_pixels() -> None:
    undersampled = candidate(1, 51.9, 50, psf_fwhm=1.0)
    assert row(label([undersampled], [truth_row("sn1", "supernova", 50, 50)]))["label"] == 1


@pytest.mark.parametrize(("flux", "expected"), [(19.0, -1), (21.0, 1)])
def test_a_detection_at_a_faint_truth_is_unlabelled_not_bogus(flux: float, expected: int) -> None:
    assert row(label([candidate(1, 50, 50)], [truth_row("sn1", "supernova", 50, 50, flux=flux)]))["label"] == expected


def test_the_flux_difference_decides_not_the_flux() -> None:
    star = [truth_row("v1", "variable", 50, 50, flux=5000), truth_row("v1", "variable", 50, 50, flux=5200, exposure="r")]
    assert row(label([candidate(1, 50, 50, sign=-1)], star))["label"] == 1
    wrong = label([candidate(1, 50, 50, sign=1)], star)
    assert row(wrong)["label"] == -1
    assert wrong.counts["unlabelled_faint_or_opposite_truth"] == 1
    assert row(wrong)["true_snr"] == pytest.approx(-20)


def test_reference_flux_is_taken_to_the_science_zero_point() -> None:
    def same(flux: float, exposure: str) -> list[dict[str, object]]:
        zero_point = 25.0 if exposure == "s" else 27.5  # the reference counts ten times as much for the same light
        return [truth_row("v1", "variable", 50, 50, flux=flux, exposure=exposure, magnitude=zero_point - 2.5 * np.log10(flux))]

    got = row(label([candidate(1, 50, 50)], same(500, "s") + same(5000, "r")))
    assert got["true_snr"] == pytest.approx(0, abs=1e-9)
    assert got["label"] == -1


def test_a_source_seen_in_the_reference_alone_has_faded() -> None:
    found = [truth_row("sn1", "supernova", 50, 50, exposure="r"), truth_row("cr", "cosmic_ray", 300, 300)]
    got = row(label([candidate(1, 50, 50, sign=-1)], found))
    assert (got["label"], got["kind"]) == (1, "supernova")


def test_an_asteroid_is_real_and_moving_at_both_its_places() -> None:
    moves = [truth_row("a1", "asteroid", 50, 50), truth_row("a1", "asteroid", 90, 50, exposure="r")]
    got = label([candidate(1, 50, 50), candidate(2, 90, 50, sign=-1)], moves).columns
    assert list(got["label"]) == [1, 1]
    assert list(got["kind"]) == ["moving", "moving"]
    assert list(got["event_id"]) == ["a1", "a1"]


def test_a_wrong_header_does_not_lose_the_reference_flux() -> None:
    star = [truth_row("v1", "variable", 50, 50, flux=5000), truth_row("v1", "variable", 50, 50, flux=5000, exposure="r")]
    shifted = candidate(1, 50, 50)
    shifted["s_ra"] = float(shifted["s_ra"]) + 6 * SCALE / 3600
    assert row(label([shifted], star))["true_snr"] == pytest.approx(0)


@pytest.mark.parametrize("kind", ARTEFACT_KINDS)
def test_an_artefact_names_the_bogus(kind: str) -> None:
    got = row(label([candidate(1, 50, 50, tags=["dipole"])], [truth_row("x", kind, 51, 50, flux=np.nan)]))
    assert (got["label"], got["kind"]) == (0, kind)
    assert got["event_id"].startswith("wide@")


@pytest.mark.parametrize(
    ("tags", "kind"),
    [
        ([], "noise"),
        (["edge", "dipole"], "dipole"),
        (["trail"], "satellite_trail"),
        (["saturated"], "saturation"),
        (None, "noise"),
        (["cosmic_ray"], "noise"),
        (["cosmic_ray", "dipole"], "dipole"),
    ],
)
def test_unmatched_where_truth_is_complete_is_bogus_of_its_tag(tags: list[str] | None, kind: str) -> None:
    elsewhere = [truth_row("sn1", "supernova", 300, 300)]
    got = row(label([candidate(1, 50, 50, tags=tags)], elsewhere))
    assert (got["label"], got["kind"]) == (0, kind)
    assert row(label([candidate(1, 50, 50)], elsewhere, unmatched_are_bogus=False))["label"] == -1


@pytest.mark.parametrize(("distance", "kind", "expected"), [(5, "cosmic_ray", "noise"), (5, "ghost", "ghost"), (13, "ghost", "noise")])
def test_what_is_spread_over_many_pixels_reaches_further(distance: float, kind: str, expected: str) -> None:
    assert row(label([candidate(1, 50, 50)], [truth_row("x", kind, 50 + distance, 50)]))["kind"] == expected


def test_of_several_artefacts_the_sharpest_names_the_bogus() -> None:
    several = [truth_row("g", "ghost", 50, 50), truth_row("d", "dipole", 51, 50), truth_row("c", "cosmic_ray", 53, 50)]
    for count, expected in ((3, "cosmic_ray"), (2, "dipole"), (1, "ghost")):
        assert row(label([candidate(1, 50, 50)], several[:count]))["kind"] == expected


@pytest.mark.parametrize("kind", PHOTOMETRIC)
@pytest.mark.parametrize(("flux", "sign", "named"), [(60.0, 1, True), (40.0, 1, False), (60.0, -1, False), (-60.0, -1, True)])
def test_an_artefact_must_give_half_of_the_light(kind: str, flux: float, sign: int, named: bool) -> None:
    got = row(label([candidate(1, 50, 50, sign=sign)], [truth_row("x", kind, 51, 50, flux=flux)]))
    assert (got["label"], got["kind"]) == (0, kind if named else "noise")


@pytest.mark.parametrize(("there", "sign", "named"), [(30.0, 1, True), (60.0, 1, False), (160.0, -1, True)])
def test_of_an_artefact_in_both_exposures_the_difference_counts(there: float, sign: int, named: bool) -> None:
    both = [truth_row("x", "ghost", 51, 50, flux=100.0), truth_row("x", "ghost", 51, 52, flux=there, exposure="r")]
    assert row(label([candidate(1, 50, 50, sign=sign)], both))["kind"] == ("ghost" if named else "noise")


@pytest.mark.parametrize(("exposure", "sign", "named"), [("s", 1, True), ("s", -1, False), ("r", -1, True), ("r", 1, False)])
def test_charge_brightens_the_exposure_that_it_is_in(exposure: str, sign: int, named: bool) -> None:
    hit = [truth_row("c", "cosmic_ray", 51, 50, exposure=exposure), truth_row("sn1", "supernova", 300, 300)]
    assert row(label([candidate(1, 50, 50, sign=sign)], hit))["kind"] == ("cosmic_ray" if named else "noise")


@pytest.mark.parametrize(("shift", "kind"), [(0.5, "dipole"), (0.1, "residual")])
def test_a_star_that_hardly_moved_makes_no_dipole(shift: float, kind: str) -> None:
    """At a FWHM of 4 px, 500 electrons moved by a pixel leave 126; the shift that all stars share is the registration's."""
    rest = [truth_row(f"s{n}", "residual", 90 + 20 * n, 200, exposure=e) for n in range(3) for e in ("s", "r")]
    star = [truth_row("s9", "dipole", 50, 50), truth_row("s9", "dipole", 50 + shift, 50, exposure="r")]
    for common in (0.0, 3.0):
        moved = [{**one, "s_ra": one["s_ra"] + common * SCALE / 3600} if one["exposure_id"] == "r" else one for one in (*rest, *star)]
        assert row(label([candidate(1, 50, 50)], moved))["kind"] == kind
    assert row(label([candidate(1, 50, 50)], [star[0], *rest]))["kind"] == "dipole"  # its shift is not known


@pytest.mark.parametrize(("flux", "expected"), [(40.0, -1), (60.0, 1)])
def test_light_that_is_mostly_an_artefacts_gives_a_faint_source_no_label(flux: float, expected: int) -> None:
    source = truth_row("sn1", "supernova", 50, 50, flux=flux)
    assert row(label([candidate(1, 50, 50)], [source, truth_row("c", "cosmic_ray", 51, 50)]))["label"] == expected
    assert row(label([candidate(1, 50, 50)], [source]))["label"] == 1


def test_truth_of_another_exposure_or_of_injections_alone_is_not_complete() -> None:
    other = [truth_row("sn1", "supernova", 300, 300, exposure="t")]
    assert row(label([candidate(1, 50, 50)], other))["label"] == -1
    injected = [truth_row("i1", "injected", 90, 90)]
    got = label([candidate(1, 50, 50), candidate(2, 90, 90)], injected).columns
    assert list(got["label"]) == [-1, 1]
    assert list(got["label_source"]) == ["", "injection"]


def test_a_candidate_without_an_error_is_unlabelled_at_a_truth() -> None:
    assert row(label([candidate(1, 50, 50, flux_err=np.nan)], [truth_row("sn1", "supernova", 50, 50)]))["label"] == -1


def catalog_row(discovery: float) -> list[dict[str, object]]:
    ra, dec = sky(50, 50)
    return [{"object_id": "SN2024x", "s_ra": ra, "s_dec": dec, "discovery_mjd": discovery, "transient_type": "SN II", "source": "tns"}]


@pytest.mark.parametrize(("discovery", "expected"), [(60000.0, 1), (60039.0, 1), (60041.0, -1), (float("nan"), -1)])
def test_a_catalogued_event_is_real_from_its_discovery_on(discovery: float, expected: int) -> None:
    got = row(label([candidate(1, 51, 50)], catalog=catalog_row(discovery)))
    assert got["label"] == expected
    assert got["event_id"] == "SN2024x"
    assert (got["kind"], got["label_source"]) == (("SN II", "catalogue") if expected == 1 else ("", ""))


def test_a_catalogued_event_fades_only_from_a_reference_that_shows_it() -> None:
    faded = [candidate(1, 50, 50, sign=-1)]
    assert row(label(faded, catalog=catalog_row(58000.0)))["label"] == 1
    assert row(label(faded, catalog=catalog_row(59900.0)))["label"] == -1
    assert row(label([candidate(1, 53, 50)], catalog=catalog_row(60000.0)))["label"] == -1


def test_complete_truth_silences_the_catalogue() -> None:
    faint = [truth_row("SN2024x", "supernova", 50, 50, flux=1.0)]
    assert row(label([candidate(1, 50, 50)], faint, catalog=catalog_row(60000.0)))["label"] == -1


def test_tags_are_evidence_only_when_asked() -> None:
    got = label([candidate(1, 50, 50, tags=["hot_pixel"]), candidate(2, 90, 90, tags=["edge"])], evidence_tags=["hot_pixel"])
    assert list(got.columns["label"]) == [0, -1]
    assert got.labels.iloc[0]["confidence"] == 0.7


def said(value: int, source: str = "human", **more: object) -> dict[str, object]:
    return {
        "candidate_id": "s__r:1",
        "label": value,
        "transient_type": "k",
        "source": source,
        "annotator": "ann",
        "confidence": 1.0,
        "time": "",
        **more,
    }


def test_people_win_over_everything() -> None:
    got = label([candidate(1, 50, 50)], [truth_row("sn1", "supernova", 50, 50)], human=[said(0), {**said(1), "candidate_id": "gone:1"}])
    assert (row(got)["label"], row(got)["label_source"]) == (0, "human")
    assert got.counts["human_without_candidate"] == 1
    assert set(got.labels["source"]) == {"human", "truth"}


def test_the_stated_order_settles_conflicts() -> None:
    order = ["weak", "evidence", "catalogue", "truth", "injection", "human"]
    for weaker, stronger in pairwise(order):
        for rows in ([said(0, weaker), said(1, stronger)], [said(1, stronger), said(0, weaker)]):
            assert winners(pd.DataFrame(rows)).loc["s__r:1", "source"] == stronger
    later = [said(1, time="2025-01-02T00:00:00Z"), said(0, time="2025-01-01T00:00:00Z")]
    assert winners(pd.DataFrame(later)).loc["s__r:1", "label"] == 1
    assert winners(pd.DataFrame([said(1), said(0)])).loc["s__r:1", "label"] == 0


def test_a_label_with_a_place_finds_its_candidate_under_a_new_number() -> None:
    two = [candidate(1, 50, 50), candidate(2, 80, 80)]
    got = label(two, human=[said(0, x=80.5, y=80.0)])
    assert list(got.columns["label"]) == [-1, 0]
    gone = label(two, human=[said(0, x=65.0, y=65.0)])
    assert list(gone.columns["label"]) == [-1, -1]
    assert gone.counts["human_without_candidate"] == 1
    assert list(label(two, human=[said(0)]).columns["label"]) == [0, -1]


def test_conflicts_are_counted_by_their_sources() -> None:
    got = label([candidate(1, 50, 50)], [truth_row("sn1", "supernova", 50, 50)], human=[said(0), said(1, "weak")])
    assert got.counts["conflicts"] == 2
    assert got.counts["conflict_human_over_truth"] == got.counts["conflict_human_over_weak"] == 1


def test_detections_of_one_place_share_an_event_over_epochs() -> None:
    three = [candidate(1, 50, 50), candidate(1, 51, 50, exposure="t"), candidate(2, 80, 50, exposure="t")]
    events = label(three).columns["event_id"]
    assert events[0] == events[1] == "wide@s__r:1"
    assert events[2] == "wide@t__r:2"
    assert list(label(three[::-1]).columns["event_id"]) == list(events[::-1])


def test_a_bogus_at_the_place_of_a_supernova_of_another_epoch_shares_its_event() -> None:
    truth = [truth_row("sn1", "supernova", 50, 50, exposure="t"), truth_row("x", "hot_pixel", 300, 300)]
    got = row(label([candidate(1, 50, 50), candidate(2, 50, 50, exposure="t")][:1], truth))
    assert got["label"] == 0
    got = label([candidate(1, 50, 50), candidate(2, 50, 50, exposure="t")], truth).columns
    assert list(got["event_id"]) == ["sn1", "sn1"]
    assert list(got["label"]) == [0, 1]


def test_label_rows_repeat_and_do_not_depend_on_row_order() -> None:
    rng = np.random.default_rng(3)
    many = [candidate(number, *rng.uniform(0, 400, 2), exposure="st"[number % 2]) for number in range(60)]
    truth = [truth_row(f"o{number}", "supernova", many[number]["x"], many[number]["y"]) for number in range(0, 20, 2)]
    first = label(many, truth).columns.set_index("candidate_id").sort_index()
    second = label(many[::-1], truth[::-1]).columns.set_index("candidate_id").sort_index()
    pd.testing.assert_frame_equal(first, second)


def test_no_candidates_give_no_labels() -> None:
    empty = pd.DataFrame([candidate(1, 1, 1)]).iloc[:0]
    got = label_candidates(empty, TRUTH.empty(), PAIRS, CATALOG.empty(), LABELS.empty(), config())
    assert len(got.columns) == len(got.labels) == 0


def test_broken_tables_are_refused() -> None:
    with pytest.raises(DataSetError, match="1 candidate_ids stand on more than one row, 's__r:1' first"):
        label([candidate(1, 50, 50), candidate(1, 60, 60)])
    with pytest.raises(DataSetError, match="1 candidates belong to no known pair, 's__r' first"):
        label([candidate(1, 50, 50)], pairs=PAIRS.iloc[1:])
    with pytest.raises(DataSetError, match="1 labels are neither 1 nor 0, 2 for s__r:1 first"):
        label([candidate(1, 50, 50)], human=[said(2)])
    with pytest.raises(DataSetError, match="'guess' is no source of labels"):
        label([candidate(1, 50, 50)], human=[said(1, "guess")])
    with pytest.raises(DataSetError, match="1 candidates of s__r have no pixel_scale"):
        label([candidate(1, 50, 50, pixel_scale=np.nan)], [truth_row("x", "hot_pixel", 9, 9)])
    with pytest.raises(DataSetError, match="1 of 1 candidates have no position"):
        label([candidate(1, 50, 50, s_ra=np.nan)])
    with pytest.raises(DataSetError, match="1 of 1 rows of the truth table have no position"):
        label([candidate(1, 50, 50)], [truth_row("x", "hot_pixel", 9, 9, s_dec=np.nan)])
    with pytest.raises(DataSetError, match="1 of 1 rows of the catalogue have no position"):
        label([candidate(1, 50, 50)], catalog=[{**catalog_row(6e4)[0], "s_ra": np.nan}])
    with pytest.raises(DataSetError, match="1 rows of the truth table are of the unknown kind 'comet'"):
        label([candidate(1, 50, 50)], [truth_row("x", "comet", 9, 9)])
    with pytest.raises(InputError, match="the candidates lacks the column 'snr'"):
        label([{key: value for key, value in candidate(1, 5, 5).items() if key != "snr"}])


def test_the_default_configuration_is_complete_and_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().seed = 2  # type: ignore[misc]

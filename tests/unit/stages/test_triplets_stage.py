"""Stage triplets: difference products in, a labelled store out; the same bytes twice."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from astropy.wcs import WCS

from astrid.core.dq import DQ
from astrid.core.errors import InputError
from astrid.core.provenance import digest_file
from astrid.core.records import Difference, ExposureInfo, Psf
from astrid.io.fits import write_difference
from astrid.io.shards import TripletStore
from astrid.io.table_parts import write_parts
from astrid.io.tables import CANDIDATES, CATALOG, LABELS, PAIRS, TRUTH, read_table, write_table
from astrid.stages import triplets

ROOT = Path(__file__).parents[3]
SHAPE = (120, 140)


def difference(seed: int) -> Difference:
    rng = np.random.default_rng(seed)
    planes = [rng.normal(size=SHAPE).astype(np.float32) for _ in range(6)]
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [10.0, 0.0], [70.0, 60.0], [-0.5 / 3600, 0.5 / 3600]
    stamp = np.zeros((5, 5), np.float32)
    stamp[2, 2] = 1
    psf = Psf(stamp, "given")
    dq = np.zeros(SHAPE, np.uint32)
    dq[62, 66] = DQ.COSMIC_RAY
    info = ExposureInfo(f"s{seed}", "wide", "cam", "d1", "g", 60000.0 + seed, 30.0)
    reference = ExposureInfo("r", "wide", "cam", "d1", "g", 59000.0, 300.0, role="reference")
    return Difference(*planes, dq, psf, psf, psf, wcs, info, reference)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load((ROOT / "conf/dataset/default.yaml").read_text())
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"dataset": {**values, "seed": 1, "rows_per_shard": 3}}))
    rows, truth, pairs = [], [], []
    for seed in (2, 1):
        pair = {"pair_id": f"s{seed}__r", "reference_id": "r", "survey": "wide", "field_id": "f"}
        write_difference(tmp_path / f"data/difference/{pair['pair_id']}.fits", difference(seed))
        pairs.append({**pair, "science_id": f"s{seed}", "status": "ok", "mjd": 60000.0 + seed, "reference_mjd": 59000.0})
        for number, (x, y, sign) in enumerate([(60.2, 60.4, 1), (80.0, 70.0, -1), (5.0, 60.0, 1)]):
            row = {**pair, "candidate_id": f"s{seed}__r:{number}", "exposure_id": f"s{seed}", "x": x, "y": y, "sign": sign, "snr": 9.0}
            row |= {"s_ra": 10 - (x - 69) * 0.5 / 3600, "s_dec": (y - 59) * 0.5 / 3600, "mjd": 60000.0 + seed, "flux_err": 10.0}
            rows.append({**row, "psf_fwhm": 3.0, "pixel_scale": 0.5, "scorable": x > 31, "reason": "" if x > 31 else "leaves the image"})
        place = {"s_ra": 10 - (60 - 69) * 0.5 / 3600, "s_dec": (60 - 59) * 0.5 / 3600, "x": 60.0, "y": 60.0}
        truth.append(
            {**place, "object_id": "sn1", "kind": "supernova", "transient_type": "SN Ia", "exposure_id": f"s{seed}", "flux": 900.0}
        )
    write_table(pd.DataFrame(rows), tmp_path / "data/candidates/candidates.parquet", CANDIDATES)
    write_table(pd.DataFrame(truth).assign(simulated=True), tmp_path / "data/raw/truth.parquet", TRUTH)
    write_table(pd.DataFrame(pairs), tmp_path / "data/difference/pairs.parquet", PAIRS)
    write_table(CATALOG.empty(), tmp_path / "data/catalog/catalog.parquet", CATALOG)
    (tmp_path / "data/labels").mkdir()
    (tmp_path / "data/labels/human.csv").write_text((ROOT / "data/labels/human.csv").read_text())
    return tmp_path


def test_it_writes_a_labelled_store_in_order_of_pair(project: Path) -> None:
    triplets.main()
    store = TripletStore.open(project / "data/triplets")
    store.verify()
    assert list(store.table["candidate_id"]) == ["s1__r:0", "s1__r:1", "s2__r:0", "s2__r:1"]
    assert list(store.table["label"]) == [1, 0, 1, 0]
    assert list(store.table["event_id"][::2]) == ["sn1", "sn1"]
    assert [part.rows for part in store.shards] == [3, 1]
    report = json.loads((project / "reports/triplets.json").read_text())
    assert report["labels"] == {"real": 2, "bogus": 2, "unlabelled": 0}
    assert (report["unscorable"], report["unscorable_reasons"]) == (2, {"leaves the image": 2})
    assert report["kind"] == {"SN Ia": 2, "noise": 2}
    assert len(read_table(project / "data/triplets/labels.parquet", LABELS)) == 6
    assert "Simulated" in (project / "data/triplets/card.md").read_text()


def test_stamps_are_the_planes_around_the_candidate(project: Path) -> None:
    triplets.main()
    got = TripletStore.open(project / "data/triplets").stamps([1, 0])
    planes = difference(1)
    np.testing.assert_array_equal(got[0, 0, 31, 31], planes.science[70, 80])
    np.testing.assert_array_equal(got[0, 2, 31, 31], -planes.difference[70, 80])
    assert np.isnan(got[1, 2, 33, 37])
    assert np.isfinite(got[1, :2, 33, 37]).all()


def test_people_change_a_label_and_nothing_else_changes_the_bytes(project: Path) -> None:
    triplets.main()
    before = {path.name: digest_file(path) for path in (project / "data/triplets").iterdir()}
    triplets.main()
    assert {path.name: digest_file(path) for path in (project / "data/triplets").iterdir()} == before
    with (project / "data/labels/human.csv").open("a") as stream:
        stream.write("s1__r:0,0,dipole,human,eve,1.0,2026-01-01T00:00:00Z\n")
    triplets.main()
    after = {path.name: digest_file(path) for path in (project / "data/triplets").iterdir()}
    assert {name for name in after if after[name] != before[name]} >= {"labels.parquet", "triplets-00000.parquet"}
    assert after["shard-00000.npy"] == before["shard-00000.npy"]
    assert TripletStore.open(project / "data/triplets").table["kind"][0] == "dipole"


def in_two_fields(project: Path, names: dict[str, str]) -> None:
    """The pairs put into fields, in the tables of candidates and of pairs."""
    for name, table in (("data/candidates/candidates.parquet", CANDIDATES), ("data/difference/pairs.parquet", PAIRS)):
        frame = read_table(project / name, table)
        frame["field_id"] = frame["pair_id"].map(names)
        write_table(frame.sort_values(["survey", "field_id"], kind="stable"), project / name, table)


def test_fields_are_labelled_by_themselves_and_follow_one_another(project: Path) -> None:
    triplets.main()
    whole = TripletStore.open(project / "data/triplets").table.set_index("candidate_id")
    first = json.loads((project / "reports/triplets.json").read_text())
    in_two_fields(project, {"s1__r": "south", "s2__r": "north"})
    (project / "data/labels/human.csv").write_text(
        "candidate_id,label,source\ns1__r:1,0,human\ns2__r:2,0,human\ns9__r:0,1,human\nnobody,1,human\n"
    )
    triplets.main()
    store = TripletStore.open(project / "data/triplets")
    assert list(store.table["candidate_id"]) == ["s2__r:0", "s2__r:1", "s1__r:0", "s1__r:1"]
    same = ["label", "kind", "cell_id", "true_snr", "stamp_digest"]
    pd.testing.assert_frame_equal(store.table.set_index("candidate_id").loc[whole.index, same].drop("s1__r:1"), whole[same].drop("s1__r:1"))
    second = json.loads((project / "reports/triplets.json").read_text())
    assert second["label_rows"]["human_without_candidate"] == 2
    assert second["label_rows"]["source_human"] == 2
    alike = ("candidates", "triplets", "labels", "unscorable", "unscorable_reasons", "bogus_over_cap")
    assert [second[name] for name in alike] == [first[name] for name in alike]
    assert second["tags"] == first["tags"]
    assert not list((project / "data").glob(".triplets*"))


def test_a_survey_without_candidates_is_an_empty_store(project: Path) -> None:
    write_table(CANDIDATES.empty(), project / "data/candidates/candidates.parquet", CANDIDATES)
    triplets.main()
    assert len(TripletStore.open(project / "data/triplets")) == 0
    report = json.loads((project / "reports/triplets.json").read_text())
    assert (report["candidates"], report["labels"]) == (0, {"real": 0, "bogus": 0, "unlabelled": 0})


def test_only_one_field_is_read_at_a_time(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_two_fields(project, {"s1__r": "south", "s2__r": "north"})
    seen = []
    real = triplets.label_with_copies
    monkeypatch.setattr(triplets, "label_with_copies", lambda *tables: seen.append(tables) or real(*tables))
    triplets.main()
    assert [sorted(set(candidates["pair_id"])) for candidates, *_ in seen] == [["s2__r"], ["s1__r"]]
    assert [sorted(set(truth["exposure_id"])) for _, truth, *_ in seen] == [["s2"], ["s1"]]


def crowded(project: Path, fields: int) -> None:
    """Tables of so many fields of two pairs with 150 candidates each, and a truth row for every one."""
    rng = np.random.default_rng(1)
    pairs, candidates, truth = [], [], []
    for number in range(2 * fields):
        pair = {"pair_id": f"s{number:03d}__r{number:03d}", "survey": "wide", "field_id": f"f{number // 2:03d}"}
        own = {"reference_id": f"r{number:03d}", "mjd": 60000.0 + number}
        pairs.append({**pair, **own, "science_id": f"s{number:03d}", "status": "ok", "reference_mjd": 59000.0})
        place = {"s_ra": 10 + rng.uniform(0, 0.05, 150), "s_dec": number // 2 + rng.uniform(0, 0.05, 150)}
        names = {"candidate_id": [f"{pair['pair_id']}:{row}" for row in range(150)], "exposure_id": f"s{number:03d}"}
        columns = {"x": 60.0, "y": 60.0, "sign": 1, "snr": 9.0, "flux_err": 10.0, "psf_fwhm": 3.0, "pixel_scale": 0.5, "scorable": True}
        candidates.append(pd.DataFrame({**pair, **own, **names, **place, **columns}))
        kinds = {"kind": "supernova", "transient_type": "SN Ia", "flux": 900.0, "simulated": True, "x": 60.0, "y": 60.0}
        truth.append(
            pd.DataFrame({"object_id": [f"sn{number}_{row}" for row in range(150)], "exposure_id": f"s{number:03d}", **place, **kinds})
        )
    write_parts(candidates, project / "data/candidates/candidates.parquet", CANDIDATES)
    write_parts(truth, project / "data/raw/truth.parquet", TRUTH)
    write_table(pd.DataFrame(pairs), project / "data/difference/pairs.parquet", PAIRS)


def test_more_fields_take_no_more_memory_while_they_are_labelled(project: Path) -> None:
    cfg = triplets.settings(triplets.DatasetConfig, "dataset")
    peaks = []
    for fields in (2, 2, 16):  # the first run pays for what is imported
        crowded(project, fields)
        tracemalloc.start()
        found = triplets._label(cfg, project / "rows.parquet", project / "labels.parquet")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.candidates["candidates"] == found.labels["source_truth"] == 300 * fields
    assert peaks[2] < 1.5 * peaks[1]


def test_broken_inputs_are_one_sentence(project: Path) -> None:
    path = project / "data/labels/human.csv"
    path.write_text("")
    with pytest.raises(InputError, match=r"human.csv is not a readable CSV table"):
        triplets.main()
    path.write_text("candidate_id,label,source\ns1__r:0,maybe,human\n")
    with pytest.raises(InputError, match=r"human.csv: column 'label' should hold int values"):
        triplets.main()
    path.unlink()
    with pytest.raises(InputError, match=r"human.csv does not exist; restore it"):
        triplets.main()
    path.write_text("candidate_id,label,source\n")
    (project / "data/difference/s2__r.fits").unlink()
    with pytest.raises(InputError, match=r"s2__r.fits"):
        triplets.main()
    assert not (project / "data/triplets").exists()

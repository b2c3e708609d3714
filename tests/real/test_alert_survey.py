"""The public alert packets as a survey: every reading is a triplet or has a reason, and the index agrees."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from astrid.config.compose import compose, write_params
from astrid.datasets.leakage import audit
from astrid.datasets.splits import find_near, split_rows
from astrid.io.alert_table import ALERTS
from astrid.io.shards import TripletStore
from astrid.io.tables import read_table
from astrid.stages import acquire, catalog, triplets
from support.tiny import inside, new_project

ROOT = Path(__file__).resolve().parents[2]
PACKETS = Path(os.environ.get("ASTRID_SHARED_DATA", ROOT.parent / "shared" / "data")) / "alerts"

pytestmark = pytest.mark.skipif(not (PACKETS / "index.csv").exists(), reason="needs ../shared/data/alerts")

REAL = ["solar_system_match_5arcsec = true as moving", "tnsclass is given", "simbad_class in variable_classes as variable"]
BOGUS = ["survey = ZTF and braai_d6_m7_recomputed < 0.1"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = new_project(tmp_path_factory.mktemp("alerts"))
    values = compose(ROOT / "conf", ["survey=alerts", "compute.workers=1"])
    values["survey"]["alerts"] |= {"root": str(PACKETS), "evidence": str(PACKETS / "index.csv"), "real": REAL, "bogus": BOGUS}
    write_params(values, folder / "params.yaml")
    with inside(folder):
        for stage in (catalog, acquire, triplets):
            stage.main()
    return folder


@pytest.fixture(scope="module")
def table(project: Path) -> pd.DataFrame:
    return read_table(project / "data/raw/alerts.parquet", ALERTS)


@pytest.fixture(scope="module")
def index() -> pd.DataFrame:
    rows = pd.read_csv(PACKETS / "index.csv", dtype={"candid": str})
    return rows.assign(candidate_id=rows["survey"].str.lower() + ":" + rows["candid"])


def test_every_file_is_there_and_every_reading_is_a_triplet_or_has_a_reason(project: Path, table: pd.DataFrame) -> None:
    found = [path for path in PACKETS.rglob("*") if path.is_file() and path.name.endswith((".avro", ".tar.gz"))]
    files = sorted(path.relative_to(PACKETS).as_posix() for path in found)
    assert sum(name.endswith(".avro") for name in files) == 588
    assert sorted(table["source"].str.split("!").str[0].unique()) == files
    assert set(table["problem"][table["scorable"]]) == {""}
    assert (table["reason"][~table["scorable"]].str.len() > 0).all()
    report = json.loads((project / "reports/triplets.json").read_text())
    assert report["readings"] == len(table) == report["triplets"] + report["set_aside"]
    assert report["set_aside_reasons"] == {
        "lsst": {"wrong size": 7},
        "turbo": {"flat stamp": 1, "noise stamps": 10},
        "unknown": {"broken file": 12},
        "ztf": {"broken cut-out": 13, "no cut-out": 8, "repeated": 1, "wrong size": 10},
    }


def test_the_counts_match_the_index(project: Path, table: pd.DataFrame, index: pd.DataFrame) -> None:
    store = TripletStore.open(project / "data/triplets").table.set_index("candidate_id")
    indexed = index.set_index("candidate_id")
    assert set(store.index) <= set(indexed.index)
    aside = indexed[~indexed.index.isin(store.index)]
    assert len(store) + len(aside) == len(index) == 772
    wrong = (aside["survey"] == "LSST") | ~aside["sci_shape"].isin(["63x63", "61x61", "81x81"])
    assert set(aside["survey"][~wrong]) == {"TURBO"}  # the right size, and noise
    assert store["survey"].value_counts().to_dict() == {"ztf": 716, "pgir": 17, "winter": 11}
    said = indexed.loc[store.index]
    assert np.allclose(store["mjd"], said["jd"] - 2400000.5, atol=0.01)
    own = table[table["scorable"]].set_index("candidate_id").loc[store.index]
    assert np.allclose(own["alert.magpsf"], said["magpsf"], equal_nan=True)
    assert np.allclose(own["alert.drb"][own["survey"] == "ztf"], said["drb_or_reliability"][own["survey"] == "ztf"], equal_nan=True)
    assert (store["source"].str.split("/").str[-1] == said["file"].str.split("/").str[-1]).all()


def test_labels_follow_the_evidence_and_the_conflict_has_none(project: Path, index: pd.DataFrame) -> None:
    store = TripletStore.open(project / "data/triplets").table.set_index("candidate_id")
    said = index.set_index("candidate_id").loc[store.index]
    strong = said["solar_system_match_5arcsec"] | said["tnsclass"].notna()
    low = said["braai_d6_m7_recomputed"] < 0.1
    assert (store["label"][strong & ~low] == 1).all()
    assert (store["label"][low & ~strong & said["simbad_class"].isna()] == 0).all()
    weak = said["simbad_class"].isin(["S*", "PM*", "RGB*", "Planet?"])
    assert (store["label"][weak & ~strong & ~low] == -1).all()  # an ordinary star is no evidence
    assert store["label"].value_counts().to_dict() == {-1: 460, 1: 188, 0: 96}
    assert json.loads((project / "reports/triplets.json").read_text())["label_rows"]["evidence_in_conflict"] == 1


def test_the_columns_hold_what_the_packets_say(project: Path) -> None:
    store = TripletStore.open(project / "data/triplets").table
    ztf = store[store["survey"] == "ztf"]
    assert 0.37 < (ztf["sign"] < 0).mean() < 0.41
    assert set(ztf["filter"]) == {"g", "r"}
    assert set(store["filter"][store["survey"] == "pgir"]) == {"J"}
    for name in ("snr", "fwhm", "elongation", "mjd", "s_ra", "s_dec"):
        assert np.isfinite(ztf[name]).all(), name
    assert (ztf["host_offset"].dropna() >= 0).all()
    assert ztf["host_offset"].notna().sum() > 300
    assert (ztf["exposure_id"] != "").all()
    assert ztf.groupby("exposure_id")["mjd"].nunique().max() == 1  # one exposure, one time


def test_no_stamp_holds_the_number_that_stands_for_no_coverage(project: Path) -> None:
    store = TripletStore.open(project / "data/triplets")
    stamps = store.stamps(np.arange(len(store)))
    assert np.nanmax(np.abs(stamps)) < 1e30


@pytest.mark.parametrize("strategy", ["temporal", "random_grouped"])
def test_splits_hold_and_leak_nothing(project: Path, strategy: str) -> None:
    from astrid.config.schema import SplitConfig
    from astrid.config.validate import validate

    cfg = validate(SplitConfig, compose(ROOT / "conf", [f"split={strategy}"])["split"], path="split")
    store = TripletStore.open(project / "data/triplets")
    near = find_near(store.table, store.stamps)
    parts = split_rows(store.table, cfg, near)
    found = audit(store.table, parts, near)
    assert not any(found.leaks.values())
    assert all(found.counts[part]["real"] and found.counts[part]["bogus"] for part in ("train", "validation", "test"))

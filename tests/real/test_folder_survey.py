"""`survey=folder`: the JWST pair of Abell 2744 from files to labelled triplets, stage by stage, as `dvc repro triplets` runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from astrid.config.compose import compose, write_params
from astrid.io.shards import TripletStore
from astrid.stages import acquire, calibrate, catalog, detect, difference, triplets

SCIENCE = "jw02561001002-02561-o001_t003_nircam_clear-f200w_i2d_stamp"
REFERENCE = "jw01324001001-01324-o001_t001_nircam_clear-f200w_i2d_stamp"
FAINT = 4.2  # sigma: the pair holds no bright new source, so that some faint positive peaks are wanted
STAGES = (catalog, acquire, calibrate, difference, detect, triplets)


@pytest.fixture(scope="module")
def folder(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: links to the pair with its noise images and PSFs, a table, and no catalogue yet."""
    source = shared_data / "fits" / "jwst-nircam-abell2744"
    if not source.is_dir():
        pytest.skip(f"the JWST pair is not at hand ({source} is absent)")
    mine = tmp_path_factory.mktemp("mine")
    for path in source.glob("*.fits"):
        (mine / path.name).symlink_to(path)
    rows = [
        f"{name}.fits,{role},abell2744,{name}.noise.fits,{name}.WebbPSF.fits"
        for name, role in ((SCIENCE, "science"), (REFERENCE, "reference"))
    ]
    (mine / "pair.csv").write_text("\n".join(["path,role,field_id,noise_path,psf_path", *rows, ""]))
    return mine


@pytest.fixture(scope="module")
def project(folder: Path, project_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("project")
    (made / "data/labels").mkdir(parents=True)
    (made / "data/labels/human.csv").write_text((project_root / "data/labels/human.csv").read_text())
    return made


def configure(project_root: Path, folder: Path, *overrides: str) -> None:
    mine = ["survey=folder", f"survey.folder.root={folder}", "compute.workers=1", f"candidates.extract.threshold={FAINT}"]
    write_params(compose(project_root / "conf", [*mine, *overrides]), Path("params.yaml"))


def test_from_files_to_labelled_triplets(project: Path, folder: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    table = ("survey.folder.table=pair.csv", "survey.folder.role_rule=null")
    configure(project_root, folder, *table)
    for stage in STAGES:
        stage.main()
    pairs = pd.read_parquet("data/difference/pairs.parquet")
    assert pairs["pair_id"].tolist() == [f"{SCIENCE}__{REFERENCE}"]
    assert pairs["status"].tolist() == ["ok"]
    assert pairs["q_psf_method_reference"].tolist() == ["given"]
    plain = TripletStore.open(Path("data/triplets"))
    assert len(plain) > 0
    assert set(plain.table["label"]) == {-1}  # real data: what nothing is known of is not assumed to be bogus

    positive = plain.table[plain.table["sign"] > 0].sort_values("snr").iloc[-1]
    event = f"SN 2022xyz,{positive['s_ra']:.7f},{positive['s_dec']:.7f},2022-11-01,SN Ia\n"
    (folder / "events.csv").write_text("name,ra,dec,discovery_date,type\n" + event)
    configure(project_root, folder, *table, "survey.folder.catalog=events.csv")
    for stage in (catalog, acquire, triplets):
        stage.main()
    labelled = TripletStore.open(Path("data/triplets")).table.set_index("candidate_id")
    found = labelled[labelled["label"] == 1]
    assert found.index.tolist() == [positive["candidate_id"]]
    assert found[["label_source", "kind", "event_id"]].to_numpy().tolist() == [["catalogue", "SN Ia", "SN 2022xyz"]]
    reasons = json.loads(triplets.REPORT.read_text())["unscorable_reasons"]
    assert set(reasons) <= {"the stamp leaves the image", "the stamp is unusable"}


def test_the_rule_by_date_finds_the_same_pair(project: Path, folder: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    configure(project_root, folder)
    for stage in (catalog, acquire):
        stage.main()
    exposures = pd.read_parquet(acquire.EXPOSURES_PATH).set_index("exposure_id")
    assert exposures["role"].to_dict() == {SCIENCE: "science", REFERENCE: "reference"}
    assert (exposures["noise_path"] != "").all()
    assert (exposures["psf_path"] != "").all()
    assert json.loads(acquire.QUARANTINE_PATH.read_text()) == []

"""Alert packets from the stage catalog to the stage split: everything is a triplet or has a reason, and the images' stages pass."""

from __future__ import annotations

import gzip
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from astrid.core.errors import AstridError, ConfigError, DataSetError, InputError
from astrid.datasets.leakage import audit
from astrid.datasets.splits import find_near, split_rows
from astrid.io.alert_table import ALERTS
from astrid.io.shards import TripletStore
from astrid.io.tables import CANDIDATES, LABELS, PAIRS, read_table
from astrid.stages import acquire, alert_triplets, calibrate, catalog, detect, difference, inject, split, triplets
from astrid.stages.sources import alerts
from support.packets import record, stamps, write_packet
from support.tiny import configure, new_project

IMAGES = (calibrate, inject, difference, detect)
PER_DAY = 8  # alerts of an exposure


def _survey(folder: Path, *, number: int = 40) -> None:
    """Alerts of `number` objects in exposures of eight each, one file a night, the last night in an archive."""
    nights = [range(first, min(first + PER_DAY, number)) for first in range(0, number, PER_DAY)]
    for night, candids in enumerate(nights):
        records = [
            record(
                1 + k, sign="f" if k % 3 == 0 else "t", jd=2459000.5 + night, pid=night, rfid=900 + night, rcid=night, field=night,
                drb=0.99 if k % 2 else 0.01, ssdistnr=1.0 if k % 4 == 1 else -999.0,
            )
            for k in candids
        ]  # fmt: skip
        write_packet(folder / f"night{night}.avro", *records)
    last = folder / f"night{len(nights) - 1}.avro"
    with tarfile.open(last.with_suffix(".tar"), "w") as archive:
        archive.add(last, "inner.avro")
    last.unlink()


def _awkward(folder: Path) -> None:
    good = stamps(7)
    rng = np.random.default_rng(5)
    write_packet(folder / "odd.avro", record(901, images=[None, *good[1:]]), record(902, images=stamps(1, size=55)))
    noise = [rng.normal(100, 5, (63, 63)).astype(np.float32) for _ in range(2)]
    write_packet(
        folder / "odd2.avro", record(903, images=[*noise, stamps(7, flux=20000.0)[2]]), record(904, images=[good[0], b"not gzip", good[2]])
    )
    write_packet(folder / "odd3.avro", record(905, jd=None), record(1, ra=80.0))  # 1 stands in night0 already
    write_packet(folder / "odd4.avro", record(906, publisher="someone", object_id="X1"))
    (folder / "torn.avro").write_bytes((folder / "night0.avro").read_bytes()[:3000])
    (folder / "other.avro").write_bytes(b"Obj\x01 nothing")
    (folder / "empty.avro").write_bytes(b"")
    write_packet(folder / "zero.avro")


REAL = "['alert.ssdistnr >= 0 and alert.ssdistnr <= 5 as moving']"


def _configure(project: Path, *more: str, real: str = REAL, bogus: str = "['alert.drb < 0.5']") -> None:
    configure(
        project, "survey=alerts", "survey.alerts.root=packets", f"survey.alerts.real={real}", f"survey.alerts.bogus={bogus}",
        "dataset.rows_per_shard=16", "split.suspects.folds=0", *more,
    )  # fmt: skip


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    new_project(tmp_path)
    _survey(tmp_path / "packets")
    _configure(tmp_path)
    return tmp_path


def _run(*stages: Any) -> None:
    for stage in stages:
        stage.main()


def _report(project: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project / "reports/triplets.json").read_text())
    return found


def test_alerts_become_labelled_triplets_and_the_stages_of_images_say_that_they_have_nothing_to_do(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="astrid"):
        _run(catalog, acquire, *IMAGES, triplets)
    for stage in ("calibrate", "inject", "difference", "detect"):
        assert f"{stage}: the source is alert packets, which come as stamps; nothing to do" in caplog.messages
    assert read_table(Path("data/candidates/candidates.parquet"), CANDIDATES).empty
    assert read_table(Path("data/difference/pairs.parquet"), PAIRS).empty
    store = TripletStore.open(Path("data/triplets"))
    store.verify()
    table = store.table
    assert len(table) == 40
    assert list(table["candidate_id"][:2]) == ["ztf:1", "ztf:2"]
    assert table["source"].iloc[0] == "night0.avro"
    assert table["source"].iloc[-1] == "night4.tar!inner.avro"
    assert (table["label"] == 1).sum() == 10  # every fourth, on odd numbers, with a high score
    assert (table["label"] == 0).sum() == 20
    assert set(table["kind"][table["label"] == 1]) == {"moving"}
    assert set(table["label_source"]) == {"evidence", ""}
    first = store.stamps(np.array([0]))[0]
    assert np.array_equal(first, np.stack(stamps(1, sign=-1)))
    labels = read_table(Path("data/triplets/labels.parquet"), LABELS)
    assert set(labels["confidence"]) == {0.9}
    assert not [name for name in table.columns if name.startswith("alert.")]


@pytest.mark.parametrize("strategy", ["temporal", "random_grouped"])
def test_splits_and_their_audit_take_them(project: Path, strategy: str) -> None:
    _configure(project, f"split={strategy}")
    _run(catalog, acquire, triplets)
    store = TripletStore.open(Path("data/triplets"))
    near = find_near(store.table, store.stamps)
    parts = split_rows(store.table, split.settings(split.SplitConfig, "split"), near)
    found = audit(store.table, parts, near)
    found.raise_if_leaking()
    assert found.distinct["exposure"] == 10  # five exposures and their references
    assert all(found.counts[part]["real"] and found.counts[part]["bogus"] for part in ("train", "validation", "test"))
    if strategy == "temporal":
        dates = store.table.set_index("candidate_id")["mjd"].loc[parts["candidate_id"]].groupby(parts["part"].to_numpy())
        assert dates.min()["test"] > dates.max()["train"]


def test_what_cannot_be_used_is_counted_by_survey_and_reason(project: Path) -> None:
    _awkward(project / "packets")
    _run(catalog, acquire, triplets, split)
    report = _report(project)
    assert report["set_aside_reasons"] == {
        "unknown": {"broken file": 4, "broken record": 1},
        "ztf": {"broken cut-out": 1, "no cut-out": 1, "no time": 1, "noise stamps": 1, "repeated": 1, "wrong size": 1},
    }
    assert report["readings"] == report["triplets"] + report["set_aside"] + report["left_out"]
    assert (report["files"], report["triplets"], report["left_out"]) == (13, 40, 0)
    for card in (Path("data/triplets/card.json"), Path("reports/data/card.json")):
        assert json.loads(card.read_text())["set_aside"] == report["set_aside_reasons"]
    assert "| ztf | noise stamps | 1 |" in Path("data/triplets/card.md").read_text()
    table = read_table(alerts.ALERTS_PATH, ALERTS)
    repeated = table[table["problem"] == "repeated"]
    assert set(repeated["reason"]) == {"the same alert stands in night0.avro already."}
    assert len(json.loads(acquire.QUARANTINE_PATH.read_text())) == report["set_aside"]


def test_evidence_on_both_sides_leaves_an_alert_unlabelled_until_a_person_decides(project: Path) -> None:
    rows = [{"survey": "ZTF", "candid": k, "tns": "SN Ia" if k <= 2 else "", "peer": 0.01 if k in (2, 3) else 0.9} for k in range(1, 9)]
    pd.DataFrame(rows).to_csv("evidence.csv", index=False)
    _configure(project, "survey.alerts.evidence=evidence.csv", real="['tns is given as SN Ia']", bogus="['peer < 0.1']")
    _run(catalog, acquire, triplets)
    table = TripletStore.open(Path("data/triplets")).table.set_index("candidate_id")
    assert table["label"][["ztf:1", "ztf:2", "ztf:3", "ztf:4"]].tolist() == [1, -1, 0, -1]
    report = _report(project)
    assert report["label_rows"]["evidence_in_conflict"] == 1
    assert report["labels"] == {"real": 1, "bogus": 1, "unlabelled": 38}
    found = pd.read_parquet("data/triplets/conflicts.parquet")
    assert found[["candidate_id", "label", "over_label"]].to_numpy().tolist() == [["ztf:2", -1, 1], ["ztf:2", -1, 0]]
    with Path("data/labels/human.csv").open("a") as stream:
        stream.write("ztf:2,1,SN Ia,human,someone,1.0,2026-01-01T00:00:00Z,,\nztf:999,1,,human,someone,1.0,2026-01-01T00:00:00Z,,\n")
    _run(triplets)
    table = TripletStore.open(Path("data/triplets")).table.set_index("candidate_id")
    assert (table["label"]["ztf:2"], table["label_source"]["ztf:2"]) == (1, "human")
    assert _report(project)["label_rows"]["human_without_candidate"] == 1
    found = pd.read_parquet("data/triplets/conflicts.parquet")
    assert found[["label", "source", "over_label"]].to_numpy().tolist() == [[1, "human", 0]]


def test_evidence_is_found_by_the_full_name_too_and_may_be_parquet(project: Path) -> None:
    pd.DataFrame({"candidate_id": ["ztf:4"], "seen": [True]}).to_parquet("evidence.parquet")
    _configure(project, "survey.alerts.evidence=evidence.parquet", real="['seen = true']", bogus="[]")
    _run(catalog, acquire)
    labels = read_table(alerts.EVIDENCE_PATH, LABELS)
    assert list(zip(labels["candidate_id"], labels["label"], labels["annotator"], strict=True)) == [("ztf:4", 1, "seen = true")]


def test_a_killed_acquisition_goes_on_and_ends_in_the_same_bytes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "_FILES_A_JOB", 2)
    _run(catalog, acquire, triplets)
    before = {path: path.read_bytes() for path in sorted(Path("data").rglob("*")) if path.is_file()}
    packets = sorted(Path("data/raw/alerts").glob("??/*"))
    assert len(packets) == 5
    packets[0].unlink()
    tables = sorted(Path("data/raw/alerts/tables").glob("*.parquet"))
    tables[-1].unlink()
    Path("data/raw/alerts/stale.avro").write_text("of another run")
    Path("data/raw/alerts.parquet").unlink()
    shutil.rmtree("data/triplets")
    _run(acquire, triplets)
    assert {path: path.read_bytes() for path in sorted(Path("data").rglob("*")) if path.is_file()} == before


def test_stamps_are_read_in_batches_across_files(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(catalog, acquire, triplets)
    whole = TripletStore.open(Path("data/triplets")).digest
    sizes = []
    monkeypatch.setattr(alert_triplets, "_BATCH", 5)
    found = alert_triplets.read(LABELS.empty(), triplets.settings(triplets.DatasetConfig, "dataset"))
    for planes, rows in alert_triplets.batches(found.rows.iloc[3:]):
        assert len(planes) == len(rows)
        sizes.append(len(planes))
    assert sizes == [5] * 7 + [2]
    shutil.rmtree("data/triplets")
    _run(triplets)
    assert TripletStore.open(Path("data/triplets")).digest == whole


def test_a_packet_that_changed_after_its_acquisition_is_refused(project: Path) -> None:
    _run(catalog, acquire)
    first = read_table(alerts.ALERTS_PATH, ALERTS)["file"].iloc[0]
    write_packet(Path("data/raw") / first, record(1))
    with pytest.raises(InputError, match="lost 7 of its alerts since the stage acquire"):
        triplets.main()
    write_packet(Path("data/raw") / first, *(record(k, images=[None] * 3) for k in range(1, 9)))
    with pytest.raises(InputError, match=r"has changed since the stage acquire \(the alert has no cutoutScience"):
        triplets.main()


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"real": "['ssdistnr < 5']"}, ConfigError, r"reads the column 'ssdistnr', which is not there; the packets .* have alert\.jd, "),
        ({"bogus": "['alert.drb <']"}, ConfigError, "cannot be read from"),
        ({"more": "survey.alerts.evidence=none.csv"}, InputError, r"none\.csv, which does not exist"),
        ({"more": "survey.alerts.evidence=bare.csv"}, InputError, "has neither candid nor candidate_id"),
        ({"more": "survey.alerts.evidence=broken.csv"}, InputError, r"broken\.csv is no readable table"),
        ({"more": "survey.alerts.evidence=far.csv"}, InputError, "none of the 1 rows of the evidence speaks of a usable alert"),
        ({"more": "survey.alerts.root=nowhere"}, InputError, "nowhere, which does not exist"),
        ({"more": "survey.source=x survey.alerts=null"}, ConfigError, "survey.alerts is null but survey.kind is alerts"),
    ],
)
def test_a_mistake_is_one_sentence(project: Path, changes: dict[str, str], error: type[AstridError], said: str) -> None:
    Path("bare.csv").write_text("drb\n0.1\n")
    Path("broken.csv").write_text("")
    Path("far.csv").write_text("survey,candid\nZTF,123456\n")
    _configure(project, *(changes.pop("more").split() if "more" in changes else []), **changes)
    catalog.main()
    with pytest.raises(error, match=said):
        acquire.main()


def test_a_column_of_the_evidence_that_is_not_there_is_named_with_those_that_are(project: Path) -> None:
    Path("e.csv").write_text("survey,candid,peer\nZTF,1,0.5\n")
    _configure(project, "survey.alerts.evidence=e.csv", real="['per > 0.4']")
    catalog.main()
    with pytest.raises(ConfigError, match=r"'per', which is not there; e\.csv and the packets have survey, candid, peer, alert\.jd"):
        acquire.main()


def test_alerts_of_several_surveys_need_the_survey_in_the_evidence(project: Path) -> None:
    write_packet(Path("packets/p.avro"), record(500, object_id="PGIR20aa", publisher="pgirdps"))
    Path("e.csv").write_text("candid,seen\n1,true\n")
    _configure(project, "survey.alerts.evidence=e.csv", real="['seen = true']")
    catalog.main()
    with pytest.raises(InputError, match="has no column survey, but the alerts are of pgir, ztf"):
        acquire.main()


def test_a_folder_of_useless_packets_is_an_error(project: Path) -> None:
    shutil.rmtree("packets")
    write_packet(Path("packets/a.avro"), record(1, images=[gzip.compress(b"x")] * 3))
    catalog.main()
    with pytest.raises(InputError, match="none of the 1 alerts under packets can be used; the first: cutoutScience"):
        acquire.main()


def test_nothing_stays_an_error_for_a_source_of_images(project: Path) -> None:
    _run(catalog, acquire)
    alerts.ALERTS_PATH.unlink()  # as after a source of images
    for stage, said in ((calibrate, "none of the 0 exposures"), (difference, "none of the 0 pairs")):
        with pytest.raises(AstridError, match=said):
            stage.main()


def test_no_rule_gives_a_store_without_labels_which_no_split_takes(project: Path) -> None:
    _configure(project, real="[]", bogus="[]")
    _run(catalog, acquire, triplets)
    assert _report(project)["labels"] == {"real": 0, "bogus": 0, "unlabelled": 40}
    with pytest.raises(DataSetError, match="0 labelled triplets"):
        split.main()

"""Injected copies: only what matches an injection is labelled, and their exposures are those of their parents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from astrid.config.schema.dataset import DatasetConfig
from astrid.config.validate import validate
from astrid.datasets.copies import label_with_copies, unmatched_as_bogus
from astrid.datasets.leakage import audit, shared_values
from astrid.io.tables import CANDIDATES, CATALOG, LABELS, PAIRS, SPLITS, TRIPLETS, TRUTH, conform

SCALE = 0.5  # arcsec/px
ROOT = Path(__file__).parents[3]
IDS = {"s__r": ("s", "r"), "s__r-inj0": ("s-inj0-r", "r-inj0-s")}


@pytest.fixture(scope="module")
def cfg() -> DatasetConfig:
    values = yaml.safe_load((ROOT / "conf/dataset/default.yaml").read_text())
    return validate(DatasetConfig, {**values, "seed": 1, "evidence_tags": ["cosmic_ray"]}, path="dataset")


def place(x: float, y: float) -> dict[str, float]:
    return {"x": x, "y": y, "s_ra": 10.0 + x * SCALE / 3600, "s_dec": y * SCALE / 3600}


def candidate(pair: str, number: int, x: float, y: float, sign: int = 1, **more: Any) -> dict[str, Any]:
    science, reference = IDS[pair]
    row = {"candidate_id": f"{pair}:{number}", "pair_id": pair, "exposure_id": science, "reference_id": reference, "survey": "w"}
    row |= {"field_id": "f", "mjd": 60000.0, "sign": sign, "snr": 10.0, "flux": 100.0 * sign, "flux_err": 10.0, "psf_fwhm": 4.0}
    return {**row, **place(x, y), "pixel_scale": SCALE, "tags": [], "scorable": True, **more}


def truth_row(name: str, exposure: str, x: float, y: float, flux: float, kind: str = "injected") -> dict[str, Any]:
    row = {"object_id": name, "kind": kind, "exposure_id": exposure, "flux": flux, "magnitude": np.nan, "simulated": True}
    return {**row, **place(x, y), "transient_type": "point source" if kind == "injected" else "SN Ia"}


def label(cfg, rows, *, truth=(), human=(), catalog=()):  # type: ignore[no-untyped-def]
    injected = [
        truth_row("up", "s-inj0-r", 50, 50, 300.0), truth_row("up", "r-inj0-s", 50, 50, 0.0),
        truth_row("down", "s-inj0-r", 90, 50, 0.0), truth_row("down", "r-inj0-s", 90, 50, 300.0),
    ]  # fmt: skip
    pairs = pd.DataFrame(
        [{"pair_id": name, "science_id": ids[0], "reference_id": ids[1], "status": "ok", "mjd": 60000.0} for name, ids in IDS.items()]
    )
    frames = (
        pd.DataFrame(list(truth)) if truth else TRUTH.empty(),
        pd.DataFrame(injected),
        conform(pairs, PAIRS, source="pairs"),
        pd.DataFrame(list(catalog)) if catalog else CATALOG.empty(),
        conform(pd.DataFrame(list(human)), LABELS, source="labels") if human else LABELS.empty(),
    )
    return label_with_copies(conform(pd.DataFrame(rows), CANDIDATES, source="candidates"), *frames, cfg)


def labels_of(found) -> dict[str, int]:  # type: ignore[no-untyped-def]
    return dict(zip(found.columns["candidate_id"], found.columns["label"], strict=True))


ROWS = [
    candidate("s__r", 1, 30, 30, tags=["cosmic_ray"]),
    candidate("s__r", 2, 70, 70),
    candidate("s__r-inj0", 1, 50, 50),
    candidate("s__r-inj0", 2, 90, 50, sign=-1),
    candidate("s__r-inj0", 3, 30, 30, tags=["cosmic_ray"]),
    candidate("s__r-inj0", 4, 70, 70),
    candidate("s__r-inj0", 5, 50, 50, sign=-1),
]


def test_of_a_copy_only_what_matches_an_injection_stays(cfg):
    catalog = [{"object_id": "sn", **place(70, 70), "discovery_mjd": 59000.0, "transient_type": "SN Ia", "source": "list"}]
    kept, found = label(cfg, ROWS, catalog=catalog)
    assert labels_of(found) == {"s__r:1": 0, "s__r:2": 1, "s__r-inj0:1": 1, "s__r-inj0:2": 1}
    assert list(kept["candidate_id"]) == list(found.columns["candidate_id"])
    assert found.columns["label_source"].tolist() == ["evidence", "catalogue", "injection", "injection"]
    assert found.columns["event_id"].tolist()[2:] == ["up", "down"]
    assert found.columns["kind"].tolist()[2:] == ["point source"] * 2
    assert sorted(found.labels["candidate_id"]) == sorted(found.columns["candidate_id"])
    assert found.counts["unmatched_in_copies"] == 3
    assert (found.counts["source_injection"], found.counts["source_catalogue"], found.counts["source_evidence"]) == (2, 1, 1)


def test_the_truth_of_the_parent_makes_no_bogus_in_its_copy(cfg):
    _, found = label(cfg, ROWS, truth=[truth_row("sn", "s", 70, 70, 500.0, kind="supernova")])
    assert labels_of(found) == {"s__r:1": 0, "s__r:2": 1, "s__r-inj0:1": 1, "s__r-inj0:2": 1}


def test_a_person_may_label_a_copys_candidate(cfg):
    said = [{"candidate_id": "s__r-inj0:4", "label": 0, "source": "human", "annotator": "me"}]
    _, found = label(cfg, ROWS, human=said)
    assert labels_of(found)["s__r-inj0:4"] == 0
    assert found.counts["source_human"] == 1
    assert found.counts["human_without_candidate"] == 0


def test_without_copies_nothing_changes(cfg):
    kept, found = label(cfg, ROWS[:2])
    assert labels_of(found) == {"s__r:1": 0, "s__r:2": -1}
    assert len(kept) == 2
    assert found.counts["unmatched_in_copies"] == 0


def test_unmatched_ones_become_bogus_where_the_observer_says_so(cfg):
    kept, found = label(cfg, [*ROWS[1:4], candidate("s__r", 9, 10, 10, tags=["edge", "dipole"])])
    weak = unmatched_as_bogus(kept, found, 0.4)
    assert labels_of(weak) == {"s__r:2": 0, "s__r:9": 0, "s__r-inj0:1": 1, "s__r-inj0:2": 1}
    rows = weak.labels[weak.labels["source"] == "weak"].set_index("candidate_id")
    assert rows["transient_type"].to_dict() == {"s__r:2": "noise", "s__r:9": "dipole"}
    assert (rows["confidence"] == 0.4).all()
    assert (weak.counts["source_weak"], weak.counts["unlabelled"]) == (2, 0)


def triplets(exposures: list[str]) -> pd.DataFrame:
    numbers = [str(number) for number in range(len(exposures))]
    frame = pd.DataFrame({"candidate_id": numbers, "exposure_id": exposures, "label": np.arange(len(exposures)) % 2})
    for name in ("event_id", "cell_id", "stamp_digest"):
        frame[name] = [f"{name}{number}" for number in numbers]
    return conform(frame.assign(pair_id="", x=0.0, y=0.0, sign=1, snr=9.0), TRIPLETS, source="triplets")


def test_a_copy_shares_the_exposure_of_its_parent():
    table = triplets(["s", "s-inj3-r", "t"])
    assert shared_values(table, "exposure").to_dict() == {0: "s", 1: "s", 2: "t"}
    parts = pd.DataFrame({"candidate_id": table["candidate_id"], "part": ["train", "test", "validation"], "group_id": ["a", "b", "c"]})
    assert audit(table, conform(parts, SPLITS, source="splits")).leaks["exposure"] == 1

"""Every group choice goes the whole way on the tiny survey, and each strategy and model ends with what it promises."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest

from astrid.core.errors import GateError
from astrid.datasets.normalize import orient
from astrid.io.shards import TripletStore
from astrid.io.tables import CANDIDATES, PAIRS, TRUTH, read_table
from astrid.serving.engine import ScoringEngine
from support.tiny import FROM_TRIPLETS, ROOT, UP_TO_TRIPLETS, configure, inside, new_project

pytestmark = pytest.mark.xdist_group("pipeline")

RunStages = Callable[[Path, Sequence[str]], None]
SPLITS = sorted(path.stem for path in (ROOT / "conf/split").glob("*.yaml"))
MODELS = sorted(path.stem for path in (ROOT / "conf/model").glob("*.yaml"))


def parts(project: Path) -> pd.DataFrame:
    splits = pd.read_parquet(project / "data/splits/splits.parquet")
    table = TripletStore.open(project / "data/triplets").table
    return table.merge(splits, on="candidate_id", validate="one_to_one")


def test_every_simulated_pair_is_subtracted(tiny_triplets: Path) -> None:
    pairs = read_table(tiny_triplets / "data/difference/pairs.parquet", PAIRS)
    assert set(pairs["status"]) == {"ok"}
    assert pairs["q_score_std_raw"].median() == pytest.approx(1.0, abs=0.05)
    assert set(pairs["survey"]) == {"simwide", "simdeep", "simspace"}


def test_supernovae_above_ten_sigma_are_found(tiny_triplets: Path) -> None:
    """A supernova whose true flux stands 10 sigma over the error measured at its place is a candidate, unless it is masked there."""
    from astrid.core.dq import unusable
    from astrid.io.fits import read_difference

    truth = read_table(tiny_triplets / "data/raw/truth.parquet", TRUTH)
    pairs = read_table(tiny_triplets / "data/difference/pairs.parquet", PAIRS)
    candidates = read_table(tiny_triplets / "data/candidates/candidates.parquet", CANDIDATES)
    supernovae = truth[(truth["kind"] == "supernova") & truth["exposure_id"].isin(pairs["science_id"]) & (truth["flux"] > 0)]
    expected = found = 0
    for exposure_id, rows in supernovae.groupby("exposure_id"):
        pair_id = pairs.loc[pairs["science_id"] == exposure_id, "pair_id"].iloc[0]
        difference = read_difference(tiny_triplets / "data/difference" / f"{pair_id}.fits")
        hidden = unusable(difference.dq)
        near = candidates[candidates["pair_id"] == pair_id]
        for row in rows.itertuples():
            x, y = round(row.x), round(row.y)
            inside_image = 8 <= x < hidden.shape[1] - 8 and 8 <= y < hidden.shape[0] - 8
            if not inside_image or hidden[y - 2 : y + 3, x - 2 : x + 3].any() or row.flux < 10 * difference.flux_err[y, x]:
                continue
            expected += 1
            found += bool(((near["x"] - row.x) ** 2 + (near["y"] - row.y) ** 2 < 9).any())
    assert expected >= 10
    assert found >= 0.9 * expected


def test_bogus_triplets_are_detections_and_stamps_are_one_grid(tiny_triplets: Path) -> None:
    store = TripletStore.open(tiny_triplets / "data/triplets")
    candidates = read_table(tiny_triplets / "data/candidates/candidates.parquet", CANDIDATES)
    assert set(store.table["candidate_id"]) <= set(candidates["candidate_id"])
    assert (store.table["snr"] >= 5.0 - 1e-6).all()
    assert {"cosmic_ray", "satellite_trail"} & set(store.table.loc[store.table["label"] == 0, "kind"])
    assert store.stamps(slice(0, 3)).shape == (min(3, len(store)), 3, 63, 63)


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_strategy_keeps_its_promise(project: Path, stages: RunStages, split: str) -> None:
    configure(project, f"split={split}")
    stages(project, ["split"])
    rows = parts(project)
    used = rows[rows["part"] != "unused"]
    promised = ("train",) if split == "training_only" else ("train", "validation", "test")
    assert set(used["part"]) == set(promised)
    for part in promised:
        assert set(used.loc[used["part"] == part, "label"]) == {0, 1}, part
    for key in ("event_id", "cell_id", "exposure_id"):
        assert (used.groupby(key)["part"].nunique() == 1).all(), key
    train, test = used[used["part"] != "test"], used[used["part"] == "test"]
    if split == "temporal":
        assert train["mjd"].max() < test["mjd"].min()
    if split == "cross_survey":
        assert not set(train["survey"]) & set(test["survey"])
    if split == "cross_instrument":
        assert not set(zip(train["survey"], train["detector"], strict=True)) & set(zip(test["survey"], test["detector"], strict=True))
    assert set(json.loads((project / "reports/split.json").read_text())["audit"]["leaks"].values()) == {0}


@pytest.mark.parametrize("model", MODELS)
def test_a_model_goes_from_triplets_to_the_registry(project: Path, stages: RunStages, model: str) -> None:
    """The tiny training is of no use, so the gates are opened and nothing is calibrated; that they refuse is the next test."""
    open_gates = ("aucpr_floor=0", "recall_floor=0", "calibration_ece=1", "pipeline=false")  # no dvc.lock: the stages run without DVC
    gates = tuple(f"registry.gates.{gate}" for gate in open_gates)
    configure(project, f"model={model}", "evaluate.calibration=none", *gates)
    stages(project, FROM_TRIPLETS)
    registered = json.loads((project / "reports/register.json").read_text())
    assert "onnx-champion" in registered["aliases"]
    assert (project / "reports/index.html").stat().st_size > 10_000
    engine = ScoringEngine.load(project / "models/export")
    store = TripletStore.open(project / "data/triplets")
    scores = engine.score(store.stamps(slice(None)))
    written = pd.read_parquet(project / "data/scores/scores.parquet").set_index("candidate_id")
    mine = pd.Series(scores.calibrated, index=store.table["candidate_id"])
    assert (mine[written.index] - written["score"]).abs().max() < 1e-4
    assert orient(store.stamps(slice(0, 1)), store.table["sign"].to_numpy()[:1]).shape == (1, 3, 63, 63)


def test_a_useless_model_is_refused_and_stays_a_candidate(project: Path, stages: RunStages) -> None:
    configure(project, "registry.gates.aucpr_floor=0.9999", "evaluate.calibration=none", "train.epochs=1")
    with pytest.raises(GateError, match="is not promoted"):
        stages(project, FROM_TRIPLETS)
    assert json.loads((project / "reports/register.json").read_text())["aliases"] == ["candidate"]


def test_a_users_folder_takes_the_same_way(tiny_triplets: Path, tmp_path: Path, stages: RunStages) -> None:
    """The simulated raw files, handed over as a user's folder with a table, give the same candidates."""
    raw = pd.read_parquet(tiny_triplets / "data/raw/exposures.parquet")
    mine = raw[(raw["survey"] == "simwide") & (raw["field_id"] == raw["field_id"].iloc[0])]
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in {name for key in ("path", "bias_path", "flat_path", "mask_path") for name in mine[key]}:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((tiny_triplets / "data/raw" / name).read_bytes())
    mine.to_csv(folder / "exposures.csv", index=False)
    project = new_project(tmp_path / "project")
    configure(
        project, "survey=folder", f"survey.folder.root={folder}", "survey.folder.table=exposures.csv", "survey.folder.calibrated=false"
    )
    stages(project, UP_TO_TRIPLETS)
    theirs = read_table(tiny_triplets / "data/candidates/candidates.parquet", CANDIDATES)
    ours = read_table(project / "data/candidates/candidates.parquet", CANDIDATES)
    same = theirs[theirs["exposure_id"].isin(mine["exposure_id"])]
    assert ours["candidate_id"].tolist() == same["candidate_id"].tolist()
    assert ours["snr"].to_numpy() == pytest.approx(same["snr"].to_numpy())
    with inside(project):
        assert (TripletStore.open(Path("data/triplets")).table["label"] == -1).all()

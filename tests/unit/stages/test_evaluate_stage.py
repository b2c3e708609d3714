"""The stage on a made-up survey: what it writes, that it is repeatable, and what it says when something is missing."""

import contextlib
import dataclasses
import json
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sklearn.ensemble import RandomForestClassifier

from astrid.config.schema.evaluate import EvaluateConfig
from astrid.config.schema.model import ModelConfig
from astrid.config.validate import validate
from astrid.core.errors import InputError
from astrid.core.runtime import write_json
from astrid.io.shards import ShardWriter
from astrid.io.tables import PAIRS, SPLITS, write_table
from astrid.learning import models
from astrid.learning.features import feature_matrix
from astrid.stages import evaluate

ROOT = Path(__file__).parents[3]
SURVEYS = {"deep": ("nova", ("A1", "A2"), ("g", "r")), "wide": ("lynx", ("C1", "C2"), ("r", "i")), "space": ("iris", ("S1",), ("f150w",))}
BOGUS = ("cosmic_ray", "dipole", "residual", "hot_pixel", "trail", "noise")
MODEL = {"name": "astrid_cnn", "normalization": "asinh_noise.v1", "width": 4, "dense": 8, "conv_dropout": 0.0, "dropout": 0.1}


def evaluate_settings(**changes):
    text = (ROOT / "conf/evaluate/default.yaml").read_text().replace("${seed}", "7")
    return {**yaml.safe_load(text), **changes}


def survey_table(events, rng):
    lines = []
    for event in range(events):
        survey = list(SURVEYS)[event % 3]
        instrument, detectors, filters = SURVEYS[survey]
        real = rng.random() < 0.4
        part = "train" if event < events * 0.4 else "validation" if event < events * 0.65 else "test"
        for _ in range(int(rng.integers(1, 7)) if real else int(rng.integers(1, 3))):
            snr = float(5 * np.exp(rng.exponential(0.8)))
            kind = ("SN Ia", "SN II", "variable")[event % 7 % 3] if real else BOGUS[event % len(BOGUS)]
            lines.append({
                "survey": survey, "instrument": instrument, "detector": detectors[event % len(detectors)],
                "filter": filters[event % len(filters)],
                "label": int(real), "kind": kind, "event_id": f"event{event:04d}", "cell_id": f"cell{event // 4}", "part": part, "snr": snr,
                "sign": 1 if rng.random() < 0.8 else -1, "host_dlr": float(rng.exponential(1.5)) if rng.random() < 0.7 else np.nan,
                "label_source": "truth", "scorable": True, "reason": "",
            })  # fmt: skip
    table = pd.DataFrame(lines)
    count = len(table)
    table["pair_id"] = [f"{row.survey}-sci{index // 25}__{row.survey}-ref" for index, row in enumerate(table.itertuples())]
    table["candidate_id"] = [f"{pair}:{index}" for index, pair in enumerate(table["pair_id"])]
    table["exposure_id"] = table["pair_id"].str.split("__").str[0]
    table["x"], table["y"] = rng.uniform(30, 480, count), rng.uniform(30, 480, count)
    for name in ("elongation", "sharpness", "roundness", "symmetry", "chi2", "fwhm", "psf_fwhm", "science_snr", "reference_snr"):
        table[name] = rng.normal(1.0 + 0.35 * table["label"], 0.5)
    for name in ("bad_fraction", "edge_distance", "star_distance"):
        table[name] = rng.uniform(0, 100, count)
    return table


def draw_stamps(table, rng):
    y, x = np.mgrid[-31:32, -31:32].astype(float)
    point = np.exp(-(x**2 + y**2) / (2 * 1.8**2))
    stamps = np.empty((len(table), 3, 63, 63), np.float32)
    for index, row in enumerate(table.itertuples()):
        host = 900 * np.exp(-np.hypot((x - 6) / 6.0, (y + 3) / 3.5))
        source = 14 * row.snr * point
        if not row.label:
            source = {
                "cosmic_ray": 40 * row.snr * (np.hypot(x, y) < 1.2),
                "dipole": 20 * row.snr * (np.roll(point, 2, 1) - np.roll(point, -2, 1)),
                "hot_pixel": 80 * row.snr * ((x == 0) & (y == 0)), "trail": 14 * row.snr * np.exp(-((y - 0.4 * x) ** 2) / 6),
            }.get(row.kind, 8 * row.snr * np.exp(-((np.hypot(x, y) - 5) ** 2) / 4))  # fmt: skip
        noise = rng.normal(0, 12, (3, 63, 63))
        stamps[index] = (host + source + noise[0], host + noise[1], source + 1.4 * noise[2])
        if index % 37 == 0:
            stamps[index, 1:, :, 50:] = np.nan
    return stamps


def train_a_little(stamps, table, steps):
    from astrid.datasets.normalize import normalize

    torch.manual_seed(3)
    cfg = validate(ModelConfig, MODEL, path="model")
    model = models.build(cfg)
    inputs = torch.from_numpy(normalize(stamps, cfg.normalization))
    truth = torch.tensor(table["label"].to_numpy(), dtype=torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    rows = np.flatnonzero((table["part"] == "train").to_numpy())
    for step in range(steps):
        chosen = torch.from_numpy(np.resize(np.roll(rows, -32 * step), 32))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(inputs[chosen]), truth[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return models.dump(model, cfg)


def make_project(folder, *, events=90, steps=6, replicates=60, gallery=3):
    rng = np.random.default_rng(11)
    table = survey_table(events, rng)
    stamps = draw_stamps(table, rng)
    with ShardWriter(folder / "data/triplets", 200) as writer:
        writer.append(stamps, table.drop(columns="part"))
    write_table(table[["candidate_id", "part"]].assign(group_id=table["event_id"]), folder / "data/splits/splits.parquet", SPLITS)
    pairs = table.drop_duplicates("pair_id")[["pair_id", "survey", "instrument", "detector", "filter"]]
    pairs = pairs.assign(science_id="a", reference_id="b", status="ok", q_registration_rms_px=rng.gamma(9, 0.006, len(pairs)))
    pairs = pairs.assign(
        q_score_std=rng.normal(1, 0.03, len(pairs)),
        q_score_std_raw=rng.normal(1.05, 0.05, len(pairs)),
        q_overlap=rng.uniform(0.9, 1, len(pairs)),
    )
    write_table(pairs, folder / "data/difference/pairs.parquet", PAIRS)
    train = folder / "models/train"
    train.mkdir(parents=True)
    (train / "model.pt").write_bytes(train_a_little(stamps, table, steps))
    fitted = table[table["part"] == "train"]
    forest = RandomForestClassifier(30, random_state=1).fit(feature_matrix(fitted), fitted["label"].to_numpy())
    joblib.dump(forest, train / "baseline.joblib")
    epochs = np.arange(1, 13)
    history = {"epoch": epochs, "train_loss": 0.6 * np.exp(-epochs / 4), "validation_loss": 0.65 * np.exp(-epochs / 5)}
    pd.DataFrame({**history, "validation_aucpr": 1 - 0.4 * np.exp(-epochs / 3)}).to_csv(train / "history.csv", index=False)
    write_json(train / "train.json", {"key": "k" * 64, "best_epoch": 10, "model": "astrid_cnn"})
    write_json(folder / "reports/split.json", {"strategy": "temporal"})
    params = {"evaluate": evaluate_settings(bootstrap_replicates=replicates, slice_replicates=20, gallery_examples=gallery), "seed": 7}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


class Tracked:
    """A tracked run that keeps what it is told."""

    def __init__(self):
        self.metrics, self.series, self.artifacts = {}, {}, []

    def log_metrics(self, metrics):
        self.metrics.update(metrics)

    def log_series(self, series, steps):
        self.series.update({name: (values, steps) for name, values in series.items()})

    def log_artifact(self, path, folder):
        assert path.exists()
        self.artifacts.append(folder)


@pytest.fixture
def tracked(monkeypatch):
    kept = Tracked()

    @contextlib.contextmanager
    def resume_run(key):
        assert key == "k" * 64
        yield kept

    monkeypatch.setattr("astrid.registry.tracking.resume_run", resume_run)
    return kept


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    make_project(folder)
    return folder


def products(folder):
    found = [p for name in ("models/evaluate", "data/scores", "reports") for p in sorted((folder / name).rglob("*")) if p.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_stage_writes_every_product_and_repeats_to_the_byte(project, monkeypatch, tracked):
    monkeypatch.chdir(project)
    evaluate.main()
    first = products(project)
    evaluate.main()
    assert products(project) == first

    point = json.loads(first["models/evaluate/operating_point.json"])
    numbers = json.loads(first["reports/evaluate.json"])
    scores = pd.read_parquet(project / "data/scores/scores.parquet")
    assert point["calibration"]["method"] == "platt"
    assert point["threshold"] == numbers["threshold.value"]
    assert (point["interval"], point["stream_prevalence"]) == (0.95, 0.01)
    assert numbers["test.aucpr_low"] <= numbers["test.aucpr"] <= numbers["test.aucpr_high"]
    assert set(scores["part"]) == {"validation", "test"}
    known = scores[(scores["part"] == "validation") & (scores["label"] == 1)]
    assert (known["score"] >= point["threshold"]).mean() >= 0.99

    page = first["reports/index.html"].decode()
    drawn = [name for name in first if name.startswith("reports/figures/")]
    assert len(drawn) >= 12
    assert all(name.removeprefix("reports/") in page for name in drawn)
    assert "simulated data" in page
    assert "split by time" in page
    assert all(f"reports/plots/{name}.csv" in first for name in ("precision_recall", "thresholds", "confusion", "reliability", "training"))

    assert tracked.metrics["test.aucpr"] == pytest.approx(numbers["test.aucpr"])
    recall, steps = tracked.series["threshold.recall"]
    assert list(steps) == list(range(101))
    assert recall[0] == 1.0
    assert set(tracked.artifacts) == {"figures", "report", "evaluate"}


def test_missing_training_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"models/train/model.pt does not exist; run the stage train"):
        evaluate.read_inputs()


def test_default_configuration_is_valid_and_complete():
    cfg = validate(EvaluateConfig, evaluate_settings(), path="evaluate")
    assert cfg.required_recall == 0.99
    assert {field.name for field in dataclasses.fields(cfg)} == set(evaluate_settings())

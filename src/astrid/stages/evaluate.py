"""Stage evaluate: calibrate and choose the threshold on validation, read the test part once, write numbers, figures and the report."""

from __future__ import annotations

import dataclasses
import json
import pickle
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from astrid.config.params import settings
from astrid.config.schema import EvaluateConfig
from astrid.core.errors import InputError
from astrid.core.provenance import digest_file, digest_settings, git_state
from astrid.core.runtime import atomic_path, log, rng_for, write_json
from astrid.io.shards import TripletStore
from astrid.io.tables import EVALUATED, PAIRS, SPLITS, read_table, write_table
from astrid.stages.common import prune, run

if TYPE_CHECKING:
    from astrid.evaluation.judge import Verdict
    from astrid.evaluation.metrics import Estimate, Rows
    from astrid.evaluation.report import Picture

TRAINED = Path("models/train")
TRIPLETS = Path("data/triplets")
SPLIT = Path("data/splits/splits.parquet")
SPLIT_RECORD = Path("reports/split.json")
DIFFERENCES = Path("data/difference")
OPERATING_POINT = Path("models/evaluate/operating_point.json")
SCORES = Path("data/scores/scores.parquet")
REPORTS = Path("reports")


@dataclass(frozen=True, eq=False)
class Inputs:
    """What the stage reads."""

    model: Any  # torch module
    model_name: str
    normalization: str
    forest: Any
    train: Mapping[str, Any]
    history: pd.DataFrame
    store: TripletStore
    splits: pd.DataFrame
    pairs: pd.DataFrame


@dataclass(frozen=True, eq=False)
class Part:
    """A part of the split with its raw scores: `rows` of the network, `baseline` of the forest, `table` and `index` in the store."""

    table: pd.DataFrame
    index: np.ndarray[tuple[int], np.dtype[np.int64]]
    rows: Rows
    baseline: Rows


@dataclass(frozen=True, eq=False)
class Findings:
    """Everything that was measured."""

    parts: Mapping[str, Part]
    network: Verdict
    forest: Verdict
    gain: Estimate
    slices: pd.DataFrame
    frames: Mapping[str, pd.DataFrame]  # of the plots


def main() -> None:
    """Read models/train, data/triplets, data/splits and data/difference; write models/evaluate, data/scores and reports."""
    cfg = settings(EvaluateConfig, "evaluate")
    inputs = read_inputs()
    findings = measure(inputs, cfg)
    write_json(OPERATING_POINT, operating_point(findings))
    write_table(score_frame(findings), SCORES, EVALUATED)
    write_json(REPORTS / "evaluate.json", summary(findings))
    write_plots(findings.frames)
    pictures = write_figures(inputs, findings, cfg)
    write_report(inputs, findings, pictures, cfg)
    track(inputs, findings)
    log.info("evaluate: test AUCPR %.4f at threshold %.4g", findings.network.metrics["aucpr"].value, findings.network.threshold.value)


def read_inputs() -> Inputs:
    """Read and check what training and the stages before it left. Raises `InputError` naming the first file that is missing."""
    import joblib

    from astrid.learning import models

    for name in ("model.pt", "train.json", "baseline.joblib", "history.csv"):
        if not (TRAINED / name).is_file():
            raise InputError(f"{TRAINED / name} does not exist; run the stage train.")
    model, model_cfg = models.load((TRAINED / "model.pt").read_bytes(), source=str(TRAINED / "model.pt"))
    return Inputs(
        model=model,
        model_name=model_cfg.name,
        normalization=model_cfg.normalization,
        forest=_load(TRAINED / "baseline.joblib", joblib.load),
        train=_load(TRAINED / "train.json", _read_json),
        history=_load(TRAINED / "history.csv", pd.read_csv),
        store=TripletStore.open(TRIPLETS),
        splits=read_table(SPLIT, SPLITS),
        pairs=read_table(DIFFERENCES / "pairs.parquet", PAIRS),
    )


def _load(path: Path, reader: Callable[[Path], Any]) -> Any:
    try:
        return reader(path)
    except (ValueError, EOFError, KeyError, IndexError, pickle.UnpicklingError, zlib.error) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} is broken ({first_line}); delete it and run the stage train again.") from error


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def measure(inputs: Inputs, cfg: EvaluateConfig) -> Findings:
    """Predict validation and test, and judge network and random forest in the same way."""
    from astrid.evaluation import figures, metrics, slices, threshold
    from astrid.evaluation.judge import judge, slice_settings

    rng = partial(rng_for, cfg.seed, "evaluate")
    parts = {name: predict_part(inputs, name, cfg.batch_size) for name in ("validation", "test")}
    known, unseen = parts["validation"], parts["test"]
    network = judge(known.rows, unseen.rows, cfg, rng("network"))
    forest = judge(known.baseline, unseen.baseline, cfg, rng("forest"))
    slicing = slice_settings(cfg, network.threshold.value)
    test, table = network.test, unseen.table
    frames = {
        "precision_recall": metrics.precision_recall_frame(test, network.settings, rng("curve")),
        "precision_recall_baseline": metrics.precision_recall_frame(forest.test, forest.settings, rng("curve")),
        "roc": metrics.roc_frame(test),
        "roc_baseline": metrics.roc_frame(forest.test),
        "thresholds": threshold.threshold_curves(test, step=cfg.threshold_step, prevalence=cfg.stream_prevalence),
        "reliability": figures.reliability_frame(test, cfg.reliability_bins),
        "reliability_raw": figures.reliability_frame(unseen.rows, cfg.reliability_bins),
        "recall_by_snr": slices.recall_by_snr(test, table, slicing, rng("snr")),
        "slices": slices.slice_metrics(test, table, slicing, rng("slices")),
        "confusion": confusion_frame(test, network.threshold.value),
        "training": inputs.history,
    }
    gain = metrics.compare_aucpr(unseen.rows, unseen.baseline.scores, network.settings, rng("gain"))
    return Findings(parts, network, forest, gain, frames["slices"], frames)


def predict_part(inputs: Inputs, name: str, batch: int) -> Part:
    """Raw scores of network and forest for one part. Raises `DataSetError` when the part lacks a class."""
    from astrid.evaluation.metrics import make_rows
    from astrid.learning.baseline import score_baseline
    from astrid.learning.loader import select
    from astrid.learning.predict import predict_rows

    chosen = select(inputs.store.table, inputs.splits, name)
    table = inputs.store.table.iloc[chosen.rows].reset_index(drop=True)
    raw = predict_rows(inputs.model, inputs.store, chosen.rows, inputs.normalization, batch)
    rows = make_rows(chosen.labels, raw, table["event_id"].to_numpy())
    return Part(table, chosen.rows, rows, rows.with_scores(score_baseline(inputs.forest, table)))


def confusion_frame(rows: Rows, threshold: float) -> pd.DataFrame:
    """Actual and predicted class of every row, as `dvc plots` wants a confusion matrix."""
    names = np.array(["bogus", "real"])
    return pd.DataFrame({"actual": names[rows.labels.astype(int)], "predicted": names[(rows.scores >= threshold).astype(int)]})


def score_frame(findings: Findings) -> pd.DataFrame:
    """Scores of validation and test, one row a detection."""
    frames = []
    for name, part in findings.parts.items():
        network = findings.network.calibration.apply(part.rows.scores)
        forest = findings.forest.calibration.apply(part.baseline.scores)
        ids, labels = part.table["candidate_id"], part.table["label"]
        columns = {"candidate_id": ids, "part": name, "label": labels, "score": network, "raw_score": part.rows.scores}
        frames.append(pd.DataFrame({**columns, "baseline_score": forest}))
    return pd.concat(frames, ignore_index=True)


def summary(findings: Findings) -> dict[str, float]:
    """Flat numbers for `dvc metrics`."""
    from astrid.evaluation.judge import flat_metrics

    network, forest = findings.network, findings.forest
    return {
        **flat_metrics("test", network.metrics),
        **flat_metrics("validation", network.validation_metrics),
        **flat_metrics("baseline", forest.metrics),
        **flat_metrics("test", {"aucpr_gain": findings.gain}),
        "threshold.value": network.threshold.value,
        "threshold.validation_recall": network.threshold.recall,
        "threshold.validation_recall_low": network.threshold.recall_low,
        "threshold.guaranteed": float(network.threshold.guaranteed),
        **{f"test.{name}": float(count) for name, count in network.confusion.items()},
        "test.rows": float(network.test.labels.size),
        "test.events": float(network.test.n_events),
    }


def operating_point(findings: Findings) -> dict[str, Any]:
    """What export puts into the model folder: threshold, calibration and the measured metrics."""
    network = findings.network
    return {
        "threshold": network.threshold.value,
        "calibration": network.calibration.to_dict(),
        "choice": dataclasses.asdict(network.threshold),
        "metrics": summary(findings),
        "interval": network.settings.interval,
        "stream_prevalence": network.settings.prevalence,
        "model_digest": digest_file(TRAINED / "model.pt"),
    }


def write_plots(frames: Mapping[str, pd.DataFrame]) -> None:
    """Write every plotted frame as CSV."""
    folder = REPORTS / "plots"
    for name, frame in frames.items():
        with atomic_path(folder / f"{name}.csv") as temporary:
            frame.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    prune(folder, [folder / f"{name}.csv" for name in frames])


def write_figures(inputs: Inputs, findings: Findings, cfg: EvaluateConfig) -> list[Picture]:
    """Draw and write every figure; returns the report's pictures in their order."""
    from astrid.evaluation.album import Album
    from astrid.evaluation.style import png_bytes

    test = findings.parts["test"]
    album = Album(cfg, findings.network, findings.forest, findings.frames)
    drawn = [
        *album.ranking(),
        *album.operating(),
        *album.probabilities(),
        *album.slices(),
        *album.galleries(test.table, lambda chosen: inputs.store.stamps(test.index[chosen])),
        *album.training(inputs.history, int(inputs.train.get("best_epoch", 0)), importances(inputs.forest)),
        *album.quality(inputs.pairs),
        *example_pair(inputs, test),
    ]
    folder = REPORTS / "figures"
    for picture, figure in drawn:
        with atomic_path(REPORTS / picture.file) as temporary:
            temporary.write_bytes(png_bytes(figure))
    prune(folder, [REPORTS / picture.file for picture, _ in drawn])
    return [picture for picture, _ in drawn]


def importances(forest: Any) -> dict[str, float]:
    """The random forest's feature importances by name."""
    from astrid.learning.features import FEATURES

    return dict(zip(FEATURES, map(float, forest.feature_importances_), strict=True))


def example_pair(inputs: Inputs, test: Part) -> list[tuple[Picture, Any]]:
    """The difference product with the most real test detections, where it is at hand."""
    from astrid.evaluation.gallery import pair_sheet
    from astrid.evaluation.report import Picture
    from astrid.io.fits import read_difference

    real = test.table[test.table["label"] == 1]
    counts = real.groupby("pair_id").size()
    pair_id = str(counts.sort_index(kind="stable").idxmax())
    path = DIFFERENCES / f"{pair_id}.fits"
    if not path.is_file():
        log.warning("evaluate: %s is not here, so the report shows no example pair", path)
        return []
    product = read_difference(path)
    marks = real.loc[real["pair_id"] == pair_id, ["x", "y"]].to_numpy(dtype=np.float64)
    planes = (product.science, product.reference, product.difference, product.score)
    info = product.info
    title = f"{pair_id}: {info.survey}, {info.instrument} {info.detector}, filter {info.filter}, MJD {info.mjd:.3f}"
    caption = "Circles mark the real test detections. Difference and score run from -6 to +6 sigma, red brighter, blue fainter."
    picture = Picture("data", "figures/example_pair.png", "One pair through the subtraction", caption, "wide")
    return [(picture, pair_sheet(planes, title, marks))]


def write_report(inputs: Inputs, findings: Findings, pictures: list[Picture], cfg: EvaluateConfig) -> None:
    """Write the context (models/evaluate/report.json) and the page (reports/index.html)."""
    from astrid.evaluation.judge import part_counts
    from astrid.evaluation.report import ReportInputs, build_context, render

    table = inputs.store.table
    usable = table[table["label"].isin((0, 1)) & table["scorable"]]
    parts = usable.merge(inputs.splits[["candidate_id", "part"]], on="candidate_id")
    network = findings.network
    context = build_context(
        ReportInputs(
            model=inputs.model_name,
            surveys=sorted(parts["survey"].unique()),
            split=split_strategy(),
            label_sources={str(name): int(count) for name, count in usable["label_source"].value_counts().items()},
            parts=part_counts(parts),
            metrics=network.metrics,
            validation=network.validation_metrics,
            baseline=findings.forest.metrics,
            gain=findings.gain,
            threshold=network.threshold,
            calibration=network.calibration.to_dict(),
            slices=findings.slices,
            pictures=pictures,
            lineage=lineage(inputs, cfg),
            prevalence=cfg.stream_prevalence,
            interval=cfg.interval,
            replicates=cfg.bootstrap_replicates,
        )
    )
    write_json(OPERATING_POINT.with_name("report.json"), context)
    with atomic_path(REPORTS / "index.html") as temporary:
        temporary.write_text(render(context))


def split_strategy() -> str:
    """The strategy's name from the stage split's record; empty where the record does not say."""
    if not SPLIT_RECORD.is_file():
        return ""
    return str(json.loads(SPLIT_RECORD.read_text()).get("strategy", ""))


def lineage(inputs: Inputs, cfg: EvaluateConfig) -> dict[str, dict[str, str]]:
    """Digests, commit and settings, by group."""
    section: Any = cfg
    plain = dataclasses.asdict(section)
    digests = {
        "triplets": inputs.store.digest,
        "splits": digest_file(SPLIT),
        "network": digest_file(TRAINED / "model.pt"),
        "random forest": digest_file(TRAINED / "baseline.joblib"),
        "settings of evaluate": digest_settings(plain),
        "git commit": git_state(Path())["commit"] or "not a git repository",
    }
    scalars = {key: str(value) for key, value in sorted(inputs.train.items()) if isinstance(value, str | int | float)}
    return {
        "Digests (SHA-256) and code": digests,
        "Training": {"normalisation": inputs.normalization, **scalars},
        "Settings of this stage": {key: str(value) for key, value in plain.items()},
    }


def track(inputs: Inputs, findings: Findings) -> None:
    """Add metrics, threshold curves and figures to the MLflow run of the training."""
    from astrid.registry.tracking import resume_run

    curves = findings.frames["thresholds"]
    with resume_run(str(inputs.train["key"])) as tracked:
        tracked.log_metrics({name: value for name, value in summary(findings).items() if np.isfinite(value)})
        for name in ("precision", "recall", "f1", "fpr", "fnr", "precision_at_prevalence"):
            known = curves[curves[name].notna()]
            tracked.log_series({f"threshold.{name}": list(known[name])}, steps=[int(step) for step in known["step"]])
        tracked.log_artifact(REPORTS / "figures", "figures")
        tracked.log_artifact(REPORTS / "index.html", "report")
        tracked.log_artifact(OPERATING_POINT, "evaluate")


if __name__ == "__main__":
    run(main)

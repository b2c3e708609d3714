"""One model's verdict: calibration and threshold from validation, every metric on both parts, in the same way for every model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from astrid.config.schema.evaluate import EvaluateConfig
from astrid.evaluation.calibration import Calibration, fit_calibration
from astrid.evaluation.metrics import Estimate, MetricSettings, Rows, confusion, evaluate
from astrid.evaluation.slices import SliceSettings
from astrid.evaluation.threshold import Threshold, choose_threshold


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a model is worth. `validation` and `test` hold calibrated scores."""

    calibration: Calibration
    threshold: Threshold
    validation: Rows
    test: Rows
    validation_metrics: Mapping[str, Estimate]
    metrics: Mapping[str, Estimate]
    confusion: Mapping[str, int]
    settings: MetricSettings


def judge(validation: Rows, test: Rows, cfg: EvaluateConfig, rng: np.random.Generator) -> Verdict:
    """Calibrate and choose the threshold on `validation`, then measure both parts. Both hold raw scores.

    Raises `DataSetError` when validation lacks a class.
    """
    calibration = fit_calibration(validation.scores, validation.labels, cfg.calibration)
    known = validation.with_scores(calibration.apply(validation.scores))
    unseen = test.with_scores(calibration.apply(test.scores))
    threshold = choose_threshold(known, required_recall=cfg.required_recall, confidence=cfg.confidence, bound=cfg.bound)
    settings = metric_settings(cfg, threshold.value, cfg.bootstrap_replicates)
    return Verdict(
        calibration=calibration,
        threshold=threshold,
        validation=known,
        test=unseen,
        validation_metrics=evaluate(known, settings, rng),
        metrics=evaluate(unseen, settings, rng),
        confusion=confusion(unseen, threshold.value),
        settings=settings,
    )


def metric_settings(cfg: EvaluateConfig, threshold: float, replicates: int) -> MetricSettings:
    """The metrics' settings from the configuration."""
    return MetricSettings(
        threshold=threshold,
        replicates=replicates,
        interval=cfg.interval,
        prevalence=cfg.stream_prevalence,
        false_positive_rates=tuple(cfg.false_positive_rates),
        bins=cfg.reliability_bins,
    )


def slice_settings(cfg: EvaluateConfig, threshold: float) -> SliceSettings:
    """The slices' settings from the configuration."""
    return SliceSettings(tuple(cfg.snr_edges), tuple(cfg.dlr_edges), metric_settings(cfg, threshold, cfg.slice_replicates))


def flat_metrics(part: str, metrics: Mapping[str, Estimate]) -> dict[str, float]:
    """Numbers under flat names: `<part>.<metric>`, and with `_low` and `_high` the ends of the interval; NaN stays NaN."""
    out = {}
    for name, estimate in metrics.items():
        out[f"{part}.{name}"] = estimate.value
        out[f"{part}.{name}_low"] = estimate.low
        out[f"{part}.{name}_high"] = estimate.high
    return out


def part_counts(table: pd.DataFrame) -> pd.DataFrame:
    """Counts of a frame with the columns part, label and event_id: part, rows, real, bogus, events; train first, test last."""
    lines = []
    for part in ("train", "validation", "test"):
        own = table[table["part"] == part]
        real = int((own["label"] == 1).sum())
        lines.append((part, len(own), real, int((own["label"] == 0).sum()), int(own["event_id"].nunique())))
    return pd.DataFrame(lines, columns=["part", "rows", "real", "bogus", "events"])

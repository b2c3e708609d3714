"""Section `evaluate`: calibration, threshold, intervals, slices and the report."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from astrid.config.schema._base import PositiveCount, Seed, section

OpenFraction = Annotated[float, Field(gt=0, lt=1)]
Edges = Annotated[tuple[float, ...], Field(min_length=1)]


@section
class EvaluateConfig:
    """How a trained model is judged; validation chooses calibration and threshold, test is read once."""

    seed: Seed
    batch_size: PositiveCount  # triplets in one forward pass
    calibration: Literal["platt", "isotonic", "none"]
    required_recall: OpenFraction  # the threshold is the largest that keeps this recall on validation
    confidence: OpenFraction  # of the one-sided lower bound on that recall
    bound: Literal["clopper_pearson", "wilson"]
    bootstrap_replicates: PositiveCount
    slice_replicates: PositiveCount
    interval: OpenFraction  # coverage of the percentile intervals
    stream_prevalence: OpenFraction  # fraction of real ones among the detections of a survey's stream
    false_positive_rates: Annotated[tuple[OpenFraction, ...], Field(min_length=1)]
    reliability_bins: PositiveCount
    threshold_step: OpenFraction
    snr_edges: Edges  # inner bin edges; the outer bins are open
    dlr_edges: Edges  # inner bin edges, directional light radii
    gallery_examples: PositiveCount  # triplets in one gallery

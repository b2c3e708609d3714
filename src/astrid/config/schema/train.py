"""How a network and the baseline are trained."""

from __future__ import annotations

from typing import Literal

from astrid.config.schema._base import Count, NonNegative, Positive, PositiveCount, Seed, section


@section
class AugmentConfig:
    """What is done to a training triplet on the fly; validation and test stamps are never touched."""

    turns: Literal["none", "d4"]  # d4: one of the 8 flips and quarter turns, drawn anew each epoch
    shift: Count  # px; whole-pixel shift of up to this much along each axis
    noise: NonNegative  # standard deviation of added Gaussian noise, in the unit of the normalised stamp; 0 = none


@section
class BaselineConfig:
    """The random forest on the candidates' measured features."""

    trees: PositiveCount
    min_leaf: PositiveCount  # fewest training rows in a leaf


@section
class TrainConfig:
    """Optimiser, schedule, stopping rule and data handling."""

    seed: Seed
    epochs: PositiveCount  # at most
    patience: PositiveCount  # epochs without a better validation AUCPR before training stops
    min_delta: NonNegative  # smallest gain in validation AUCPR that counts as better
    batch_size: PositiveCount  # triplets
    optimizer: Literal["adamw", "adam"]
    learning_rate: Positive  # peak
    weight_decay: NonNegative
    schedule: Literal["cosine", "constant"]  # after the warm-up; cosine falls to zero at `epochs`
    warmup_epochs: NonNegative  # epochs of linear rise from zero
    gradient_clip: Positive  # largest L2 norm of the gradient of a step
    balance: Literal["loss", "sampling", "none"]
    augment: AugmentConfig
    baseline: BaselineConfig
    device: Literal["auto", "cpu", "cuda"]
    threads: Count  # of torch on the CPU; 0 = every core; the last bits of a result depend on it
    cache_mb: NonNegative  # MB; normalised stamps are kept in memory up to this size, beyond it each batch is read and normalised anew

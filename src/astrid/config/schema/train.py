"""How a network and the baseline are trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from astrid.config.schema._base import Count, Fraction, NonNegative, Positive, PositiveCount, Seed, section


@section
class AugmentConfig:
    """What is done to a training triplet on the fly; validation and test stamps are never touched.

    `turns`, `shift` and `swap` change no flux; the effects after `share` act on raw stamps, before they are normalised.
    The largest values allowed are those up to which a triplet keeps the meaning of its label.
    """

    turns: Literal["none", "d4"]  # d4: one of the 8 flips and quarter turns, drawn anew each epoch
    shift: Annotated[int, Field(ge=0, le=8)]  # px; whole-pixel shift of up to this much along each axis
    swap: Fraction  # of the triplets whose science and reference change places: a fading source for a brightening one
    share: Fraction  # of the triplets that are open to the effects below, each of which strikes half of them; 0 = none
    subpixel: Annotated[float, Field(ge=0, le=1)]  # px; largest shift along each axis
    gain: Annotated[float, Field(ge=0, le=0.2)]  # standard deviation of the relative error of one epoch's flux scale
    blur: Annotated[float, Field(ge=0, le=1)]  # px; largest sigma of the Gaussian by which one epoch's PSF is wider
    background: NonNegative  # standard deviation of sky left in science and reference, in units of the stamp's noise
    gradient: NonNegative  # the same of a slope of one epoch's sky, at the stamp's edge
    noise: Annotated[float, Field(ge=0, le=1)]  # largest standard deviation of added noise, in units of the stamp's own
    border: Annotated[float, Field(ge=0, le=23)]  # px; widest strip beyond a chip's edge: NaN, at least 8.5 px from the source
    cores: Annotated[float, Field(ge=0, le=8)]  # px; farthest that a mask about a bright neighbour's peak reaches to each side


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
    epoch_rows: Count  # triplets of one epoch at most, drawn anew each time; 0 = all
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
    precision: Literal["float32", "bfloat16"]  # of the products of a training step; weights, loss, validation and scores stay float32
    threads: Count  # of torch on the CPU; 0 = every core; the last bits of a result depend on it
    cache_mb: (
        NonNegative  # MB; normalised stamps stay in memory up to this size, training before validation; beyond it batches are read anew
    )
    loaders: Count | Literal["auto"]  # processes that prepare batches ahead of the training; 0 = in line; the result does not depend on it

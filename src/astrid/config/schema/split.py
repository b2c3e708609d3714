"""The `split` group: what is held out, and how much."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from astrid.config.schema._base import Count, PositiveCount, Seed, section

Share = Annotated[float, Field(gt=0, lt=1)]


@section
class SuspectsConfig:
    """The forest whose out-of-fold scores say which labels are in doubt."""

    folds: Count  # 0 = look for none
    trees: PositiveCount  # a fold
    min_leaf: PositiveCount  # triplets
    tree_rows: PositiveCount  # most triplets that a tree grows on


@section
class SplitConfig:
    """One strategy and its numbers; a key that a strategy does not use is kept but has no effect."""

    seed: Seed
    strategy: Literal["temporal", "cross_instrument", "cross_survey", "random_grouped", "training_only"]
    test_fraction: Share  # temporal: share of rows after the cut; random_grouped: share of the test part
    validation_fraction: Share  # share of the training side that becomes validation
    cut_mjd: float | None  # d; temporal: the cut itself; null = the quantile that test_fraction asks for
    held_out: tuple[str, ...]  # cross_*: names of detectors, instruments or surveys; empty = the last of each in sorted order
    held_out_column: Literal["detector", "instrument"]  # cross_instrument: what a name of held_out means
    straddling_to_test: Share  # share of the groups on both sides of the boundary that go to test; the rest go to train
    suspects: SuspectsConfig

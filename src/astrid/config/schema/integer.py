"""The full-integer artifact: its calibration, its training where calibration is not enough, and the Edge TPU compiler."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from astrid.config.schema._base import Count, NonNegative, Positive, PositiveCount, section

Edges = Annotated[tuple[float, ...], Field(max_length=16)]


@section
class PlaneConfig:
    """The plane that calibration has to cover: the candidate's S/N over the S/N of the light under it in the reference."""

    snr_edges: Edges  # inner edges of the bins of |snr|, ascending (sigma)
    light_edges: Edges  # inner edges of the bins of reference_snr, ascending (sigma)
    share: Annotated[float, Field(ge=0, lt=1)]  # of all triplets that a cell has to hold before it must be covered
    least: PositiveCount  # triplets drawn from a cell that count as covering it


@section
class TuningConfig:
    """Quantisation-aware training, where calibration alone loses more than it may."""

    steps: Count  # of the optimiser; 0 = never
    batch: PositiveCount  # triplets a step
    learning_rate: Positive
    aucpr_loss: NonNegative  # on validation; above it the network is tuned
    recall_loss: NonNegative  # on validation at the threshold, a fraction; above it, and above one real row, the network is tuned


@section
class CompilerConfig:
    """The Edge TPU compiler."""

    path: str  # empty = edgetpu_compiler on PATH
    limit: Positive  # s, after which it is ended


@section
class IntegerConfig:
    """What the integer exporter writes."""

    stamps: PositiveCount  # triplets to calibrate on, drawn from the training part
    batches: Annotated[
        tuple[PositiveCount, ...], Field(min_length=1)
    ]  # sizes of batch, a file each; the first is that of model.int8.tflite
    output: Literal["logit", "probability"]  # what the graph gives
    plane: PlaneConfig
    tuning: TuningConfig
    compiler: CompilerConfig

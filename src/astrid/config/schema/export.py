"""The model folder: the ONNX graph and its gate, the integer artifacts, and how they are compared."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from astrid.config.schema._base import Count, NonNegative, Positive, PositiveCount, Seed, section
from astrid.config.schema.integer import IntegerConfig


@section
class ParityConfig:
    """Agreement of the artifact with the network it was made from."""

    limit: Positive  # largest allowed |difference of probability| on any stamp
    stamps: PositiveCount  # triplets of the store to compare on: every test row, and drawn ones up to this
    hostile: PositiveCount  # adversarial stamps a case
    damaged: Count  # triplets of the store that are damaged, in each way
    batch: PositiveCount  # triplets a call


@section
class CompareConfig:
    """What every artifact loses against the network on the test rows."""

    replicates: PositiveCount  # of the bootstrap over events
    interval: Annotated[float, Field(gt=0, lt=1)]  # coverage of the percentile intervals
    snr_edges: Annotated[tuple[Positive, ...], Field(min_length=1)]  # inner edges of the S/N bins (sigma)
    latency_batches: Annotated[tuple[PositiveCount, ...], Field(min_length=1)]  # triplets a call at which the time is measured
    latency_turns: PositiveCount  # of artifact and float graph each


@section
class OnnxInt8Config:
    """Losses beyond which the int8 ONNX artifact is left out."""

    aucpr_loss: NonNegative
    recall_loss: NonNegative  # at the threshold, a fraction


@section
class ExportConfig:
    """What the exporter writes."""

    seed: Seed
    opset: Annotated[int, Field(ge=18)]  # ONNX operator set; torch's exporter starts at 18
    optimize: bool  # fold constants and join layers before the graph is written
    parity: ParityConfig
    compare: CompareConfig
    onnx_int8: OnnxInt8Config
    integer: IntegerConfig

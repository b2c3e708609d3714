"""The ONNX artifact and the gate that it has to pass."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from astrid.config.schema._base import Positive, PositiveCount, Seed, section


@section
class ParityConfig:
    """Agreement of the artifact with the network it was made from."""

    limit: Positive  # largest allowed |difference of probability| on any stamp
    stamps: PositiveCount  # real triplets to compare on, drawn from the store; the adversarial ones come on top
    batch: PositiveCount  # triplets a call


@section
class ExportConfig:
    """What the exporter writes."""

    seed: Seed
    opset: Annotated[int, Field(ge=18)]  # ONNX operator set; torch's exporter starts at 18
    parity: ParityConfig

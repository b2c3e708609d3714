"""The network: which architecture, how wide, and which normalisation its stamps have."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from astrid.config.schema._base import PositiveCount, section

Dropout = Annotated[float, Field(ge=0, lt=1)]


@section
class ModelConfig:
    """One network; `learning.models.build` turns it into layers."""

    name: Literal["astrid_cnn", "braai", "resnet18"]
    normalization: str  # id of datasets.normalize, kept with the model; e.g. "asinh_noise.v1"
    width: PositiveCount  # channels of the first convolution; later blocks are multiples of it
    dense: PositiveCount  # units of the hidden dense layer; without effect in resnet18, which has none
    conv_dropout: Dropout  # share of activations dropped after a convolution block; without effect in astrid_cnn and resnet18
    dropout: Dropout  # share of activations dropped before the last layer

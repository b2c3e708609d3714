"""AstrID's first network: three convolution blocks and a dense layer."""

from __future__ import annotations

from torch import nn

from astrid.config.schema.model import ModelConfig
from astrid.learning.models.initial import he_normal

_BLOCKS = (1, 2, 4)  # channels of the blocks over the width: 32-64-128 at width 32
_POOLED = 7  # px, side of the map after three max-pools of a 63-pixel stamp: 63 -> 31 -> 15 -> 7


def layers(cfg: ModelConfig) -> nn.Sequential:
    """3x3 convolutions with max-pool and ReLU, then dense, dropout, one output: (n, 3, 63, 63) -> (n, 1).

    ReLU grows with its input, so it commutes with the max-pool, values and gradients alike; behind it, it works on a quarter
    of the pixels.
    """
    stack: list[nn.Module] = []
    channels = 3
    for factor in _BLOCKS:
        stack += [nn.Conv2d(channels, factor * cfg.width, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()]
        channels = factor * cfg.width
    head = [nn.Flatten(), nn.Linear(channels * _POOLED**2, cfg.dense), nn.ReLU(), nn.Dropout(cfg.dropout), nn.Linear(cfg.dense, 1)]
    network = nn.Sequential(*stack, *head)
    he_normal(network)
    return network

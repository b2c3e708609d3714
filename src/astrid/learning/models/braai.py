"""The VGG6 of braai (Duev et al. 2019, MNRAS 489, 3582, Sec. 3 and Fig. 4)."""

from __future__ import annotations

from torch import nn

from astrid.config.schema.model import ModelConfig
from astrid.learning.models.initial import he_normal

_POOLED = 6  # px, side of the last map: 63 -> 61 -> 59 -> pool 2 -> 29 -> 27 -> 25 -> pool 4 -> 6 (valid convolutions)


def layers(cfg: ModelConfig) -> nn.Sequential:
    """Two blocks of two 3x3 convolutions without padding, pools of 2 and 4, then dense, dropout, one output: (n, 3, 63, 63) -> (n, 1).

    The ReLU before a max-pool stands behind it, which gives the same values and gradients for less work.
    """
    first, second = cfg.width, 2 * cfg.width
    network = nn.Sequential(
        nn.Conv2d(3, first, 3),
        nn.ReLU(),
        nn.Conv2d(first, first, 3),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Dropout(cfg.conv_dropout),
        nn.Conv2d(first, second, 3),
        nn.ReLU(),
        nn.Conv2d(second, second, 3),
        nn.MaxPool2d(4),
        nn.ReLU(),
        nn.Dropout(cfg.conv_dropout),
        nn.Flatten(),
        nn.Linear(second * _POOLED**2, cfg.dense),
        nn.ReLU(),
        nn.Dropout(cfg.dropout),
        nn.Linear(cfg.dense, 1),
    )
    he_normal(network)
    return network

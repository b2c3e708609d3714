"""ResNet-18 of torchvision's zoo (He et al. 2016, CVPR) with a stem for small stamps."""

from __future__ import annotations

from typing import Any

from torch import nn

from astrid.config.schema.model import ModelConfig
from astrid.core.errors import ConfigError
from astrid.learning.shim import ensure_torchvision

_STEM = 64  # channels: torchvision's ResNet-18 is built on it


def layers(cfg: ModelConfig) -> nn.Module:
    """The zoo's network without weights: a 3x3 stem of stride 2 without max-pool, and a dropout head: (n, 3, 63, 63) -> (n, 1).

    Raises `ConfigError` for a width other than 64.
    """
    if cfg.width != _STEM:
        raise ConfigError(f"model.width = {cfg.width} is not allowed for resnet18: torchvision's network has {_STEM}; set it to {_STEM}.")
    ensure_torchvision()
    from torchvision.models import resnet18

    network: Any = resnet18(weights=None, num_classes=1)
    network.conv1 = nn.Conv2d(3, _STEM, kernel_size=3, stride=2, padding=1, bias=False)
    network.maxpool = nn.Identity()
    network.fc = nn.Sequential(nn.Dropout(cfg.dropout), nn.Linear(network.fc.in_features, 1))
    built: nn.Module = network
    return built

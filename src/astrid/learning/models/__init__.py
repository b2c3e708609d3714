"""The networks: normalised triplets (n, 3, 63, 63) float32 in, logits (n,) out."""

from __future__ import annotations

import dataclasses
import io
import pickle
import zipfile
from typing import Any

import torch
from torch import nn

from astrid.config.schema.model import ModelConfig
from astrid.config.validate import validate
from astrid.core.errors import InputError
from astrid.learning.models import astrid_cnn, braai, resnet

__all__ = ["STAMP_SIZE", "build", "count_weights", "dump", "from_bytes", "load", "to_bytes"]

STAMP_SIZE = 63  # px, side of a stamp

_BUILDERS = {"astrid_cnn": astrid_cnn.layers, "braai": braai.layers, "resnet18": resnet.layers}


class RealBogus(nn.Module):
    """A network with one output, flattened to one logit a triplet."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, triplets: torch.Tensor) -> torch.Tensor:
        """Logits, float32 (n,), of normalised triplets, float32 (n, 3, 63, 63)."""
        logits: torch.Tensor = self.layers(triplets)
        return logits.squeeze(1)


def build(cfg: ModelConfig) -> nn.Module:
    """The untrained network of a configuration, float32, in training mode; its weights come from torch's global generator.

    Raises `ConfigError` where the architecture cannot have the asked shape.
    """
    model = RealBogus(_BUILDERS[cfg.name](cfg))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def count_weights(model: nn.Module) -> int:
    """How many trainable numbers a network has."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def dump(model: nn.Module, cfg: ModelConfig) -> bytes:
    """A network and its configuration as bytes; the same weights give the same bytes."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return to_bytes({"model": dataclasses.asdict(cfg), "state": state})


def load(content: bytes, *, source: str) -> tuple[nn.Module, ModelConfig]:
    """The network, in evaluation mode on the CPU, and its configuration. Raises `InputError` naming `source` when it is not one."""
    stored = from_bytes(content, source=source)
    if not {"model", "state"} <= set(stored):
        raise InputError(f"{source} holds no AstrID network; run the train stage again.")
    cfg = validate(ModelConfig, stored["model"], path=f"{source}: model")
    model = build(cfg)
    try:
        model.load_state_dict(stored["state"])
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise InputError(f"{source} does not fit the network {cfg.name} ({first}); run the train stage again.") from error
    return model.eval(), cfg


def to_bytes(content: dict[str, Any]) -> bytes:
    """Plain values and tensors as bytes in torch's format, without a file name in them, so that equal content gives equal bytes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def from_bytes(content: bytes, *, source: str) -> dict[str, Any]:
    """Read what `to_bytes` wrote; nothing but plain values and tensors is unpickled. Raises `InputError` naming `source`."""
    advice = f"{source} is not a readable torch file; delete it and run the train stage again."
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise InputError(advice)
    try:
        stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise InputError(advice) from error
    if not isinstance(stored, dict):
        raise InputError(f"{source} holds a {type(stored).__name__} where a mapping belongs; delete it and run the train stage again.")
    return stored

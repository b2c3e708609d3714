"""Quantisation-aware training: a trained graph learns to give its own scores with int8 weights and values.

Forward, weights and values are rounded as the integer graph rounds them (Jacob et al. 2018, CVPR, Sec. 3); backward, rounding
counts as the identity inside its range (straight-through). The target is the float network's own logit, so no label is needed
and nothing but the loss of rounding is learned; the scales of the values stay as they were calibrated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from astrid.config.schema.integer import TuningConfig
from astrid.core.errors import DataSetError
from astrid.datasets.normalize import Stamps
from astrid.learning.graph import Graph, Operator, Runner

Draw = Callable[[int, np.random.Generator], Stamps]  # how many -> normalised triplets, float32 (n, 3, 63, 63)

_WEIGHT = 127
_LOW, _HIGH = -128, 127
_SMALLEST = 1e-8  # of a scale
_HUBER = 1.0  # of the logit: beyond it the loss grows linearly
_CLIP = 1.0  # norm of the gradient


class Imitation(Runner):
    """A graph that rounds as its integer form does. `scales`: (scale, zero-point) of every value, in the order of the values."""

    def __init__(self, graph: Graph, scales: Sequence[tuple[float, int]]) -> None:
        super().__init__(graph)
        self.scales = tuple(scales)

    def value(self, number: int, value: torch.Tensor) -> torch.Tensor:
        """The value on its 256 codes."""
        scale, zero_point = self.scales[number]
        return _rounded(value, torch.tensor(scale, dtype=value.dtype), _LOW - zero_point, _HIGH - zero_point)

    def weight(self, operator: Operator, weight: torch.Tensor) -> torch.Tensor:
        """The weights on their 255 codes, one scale a channel of a convolution, one for all of a dense layer."""
        largest = weight.detach().abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True)
        if operator.kind == "dense":
            largest = largest.amax()
        return _rounded(weight, (largest / _WEIGHT).clamp_min(_SMALLEST), -_WEIGHT, _WEIGHT)


def tune(graph: Graph, scales: Sequence[tuple[float, int]], draw: Draw, cfg: TuningConfig, rng: np.random.Generator) -> Graph:
    """The graph with weights that lose less by rounding.

    Parameters
    ----------
    graph
        As `learning.graph.from_network` gives it.
    scales
        (scale, zero-point) of every value, as they were calibrated and will be written.
    draw
        Gives so many normalised triplets of the training part, float32 (n, 3, 63, 63).
    cfg
        Steps, triplets a step, learning rate.

    Raises `DataSetError` when training leaves numbers that are not finite.
    """
    teacher, student = Runner(graph).eval(), Imitation(graph, scales)
    optimizer = torch.optim.Adam(student.parameters(), lr=cfg.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(cfg.steps, 1))
    for _ in range(cfg.steps):
        triplets = torch.from_numpy(draw(cfg.batch, rng))
        with torch.no_grad():
            wanted = teacher(triplets)
        loss = functional.huber_loss(student(triplets), wanted, delta=_HUBER)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(student.parameters(), _CLIP)
        optimizer.step()
        schedule.step()
    tuned = student.changed()
    numbers = [part for one in tuned.operators for part in (one.weights, one.bias) if part is not None]
    if not all(np.isfinite(part).all() for part in numbers):
        raise DataSetError(f"quantisation-aware training diverged at a learning rate of {cfg.learning_rate:g}; lower it.")
    return tuned


def _rounded(value: torch.Tensor, scale: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """scale * round(value / scale) within its codes; its gradient is 1 inside of them and 0 outside."""
    kept = torch.minimum(torch.maximum(value, scale * low), scale * high)
    nearest = scale * torch.clamp(torch.round(value.detach() / scale), low, high)
    return kept + (nearest - kept).detach()

"""Full-integer numbers for a graph: int8 weights and values, int32 biases, and the triplets that their scales are measured on.

The scheme is the one that the Edge TPU compiler takes (Jacob et al. 2018, CVPR, eq. 1: real = scale * (code - zero-point)):
weights symmetric, one scale a channel in convolutions and one a tensor in dense layers; values with a zero-point, one scale a
tensor; biases int32 in units of the product of both scales.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from astrid.core.errors import DataSetError
from astrid.datasets.normalize import CODES, Stamps

if TYPE_CHECKING:
    import pandas as pd

    from astrid.config.schema.integer import PlaneConfig
    from astrid.learning.graph import Graph, Operator

Output = Literal["logit", "probability"]
Rows = NDArray[np.int64]

_LOW, _HIGH = -128, 127  # codes of a value
_WEIGHT = 127  # weights are symmetric: -127 to 127
_BIAS = 2**31 - 1
_KEEP = ("max_pool", "mean_pool", "flatten", "pad")  # their output has the scale of their input
_SMALLEST = 1e-8  # of a scale; below it a channel is nothing but zeros
_LAST_LOGIT = float(np.log(511))  # its probability is half a step of 1/256 from 1
# Values of these normalisations fill -1 to 1; the codes of asinh_int8.v1 are then exactly its own integers.
_INPUTS = ("asinh_noise.v1", "asinh_int8.v1")


@dataclass(frozen=True)
class Scale:
    """real = scale * (code - zero_point), of int8 codes."""

    scale: float
    zero_point: int


PROBABILITY = Scale(1 / 256, -128)  # the one that TFLite's integer LOGISTIC has for its output


@dataclass(frozen=True, eq=False)
class Weights:
    """int8 weights, their scales float32 (channels,) or (1,), and the bias, int32, in units of scale * the input's scale."""

    weights: NDArray[np.int8]
    scales: NDArray[np.float32]
    bias: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class IntegerGraph:
    """A graph with the scale of each of its values and the integers of each operator that has weights."""

    graph: Graph
    values: tuple[Scale, ...]
    weights: tuple[Weights, ...]
    output: Output


@dataclass(frozen=True, eq=False)
class Drawn:
    """Rows to calibrate on, ascending, and what each cell of the plane holds (rows of all, drawn rows)."""

    rows: Rows
    cells: Mapping[str, tuple[int, int]]


def draw_over_plane(table: pd.DataFrame, allowed: Rows, wanted: int, plane: PlaneConfig, rng: np.random.Generator) -> Drawn:
    """Draw triplets to calibrate on, the same number from every cell of the S/N plane as far as the cells go.

    Parameters
    ----------
    table
        Every triplet that the artifact will be asked about: the columns `snr` and `reference_snr` of TRIPLETS.
    allowed
        Rows of `table` that may be drawn: the training part's scorable ones.
    wanted
        How many to draw at most.

    Raises
    ------
    DataSetError
        When a cell that holds `plane.share` of all triplets gets fewer than `plane.least` of the drawn ones: ranges measured
        without them would cut off what such triplets do in the network, and nothing downstream would notice.
    """
    if len(allowed) == 0 or wanted < 1:
        raise DataSetError(
            f"{wanted} triplets of {len(allowed)} allowed cannot calibrate an integer model; give triplets of the training part."
        )
    cells = _cells(table, plane)
    rows = _spread(cells, allowed, wanted, rng)
    names = _cell_names(plane)
    everything, drawn = (np.bincount(one, minlength=len(names)) for one in (cells, cells[rows]))
    needed = everything >= max(plane.share * len(table), 1)
    bare = np.flatnonzero(needed & (drawn < plane.least))
    if len(bare):
        worst = bare[np.argmax(everything[bare])]
        raise DataSetError(
            f"the calibration triplets do not cover the S/N plane: {len(bare)} of {int(needed.sum())} cells that matter hold fewer than "
            f"{plane.least} of them, first {names[worst]} with {drawn[worst]} where {everything[worst]} of {len(table)} triplets lie; "
            "draw more, or widen the training part."
        )
    return Drawn(rows, {name: (int(all_), int(got)) for name, all_, got in zip(names, everything, drawn, strict=True) if all_})


def calibrate(graph: Graph, batches: Iterable[Stamps], normalization_id: str, output: Output) -> IntegerGraph:
    """The integers of a graph, its values' scales from their smallest and largest number over calibration triplets.

    `batches`: normalised triplets, float32 (n, 3, 63, 63). Nothing is averaged: a moving average of the extremes, as some
    tools keep it, cuts off the bright triplets, which decide the logit's range.

    Raises `DataSetError` without a triplet.
    """
    return integers(graph, value_scales(graph, ranges(graph, batches), normalization_id, output), output)


def ranges(graph: Graph, batches: Iterable[Stamps]) -> NDArray[np.float64]:
    """Smallest and largest number of every value over triplets, float64 (values, 2). Raises `DataSetError` without a triplet."""
    import torch

    from astrid.learning.graph import Runner

    found = np.tile(np.array([np.inf, -np.inf]), (len(graph.shapes), 1))

    class Watching(Runner):
        def value(self, number: int, value: torch.Tensor) -> torch.Tensor:
            found[number] = min(found[number, 0], float(value.min())), max(found[number, 1], float(value.max()))
            return value

    runner = Watching(graph).eval()
    with torch.inference_mode():
        for batch in batches:
            if len(batch):
                runner(torch.from_numpy(batch))
    if not np.isfinite(found).all():
        raise DataSetError("no finite triplet came to calibrate on; draw them from the training part of the store.")
    return found


def value_scales(graph: Graph, extremes: NDArray[np.float64], normalization_id: str, output: Output) -> tuple[Scale, ...]:
    """The scale of every value from its extremes (values, 2); operators that only move numbers keep the scale of their input.

    Where the output is the probability, the logit needs no range beyond half a step of 1/256 from 0 and from 1.
    """
    scales = [Scale(1 / CODES, 0) if normalization_id in _INPUTS else scale_of(*extremes[0])]
    for number, operator in enumerate(graph.operators):
        low, high = extremes[number + 1]
        if number + 1 == len(graph.operators) and output == "probability":
            low, high = max(low, -_LAST_LOGIT), min(high, _LAST_LOGIT)
        scales.append(scales[operator.inputs[0]] if operator.kind in _KEEP else scale_of(low, high))
    return tuple(scales)


def scale_of(low: float, high: float) -> Scale:
    """The scale whose 256 codes reach from `low` to `high`; 0 is always a code, since padding and ReLU need it exactly."""
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    scale = max((high - low) / (_HIGH - _LOW), _SMALLEST)
    return Scale(scale, int(np.clip(round(_LOW - low / scale), _LOW, _HIGH)))


def integers(graph: Graph, values: tuple[Scale, ...], output: Output) -> IntegerGraph:
    """The graph with given scales of its values and its weights in integers."""
    weights = tuple(_weights(one, values[one.inputs[0]]) for one in graph.operators if one.weights is not None)
    return IntegerGraph(graph, values, weights, output)


def weight_scales(operator: Operator, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """One scale a channel of a convolution, float32 (out,), one for all of a dense layer, (1,)."""
    flat = np.abs(weights).reshape(len(weights), -1)
    largest = flat.max(axis=1) if operator.kind == "conv" else flat.max().reshape(1)
    scales: NDArray[np.float32] = np.maximum(largest / np.float32(_WEIGHT), np.float32(_SMALLEST))
    return scales


def _weights(operator: Operator, given: Scale) -> Weights:
    assert operator.weights is not None
    assert operator.bias is not None
    scales = weight_scales(operator, operator.weights)
    spread = scales.reshape(-1, *[1] * (operator.weights.ndim - 1)).astype(np.float64)
    weights = np.clip(np.rint(operator.weights / spread), -_WEIGHT, _WEIGHT).astype(np.int8)
    bias = np.clip(np.rint(operator.bias / (scales.astype(np.float64) * given.scale)), -_BIAS, _BIAS).astype(np.int32)
    return Weights(weights, scales, bias)


def _cells(table: pd.DataFrame, plane: PlaneConfig) -> Rows:
    snr = np.abs(table["snr"].to_numpy(dtype=np.float64))
    light = np.nan_to_num(table["reference_snr"].to_numpy(dtype=np.float64), nan=-np.inf)  # nothing measured under it
    across = len(plane.light_edges) + 1
    cells: Rows = np.digitize(snr, plane.snr_edges) * across + np.digitize(light, plane.light_edges)
    return cells


def _cell_names(plane: PlaneConfig) -> list[str]:
    return [f"S/N {snr}, light {light}" for snr in _bins(plane.snr_edges) for light in _bins(plane.light_edges)]


def _bins(edges: tuple[float, ...]) -> list[str]:
    if not edges:
        return ["any"]
    return [f"< {edges[0]:g}", *(f"{low:g} to {high:g}" for low, high in pairwise(edges)), f">= {edges[-1]:g}"]


def _spread(cells: Rows, allowed: Rows, wanted: int, rng: np.random.Generator) -> Rows:
    """Round after round one row of every cell that still has one, in random order within a cell, until there are enough."""
    shuffled = rng.permutation(np.sort(allowed))
    order = np.argsort(cells[shuffled], kind="stable")
    sorted_cells = cells[shuffled][order]
    starts = np.searchsorted(sorted_cells, sorted_cells)  # where a row's cell begins
    rounds = np.arange(len(order)) - starts
    chosen = shuffled[order[np.argsort(rounds, kind="stable")[:wanted]]]
    rows: Rows = np.sort(chosen).astype(np.int64)
    return rows

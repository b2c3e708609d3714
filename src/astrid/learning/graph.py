"""A trained network as a short list of operators that integer runtimes know: convolutions, pools, dense layers, sums.

Values are numbered: 0 is the input, i + 1 the output of operator i; maps are NHWC, as TFLite has them. What the list changes
against the network changes no result: batch normalisation is folded into its convolution, a ReLU behind a max-pool goes before
it (the two commute) into the convolution, dropout is gone, and the columns of the first dense layer go from CHW to HWC order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from astrid.core.errors import ConfigError
from astrid.datasets.normalize import STAMP_SHAPE

Kind = Literal["conv", "dense", "max_pool", "mean_pool", "pad", "flatten", "add"]
Shape = tuple[int, ...]

INPUT_SHAPE = (STAMP_SHAPE[1], STAMP_SHAPE[2], STAMP_SHAPE[0])  # height, width, channels


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator. `weights`: float32, (out, height, width, in) of a convolution, (out, in) of a dense layer; `bias`: (out,)."""

    kind: Kind
    inputs: tuple[int, ...]  # numbers of values
    shape: Shape  # of the output, without the batch
    weights: NDArray[np.float32] | None = None
    bias: NDArray[np.float32] | None = None
    stride: int = 1
    size: int = 1  # px, window of a pool
    same: bool = False  # TFLite's padding SAME; else VALID
    margin: int = 0  # px on each side, of a pad
    relu: bool = False


@dataclass(frozen=True, eq=False)
class Graph:
    """The operators in the order of execution; the last one's output (1,) is the logit."""

    operators: tuple[Operator, ...]

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shape of every value, without the batch."""
        return (INPUT_SHAPE, *(operator.shape for operator in self.operators))

    def with_weights(self, weights: Sequence[NDArray[np.float32]], biases: Sequence[NDArray[np.float32]]) -> Graph:
        """The same operators with other numbers, in the order of the operators that have weights."""
        given = iter(zip(weights, biases, strict=True))
        changed = [operator if operator.weights is None else _with(operator, *next(given)) for operator in self.operators]
        return Graph(tuple(changed))


def from_network(network: nn.Module) -> Graph:
    """The operators of a network of `learning.models` (trained; it is read as it is in evaluation mode).

    Raises `ConfigError` naming the layer when the network has one that no integer runtime of ours is known to run.
    """
    layers: Any = network.layers if hasattr(network, "layers") else network
    builder = _Builder()
    if isinstance(layers, nn.Sequential):
        value = builder.sequence(layers, 0)
    elif type(layers).__name__ == "ResNet":
        value = builder.resnet(layers)
    else:
        raise ConfigError(f"model.name: {_refusal(layers)}")
    graph = Graph(tuple(builder.operators))
    if value != len(graph.operators) or graph.shapes[-1] != (1,):
        raise ConfigError(f"model.name: the network ends in the shape {graph.shapes[-1]}; an integer artifact needs one logit a triplet.")
    return graph


class Runner(nn.Module):
    """A graph run by torch, with its weights as parameters: normalised triplets float32 (n, 3, 63, 63) -> logits (n,).

    Subclasses see every value and every weight on its way (`value`, `weight`): that is how ranges are measured and how
    quantisation is imitated.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        carriers = [operator for operator in graph.operators if operator.weights is not None and operator.bias is not None]
        self.weights = nn.ParameterList([nn.Parameter(torch.from_numpy(np.array(one.weights))) for one in carriers])
        self.biases = nn.ParameterList([nn.Parameter(torch.from_numpy(np.array(one.bias))) for one in carriers])

    def forward(self, triplets: torch.Tensor) -> torch.Tensor:
        """Logits, float32 (n,), of normalised triplets, float32 (n, 3, 63, 63)."""
        values = [self.value(0, triplets)]
        carried = 0
        for number, operator in enumerate(self.graph.operators):
            given = [values[source] for source in operator.inputs]
            if operator.weights is None:
                result = _plain(operator, given)
            else:
                result = _weighted(operator, given[0], self.weight(operator, self.weights[carried]), self.biases[carried])
                carried += 1
            values.append(self.value(number + 1, functional.relu(result) if operator.relu else result))
        return values[-1].squeeze(1)

    def value(self, number: int, value: torch.Tensor) -> torch.Tensor:
        """Sees value `number`, NCHW; what it returns is used."""
        return value

    def weight(self, operator: Operator, weight: torch.Tensor) -> torch.Tensor:
        """Sees the weights of an operator; what it returns is used."""
        return weight

    def changed(self) -> Graph:
        """The graph with the weights as they are now."""
        numbers = [[np.array(one.detach().cpu().numpy()) for one in group] for group in (self.weights, self.biases)]
        return self.graph.with_weights(numbers[0], numbers[1])


def _plain(operator: Operator, given: list[torch.Tensor]) -> torch.Tensor:
    if operator.kind == "max_pool":
        return functional.max_pool2d(given[0], operator.size)
    if operator.kind == "mean_pool":
        return functional.avg_pool2d(given[0], operator.size)
    if operator.kind == "pad":
        return functional.pad(given[0], (operator.margin,) * 4)
    if operator.kind == "add":
        return given[0] + given[1]
    return given[0].permute(0, 2, 3, 1).flatten(1)


def _weighted(operator: Operator, given: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    if operator.kind == "dense":
        return functional.linear(given, weight, bias)
    if operator.same:  # TFLite puts the odd pixel behind
        behind = [_same(side, weight.shape[1], operator.stride) for side in (given.shape[3], given.shape[2])]
        given = functional.pad(given, (behind[0] // 2, behind[0] - behind[0] // 2, behind[1] // 2, behind[1] - behind[1] // 2))
    return functional.conv2d(given, weight.permute(0, 3, 1, 2), bias, stride=operator.stride)


def _same(side: int, kernel: int, stride: int) -> int:
    """How many pixels TFLite's padding SAME adds to a side, in all."""
    return max((-(-side // stride) - 1) * stride + kernel - side, 0)


class _Builder:
    """Appends operators; every method takes the number of a value and gives the number of its result."""

    def __init__(self) -> None:
        self.operators: list[Operator] = []

    def sequence(self, layers: nn.Sequential, value: int) -> int:
        for layer in layers:
            value = self._layer(layer, value)
        return value

    def resnet(self, network: Any) -> int:
        """torchvision's ResNet of basic blocks (He et al. 2016, CVPR, Fig. 5 left)."""
        value = self._relu(self._convolution(network.conv1, network.bn1, 0))
        value = self._layer(network.maxpool, value)
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            for block in stage:
                value = self._block(block, value)
        size = self._shape(value)[0]
        value = self._append("mean_pool", (value,), (1, 1, self._shape(value)[2]), size=size, stride=size)
        value = self._layer(nn.Flatten(), value)
        return self._layer(network.fc, value)

    def _block(self, block: Any, value: int) -> int:
        if type(block).__name__ != "BasicBlock":
            raise ConfigError(f"model.name: {_refusal(block)}")
        shortcut = value if block.downsample is None else self._convolution(block.downsample[0], block.downsample[1], value)
        inner = self._relu(self._convolution(block.conv1, block.bn1, value))
        inner = self._convolution(block.conv2, block.bn2, inner)
        return self._append("add", (inner, shortcut), self._shape(inner), relu=True)

    def _layer(self, layer: nn.Module, value: int) -> int:
        match layer:
            case nn.Sequential():
                return self.sequence(layer, value)
            case nn.Conv2d():
                return self._convolution(layer, None, value)
            case nn.Linear():
                return self._dense(layer, value)
            case nn.MaxPool2d():
                return self._pool(layer, value)
            case nn.Flatten():
                return self._append("flatten", (value,), (int(np.prod(self._shape(value))),))
            case nn.ReLU():
                return self._relu(value)
            case nn.Dropout() | nn.Identity():
                return value
            case _:
                raise ConfigError(f"model.name: {_refusal(layer)}")

    def _convolution(self, layer: nn.Conv2d, norm: nn.BatchNorm2d | None, value: int) -> int:
        kernel, stride, margin = layer.kernel_size[0], layer.stride[0], layer.padding[0]
        plain = (layer.groups, set(layer.dilation), layer.padding_mode) == (1, {1}, "zeros")
        if not plain or len({*layer.kernel_size}) > 1 or len({*layer.stride}) > 1 or isinstance(margin, str) or len({*layer.padding}) > 1:
            raise ConfigError(f"model.name: {_refusal(layer)}")
        weights, bias = _folded(layer, norm)
        height, width, _ = self._shape(value)
        sides = [(side + 2 * margin - kernel) // stride + 1 for side in (height, width)]
        same = margin > 0 and all(
            found == -(-side // stride) and _same(side, kernel, stride) // 2 == margin
            for found, side in zip(sides, (height, width), strict=True)
        )
        if margin and not same:
            value = self._append("pad", (value,), (height + 2 * margin, width + 2 * margin, self._shape(value)[2]), margin=margin)
        shape = (sides[0], sides[1], len(bias))
        return self._append("conv", (value,), shape, weights=weights, bias=bias, stride=stride, size=kernel, same=same)

    def _dense(self, layer: nn.Linear, value: int) -> int:
        weights, bias = _numbers(layer.weight), _numbers(layer.bias)
        last = self.operators[-1] if self.operators else None
        if last is not None and last.kind == "flatten":
            height, width, channels = self._shape(last.inputs[0])
            weights = weights.reshape(len(bias), channels, height, width).transpose(0, 2, 3, 1).reshape(len(bias), -1)
        return self._append("dense", (value,), (len(bias),), weights=np.ascontiguousarray(weights), bias=bias)

    def _pool(self, layer: nn.MaxPool2d, value: int) -> int:
        size = layer.kernel_size
        if isinstance(size, tuple) or (layer.padding, layer.dilation, layer.ceil_mode, layer.stride) != (0, 1, False, size):
            raise ConfigError(f"model.name: {_refusal(layer)}")
        height, width, channels = self._shape(value)
        return self._append("max_pool", (value,), (height // size, width // size, channels), size=size, stride=size)

    def _relu(self, value: int) -> int:
        """Give the ReLU to the operator with weights whose result this is, through max-pools, with which it commutes."""
        source = value - 1
        while source >= 0 and self.operators[source].kind in ("max_pool", "flatten"):
            source = self.operators[source].inputs[0] - 1
        if source < 0 or self.operators[source].kind not in ("conv", "dense", "add"):
            raise ConfigError("model.name: the network has a ReLU that follows no convolution, dense layer or sum; move it behind one.")
        self.operators[source] = replace(self.operators[source], relu=True)
        return value

    def _shape(self, value: int) -> Shape:
        return self.operators[value - 1].shape if value else INPUT_SHAPE

    def _append(self, kind: Kind, inputs: tuple[int, ...], shape: Shape, **settings: Any) -> int:
        self.operators.append(Operator(kind, inputs, shape, **settings))
        return len(self.operators)


def _folded(layer: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights (out, height, width, in) and bias of a convolution with the batch normalisation behind it, as in evaluation."""
    weights = _numbers(layer.weight).astype(np.float64)
    bias = np.zeros(len(weights)) if layer.bias is None else _numbers(layer.bias).astype(np.float64)
    if norm is not None:
        assert norm.running_mean is not None  # torchvision's keep both
        assert norm.running_var is not None
        gain = _numbers(norm.weight).astype(np.float64) / np.sqrt(_numbers(norm.running_var).astype(np.float64) + norm.eps)
        weights *= gain[:, None, None, None]
        bias = (bias - _numbers(norm.running_mean)) * gain + _numbers(norm.bias)
    return np.ascontiguousarray(weights.transpose(0, 2, 3, 1), dtype=np.float32), bias.astype(np.float32)


def _with(operator: Operator, weights: NDArray[np.float32], bias: NDArray[np.float32]) -> Operator:
    return replace(operator, weights=weights, bias=bias)


def _numbers(tensor: torch.Tensor) -> NDArray[np.float32]:
    numbers: NDArray[np.float32] = tensor.detach().cpu().numpy().astype(np.float32)
    return numbers


def _refusal(layer: object) -> str:
    return (
        f"the layer {layer} has no integer form here (known: plain convolutions, dense layers, ReLU, max-pools that do not "
        "overlap, dropout, torchvision's ResNet of basic blocks); choose another network or write its operator in learning/graph.py."
    )

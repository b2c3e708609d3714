"""One trained network -> its full-integer TFLite files, calibrated over the S/N plane and tuned where that loses too much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from astrid.config.schema.integer import IntegerConfig
from astrid.datasets.normalize import STAMP_SHAPE, Stamps
from astrid.export import edgetpu, folder, quantize, tflite
from astrid.export.parity import Scorer

if TYPE_CHECKING:
    from torch import nn

    from astrid.learning.qat import Draw

INTEGER_FILE = "model.int8.tflite"

_BATCH = 64  # triplets a call while ranges are measured


@dataclass(frozen=True)
class Loss:
    """What an artifact loses against the float network on labelled triplets; positive is worse."""

    aucpr: float
    recall: float  # at the threshold, a fraction
    real: int  # real rows that it was measured on


@dataclass(frozen=True, eq=False)
class IntegerModel:
    """The files, the first of which is `model.int8.tflite`, and how they came about."""

    artifacts: tuple[folder.Artifact, ...]  # without parity: whoever measures it puts it in
    operators: edgetpu.OperatorMap  # of the first file
    loss: Loss  # of the first file, by the function given
    calibrated: Loss  # the same before tuning
    tuned: bool


def build(
    network: nn.Module,
    normalization_id: str,
    *,
    drawn: quantize.Drawn,
    stamps: Stamps,
    draw: Draw,
    loss: Callable[[Scorer], Loss],
    cfg: IntegerConfig,
    rng: np.random.Generator,
) -> IntegerModel:
    """Make the integer files of a network.

    Parameters
    ----------
    network
        Of `learning.models`, trained, on the CPU.
    normalization_id
        The one that it was trained with.
    drawn, stamps
        What `quantize.draw_over_plane` gave, and the normalised triplets of its rows, float32 (n, 3, 63, 63).
    draw
        Gives so many normalised triplets of the training part; called only when the network is tuned.
    loss
        Measures a scorer against the float network on the validation part.

    Raises
    ------
    ConfigError
        For a network with a layer that has no integer form.
    """
    from astrid.learning.graph import from_network
    from astrid.learning.qat import tune

    graph = from_network(network)
    batches = (stamps[start : start + _BATCH] for start in range(0, len(stamps), _BATCH))
    integers = quantize.calibrate(graph, batches, normalization_id, cfg.output)
    content = tflite.write_int8(integers, batch=cfg.batches[0])
    calibrated = reached = loss(tflite.scorer(content))
    tuned = False
    if cfg.tuning.steps and _excess(calibrated, cfg) > 1:
        other = tune(graph, [(one.scale, one.zero_point) for one in integers.values], draw, cfg.tuning, rng)
        candidate = quantize.integers(other, integers.values, cfg.output)
        found = loss(tflite.scorer(tflite.write_int8(candidate, batch=cfg.batches[0])))
        if _excess(found, cfg) < _excess(calibrated, cfg):
            integers, reached, tuned = candidate, found, True
    files = {batch: tflite.write_int8(integers, batch=batch) for batch in cfg.batches}
    mapped = edgetpu.operator_map(files[cfg.batches[0]])
    facts = {"calibration_stamps": len(drawn.rows), "cells": _cells(drawn), "tuned": tuned, "steps": cfg.tuning.steps if tuned else 0}
    facts |= {"validation_loss": asdict(reached), "validation_loss_before_tuning": asdict(calibrated)}
    artifacts = tuple(_artifact(content, batch, integers, facts) for batch, content in files.items())
    return IntegerModel(artifacts, mapped, reached, calibrated, tuned)


def file_name(batch: int) -> str:
    """The file of a batch size: model.int8.tflite for one triplet, model.int8.b8.tflite for eight."""
    return INTEGER_FILE if batch == 1 else INTEGER_FILE.replace(".tflite", f".b{batch}.tflite")


def _excess(found: Loss, cfg: IntegerConfig) -> float:
    """The larger of both losses over what it may be; recall moves in steps of one real row, so that much of it may be lost."""
    limits = cfg.tuning
    pairs = ((found.aucpr, limits.aucpr_loss), (found.recall, max(limits.recall_loss, 1 / found.real)))
    return max(loss / limit if limit > 0 else np.inf * np.sign(loss) if loss else 0.0 for loss, limit in pairs)


def _artifact(content: bytes, batch: int, integers: quantize.IntegerGraph, facts: dict[str, Any]) -> folder.Artifact:
    first, last = integers.values[0], quantize.PROBABILITY if integers.output == "probability" else integers.values[-1]
    found = edgetpu.operator_map(content)
    shape = [batch, *STAMP_SHAPE[1:], STAMP_SHAPE[0]]
    given = {"name": tflite.INPUT, "shape": shape, "dtype": "int8", "layout": "NHWC", **asdict(first)}
    asked = {"name": integers.output, "kind": integers.output, "shape": [batch, 1], "dtype": "int8", **asdict(last)}
    bare = sorted({f"{one.name} {one.reason}" for one in found.operators if not one.mapped})
    device = {name: value for name, value in found.record().items() if name != "operators"}
    quantization = {
        "scheme": "int8: weights a channel in convolutions and a tensor in dense layers, values a tensor, biases int32",
        "method": "smallest and largest number" + (", then quantisation-aware training" if facts["tuned"] else ""),
        **facts,
        "edgetpu": {**device, "unmapped": len(found.operators) - found.mapped, "reasons": bare},
    }
    return folder.Artifact(file_name(batch), "tflite-int8", content, given, asked, quantization, {})


def _cells(drawn: quantize.Drawn) -> list[dict[str, Any]]:
    return [{"cell": name, "triplets": all_, "drawn": got} for name, (all_, got) in drawn.cells.items()]

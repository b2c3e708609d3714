from __future__ import annotations

import numpy as np

from astrid.evaluation.style import png_bytes
from astrid.export.figure import by_target, losses_by_snr

LIMITS = {"recall_loss": 0.003, "aucpr_loss": 0.002}


def entry(target, losses):
    lines = [{"snr": name, "rows": 9, "real": 4, "recall_loss": 0.01, "aucpr_loss": loss} for name, loss in losses.items()]
    return {"target": target, "parity": {"by_snr": lines}}


FILES = {
    "model.int8.b8.tflite": entry("tflite-int8", {"< 6": 9.0, "≥ 6": 9.0}),
    "model.int8.tflite": entry("tflite-int8", {"< 6": 0.001, "≥ 6": None}),
    "model.int8.onnx": entry("onnx-int8", {"< 6": -0.002, "≥ 6": 0.0}),
    "model.onnx": entry("onnx", {"< 6": 0.0, "≥ 6": 0.0}),
    "model_edgetpu.tflite": {"target": "edgetpu", "parity": {}},
}


def test_the_first_file_of_each_integer_target_is_drawn_with_the_limits():
    found = by_target(FILES)
    assert {name: lines[0]["aucpr_loss"] for name, lines in found.items()} == {"onnx-int8": -0.002, "tflite-int8": 0.001}
    figure = losses_by_snr(found, LIMITS)
    recall, aucpr = figure.axes
    points = {line.get_label(): line.get_ydata() for line in aucpr.get_lines() if line.get_marker() == "o"}
    np.testing.assert_array_equal(points["onnx-int8"], [-0.002, 0.0])
    np.testing.assert_array_equal(points["tflite-int8"], [0.001, np.nan])
    assert [
        next(line.get_ydata()[0] for line in axes.get_lines() if line.get_label() == "limit on all rows") for axes in (recall, aucpr)
    ] == [
        0.003,
        0.002,
    ]
    assert [label.get_text() for label in aucpr.get_xticklabels()] == ["< 6\n4", "≥ 6\n4"]
    assert png_bytes(figure) == png_bytes(losses_by_snr(found, LIMITS))


def test_without_an_integer_target_there_is_nothing_to_draw():
    assert by_target({"model.onnx": FILES["model.onnx"]}) == {}

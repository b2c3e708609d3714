"""A model folder of a small seeded network with every artifact that can be made here: float32 and int8 ONNX, TFLite for two batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from astrid.config.schema import ModelConfig
from astrid.datasets.normalize import normalize
from astrid.export import folder, quantize, tflite
from astrid.export.onnx import INPUT, to_onnx
from astrid.export.onnx_int8 import describe_quantization, quantize_onnx
from astrid.learning import models
from astrid.learning.graph import from_network

NORMALIZATION = "asinh_noise.v1"


def small_network() -> torch.nn.Module:
    """Random features and a last layer fitted to the brightness of the source, so that its scores go from bogus to real."""
    torch.manual_seed(3)
    cfg = ModelConfig(name="astrid_cnn", normalization=NORMALIZATION, width=4, dense=16, conv_dropout=0.0, dropout=0.0)
    network = models.build(cfg).eval()
    stamps, brightness = _drawn(96, seed=9)
    with torch.no_grad():
        features = network.layers[:-1](torch.from_numpy(normalize(stamps, NORMALIZATION))).double()
        design = torch.cat([features, torch.ones(len(features), 1, dtype=torch.float64)], dim=1)
        wanted = torch.from_numpy(np.log(brightness + 1) - 3.5)
        ridge = 1e-4 * len(features) * torch.eye(design.shape[1], dtype=torch.float64)
        weights = torch.linalg.solve(design.T @ design + ridge, design.T @ wanted)
        network.layers[-1].weight.copy_(weights[:-1][None])
        network.layers[-1].bias.copy_(weights[-1:])
    return network


def raw_stamps(count: int, seed: int = 0) -> np.ndarray:
    return _drawn(count, seed)[0]


def _drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Stamps with a sky level, and the brightness of the source of each."""
    rng = np.random.default_rng(seed)
    out = rng.normal(50, 4, (count, 3, 63, 63)).astype(np.float32)
    brightness = rng.uniform(0, 200, count)
    out[:, ::2, 20:43, 20:43] += brightness[:, None, None, None].astype(np.float32)
    return out, brightness


def write_integer_model(path: Path, *, batches: tuple[int, ...] = (1, 4), output: str = "logit") -> Path:
    network = small_network()
    graph = to_onnx(network, opset=18, metadata={})
    calibration = normalize(raw_stamps(32, seed=1), NORMALIZATION)
    small = quantize_onnx(graph, [calibration], input_name=INPUT)
    integers = quantize.calibrate(from_network(network), [calibration], NORMALIZATION, output)
    artifacts = [folder.onnx_artifact(small, target="onnx-int8", quantization=describe_quantization(small, 32))]
    for batch in batches:
        name = "model.int8.tflite" if batch == 1 else f"model.int8.b{batch}.tflite"
        content = tflite.write_int8(integers, batch=batch)
        artifacts.append(folder.Artifact(name, "tflite-int8", content, {}, {"kind": output}, {}, {}))
    facts = folder.ModelFacts(
        name="small",
        normalization=NORMALIZATION,
        threshold=0.5,
        calibration={"method": "platt", "slope": 1.0, "bias": 0.0},
        metrics={},
        digests={},
        parity={},
        frameworks={},
    )
    folder.write_folder(path, folder.manifest(facts, graph, artifacts), graph, artifacts)
    return path

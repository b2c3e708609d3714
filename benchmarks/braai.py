"""The published braai network in our own layers: does it give its published scores through torch, ONNX and TFLite?

    git clone https://github.com/dmitryduev/braai /tmp/braai          # MIT; nothing of it is stored in this project
    pip install h5py
    python -m benchmarks.braai /tmp/braai

Its weights (`models/braai_d6_m9.weights.h5`, Keras) go into `learning.models.braai`, its two alerts (`nb/*.json`) through the
normalisation l2.v1, and every path's score is compared with what its own network gives. See docs/braai.md.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import io
import json
import sys
from pathlib import Path

import numpy as np

from astrid.core.errors import AstridError, InputError, MissingDependencyError
from astrid.datasets.normalize import STAMP_SHAPE, normalize

WEIGHTS = "models/braai_d6_m9.weights.h5"
PUBLISHED = {"714287740515015072": 0.98445, "893215910715010007": 8.7e-7}  # alert -> score of its own network
FLOAT_LIMIT = 1e-4  # of probability, torch and ONNX and float TFLite
NORMALIZATION = "l2.v1"

_CUTOUTS = ("Science", "Template", "Difference")
_LAYERS = {"conv1": 0, "conv2": 2, "conv3": 6, "conv4": 8, "fc_1": 13, "fc_out": 16}  # Keras's name -> place in our Sequential
_FLATTENED = (6, 6, 32)  # height, width, channels of the map before Keras's Flatten


def network(folder: Path):
    """`learning.models.braai` with the weights of a clone of the repository, in evaluation mode."""
    import torch

    from astrid.config.schema.model import ModelConfig
    from astrid.learning import models

    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError("h5py is not installed, and braai's weights are HDF5; run `pip install h5py`.") from error
    path = folder / WEIGHTS
    if not path.is_file():
        raise InputError(f"{path} does not exist; clone https://github.com/dmitryduev/braai and give its folder.")
    model = models.build(ModelConfig(name="braai", normalization=NORMALIZATION, width=16, dense=256, conv_dropout=0.25, dropout=0.5))
    with h5py.File(path) as stored, torch.no_grad():
        for name, place in _LAYERS.items():
            kernel, bias = (np.array(stored[f"{name}/{name}/{part}:0"]) for part in ("kernel", "bias"))
            model.layers[place].weight.copy_(torch.from_numpy(_turned(name, kernel)))
            model.layers[place].bias.copy_(torch.from_numpy(bias))
    return model.eval()


def _turned(name: str, kernel: np.ndarray) -> np.ndarray:
    """Keras's (height, width, in, out) and (in, out) as torch's (out, in, height, width) and (out, in); NHWC order to NCHW order."""
    if kernel.ndim == 4:
        return np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
    if name == "fc_1":
        kernel = kernel.reshape(*_FLATTENED, -1).transpose(2, 0, 1, 3).reshape(len(kernel), -1)
    return np.ascontiguousarray(kernel.T)


def triplet(path: Path) -> np.ndarray:
    """An alert of the repository as float32 (3, 63, 63): science, template, difference as its notebook takes them, NaN to 0."""
    from astropy.io import fits

    alert = json.loads(path.read_text())
    stamps = np.full(STAMP_SHAPE, np.nan, np.float32)
    for channel, cutout in enumerate(_CUTOUTS):
        packed = base64.b64decode(alert[f"cutout{cutout}"]["stampData"]["$binary"])
        with fits.open(io.BytesIO(gzip.decompress(packed))) as hdus:
            data = np.asarray(hdus[0].data, np.float32)
        stamps[channel, : data.shape[0], : data.shape[1]] = data
    return stamps


def scores(folder: Path) -> dict[str, np.ndarray]:
    """The scores, float32 (2,), of the alerts of PUBLISHED in their order, by path: torch, onnx, tflite, tflite-int8.

    The integer network is calibrated on turns and flips of the two alerts, as nothing else is at hand.
    """
    from astrid.export import onnx, parity, quantize, tflite
    from astrid.learning.graph import from_network
    from astrid.learning.predict import probabilities

    model = network(folder)
    inputs = normalize(np.stack([triplet(folder / "nb" / f"{name}.json") for name in PUBLISHED]), NORMALIZATION)
    graph = from_network(model)
    turned = [np.rot90(one, turns, axes=(2, 3)) for one in (inputs, inputs[..., ::-1]) for turns in range(4)]
    integers = quantize.calibrate(graph, [np.ascontiguousarray(one) for one in turned], NORMALIZATION, "logit")
    content = onnx.to_onnx(model, opset=18, metadata={})
    return {
        "torch": probabilities(model, [inputs]),
        "onnx": parity.onnx_scorer(content, onnx.INPUT)(inputs),
        "tflite": tflite.scorer(tflite.write_float(graph, batch=1))(inputs),
        "tflite-int8": tflite.scorer(tflite.write_int8(integers, batch=1))(inputs),
    }


def main() -> int:
    """Print a row a path; exit with 1 when a float path is further than FLOAT_LIMIT from the published scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a clone of github.com/dmitryduev/braai")
    arguments = parser.parse_args()
    try:
        found = scores(arguments.folder)
    except AstridError as error:
        print(error, file=sys.stderr)
        return 2
    expected = np.array(list(PUBLISHED.values()))
    print(f"{'path':12s}", *(f"{name:>20s}" for name in PUBLISHED), f"{'largest |dp|':>14s}")
    print(f"{'published':12s}", *(f"{one:20.6g}" for one in expected))
    for path, one in found.items():
        print(f"{path:12s}", *(f"{score:20.6g}" for score in one), f"{np.abs(one - expected).max():14.1e}")
    return int(any(np.abs(found[path] - expected).max() > FLOAT_LIMIT for path in ("torch", "onnx", "tflite")))


if __name__ == "__main__":
    sys.exit(main())

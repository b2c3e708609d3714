"""The published braai network, in our layers, gives its published scores through every path; see docs/braai.md."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks import braai

HALF_STEP = 0.07 / 2  # of the integer logit, whose range over the two alerts is some 18


@pytest.fixture(scope="module")
def scores():
    folder = Path(os.environ.get("ASTRID_BRAAI", "/nowhere"))
    if not (folder / braai.WEIGHTS).is_file():
        pytest.skip("braai's weights are not at hand (clone github.com/dmitryduev/braai and set ASTRID_BRAAI to its folder)")
    pytest.importorskip("h5py", reason="braai's weights are HDF5, and h5py is not installed")
    return braai.scores(folder)


@pytest.mark.parametrize("path", ["torch", "onnx", "tflite"])
def test_float_paths_give_the_published_scores(scores, path):
    np.testing.assert_allclose(scores[path], list(braai.PUBLISHED.values()), rtol=0, atol=braai.FLOAT_LIMIT)


def test_the_integer_path_gives_them_within_its_steps(scores):
    published = np.array(list(braai.PUBLISHED.values()))
    found = scores["tflite-int8"].astype(np.float64)
    logits = [np.log(one / (1 - one)) for one in (published, found)]
    assert np.abs(found - published).max() < 2e-3
    assert np.abs(logits[1] - logits[0]).max() < 6 * HALF_STEP

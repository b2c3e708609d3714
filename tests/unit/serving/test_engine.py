import json
import shutil

import numpy as np
import pytest

from astrid.core.errors import DataSetError, InputError, MissingDependencyError
from astrid.datasets.normalize import normalize
from astrid.serving.engine import ScoringEngine
from support.tiny_model import write_tiny_model


def stamps(n, seed=0):
    rng = np.random.default_rng(seed)
    out = rng.normal(size=(n, 3, 63, 63)).astype(np.float32)
    out[::2, 2, 27:36, 27:36] += 5
    return out


def by_hand(raw):
    """The tiny model in numpy: the mean of the normalised difference's middle, through sigmoid and Platt's map."""
    logit = 40 * normalize(raw, "asinh_noise.v1")[:, 2, 27:36, 27:36].astype(float).mean(axis=(1, 2))
    return 1 / (1 + np.exp(-logit)), 1 / (1 + np.exp(-(2 * logit + 0.5)))


def test_scores_are_normalised_run_calibrated_and_compared_with_the_threshold(tiny_model):
    raw = stamps(10)
    scores = ScoringEngine.load(tiny_model).score(raw)
    expected, calibrated = by_hand(raw)
    np.testing.assert_allclose(scores.raw, expected, rtol=1e-4)
    np.testing.assert_allclose(scores.calibrated, calibrated, rtol=1e-4)
    assert scores.real.tolist() == (calibrated >= 0.5).tolist()
    assert scores.real[::2].all()


def test_batches_do_not_change_scores(tiny_model):
    raw = stamps(11)
    whole = ScoringEngine.load(tiny_model, batch=64).score(raw)
    parts = ScoringEngine.load(tiny_model, batch=3).score(raw)
    np.testing.assert_allclose(whole.raw, parts.raw, rtol=1e-6)


def test_a_masked_stamp_has_no_score_and_the_others_keep_theirs(tiny_model):
    raw = stamps(6)
    engine = ScoringEngine.load(tiny_model)
    before = engine.score(raw)
    raw[2, 1] = np.nan
    after = engine.score(raw)
    assert np.isnan(after.raw[2])
    assert np.isnan(after.calibrated[2])
    assert not after.real[2]
    others = np.arange(6) != 2
    np.testing.assert_allclose(after.raw[others], before.raw[others], rtol=1e-6)


def test_no_triplets_give_no_scores_and_a_wrong_shape_is_refused(tiny_model):
    engine = ScoringEngine.load(tiny_model)
    assert engine.score(stamps(0)).raw.shape == (0,)
    with pytest.raises(DataSetError, match=r"give \(n, 3, 63, 63\)"):
        engine.score(np.zeros((2, 3, 61, 61), np.float32))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"normalization": "l2.v9"}, "asks for the normalisation 'l2.v9'"),
        ({"channel_order": ["reference", "science", "difference"]}, "orders the channels reference, science, difference"),
        ({"stamp_size": 61}, "takes stamps of 61 pixels"),
        ({"threshold": 1.5}, "has the threshold 1.5"),
        ({"threshold": None}, "has the threshold None"),
        ({"calibration": {"method": "magic"}}, "'magic' is not one of"),
        ({"files": {"model.onnx": "f" * 64}}, "was written for 'ffffffffffff'"),
        ({"format": "other/1"}, "is not of the format"),
    ],
)
def test_a_folder_that_says_what_the_engine_cannot_follow_is_refused(tiny_model, tmp_path, change, sentence):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    content = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(content | change))
    with pytest.raises(InputError, match=sentence):
        ScoringEngine.load(folder)


@pytest.mark.parametrize("key", ["normalization", "threshold", "calibration", "files", "version"])
def test_a_missing_entry_is_named(tiny_model, tmp_path, key):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    content = json.loads((folder / "model.json").read_text())
    del content[key]
    (folder / "model.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"lacks '{key}'"):
        ScoringEngine.load(folder)


def test_missing_files_and_damaged_graphs_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        ScoringEngine.load(tmp_path)
    folder = write_tiny_model(tmp_path / "model")
    (folder / "model.onnx").unlink()
    with pytest.raises(InputError, match=r"model\.onnx does not exist"):
        ScoringEngine.load(folder)


def test_a_graph_that_onnx_runtime_cannot_open_is_one_sentence(tmp_path):
    from astrid.core.provenance import digest_bytes

    folder = write_tiny_model(tmp_path / "model")
    (folder / "model.onnx").write_bytes(b"no graph")
    content = json.loads((folder / "model.json").read_text())
    content["files"]["model.onnx"] = digest_bytes(b"no graph")
    (folder / "model.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="is not a model that ONNX Runtime can open"):
        ScoringEngine.load(folder)


def test_a_provider_is_chosen_and_never_replaced_silently(tiny_model):
    with pytest.raises(MissingDependencyError, match="ONNX Runtime has no NoSuchExecutionProvider here"):
        ScoringEngine.load(tiny_model, providers=("NoSuchExecutionProvider",))


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"file": "../model.onnx"}, "describes the artifact 'model.onnx' as the file '../model.onnx'"),
        ({"target": "abacus"}, "for 'abacus' that gives a 'probability'"),
        ({"output": {"kind": "magnitude"}}, "that gives a 'magnitude'"),
    ],
)
def test_an_artifact_that_the_engine_does_not_know_is_refused(tiny_model, tmp_path, entry, sentence):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    content = json.loads((folder / "model.json").read_text())
    content["artifacts"]["model.onnx"] |= entry
    (folder / "model.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=sentence):
        ScoringEngine.load(folder)


def test_a_folder_of_before_the_artifacts_is_one_of_the_graph_alone(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    content = json.loads((folder / "model.json").read_text())
    del content["artifacts"]
    (folder / "model.json").write_text(json.dumps(content))
    raw = stamps(3)
    np.testing.assert_array_equal(ScoringEngine.load(folder).score(raw).raw, ScoringEngine.load(tiny_model).score(raw).raw)


def test_cuda_is_taken_where_onnx_runtime_has_it_and_a_wish_is_followed():
    from types import SimpleNamespace

    from astrid.serving.by_onnx import _chosen

    gpu = SimpleNamespace(get_available_providers=lambda: ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"])
    assert _chosen(gpu, None) == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert _chosen(gpu, ["CPUExecutionProvider"]) == ["CPUExecutionProvider"]

"""Which artifact is taken, by which runtime, and what is said where one is missing."""

import ctypes.util
import json
import shutil
import sys

import numpy as np
import pytest

from astrid.core.errors import InputError, MissingDependencyError
from astrid.datasets.normalize import normalize
from astrid.serving import runtimes
from astrid.serving.by_tflite import dequantize, quantize
from astrid.serving.engine import ScoringEngine, describe, open_engine

pytest.importorskip("ai_edge_litert", reason="no TFLite file can be written without ai-edge-litert")
from support.integer_model import NORMALIZATION, raw_stamps, write_integer_model

TARGETS = ("onnx", "onnx-int8", "tflite-int8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_integer_model(tmp_path_factory.mktemp("integer"))


def without(monkeypatch, *modules):
    for name in modules:
        monkeypatch.setitem(sys.modules, name, None)


def keep_only(folder, path, *targets):
    copy = shutil.copytree(folder, path)
    for entry in json.loads((copy / "model.json").read_text())["artifacts"].values():
        if entry["target"] not in targets:
            (copy / entry["file"]).unlink()
    return copy


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_takes_any_number_of_triplets_and_agrees_with_the_float_graph(folder, target):
    inputs = normalize(raw_stamps(33), NORMALIZATION)
    expected = open_engine(folder, "onnx").scores(inputs)
    engine = open_engine(folder, target)
    found = engine.scores(inputs)
    assert (found.dtype, found.shape) == (np.float32, (33,))
    np.testing.assert_allclose(found, expected, atol=1e-6 if target == "onnx" else 0.12)
    assert np.ptp(expected) > 0.5  # or the agreement says nothing
    np.testing.assert_allclose(engine.scores(inputs[:1]), found[:1], atol=1e-6)
    assert engine.scores(inputs[:0]).shape == (0,)


def test_batch_sizes_of_tflite_give_the_same_scores_and_a_padded_one_too(folder, tmp_path):
    inputs = normalize(raw_stamps(7), NORMALIZATION)
    both = open_engine(folder, "tflite-int8").scores(inputs)  # 4 + 1 + 1 + 1
    by_four = write_integer_model(tmp_path / "four", batches=(4,))
    np.testing.assert_array_equal(open_engine(by_four, "tflite-int8").scores(inputs), both)  # 4 + 3 and a zero


def test_a_logit_and_a_probability_mean_the_same(folder, tmp_path):
    inputs = normalize(raw_stamps(5), NORMALIZATION)
    other = write_integer_model(tmp_path / "probability", batches=(1,), output="probability")
    steps = open_engine(other, "tflite-int8").scores(inputs) * 256
    np.testing.assert_array_equal(steps, np.rint(steps))
    np.testing.assert_allclose(steps / 256, open_engine(folder, "tflite-int8").scores(inputs), atol=0.02)


def test_a_score_names_the_artifact_that_gave_it(folder):
    versions = {target: ScoringEngine.load(folder, target=target).version for target in TARGETS}
    entries = json.loads((folder / "model.json").read_text())["artifacts"]
    assert versions["onnx"] == describe(folder).version
    assert versions["tflite-int8"] == f"{versions['onnx']}+tflite-int8.{entries['model.int8.tflite']['sha256'][:8]}"
    assert len(set(versions.values())) == 3


def test_auto_prefers_the_float_graph_then_tflite_then_int8_onnx(folder, tmp_path, monkeypatch):
    assert open_engine(folder).artifact.target == "onnx"
    assert open_engine(keep_only(folder, tmp_path / "a", "tflite-int8", "onnx-int8")).artifact.target == "tflite-int8"
    assert open_engine(keep_only(folder, tmp_path / "b", "onnx-int8")).artifact.target == "onnx-int8"
    without(monkeypatch, "onnxruntime")
    assert open_engine(folder).artifact.target == "tflite-int8"
    assert open_engine(folder).runtime.startswith("ai-edge-litert ")


def test_a_machine_without_any_runtime_is_told_what_to_install(folder, monkeypatch):
    without(monkeypatch, "onnxruntime", *runtimes.TFLITE_RUNTIMES)
    with pytest.raises(MissingDependencyError, match=r"onnx: ONNX Runtime is not installed.*tflite-int8: no TFLite runtime is installed"):
        open_engine(folder)
    with pytest.raises(MissingDependencyError, match="run `pip install onnxruntime`"):
        open_engine(folder, "onnx")
    with pytest.raises(MissingDependencyError, match=r"No TFLite runtime is installed; .*requirements-coral\.txt"):
        open_engine(folder, "tflite-int8")


def test_targets_that_the_folder_has_not_or_nobody_knows_are_refused(folder):
    with pytest.raises(InputError, match="holds no artifact for 'edgetpu', only for onnx, onnx-int8, tflite-int8"):
        open_engine(folder, "edgetpu")
    with pytest.raises(InputError, match="'abacus' is no target"):
        open_engine(folder, "abacus")


@pytest.mark.parametrize("name", ["model.int8.onnx", "model.int8.tflite"])
def test_an_artifact_whose_bytes_changed_is_refused(folder, tmp_path, name):
    copy = shutil.copytree(folder, tmp_path / "model")
    (copy / name).write_bytes((copy / name).read_bytes() + b"\0")
    with pytest.raises(InputError, match=rf"{name} has the digest .* was written for"):
        describe(copy)
    with pytest.raises(InputError, match="was written for"):
        open_engine(copy, "onnx-int8" if name.endswith("onnx") else "tflite-int8")


def changed(folder, path, content, target="tflite-int8"):
    """A folder whose integer file holds `content`, said rightly in its manifest."""
    from astrid.export.folder import Artifact, add_artifact

    copy = keep_only(folder, path, "onnx")
    manifest = json.loads((copy / "model.json").read_text())
    manifest["artifacts"] = {name: entry for name, entry in manifest["artifacts"].items() if entry["target"] == "onnx"}
    (copy / "model.json").write_text(json.dumps(manifest))
    name = "model_edgetpu.tflite" if target == "edgetpu" else "model.int8.tflite"
    add_artifact(copy, Artifact(name, target, content, {}, {"kind": "logit"}, {}, {}))
    return copy


def test_a_file_that_tflite_cannot_open_is_one_sentence(folder, tmp_path):
    with pytest.raises(InputError, match=r"model\.int8\.tflite is not a model that the TFLite runtime can open"):
        open_engine(changed(folder, tmp_path / "model", b"no model at all"), "tflite-int8")


def test_quantised_values_are_rounded_shifted_and_held_to_the_range():
    details = {"dtype": np.int8, "quantization": (0.5, 3)}
    codes = quantize(np.array([0.0, 0.25, 0.75, -1.0, 1e6, -1e6], np.float32), details)
    assert codes.tolist() == [3, 3, 5, 1, 127, -128]
    np.testing.assert_array_equal(dequantize(codes[:2], details), [0.0, 0.0])
    np.testing.assert_array_equal(dequantize(np.array([5], np.int8), details), np.float32([1.0]))


def fake_package(path, name, modules):
    """A package on the path with the given modules (relative name -> text)."""
    for module, text in modules.items():
        file = path / name / module
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.fixture
def coral(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(runtimes, "DELEGATE", "libno-edge-tpu.so.1")
    yield tmp_path / "site"
    for name in [name for name in sys.modules if name.split(".")[0] == "pycoral"]:
        del sys.modules[name]


def test_the_edge_tpu_without_its_library_is_said_and_auto_goes_on(folder, tmp_path, coral):
    compiled = changed(folder, tmp_path / "model", (folder / "model.int8.tflite").read_bytes(), "edgetpu")
    with pytest.raises(MissingDependencyError, match=r"No Edge TPU can be used here\. .* is not on this machine"):
        open_engine(compiled, "edgetpu")
    assert open_engine(compiled).artifact.target == "onnx"


def test_the_impostor_is_named_and_never_imported(folder, tmp_path, coral):
    fake_package(coral, "pycoral", {"__init__.py": "raise SystemError('imported')"})
    assert not runtimes.pycoral().there
    compiled = changed(folder, tmp_path / "model", (folder / "model.int8.tflite").read_bytes(), "edgetpu")
    with pytest.raises(MissingDependencyError, match=r"pycoral is another project of that name, from PyPI; run `pip uninstall pycoral`"):
        open_engine(compiled, "edgetpu")
    with pytest.raises(MissingDependencyError, match="another project"):
        runtimes.load_pycoral()


def test_googles_pycoral_opens_the_compiled_file(folder, tmp_path, coral):
    text = (
        "from ai_edge_litert.interpreter import Interpreter\n"
        "def make_interpreter(path):\n"
        "    return Interpreter(model_path=path)  # where pycoral adds the device's delegate\n"
    )
    fake_package(coral, "pycoral", {"__init__.py": "", "utils/__init__.py": "", "utils/edgetpu.py": text})
    compiled = changed(folder, tmp_path / "model", (folder / "model.int8.tflite").read_bytes(), "edgetpu")
    engine = open_engine(compiled)
    assert engine.artifact.target == "edgetpu"
    assert engine.runtime.startswith("Google's pycoral")
    inputs = normalize(raw_stamps(3), NORMALIZATION)
    np.testing.assert_allclose(engine.scores(inputs), open_engine(folder, "tflite-int8").scores(inputs), atol=0.05)


def test_a_library_that_gives_no_device_is_said_and_auto_goes_on(folder, tmp_path, coral, monkeypatch, caplog):
    library = ctypes.util.find_library("m")
    if library is None:
        pytest.skip("no shared library is found by name on this machine")

    def load_delegate(name):  # what the runtimes say where no device is attached
        raise ValueError(f"Failed to load delegate from {name}\n")

    monkeypatch.setattr(runtimes, "DELEGATE", library)
    monkeypatch.setattr("ai_edge_litert.interpreter.load_delegate", load_delegate)
    compiled = changed(folder, tmp_path / "model", (folder / "model.int8.tflite").read_bytes(), "edgetpu")
    with pytest.raises(MissingDependencyError, match=r"is installed but gives no Edge TPU \(Failed to load .*attach the device"):
        open_engine(compiled, "edgetpu")
    monkeypatch.setattr("astrid.core.runtime.log.propagate", True)
    assert open_engine(compiled).artifact.target == "onnx"
    assert "The next target is tried." in caplog.text

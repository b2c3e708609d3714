from __future__ import annotations

import re
import sys
import time

import numpy as np
import pytest
import torch

from astrid.config.schema.model import ModelConfig
from astrid.core.errors import GateError, InputError, MissingDependencyError
from astrid.export import edgetpu, quantize, tflite
from astrid.learning import models
from astrid.learning.graph import from_network

# As edgetpu_compiler 16 prints with -s (after google-coral/edgetpu issues 356, 489 and 671 on GitHub).
HEAD = """Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 112 ms.

Input model: model.tflite
Input size: 1.63MiB
Output model: model_edgetpu.tflite
Output size: 1.74MiB
On-chip memory used for caching model parameters: 1.62MiB
On-chip memory remaining for caching model parameters: 6.07MiB
Off-chip memory used for streaming uncached model parameters: {off}
Number of Edge TPU subgraphs: 1
Total number of operations: 10
Operation log: model_edgetpu.log
"""
TABLE = """
Operator                       Count      Status

MAX_POOL_2D                    3          Mapped to Edge TPU
LOGISTIC                       1          {logistic}
CONV_2D                        3          Mapped to Edge TPU
RESHAPE                        1          Mapped to Edge TPU
FULLY_CONNECTED                2          Mapped to Edge TPU
"""
END = "Compilation child process completed within timeout period.\nCompilation succeeded! \n"
WHOLE = HEAD.format(off="0.00B") + TABLE.format(logistic="Mapped to Edge TPU") + END
PARTLY = HEAD.format(off="41.75KiB") + TABLE.format(logistic="More than one subgraph is not supported") + END
BROKEN = """Edge TPU Compiler version 16.0.384591198
ERROR: Didn't find op for builtin opcode 'CONV_2D' version '6'. An older version of this builtin might be supported.

ERROR: Registration failed.

Invalid model: model.tflite
Model could not be parsed
"""


def content(batch=1, output="probability"):
    torch.manual_seed(0)
    cfg = ModelConfig(name="astrid_cnn", normalization="asinh_noise.v1", width=4, dense=8, conv_dropout=0.0, dropout=0.0)
    stamps = np.random.default_rng(0).uniform(-1, 1, (2, 3, 63, 63)).astype(np.float32)
    integers = quantize.calibrate(from_network(models.build(cfg).eval()), [stamps], "asinh_noise.v1", output)
    return tflite.write_int8(integers, batch=batch)


def changed(change):
    """The file with its object form changed by `change(schema, model)`."""
    import flatbuffers

    s = tflite.schema()
    model = s.ModelT.InitFromPackedBuf(content(), 0)
    change(s, model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def compiler(folder, text, *, code=0, makes=True, sleeps=0):
    """An executable that prints what the real one prints, and leaves the file that it leaves."""
    script = folder / edgetpu.COMPILER
    script.write_text(f"""#!{sys.executable}
import pathlib, sys, time
time.sleep({sleeps})
out = pathlib.Path(sys.argv[sys.argv.index("-o") + 1])
if {makes}:
    (out / "model_edgetpu.tflite").write_bytes(b"compiled " + pathlib.Path(sys.argv[-1]).read_bytes())
    (out / "model_edgetpu.log").write_text({TABLE.format(logistic="Mapped to Edge TPU")!r})
print({text!r})
sys.exit({code})
""")
    script.chmod(0o755)
    return script


def test_every_operator_of_ours_is_mapped_and_the_memory_is_that_of_the_weights():
    found = edgetpu.operator_map(content())
    assert [one.name for one in found.operators] == [
        *["CONV_2D", "MAX_POOL_2D"] * 3,
        "RESHAPE",
        "FULLY_CONNECTED",
        "FULLY_CONNECTED",
        "LOGISTIC",
    ]
    assert found.mapped == len(found.operators)
    weights = 4 * 27 + 8 * 36 + 16 * 72 + 8 * 784 + 8
    assert found.parameters == weights + 4 * (4 + 8 + 16 + 8 + 1)
    assert found.widest == 63 * 63 * (3 + 4)  # the first convolution: what comes in and what goes out
    assert found.record()["expected_streamed_bytes"] == 0


def test_parameters_beyond_the_chips_memory_are_streamed():
    found = edgetpu.OperatorMap((), parameters=11_000_000, widest=0)
    assert found.streamed == 11_000_000 - 7 * 2**20
    assert found.record()["expected_on_chip_bytes"] == 7 * 2**20


def test_a_batch_is_for_the_cpu():
    found = edgetpu.operator_map(content(batch=8))
    assert "8x63x63x3, of which only the three inner dimensions may exceed 1" in found.operators[0].reason
    assert found.mapped == 0


def test_the_float_file_is_mapped_nowhere():
    torch.manual_seed(0)
    cfg = ModelConfig(name="braai", normalization="l2.v1", width=4, dense=8, conv_dropout=0.0, dropout=0.0)
    found = edgetpu.operator_map(tflite.write_float(from_network(models.build(cfg).eval()), batch=1))
    assert "is no 8-bit integer" in found.operators[0].reason
    assert found.mapped == 0


def _newer(s, model):
    next(one for one in model.operatorCodes if one.builtinCode == s.BuiltinOperator.CONV_2D).version = 6


def _unknown(s, model):
    code = next(one for one in model.operatorCodes if one.builtinCode == s.BuiltinOperator.LOGISTIC)
    code.builtinCode, code.deprecatedBuiltinCode = s.BuiltinOperator.GELU, 127


def _per_channel(s, model):
    dense = next(one for one in model.subgraphs[0].tensors if one.name == b"dense_8_weights")
    dense.quantization.scale = [0.1] * 8


def _fused_pool(s, model):
    pool = next(one for one in model.subgraphs[0].operators if one.builtinOptionsType == s.BuiltinOptions.Pool2DOptions)
    pool.builtinOptions.fusedActivationFunction = s.ActivationFunctionType.RELU


def _dilated(s, model):
    model.subgraphs[0].operators[2].builtinOptions.dilationHFactor = 2


def _dynamic(s, model):
    model.subgraphs[0].tensors[0].shapeSignature = [-1, 63, 63, 3]


def _unscaled(s, model):
    model.subgraphs[0].tensors[1].quantization = None


def _computed_weights(s, model):
    dense = model.subgraphs[0].operators[-2]
    dense.inputs = [dense.inputs[0], model.subgraphs[0].operators[-3].outputs[0], dense.inputs[2]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_newer, "CONV_2D version 6 is newer than the version 3 that it knows"),
        (_unknown, "GELU version 2 is not on the list"),
        (_per_channel, "FULLY_CONNECTED .* has a scale a channel"),
        (_fused_pool, "MAX_POOL_2D .* fused activation"),
        (_dilated, "CONV_2D .* another dilation in x than in y"),
        (_dynamic, "CONV_2D .* has no constant size"),
        (_unscaled, "CONV_2D .* has no scale"),
        (_computed_weights, "FULLY_CONNECTED .* are no constants"),
    ],
)
def test_an_operator_that_the_compiler_does_not_map_is_named(change, said):
    found = edgetpu.operator_map(changed(change))
    first = next(one for one in found.operators if not one.mapped)
    assert re.match(said, f"{first.name} version {first.version} {first.reason}")


def test_what_follows_an_unmapped_operator_runs_on_the_cpu_too():
    found = edgetpu.operator_map(changed(_dilated))
    assert [one.mapped for one in found.operators] == [True, True, *[False] * 8]
    assert found.operators[3].reason.startswith("follows an operator that is not mapped")


def test_other_bytes_are_refused():
    with pytest.raises(InputError, match="is no TFLite model"):
        edgetpu.operator_map(b"onnx" * 10)


def test_the_compilers_log_is_read():
    log = edgetpu.parse_log(WHOLE)
    assert (log.version, log.mapped, log.total, log.subgraphs, log.succeeded) == ("16.0.384591198", 10, 10, 1, True)
    assert (log.on_chip, log.on_chip_left, log.off_chip) == (round(1.62 * 2**20), round(6.07 * 2**20), 0)
    assert ("FULLY_CONNECTED", 2, "Mapped to Edge TPU") in log.operators
    assert edgetpu.summary(log)["unmapped"] == 0


def test_operators_left_on_the_cpu_are_counted():
    log = edgetpu.parse_log(PARTLY)
    assert (log.mapped, log.total, log.off_chip) == (9, 10, round(41.75 * 1024))
    assert ("LOGISTIC", 1, "More than one subgraph is not supported") in log.operators
    assert edgetpu.summary(log)["unmapped"] == 1


def test_a_log_without_operators_shows_nothing():
    log = edgetpu.parse_log("hello")
    assert (log.version, log.on_chip, log.subgraphs, log.succeeded) == ("of unknown version", -1, -1, False)
    assert (log.operators, log.total) == ((), 0)


def test_the_compiler_is_found_by_its_configured_path_then_on_path(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert edgetpu.find_compiler() is None
    script = compiler(tmp_path, WHOLE)
    assert edgetpu.find_compiler() == script
    assert edgetpu.find_compiler(str(script)) == script
    with pytest.raises(MissingDependencyError, match="is no executable file"):
        edgetpu.find_compiler(str(tmp_path / "elsewhere"))


@pytest.mark.parametrize("text", [WHOLE, HEAD.format(off="0.00B") + END])  # the second: the table in the operation log alone
def test_a_model_is_compiled_and_its_log_read(tmp_path, text):
    made = edgetpu.compile_model(compiler(tmp_path, text), b"integers", limit=30)
    assert made.content == b"compiled integers"
    assert (made.log.mapped, made.log.total) == (10, 10)


@pytest.mark.parametrize(
    ("text", "code", "makes", "said"),
    [
        (BROKEN, 1, False, r"16.0.384591198 failed with exit status 1 \(ERROR: Didn't find op for builtin opcode 'CONV_2D' version '6'"),
        (WHOLE, 0, False, r"exit status 0 \(Compilation succeeded!\)"),
        ("", 255, True, r"exit status 255 \(it said nothing\)"),
    ],
)
def test_a_compiler_that_fails_is_quoted(tmp_path, text, code, makes, said):
    with pytest.raises(GateError, match=said):
        edgetpu.compile_model(compiler(tmp_path, text, code=code, makes=makes), b"integers", limit=30)


def test_a_compiler_that_takes_too_long_is_ended(tmp_path):
    started = time.monotonic()
    with pytest.raises(GateError, match=r"was ended after 0\.3 s"):
        edgetpu.compile_model(compiler(tmp_path, WHOLE, sleeps=60), b"integers", limit=0.3)
    assert time.monotonic() - started < 20


def test_the_artifact_and_its_log_are_stored_beside_the_integer_model(tmp_path):
    made = edgetpu.compile_model(compiler(tmp_path, WHOLE), b"integers", limit=30)
    edgetpu.store(tmp_path / "model", made)
    assert (tmp_path / "model" / edgetpu.COMPILED_FILE).read_bytes() == b"compiled integers"
    assert edgetpu.parse_log((tmp_path / "model" / edgetpu.LOG_FILE).read_text()) == made.log


def test_without_a_compiler_the_ladder_ends_with_a_sentence():
    assert "ends at the integer artifact" in edgetpu.absent()
    assert "`astrid registry compile`" in edgetpu.absent()

"""`astrid registry`: every verb on a registry with two versions, and one sentence with exit code 2 for a mistake."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from astrid import cli
from astrid.commands import registry as verbs
from astrid.config.schema import RegistryConfig
from astrid.config.schema.integer import CompilerConfig
from astrid.config.validate import validate
from astrid.core.errors import GateError, MissingDependencyError
from astrid.export.folder import Artifact, add_artifact, read_manifest
from astrid.registry import evidence as evidences
from astrid.registry import promote, versions
from support.registry import INTEGER, ONNX, evidence, frame, put
from support.tiny_model import write_tiny_model

CONTENT = b"\x00\x00\x00\x00TFL3 an integer model"
LOG = """Edge TPU Compiler version 16.0.384591198
Model compiled successfully in 9 ms.
On-chip memory used for caching model parameters: 1.62MiB
On-chip memory remaining for caching model parameters: 6.01MiB
Off-chip memory used for streaming uncached model parameters: 0.00B
Number of Edge TPU subgraphs: 1

Operator                       Count      Status

CONV_2D                        4          Mapped to Edge TPU
FULLY_CONNECTED                2          {status}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folders = []
    for threshold in (0.52, 0.62):
        folder = write_tiny_model(tmp_path_factory.mktemp("m"), threshold=threshold)
        tensor = {"name": "x", "kind": "logit", "shape": [1, 1], "dtype": "int8"}
        add_artifact(folder, Artifact("model.int8.tflite", "tflite-int8", CONTENT, tensor, tensor, {"calibration_stamps": 512}, {}))
        folders.append(folder)
    return folders


@pytest.fixture
def cfg(tmp_path, registry_values) -> RegistryConfig:
    return validate(RegistryConfig, registry_values | {"model_name": f"verbs-{tmp_path.name}"}, path="registry")


@pytest.fixture
def two(models, cfg) -> RegistryConfig:
    """A champion and a candidate that is a little better."""
    artifacts = {"onnx": ONNX, "tflite-int8": INTEGER}
    put(models[0], evidence(frame(0.3), artifacts=artifacts), cfg.model_name)
    verbs.promote_version("candidate", "onnx", "the first", cfg, no_compiler())
    put(models[1], evidence(artifacts=artifacts), cfg.model_name)
    return cfg


def no_compiler() -> CompilerConfig:
    return CompilerConfig(path="", limit=10.0)


def compiler(folder: Path, status: str = "Mapped to Edge TPU", *, fails: bool = False) -> CompilerConfig:
    """An executable that writes what the documented compiler writes."""
    path = folder / "edgetpu_compiler"
    make = 'while [ $# -gt 1 ]; do [ "$1" = -o ] && out="$2"; shift; done; cp "$1" "$out/model_edgetpu.tflite"'
    path.write_text(f"#!/bin/sh\n{'exit 3' if fails else make}\ncat <<END\n{LOG.format(status=status)}END\n")
    path.chmod(0o755)
    return CompilerConfig(path=str(path), limit=10.0)


def test_an_empty_registry_says_how_it_is_filled(cfg, capsys):
    verbs.list_models(cfg)
    assert f"No version of {cfg.model_name} is registered yet; `dvc repro register`" in capsys.readouterr().out


def test_list_show_and_history(two, capsys):
    capsys.readouterr()
    verbs.list_models(two)
    assert "onnx-champion" in capsys.readouterr().out
    verbs.show("onnx-champion", two)
    out = capsys.readouterr().out
    assert f"{two.model_name} version 1, aliases: onnx-champion" in out
    assert "model.int8.tflite        tflite-int8" in out
    assert "promote version 1 for onnx" in out
    assert "register version 2" not in out
    verbs.history(0, two)
    book = capsys.readouterr().out
    assert [line.split()[3:6] for line in book.splitlines() if line[:4].strip().isdigit()] == [
        ["register", "version", "1"], ["promote", "version", "1"], ["register", "version", "2"],
    ]  # fmt: skip
    assert "onnx-champion: – -> 1" in book
    assert "12 of 12 gates passed" in book
    verbs.history(1, two)
    assert capsys.readouterr().out.splitlines()[0].split()[3:6] == ["register", "version", "2"]


def test_promote_prints_the_table_and_a_refusal_is_an_error_that_history_shows(two, models, capsys):
    verbs.promote_version("candidate", "onnx", "better", two, no_compiler())
    out = capsys.readouterr().out
    assert "champion aucpr" in out
    assert f"version 2 of {two.model_name} is the champion of onnx." in out
    with pytest.raises(GateError, match=r"version 1 of .* is not promoted to onnx, \d+ of \d+ gates refuse: AUCPR against the champion's"):
        verbs.promote_version("1", "onnx", "", two, no_compiler())
    assert "REFUSED" in capsys.readouterr().out
    verbs.history(1, two)
    assert "refused by champion aucpr: -0." in capsys.readouterr().out


def test_rollback_names_the_champions_that_stay_behind(two, capsys):
    verbs.promote_version("2", "onnx", "", two, no_compiler())
    verbs.promote_version("2", "edgetpu", "", two, no_compiler())
    assert "`astrid registry compile 2` finishes it" in capsys.readouterr().out
    verbs.rollback("onnx", "too many false alarms", two)
    out = capsys.readouterr().out
    assert f"version 1 of {two.model_name} is the champion of onnx again; version 2 was." in out
    assert "tflite-int8-champion stays at version 2" in out


def test_diff_shows_what_differs_and_by_how_much(two, capsys):
    capsys.readouterr()
    verbs.diff("2", "1", two)
    out = capsys.readouterr().out
    assert [line.split() for line in out.splitlines() if line.startswith("threshold")] == [["threshold", "0.62", "0.52"]]
    assert "normalization" not in out
    assert "Version 2 minus version 1 on 400 test rows, 95 % interval:" in out
    assert "faint" in out
    verbs.diff("1", "1", two)
    assert "The descriptions are equal." in capsys.readouterr().out


def test_a_difference_tells_metrics_on_test_with_their_intervals_and_leaves_out_the_rest():
    metrics = {"test.aucpr": 0.95, "test.aucpr_low": 0.9, "test.aucpr_high": 0.97, "baseline.aucpr": 0.8, "validation.recall": 0.9}
    assert dict(verbs._facts({"threshold": 0.5, "metrics": metrics})) == {"threshold": 0.5, "test.aucpr": "0.950 (0.900 to 0.970)"}


def test_without_a_version_the_candidate_is_judged_for_onnx_and_its_champion_for_what_is_above(two, registry_values, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    section = registry_values | {"model_name": two.model_name}
    Path("params.yaml").write_text(json.dumps({"registry": section, "export": {"integer": {"compiler": {"path": "", "limit": 10}}}}))
    for arguments, alias, number in (("--to tflite-int8", "tflite-int8-champion", 1), ("", "onnx-champion", 2)):
        monkeypatch.setattr(sys, "argv", ["astrid", "registry", "promote", *arguments.split()])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code in (0, None)
        assert promote.settle(two.model_name).aliases[alias] == number


def test_compile_keeps_the_artifact_with_the_version_and_finishes_the_ladder(two, tmp_path, capsys):
    verbs.promote_version("1", "edgetpu", "", two, no_compiler())
    before = versions.version(two.model_name, 1).tags["astrid.digest"]
    with pytest.raises(MissingDependencyError, match="the ladder ends at the integer artifact"):
        verbs.compile_version("tflite-int8-champion", two, no_compiler())
    verbs.compile_version("tflite-int8-champion", two, compiler(tmp_path))
    assert "6 of 6 operators mapped, 1 subgraphs" in capsys.readouterr().out
    one = versions.find(two.model_name, "edgetpu-champion")
    folder = versions.fetch(one.uri)
    assert (folder / "model_edgetpu.tflite").read_bytes() == CONTENT
    assert "Edge TPU Compiler version 16" in (folder / "model_edgetpu.log").read_text()
    assert read_manifest(folder)["artifacts"]["model_edgetpu.tflite"]["target"] == "edgetpu"
    assert versions.model_digest(folder) == before
    assert evidences.read(one).artifacts["edgetpu"].streamed == 0
    assert [entry.action for entry in promote.settle(two.model_name).entries][-2:] == ["compile", "promote"]


def test_promotion_compiles_where_there_is_a_compiler(two, tmp_path):
    verbs.promote_version("1", "edgetpu", "", two, compiler(tmp_path))
    assert promote.settle(two.model_name).aliases["edgetpu-champion"] == 1


def test_an_operator_left_on_the_cpu_and_a_compiler_that_fails_promote_nothing(two, tmp_path):
    with pytest.raises(GateError, match="operators that the compiler left on the CPU: 2, above 0"):
        verbs.promote_version("1", "edgetpu", "", two, compiler(tmp_path, "Operation is working on an unsupported data type"))
    with pytest.raises(GateError, match="failed with exit status 3"):
        verbs.compile_version("1", two, compiler(tmp_path, fails=True))
    assert "edgetpu-champion" not in promote.settle(two.model_name).aliases


MISTAKES = {
    "show nothing": "has no alias 'nothing'",
    "promote 99": "has no version 99",
    "rollback": "has no earlier champion of onnx",
    "rollback --to gpu": "'gpu' is not one of",
    "history --limit x": "'x' is not a valid integer",
    "diff 1 99": "has no version 99",
    "compile 1 --compiler /nowhere/edgetpu_compiler": "is no executable file",
    "promote 2 --to tflite-int8": "is not the champion of onnx",
    "list -S registry.gates.nonsense=1": "registry.gates.nonsense is not a configuration key",
}


def test_a_mistake_is_one_sentence_and_exit_code_2(two, registry_values, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    section = registry_values | {"model_name": two.model_name}
    Path("params.yaml").write_text(json.dumps({"registry": section, "export": {"integer": {"compiler": {"path": "", "limit": 10}}}}))
    for arguments, sentence in MISTAKES.items():
        monkeypatch.setattr(sys, "argv", ["astrid", "registry", *arguments.split()])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr().err
        assert stop.value.code == 2, arguments
        assert sentence in said
        assert "Traceback" not in said

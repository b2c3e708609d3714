"""The ladder: what each rung asks, where it ends, and that a refusal is written down."""

from __future__ import annotations

from dataclasses import replace

import pytest

from astrid.core.errors import RegistryError
from astrid.registry import evidence as evidences
from astrid.registry import promote, versions
from astrid.registry.decide import decide
from astrid.registry.gates import refused
from astrid.registry.tracking import resume_run
from support.registry import BUILT, EDGE, INTEGER, ONNX, QUALITY, each_store, evidence, frame, put
from support.tiny_model import write_tiny_model

LADDER = {"onnx": ONNX, "tflite-int8": INTEGER, "edgetpu": EDGE}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return [write_tiny_model(tmp_path_factory.mktemp("m"), threshold=value) for value in (0.51, 0.61)]


@pytest.fixture
def name(request, store):
    return f"d{abs(hash((request.node.name, store))) % 10**9}"


def closed(outcome):
    return [gate.name for gate in refused(outcome.gates)]


@each_store
def test_the_whole_ladder(models, name, registry_config):
    one = put(models[0], evidence(artifacts=LADDER), name)
    early = decide(one, "edgetpu", registry_config, why="too early")
    assert closed(early) == ["ladder"]
    assert decide(one, "onnx", registry_config, why="a test").targets == ("onnx",)
    done = decide(one, "edgetpu", registry_config, why="a test")
    assert done.targets == ("tflite-int8", "edgetpu")
    assert set(done.version.aliases) == {"candidate", "onnx-champion", "tflite-int8-champion", "edgetpu-champion"}
    actions = [(entry.action, entry.target) for entry in promote.settle(name).entries]
    assert actions == [("register", ""), ("refuse", "tflite-int8"), ("promote", "onnx"), ("promote", "edgetpu")]
    kept = promote.settle(name).entries[-1].gates
    assert kept["compiled operators"] == (0.0, 0.0, True)
    assert kept["aucpr loss"] == (0.0005, 0.002, True)


def test_without_a_compiled_artifact_the_ladder_ends_at_the_integer_one_and_says_so(models, name, registry_config):
    one = put(models[0], evidence(artifacts={"onnx": ONNX, "tflite-int8": INTEGER}), name)
    decide(one, "onnx", registry_config, why="a test")
    outcome = decide(one, "edgetpu", registry_config, why="a test")
    assert outcome.targets == ("tflite-int8",)
    assert f"`astrid registry compile {one.version}` finishes it" in outcome.note
    assert "edgetpu-champion" not in versions.standing(name)


@pytest.mark.parametrize(
    ("artifacts", "gates"),
    [
        ({"onnx": ONNX}, ["aucpr loss", "recall loss", "ranges", "operators", "size", "latency"]),
        ({"onnx": ONNX, "tflite-int8": replace(INTEGER, aucpr_loss=0.2, recall_loss=0.4, calibration_stamps=0)},
         ["aucpr loss", "recall loss", "ranges"]),
        ({"onnx": ONNX, "tflite-int8": replace(INTEGER, unmapped=2)}, ["operators"]),
        (LADDER | {"edgetpu": replace(EDGE, unmapped=1)}, ["compiled operators"]),
    ],
    ids=["no integer artifact", "quantised without calibration", "unmapped operator", "operator left on the CPU"],
)  # fmt: skip
def test_a_bad_integer_artifact_is_refused(models, name, registry_config, artifacts, gates):
    one = put(models[0], evidence(artifacts=artifacts), name)
    assert decide(one, "onnx", registry_config, why="a test").promoted
    assert closed(decide(one, "edgetpu", registry_config, why="a test")) == gates
    assert {"tflite-int8-champion", "edgetpu-champion"} & set(versions.standing(name)) == set()


@pytest.mark.parametrize(
    ("changes", "gates"),
    [
        ({"scores": frame(1.5), "quality": replace(QUALITY, aucpr=0.9)}, ["champion aucpr", "champion recall", "slice bright hosts",
                                                                          "slice faint", "slice survey deep", "slice survey wide"]),
        ({"built": replace(BUILT, leaks=4)}, ["leakage"]),
        ({"built": replace(BUILT, lock=1)}, ["pipeline"]),
        ({"quality": replace(QUALITY, replay=0.3)}, ["replay"]),
        ({"quality": replace(QUALITY, ece=0.2)}, ["calibration"]),
    ],
    ids=["worse model", "leaked split", "not from the pipeline", "not the evaluated folder", "broken calibration"],
)  # fmt: skip
def test_a_successor_that_is_worse_is_refused_and_the_champion_stays(models, name, registry_config, changes, gates):
    first = put(models[0], evidence(), name)
    assert decide(first, "onnx", registry_config, why="a test").promoted
    second = put(models[1], evidence(**changes), name)
    outcome = decide(second, "onnx", registry_config, why="a test")
    assert closed(outcome) == gates
    assert not outcome.promoted
    last = promote.settle(name).entries[-1]
    assert (last.action, last.version, last.moved) == ("refuse", second.version, {})
    assert [gate for gate, numbers in last.gates.items() if not numbers[2]] == gates
    assert versions.champion(name).version == first.version


def test_an_equal_successor_is_promoted_unless_it_has_to_be_better(models, name, registry_config):
    decide(put(models[0], evidence(), name), "onnx", registry_config, why="a test")
    second = put(models[1], evidence(), name)
    champion = replace(registry_config.gates.champion, better=True)
    better = replace(registry_config, gates=replace(registry_config.gates, champion=champion))
    assert closed(decide(second, "onnx", better, why="a test")) == ["champion aucpr"]
    assert decide(second, "onnx", registry_config, why="a test").promoted


def test_a_champion_without_scores_on_these_rows_cannot_be_passed_by(models, name, registry_config):
    decide(put(models[0], evidence(frame(0.1, rows=200)), name), "onnx", registry_config, why="a test")
    second = put(models[1], evidence(), name)
    outcome = decide(second, "onnx", registry_config, why="a test")
    assert closed(outcome) == ["champion"]
    assert "run the stage register here" in refused(outcome.gates)[0].sentence


def test_evidence_reads_back_and_a_version_without_it_is_refused(models, name):
    found = evidence(artifacts=LADDER, quality=replace(QUALITY, ece=float("nan")))
    back = evidences.read(put(models[0], found, name))
    assert back.artifacts["tflite-int8"] == INTEGER
    assert back.built == BUILT
    assert back.quality.ece != back.quality.ece
    assert back.scores["onnx"]["score"].tolist() == found.scores["onnx"]["score"].tolist()
    with resume_run("training") as run:
        bare = versions.keep(models[1], run, tags={}, name=name)
    with pytest.raises(RegistryError, match="has no evidence that its gates could be judged on"):
        evidences.read(bare)

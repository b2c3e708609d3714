"""A promotion happens at one moment: before it nothing has changed, after it everything has, wherever the process dies."""

from __future__ import annotations

import numpy as np
import pytest

from astrid.core.errors import RegistryError
from astrid.registry import promote, versions
from astrid.registry.gates import Gate
from astrid.registry.journal import OvertakenError
from astrid.registry.store import client
from astrid.serving.engine import ScoringEngine
from support.registry import each_store, evidence, put
from support.tiny_model import write_tiny_model

OPEN = (Gate("aucpr", 0.9, 0.8, True, "fine."),)
SHUT = (Gate("aucpr", 0.7, 0.8, False, "the AUCPR on test is 0.7, below 0.8."),)
THRESHOLDS = (0.5, 0.6, 0.7)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return [write_tiny_model(tmp_path_factory.mktemp("m"), threshold=value) for value in THRESHOLDS]


@pytest.fixture
def name(request, store):
    """A registered model of its own for every test."""
    return f"t{abs(hash((request.node.name, store))) % 10**9}"


def bare(name, count=3):
    """Versions of a registered model without any file: promotion looks at none."""
    store = client()
    versions.ensure_model(store, name)
    ones = [versions.version(name, int(store.create_model_version(name, "file:///nowhere").version)) for _ in range(count)]
    promote.nominate(ones[-1], "a test")
    return ones


def raised(name, *ones, target="onnx"):
    for one in ones:
        promote.promote(promote.settle(name), one, [target], OPEN, why="a test")


@each_store
def test_champions_follow_each_other_and_a_refusal_moves_nothing(models, name):
    first, second = (put(model, evidence(), name) for model in models[:2])
    raised(name, first)
    assert promote.settle(name).aliases == {"candidate": 2, "onnx-champion": 1}
    journal = promote.settle(name)
    with pytest.raises(RegistryError, match=r"is not promoted: the AUCPR on test is 0\.7"):
        promote.promote(journal, second, ["onnx"], SHUT, why="a test")
    promote.refuse(journal, second, "onnx", SHUT)
    assert versions.champion(name).version == 1
    raised(name, second, second)
    assert versions.standing(name) == {"candidate": 2, "onnx-champion": 2, "previous-onnx-champion": 1}
    actions = [(entry.action, entry.version) for entry in promote.settle(name).entries]
    assert actions == [("register", 1), ("register", 2), ("promote", 1), ("refuse", 2), ("promote", 2)]


@each_store
def test_a_rollback_gives_back_the_earlier_champion_bit_for_bit(models, name):
    stamps = np.random.default_rng(0).standard_normal((16, 3, 63, 63)).astype(np.float32)
    uri = f"models:/{name}@onnx-champion"
    raised(name, put(models[0], evidence(), name))
    before = versions.fetch(uri)
    scores = ScoringEngine.load(before, target="onnx").score(stamps)
    files = {path.relative_to(before): path.read_bytes() for path in before.rglob("*") if path.is_file()}
    raised(name, *(put(model, evidence(), name) for model in models[1:]))
    assert promote.rollback(promote.settle(name), "onnx", why="worse on the sky").version == 2
    assert versions.standing(name)["previous-onnx-champion"] == 1
    now = promote.rollback(promote.settle(name), "onnx", why="worse still")
    assert now.version == 1
    assert "previous-onnx-champion" not in versions.standing(name)
    after = versions.fetch(uri)
    assert {path.relative_to(after): path.read_bytes() for path in after.rglob("*") if path.is_file()} == files
    again = ScoringEngine.load(after, target="onnx").score(stamps)
    np.testing.assert_array_equal(again.raw, scores.raw)
    np.testing.assert_array_equal(again.calibrated, scores.calibrated)
    with pytest.raises(RegistryError, match="has no earlier champion of onnx to roll back to"):
        promote.rollback(promote.settle(name), "onnx", why="once too often")


@each_store
def test_of_two_promoters_that_judged_the_same_champion_one_wins(name):
    ones = bare(name)
    raised(name, *ones[:2])
    seen = promote.settle(name)
    promote.promote(seen, ones[2], ["onnx"], OPEN, why="the first")
    with pytest.raises(OvertakenError, match="'promote' of version 3"):
        promote.promote(seen, ones[0], ["onnx"], OPEN, why="the second")
    with pytest.raises(OvertakenError, match="'promote' of version 3"):
        promote.rollback(seen, "onnx", why="the third")
    assert promote.settle(name).aliases["onnx-champion"] == 3


@each_store
@pytest.mark.parametrize("verb", ["promote", "rollback"])
@pytest.mark.parametrize("survives", range(4))
def test_whatever_is_killed_in_the_middle_is_undone_or_completed_at_the_next_call(name, monkeypatch, verb, survives):
    """The process dies at its (survives + 1)th write to the store; the next call leaves the state before or the state after."""
    ones = bare(name)
    raised(name, *ones[:2])
    journal = promote.settle(name)
    before, after = journal.aliases, journal.aliases | {"onnx-champion": 3, "previous-onnx-champion": 2}
    if verb == "rollback":
        after = {"candidate": 3, "onnx-champion": 1}
    writes = 0
    store = client()

    def dies(write):
        def wrapped(*arguments, **named):
            nonlocal writes
            writes += 1
            if writes > survives:
                raise KeyboardInterrupt
            return write(*arguments, **named)

        return wrapped

    with monkeypatch.context() as dying:
        for write in ("log_param", "set_registered_model_alias", "delete_registered_model_alias"):
            dying.setattr(store, write, dies(getattr(store, write)))
        try:
            if verb == "promote":
                promote.promote(journal, ones[2], ["onnx"], OPEN, why="killed")
            else:
                promote.rollback(journal, "onnx", why="killed")
        except KeyboardInterrupt:
            assert writes > survives
        else:
            assert writes == 3 <= survives  # the entry and two aliases: nothing was left to die at
    settled = promote.settle(name)
    assert versions.standing(name) == settled.aliases == (before if survives == 0 else after)
    assert len(settled.entries) == len(journal.entries) + (survives > 0)


def test_the_ladder_moves_its_rungs_together_and_back_one_by_one(name):
    ones = bare(name, 2)
    for one in ones:
        raised(name, one)
        promote.promote(promote.settle(name), one, ["tflite-int8", "edgetpu"], OPEN, why="a test")
    assert promote.settle(name).aliases["previous-edgetpu-champion"] == 1
    promote.rollback(promote.settle(name), "edgetpu", why="a test")
    aliases = promote.settle(name).aliases
    assert (aliases["edgetpu-champion"], aliases["tflite-int8-champion"], aliases["onnx-champion"]) == (1, 2, 2)


def test_an_alias_moved_by_hand_is_put_back_with_a_line_and_foreign_ones_are_left_alone(name, caplog):
    ones = bare(name, 2)
    raised(name, ones[0])
    client().set_registered_model_alias(name, "shadow", "2")
    client().set_registered_model_alias(name, "onnx-champion", "2")
    with caplog.at_level("WARNING", logger="astrid"):
        promote.settle(name)
    assert versions.standing(name) == {"candidate": 2, "onnx-champion": 1, "shadow": 2}
    assert "onnx-champion stands at version 2, the journal has it at 1; it is put there" in caplog.text


def test_a_registry_from_before_the_journal_is_adopted(name):
    bare(name, 2)
    store = client()
    store.delete_registered_model_tag(name, "astrid.journal")
    store.set_registered_model_alias(name, "onnx-champion", "2")
    store.set_registered_model_alias(name, "previous-onnx-champion", "1")
    journal = promote.settle(name)
    assert [entry.action for entry in journal.entries] == ["adopt"]
    assert promote.rollback(journal, "onnx", why="a test").version == 1


def test_a_nomination_comes_after_whoever_was_first(name, monkeypatch):
    one, two = bare(name, 2)
    real, once = promote.settle, [True]

    def overtaken(of):
        journal = real(of)
        if once.pop() if once else False:
            promote.note(journal, two, "refuse", "onnx", SHUT, "somebody else")
        return journal

    monkeypatch.setattr(promote, "settle", overtaken)
    assert promote.nominate(one, "a test").aliases == ("candidate",)


def test_only_targets_of_the_ladder_are_known():
    with pytest.raises(RegistryError, match="'gpu' is no target; choose one of onnx, tflite-int8, edgetpu"):
        promote.alias_of("gpu")
    assert [promote.below(target) for target in promote.LADDER] == [None, "onnx", "tflite-int8"]

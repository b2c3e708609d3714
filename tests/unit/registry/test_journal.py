"""The log book is append-only, one of two writers wins, and its entries read back as they were written."""

from __future__ import annotations

import re
import threading

import pytest

from astrid.core.errors import RegistryError
from astrid.registry import journal as journals
from astrid.registry.gates import Gate
from astrid.registry.journal import Entry, Journal, OvertakenError
from astrid.registry.store import client
from support.registry import each_store

pytestmark = each_store


@pytest.fixture
def journal() -> Journal:
    return Journal("log", journals.new_run("log"), ())


def entry(version: int, action: str = "promote", **after: int) -> Entry:
    return Entry(action, version, {}, after, "because")


def test_an_entry_reads_back_with_its_number_author_and_time(journal):
    gates = journals.gate_numbers(
        [Gate("aucpr", 0.97123456789, 0.8, True, "s."), Gate("champion", float("nan"), float("nan"), False, "s.")]
    )
    journal.append(Entry("promote", 3, {"a": 1, "b": 2}, {"a": 3, "c": 1}, "a good reason", "onnx", gates))
    (found,) = journals.read("log", journal.run_id).entries
    assert (found.number, found.action, found.version, found.why, found.target) == (0, "promote", 3, "a good reason", "onnx")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found.time)
    assert found.who == journals.whoami()
    assert found.moved == {"a": (1, 3), "b": (2, None), "c": (None, 1)}
    assert found.gates == {"aucpr": (0.971235, 0.8, True), "champion": (None, None, False)}


def test_of_two_writers_that_read_the_same_journal_one_is_told_who_was_first(journal):
    with_one = journal.append(entry(1))
    with pytest.raises(OvertakenError, match=r"was first: entry 0 of the journal is 'promote' of version 1 .*decide again"):
        journal.append(entry(2))
    assert [one.version for one in journals.read("log", journal.run_id).entries] == [1]
    with_one.append(entry(2))


def test_of_many_writers_at_once_exactly_one_wins(journal):
    start, won, lost, broken = threading.Barrier(6), [], [], []

    def write(version: int) -> None:
        start.wait()
        try:
            journal.append(entry(version))
            won.append(version)
        except OvertakenError:
            lost.append(version)
        except RegistryError as error:  # would be a fault of the store, not an answer
            broken.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert broken == []
    assert (len(won), len(lost)) == (1, 5)
    assert [one.version for one in journals.read("log", journal.run_id).entries] == won


def test_the_store_itself_refuses_to_change_an_entry(journal):
    from mlflow.exceptions import MlflowException

    journal.append(entry(1))
    with pytest.raises(MlflowException, match="Changing param values is not allowed"):
        client().log_param(journal.run_id, "00000000", "{}")


def test_reigns_are_walked_back_by_rollbacks_one_by_one(journal):
    def step(action, before, after):
        return Entry(action, 0, before, after, "because")

    entries = (
        step("adopt", {}, {"x": 2, "previous-x": 1}),
        step("promote", {"x": 2, "previous-x": 1}, {"x": 3, "previous-x": 2}),
        step("refuse", {"x": 3, "previous-x": 2}, {"x": 3, "previous-x": 2}),
        step("promote", {"x": 3, "previous-x": 2}, {"x": 3, "previous-x": 2, "y": 3}),
    )
    assert Journal("log", "", entries).reigns("x") == (1, 2, 3)
    assert Journal("log", "", entries).reigns("y") == (3,)
    back = step("rollback", {"x": 3, "previous-x": 2, "y": 3}, {"x": 2, "previous-x": 1, "y": 3})
    again = Journal("log", "", (*entries, back))
    assert again.reigns("x") == (1, 2)
    assert again.reigns("y") == (3,)
    assert again.rolled_back("x", 3) is back
    assert again.rolled_back("x", 2) is None
    given = step("promote", dict(back.after), {"x": 3, "previous-x": 2, "y": 3})
    assert Journal("log", "", (*entries, back, given)).rolled_back("x", 3) is None


def test_what_the_store_has_no_room_for_gives_way_and_the_refusals_stay(journal):
    many = {f"slice number {number:04d}": (0.1, 0.2, number % 50 > 0) for number in range(400)}
    journal.append(Entry("refuse", 1, {}, {}, "w" * 2000, "onnx", many))
    (found,) = journals.read("log", journal.run_id).entries
    assert len(found.gates) == 8
    assert not any(numbers[2] for numbers in found.gates.values())
    assert found.why == "w" * 500


@pytest.mark.parametrize(
    ("key", "text", "sentence"),
    [
        ("00000001", "{}", "has a gap or a foreign entry among 00000001"),
        ("00000000", "[]", "entry 0 of the registry's journal cannot be read"),
    ],
)
def test_a_journal_that_somebody_else_wrote_into_is_refused(journal, key, text, sentence):
    client().log_param(journal.run_id, key, text)
    with pytest.raises(RegistryError, match=sentence):
        journals.read("log", journal.run_id)


def test_a_deleted_journal_says_how_it_comes_back(journal):
    client().delete_run(journal.run_id)
    with pytest.raises(RegistryError, match=f"mlflow runs restore --run-id {journal.run_id}"):
        journals.read("log", journal.run_id)
    with pytest.raises(RegistryError, match="is not in the tracking store any more"):
        journals.read("log", "0" * 32)

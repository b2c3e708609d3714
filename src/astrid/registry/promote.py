"""Promotion and rollback: one entry in the journal, then the aliases follow it.

The ladder of targets is onnx, tflite-int8, edgetpu: a version takes a rung when it is the champion of the one below. Aliases:
`candidate` is the newest registered version, `<target>-champion` the one that consumers of that target load, and
`previous-<target>-champion` the one that a rollback returns to. Every call begins with `settle`, which brings the aliases to
what the journal says: a promotion that was killed half-way is completed there, or never happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from astrid.core.errors import RegistryError
from astrid.core.runtime import log
from astrid.registry import journal as journals
from astrid.registry.gates import Gate, refused
from astrid.registry.journal import JOURNAL_TAG, Entry, Journal, OvertakenError
from astrid.registry.store import client, reaching
from astrid.registry.versions import MODEL_NAME, Version, fetch, standing, version

__all__ = ["CANDIDATE", "LADDER", "MODEL_NAME", "alias_of", "below", "fetch", "nominate", "note", "promote", "refuse", "rollback", "settle"]

CANDIDATE = "candidate"
LADDER = ("onnx", "tflite-int8", "edgetpu")
_TRIES = 20  # writers that one nomination may lose to


def alias_of(target: str) -> str:
    """The champion's alias of a target. Raises `RegistryError` for a target that is not on the ladder."""
    if target not in LADDER:
        raise RegistryError(f"{target!r} is no target; choose one of {', '.join(LADDER)}.")
    return f"{target}-champion"


def below(target: str) -> str | None:
    """The rung below a target, None for the first."""
    alias_of(target)
    at = LADDER.index(target)
    return LADDER[at - 1] if at else None


def settle(name: str = MODEL_NAME) -> Journal:
    """Bring the aliases to what the journal's newest entry says, and return the journal.

    An alias that stands elsewhere, because a promotion was killed before it was moved or because it was moved by hand, is put
    where the journal has it, with a line in the log. Raises `RegistryError` when nothing is registered under the name.
    """
    journal = _journal(name)
    astray = _astray(journal)
    for alias, here, there in astray:
        log.warning("registry: %s stands at version %s, the journal has it at %s; it is put there", alias, here, there)
    return _follow(journal) if astray else journal


def nominate(one: Version, why: str) -> Version:
    """Give a version the alias `candidate`; nothing changes where it has it."""
    for _ in range(_TRIES):
        journal = settle(one.name)
        before = journal.aliases
        if before.get(CANDIDATE) == one.version:
            break
        entry = Entry("register", one.version, before, before | {CANDIDATE: one.version}, why)
        try:  # a nomination hangs on no champion, so it may come after whoever was first
            _follow(journal.append(entry))
            break
        except OvertakenError:
            continue
    return version(one.name, one.version)


def promote(journal: Journal, one: Version, targets: Sequence[str], gates: Sequence[Gate], *, why: str) -> Version:
    """Make a version the champion of `targets` when every gate passed; the one before stays as `previous-...`.

    `journal`: as it stood (`settle`) before the gates were judged; somebody else's entry since then raises `OvertakenError` and
    nothing changes. Promoting a champion again changes nothing. Raises `RegistryError` when a gate did not pass.
    """
    closed = refused(gates)
    if closed:
        raise RegistryError(f"version {one.version} of {one.name} is not promoted: {closed[0].sentence}")
    before = journal.aliases
    after = dict(before)
    for target in targets:
        alias = alias_of(target)
        if alias in before and before[alias] != one.version:
            after[f"previous-{alias}"] = before[alias]
        after[alias] = one.version
    if after != before:
        entry = Entry("promote", one.version, before, after, why, targets[-1], journals.gate_numbers(gates))
        _follow(journal.append(entry))
    return version(one.name, one.version)


def refuse(journal: Journal, one: Version, target: str, gates: Sequence[Gate]) -> Journal:
    """Note in the journal that a version was refused, and by which gates; no alias moves."""
    closed = refused(gates)
    why = f"{len(closed)} of {len(gates)} gates refuse: {closed[0].sentence}"
    return note(journal, one, "refuse", target, gates, why)


def note(journal: Journal, one: Version, action: str, target: str, gates: Sequence[Gate], why: str) -> Journal:
    """Append an entry that moves no alias."""
    for _ in range(_TRIES):
        entry = Entry(action, one.version, journal.aliases, journal.aliases, why, target, journals.gate_numbers(gates))
        try:
            return journal.append(entry)
        except OvertakenError:
            journal = settle(one.name)
    raise RegistryError(f"the journal of {one.name} is written by {_TRIES} others at once; try again.")


def rollback(journal: Journal, target: str, *, why: str) -> Version:
    """Give a target's champion back to the version before it, as often as there is one; returns the champion that it is now.

    Raises `RegistryError` when there is no earlier champion or its version was deleted, `OvertakenError` when somebody was first.
    """
    alias = alias_of(target)
    reigns = journal.reigns(alias)
    if len(reigns) < 2:
        raise RegistryError(f"{journal.name} has no earlier champion of {target} to roll back to; `astrid registry history` shows why.")
    earlier = version(journal.name, reigns[-2])
    before = journal.aliases
    after = {name: number for name, number in before.items() if name != f"previous-{alias}"} | {alias: earlier.version}
    if len(reigns) > 2:
        after[f"previous-{alias}"] = reigns[-3]
    _follow(journal.append(Entry("rollback", earlier.version, before, after, why, target)))
    return version(journal.name, earlier.version)


def _journal(name: str) -> Journal:
    """The journal of a registered model; one from before there was a journal gets one that begins with its aliases."""
    store = client()
    with reaching("open the registry's journal"):
        found = store.search_registered_models(f"name='{name}'")
        if not found:
            raise RegistryError(f"nothing is registered as {name} yet; `dvc repro register` registers a model.")
        run_id = found[0].tags.get(JOURNAL_TAG)
        if run_id is None:
            store.set_registered_model_tag(name, JOURNAL_TAG, journals.new_run(name))
            run_id = store.get_registered_model(name).tags[JOURNAL_TAG]
    journal = journals.read(name, run_id)
    aliases = {} if journal.entries else {alias: number for alias, number in standing(name).items() if alias in _managed()}
    if not aliases:
        return journal
    newest = max(aliases.values())
    try:
        return journal.append(Entry("adopt", newest, {}, aliases, "aliases as they stood when the journal was opened"))
    except OvertakenError:
        return journals.read(name, run_id)


def _follow(journal: Journal) -> Journal:
    """Move the aliases to where the journal has them, and again when somebody has written on meanwhile; returns it as it stands."""
    while True:
        store: Any = client()
        for alias, _, there in _astray(journal):
            with reaching(f"move the alias {alias}"):
                if there is None:
                    store.delete_registered_model_alias(journal.name, alias)
                else:
                    store.set_registered_model_alias(journal.name, alias, str(there))
        again = journals.read(journal.name, journal.run_id)
        if len(again.entries) == len(journal.entries):
            return again
        journal = again  # else the aliases that were moved here may be old ones


def _astray(journal: Journal) -> list[tuple[str, int | None, int | None]]:
    """Aliases that stand elsewhere than the journal says: alias, version here, version there; the way back first, then champions."""
    now, wanted = standing(journal.name), journal.aliases
    return [(alias, now.get(alias), wanted.get(alias)) for alias in _managed() if now.get(alias) != wanted.get(alias)]


def _managed() -> tuple[str, ...]:
    """The aliases that the journal keeps, in the order in which they are moved. Other aliases are left alone."""
    champions = [alias_of(target) for target in LADDER]
    return (*(f"previous-{alias}" for alias in champions), *champions, CANDIDATE)

"""The registry's journal: who changed which alias, when, from what to what and why. Append-only, in the tracking store itself.

The journal is one run of MLflow, an entry one parameter of it under its number. A parameter is written once: the store refuses a
second value, so an entry can be neither changed nor overwritten, and of two writers of one number only one succeeds. That makes
appending the moment at which a promotion happens. The aliases of the registered model follow the newest entry (`ladder.settle`);
a process that dies before appending has changed nothing, and what one that dies after it has left undone is done by the next call.
All of this holds on any store that MLflow has: SQLite, PostgreSQL, or a tracking server in front of one.
"""

from __future__ import annotations

import getpass
import json
import math
import socket
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from astrid.core.errors import RegistryError
from astrid.core.runtime import log
from astrid.registry.gates import Gate
from astrid.registry.store import client, reaching
from astrid.registry.tracking import experiment_id

EXPERIMENT = "astrid-registry"
JOURNAL_TAG = "astrid.journal"
ACTIONS = ("adopt", "register", "promote", "refuse", "rollback", "compile")

_WIDTH = 8  # digits of an entry's number
_CHARACTERS = 6000  # of a parameter's value, the limit of MLflow's own interface
_WHY = 500  # characters of a reason
_TAKEN = "INVALID_PARAMETER_VALUE"  # what the store says to a second value of one number


class OvertakenError(RegistryError):
    """Somebody else appended first: what this call decided may hold no longer."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the log book. `before` and `after` are the aliases with their versions, complete."""

    action: str  # one of ACTIONS
    version: int
    before: Mapping[str, int]
    after: Mapping[str, int]
    why: str
    target: str = ""  # onnx, tflite-int8, edgetpu; empty where no target is meant
    gates: Mapping[str, tuple[float | None, float | None, bool]] = field(default_factory=dict)  # measured, limit, passed
    number: int = -1  # given by the journal
    who: str = ""
    time: str = ""  # UTC, ISO 8601

    @property
    def moved(self) -> dict[str, tuple[int | None, int | None]]:
        """The aliases that this entry moved: alias -> version before, version after."""
        names = sorted({*self.before, *self.after})
        return {name: (self.before.get(name), self.after.get(name)) for name in names if self.before.get(name) != self.after.get(name)}


@dataclass(frozen=True)
class Journal:
    """The journal of a registered model, as it stood when it was read."""

    name: str
    run_id: str
    entries: tuple[Entry, ...]

    @property
    def aliases(self) -> dict[str, int]:
        """Where every alias stands by the newest entry."""
        return dict(self.entries[-1].after) if self.entries else {}

    def append(self, entry: Entry) -> Journal:
        """Write the next entry and return the journal with it.

        Raises `OvertakenError` when another process has appended since this journal was read; then nothing is changed.
        """
        number = len(self.entries)
        written = _Written(entry, number)
        store = client()
        from mlflow.exceptions import MlflowException

        with reaching("write the registry's journal"):
            try:
                store.log_param(self.run_id, f"{number:0{_WIDTH}d}", written.text)
            except MlflowException as error:
                if error.error_code != _TAKEN:
                    raise
                newer = read(self.name, self.run_id).entries[number:]
                if not newer:
                    raise
                first = newer[0]
                raise OvertakenError(
                    f"{first.who} was first: entry {number} of the journal is {first.action!r} of version {first.version} "
                    f"({first.time}); look at `astrid registry history` and decide again."
                ) from error
        return Journal(self.name, self.run_id, (*self.entries, written.entry))

    def reigns(self, alias: str) -> tuple[int, ...]:
        """Versions that held an alias in the order of their reigns, without those that a rollback took back; the last one holds it."""
        held: list[int] = []
        for entry in self.entries:
            now = entry.after.get(alias)
            if now == entry.before.get(alias):
                continue
            if entry.action == "rollback":
                held.pop()
            elif now is not None:
                before = entry.after.get(f"previous-{alias}")
                held += [before, now] if entry.action == "adopt" and before is not None else [now]
        return tuple(held)

    def rolled_back(self, alias: str, version: int) -> Entry | None:
        """The rollback that took an alias from a version, where nobody has given it back since."""
        for entry in reversed(self.entries):
            old, new = entry.moved.get(alias, (None, None))
            if new == version:
                return None
            if entry.action == "rollback" and old == version:
                return entry
        return None


def read(name: str, run_id: str) -> Journal:
    """The journal of a registered model. Raises `RegistryError` when it is damaged or its run is gone."""
    from mlflow.exceptions import MlflowException

    store = client()
    with reaching("read the registry's journal"):
        try:
            run = store.get_run(run_id)
        except MlflowException as error:
            raise RegistryError(f"the journal of {name} (run {run_id}) is not in the tracking store any more ({error}).") from error
        if run.info.lifecycle_stage != "active":
            raise RegistryError(f"the journal of {name} was deleted; bring it back with `mlflow runs restore --run-id {run_id}`.")
        pages: Mapping[str, str] = run.data.params
    numbers = sorted(pages)
    if numbers != [f"{number:0{_WIDTH}d}" for number in range(len(numbers))]:
        raise RegistryError(f"the journal of {name} (run {run_id}) has a gap or a foreign entry among {', '.join(numbers[-3:])}.")
    return Journal(name, run_id, tuple(_entry(pages[key], number) for number, key in enumerate(numbers)))


def new_run(name: str) -> str:
    """A run for a journal, not yet known to the registered model."""
    store = client()
    with reaching("open the registry's journal"):
        tags = {"mlflow.note.content": f"Append-only journal of the registered model {name}: `astrid registry history` reads it."}
        run = store.create_run(experiment_id(store, EXPERIMENT), run_name=f"journal of {name}", tags=tags)
        store.set_terminated(run.info.run_id, "FINISHED")
    log.info("registry: the journal of %s is run %s", name, run.info.run_id)
    return str(run.info.run_id)


def gate_numbers(gates: Sequence[Gate]) -> dict[str, tuple[float | None, float | None, bool]]:
    """Gates as the journal keeps them: measured, limit, passed; None where there is no number."""
    return {gate.name: (_number(gate.measured), _number(gate.limit), gate.passed) for gate in gates}


def whoami() -> str:
    """user@host of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no name for this user id, as in some containers
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


class _Written:
    """An entry with its number, author and time, and its text; a unique word keeps two equal entries apart."""

    def __init__(self, entry: Entry, number: int) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        values = asdict(entry) | {"number": number, "who": whoami(), "time": now, "why": entry.why[:_WHY]}
        self.entry = Entry(**values)
        text = self._pack(values)
        if len(text) > _CHARACTERS:  # so many slices that only the refusals find room
            closed = {name: numbers for name, numbers in entry.gates.items() if not numbers[2]}
            text = self._pack(values | {"gates": closed})
        if len(text) > _CHARACTERS:
            text = self._pack(values | {"gates": {}})
        self.text = text

    @staticmethod
    def _pack(values: Mapping[str, Any]) -> str:
        content = {key: value for key, value in values.items() if key != "number"} | {"word": uuid.uuid4().hex}
        return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _entry(text: str, number: int) -> Entry:
    try:
        content = json.loads(text)
        gates = {name: (numbers[0], numbers[1], bool(numbers[2])) for name, numbers in content["gates"].items()}
        known = {key: content[key] for key in ("action", "version", "before", "after", "why", "target", "who", "time")}
    except (json.JSONDecodeError, KeyError, TypeError, IndexError) as error:
        raise RegistryError(f"entry {number} of the registry's journal cannot be read ({error}): {text[:80]!r}.") from error
    return Entry(**known, gates=gates, number=number)


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None

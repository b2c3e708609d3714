"""`astrid registry`: what is registered, promotion by gates, the way back, and the log book."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from astrid.core.errors import GateError, MissingDependencyError, RegistryError

if TYPE_CHECKING:
    from pathlib import Path

    from astrid.config.schema import RegistryConfig
    from astrid.config.schema.integer import CompilerConfig
    from astrid.registry.decide import Outcome
    from astrid.registry.journal import Entry
    from astrid.registry.versions import Version

_ABSENT = "–"
_SHOWN = 40  # characters of a value in a table of differences
_TOLD = "test."  # metrics of which part


def list_models(cfg: RegistryConfig) -> None:
    """Print the registered versions, the newest first."""
    from astrid.registry import promote, versions

    table = versions.list_models(cfg.model_name)
    if table.empty:
        print(f"No version of {cfg.model_name} is registered yet; `dvc repro register` registers one.")
        return
    promote.settle(cfg.model_name)
    print(versions.list_models(cfg.model_name).to_string(index=False, float_format="%.4f"))


def show(which: str, cfg: RegistryConfig) -> None:
    """Print a version: aliases, tags, artifacts, and what the journal says of it."""
    from astrid.export.folder import read_manifest
    from astrid.registry import promote, versions

    journal = promote.settle(cfg.model_name)
    found = versions.find(cfg.model_name, which)
    manifest = read_manifest(versions.fetch(found.uri))
    print(f"{found.name} version {found.version}, aliases: {', '.join(found.aliases) or 'none'}")
    for tag, value in sorted(found.tags.items()):
        print(f"  {tag.removeprefix('astrid.'):<24} {value}")
    print("artifacts")
    for file, entry in sorted(manifest.get("artifacts", {}).items()):
        print(f"  {file:<24} {entry['target']:<12} {entry['bytes'] / 1e6:.2f} MB  {entry['sha256'][:12]}")
    print("journal")
    for entry in journal.entries:
        if entry.version == found.version:
            print("\n".join(_lines(entry)))


def promote_version(which: str, to: str, why: str, cfg: RegistryConfig, compiler: CompilerConfig) -> None:
    """Judge a version and promote it; print the gates. Raises `GateError` when one refuses.

    On the way to `edgetpu` an integer artifact that is not compiled yet is compiled, where this machine has the compiler.
    """
    from astrid.export.edgetpu import find_compiler
    from astrid.registry import promote, versions
    from astrid.registry.decide import decide

    promote.settle(cfg.model_name)
    found = versions.find(cfg.model_name, which)
    outcome = decide(found, to, cfg, why=why)
    if outcome.note and (executable := find_compiler(compiler.path)):
        _compile(found, executable, compiler.limit)
        outcome = decide(found, to, cfg, why=why)
    _tell(outcome, to)


def _tell(outcome: Outcome, to: str) -> None:
    """Print what was decided. Raises `GateError` for a refusal, so that the exit code says it too."""
    from astrid.registry.gates import gate_table, refused

    found = outcome.version
    print(gate_table(outcome.gates))
    closed = refused(outcome.gates)
    if closed:
        counts = f"{len(closed)} of {len(outcome.gates)} gates refuse"
        raise GateError(f"version {found.version} of {found.name} is not promoted to {to}, {counts}: {closed[0].sentence}")
    print(f"version {found.version} of {found.name} is the champion of {', '.join(outcome.targets)}.")
    if outcome.note:
        print(outcome.note)


def rollback(to: str, why: str, cfg: RegistryConfig) -> None:
    """Give a target back to its champion before, and say which other champions now stand on another version."""
    from astrid.registry import promote

    journal = promote.settle(cfg.model_name)
    now = promote.rollback(journal, to, why=why)
    print(f"version {now.version} of {now.name} is the champion of {to} again; version {journal.aliases[promote.alias_of(to)]} was.")
    after = promote.settle(cfg.model_name).aliases
    for target in promote.LADDER[promote.LADDER.index(to) + 1 :]:
        other = after.get(promote.alias_of(target))
        if other not in (None, now.version):
            print(f"{promote.alias_of(target)} stays at version {other}; roll it back too, or promote version {now.version} there.")


def history(limit: int, cfg: RegistryConfig) -> None:
    """Print the journal, the newest entry last."""
    from astrid.registry import promote

    entries = promote.settle(cfg.model_name).entries
    for entry in entries[-limit:] if limit else entries:
        print("\n".join(_lines(entry)))


def diff(first: str, second: str, cfg: RegistryConfig) -> None:
    """Print in what two versions differ, and by how much on the test rows that both were scored on."""
    from astrid.export.folder import read_manifest
    from astrid.registry import promote, versions

    promote.settle(cfg.model_name)
    both = [versions.find(cfg.model_name, which) for which in (first, second)]
    flat = [dict(_facts(read_manifest(versions.fetch(one.uri)))) for one in both]
    names = [name for name in sorted({*flat[0], *flat[1]}) if flat[0].get(name) != flat[1].get(name)]
    print(f"{'':<44} {'version ' + str(both[0].version):<{_SHOWN}} version {both[1].version}")
    for name in names:
        print(f"{name:<44} {_short(flat[0].get(name)):<{_SHOWN}} {_short(flat[1].get(name))}")
    if not names:
        print("The descriptions are equal.")
    for line in _measured(both[0], both[1], cfg):
        print(line)


def compile_version(which: str, cfg: RegistryConfig, compiler: CompilerConfig) -> None:
    """Compile the integer artifact of a version for the Edge TPU, keep it with the version, and go on up the ladder.

    Raises `MissingDependencyError` where there is no compiler, before anything else is done.
    """
    from astrid.export.edgetpu import absent, find_compiler
    from astrid.registry import promote, versions
    from astrid.registry.decide import decide

    promote.settle(cfg.model_name)
    found = versions.find(cfg.model_name, which)
    executable = find_compiler(compiler.path)
    if executable is None:
        raise MissingDependencyError(absent())
    _compile(found, executable, compiler.limit)
    _tell(decide(found, "edgetpu", cfg, why="compiled"), "edgetpu")


def _compile(one: Version, executable: Path, limit: float) -> None:
    from astrid.registry.compile import compile_version as run

    log = run(one, executable, limit=limit)
    print(f"compiler {log.version}: {log.mapped} of {log.total} operators mapped, {log.subgraphs} subgraphs")


def _measured(one: Version, other: Version, cfg: RegistryConfig) -> Iterator[str]:
    """Paired differences, first minus second, where both have scores on the first one's test rows."""
    import numpy as np

    from astrid.registry import evidence as evidences
    from astrid.registry.compare import differences

    try:
        mine = evidences.read(one)
    except RegistryError as error:
        yield str(error)
        return
    theirs = evidences.scores_on(other, mine.rows)
    if theirs is None or "onnx" not in mine.scores:
        yield f"Version {other.version} was not scored on the test rows of version {one.version} ({mine.rows})."
        return
    thresholds = (mine.threshold, other.number("astrid.threshold"))
    rng = np.random.default_rng(cfg.seed)
    coverage = f"{100 * cfg.gates.champion.interval:g} % interval"
    yield f"Version {one.version} minus version {other.version} on {len(theirs)} test rows, {coverage}:"
    for found in differences(mine.scores["onnx"], theirs, thresholds, cfg.gates.champion, rng):
        yield f"  {found.name:<24} {found.metric:<8} {found.value:+.4f} ({found.low:+.4f} to {found.high:+.4f})"


def _lines(entry: Entry) -> Iterator[str]:
    """An entry as the log book shows it."""
    moved = ", ".join(f"{alias}: {old or _ABSENT} -> {new or _ABSENT}" for alias, (old, new) in entry.moved.items())
    target = f" for {entry.target}" if entry.target else ""
    yield f"{entry.number:>4}  {entry.time}  {entry.who}  {entry.action} version {entry.version}{target}"
    if moved:
        yield f"      {moved}"
    yield f"      {entry.why}"
    closed = [name for name, numbers in entry.gates.items() if not numbers[2]]
    if entry.gates:
        yield f"      {len(entry.gates) - len(closed)} of {len(entry.gates)} gates passed"
    for name in closed:
        measured, limit, _ = entry.gates[name]
        yield f"      refused by {name}: {_short(measured)} against {_short(limit)}"


def _facts(manifest: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What two models may differ in, by name: the metrics on test with their intervals, of an artifact its digest, size and losses."""
    from astrid.registry.markdown import estimate

    yield from _flat({name: value for name, value in manifest.items() if name not in ("artifacts", "parity", "files", "metrics")})
    metrics = manifest.get("metrics", {})
    for name in metrics:
        if name.startswith(_TOLD) and not name.endswith(("_low", "_high")):
            yield name, estimate(metrics, name)
    for file, entry in manifest.get("artifacts", {}).items():
        parity = entry.get("parity", {})
        yield from ((f"{file} {name}", entry[name]) for name in ("sha256", "bytes"))
        yield from ((f"{file} {name}", parity[name]) for name in ("largest_difference", "aucpr_loss", "recall_loss") if name in parity)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _short(value: Any) -> str:
    if value is None:
        return _ABSENT
    text = f"{value:.6g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) < _SHOWN else f"{text[: _SHOWN - 4]}..."

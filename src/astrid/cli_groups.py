"""The groups of verbs: `astrid labels …` and `astrid registry …`, parsed here and done in `astrid.commands`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

existing = click.Path(path_type=Path)  # existence is checked where the file is read, with a sentence of our own
target = click.Path(path_type=Path, dir_okay=False)

_CANDIDATES = click.option(
    "--candidates", type=existing, default="data/candidates/candidates.parquet", show_default=True, help="The candidates that are meant."
)


@click.group()
def labels() -> None:
    """Labels from people, evidence and scores; tables of labels are only ever appended to."""


@labels.command("add")
@click.argument("ids", nargs=-1, required=True, metavar="CANDIDATE...")
@click.option("--as", "word", type=click.Choice(["real", "bogus"]), required=True, help="What they are.")
@click.option("--kind", default="", help="Which kind, e.g. 'SN Ia' or 'dipole'.")
@click.option("--by", "annotator", required=True, help="Who says so.")
@click.option("--confidence", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="How sure that is.")
@click.option("-o", "--table", type=target, default="data/labels/human.csv", show_default=True, help="Table to append to.")
@_CANDIDATES
def labels_add(ids: tuple[str, ...], word: str, **given: Any) -> None:
    """Append what a person says of candidates."""
    from astrid.commands.label import label as run

    run(ids, value=int(word == "real"), **given)


@labels.command("import")
@click.argument("evidence", type=existing)
@click.option("--source", type=click.Choice(["human", "catalogue", "evidence", "weak"]), required=True, help="What kind of word it is.")
@click.option("--by", "annotator", required=True, help="Who says so, where the table names no annotator.")
@click.option("-o", "--table", type=target, default="data/labels/evidence.csv", show_default=True, help="Table to append to.")
@_CANDIDATES
def labels_import(evidence: Path, **given: Any) -> None:
    """Append the rows of a table (CSV or Parquet with candidate_id and label); rows of unknown candidates are counted and left out."""
    from astrid.commands.label import import_labels as run

    run(evidence, **given)


@labels.command("scores")
@click.argument("scores", type=existing)
@click.option("--below", type=click.FloatRange(0, 1), required=True, help="Scores at or below this are weak labels for bogus.")
@click.option("--above", type=click.FloatRange(0, 1), required=True, help="Scores at or above this are weak labels for real.")
@click.option("-o", "--table", type=target, default="data/labels/weak.csv", show_default=True, help="Table to append to.")
@_CANDIDATES
def labels_scores(scores: Path, **given: Any) -> None:
    """Append weak labels from a table that `astrid score` wrote."""
    from astrid.commands.label import import_scores as run

    run(scores, **given)


@click.group()
def registry() -> None:
    """The model registry."""


_ASPECT = click.option("-S", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting, e.g. registry.gates.champion.better=true.")
_TO = click.option(
    "--to", type=click.Choice(["onnx", "tflite-int8", "edgetpu"]), default="onnx", show_default=True, help="Target whose champion is meant."
)


def _registry_settings(overrides: tuple[str, ...]) -> Any:
    from astrid.commands.settings import section
    from astrid.config.schema import RegistryConfig

    return section(RegistryConfig, "registry", overrides)


def _compiler_settings(overrides: tuple[str, ...], path: str | None = None, limit: float | None = None) -> Any:
    from dataclasses import replace

    from astrid.commands.settings import section
    from astrid.config.schema.integer import CompilerConfig

    configured = section(CompilerConfig, "export.integer.compiler", overrides)
    return replace(configured, path=path or configured.path, limit=limit or configured.limit)


@registry.command("list")
@_ASPECT
def registry_list(overrides: tuple[str, ...]) -> None:
    """List registered models with their aliases, metrics and digests."""
    from astrid.commands.registry import list_models as run

    run(_registry_settings(overrides))


@registry.command("show")
@click.argument("version", default="onnx-champion")
@_ASPECT
def registry_show(version: str, overrides: tuple[str, ...]) -> None:
    """Show a VERSION (a number or an alias; default: the ONNX champion): tags, artifacts, its lines of the journal."""
    from astrid.commands.registry import show as run

    run(version, _registry_settings(overrides))


@registry.command("promote")
@click.argument("version", required=False)
@_TO
@click.option("--why", default="by hand", show_default=True, help="The reason, for the journal.")
@_ASPECT
def registry_promote(version: str | None, to: str, why: str, overrides: tuple[str, ...]) -> None:
    """Make a VERSION (a number or an alias) the champion of a target, if every gate passes.

    The targets are a ladder: tflite-int8 needs the champion of onnx, and `--to edgetpu` takes tflite-int8 on the way. Without VERSION
    the candidate is judged for onnx, and the ONNX champion for what is above it.
    """
    from astrid.commands.registry import promote_version as run

    which = version or ("candidate" if to == "onnx" else "onnx-champion")
    run(which, to, why, _registry_settings(overrides), _compiler_settings(overrides))


@registry.command("rollback")
@_TO
@click.option("--why", default="by hand", show_default=True, help="The reason, for the journal.")
@_ASPECT
def registry_rollback(to: str, why: str, overrides: tuple[str, ...]) -> None:
    """Give a target back to the champion before; again and again goes back further."""
    from astrid.commands.registry import rollback as run

    run(to, why, _registry_settings(overrides))


@registry.command("history")
@click.option("--limit", type=click.IntRange(min=0), default=0, show_default=True, help="Newest entries to show; 0 = all.")
@_ASPECT
def registry_history(limit: int, overrides: tuple[str, ...]) -> None:
    """Print the journal: who changed which alias, when, from what to what, why, and what the gates said."""
    from astrid.commands.registry import history as run

    run(limit, _registry_settings(overrides))


@registry.command("diff")
@click.argument("first", default="candidate")
@click.argument("second", default="onnx-champion")
@_ASPECT
def registry_diff(first: str, second: str, overrides: tuple[str, ...]) -> None:
    """Say in what two versions differ, FIRST minus SECOND (default: the candidate minus the ONNX champion)."""
    from astrid.commands.registry import diff as run

    run(first, second, _registry_settings(overrides))


@registry.command("compile")
@click.argument("version", default="tflite-int8-champion")
@click.option("--compiler", help="Path of edgetpu_compiler; default: as configured, else the one on PATH.")
@click.option("--limit", type=click.FloatRange(min=1), help="Seconds that the compiler may take; default: as configured.")
@_ASPECT
def registry_compile(version: str, compiler: str | None, limit: float | None, overrides: tuple[str, ...]) -> None:
    """Compile the integer artifact of a VERSION for the Edge TPU, keep it with the version, and promote it there."""
    from astrid.commands.registry import compile_version as run

    run(version, _registry_settings(overrides), _compiler_settings(overrides, compiler, limit))

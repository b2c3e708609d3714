"""The command line of a device that has numpy, astropy and one runtime: `score` and `doctor`, parsed by the standard library."""

from __future__ import annotations

import argparse
from pathlib import Path

from astrid import __version__
from astrid.core.runtime import configure_logging, exit_codes
from astrid.core.threads import hold_to_one_thread


def main(arguments: list[str] | None = None) -> None:
    """Parse `arguments` (the process's own by default) and run a verb; exit codes as everywhere: 0, 2 for a mistake, 130 for Ctrl-C."""
    given = _parser().parse_args(arguments)
    configure_logging(json_logs=given.json_logs)
    hold_to_one_thread()
    with exit_codes():
        raise SystemExit(given.run(given))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="astrid", description="Scoring on a device; the other verbs need the whole of AstrID.")
    parser.add_argument("--version", action="version", version=f"astrid, version {__version__}")
    parser.add_argument("--json-logs", action="store_true", help="log one JSON object a line to standard error")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    score = verbs.add_parser("score", help="score alerts or triplets with a model folder")
    score.add_argument("inputs", type=Path, nargs="+", help="triplets (.npy or FITS), alert files, folders, tar archives")
    score.add_argument("-o", "--output", type=Path, required=True, help="score table to write; CSV where it ends in .csv")
    score.add_argument("--model", default="models/export", help="model folder (default: models/export)")
    targets = ("auto", "onnx", "onnx-int8", "tflite-int8", "edgetpu")
    score.add_argument("--target", default="auto", choices=targets, help="which artifact of the model (default: auto)")
    score.add_argument("--batch", type=_count, default=256, help="triplets a batch (default: 256)")
    score.set_defaults(run=_score)
    verbs.add_parser("doctor", help="say what this machine has, and what is missing").set_defaults(run=_doctor)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count of 1 or more")
    return int(text)


def _score(given: argparse.Namespace) -> int:
    from astrid.commands.score import score

    score(given.inputs, given.output, model=given.model, target=given.target, batch=given.batch)
    return 0


def _doctor(_: argparse.Namespace) -> int:
    from astrid.commands.doctor import doctor

    return doctor()

"""Every figure of the benchmarks by one command: speed as ratios to bare transforms of the same run, quality against theory, peers beside.

    python benchmarks/run.py [--quick] [--only subtraction,alignment,extraction,memory,pair,hosts,psf,store,loading,acquisition,peers]
    [--seeds 5]

Prints the tables, and writes reports/benchmarks.json, .html and .png; with --only, the other tables of an earlier run are kept.
The peers need an environment of their own (make bench-peers); without it they are named as not run.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import ROOT, Options, Table  # noqa: E402
from benchmarks.page import merge, summary, text, write  # noqa: E402

# table -> (module, function), in the order in which they run; a word of --only may stand for several
TABLES = {
    "speed": ("speed", "run"),
    "quality": ("quality", "run"),
    "hosts": ("hosts", "run"),
    "alignment": ("alignment", "run"),
    "psf": ("psf", "run"),
    "extraction": ("extraction", "run"),
    "pair": ("whole", "run_pair"),
    "memory": ("whole", "run_memory"),
    "store": ("store", "run"),
    "loading": ("loading", "run"),
    "acquisition": ("acquisition", "run"),
    "peers": ("peers", "run"),
}
GROUPS = {"subtraction": ("speed", "quality")}


def main() -> None:
    """Run the chosen tables one after the other."""
    arguments = _arguments()
    tables: dict[str, Table] = {}
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        options = Options(arguments.seeds, arguments.quick, arguments.peer_seconds, arguments.memory_gb, Path(scratch))
        for name in arguments.only:
            start = time.perf_counter()
            tables[name] = _table(name, options)
            print(text(tables[name]), flush=True)
            print(f"({name}: {time.perf_counter() - start:.0f} s)\n", file=sys.stderr, flush=True)
    print(summary(list(tables.values())))
    settings = {"seeds": arguments.seeds, "quick": arguments.quick}
    for path in write(arguments.output, merge(arguments.output / "benchmarks.json", tables, settings)):
        print(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def _table(name: str, options: Options) -> Table:
    module, function = TABLES[name]
    work: Callable[[Options], Table] = getattr(import_module(f"benchmarks.tables.{module}"), function)
    return work(options)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small images and few repeats: minutes, for a first look")
    parser.add_argument("--only", type=_names, default=list(TABLES), help=f"comma-separated: subtraction, {', '.join(TABLES)}")
    parser.add_argument("--seeds", type=int, default=5, help="pairs a figure (5)")
    parser.add_argument("--peer-seconds", type=float, default=300.0, help="limit of one run of a peer (300)")
    parser.add_argument("--memory-gb", type=float, default=12.0, help="address space of a measured process (12)")
    parser.add_argument("--output", type=Path, default=ROOT / "reports", help="folder of the results (reports)")
    parser.add_argument("--scratch", type=Path, default=None, help="folder for temporary files, 4 GB of them for the mosaic")
    return parser.parse_args()


def _names(words: str) -> list[str]:
    asked = [name for word in words.split(",") for name in GROUPS.get(word, (word,))]
    unknown = [name for name in asked if name not in TABLES]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not a table; choose from subtraction, {', '.join(TABLES)}")
    return [name for name in TABLES if name in asked]


if __name__ == "__main__":
    main()

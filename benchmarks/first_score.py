"""From a model folder to its first score, in a process of its own: what a device or a function in the cloud waits for.

    python -m benchmarks.first_score models/export                     # with this Python
    python -m benchmarks.first_score models/export --python /path/of/a/clean/environment/bin/python

For each target that the folder holds and that Python can run: seconds from the first import to the score, the whole process, and
which of the heavy packages were imported. An environment with numpy, astropy and one runtime is enough.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HEAVY = ("torch", "mlflow", "pandas", "pyarrow", "scipy", "pydantic", "click")
LIMIT = 1.0  # s, the target
SOURCES = Path(__file__).resolve().parents[1] / "src"
SCRIPT = f"""
import time; start = time.perf_counter()
import sys; from pathlib import Path
import numpy
from astrid.serving.engine import ScoringEngine
engine = ScoringEngine.load(Path(sys.argv[1]), target=sys.argv[2], threads=1)
score = engine.score(numpy.load(sys.argv[3])).calibrated[0]
seconds = time.perf_counter() - start
import json
heavy = [name for name in {HEAVY!r} if name in sys.modules]
print(json.dumps(dict(seconds=seconds, score=float(score), runtime=engine.engine.runtime, heavy=heavy)))
"""


def main() -> int:
    """Print the table; the exit code is 1 where a target takes longer than it may."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    targets = {entry["target"] for entry in json.loads((given.folder / "model.json").read_text())["artifacts"].values()}
    slow = 0
    print(f"{'target':<12} {'to first score':>15} {'whole process':>14}  runtime")
    with tempfile.TemporaryDirectory() as folder:
        stamps = Path(folder) / "one.npy"
        np.save(stamps, np.random.default_rng(0).normal(100, 5, (1, 3, 63, 63)).astype(np.float32))
        for target in sorted(targets):
            turns = [one for _ in range(given.turns) if (one := _measure(given.python, given.folder, target, stamps))]
            if not turns:
                print(f"{target:<12} {'-':>15} {'-':>14}  not on this machine")
                continue
            first, whole = (statistics.median(turn[name] for turn in turns) for name in ("seconds", "process"))
            heavy = ", ".join(turns[0]["heavy"]) or "nothing heavy imported"
            print(f"{target:<12} {first:>13.2f} s {whole:>12.2f} s  {turns[0]['runtime']}; {heavy}")
            slow += first > LIMIT
    return 1 if slow else 0


def _measure(python: str, folder: Path, target: str, stamps: Path) -> dict[str, object] | None:
    environment = os.environ | {"PYTHONPATH": str(SOURCES)}
    start = time.perf_counter()
    command = [python, "-c", SCRIPT, str(folder), target, str(stamps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        return None
    return {**json.loads(done.stdout.splitlines()[-1]), "process": time.perf_counter() - start}


if __name__ == "__main__":
    raise SystemExit(main())

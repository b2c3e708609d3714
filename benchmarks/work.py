"""One pair from calibrated FITS files to its product and its candidates, in a process of its own; prints one JSON line.

    python benchmarks/work.py SCIENCE.fits REFERENCE.fits OUTPUT.fits

This is the way of the stages `difference` and `detect` for one pair. Seconds are CPU seconds.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import candidates_config, imaging_config, peak_gb

# Steps of a subtraction that are timed: module, function, what it does. Each counts without the others inside it.
STEPS = (
    ("pair", "measure", "stars and PSF of both exposures"),
    ("pair", "plan_pair", "registration, flux scale"),
    ("subtraction", "_read", "reading and resampling"),
    ("subtraction", "_sides", "filling masks, noise"),
    ("zogy", "subtract_tile", "proper subtraction"),
    ("subtraction", "coherent_score", "coherent registration noise"),
    ("pair", "_blank_sky", "blank sky"),
    ("pair", "_finish", "levels and masks of the product"),
)


class Clock:
    """CPU seconds by step; a step inside another counts for itself alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open: list[float] = []

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self._open.append(0.0)
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.process_time() - start
                inner = self._open.pop()
                self.seconds[name] = self.seconds.get(name, 0.0) + spent - inner
                if self._open:
                    self._open[-1] += spent

        return wrapper


def main() -> None:
    science, reference, output = map(Path, sys.argv[1:4])
    from astrid.candidates.extract import find_candidates
    from astrid.imaging import pair, subtraction
    from astrid.imaging.zogy import engine as zogy
    from astrid.io.fits import read_calibrated, read_difference, write_difference
    from astrid.io.planes import DiskPlane, scratch_beside

    clock, modules = Clock(), {"pair": pair, "subtraction": subtraction, "zogy": zogy}
    for module, name, step in STEPS:
        setattr(modules[module], name, clock.timed(step, getattr(modules[module], name)))
    imports_gb = peak_gb()
    start, wall = time.process_time(), time.perf_counter()
    read = clock.timed("read", read_calibrated)
    with scratch_beside(output) as scratch:
        subtract = clock.timed("rest of the subtraction", pair.subtract_pair)
        result = subtract(read(science), read(reference), imaging_config().difference, allocate=scratch)
        clock.timed("write", write_difference)(output, result)
    if isinstance(result.score, DiskPlane):
        result = read_difference(output)
    subtracted_gb = peak_gb()
    frame = clock.timed("candidates", find_candidates)(result, candidates_config(), pair_id="bench")
    print(
        json.dumps(
            {
                "cpu_s": time.process_time() - start,
                "wall_s": time.perf_counter() - wall,
                "imports_gb": imports_gb,
                "subtracted_gb": subtracted_gb,
                "peak_gb": peak_gb(),
                "steps": clock.seconds,
                "candidates": len(frame),
                "score_std": float(result.quality["q_score_std_raw"]),
                "product_mb": output.stat().st_size / 1e6,
            }
        )
    )


if __name__ == "__main__":
    main()

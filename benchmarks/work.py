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

# Steps inside a subtraction that are timed where the pair's module has them; each without the others inside it.
STEPS = (
    *("find_stars", "estimate_psf", "refit_stars", "measure_sources", "refine", "to_grid", "interpolation_response", "map_psf"),
    *("fill_local", "flux_scale", "subtract", "_grow", "blank_sky", "score_statistics", "star_residuals"),
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
    from astrid.imaging import pair
    from astrid.io.fits import read_calibrated, write_difference

    clock = Clock()
    for name in STEPS:
        function = getattr(pair, name, None)
        if callable(function) and not isinstance(function, type):
            setattr(pair, name, clock.timed(name.strip("_"), function))
    imports_gb = peak_gb()
    start, wall = time.process_time(), time.perf_counter()
    read = clock.timed("read", read_calibrated)
    result = clock.timed("rest of the subtraction", pair.subtract_pair)(read(science), read(reference), imaging_config().difference)
    clock.timed("write", write_difference)(output, result)
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

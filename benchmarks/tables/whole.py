"""One pair from calibrated files to product and candidates: CPU time stage by stage, and the peak memory of the process."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks.measure import Options, Row, Table, cpu_seconds, eight_ffts, in_process

CAMERA, MOSAIC = (3080, 3072), (12000, 12000)
TIME_LIMIT, MEMORY_LIMITS = 15.0, {CAMERA: 1.0, MOSAIC: 1.5}  # s on one core, GB
_SECONDS = 3600.0


@lru_cache(maxsize=4)
def measured(shape: tuple[int, int], options: Options) -> dict[str, Any]:
    """Make the files, run the pair once in a fresh process, remove the files."""
    folder = options.scratch / f"pair_{shape[0]}x{shape[1]}"
    here = Path(__file__).resolve().parents[1]
    made = in_process([str(here / "make_files.py"), str(shape[0]), str(shape[1]), "0", str(folder)], memory_gb=64, seconds=_SECONDS)
    try:
        if "error" in made:
            return {"error": f"the files could not be made: {made['error']}"}
        files = [str(folder / f"{name}.fits") for name in ("science", "reference", "difference")]
        return in_process([str(here / "work.py"), *files], memory_gb=options.memory_gb, seconds=_SECONDS)
    finally:
        for path in folder.glob("*.fits"):
            path.unlink()


def run_pair(options: Options) -> Table:
    """CPU seconds of the stages of one camera frame."""
    shape = (1024, 1024) if options.quick else CAMERA
    size = f"{shape[0]} x {shape[1]}"
    got = measured(shape, options)
    if "error" in got:
        return Table(f"One pair of {size}", [_failed(f"pair of {size}", got, f"<= {TIME_LIMIT:g} s")])
    floor_work = eight_ffts(shape)
    floor = min(cpu_seconds(floor_work) for _ in range(3))
    total = float(got["cpu_s"])
    rows = [
        Row(
            f"files to candidates, {size}",
            total,
            "s CPU",
            target=f"<= {TIME_LIMIT:g}" if shape == CAMERA else "",
            passed=total <= TIME_LIMIT if shape == CAMERA else None,
            note=f"{total / floor:.0f} x 8 FFT, {got['wall_s']:.1f} s wall, {got['candidates']} candidates, {got['product_mb']:.0f} MB",
        )
    ]
    for name, seconds in sorted(got["steps"].items(), key=lambda item: -item[1]):
        rows.append(Row(f"  {name}", seconds, "s CPU", note=f"{100 * seconds / total:.0f} %, {seconds / floor:.1f} x 8 FFT"))
    return Table(f"One pair of {size}, from calibrated files to product and candidates", rows)


def run_memory(options: Options) -> Table:
    """Peak resident memory of the same process."""
    rows = []
    for shape in [(1024, 1024)] if options.quick else [CAMERA, MOSAIC]:
        size, limit = f"{shape[0]} x {shape[1]}", MEMORY_LIMITS.get(shape)
        got = measured(shape, options)
        target = f"<= {limit:g}" if limit else ""
        if "error" in got:
            rows.append(_failed(f"peak memory, {size}", got, target))
            continue
        peak = float(got["peak_gb"])
        note = f"{got['imports_gb']:.2f} GB after the imports, {got['subtracted_gb']:.2f} GB with the product written"
        rows.append(Row(f"peak memory, {size}", peak, "GB", target=target, passed=peak <= limit if limit else None, note=note))
    return Table("Peak memory of one pair, from calibrated files to product and candidates", rows)


def _failed(name: str, got: dict[str, Any], target: str) -> Row:
    return Row(name, float("nan"), "", target=target, passed=False, note=str(got["error"]))

"""Transients in bright hosts: how many of those that theory finds are kept when every source of the image has moved by itself."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from benchmarks.field import JITTER_PX, make_pair, textbook_sides
from benchmarks.measure import Options, Row, Table, wilson
from benchmarks.outcome import MODES, outcome
from benchmarks.textbook import zogy

KEPT = 0.9
THRESHOLD = 5.0


def run(options: Options) -> Table:
    rows = []
    for jitter in (0.0, JITTER_PX):
        for mode in ("known", "own"):
            runs = [outcome(mode, seed, options.side, jitter) for seed in range(options.seeds)]
            found = sum(int((run.found & run.hosted & run.usable).sum()) for run in runs)
            expected = sum(float(run.expected[run.hosted & run.usable].sum()) for run in runs)
            rows.append(_row(f"kept in hosts, jitter {jitter:g} px: {MODES[mode]}", found, expected, jitter > 0))
    found, expected = _textbook(options)
    rows.append(_row(f"kept in hosts, jitter {JITTER_PX:g} px: textbook ZOGY, one astrometric term", found, expected, False))
    return Table(f"Transients in hosts, {options.seeds} seeds of {options.side}^2", rows)


def _row(name: str, found: int, expected: float, aimed: bool) -> Row:
    share, low, high = wilson(min(found, expected), expected)
    share = found / expected
    return Row(name, share, "", low, high, f">= {KEPT}" if aimed else "", share >= KEPT if aimed else None, f"{found} of {expected:.1f}")


def _textbook(options: Options) -> tuple[int, float]:
    """The same pairs through the textbook's S_corr with the true PSFs and the true 0.1 px."""
    found, expected = 0, 0.0
    for seed in range(options.seeds):
        pair = make_pair(seed, (options.side, options.side), jitter=JITTER_PX)
        score, _ = zogy(*textbook_sides(pair), JITTER_PX)
        rows, columns = np.round(pair.injected[:, 1]).astype(int), np.round(pair.injected[:, 0]).astype(int)
        peaks = ndimage.maximum_filter(score, 3)[rows, columns]
        found += int((peaks[pair.hosted] > THRESHOLD).sum())
        expected += float(pair.expected[pair.hosted].sum())
    return found, expected

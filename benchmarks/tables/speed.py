"""Subtraction: CPU time of S_corr as a ratio to eight bare transforms of the same size, in the same run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count

from scipy import fft

from astrid.imaging.zogy.engine import Side, kernels_for, subtract
from benchmarks.field import make_pair, textbook_sides
from benchmarks.measure import Options, Row, Table, against, eight_ffts
from benchmarks.textbook import zogy

ASTROMETRY = 0.01  # px a side: the term is at work in every timing
LIMITS = (1.6, 2.5)  # over the eight transforms: kernels cached, kernels made


def run(options: Options) -> Table:
    """One field; every work is repeated, interleaved with the transforms."""
    rows = []
    for shape in [(1024, 1024)] if options.quick else [(2048, 2048), (3080, 3072)]:
        images = textbook_sides(make_pair(0, shape))
        new, ref = (Side(i.data, i.variance, i.psf, i.sigma, astrometry=(ASTROMETRY, ASTROMETRY)) for i in images)
        works: dict[str, tuple[Callable[[], object], float | None]] = {
            "S_corr, kernels cached": (partial(subtract, new, ref, kernels_for(new, ref)), LIMITS[0]),
            "S_corr with kernel set-up": (partial(_from_scratch, new, ref, count(1)), LIMITS[1]),
            "textbook ZOGY (14 transforms, scipy)": (partial(zogy, *images, ASTROMETRY), None),
        }
        timed = against([work for work, _ in works.values()], eight_ffts(shape), options.repeats)
        size, fast = f"{shape[0]} x {shape[1]}", tuple(int(fft.next_fast_len(length, real=True)) for length in shape)
        for (what, (_, limit)), (ratio, low, high, seconds) in zip(works.items(), timed, strict=True):
            note = f"{seconds:.3f} s CPU; eight transforms {seconds / ratio:.3f} s"
            note += f"; next fast lengths {fast}" if fast != shape else ""
            target = f"<= {limit}" if limit else ""
            rows.append(Row(f"{what}, {size}", ratio, "x 8 FFT", low, high, target, ratio <= limit if limit else None, note))
    return Table("Subtraction: CPU time over eight bare transforms", rows)


def _from_scratch(new: Side, ref: Side, calls: Iterator[int]) -> object:
    """As a pair of its own: its noise is another each time, so that nothing that an earlier call has kept fits."""
    other = replace(new, sigma=new.sigma * (1 + 1e-6 * next(calls)))
    return subtract(other, ref, kernels_for(other, ref))

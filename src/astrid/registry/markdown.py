"""Numbers, intervals and tables as the model card writes them in plain Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

ABSENT = "–"
_COUNT = 2  # a whole number from here on is no rate


def number(value: Any, digits: int = 3) -> str:
    """A number with so many decimals, two significant digits where that would show none, a count without; a dash for None and NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ABSENT
    if float(value).is_integer() and abs(value) >= _COUNT:
        return f"{int(value):,}"
    if isinstance(value, int):
        return str(value)
    return f"{value:.{digits}f}" if value == 0 or abs(value) >= 10.0**-digits else f"{value:.1e}"


def difference(value: Any) -> str:
    """A difference of two rates with its sign and four decimals, `+0.0012`; a dash for None and NaN."""
    return ABSENT if value is None or math.isnan(value) else f"{round(value, 4) + 0.0:+.4f}"


def interval(low: Any, high: Any, write: Callable[[Any], str] = number) -> str:
    """`low to high`; empty where there is none."""
    ends = [write(end) for end in (low, high)]
    return "" if ABSENT in ends else f"{ends[0]} to {ends[1]}"


def estimate(values: Mapping[str, Any], name: str, write: Callable[[Any], str] = number) -> str:
    """A value of flat metrics with its interval, `0.989 (0.985 to 0.993)`."""
    spread = interval(values.get(f"{name}_low"), values.get(f"{name}_high"), write)
    return write(values.get(name)) + (f" ({spread})" if spread else "")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first column is text, the others are numbers and stand to the right. A bar inside a cell is escaped."""
    lines = [f"| {' | '.join(head)} |", "|---" + "|---:" * (len(head) - 1) + "|"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines)


def listed(names: Sequence[str]) -> str:
    """`a, b and c`; `none` for nothing."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"

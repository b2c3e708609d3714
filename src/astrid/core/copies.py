"""Names of the injected copies of pairs and exposures: the parent's name, "-inj", a number, and the partner where there is one.

A candidate's name begins with that of its pair, so that it reads as a copy's as well.
"""

from __future__ import annotations

import re

_MARK = re.compile(r"-inj\d+(?=[-:]|$)")


def copy_id(parent: str, copy: int, partner: str = "") -> str:
    """Name of the copy number `copy` of a pair, or of one of its exposures, whose `partner` is the other.

    An exposure that stands in several pairs has other sources in each of them, so that its copies need the partner's name.
    """
    return f"{parent}-inj{copy}" + (f"-{partner}" if partner else "")


def parent_of(name: str) -> str:
    """The pair or exposure that a name's pixels come from: the name itself when it is no copy."""
    return _MARK.split(name, maxsplit=1)[0]


def is_copy(name: str) -> bool:
    """True for the name of an injected copy, and for that of a candidate in one."""
    return _MARK.search(name) is not None

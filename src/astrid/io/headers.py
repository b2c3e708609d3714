"""Values out of FITS headers whose keywords differ from observatory to observatory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from astrid.core.errors import InputError

if TYPE_CHECKING:
    from astropy.io.fits import Header

_NOTHING = frozenset({"", "clear", "none", "n/a", "unknown", "null", "nan"})
_SECONDS_A_DAY = 86400.0


def header_text(header: Header, keywords: Sequence[str]) -> str | None:
    """The first of the keywords with a telling value, as text; None when there is none. CLEAR, NONE, N/A and the like tell nothing."""
    for keyword in keywords:
        value = header.get(keyword)
        text = "" if value is None else str(value).strip()
        if text.lower() not in _NOTHING:
            return text
    return None


def header_number(header: Header, keywords: Sequence[str]) -> float | None:
    """The first of the keywords with a finite number; None when there is none."""
    for keyword in keywords:
        try:
            number = float(header[keyword])
        except (KeyError, TypeError, ValueError):
            continue
        if np.isfinite(number):
            return number
    return None


def header_mjd(header: Header, keywords: Sequence[str], exptime: float) -> float | None:
    """Middle of the exposure, MJD, from the first keyword with a start date: a number (MJD, or JD above 2,400,000) or an ISO 8601 date.

    Parameters
    ----------
    exptime
        Exposure time, s; half of it is added to the start where it is finite.

    Raises
    ------
    InputError
        A date is neither a number nor ISO 8601.
    """
    text = header_text(header, keywords)
    if text is None:
        return None
    start = _mjd(text)
    return start + 0.5 * exptime / _SECONDS_A_DAY if np.isfinite(exptime) else start


def _mjd(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        from astropy.time import Time

        try:
            return float(Time(text, scale="utc").mjd)
        except ValueError:
            raise InputError(
                f"the date {text!r} is neither a Julian date nor ISO 8601; correct the header or give the column mjd."
            ) from None
    return number - 2_400_000.5 if number > 2_400_000.0 else number

"""Cells of a catalogue: angles, dates, numbers; an empty cell is NaN, an unreadable one an `InputError` with the sentence that says so."""

from __future__ import annotations

import calendar
import datetime
import re
from dataclasses import dataclass

from astrid.core.errors import InputError

_NOTHING = frozenset(("", "nan", "nat", "none", "null", "<na>", "--", "-"))
_SIGNS = str.maketrans("−–", "--")  # a minus sign or a dash, as printed tables have them
_SEPARATORS = str.maketrans("hdms:°'\"′″", "          ")
_DATE = re.compile(
    r"(?P<year>\d{4})(?:[-/ ](?P<month>\d{1,2}|[A-Za-z]{3,9})(?:[-/ ](?P<day>\d{1,2})(?P<part>\.\d+)?"
    r"(?:[T ](?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{1,2}(?:\.\d+)?))?Z?)?)?)?$"
)
_MONTHS = {name.lower(): number for number, name in enumerate(calendar.month_abbr) if name}
_MJD_OF_ORDINAL = 678_576  # datetime.date.toordinal() of MJD 0, 1858-11-17
_DAY = 86_400.0  # s
_JD = 2_400_000.0  # numbers above are Julian dates
_FIRST_YEAR_AS_NUMBER, _LAST_YEAR_AS_NUMBER = 1000, 2100  # four digits between are a year, not an MJD before 1864


@dataclass(frozen=True, slots=True)
class Date:
    """A time that was named: `mjd` (d, UTC) begins it, `precision` (d) is its length: 0 an instant, 1 a day; NaN where unknown."""

    mjd: float
    precision: float


UNKNOWN = Date(float("nan"), float("nan"))


def text_of(value: object) -> str:
    """A cell as text without its spaces at the ends; empty for NaN, None and the dashes that mean nothing."""
    text = "" if value is None else str(value).strip()
    return "" if text.lower() in _NOTHING else text


def angle(value: object, hours: bool, low: float, high: float, where: str) -> float:
    """Degrees of a number, or of sexagesimal text in hours or degrees; NaN for an empty cell.

    The sign may stand off (`- 8 49 37.0`) and belongs to the whole (`- 0 04 47.5`).

    Raises `InputError` that begins with `where` for text that is neither and for values outside `low` to `high` (deg).
    """
    text = text_of(value).translate(_SIGNS)
    if not text:
        return float("nan")
    try:
        degrees = float(text)
    except ValueError:
        degrees = _sexagesimal(text, hours, where)
    if not low <= degrees <= high:
        raise InputError(f"{where} = {text} lies outside {low:g} to {high:g} degrees; correct it.")
    return degrees


def _sexagesimal(text: str, hours: bool, where: str) -> float:
    sign = -1.0 if text.startswith("-") else 1.0
    parts = text.lstrip("+-").translate(_SEPARATORS).split()
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if not 1 < len(numbers) <= 3 or any(number < 0 for number in numbers) or any(number >= 60 for number in numbers[1:]):
        raise InputError(f"{where} = {text!r} is neither degrees nor sexagesimal; write 12:34:56.7 or 188.736.")
    return sign * sum(number / 60.0**place for place, number in enumerate(numbers)) * (15.0 if hours else 1.0)


def date(value: object, where: str) -> Date:
    """An MJD, a Julian date, or a calendar date (UTC) of any length: a year, a month, a day, a day with its fraction, a time.

    Raises `InputError` that begins with `where` for anything else.
    """
    text = text_of(value)
    if not text:
        return UNKNOWN
    calendar_date = _DATE.match(text)
    if calendar_date and not _is_mjd(text):
        return _calendar(calendar_date, text, where)
    try:
        number = float(text)
    except ValueError:
        return _astropy_date(text, where)
    return Date(number - 2_400_000.5 if number > _JD else number, 0.0)


def _is_mjd(text: str) -> bool:
    return text.isdigit() and not _FIRST_YEAR_AS_NUMBER <= int(text) <= _LAST_YEAR_AS_NUMBER


def _calendar(found: re.Match[str], text: str, where: str) -> Date:
    year, month_text, day = int(found["year"]), found["month"], found["day"]
    month = int(month_text or 1) if (month_text or "1").isdigit() else _MONTHS.get(month_text[:3].lower(), 0)
    clock = (int(found["hour"] or 0) * 60 + int(found["minute"] or 0)) * 60 + float(found["second"] or 0)
    try:
        mjd = float(datetime.date(year, month, int(day or 1)).toordinal() - _MJD_OF_ORDINAL)
    except ValueError:
        raise _no_date(text, where) from None
    if clock >= _DAY:
        raise _no_date(text, where)
    if found["hour"] is not None:
        return Date(mjd + clock / _DAY, 0.0)
    if found["part"] is not None:
        return Date(mjd + float(found["part"]), 10.0 ** (1 - len(found["part"])))
    if day is not None:
        return Date(mjd, 1.0)
    if month_text is not None:
        return Date(mjd, float(calendar.monthrange(year, month)[1]))
    return Date(mjd, 366.0 if calendar.isleap(year) else 365.0)


def _astropy_date(text: str, where: str) -> Date:
    """The formats that astropy knows beyond, e.g. 2020:001."""
    from astropy.time import Time

    try:
        return Date(float(Time(text.replace("/", "-"), scale="utc").mjd), 0.0)
    except ValueError:
        raise _no_date(text, where) from None


def _no_date(text: str, where: str) -> InputError:
    return InputError(f"{where}: the date {text!r} is neither MJD, JD nor ISO 8601; correct it.")


def year_of(mjd: float) -> int:
    """The calendar year of an MJD."""
    return datetime.date.fromordinal(int(mjd // 1) + _MJD_OF_ORDINAL).year


def number(value: object, where: str) -> float:
    """A number, NaN for an empty cell. Raises `InputError` that begins with `where` for anything else."""
    text = text_of(value)
    try:
        return float(text) if text else float("nan")
    except ValueError:
        raise InputError(f"{where} = {text!r} is not a number; correct it.") from None

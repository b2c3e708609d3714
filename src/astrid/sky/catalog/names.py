"""Names of events: one form for a designation, one key for the spellings of a name, and the year that a name tells."""

from __future__ import annotations

import re
from functools import lru_cache

# SN 1987A, AT2019abc, 2014dm; before 1885 the year alone, SN 1604: IAU Circulars; TNS, https://www.wis-tns.org/content/tns-getting-started.
_DESIGNATION = re.compile(r"(?P<prefix>SN|AT)?[ _-]*(?P<year>1[89]\d\d|20\d\d)[ _-]?(?P<letters>[A-Z]|[A-Za-z]{2,5})\??$", re.IGNORECASE)
_HISTORICAL = re.compile(r"SN[ _-]*(?P<year>\d{3,4})A?$", re.IGNORECASE)
_SURVEY_YEAR = re.compile(r"^[A-Za-z][A-Za-z0-9]*?[-_ ]?(?<!\d)(?P<year>\d\d)(?=[A-Za-z])")  # SNLS-03D3bb, HST04Sas, ZTF18abc, PS1-12sk
_FIRST_SURVEY_YEAR = 50  # two digits above belong to the last century


def designation(name: str) -> str:
    """The year and letters of an official designation, e.g. 2014dm, 1987A; empty for any other name."""
    found = _DESIGNATION.match(name.strip())
    if not found:
        return ""
    letters = found["letters"]
    return found["year"] + (letters.upper() if len(letters) == 1 else letters.lower())


def normal_name(name: str) -> str:
    """One form of a designation, SN2014dm or AT2019abc (SN where no prefix is given); other names keep theirs, with single spaces."""
    official = designation(name)
    if not official:
        return " ".join(name.split())
    return ("AT" if name.strip()[:2].upper() == "AT" else "SN") + official


@lru_cache(maxsize=2**19)  # asked many times of every name
def name_key(name: str) -> str:
    """What spellings of one name share: the designation, or the name without case, spaces, hyphens and underscores."""
    return designation(name) or re.sub(r"[\s_-]+", "", name).casefold()


def designated_year(name: str) -> int | None:
    """The year of a designation, None for any other name."""
    found = _DESIGNATION.match(name.strip()) or _HISTORICAL.match(name.strip())
    return int(found["year"]) if found else None


def told_year(name: str) -> int | None:
    """The year that a designation or a survey's name tells; None where it tells none."""
    year = designated_year(name)
    found = _SURVEY_YEAR.match(name.strip()) if year is None else None
    if found:
        two = int(found["year"])
        return two + (1900 if two > _FIRST_SURVEY_YEAR else 2000)
    return year

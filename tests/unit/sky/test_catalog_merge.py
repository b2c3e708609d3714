from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from astrid.sky.catalog.merge import gap, match
from astrid.sky.catalog.rows import Row
from astrid.sky.catalog.types import TransientType
from astrid.sky.catalog.values import UNKNOWN, Date

ARCSEC = 1 / 3600


def row(name: str, *, at: float = 0.0, mjd: float | None = 53000.0, precision: float = 1.0, aliases: tuple[str, ...] = ()) -> Row:
    """At declination 60 deg, `at` arcsec north of it."""
    date = UNKNOWN if mjd is None else Date(mjd, precision)
    nan = float("nan")
    return Row(0, 1, name, aliases, 10.0, 60.0 + at * ARCSEC, date, TransientType(""), nan, "", nan, nan, at_maximum=False)


def groups(*rows: Row, **changes: Any) -> list[list[int]]:
    return match(rows, **({"radius": 2.0, "days": 30.0, "name_radius": 300.0} | changes)).groups


def test_one_place_and_date_is_one_event() -> None:
    assert groups(row("A", at=0), row("B", at=1.9)) == [[0, 1]]
    assert groups(row("A", at=0), row("B", at=2.1)) == [[0], [1]]
    assert groups(row("A"), row("B", mjd=53031.0)) == [[0, 1]]  # 30 days from the end of the first day
    assert groups(row("A"), row("B", mjd=53032.0)) == [[0], [1]]
    assert groups(row("A", mjd=52640, precision=365), row("B", mjd=53030)) == [[0, 1]]


def test_what_holds_for_neighbours_holds_for_chains() -> None:
    assert groups(row("A", at=0), row("far", at=60), row("C", at=3), row("B", at=1.5)) == [[0, 2, 3], [1]]


def test_a_shared_name_is_one_event_whatever_the_date_within_its_radius() -> None:
    assert groups(row("SN2004ab"), row("2004AB", at=200, mjd=54000.0)) == [[0, 1]]
    assert groups(row("SN2004ab"), row("X1", aliases=("2004ab",), at=200)) == [[0, 1]]
    joined = match([row("X1"), row("SN2004ab", at=100), row("Y", at=50, aliases=("X1", "SN 2004ab"))], radius=2, days=30, name_radius=300)
    assert joined.groups == [[0, 1, 2]]


def test_a_name_that_is_taken_elsewhere_is_refused_and_a_shared_alias_is_not() -> None:
    found = match([row("1"), row("1", at=400), row("B", at=-400, aliases=("1",))], radius=2, days=30, name_radius=300)
    assert found.groups == [[0], [2]]
    assert found.refused[1] == (0, pytest.approx(400, abs=1e-3))
    # the refused one takes no other along, and no two events get one name
    rows = [row("1"), row("1", at=400), row("1", at=410), row("B", at=-400, aliases=("1",)), row("1", at=-401)]
    assert list(match(rows, radius=2, days=30, name_radius=300).refused) == [1, 2, 4]
    assert [(one, other, reason) for one, other, _, reason in found.apart] == [(0, 2, "they share the name 1 but lie 400 arcsec apart")]


def test_different_designations_are_different_events_however_near() -> None:
    found = match([row("SN2013ek"), row("SN2012im", at=0.2, mjd=53010.0)], radius=2, days=30, name_radius=300)
    assert found.groups == [[0], [1]]
    assert found.apart[0][3] == "SN2013ek and SN2012im are different designations, 9 days apart"
    # also where a third row would bring them together
    assert groups(row("SN2004ab"), row("SN2004cd", at=1.5), row("X", at=0.5)) == [[0, 2], [1]]
    assert groups(row("SN2004ab"), row("SN2004cd", at=1.5), row("X", at=0.5, aliases=("SN2004ab", "SN2004cd"))) == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("name", "together", "reason"),
    [
        ("SNLS-03D3bb", True, ""),
        ("HST09Abc", False, "one is of 2003, the other of 2010"),
        ("mine", False, "a date is missing and no name tells the year"),
    ],
)
def test_without_a_date_the_year_of_the_name_must_agree(name: str, together: bool, reason: str) -> None:
    found = match([row("SN2003fg", mjd=52800.0), row(name, at=1, mjd=None)], radius=2, days=30, name_radius=300)
    assert (len(found.groups) == 1) is together
    assert [why for *_, why in found.apart] == ([] if together else [reason])


def test_the_gap_of_dates_counts_from_their_ends() -> None:
    assert gap(Date(10, 5), Date(12, 1)) == 0
    assert gap(Date(20, 1), Date(10, 5)) == 5
    assert gap(Date(20, 1), UNKNOWN) != gap(Date(20, 1), UNKNOWN)


def test_the_poles_and_the_start_of_right_ascension_are_no_edges() -> None:
    around = [replace(row("A"), ra=359.9999, dec=0.0), replace(row("B"), ra=0.0001, dec=0.0)]
    assert groups(*around) == [[0, 1]]
    assert groups(*[replace(row(name), ra=ra, dec=90 - 0.5 * ARCSEC) for name, ra in (("A", 0.0), ("B", 180.0))]) == [[0, 1]]
    assert groups() == []

"""Which rows of several catalogues are one event, and what each of them gives to it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from astrid.sky.catalog.names import designation, name_key, normal_name, told_year
from astrid.sky.catalog.rows import Row
from astrid.sky.catalog.values import Date

_MJD_1858 = 1858.876  # year of MJD 0
_DAYS_A_YEAR = 365.25
_YEARS_APART = 1.5  # between the year of a name and a date that may still be of one event: ten names of Asiago are a year off


@dataclass(frozen=True)
class Matches:
    """Groups of rows that are one event, in the order of their first rows, and the rows and pairs that need a word."""

    groups: list[list[int]]
    refused: dict[int, tuple[int, float]]  # row -> the earlier row that has its name, and arcsec to it
    apart: list[tuple[int, int, float, str]]  # rows, arcsec between them, reason why they are two events


class _Sets:
    """Disjoint sets of rows with the designations of each."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._above = list(range(len(rows)))
        self._official = [{found for name in (row.name, *row.aliases) if (found := designation(name))} for row in rows]

    def root(self, row: int) -> int:
        while self._above[row] != row:
            self._above[row] = self._above[self._above[row]]
            row = self._above[row]
        return row

    def join(self, first: int, second: int) -> None:
        first, second = sorted((self.root(first), self.root(second)))
        if first != second:
            self._above[second] = first
            self._official[first] |= self._official[second]

    def rivals(self, first: int, second: int) -> tuple[str, str] | None:
        """A designation of each set where both have some and none in common."""
        one, other = self._official[self.root(first)], self._official[self.root(second)]
        return (min(one), min(other)) if one and other and one.isdisjoint(other) else None


def match(rows: Sequence[Row], *, radius: float, days: float, name_radius: float) -> Matches:
    """Find the rows that are one event.

    Rows that share a name are one within `name_radius` (arcsec). Others are one within `radius` (arcsec) when their discoveries
    lie within `days` (d) of each other, or, where a date is missing, when their names tell the same year; rows with different
    designations never are. What holds for neighbours holds for chains of them. The result depends on the order of the rows only.
    """
    where = _unit_vectors(rows)
    sets = _Sets(rows)
    joined, refused, apart = _by_name(rows, where, name_radius)
    for one, other in joined:
        sets.join(one, other)
    for one, other, separation in _neighbours(where, radius):
        if one in refused or other in refused or sets.root(one) == sets.root(other):
            continue
        reason = _against(rows[one], rows[other], days, sets.rivals(one, other))
        if reason:
            apart.append((one, other, separation, reason))
        else:
            sets.join(one, other)
    groups: dict[int, list[int]] = defaultdict(list)
    for row in range(len(rows)):
        if row not in refused:
            groups[sets.root(row)].append(row)
    apart = [pair for pair in apart if pair[0] not in refused and pair[1] not in refused and sets.root(pair[0]) != sets.root(pair[1])]
    return Matches(list(groups.values()), refused, sorted(apart))


def separation(one: Row, other: Row) -> float:
    """Arcsec between two rows."""
    where = _unit_vectors([one, other])
    return _arcsec(float(np.linalg.norm(where[0] - where[1])))


def gap(one: Date, other: Date) -> float:
    """Days between two dates, each as long as its precision; NaN where one is unknown."""
    if not _dated(one, other):
        return float("nan")
    return max(0.0, max(one.mjd, other.mjd) - min(one.mjd + one.precision, other.mjd + other.precision))


def _dated(*dates: Date) -> bool:
    return all(np.isfinite(date.mjd) for date in dates)


def _against(one: Row, other: Row, days: float, rivals: tuple[str, str] | None) -> str:
    """Why two rows at one place are two events, empty where nothing speaks against one."""
    between = gap(one.date, other.date)
    if rivals:
        names = f"{normal_name(rivals[0])} and {normal_name(rivals[1])} are different designations"
        return names + (f", {between:.0f} days apart" if np.isfinite(between) else "")
    if np.isfinite(between):
        return f"their discoveries lie {between:.0f} days apart" if between > days else ""
    years = _year(one), _year(other)
    if years[0] is None or years[1] is None:
        return "a date is missing and no name tells the year"
    return f"one is of {years[0]:.0f}, the other of {years[1]:.0f}" if abs(years[0] - years[1]) > _YEARS_APART else ""


def _year(row: Row) -> float | None:
    if _dated(row.date):
        return _MJD_1858 + row.date.mjd / _DAYS_A_YEAR
    return next((year + 0.5 for name in (row.name, *row.aliases) if (year := told_year(name)) is not None), None)


def _unit_vectors(rows: Sequence[Row]) -> NDArray[np.float64]:
    ra, dec = np.radians([row.ra for row in rows]), np.radians([row.dec for row in rows])
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1).reshape(-1, 3)


def _arcsec(chord: float) -> float:
    return float(np.degrees(2.0 * np.arcsin(min(chord / 2.0, 1.0))) * 3600.0)


def _neighbours(where: NDArray[np.float64], radius: float) -> list[tuple[int, int, float]]:
    """Pairs of rows within `radius` arcsec, the nearest first."""
    from scipy.spatial import cKDTree

    if len(where) < 2:
        return []
    pairs = cKDTree(where).query_pairs(2.0 * np.sin(np.radians(radius / 3600.0) / 2.0), output_type="ndarray")
    found = [(int(i), int(j), _arcsec(float(np.linalg.norm(where[i] - where[j])))) for i, j in np.sort(pairs, axis=1)]
    return sorted(found, key=lambda pair: (pair[2], pair[0], pair[1]))


def _by_name(
    rows: Sequence[Row], where: NDArray[np.float64], radius: float
) -> tuple[list[tuple[int, int]], dict[int, tuple[int, float]], list[tuple[int, int, float, str]]]:
    """Pairs that a shared name makes one event; rows whose own name is another's far away; far pairs that share an alias only."""
    joined, refused, apart = [], {}, []
    named: dict[str, list[int]] = defaultdict(list)  # rows by their own names
    known: dict[str, list[int]] = defaultdict(list)  # by any name

    def nearest(number: int, holders: list[int]) -> tuple[float, int]:
        return min((_arcsec(float(np.linalg.norm(where[number] - where[other]))), other) for other in holders)

    for number, row in enumerate(rows):
        own = name_key(row.name)
        if named[own]:
            separation, other = nearest(number, named[own])
            if separation > radius:
                refused[number] = (other, separation)
                continue
        for key, name in {name_key(name): name for name in (row.name, *row.aliases)}.items():
            if known[key]:
                separation, other = nearest(number, known[key])
                if separation <= radius:
                    joined.append((other, number))
                else:
                    apart.append((other, number, separation, f"they share the name {name} but lie {separation:.0f} arcsec apart"))
            known[key].append(number)
        named[own].append(number)
    return joined, refused, apart

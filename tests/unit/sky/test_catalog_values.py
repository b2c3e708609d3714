from __future__ import annotations

import math

import pytest
from astropy.coordinates import Angle
from astropy.time import Time

from astrid.core.errors import ConfigError, InputError
from astrid.sky.catalog.names import designated_year, designation, name_key, normal_name, told_year
from astrid.sky.catalog.types import PARENTS, is_one_of, read_type, wanted_types
from astrid.sky.catalog.values import angle, date, number, year_of


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("- 8 49 37.0", "-8:49:37.0"),
        ("- 0 04 47.5", "-0:04:47.5"),
        ("+ 7 09 43.9", "+7:09:43.9"),
        ("-56d36m45.2s", "-56:36:45.2"),
        ("−0°04′47.5″", "-0:04:47.5"),
        ("-0:04.5", "-0:04:30"),
        ("-0.079861", "-0.079861"),
    ],
)
def test_declinations_keep_the_sign_that_stands_off_or_before_a_zero(text: str, written: str) -> None:
    assert angle(text, False, -90, 90, "dec") == pytest.approx(Angle(written, "deg").deg, abs=1e-12)


def test_right_ascensions_are_hours_where_sexagesimal_and_degrees_where_not() -> None:
    assert angle("04 08 07.13", True, 0, 360, "ra") == pytest.approx(Angle("4h8m7.13s").deg, abs=1e-12)
    assert angle(62.03, True, 0, 360, "ra") == 62.03
    assert math.isnan(angle("", True, 0, 360, "ra"))


@pytest.mark.parametrize("text", ["361", "-1", "12 60 00", "1 2 3 4", "12 -3 4", "noon"])
def test_an_angle_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="row 3: ra"):
        angle(text, True, 0, 360, "row 3: ra")


@pytest.mark.filterwarnings("ignore:ERFA function")  # of astropy's own reading of years before 1960
@pytest.mark.parametrize(
    ("text", "iso", "precision"),
    [
        ("2014-09-27", "2014-09-27", 1),
        ("2014/9/7", "2014-09-07", 1),
        ("1885-08-20", "1885-08-20", 1),
        ("2004-02", "2004-02-01", 29),
        ("2003/04", "2003-04-01", 30),
        ("1951", "1951-01-01", 365),
        ("2004", "2004-01-01", 366),
        ("1998 Mar 25", "1998-03-25", 1),
        ("2004-05-17.25", "2004-05-17T06:00:00", 0.01),
        ("2023-05-19 17:27:15.000", "2023-05-19T17:27:15", 0),
        ("2023-05-19T17:27Z", "2023-05-19T17:27:00", 0),
        ("2020:032", "2020-02-01", 0),
        ("2458849.5", "2020-01-01", 0),
        ("58849", "2020-01-01", 0),
    ],
)
def test_a_date_is_as_precise_as_it_is_written(text: str, iso: str, precision: float) -> None:
    found = date(text, "here")
    assert found.mjd == pytest.approx(Time(iso, scale="utc").mjd, abs=1e-6)
    assert found.precision == pytest.approx(precision)


def test_an_empty_date_is_unknown_and_years_come_back() -> None:
    assert math.isnan(date(None, "here").mjd)
    assert math.isnan(date("NaN", "here").precision)
    assert [year_of(date(text, "").mjd) for text in ("1604", "1858-11-16", "2014-12-31", "2015-01-01")] == [1604, 1858, 2014, 2015]


@pytest.mark.parametrize("text", ["soon", "2014-02-30", "2014-13-01", "2014 Foo 3", "2014-01-01 25:00"])
def test_a_date_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=f"row 2: the date '{text}' is neither MJD, JD nor ISO 8601"):
        date(text, "row 2")


def test_a_number_is_a_number() -> None:
    assert number(" 0.1 ", "z") == 0.1
    assert math.isnan(number("--", "z"))
    with pytest.raises(InputError, match="z = 'high' is not a number"):
        number("high", "z")


@pytest.mark.parametrize(
    ("text", "name", "uncertain", "peculiar"),
    [
        ("Ia", "SN Ia", False, False),
        ("IaPec:", "SN Ia", True, True),
        ("II*", "SN II", False, False),  # Asiago's mark
        ("Ib:*", "SN Ib", True, False),
        ("Ib/cPec", "SN Ibc", False, True),
        ("I:", "SN I", True, False),
        ("Pec", "SN", False, True),
        ("SN Ia-pec", "SN Ia", False, True),
        ("SN Ia-91bg-like", "SN Ia-91bg", False, False),
        ("SN Iax[02cx-like]", "SN Iax", False, False),
        ("II P?", "SN IIP", True, False),
        ("type II-L", "SN IIL", False, False),
        ("Ia Pec", "SN Ia", False, True),
        ("SLSN-I", "SLSN-I", False, False),
        ("Ic BL", "SN Ic-BL", False, False),
        ("IIb/Ib", "SN CC", True, False),
        ("Ib or Ic", "SN Ibc", True, False),
        ("SN Ibc", "SN Ibc", False, False),
        ("Varstar", "variable", False, False),
        ("SN", "SN", False, False),
        ("Candidate", "", False, False),
        ("?", "", False, False),
        ("", "", False, False),
    ],
)
def test_types_get_one_form_with_their_doubt_and_peculiarity(text: str, name: str, uncertain: bool, peculiar: bool) -> None:
    found = read_type(text)
    assert (found.name, found.uncertain, found.peculiar, found.known) == (name, uncertain, peculiar, True)


def test_a_normal_type_is_its_own_form_and_an_unknown_one_is_kept() -> None:
    assert [read_type(name).name for name in PARENTS] == list(PARENTS)
    assert (read_type(" My  blob ").name, read_type("My blob").known) == ("My blob", False)


def test_subtypes_belong_to_the_types_above() -> None:
    assert is_one_of("SN Ia-91T", ["SN Ia"])
    assert is_one_of("SN Ic-BL", ["SN I"])
    assert is_one_of("SN Ic-BL", ["SN CC"])
    assert not is_one_of("SN Ia", ["SN Ia-91T", "SN II"])
    assert not is_one_of("", ["SN"])
    assert wanted_types(["Ia", "SN II-P"], "types") == ("SN Ia", "SN IIP")
    with pytest.raises(ConfigError, match=r"catalog\.types names the type 'SN Iz', which is none of SN, SN I"):
        wanted_types(["SN Iz"], "catalog.types")


@pytest.mark.parametrize(
    ("given", "normal", "key", "year"),
    [
        ("2014dm", "SN2014dm", "2014dm", 2014),
        ("SN 1987a", "SN1987A", "1987A", 1987),
        ("AT 2023ABC", "AT2023abc", "2023abc", 2023),
        ("SN_2014-DM", "SN2014dm", "2014dm", 2014),
        ("1984Z?", "SN1984Z", "1984Z", 1984),
        ("SN 1604", "SN 1604", "sn1604", 1604),
        ("PSN  J17592296+0617267", "PSN J17592296+0617267", "psnj17592296+0617267", None),
        ("SNLS-03D3bb", "SNLS-03D3bb", "snls03d3bb", None),
    ],
)
def test_names_of_events(given: str, normal: str, key: str, year: int | None) -> None:
    assert (normal_name(given), name_key(given), designated_year(given)) == (normal, key, year)
    assert name_key(normal) == key


@pytest.mark.parametrize(
    ("name", "year"),
    [("SNLS-03D3bb", 2003), ("HST04Sas", 2004), ("PTF11kly", 2011), ("PS1-12sk", 2012), ("MLS99ab", 1999), ("PSN J17592296+0617267", None)],
)
def test_a_surveys_name_may_tell_the_year(name: str, year: int | None) -> None:
    assert told_year(name) == year
    assert designation(name) == ""

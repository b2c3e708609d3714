from __future__ import annotations

import numpy as np
import pytest

from astrid.sky.footprints import area, inside, overlap, parse_region

SQUARE = "POLYGON ICRS 149.9 1.9 150.1 1.9 150.1 2.1 149.9 2.1"


@pytest.mark.parametrize(
    "text",
    [
        SQUARE,
        "POLYGON 149.9 1.9 150.1 1.9 150.1 2.1 149.9 2.1 149.9 1.9",  # without a frame, closed
        "Polygon J2000 149.9 2.1 150.1 2.1 150.1 1.9 149.9 1.9",  # the other way round
        "UNION ICRS ( POLYGON 149.9 1.9 150.1 1.9 150.1 2.1 149.9 2.1 CIRCLE 10 10 0.1 )",
        "POLYGON ICRS -210.1 1.9 -209.9 1.9 -209.9 2.1 -210.1 2.1",
        "CIRCLE ICRS 150.0 2.0 0.11",
        "CIRCLE ICRS 150.00000000  2.00000000 0.11",
        "POLYGON GSC1  150.1  1.9  150.1  2.1  149.9  2.1  149.9  1.9  150.1  1.9",  # of the guide star catalogue, as old footprints are
        "POLYGON -210.1 1.9 -209.9 1.9 -209.9 2.1 -210.1 2.1 -210.1 1.9",
        "POLYGON ICRS  149.9 1.9 149.95 1.9 149.95 2.1 149.9 2.1 POLYGON ICRS  149.94 1.9 150.1 1.9 150.1 2.1 149.94 2.1",
    ],
)
def test_a_region_covers_its_middle_and_not_its_surroundings(text: str) -> None:
    footprint = parse_region(text)
    assert inside(footprint, 150.0, 2.0)
    assert not inside(footprint, 150.2, 2.0)
    assert not inside(footprint, 330.0, -2.0)  # the antipode


@pytest.mark.parametrize(
    "text", ["", "none", "POLYGON ICRS 1 2 3 4", "POLYGON ICRS 1 2 3 4 5", "CIRCLE ICRS 1 2", "CIRCLE 1 2 NaN", "BOX ICRS 1 2 3 4",
             "POLYGON 0 0 0 0 1 1 1 1", "POLYGON 0 95 1 0 1 1", "CIRCLE 1 2 0", SQUARE + " BOX 1 1 1 1"],
)  # fmt: skip
def test_what_is_not_understood_is_unknown(text: str) -> None:
    assert parse_region(text) == ()
    assert not inside(parse_region(text), 150.0, 2.0)
    assert overlap(parse_region(text), parse_region(SQUARE)) == 0.0


def test_the_edge_counts_in_arcsec_on_the_sky() -> None:
    footprint = parse_region("POLYGON 149.9 59.9 150.1 59.9 150.1 60.1 149.9 60.1")
    east = 150.1 - 20 / 3600 / np.cos(np.radians(60.0))  # 20 arcsec from the eastern side
    assert inside(footprint, east, 60.0, 19.5)
    assert not inside(footprint, east, 60.0, 20.5)
    circle = parse_region("CIRCLE 150 60 0.1")
    assert inside(circle, 150.0, 60.1 - 20 / 3600, 19.9)
    assert not inside(circle, 150.0, 60.1 - 20 / 3600, 20.1)


def test_the_wrap_and_the_poles_are_nothing_special() -> None:
    wrap = parse_region("POLYGON ICRS 359.9 -0.1 0.1 -0.1 0.1 0.1 359.9 0.1")
    assert inside(wrap, 0.0, 0.0)
    assert inside(wrap, 359.95, 0.0)
    assert not inside(wrap, 180.0, 0.0)
    pole = parse_region("POLYGON ICRS 0 89 90 89 180 89 270 89")
    assert inside(pole, 123.0, 90.0)
    assert inside(pole, 45.0, 89.5)
    assert not inside(pole, 45.0, 89.2)  # the side is a great circle and passes nearer to the pole than 1 deg
    assert inside(pole, 1.0, 89.2)


@pytest.mark.parametrize(("ra", "dec"), [(150.0, 2.0), (0.0, 0.0), (10.0, -75.0), (200.0, 89.9)])
def test_overlap_is_a_share_of_the_smaller(ra: float, dec: float) -> None:
    """Circles of 0.2 and 0.1 deg: one in the other, apart, and half of the smaller beyond the larger's tangent."""
    large = parse_region(f"CIRCLE {ra} {dec} 0.2")
    assert overlap(large, parse_region(f"CIRCLE {ra} {dec} 0.1")) == pytest.approx(1.0)
    assert overlap(parse_region(f"CIRCLE {ra} {dec} 0.1"), large) == pytest.approx(1.0)
    assert overlap(large, parse_region(f"CIRCLE {ra} {dec - 0.31} 0.1")) == 0.0
    assert area(large) == pytest.approx(np.pi * 0.04, rel=0.01)
    # Two equal circles at distance d share (2 r^2 acos(d / 2r) - d / 2 sqrt(4 r^2 - d^2)) of pi r^2.
    d, r = 0.1, 0.2
    share = (2 * r**2 * np.arccos(d / (2 * r)) - d / 2 * np.sqrt(4 * r**2 - d**2)) / (np.pi * r**2)
    assert overlap(large, parse_region(f"CIRCLE {ra} {dec - d} {r}")) == pytest.approx(share, abs=0.01)


def test_overlap_of_polygons_on_a_wide_field() -> None:
    """A field of 12 deg, cut in two along a great circle: each half is covered by the whole, and shares nothing with the other."""
    whole = parse_region("POLYGON 84 -6 96 -6 96 6 84 6")
    west, east = parse_region("POLYGON 84 -6 90 -6 90 6 84 6"), parse_region("POLYGON 90 -6 96 -6 96 6 90 6")
    assert overlap(whole, west) == pytest.approx(1.0, abs=0.01)
    assert overlap(west, east) == pytest.approx(0.0, abs=0.01)
    assert area(west) + area(east) == pytest.approx(area(whole), rel=0.02)


def test_several_shapes_cover_together() -> None:
    """Two chips with a gap: what lies in the gap is outside, and the area is the chips'."""
    chips = parse_region("POLYGON 10 0 10.1 0 10.1 0.05 10 0.05 POLYGON 10 0.06 10.1 0.06 10.1 0.11 10 0.11")
    assert len(chips) == 2
    assert inside(chips, 10.05, 0.025)
    assert inside(chips, 10.05, 0.085)
    assert not inside(chips, 10.05, 0.055)
    assert area(chips) == pytest.approx(0.01, rel=0.03)
    assert overlap(chips, parse_region("POLYGON 10 0 10.1 0 10.1 0.05 10 0.05")) == pytest.approx(1.0)

"""Footprints of observations on the sky: the STC-S text of an archive, what two of them share, and whether a position is inside.

A footprint is one or several polygons and circles; what any of them covers is covered. The edges of polygons are great
circles, which a gnomonic projection maps to straight lines (Calabretta & Greisen 2002, A&A 395, 1077, section 5.1.3), so that
neither the poles nor the wrap of the right ascension are special. A shape reaches less than 80 deg from its middle.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_SHAPE = re.compile(r"\b(POLYGON|CIRCLE|BOX|ELLIPSE|POSITION|RANGE|CONVEX)\b", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_ARCSEC = np.radians(1.0 / 3600.0)
_FURTHEST = np.cos(np.radians(80.0))  # of a vertex from the projection's centre
_GRID = 48  # points a side on which a footprint is measured; its area is good to about 1 %


@dataclass(frozen=True)
class Circle:
    """A cap of the sphere."""

    centre: tuple[float, float, float]  # unit vector
    radius: float  # rad


@dataclass(frozen=True)
class Polygon:
    """A polygon of great circles, in either direction, closed by itself."""

    vertices: tuple[tuple[float, float, float], ...]  # unit vectors


Footprint = tuple[Circle | Polygon, ...]


@lru_cache(maxsize=4096)
def parse_region(text: str) -> Footprint:
    """The shapes of an STC-S region: POLYGON and CIRCLE with or without a frame, several one after the other or in a UNION.

    Empty where the text is empty or not understood as a whole (another shape, an odd number of coordinates, no finite
    number): such a footprint is unknown. Coordinates are degrees, right ascensions may be negative or beyond 360.
    """
    parts = _SHAPE.split(text)
    shapes: list[Circle | Polygon] = []
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        shape = _shape(name.upper(), body)
        if shape is None:
            return ()
        shapes.append(shape)
    return tuple(shapes)


def _shape(name: str, body: str) -> Circle | Polygon | None:
    numbers = [float(word) for word in body.replace("(", " ").replace(")", " ").replace(",", " ").split() if _NUMBER.fullmatch(word)]
    if re.search(r"\bnan\b|\binf\b", body, re.IGNORECASE):
        return None
    if name == "CIRCLE" and len(numbers) == 3 and 0 < numbers[2] < 80 and abs(numbers[1]) <= 90:
        return Circle(_unit(numbers[0], numbers[1]), float(np.radians(numbers[2])))
    if name == "POLYGON" and len(numbers) >= 6 and len(numbers) % 2 == 0 and all(abs(dec) <= 90 for dec in numbers[1::2]):
        corners = [_unit(ra, dec) for ra, dec in zip(numbers[::2], numbers[1::2], strict=True)]
        kept = [corner for corner, after in zip(corners, [*corners[1:], corners[0]], strict=True) if corner != after]
        return Polygon(tuple(kept)) if len(kept) >= 3 else None
    return None


def inside(footprint: Footprint, ra: float, dec: float, edge: float = 0.0) -> bool:
    """Whether a position (deg, ICRS) lies in one of the shapes, at least `edge` arcsec from that shape's border."""
    here = np.array(_unit(ra, dec))
    return any(_within(shape, here, edge * _ARCSEC) for shape in footprint)


def overlap(one: Footprint, other: Footprint) -> float:
    """Share (0 to 1) of the smaller footprint that both cover; 0 where one is empty.

    The smaller one is measured on a grid of points in a gnomonic projection about its own middle, each with its solid angle.
    """
    if not one or not other:
        return 0.0
    first, second = _measure(one), _measure(other)
    points, weights = first if first[1].sum() <= second[1].sum() else second
    against = other if first[1].sum() <= second[1].sum() else one
    total = float(weights.sum())
    return float(weights[_covered(against, points)].sum() / total) if total > 0 else 0.0


def forget() -> None:
    """Empty the memories of regions that were read and measured."""
    parse_region.cache_clear()
    _measure.cache_clear()


def area(footprint: Footprint) -> float:
    """Solid angle (square degrees), good to about 1 %."""
    return float(np.degrees(np.degrees(_measure(footprint)[1].sum())))


def _unit(ra: float, dec: float) -> tuple[float, float, float]:
    a, d = np.radians(ra), np.radians(dec)
    return float(np.cos(d) * np.cos(a)), float(np.cos(d) * np.sin(a)), float(np.sin(d))


def _frame(centre: Floats) -> tuple[Floats, Floats]:
    """Two unit vectors that span the plane which touches the sphere at `centre`."""
    helper = np.array([0.0, 0.0, 1.0]) if abs(centre[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
    east = np.cross(helper, centre)
    east /= np.linalg.norm(east)
    return east, np.cross(centre, east)


def _project(vectors: Floats, centre: Floats) -> Floats | None:
    """Gnomonic coordinates (n, 2) of unit vectors (n, 3); None where one is too far from the centre."""
    depth = vectors @ centre
    if (depth < _FURTHEST).any():
        return None
    east, north = _frame(centre)
    plane: Floats = np.stack([vectors @ east, vectors @ north], axis=1) / depth[:, None]
    return plane


def _within(shape: Circle | Polygon, here: Floats, edge: float) -> bool:
    if isinstance(shape, Circle):
        away = float(np.linalg.norm(np.array(shape.centre) - here))
        return bool(2 * np.arcsin(min(away / 2, 1.0)) <= shape.radius - edge)
    corners = _project(np.array(shape.vertices), here)
    if corners is None:
        return False
    # In a projection about the position itself, the distance of a line from the origin is the tangent of its angle.
    return bool(_even_odd(corners, np.zeros((1, 2)))[0] and _nearest(corners) >= np.tan(edge))


def _nearest(corners: Floats) -> float:
    """Distance of the origin from the border of a polygon (n, 2)."""
    start, step = corners, np.roll(corners, -1, axis=0) - corners
    along = np.clip(-(start * step).sum(axis=1) / np.maximum((step**2).sum(axis=1), 1e-300), 0.0, 1.0)
    return float(np.linalg.norm(start + along[:, None] * step, axis=1).min())


def _even_odd(corners: Floats, points: Floats) -> NDArray[np.bool_]:
    """Which points (m, 2) lie in a polygon (n, 2): those from which a ray crosses its border an odd number of times."""
    odd = np.zeros(len(points), bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        crosses = (y0 > points[:, 1]) != (y1 > points[:, 1])
        if crosses.any():
            at = x0 + (points[:, 1] - y0) * (x1 - x0) / (y1 - y0)
            odd ^= crosses & (points[:, 0] < at)
    return odd


def _covered(footprint: Footprint, vectors: Floats) -> NDArray[np.bool_]:
    """Which unit vectors (n, 3) a footprint covers."""
    found = np.zeros(len(vectors), bool)
    for shape in footprint:
        if isinstance(shape, Circle):
            found |= vectors @ np.array(shape.centre) >= np.cos(shape.radius)
            continue
        middle = _middle((shape,))
        corners = _project(np.array(shape.vertices), middle)
        near = vectors @ middle >= _FURTHEST
        if corners is not None and near.any():
            points = _project(vectors[near], middle)
            if points is not None:
                found[near] |= _even_odd(corners, points)
    return found


def _middle(footprint: Footprint) -> Floats:
    vectors = [np.array(shape.centre) if isinstance(shape, Circle) else np.array(shape.vertices).mean(axis=0) for shape in footprint]
    total = np.sum(vectors, axis=0)
    length = float(np.linalg.norm(total))
    return np.asarray(total / length if length > 1e-9 else np.array(_unit(0.0, 0.0)))


@lru_cache(maxsize=128)
def _measure(footprint: Footprint) -> tuple[Floats, Floats]:
    """Unit vectors (n, 3) of the grid's points that a footprint covers, and the solid angle (sr) of each."""
    centre = _middle(footprint)
    outline = [point for shape in footprint for point in _outline(shape)]
    plane = _project(np.array(outline), centre)
    if plane is None:
        return np.zeros((0, 3)), np.zeros(0)
    low, high = plane.min(axis=0), plane.max(axis=0)
    step = (high - low) / _GRID
    x, y = (low[axis] + step[axis] * (np.arange(_GRID) + 0.5) for axis in (0, 1))
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    east, north = _frame(centre)
    rays = centre + grid[:, :1] * east + grid[:, 1:] * north
    lengths = np.linalg.norm(rays, axis=1)
    vectors = rays / lengths[:, None]
    covered = _covered(footprint, vectors)
    # A gnomonic plane's element of area subtends cos^3 of the angle from its centre, and 1/cos is the length of the ray.
    return vectors[covered], step[0] * step[1] / lengths[covered] ** 3


def _outline(shape: Circle | Polygon) -> list[Floats]:
    if isinstance(shape, Polygon):
        return [np.array(vertex) for vertex in shape.vertices]
    centre = np.array(shape.centre)
    east, north = _frame(centre)
    around = np.linspace(0, 2 * np.pi, 33)[:-1]
    reach = np.sin(shape.radius) / np.cos(np.pi / 32)  # of the polygon that encloses the circle
    return [np.cos(shape.radius) * centre + reach * (np.cos(angle) * east + np.sin(angle) * north) for angle in around]

"""Who a detection is on the sky: separations, sky cells, and clusters of detections over epochs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astrid.core.errors import DataSetError

Floats = NDArray[np.float64]

_ARCSEC = np.pi / (180 * 3600)  # rad
_ARCMIN_PER_DEG = 60.0


def unit_vectors(ra: Floats, dec: Floats) -> Floats:
    """Unit vectors of ICRS positions in degrees: (n, 3)."""
    lon, lat = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def separations(first: Floats, second: Floats) -> Floats:
    """Angles in arcsec between unit vectors (n, 3) and (m, 3): (n, m), exact for small angles: 2 asin(chord / 2)."""
    chord = np.linalg.norm(first[:, None, :] - second[None, :, :], axis=-1)
    angles: Floats = 2 * np.arcsin(np.clip(chord / 2, 0, 1)) / _ARCSEC
    return angles


def sky_cells(ra: Floats, dec: Floats, *, size: float) -> NDArray[np.object_]:
    """The cell of each position (deg) in a grid of about equal areas: bands of `size` arcmin in declination, each cut in
    right ascension into the whole number of cells that comes nearest to `size` on the sky.

    Raises `DataSetError` for a position that is not finite.
    """
    lost = int((~np.isfinite(ra) | ~np.isfinite(dec)).sum())
    if lost:
        raise DataSetError(f"{lost} of {len(ra)} candidates have no position; give finite s_ra and s_dec.")
    step = size / _ARCMIN_PER_DEG
    last = int(np.ceil(180 / step)) - 1
    band = np.clip(np.floor((dec + 90) / step), 0, last).astype(np.int64)
    middle = np.radians(np.clip((band + 0.5) * step - 90, -90, 90))
    around = np.maximum(1, np.rint(360 * np.cos(middle) / step)).astype(np.int64)
    column = np.minimum((np.mod(ra, 360) / 360 * around).astype(np.int64), around - 1)
    return np.array([f"{size:g}am.{b}.{c}" for b, c in zip(band, column, strict=True)], dtype=object)


def clusters(ra: Floats, dec: Floats, *, radius: float) -> NDArray[np.int64]:
    """Friends of friends: the running number of each position's cluster, linked within `radius` arcsec; (n,)."""
    if not len(ra):
        return np.zeros(0, dtype=np.int64)
    from scipy.spatial import cKDTree

    chord = 2 * np.sin(radius * _ARCSEC / 2)
    pairs = cKDTree(unit_vectors(ra, dec)).query_pairs(chord, output_type="ndarray")
    return components(len(ra), pairs)


def components(count: int, links: NDArray[Any]) -> NDArray[np.int64]:
    """Connected components of `count` nodes under the links (m, 2): the running number of each node's component."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(links), dtype=np.int8)
    graph = coo_matrix((ones, (links[:, 0], links[:, 1])), shape=(count, count))
    numbers: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return numbers


def first_names(numbers: NDArray[np.int64], names: pd.Series) -> NDArray[np.object_]:
    """For each row the smallest name of its component, so that an id depends neither on row order nor on numbering."""
    order = names.array.argsort(kind="stable")
    found, first = np.unique(numbers[order], return_index=True)  # the first in order of names is the smallest
    chosen: NDArray[np.object_] = names.iloc[order[first]].to_numpy(dtype=object)[np.searchsorted(found, numbers)]
    return chosen

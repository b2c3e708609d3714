"""What a triplet shows, as keys: equal for copies that were turned, shifted or swapped, near for copies that were changed a little.

Two columns of TRIPLETS are filled here. `content_key` names exact copies: a sketch of hashes of single places of the stamps, each
of which is the same wherever the place stands, however the stamp is turned, and whichever epoch is called science; the
place's bits must be the same. `near_key` is a coarse picture of the stamps in a few bytes, the same under the eight turns
and a little different for a copy with noise, another gain or background, another PSF or a fraction of a pixel between:
`datasets.near` finds such copies with it and verifies them on the pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astrid.core.provenance import digest_array

Stamps = NDArray[np.float32]
Bits = NDArray[np.uint64]

CONTENT_VERSION = "c1"  # in front of every hash, so that keys of another recipe are never equal
SKETCH = 6  # hashes kept of a triplet
_CHUNK = 8  # triplets at a time: what is computed of them stays in a core's cache

_NEAR, _DIAGONAL = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)  # odd constants that set the rings apart
_NOTHING = np.uint64(0xFFFFFFFFFFFFFFFF)
_SIGN = np.uint32(0x7FFFFFFF)


def with_keys(stamps: Stamps, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of TRIPLETS with stamp_digest, content_key and near_key of their stamps (n, 3, 63, 63)."""
    from astrid.datasets.near import near_keys

    return rows.assign(stamp_digest=stamp_digests(stamps), content_key=content_keys(stamps), near_key=near_keys(stamps))


def stamp_digests(stamps: Stamps) -> list[str]:
    """SHA-256 of the content of each triplet of (n, 3, 63, 63)."""
    return [digest_array(triplet) for triplet in stamps]


def content_keys(stamps: Stamps) -> list[str]:
    """The sketch of each triplet of (n, 3, side, side), any side: up to six words, separated by spaces; "" without a usable place.

    A place is a pixel with its eight neighbours. Its hash takes the three planes' bits at the pixel (the two epochs as an
    unordered pair, the difference without its sign), the sum over the four nearest and the sum over the four diagonal pixels;
    so it is the same under the eight turns and wherever the place stands. Places with a masked pixel and flat ones do not
    count. Kept are the smallest hashes: bottom-k sketches share a value with probability 1 - (1 - J)^k or so, where J is the
    share of places that two stamps have in common (Broder 1997, On the resemblance and containment of documents, section 4).
    A copy that is shifted by 4 px both ways has J = 0.78, which leaves one in ten thousand unfound.
    """
    words: list[str] = []
    for first in range(0, len(stamps), _CHUNK):
        hashes = _places(stamps[first : first + _CHUNK])
        smallest = np.sort(np.partition(hashes, SKETCH, axis=1)[:, :SKETCH], axis=1)
        words += [
            " ".join(f"{CONTENT_VERSION}-{value:016x}" for value in dict.fromkeys(row) if value != _NOTHING) for row in smallest.tolist()
        ]
    return words


def words_of(keys: pd.Series) -> pd.Series:
    """The words of content keys, one a row; the index says whose they are. Empty keys have none."""
    used = keys[keys != ""]
    return used.str.split(" ").explode()


def _places(stamps: Stamps) -> Bits:
    """Hashes of the places of each triplet, uint64 (n, places); all bits set where a place does not count."""
    values = stamps + np.float32(0)  # -0 becomes 0
    finite = np.isfinite(values).all(axis=1)
    bits = values.view(np.uint32)
    low, high = np.minimum(bits[:, 0], bits[:, 1]), np.maximum(bits[:, 0], bits[:, 1])
    pixel = _mix(low.astype(np.uint64) | (high.astype(np.uint64) << np.uint64(32)))
    pixel = _mix(pixel ^ ((bits[:, 2] & _SIGN).astype(np.uint64) * _DIAGONAL))
    around = [_shifted(pixel, dy, dx) for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1))]
    corners = [_shifted(pixel, dy, dx) for dy, dx in ((-1, -1), (-1, 1), (1, -1), (1, 1))]
    centre = _shifted(pixel, 0, 0)
    nearest = around[0] + around[1] + around[2] + around[3]
    diagonal = corners[0] + corners[1] + corners[2] + corners[3]
    places = _mix(centre + nearest * _NEAR + diagonal * _DIAGONAL)
    counts = _shifted(finite, 0, 0).copy()
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            counts &= _shifted(finite, dy, dx)
    for other in around:
        counts &= other != centre
    places[~counts] = _NOTHING
    return places.reshape(len(stamps), -1)


def _shifted(plane: NDArray[Any], dy: int, dx: int) -> NDArray[Any]:
    """The inner part of planes (n, side, side), seen from a neighbour: (n, side - 2, side - 2)."""
    side = plane.shape[-1]
    return plane[:, 1 + dy : side - 1 + dy, 1 + dx : side - 1 + dx]


def _mix(value: Bits) -> Bits:
    """Scatter 64 bits over 64 (the finaliser of SplitMix64; Steele, Lea & Flood 2014, section 5)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))

"""Which stars of one list are which of another: offsets, turns, mirrors and wrong scales found without a first guess."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats
from scipy.spatial import cKDTree

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

_BRIGHT = 150  # sources of each list that vote for the shift
_BIN = 1.0  # px, of the histogram of shifts
_STARS = (50, 100)  # the brightest of the two lists whose pairs vote for a pose
_SHORTEST = 0.1  # of the field's half diagonal: shorter pairs do not tell their direction
_TURN = 1.0  # deg, bin of the turn
_SHIFT_BINS = 41  # bins a side of the shift in the histogram of poses
_LEAST_BIN = 3.0  # px, of those bins
_SIMILARITY_ROUNDS = 5  # of fitting and clipping the pose's own stars
_CLIP = 3.0  # times the median distance


@dataclass(frozen=True, eq=False)
class Pose:
    """A first transformation: moved = centre + matrix @ (point - centre) + shift. `trials`: how many others were as likely."""

    matrix: Floats  # (2, 2)
    shift: Floats  # (2,), px
    trials: float


def commonest_shift(source: Floats, flux_s: Floats, target: Floats, flux_t: Floats, radius: float) -> Pose | None:
    """The commonest shift target - source of at most `radius` px among the brightest; None when nothing is within reach."""
    a = source[np.argsort(-flux_s, kind="stable")[:_BRIGHT]]
    inside = np.all((target > source.min(axis=0) - radius) & (target < source.max(axis=0) + radius), axis=1)
    if not inside.any():
        return None
    b = target[inside][np.argsort(-flux_t[inside], kind="stable")[:_BRIGHT]]
    delta = (b[None, :, :] - a[:, None, :]).reshape(-1, 2)
    delta = delta[np.hypot(delta[:, 0], delta[:, 1]) <= radius]
    if len(delta) == 0:
        return None
    edges = np.arange(-radius - _BIN, radius + 1.5 * _BIN, _BIN)
    counts, _, _ = np.histogram2d(delta[:, 0], delta[:, 1], bins=[edges, edges])
    smooth = ndimage.uniform_filter(counts, 3, mode="constant") * 9.0
    ix, iy = np.unravel_index(int(np.argmax(smooth)), smooth.shape)
    peak = np.array([edges[ix] + _BIN / 2, edges[iy] + _BIN / 2])
    near = delta[np.max(np.abs(delta - peak), axis=1) <= 1.5 * _BIN]
    shift = np.asarray(np.median(near, axis=0))
    return Pose(np.eye(2), shift, 1.0 + np.pi * float(shift @ shift) / (3.0 * _BIN) ** 2)


def commonest_pose(
    source: Floats, flux_s: Floats, target: Floats, flux_t: Floats, centre: Floats, radius: float, tolerance: float
) -> Pose | None:
    """Turn, mirror, scale and shift that most pairs of bright stars agree on (pose clustering, Stockman 1987, CVGIP 40, 361).

    Every pair of the source is laid on every pair of the target of the same length within the relative `tolerance`, both ways
    and mirrored; each gives a turn and a shift of the point `centre`, of at most `radius` px; n common stars give n (n - 1) / 2
    votes for one pose, chance pairs scatter. None when fewer than two stars are in reach.
    """
    reach = float(np.max(np.hypot(*(source - centre).T)))
    first = np.argsort(-flux_s, kind="stable")[: _STARS[0]]
    inside = np.flatnonzero(np.hypot(*(target - centre).T) <= reach + radius)
    second = inside[np.argsort(-flux_t[inside], kind="stable")[: _STARS[1]]]
    if len(first) < 2 or len(second) < 2:
        return None
    a, b = _complex(source[first] - centre), _complex(target[second] - centre)
    pairs = _equal_lengths(a, b, _SHORTEST * reach, tolerance)
    best: tuple[float, Floats, bool] | None = None
    width = max(_LEAST_BIN, 2.0 * radius / _SHIFT_BINS)
    for mirrored in (False, True):
        votes = _cluster(np.conj(a) if mirrored else a, b, pairs, radius, width)
        if votes is not None and (best is None or votes.max() > best[1].max()):
            best = (float(votes.max()), votes, mirrored)
    if best is None:
        return None
    fitted = _similarity(np.conj(a) if best[2] else a, b, best[1])
    if fitted is None:
        return None
    turn, shift = fitted
    matrix = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]]) @ np.diag([1.0, -1.0 if best[2] else 1.0])
    trials = 2.0 * (360.0 / _TURN) * np.pi * radius**2 / width**2
    return Pose(matrix, np.array([shift.real, shift.imag]), max(trials, 1.0))


def _complex(points: Floats) -> NDArray[np.complex128]:
    return np.asarray(points[:, 0] + 1j * points[:, 1])


def _equal_lengths(
    a: NDArray[np.complex128], b: NDArray[np.complex128], shortest: float, tolerance: float
) -> tuple[Indices, Indices, Indices, Indices]:
    """Indices i, j of `a` and k, l of `b` with |a_j - a_i| = |b_l - b_k| within the tolerance; both orders of k, l."""
    i, j = np.triu_indices(len(a), 1)
    k, m = np.nonzero(~np.eye(len(b), dtype=bool))
    length_a, length_b = np.abs(a[j] - a[i]), np.abs(b[m] - b[k])
    long = length_a >= shortest
    i, j, length_a = i[long], j[long], length_a[long]
    order = np.argsort(length_b, kind="stable")
    low = np.searchsorted(length_b[order], length_a * (1 - tolerance))
    high = np.searchsorted(length_b[order], length_a * (1 + tolerance), side="right")
    count = high - low
    ours = np.repeat(np.arange(len(i)), count)
    theirs = order[np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(low, count)]
    return i[ours], j[ours], k[theirs], m[theirs]


def _cluster(
    a: NDArray[np.complex128], b: NDArray[np.complex128], pairs: tuple[Indices, Indices, Indices, Indices], radius: float, width: float
) -> Floats | None:
    """(len(a), len(b)) votes for each couple of stars, from the pairs that agree on the commonest turn and shift."""
    i, j, k, m = pairs
    turn = (b[m] - b[k]) / (a[j] - a[i])
    shift = (b[k] + b[m]) / 2 - turn * (a[i] + a[j]) / 2
    near = np.abs(shift) <= radius
    if not near.any():
        return None
    i, j, k, m = (index[near] for index in pairs)
    turn, shift = turn[near], shift[near]
    turns = round(360.0 / _TURN)
    cells = int(np.ceil(2 * radius / width)) + 1
    angle = np.floor((np.degrees(np.angle(turn)) % 360.0) / _TURN).astype(np.intp) % turns
    column, row = (np.floor((part + radius) / width).astype(np.intp) for part in (shift.real, shift.imag))
    counts = np.zeros((turns, cells + 1, cells + 1))
    np.add.at(counts, (angle, row, column), 1.0)
    smooth = ndimage.uniform_filter(counts, 3, mode=("wrap", "constant", "constant"))
    top = np.unravel_index(int(np.argmax(smooth)), smooth.shape)
    apart = np.abs(angle - top[0])
    chosen = (np.minimum(apart, turns - apart) <= 1) & (np.abs(row - top[1]) <= 1) & (np.abs(column - top[2]) <= 1)
    votes = np.zeros((len(a), len(b)))
    np.add.at(votes, (i[chosen], k[chosen]), 1.0)
    np.add.at(votes, (j[chosen], m[chosen]), 1.0)
    return votes


def _similarity(a: NDArray[np.complex128], b: NDArray[np.complex128], votes: Floats) -> tuple[complex, complex] | None:
    """b = turn * a + shift through the couples of stars that most votes go to, clipped."""
    partner = np.argmax(votes, axis=1)
    own = np.flatnonzero((votes.max(axis=1) > 0) & (np.argmax(votes, axis=0)[partner] == np.arange(len(a))))
    x, y, w = a[own], b[partner[own]], votes[own, partner[own]]
    turn, shift = 1 + 0j, 0j
    for _ in range(_SIMILARITY_ROUNDS):
        if len(x) < 2:
            return None
        mean_x, mean_y = np.average(x, weights=w), np.average(y, weights=w)
        turn = complex(np.sum(w * np.conj(x - mean_x) * (y - mean_y)) / np.sum(w * np.abs(x - mean_x) ** 2))
        shift = complex(mean_y - turn * mean_x)
        distance = np.abs(y - turn * x - shift)
        keep = distance <= _CLIP * max(float(np.median(distance)), 0.1)
        x, y, w = x[keep], y[keep], w[keep]
    return turn, shift


def mutual(moved: Floats, target: Floats, tree: cKDTree, radius: float) -> tuple[Indices, Indices]:
    """Couples that are each other's nearest, within `radius` px; `tree` is of `target`."""
    distance, nearest = tree.query(moved, distance_upper_bound=radius)
    own = np.flatnonzero(np.isfinite(distance))
    _, back = cKDTree(moved).query(target[nearest[own]])
    both = own[back == own]
    return both, nearest[both]


def chance_of(couples: int, free: float, moved: Floats, target: Floats, radius: float, trials: float) -> float:
    """Expected number of poses, of `trials`, that unrelated lists would give so many couples within `radius` px.

    `free` couples are met by the fit's own parameters. Both lists are taken as scattered evenly over the box they share.
    """
    low, high = np.maximum(moved.min(axis=0), target.min(axis=0)), np.minimum(moved.max(axis=0), target.max(axis=0))
    area = float(np.prod(np.maximum(high - low, 2.0 * radius)))
    inside = [float(np.all((points >= low) & (points <= high), axis=1).sum()) for points in (moved, target)]
    expected = inside[0] * inside[1] * np.pi * radius**2 / area
    return float(trials * stats.poisson.sf(couples - free - 1, expected))


def attainable(moved: Floats, target: Floats, margin: float) -> int:
    """How many couples two lists could have: the fewer of the sources that lie in the box of the other list."""
    counts = []
    for points, other in ((moved, target), (target, moved)):
        counts.append(int(np.all((points >= other.min(axis=0) - margin) & (points <= other.max(axis=0) + margin), axis=1).sum()))
    return min(counts)

"""Moving objects: candidates of several exposures linked on straight lines, and candidates matched with known objects.

Positions are unit vectors times the arcseconds in a radian, so that distances need no projection and no seam at 0 h; every
distance here is arcsec, every time h. A track is a constant rate on the sky (Denneau et al. 2013; Holman et al. 2018 for longer
arcs): over a night that holds to 1 arcsec for a main-belt asteroid, over several nights the Earth's motion bends it.

How many tracks chance makes is part of every track: a pair of candidates with an allowed rate is a seed, and a seed finds an
unrelated candidate of an exposure with the probability 1 - exp(-density * pi * (2 tolerance)^2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from astrid.config.schema.candidates import MovingConfig
from astrid.io.tables import TRACKS, conform

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
_RADIAN = 180.0 * 3600.0 / np.pi  # arcsec
_HOURS = 24.0
_WIDE = 3.0  # tolerances: what a seed collects before the line is fitted
_CROWD = 20  # candidates of an exposure about a track from which its density is measured, at most
_ROUNDS = 4  # of collecting and fitting

# Columns of CANDIDATES that are looked at.
COLUMNS = ("candidate_id", "exposure_id", "mjd", "s_ra", "s_dec", "sign", "tags")


@dataclass(frozen=True, eq=False)
class _Points:
    """What is linked: m candidates."""

    row: Rows  # of the table
    place: Floats  # (m, 3) arcsec
    time: Floats  # (m,) h
    epoch: Rows  # (m,) number of the exposure
    epochs: list[Rows]  # the points of each exposure
    trees: list[cKDTree]
    moments: Floats  # h, of each exposure


@dataclass(frozen=True, eq=False)
class _Line:
    """A constant rate in the tangent plane at `centre`."""

    members: Rows  # points, in time order
    basis: Floats  # (3, 3): east, north, centre as unit vectors
    moment: float  # h, mean time of the members
    start: Floats  # (2,) arcsec at that time
    rate: Floats  # (2,) arcsec / h
    residual: Floats  # (members,) arcsec
    rms: float  # arcsec a coordinate, freed of the four parameters

    def at(self, time: Floats) -> Floats:
        """Places (k, 3), arcsec, at times (k,)."""
        flat = (self.start + (time - self.moment)[:, None] * self.rate) / _RADIAN
        ray = self.basis[2] + flat @ self.basis[:2]
        return np.asarray(_RADIAN * ray / np.linalg.norm(ray, axis=1, keepdims=True))


def sky_places(ra: Floats, dec: Floats) -> Floats:
    """Unit vectors times the arcseconds in a radian, (n, 3), of positions in deg."""
    a, d = np.deg2rad(ra), np.deg2rad(dec)
    return np.asarray(_RADIAN * np.column_stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)]))


def link(candidates: pd.DataFrame, cfg: MovingConfig) -> pd.DataFrame:
    """Tracks among the candidates of many exposures: a TRACKS frame, the surest first, no candidate on two of them.

    Brightened candidates without an excluded tag take part, those that stay in place between exposures do not. Every pair of
    them within `max_gap` whose rate lies between the limits is a seed; a line is grown from it while exposures within `max_gap` of
    its ends hold a candidate within `tolerance`. Kept are lines with `min_detections` whose expectation by chance is at most
    `max_chance`.
    """
    points = _points(candidates, cfg)
    seeds = _seeds(points, cfg)
    lines: dict[tuple[int, ...], tuple[float, _Line]] = {}
    for first, second in seeds[_promising(points, seeds, cfg)].tolist():
        line = _grown(points, first, second, cfg)
        key = tuple(line.members.tolist()) if line is not None else ()
        if line is not None and key not in lines:
            lines[key] = (_chance(points, line, len(seeds), cfg), line)
    ranked = sorted(lines.values(), key=lambda pair: (pair[0], pair[1].rms, pair[1].members.tolist()))
    taken: set[int] = set()
    rows: list[dict[str, object]] = []
    for chance, line in ranked:
        if chance <= cfg.max_chance and taken.isdisjoint(line.members.tolist()):
            taken.update(line.members.tolist())
            rows.append(_row(candidates, points, line, chance, len(rows)))
    return conform(pd.DataFrame(rows), TRACKS, source="moving objects") if rows else TRACKS.empty()


def match_known(candidates: pd.DataFrame, asteroids: pd.DataFrame, cfg: MovingConfig) -> NDArray[np.object_]:
    """Name of the known object at each candidate's place and time, "" without one; (n,).

    Each object's row nearest in time is carried along its rate (its own, else that to the object's next row) for at most
    `max_extrapolation`, without any rate only as long as the fastest object stays within `match_radius`. A brightened candidate
    within the larger of `match_radius` and `match_sigma` errors is the object's; of several the nearest.
    """
    names = np.full(len(candidates), "", dtype=object)
    if not len(candidates) or not len(asteroids):
        return names
    known = _with_rates(asteroids)
    time, limit = known["mjd"].to_numpy(np.float64), np.where(known["rated"], cfg.max_extrapolation, cfg.match_radius / cfg.max_rate)
    for mjd, rows in candidates[candidates["sign"] > 0].groupby("mjd").indices.items():
        chosen = candidates.index.get_indexer(candidates[candidates["sign"] > 0].index[rows])
        gap = (float(mjd) - time) * _HOURS
        near = np.flatnonzero(np.abs(gap) <= limit)
        near = near[np.argsort(np.abs(gap[near]), kind="stable")]
        near = near[~known["name"].iloc[near].duplicated().to_numpy()]
        if len(near):
            names[chosen] = _nearest_name(candidates.iloc[chosen], known.iloc[near], gap[near], cfg)
    return names


def track_ids(candidates: pd.DataFrame, tracks: pd.DataFrame) -> NDArray[np.object_]:
    """The track (TRACKS) that each candidate is on, "" without one: (n,)."""
    track_of = {name: track.track_id for track in tracks.itertuples() for name in track.candidate_ids}
    ids = np.full(len(candidates), "", dtype=object)
    rows = np.flatnonzero(candidates["candidate_id"].isin(list(track_of)).to_numpy())
    ids[rows] = [track_of[name] for name in candidates["candidate_id"].iloc[rows]]
    return ids


def with_names(tracks: pd.DataFrame, ids: NDArray[np.object_], names: NDArray[np.object_]) -> pd.DataFrame:
    """The tracks with the name that most of their members bear; `ids`, `names`: the candidates' `track_ids` and known objects."""
    borne = pd.Series(names)[(ids != "") & (names != "")]
    most = borne.groupby(ids[borne.index]).agg(lambda known: known.mode().iloc[0])
    return tracks.assign(name=tracks["track_id"].map(most).fillna(tracks["name"]))


def with_moving(tags: pd.Series, moves: NDArray[np.bool_]) -> pd.Series:
    """The tags with `moving` where `moves` (n,) is true."""
    words = [sorted({*names, "moving"}) if yes else names for names, yes in zip(tags, moves, strict=True)]
    return pd.Series(words, index=tags.index, dtype=object)


def _points(candidates: pd.DataFrame, cfg: MovingConfig) -> _Points:
    excluded = set(cfg.exclude_tags)
    clean = np.array([excluded.isdisjoint(tags) for tags in candidates["tags"]], dtype=bool)
    finite = np.isfinite(candidates[["s_ra", "s_dec", "mjd"]].to_numpy(np.float64)).all(axis=1)
    chosen = np.flatnonzero(clean & finite & (candidates["sign"].to_numpy() > 0))
    place = sky_places(*(candidates[name].to_numpy(np.float64)[chosen] for name in ("s_ra", "s_dec")))
    time = candidates["mjd"].to_numpy(np.float64)[chosen] * _HOURS
    moves = _moving(place, time, cfg)
    chosen, place, time = chosen[moves], place[moves], time[moves]
    epoch = pd.factorize(candidates["exposure_id"].to_numpy()[chosen], sort=True)[0].astype(np.int64)
    epochs = [np.flatnonzero(epoch == number) for number in range(epoch.max() + 1 if len(epoch) else 0)]
    moments = np.array([time[rows[0]] for rows in epochs])
    return _Points(chosen, place, time, epoch, epochs, [cKDTree(place[rows]) for rows in epochs], moments)


def _moving(place: Floats, time: Floats, cfg: MovingConfig) -> NDArray[np.bool_]:
    """False for points seen again in place after a time in which the slowest object would have left it."""
    moves = np.ones(len(place), dtype=bool)
    if len(place):
        pairs = cKDTree(place).query_pairs(cfg.stationary, output_type="ndarray")
        stay = np.abs(time[pairs[:, 0]] - time[pairs[:, 1]]) * cfg.min_rate > 2.0 * cfg.stationary
        moves[pairs[stay].ravel()] = False
    return moves


def _seeds(points: _Points, cfg: MovingConfig) -> Rows:
    """Pairs of points (k, 2), earlier one first, that an object of an allowed rate can make; found in a kd-tree of (x, y, z, t)."""
    if len(points.time) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    gap = cfg.max_gap * _HOURS
    cube = np.column_stack([points.place, cfg.max_rate * points.time])
    pairs = cKDTree(cube).query_pairs(np.sqrt(2.0) * cfg.max_rate * gap, output_type="ndarray")
    pairs = np.where((points.time[pairs[:, 0]] <= points.time[pairs[:, 1]])[:, None], pairs, pairs[:, ::-1])
    span = points.time[pairs[:, 1]] - points.time[pairs[:, 0]]
    length = np.linalg.norm(points.place[pairs[:, 1]] - points.place[pairs[:, 0]], axis=1)
    kept = (span > 0) & (span <= gap) & (length <= cfg.max_rate * span + cfg.tolerance) & (length >= cfg.min_rate * span)
    return np.asarray(pairs[kept])


def _promising(points: _Points, seeds: Rows, cfg: MovingConfig) -> NDArray[np.bool_]:
    """Seeds that find enough other candidates near their line, at a tolerance that allows for their own errors."""
    found = np.full(len(seeds), 2)
    begin, span = points.time[seeds[:, 0]], points.time[seeds[:, 1]] - points.time[seeds[:, 0]]
    rate = (points.place[seeds[:, 1]] - points.place[seeds[:, 0]]) / span[:, None]
    gap = cfg.max_gap * _HOURS
    for moment, tree in zip(points.moments, points.trees, strict=True):
        asked = np.flatnonzero((moment >= begin - gap) & (moment <= begin + span + gap) & (moment != begin) & (moment != begin + span))
        if not len(asked):
            continue
        ahead = moment - begin[asked]
        place = points.place[seeds[asked, 0]] + ahead[:, None] * rate[asked]
        place *= (_RADIAN / np.linalg.norm(place, axis=1))[:, None]
        lever = np.maximum(np.maximum(-ahead, ahead - span[asked]), 0.0) / span[asked]
        distance, _ = tree.query(place, distance_upper_bound=_WIDE * cfg.tolerance)
        found[asked] += distance <= cfg.tolerance * np.minimum(1.5 * (1.0 + lever), _WIDE)
    return np.asarray(found >= cfg.min_detections)


def _grown(points: _Points, first: int, second: int, cfg: MovingConfig) -> _Line | None:
    """The line through a seed, fitted and collected again until it stands; None when too few detections lie on it."""
    line = _fit(points, np.array([first, second]))
    reach = _WIDE
    for _ in range(_ROUNDS):
        members = _collected(points, line, reach * cfg.tolerance, cfg)
        if len(members) < cfg.min_detections:
            return None
        line, reach = _fit(points, members), 1.0
        if line.residual.max() > cfg.tolerance:
            line = _fit(points, np.sort(np.delete(members, line.residual.argmax()))) if len(members) > cfg.min_detections else line
    members = line.members[line.residual <= cfg.tolerance]
    speed = float(np.hypot(*line.rate))
    if len(members) < max(cfg.min_detections, len(line.members)) or not cfg.min_rate <= speed <= cfg.max_rate:
        return None
    return line


def _collected(points: _Points, line: _Line, tolerance: float, cfg: MovingConfig) -> Rows:
    """The nearest point of every exposure within the tolerance of the line, as far as no gap is longer than `max_gap`."""
    gap = cfg.max_gap * _HOURS
    begin, end = points.time[line.members[0]], points.time[line.members[-1]]
    reach = np.flatnonzero((points.moments >= begin - gap) & (points.moments <= end + gap))
    places = line.at(points.moments[reach])
    out = []
    for epoch, place in zip(reach, places, strict=True):
        distance, near = points.trees[epoch].query(place, distance_upper_bound=tolerance)
        if np.isfinite(distance):
            out.append((points.moments[epoch], distance, points.epochs[epoch][near]))
    out.sort()
    found = np.array([point for _, _, point in out], dtype=np.int64)
    moments = np.array([moment for moment, _, _ in out])
    found = found[np.diff(moments, prepend=-np.inf) > 0]  # detectors that overlap at one time: the nearer one
    if not len(found):
        return found
    pieces = np.split(found, np.flatnonzero(np.diff(points.time[found]) > gap) + 1)
    return max(pieces, key=len)


def _fit(points: _Points, members: Rows) -> _Line:
    """Least squares of both coordinates in the plane that touches the sphere at the members' mean."""
    members = members[np.argsort(points.time[members], kind="stable")]
    ray = points.place[members] / _RADIAN
    centre = ray.mean(axis=0) / np.linalg.norm(ray.mean(axis=0))
    east = np.array([-centre[1], centre[0], 0.0])
    east = east / np.linalg.norm(east) if np.linalg.norm(east) > 0 else np.array([0.0, 1.0, 0.0])
    basis = np.stack([east, np.cross(centre, east), centre])
    seen = ray @ basis.T
    flat = _RADIAN * seen[:, :2] / seen[:, 2:]
    moment = float(points.time[members].mean())
    design = np.column_stack([np.ones(len(members)), points.time[members] - moment])
    solution, *_ = np.linalg.lstsq(design, flat, rcond=None)
    off = flat - design @ solution
    rms = float(np.sqrt(np.sum(off**2) / max(2 * len(members) - 4, 1)))
    return _Line(members, basis, moment, solution[0], solution[1], np.hypot(*off.T), rms)


def _chance(points: _Points, line: _Line, seeds: int, cfg: MovingConfig) -> float:
    """Tracks of as many detections expected by chance in the whole table, at the candidates' density about this one.

    `seeds` over the pairs that one track holds, times the probability that of the other exposures in reach at least so many as the
    track has hold a candidate on the line.
    """
    members, gap = line.members, cfg.max_gap * _HOURS
    begin, end = points.time[members[0]], points.time[members[-1]]
    reach = np.flatnonzero((points.moments >= begin - gap) & (points.moments <= end + gap))
    hit = []
    for epoch, place in zip(reach, line.at(points.moments[reach]), strict=True):
        others = np.atleast_1d(points.trees[epoch].query(place, k=_CROWD + 1)[0])[1:]  # the nearest may be the track's own
        others = others[np.isfinite(others)]
        count, radius = (len(others), max(float(others[-1]), 2.0 * cfg.tolerance)) if len(others) else (1, cfg.max_rate * gap)
        hit.append(1.0 - np.exp(-count * (2.0 * cfg.tolerance / radius) ** 2))
    tail = np.zeros(len(members) - 1)  # probability of 0, 1, ... n - 3, and of n - 2 and more hits
    tail[0] = 1.0
    for probability in sorted(hit)[2:]:  # two exposures are the seed's
        moved = tail * probability
        tail[:-1] -= moved[:-1]
        tail[1:] += moved[:-1]
    return float(seeds * tail[-1] / (len(members) * (len(members) - 1) / 2))


def _row(candidates: pd.DataFrame, points: _Points, line: _Line, chance: float, number: int) -> dict[str, object]:
    where = line.at(np.array([line.moment]))[0] / _RADIAN
    times = points.time[line.members]
    return {
        "track_id": f"track{number:05d}",
        "name": "",
        "detections": len(line.members),
        "candidate_ids": candidates["candidate_id"].to_numpy()[points.row[line.members]].tolist(),
        "mjd": line.moment / _HOURS,
        "s_ra": float(np.rad2deg(np.arctan2(where[1], where[0])) % 360.0),
        "s_dec": float(np.rad2deg(np.arcsin(where[2]))),
        "rate_ra": float(line.rate[0]),
        "rate_dec": float(line.rate[1]),
        "rate": float(np.hypot(*line.rate)),
        "position_angle": float(np.rad2deg(np.arctan2(line.rate[0], line.rate[1])) % 360.0),
        "rms": line.rms,
        "span": float(times[-1] - times[0]),
        "chance": chance,
    }


def _with_rates(asteroids: pd.DataFrame) -> pd.DataFrame:
    """The table in time order with every rate that it or its neighbouring row knows, and `rated`."""
    known = asteroids.sort_values(["name", "mjd"], kind="stable").reset_index(drop=True)
    place = sky_places(known["s_ra"].to_numpy(np.float64), known["s_dec"].to_numpy(np.float64))
    name, hours = known["name"].to_numpy(), known["mjd"].to_numpy(np.float64) * _HOURS
    motion = np.full((len(known), 3), np.nan)
    for step in (1, -1):
        other = np.arange(len(known)) + step
        there = (other >= 0) & (other < len(known))
        other = other.clip(0, len(known) - 1)
        span = hours[other] - hours
        use = there & (name[other] == name) & (span != 0) & ~np.isfinite(motion[:, 0])
        motion[use] = (place[other[use]] - place[use]) / span[use, None]
    a, d = np.deg2rad(known["s_ra"].to_numpy(np.float64)), np.deg2rad(known["s_dec"].to_numpy(np.float64))
    east = np.column_stack([-np.sin(a), np.cos(a), np.zeros(len(a))])
    north = np.column_stack([-np.sin(d) * np.cos(a), -np.sin(d) * np.sin(a), np.cos(d)])
    given = known["rate_ra"].to_numpy(np.float64)[:, None] * east + known["rate_dec"].to_numpy(np.float64)[:, None] * north
    motion = np.where(np.isfinite(given), given, motion)
    rated = np.isfinite(motion).all(axis=1)
    return known.assign(rated=rated, **{f"v{axis}": np.where(rated, motion[:, axis], 0.0) for axis in range(3)})


def _nearest_name(candidates: pd.DataFrame, known: pd.DataFrame, gap: Floats, cfg: MovingConfig) -> NDArray[np.object_]:
    place = sky_places(known["s_ra"].to_numpy(np.float64), known["s_dec"].to_numpy(np.float64))
    place = place + gap[:, None] * known[["v0", "v1", "v2"]].to_numpy(np.float64)
    place *= (_RADIAN / np.linalg.norm(place, axis=1))[:, None]
    radius = np.fmax(cfg.match_radius, cfg.match_sigma * known["error"].to_numpy(np.float64))
    seen = sky_places(candidates["s_ra"].to_numpy(np.float64), candidates["s_dec"].to_numpy(np.float64))
    names, best = np.full(len(seen), "", dtype=object), np.full(len(seen), np.inf)
    for row, members in enumerate(cKDTree(seen).query_ball_point(place, radius)):
        distance = np.linalg.norm(seen[members] - place[row], axis=1)
        nearer = np.array(members, dtype=np.int64)[distance < best[members]]
        best[nearer] = np.linalg.norm(seen[nearer] - place[row], axis=1)
        names[nearer] = str(known["name"].iloc[row])
    return names

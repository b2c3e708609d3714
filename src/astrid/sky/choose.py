"""Which observations of a manifest make pairs, before a byte of them is fetched, and why an event has none.

Science and reference are of one mission, instrument and filter; images of different missions are never subtracted. An
observation is taken by one file, that of the highest calibration level, with the companions that the file needs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from astrid.config.schema.archive import ChooseConfig
from astrid.config.schema.survey import PairRule
from astrid.io.archive_tables import CHOSEN
from astrid.io.tables import conform
from astrid.sky.footprints import forget, inside, overlap, parse_region

# What kept an event from a pair, in the order of the way there: the later one is named where groups ended differently.
WHYS = (
    "no date", "not asked", "no answer", "nothing in the archive", "too short", "no reference before", "no science in the window",
    "filters differ", "no overlap", "not inside", "not public", "too large", "beyond the budget", "not delivered", "download failed",
    "file broken", "header disagrees", "pairing refused",
)  # fmt: skip
PUBLIC = "public"
_Row = dict[str, Any]  # of the MANIFEST
_ORDER = ["object_id", "mission", "role", "obs_id", "filename"]
_MOST_TRIED = 40  # observations of either role that the sentence about a missing overlap looks at, the deepest
_CLEAR = re.compile(r"^(CLEAR\w*|NONE|OPEN|)$")
_BETWEEN = re.compile(r"[;,/+\s]+|-(?=F\d)")  # the elements of a filter's name: F606W;CLEAR2L, F444W;F405N, F555W-F606W


@dataclass(frozen=True, eq=False)
class Choice:
    """The files that are wanted, and how far the others came."""

    chosen: pd.DataFrame  # CHOSEN; sorted by object_id, mission, role, obs_id, filename
    fates: pd.DataFrame  # one row an event and mission of the manifest: object_id, mission, observations, chosen, why, reason


@dataclass(frozen=True)
class Fate:
    """Why there is no pair: one of `WHYS`, and the sentence."""

    why: str
    reason: str

    @property
    def rank(self) -> int:
        return WHYS.index(self.why)


@dataclass(frozen=True, eq=False)
class _Event:
    name: str
    ra: float
    dec: float
    discovery: float  # d, MJD
    precision: float = 0.0  # d, the discovery lies between `discovery` and so much later

    @property
    def slack(self) -> float:
        """d by which the discovery may be later than it is said; a date that names a day is taken as it is."""
        return max(self.precision - 1.0, 0.0) if np.isfinite(self.precision) else 0.0


def choose(manifest: pd.DataFrame | Iterable[pd.DataFrame], catalog: pd.DataFrame, cfg: ChooseConfig, pair: PairRule) -> Choice:
    """Choose science and reference observations of every event, mission, instrument and filter.

    Parameters
    ----------
    manifest
        MANIFEST rows, or tables of them, each with all rows of its events: one after the other is held in memory.
    catalog
        CATALOG rows; an event of the manifest that is not in it, or has no date, gets nothing.
    cfg, pair
        The windows, and the margins of the reference.

    Returns
    -------
    Choice
        The wanted files, and a row for every event and mission in the manifest, `why` and `reason` empty where files are wanted.
    """
    known = catalog.drop_duplicates("object_id").set_index("object_id")
    events = {
        str(row.Index): _Event(str(row.Index), row.s_ra, row.s_dec, row.discovery_mjd, row.discovery_precision)
        for row in known.itertuples()
    }
    tables: list[pd.DataFrame] = []
    fates: list[dict[str, object]] = []
    for part in [manifest] if isinstance(manifest, pd.DataFrame) else manifest:
        chosen, ended = _choose_part(part, events, cfg, pair)
        tables += [_table(chosen)] if chosen else []
        fates += ended
    columns = ["object_id", "mission", "observations", "chosen", "why", "reason"]
    return Choice(_sorted(pd.concat(tables, ignore_index=True)) if tables else _table([]), pd.DataFrame(fates, columns=columns))


def _choose_part(
    part: pd.DataFrame, events: Mapping[str, _Event], cfg: ChooseConfig, pair: PairRule
) -> tuple[list[_Row], list[dict[str, object]]]:
    """The wanted rows of some events, and a row of `Choice.fates` for each event and mission."""
    chosen: list[_Row] = []
    fates: list[dict[str, object]] = []
    for (name, mission), frame in part.groupby(["object_id", "mission"], sort=True):
        rows: list[_Row] = frame.to_dict("records")
        images = [row for row in rows if row["kind"] != "companion"]
        event = events.get(str(name))
        if event is None or not np.isfinite(event.discovery):
            wanted, fate = _undated(str(name))
        else:
            wanted, fate = _choose_event(images, event, cfg, pair, str(mission))
        files = [row for role, image in wanted for row in _with_companions(image, role, rows)]
        chosen += files
        row = {"object_id": name, "mission": mission, "observations": len({image["obs_id"] for image in images}), "chosen": len(files)}
        fates.append({**row, "why": fate.why if fate else "", "reason": fate.reason if fate else ""})
        _region_share.cache_clear()  # no other event has these footprints
        forget()
    return chosen, fates


def _undated(name: str) -> tuple[list[tuple[str, _Row]], Fate | None]:
    return [], Fate("no date", f"{name} has no discovery date, so that before and after cannot be told apart.")


def _table(rows: Sequence[_Row]) -> pd.DataFrame:
    frame = pd.DataFrame(list(rows), columns=[column.name for column in CHOSEN.columns])
    return conform(_sorted(frame.drop_duplicates(_ORDER)), CHOSEN, source="the choice")


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values(_ORDER, kind="stable", ignore_index=True)


def _with_companions(image: _Row, role: str, rows: Sequence[_Row]) -> list[_Row]:
    """The image and the companions of its observation and filter, with the role."""
    beside = [row for row in rows if row["kind"] == "companion" and (row["obs_id"], row["filter"]) == (image["obs_id"], image["filter"])]
    return [{**row, "role": role} for row in (image, *beside)]


def _choose_event(
    images: Sequence[_Row], event: _Event, cfg: ChooseConfig, pair: PairRule, mission: str
) -> tuple[list[tuple[str, _Row]], Fate | None]:
    """The wanted images with their roles, or the fate that came furthest."""
    if not images:
        return [], Fate("nothing in the archive", f"the archive names no image of {mission} at {event.name}.")
    wanted: list[tuple[str, _Row]] = []
    fates: list[Fate] = []
    groups = [_Group(rows, event, cfg, pair) for rows in _groups(images)]
    for group in groups:
        found = group.wanted()
        wanted += found
        if not found:
            fates.append(group.fate(mission))
    if wanted:
        return wanted, None
    differ = _differing(groups, event, mission)
    return [], max([*fates, *([differ] if differ else [])], key=lambda fate: fate.rank)


def _groups(images: Sequence[_Row]) -> Iterator[list[_Row]]:
    """The images by instrument and filter, one an observation: a public one, of the highest level, the longest."""
    groups: dict[tuple[str, str], dict[str, _Row]] = {}
    for row in sorted(images, key=lambda row: (not _public(row), -row["calib_level"], -_seconds(row), row["filename"])):
        groups.setdefault((row["instrument"].lower(), filter_key(row["filter"])), {}).setdefault(row["obs_id"], row)
    for key in sorted(groups):
        yield list(groups[key].values())


def _public(row: _Row) -> bool:
    return bool(row["rights"].lower() == PUBLIC)


def _seconds(row: _Row) -> float:
    return float(row["exptime"]) if np.isfinite(row["exptime"]) else 0.0


def _end(row: _Row) -> float:
    return float(row["t_max"] if np.isfinite(row["t_max"]) else row["t_min"])


@lru_cache(maxsize=4096)
def filter_key(name: str) -> str:
    """One spelling of a filter's name: lower case, its elements in order, without those that are clear.

    "CLEAR1L;F814W" and "F814W;CLEAR2L" are "f814w", "F444W;F405N" and "F405N;F444W" are "f405n+f444w"; clear alone is "clear".
    """
    words = [word.split(".")[0] for word in _BETWEEN.split(re.sub(r"\bN/A\b", "", name.strip().upper()))]
    key = "+".join(sorted({word for word in words if not _CLEAR.match(word)})).lower()
    return key or ("clear" if any(word.startswith("CLEAR") for word in words) else name.strip().lower())


@lru_cache(maxsize=8192)
def _region_share(one: str, other: str) -> float:
    first, second = parse_region(one), parse_region(other)
    return overlap(first, second) if first and second else 1.0


def _separation(ra: float, dec: float, other_ra: float, other_dec: float) -> float:
    """Angle (arcsec) between two positions in degrees, by the haversine formula."""
    one, two = math.radians(dec), math.radians(other_dec)
    chord = math.sin((two - one) / 2) ** 2 + math.cos(one) * math.cos(two) * math.sin(math.radians(other_ra - ra) / 2) ** 2
    return math.degrees(2 * math.asin(math.sqrt(min(max(chord, 0.0), 1.0)))) * 3600.0


class _Group:
    """The observations of one event, mission, instrument and filter."""

    def __init__(self, rows: Sequence[_Row], event: _Event, cfg: ChooseConfig, pair: PairRule) -> None:
        self.rows, self.event, self.cfg, self.pair = rows, event, cfg, pair
        self.filter = str(rows[0]["filter"])
        self.long = [row for row in rows if _seconds(row) >= cfg.min_exptime]
        first, last = event.discovery + event.slack + cfg.science_from, event.discovery + cfg.science_until
        self.science = sorted((row for row in self.long if row["t_min"] >= first and _end(row) <= last), key=self._deepest)
        before = [row for row in self.long if _end(row) <= event.discovery - pair.discovery_margin]
        self.references = sorted(before, key=self._latest if pair.prefer == "latest" else self._deepest)

    @staticmethod
    def _deepest(row: _Row) -> tuple[float, float, str]:
        return -_seconds(row), float(row["t_min"]), str(row["obs_id"])

    @staticmethod
    def _latest(row: _Row) -> tuple[float, float, str]:
        return -float(row["t_min"]), -_seconds(row), str(row["obs_id"])

    def wanted(self) -> list[tuple[str, _Row]]:
        """Science images and references that make pairs; none where there is no pair."""
        return self._wanted([row for row in self.science if _public(row)], [row for row in self.references if _public(row)])

    def _wanted(self, science: Sequence[_Row], references: Sequence[_Row]) -> list[tuple[str, _Row]]:
        limit = 1 if self.cfg.take == "best" else self.cfg.max_science or len(science)
        kept = [row for row in references if self._holds(row)] if science else []
        images: list[_Row] = []
        taken: list[_Row] = []
        for image in science:
            if len(images) == limit or not kept:
                break
            if not self._holds(image):
                continue
            if not any(self._match(image, reference) for reference in taken):
                another = next((reference for reference in kept if self._match(image, reference)), None)
                if another is None or len(taken) == self.cfg.references:
                    continue
                taken.append(another)
            images.append(image)
        for reference in kept if images else []:  # further references, as many as are wanted
            new = all(reference["obs_id"] != other["obs_id"] for other in taken)
            if len(taken) < self.cfg.references and new and any(self._match(image, reference) for image in images):
                taken.append(reference)
        return [*(("science", image) for image in images), *(("reference", reference) for reference in taken)]

    def _holds(self, row: _Row) -> bool:
        """Whether the event lies inside; where the footprint is unknown, whether it is near enough to the centre."""
        footprint = parse_region(str(row["s_region"]))
        if footprint:
            return inside(footprint, self.event.ra, self.event.dec, self.cfg.edge)
        return self._away(row) <= self.pair.event_radius

    def _away(self, row: _Row) -> float:
        return _separation(self.event.ra, self.event.dec, row["s_ra"], row["s_dec"])

    def _match(self, image: _Row, reference: _Row) -> bool:
        older = _end(reference) <= image["t_min"] - self.pair.min_days
        return older and self._apart(image, reference) <= self.pair.max_separation and self._share(image, reference) >= self.cfg.min_overlap

    def _apart(self, image: _Row, reference: _Row) -> float:
        return _separation(image["s_ra"], image["s_dec"], reference["s_ra"], reference["s_dec"])

    def _share(self, image: _Row, reference: _Row) -> float:
        """Share of the smaller footprint that both cover; 1 where one is unknown, so that the centres' distance decides alone."""
        return _region_share(str(image["s_region"]), str(reference["s_region"]))

    def fate(self, mission: str) -> Fate:
        """Why this group has no pair."""
        label = f"{mission} {self.filter}".strip()
        if not self.long:
            longest = max(_seconds(row) for row in self.rows)
            most = f"the longest has {longest:g} s" if longest else "their exposure times are unknown"
            text = (
                f"none of {len(self.rows)} observations in {label} lasts {self.cfg.min_exptime:g} s; {most} "
                "(survey.archive.choose.min_exptime)."
            )
            return Fate("too short", text)
        if not self.references:
            return Fate("no reference before", self._no_reference(label))
        if not self.science:
            return Fate("no science in the window", self._no_science(label))
        if self._wanted(self.science, self.references):
            rights = sorted({str(row["rights"]) for row in (*self.science, *self.references) if not _public(row)})
            return Fate(
                "not public", f"the pair in {label} is not public ({', '.join(rights) or 'no rights are given'}); ask again when it is."
            )
        return self._apart_fate(label)

    def _no_reference(self, label: str) -> str:
        margin = self.pair.discovery_margin
        first = min(float(row["t_min"]) for row in self.long) - self.event.discovery
        return (
            f"no observation in {label} ended {margin:g} d before the discovery; the first of {len(self.long)} began {abs(first):.1f} d "
            f"{'before' if first < 0 else 'after'} it (survey.pair.discovery_margin)."
        )

    def _no_science(self, label: str) -> str:
        window = f"{self.cfg.science_from:g} to {self.cfg.science_until:g} d from the discovery"
        after = [float(row["t_min"]) - self.event.discovery for row in self.long]
        later = [days for days in after if days >= self.cfg.science_from]
        nearest = min(later) if later else max(after)
        return (
            f"{len(self.references)} references in {label}, but no observation {window}; the nearest began at {nearest:+.1f} d "
            f"(survey.archive.choose.science_until){self._imprecise()}."
        )

    def _imprecise(self) -> str:
        slack = self.event.slack
        return f"; its date is good to {self.event.precision:g} d only, so that the window begins as much later" if slack else ""

    def _apart_fate(self, label: str) -> Fate:
        pairs = [(one, other) for one in self.science[:_MOST_TRIED] for other in self.references[:_MOST_TRIED]]
        shares = [self._share(one, other) for one, other in pairs]
        distances = [self._apart(one, other) for one, other in pairs]
        near = [share >= self.cfg.min_overlap and away <= self.pair.max_separation for share, away in zip(shares, distances, strict=True)]
        if not any(near):
            best = int(np.argmax([share - (away > self.pair.max_separation) for share, away in zip(shares, distances, strict=True)]))
            text = (
                f"{len(self.science)} science images and {len(self.references)} references in {label} do not share enough sky: at best "
                f"{shares[best]:.0%} of the smaller, centres {distances[best]:.0f} arcsec apart (survey.archive.choose.min_overlap, "
                "survey.pair.max_separation)."
            )
            return Fate("no overlap", text)
        if any(self._holds(one) and self._holds(other) for (one, other), good in zip(pairs, near, strict=True) if good):
            text = (
                f"no reference in {label} is {self.pair.min_days:g} d older than a science image that it shares sky with "
                "(survey.pair.min_days)."
            )
            return Fate("no reference before", text)
        outside = "science images" if not any(self._holds(row) for row in self.science) else "references"
        text = (
            f"the event does not lie {self.cfg.edge:g} arcsec inside the {outside} in {label} that overlap "
            "(survey.archive.choose.edge; survey.pair.event_radius where the footprint is unknown)."
        )
        return Fate("not inside", text)


def _differing(groups: Sequence[_Group], event: _Event, mission: str) -> Fate | None:
    """Where references and science images are there, but in no filter both."""
    before = sorted({group.filter for group in groups if len(group.references)})
    after = sorted({group.filter for group in groups if len(group.science)})
    both = any(len(group.references) and len(group.science) for group in groups)
    if both or not before or not after:
        return None
    text = f"{mission} has references of {event.name} in {', '.join(before)} and science images in {', '.join(after)}, in no filter both."
    return Fate("filters differ", text)

"""Labels from every source that speaks about a candidate, and the one that wins.

Truth, injections, catalogues, evidence, people and weak sources each write rows of a LABELS table; `winners` settles conflicts in
the order of `PRECEDENCE`. A candidate about which nothing is known stays unlabelled (-1): it is never assumed to be bogus.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astrid.core.errors import DataSetError
from astrid.datasets import identity
from astrid.datasets.kinds import ARTEFACT_KINDS as ARTEFACT_KINDS
from astrid.datasets.kinds import BOGUS as BOGUS
from astrid.datasets.kinds import ENUMERATED, KIND_OF_TAG, MOVING, NOISE, SKY_KINDS
from astrid.datasets.kinds import REAL as REAL
from astrid.datasets.kinds import UNLABELLED as UNLABELLED
from astrid.datasets.precedence import PRECEDENCE as PRECEDENCE
from astrid.datasets.precedence import conflict_counts, conflicts
from astrid.datasets.precedence import winners as winners
from astrid.datasets.truth import TruthMatch, match_radius, match_truth, vectors
from astrid.io.tables import CANDIDATES, CATALOG, LABELS, PAIRS, TRUTH, conform

if TYPE_CHECKING:
    from astrid.config.schema.dataset import DatasetConfig

_OWN_SHARE = 0.5  # of a detection's significance that must be the true source's own where an artefact lies over it
TRUTH_TABLE = "truth table"  # annotator of labels that a truth row gives
UNMATCHED = "no match in a complete truth table"  # annotator of the bogus that nothing in the truth explains

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Labelled:
    """What `label_candidates` found."""

    labels: pd.DataFrame  # LABELS: every row of every source
    columns: pd.DataFrame  # candidate_id, label, label_source, kind, event_id, cell_id, true_snr; the candidates' order
    counts: dict[str, int]  # how many rows each source gave, what was left unlabelled and why


def label_candidates(
    candidates: pd.DataFrame,
    truth: pd.DataFrame,
    pairs: pd.DataFrame,
    catalog: pd.DataFrame,
    human: pd.DataFrame,
    cfg: DatasetConfig,
) -> Labelled:
    """Label candidates from every source and say who they are on the sky.

    Parameters
    ----------
    candidates, truth, pairs, catalog, human
        Tables CANDIDATES, TRUTH, PAIRS, CATALOG and LABELS; each but the first may be empty.
    cfg
        Radii, significance and confidences.

    Notes
    -----
    *Truth*: the true flux difference at a candidate is the flux of each sky object within the match radius in the science
    exposure minus its flux in the reference, on the science exposure's zero-point (an absent row is no flux). A candidate is
    real when that difference has its sign and at least `min_true_snr` sigma; a moving object is real, of the kind "moving".
    One at the position of a fainter or opposite difference, or in the surroundings of a significant one, stays unlabelled. An
    artefact's row gives a bogus of its kind where no source is, if its light can have made the detection: it must have the
    detection's sign and, where the table gives its PSF flux, at least half of its own. A source that gives less than half of a
    detection's significance under an artefact stays unlabelled. What is left is bogus where the truth of the exposure is
    complete, which it is when the table has any row other than an injection for it; its kind is then read off its tags, but
    never one of which the table lists every case: what looks as sharp as a cosmic ray where none fell is something else.
    *Catalogue*: only where the truth is not complete; the source must have been there (from `catalog_margin` days before
    its discovery on) in the exposure that the candidate's sign points to.
    *Given* (`human`: labels of people, evidence, weak scores): by name, or by place where a row has one.

    Raises `DataSetError` for a doubled candidate_id, an unknown pair, or a label that is neither 0 nor 1, and `InputError` for
    a table that lacks a required column.
    """
    candidates = conform(candidates, CANDIDATES, source="the candidates")
    truth, pairs = conform(truth, TRUTH, source="the truth table"), conform(pairs, PAIRS, source="the pairs")
    catalog, human = conform(catalog, CATALOG, source="the catalogue"), conform(human, LABELS, source="the human labels")
    _check(candidates, pairs, human)
    _check_truth(truth)
    for name, frame in (("truth table", truth), ("catalogue", catalog)):
        _check_places(frame, name)
    cells = identity.sky_cells(candidates["s_ra"].to_numpy(), candidates["s_dec"].to_numpy(), size=cfg.cell_size)
    match = match_truth(candidates, truth, cfg)
    complete = candidates["exposure_id"].isin(truth.loc[truth["kind"] != "injected", "exposure_id"].unique()).to_numpy()
    found = _match_catalog(candidates, pairs, catalog, cfg)
    given = _placed(human, candidates, cfg.min_match_radius)
    sources = [
        _truth_rows(candidates, match, complete, cfg),
        _catalog_rows(candidates, catalog, np.where(complete, -1, found), cfg),
        _evidence_rows(candidates, complete, cfg),
        given,
    ]
    labels = conform(pd.concat([rows for rows in sources if len(rows)] or [LABELS.empty()]), LABELS, source="the labels")
    won = winners(labels).reindex(candidates["candidate_id"])
    columns = pd.DataFrame(
        {
            "candidate_id": candidates["candidate_id"],
            "label": won["label"].fillna(UNLABELLED).astype("int64").to_numpy(),
            "label_source": won["source"].fillna("").to_numpy(dtype=object),
            "kind": won["transient_type"].fillna("").to_numpy(dtype=object),
            "event_id": _events(candidates, truth, catalog, match, found, cfg),
            "cell_id": cells,
            "true_snr": match.true_snr,
        }
    )
    return Labelled(labels, columns, _counts(labels, columns, match, len(human) - len(given)))


def _check(candidates: pd.DataFrame, pairs: pd.DataFrame, human: pd.DataFrame) -> None:
    twice = candidates["candidate_id"][candidates["candidate_id"].duplicated()]
    if len(twice):
        raise DataSetError(f"{len(twice)} candidate_ids stand on more than one row, {twice.iloc[0]!r} first; keep one row each.")
    unknown = candidates["pair_id"][~candidates["pair_id"].isin(pairs["pair_id"])]
    if len(unknown):
        raise DataSetError(f"{len(unknown)} candidates belong to no known pair, {unknown.iloc[0]!r} first; run the stage detect again.")
    winners(human)  # a broken row is refused even when its candidate is not in this data set


def _check_truth(truth: pd.DataFrame) -> None:
    unknown = sorted(set(truth["kind"]) - {*SKY_KINDS, *ARTEFACT_KINDS})
    if unknown:
        count = int(truth["kind"].isin(unknown).sum())
        known = ", ".join((*SKY_KINDS, *ARTEFACT_KINDS))
        raise DataSetError(f"{count} rows of the truth table are of the unknown kind {unknown[0]!r}; use one of {known}.")


def _check_places(frame: pd.DataFrame, name: str) -> None:
    lost = int((~np.isfinite(frame[["s_ra", "s_dec"]].to_numpy(dtype=np.float64))).any(axis=1).sum())
    if lost:
        raise DataSetError(f"{lost} of {len(frame)} rows of the {name} have no position; give finite s_ra and s_dec.")


def _placed(given: pd.DataFrame, candidates: pd.DataFrame, radius: float) -> pd.DataFrame:
    """The given labels whose candidate is here, under its present name.

    A label that carries a place belongs to the nearest candidate of its pair within `radius` pixels, whatever number that has now.
    """
    place = given[["x", "y"]].to_numpy(dtype=np.float64)
    names = given["candidate_id"].to_numpy(dtype=object).copy()
    located = np.isfinite(place).all(axis=1)
    pair = [str(name).rpartition(":")[0] for name in names]
    groups = candidates.groupby("pair_id").indices
    for row in np.flatnonzero(located):
        others = candidates.iloc[groups.get(pair[row], [])]
        distance = np.hypot(others["x"] - place[row, 0], others["y"] - place[row, 1]).to_numpy()
        near = len(distance) > 0 and distance.min() <= radius
        names[row] = others["candidate_id"].iloc[int(distance.argmin())] if near else ""
    moved = given.assign(candidate_id=names)
    return moved[moved["candidate_id"].isin(candidates["candidate_id"])]


def _rows(
    candidates: pd.DataFrame, chosen: NDArray[np.bool_], label: int, kind: Any, source: Any, annotator: Any, confidence: float
) -> pd.DataFrame:
    """LABELS rows for the chosen candidates; `kind`, `source` and `annotator` are one value or an array of the candidates' length."""
    values = {"label": label, "transient_type": kind, "source": source, "annotator": annotator, "confidence": confidence, "time": ""}
    frame = pd.DataFrame({"candidate_id": candidates["candidate_id"], **values})
    return frame[chosen]


def _truth_rows(candidates: pd.DataFrame, match: TruthMatch, complete: NDArray[np.bool_], cfg: DatasetConfig) -> pd.DataFrame:
    there = np.nan_to_num(match.true_snr, nan=-np.inf) >= cfg.min_true_snr
    # An artefact over a faint source: the light is mostly the artefact's, yet the source is there. Neither label would be right.
    mixed = there & (match.artefact != "") & (match.true_snr < _OWN_SHARE * candidates["snr"].to_numpy())
    real = there & ~mixed
    artefact = ~there & (match.artefact != "")
    left = ~there & ~artefact & (match.object_id == "") & ~match.ambiguous & complete & cfg.unmatched_are_bogus
    kind = np.where(match.sky_kind == "asteroid", MOVING, np.where(match.transient_type != "", match.transient_type, match.sky_kind))
    source = np.where(match.sky_kind == "injected", "injection", "truth")
    rows = [
        _rows(candidates, real, REAL, kind, source, TRUTH_TABLE, 1.0),
        _rows(candidates, artefact, BOGUS, match.artefact, "truth", TRUTH_TABLE, 1.0),
        _rows(candidates, left, BOGUS, _tag_kinds(candidates, besides=ENUMERATED), "truth", UNMATCHED, 1.0),
    ]
    return pd.concat(rows)


def _tag_kinds(candidates: pd.DataFrame, *, besides: tuple[str, ...] = ()) -> NDArray[np.object_]:
    """The kind that each candidate's most telling tag names, but for the kinds `besides`; noise without a tag."""

    def kind(tags: Any) -> str:
        present = set(tags) if tags is not None else set()
        return next((name for tag, name in KIND_OF_TAG.items() if tag in present and name not in besides), NOISE)

    return np.array([kind(tags) for tags in candidates["tags"]], dtype=object)


def _evidence_rows(candidates: pd.DataFrame, complete: NDArray[np.bool_], cfg: DatasetConfig) -> pd.DataFrame:
    wanted = set(cfg.evidence_tags)
    tagged = np.array([tags is not None and bool(wanted & set(tags)) for tags in candidates["tags"]], dtype=bool)
    return _rows(candidates, tagged & ~complete, BOGUS, _tag_kinds(candidates), "evidence", "artefact tags", cfg.evidence_confidence)


def _match_catalog(candidates: pd.DataFrame, pairs: pd.DataFrame, catalog: pd.DataFrame, cfg: DatasetConfig) -> NDArray[np.int64]:
    """Row of the catalogue that explains each candidate, -1 without: (n,)."""
    found = np.full(len(candidates), -1, dtype=np.int64)
    if not len(catalog) or not len(candidates):
        return found
    from scipy.spatial import cKDTree

    chord = 2 * np.sin(np.radians(cfg.catalog_radius / 3600) / 2)
    distance, nearest = cKDTree(vectors(catalog)).query(vectors(candidates), distance_upper_bound=chord)
    near = np.isfinite(distance)
    since = catalog["discovery_mjd"].to_numpy()[np.where(near, nearest, 0)] - cfg.catalog_margin
    reference = pairs.drop_duplicates("pair_id").set_index("pair_id")["reference_mjd"].loc[candidates["pair_id"]].to_numpy()
    shown = np.where(candidates["sign"] > 0, candidates["mjd"], reference)  # the exposure in which it is the brighter
    found[near & (shown >= since)] = nearest[near & (shown >= since)]
    return found


def _catalog_rows(candidates: pd.DataFrame, catalog: pd.DataFrame, found: NDArray[np.int64], cfg: DatasetConfig) -> pd.DataFrame:
    if not (found >= 0).any():
        return LABELS.empty()
    kind = catalog["transient_type"].to_numpy(dtype=object)[found]
    origin = catalog["source"].to_numpy(dtype=object)[found]
    return _rows(candidates, found >= 0, REAL, kind, "catalogue", origin, cfg.catalog_confidence)


def _events(
    candidates: pd.DataFrame, truth: pd.DataFrame, catalog: pd.DataFrame, match: TruthMatch, found: NDArray[np.int64], cfg: DatasetConfig
) -> NDArray[np.object_]:
    """The event of each candidate: its truth object, the known object at its place in any epoch, or its cluster over epochs."""
    events = np.where(match.object_id != "", match.object_id, "")
    if len(catalog):
        events = np.where((events == "") & (found >= 0), catalog["object_id"].to_numpy(dtype=object)[found], events)
    resting = truth[truth["kind"].isin(SKY_KINDS) & (truth["kind"] != "asteroid")]
    shown = resting.groupby("exposure_id").indices
    for survey, where in _by_field(candidates):
        chosen = candidates.iloc[where]
        radius = match_radius(chosen, cfg.match_radius_fwhm, cfg)
        open_rows = where[events[where] == ""]
        images = pd.concat([chosen["exposure_id"], chosen["reference_id"]]).unique()
        known = _known_objects(resting.iloc[_together(shown, images)], catalog)
        if len(known) and len(open_rows):
            events[open_rows] = _at_known(candidates.iloc[open_rows], known, radius[events[where] == ""])
            open_rows = open_rows[events[open_rows] == ""]
        rows = candidates.iloc[open_rows]
        numbers = identity.clusters(rows["s_ra"].to_numpy(), rows["s_dec"].to_numpy(), radius=float(np.median(radius)))
        if len(rows):
            events[open_rows] = [f"{survey}@{name}" for name in identity.first_names(numbers, rows["candidate_id"])]
    return events


def _by_field(candidates: pd.DataFrame) -> Iterator[tuple[str, NDArray[Any]]]:
    for (survey, _), where in candidates.groupby(["survey", "field_id"]).indices.items():
        yield str(survey), where


def _together(rows_of: Mapping[str, NDArray[np.intp]], names: Iterable[str]) -> NDArray[np.intp]:
    """The rows of all names, ascending."""
    return np.sort(np.concatenate([np.empty(0, dtype=np.intp), *(rows_of[name] for name in names if name in rows_of)]))


def _known_objects(resting: pd.DataFrame, catalog: pd.DataFrame) -> pd.DataFrame:
    """Places of objects that do not move: those of TRUTH rows `resting`, and of the catalogue."""
    columns = ["object_id", "s_ra", "s_dec"]
    return pd.concat([resting.drop_duplicates("object_id")[columns], catalog[columns]]).drop_duplicates("object_id").reset_index(drop=True)


def _at_known(rows: pd.DataFrame, known: pd.DataFrame, radius: Floats) -> NDArray[np.object_]:
    from scipy.spatial import cKDTree

    chord, nearest = cKDTree(vectors(known)).query(vectors(rows))
    near = chord <= 2 * np.sin(np.radians(radius / 3600) / 2)
    return np.where(near, known["object_id"].to_numpy(dtype=object)[nearest], "")


def _counts(labels: pd.DataFrame, columns: pd.DataFrame, match: TruthMatch, lost: int) -> dict[str, int]:
    unlabelled = (columns["label"] == UNLABELLED).to_numpy()
    at_truth = match.object_id != ""
    against = conflicts(labels)
    return {
        **{f"source_{name}": int((labels["source"] == name).sum()) for name in PRECEDENCE},
        "unlabelled": int(unlabelled.sum()),
        "unlabelled_faint_or_opposite_truth": int((unlabelled & at_truth).sum()),
        "unlabelled_near_bright_truth": int((unlabelled & ~at_truth & match.ambiguous).sum()),
        "conflicts": len(against),
        **{f"conflict_{name.replace(' ', '_')}": count for name, count in conflict_counts(against).items()},
        "human_without_candidate": lost,
    }

"""Labels from every source that speaks about a candidate, and the one that wins.

Truth, injections, catalogues, evidence, people and weak sources each write rows of a LABELS table; `winners` settles conflicts in
the order of `PRECEDENCE`. A candidate about which nothing is known stays unlabelled (-1): it is never assumed to be bogus.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astrid.core.errors import DataSetError
from astrid.datasets import identity
from astrid.io.tables import CANDIDATES, CATALOG, LABELS, PAIRS, TRUTH, conform

if TYPE_CHECKING:
    from astrid.config.schema.dataset import DatasetConfig

REAL, BOGUS, UNLABELLED = 1, 0, -1
PRECEDENCE = ("human", "injection", "truth", "catalogue", "evidence", "weak")  # the first that speaks wins

SKY_KINDS = ("supernova", "variable", "asteroid", "injected")  # of a truth row: light from the sky
ARTEFACT_KINDS = ("cosmic_ray", "satellite_trail", "hot_pixel", "bleed", "ghost")
# Bogus kind of a tag, the most telling one first; a bogus without a tag is noise.
KIND_OF_TAG = {
    "cosmic_ray": "cosmic_ray",
    "trail": "satellite_trail",
    "hot_pixel": "hot_pixel",
    "saturated": "saturation",
    "dipole": "dipole",
    "residual": "residual",
    "ghost": "ghost",
    "edge": "edge",
    "extended": "extended",
}
_NOISE = "noise"
_MOVING = "moving"

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Labelled:
    """What `label_candidates` found."""

    labels: pd.DataFrame  # LABELS: every row of every source
    columns: pd.DataFrame  # candidate_id, label, label_source, kind, event_id, cell_id, true_snr; the candidates' order
    counts: dict[str, int]  # how many rows each source gave, what was left unlabelled and why


@dataclass(frozen=True, eq=False)
class _PairMatch:
    """Truth at the candidates of one pair; arrays of (n,)."""

    object_id: NDArray[np.object_]  # nearest sky object within the radius that fits best; "" without
    sky_kind: NDArray[np.object_]
    transient_type: NDArray[np.object_]
    true_snr: Floats  # true flux difference in the candidate's sign over flux_err; NaN without an object
    artefact: NDArray[np.object_]  # kind of the nearest artefact within the radius; "" without
    ambiguous: NDArray[np.bool_]  # a significant sky object sits outside the radius, but near


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
    artefact's row gives a bogus of its kind. What is left is bogus where the truth of the exposure is complete, which it is
    when the table has any row other than an injection for it.
    *Catalogue*: only where the truth is not complete; the source must have been there (from `catalog_margin` days before
    its discovery on) in the exposure that the candidate's sign points to.

    Raises `DataSetError` for a doubled candidate_id, an unknown pair, or a label that is neither 0 nor 1, and `InputError` for
    a table that lacks a required column.
    """
    candidates = conform(candidates, CANDIDATES, source="the candidates")
    truth, pairs = conform(truth, TRUTH, source="the truth table"), conform(pairs, PAIRS, source="the pairs")
    catalog, human = conform(catalog, CATALOG, source="the catalogue"), conform(human, LABELS, source="the human labels")
    _check(candidates, pairs, human)
    for name, frame in (("truth table", truth), ("catalogue", catalog)):
        _check_places(frame, name)
    cells = identity.sky_cells(candidates["s_ra"].to_numpy(), candidates["s_dec"].to_numpy(), size=cfg.cell_size)
    match = _match_truth(candidates, truth, cfg)
    complete = candidates["exposure_id"].isin(truth["exposure_id"][truth["kind"] != "injected"]).to_numpy()
    found = _match_catalog(candidates, pairs, catalog, cfg)
    sources = [
        _truth_rows(candidates, match, complete, cfg),
        _catalog_rows(candidates, catalog, np.where(complete, -1, found), cfg),
        _evidence_rows(candidates, complete, cfg),
        human[human["candidate_id"].isin(candidates["candidate_id"])],
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
    return Labelled(labels, columns, _counts(labels, columns, match, human))


def winners(labels: pd.DataFrame) -> pd.DataFrame:
    """The label that counts of each candidate, indexed by candidate_id.

    A source earlier in `PRECEDENCE` wins; within a source the later time, then the higher confidence, then the later row.
    Raises `DataSetError` for a source or label that is not known.
    """
    unknown = sorted(set(labels["source"]) - set(PRECEDENCE))
    if unknown:
        raise DataSetError(f"{unknown[0]!r} is no source of labels; use one of {', '.join(PRECEDENCE)}.")
    wrong = labels[~labels["label"].isin((REAL, BOGUS))]
    if len(wrong):
        first = wrong.iloc[0]
        raise DataSetError(f"{len(wrong)} labels are neither 1 nor 0, {first['label']} for {first['candidate_id']} first; correct them.")
    ordered = labels.assign(_rank=labels["source"].map(PRECEDENCE.index), _row=np.arange(len(labels)))
    ordered = ordered.sort_values(["_rank", "time", "confidence", "_row"], ascending=[True, False, False, False], kind="stable")
    return ordered.drop_duplicates("candidate_id").set_index("candidate_id").drop(columns=["_rank", "_row"])


def _check(candidates: pd.DataFrame, pairs: pd.DataFrame, human: pd.DataFrame) -> None:
    twice = candidates["candidate_id"][candidates["candidate_id"].duplicated()]
    if len(twice):
        raise DataSetError(f"{len(twice)} candidate_ids stand on more than one row, {twice.iloc[0]!r} first; keep one row each.")
    unknown = candidates["pair_id"][~candidates["pair_id"].isin(pairs["pair_id"])]
    if len(unknown):
        raise DataSetError(f"{len(unknown)} candidates belong to no known pair, {unknown.iloc[0]!r} first; run the stage detect again.")
    winners(human)  # a broken row is refused even when its candidate is not in this data set


def _check_places(frame: pd.DataFrame, name: str) -> None:
    lost = int((~np.isfinite(frame[["s_ra", "s_dec"]].to_numpy(dtype=np.float64))).any(axis=1).sum())
    if lost:
        raise DataSetError(f"{lost} of {len(frame)} rows of the {name} have no position; give finite s_ra and s_dec.")


def _match_truth(candidates: pd.DataFrame, truth: pd.DataFrame, cfg: DatasetConfig) -> _PairMatch:
    count = len(candidates)
    text = [np.full(count, "", dtype=object) for _ in range(4)]
    out = _PairMatch(text[0], text[1], text[2], np.full(count, np.nan), text[3], np.zeros(count, dtype=bool))
    if not len(truth):
        return out
    rows_of = {str(name): rows for name, rows in truth.groupby("exposure_id")}
    none = truth.iloc[:0]
    zero_points = {name: _zero_point(rows) for name, rows in rows_of.items()}
    for (science, reference), where in candidates.groupby(["exposure_id", "reference_id"]).indices.items():
        here, there = rows_of.get(science, none), rows_of.get(reference, none)
        if len(here) or len(there):
            ratio = 10 ** (0.4 * (zero_points.get(science, np.nan) - zero_points.get(reference, np.nan)))
            there = there.assign(flux=there["flux"] * (ratio if np.isfinite(ratio) else 1.0))
            _match_pair(candidates.iloc[where], here, there, cfg, out, where)
    return out


def _zero_point(rows: pd.DataFrame) -> float:
    """AB magnitude of unit flux in an exposure, from its own sky rows; NaN when none has a magnitude."""
    usable = rows[rows["kind"].isin(SKY_KINDS) & (rows["flux"] > 0) & np.isfinite(rows["magnitude"])]
    return float((usable["magnitude"] + 2.5 * np.log10(usable["flux"])).median()) if len(usable) else float("nan")


def _match_pair(
    chosen: pd.DataFrame, here: pd.DataFrame, there: pd.DataFrame, cfg: DatasetConfig, out: _PairMatch, where: NDArray[Any]
) -> None:
    radius = _radius(chosen, cfg.match_radius_fwhm, cfg)
    to_here, to_there = _distances(chosen, here, pixels=True), _distances(chosen, there, pixels=False)
    artefact = np.concatenate([here["kind"].isin(ARTEFACT_KINDS), there["kind"].isin(ARTEFACT_KINDS)])
    kinds = np.concatenate([here["kind"], there["kind"]])[artefact]
    if len(kinds):
        distance = np.concatenate([to_here, to_there], axis=1)[:, artefact]
        out.artefact[where] = np.where(distance.min(axis=1) <= radius, kinds[distance.argmin(axis=1)], "")
    sky_here, sky_there = here["kind"].isin(SKY_KINDS).to_numpy(), there["kind"].isin(SKY_KINDS).to_numpy()
    here, there, to_here, to_there = here[sky_here], there[sky_there], to_here[:, sky_here], to_there[:, sky_there]
    if not len(here) + len(there):
        return
    objects = pd.concat([here, there]).drop_duplicates("object_id").reset_index(drop=True)
    near, difference = _differences(to_here, to_there, here, there, objects, radius)
    error = chosen["flux_err"].to_numpy()
    error = np.where(error > 0, error, np.nan)
    snr = difference * (chosen["sign"].to_numpy() / error)[:, None]
    best = np.where(near, np.nan_to_num(snr, nan=0.0), -np.inf).argmax(axis=1)
    has, rows = near.any(axis=1), np.arange(len(chosen))
    for column, target in (("object_id", out.object_id), ("kind", out.sky_kind), ("transient_type", out.transient_type)):
        target[where] = np.where(has, objects[column].to_numpy(dtype=object)[best], "")
    out.true_snr[where] = np.where(has, snr[rows, best], np.nan)
    wide = _radius(chosen, max(cfg.ambiguous_radius_fwhm, cfg.match_radius_fwhm), cfg)
    around, difference = _differences(to_here, to_there, here, there, objects, wide)
    out.ambiguous[where] = (around & (np.abs(difference) >= cfg.min_true_snr * error[:, None])).any(axis=1)


def _radius(chosen: pd.DataFrame, scale: float, cfg: DatasetConfig) -> Floats:
    """Radius of each candidate, arcsec: `scale` PSF FWHM, and not below the floor (nor without a known FWHM)."""
    pixels = np.fmax(scale * chosen["psf_fwhm"].to_numpy(), cfg.min_match_radius)
    return np.asarray(pixels * _pixel_scale(chosen))


def _pixel_scale(chosen: pd.DataFrame) -> Floats:
    scale = chosen["pixel_scale"].to_numpy()
    if not (scale > 0).all():
        raise DataSetError(f"{int((~(scale > 0)).sum())} candidates of {chosen['pair_id'].iloc[0]} have no pixel_scale; run detect again.")
    return np.asarray(scale)


def _distances(chosen: pd.DataFrame, rows: pd.DataFrame, *, pixels: bool) -> Floats:
    """Separations in arcsec (n, m): on the detector where the rows share the candidates' grid, else on the sky.

    Pixels are exact where the header's WCS is not; a row without x and y falls back to the sky.
    """
    sky = identity.separations(_vectors(chosen), _vectors(rows))
    if not pixels:
        return sky
    x, y = rows["x"].to_numpy(), rows["y"].to_numpy()
    detector = np.hypot(chosen["x"].to_numpy()[:, None] - x, chosen["y"].to_numpy()[:, None] - y) * _pixel_scale(chosen)[:, None]
    return np.where(np.isfinite(detector), detector, sky)


def _vectors(rows: pd.DataFrame) -> Floats:
    return identity.unit_vectors(rows["s_ra"].to_numpy(), rows["s_dec"].to_numpy())


def _differences(
    to_here: Floats, to_there: Floats, here: pd.DataFrame, there: pd.DataFrame, objects: pd.DataFrame, radius: Floats
) -> tuple[NDArray[np.bool_], Floats]:
    """Which objects are within the radius of each candidate, and their true flux differences: two arrays of (n, objects).

    A moving object counts where it is: its reference row only for a candidate at its place in the reference. A row of the
    reference that lies within the radius of the object's own science row counts with it, whatever the header's WCS says.
    """
    names = pd.Index(objects["object_id"])
    one_here = np.equal.outer(names.get_indexer(pd.Index(here["object_id"])), np.arange(len(names))).astype(float)
    one_there = np.equal.outer(names.get_indexer(pd.Index(there["object_id"])), np.arange(len(names))).astype(float)
    in_here = to_here <= radius[:, None]
    apart = np.where(one_there @ one_here.T > 0, identity.separations(_vectors(there), _vectors(here)), np.inf)
    nearest = apart.min(axis=1) if len(here) else np.full(len(there), np.inf)
    with_science = (in_here.astype(float) @ one_here @ one_there.T > 0) & (nearest[None, :] <= radius[:, None])
    in_there = (to_there <= radius[:, None]) | with_science
    flux_here = np.nan_to_num(here["flux"].to_numpy())[None, :]
    flux_there = np.nan_to_num(there["flux"].to_numpy())[None, :]
    near = (in_here @ one_here + in_there @ one_there) > 0
    return near, (in_here * flux_here) @ one_here - (in_there * flux_there) @ one_there


def _rows(
    candidates: pd.DataFrame, chosen: NDArray[np.bool_], label: int, kind: Any, source: Any, annotator: Any, confidence: float
) -> pd.DataFrame:
    """LABELS rows for the chosen candidates; `kind`, `source` and `annotator` are one value or an array of the candidates' length."""
    values = {"label": label, "transient_type": kind, "source": source, "annotator": annotator, "confidence": confidence, "time": ""}
    frame = pd.DataFrame({"candidate_id": candidates["candidate_id"], **values})
    return frame[chosen]


def _truth_rows(candidates: pd.DataFrame, match: _PairMatch, complete: NDArray[np.bool_], cfg: DatasetConfig) -> pd.DataFrame:
    real = np.nan_to_num(match.true_snr, nan=-np.inf) >= cfg.min_true_snr
    artefact = ~real & (match.artefact != "")
    left = ~real & ~artefact & (match.object_id == "") & ~match.ambiguous & complete & cfg.unmatched_are_bogus
    kind = np.where(match.sky_kind == "asteroid", _MOVING, np.where(match.transient_type != "", match.transient_type, match.sky_kind))
    source = np.where(match.sky_kind == "injected", "injection", "truth")
    rows = [
        _rows(candidates, real, REAL, kind, source, "truth table", 1.0),
        _rows(candidates, artefact, BOGUS, match.artefact, "truth", "truth table", 1.0),
        _rows(candidates, left, BOGUS, _tag_kinds(candidates), "truth", "no match in a complete truth table", 1.0),
    ]
    return pd.concat(rows)


def _tag_kinds(candidates: pd.DataFrame) -> NDArray[np.object_]:
    def kind(tags: Any) -> str:
        present = set(tags) if tags is not None else set()
        return next((name for tag, name in KIND_OF_TAG.items() if tag in present), _NOISE)

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
    distance, nearest = cKDTree(_vectors(catalog)).query(_vectors(candidates), distance_upper_bound=chord)
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
    candidates: pd.DataFrame, truth: pd.DataFrame, catalog: pd.DataFrame, match: _PairMatch, found: NDArray[np.int64], cfg: DatasetConfig
) -> NDArray[np.object_]:
    """The event of each candidate: its truth object, the known object at its place in any epoch, or its cluster over epochs."""
    events = np.where(match.object_id != "", match.object_id, "")
    if len(catalog):
        events = np.where((events == "") & (found >= 0), catalog["object_id"].to_numpy(dtype=object)[found], events)
    for survey, where in _by_field(candidates):
        chosen = candidates.iloc[where]
        radius = _radius(chosen, cfg.match_radius_fwhm, cfg)
        open_rows = where[events[where] == ""]
        known = _known_objects(truth, catalog, chosen)
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


def _known_objects(truth: pd.DataFrame, catalog: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    """Places of objects that do not move: of the truth in the field's own exposures, and of the catalogue."""
    images = pd.concat([chosen["exposure_id"], chosen["reference_id"]]).unique()
    resting = truth["kind"].isin(SKY_KINDS) & (truth["kind"] != "asteroid")
    places = truth[resting & truth["exposure_id"].isin(images)].drop_duplicates("object_id")
    columns = ["object_id", "s_ra", "s_dec"]
    return pd.concat([places[columns], catalog[columns]]).drop_duplicates("object_id").reset_index(drop=True)


def _at_known(rows: pd.DataFrame, known: pd.DataFrame, radius: Floats) -> NDArray[np.object_]:
    from scipy.spatial import cKDTree

    chord, nearest = cKDTree(_vectors(known)).query(_vectors(rows))
    near = chord <= 2 * np.sin(np.radians(radius / 3600) / 2)
    return np.where(near, known["object_id"].to_numpy(dtype=object)[nearest], "")


def _counts(labels: pd.DataFrame, columns: pd.DataFrame, match: _PairMatch, human: pd.DataFrame) -> dict[str, int]:
    unlabelled = (columns["label"] == UNLABELLED).to_numpy()
    at_truth = match.object_id != ""
    return {
        **{f"source_{name}": int((labels["source"] == name).sum()) for name in PRECEDENCE},
        "unlabelled": int(unlabelled.sum()),
        "unlabelled_faint_or_opposite_truth": int((unlabelled & at_truth).sum()),
        "unlabelled_near_bright_truth": int((unlabelled & ~at_truth & match.ambiguous).sum()),
        "human_without_candidate": int((~human["candidate_id"].isin(columns["candidate_id"])).sum()),
    }

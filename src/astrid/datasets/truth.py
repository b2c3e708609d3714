"""What the truth table says about each candidate: the sky object and the artefact at its place, and the true change of flux."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astrid.core.errors import DataSetError
from astrid.datasets import identity
from astrid.datasets.kinds import ARTEFACT_GROUPS, BRIGHTENING, PHOTOMETRIC, SKY_KINDS, SPREAD, STAR_ARTEFACTS

if TYPE_CHECKING:
    from astrid.config.schema.dataset import DatasetConfig

Floats = NDArray[np.float64]

_SHARE = 0.5  # of a candidate's flux that an artefact must give at its place to have made it
_FWHM_PER_SIGMA = 2.3548


@dataclass(frozen=True, eq=False)
class TruthMatch:
    """Truth at the candidates of one pair; arrays of (n,)."""

    object_id: NDArray[np.object_]  # nearest sky object within the radius that fits best; "" without
    sky_kind: NDArray[np.object_]
    transient_type: NDArray[np.object_]
    true_snr: Floats  # true flux difference in the candidate's sign over flux_err; NaN without an object
    artefact: NDArray[np.object_]  # kind of the artefact at its place that can have made it; "" without
    ambiguous: NDArray[np.bool_]  # a significant sky object sits outside the radius, but near


def match_truth(candidates: pd.DataFrame, truth: pd.DataFrame, cfg: DatasetConfig) -> TruthMatch:
    """The truth at each candidate. `candidates`, `truth`: CANDIDATES and TRUTH tables; returns arrays in the candidates' order.

    Reference fluxes are taken to the zero-point of the science exposure. Raises `DataSetError` for candidates without a pixel scale.
    """
    count = len(candidates)
    text = [np.full(count, "", dtype=object) for _ in range(4)]
    out = TruthMatch(text[0], text[1], text[2], np.full(count, np.nan), text[3], np.zeros(count, dtype=bool))
    if not len(truth):
        return out
    rows_of, none = truth.groupby("exposure_id").indices, np.empty(0, dtype=np.intp)
    zero_points = {name: _zero_point(truth.iloc[rows]) for name, rows in rows_of.items()}
    for (science, reference), where in candidates.groupby(["exposure_id", "reference_id"]).indices.items():
        here, there = truth.iloc[rows_of.get(science, none)], truth.iloc[rows_of.get(reference, none)]
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
    chosen: pd.DataFrame, here: pd.DataFrame, there: pd.DataFrame, cfg: DatasetConfig, out: TruthMatch, where: NDArray[Any]
) -> None:
    radius = match_radius(chosen, cfg.match_radius_fwhm, cfg)
    to_here, to_there = _distances(chosen, here, pixels=True), _distances(chosen, there, pixels=False)
    wide = match_radius(chosen, max(cfg.ambiguous_radius_fwhm, cfg.match_radius_fwhm), cfg)
    out.artefact[where] = _artefacts(chosen, (here, to_here), (there, to_there), radius, wide)
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
    around, difference = _differences(to_here, to_there, here, there, objects, wide)
    out.ambiguous[where] = (around & (np.abs(difference) >= cfg.min_true_snr * error[:, None])).any(axis=1)


def _artefacts(
    chosen: pd.DataFrame, here: tuple[pd.DataFrame, Floats], there: tuple[pd.DataFrame, Floats], radius: Floats, wide: Floats
) -> NDArray[np.object_]:
    """Kind of the artefact that made each candidate, "" without; `here`, `there`: rows of an exposure and the distances to them, (n, m)."""
    kinds = np.concatenate([here[0]["kind"], there[0]["kind"]])
    distance = np.concatenate([here[1], there[1]], axis=1)
    reach = np.where(np.isin(kinds, SPREAD), wide[:, None], radius[:, None])
    distance = np.where((distance <= reach) & _made(chosen, here, there, kinds, reach), distance, np.inf)
    found = np.full(len(chosen), -1)
    for group in ARTEFACT_GROUPS:
        members = np.flatnonzero(np.isin(kinds, group))
        if len(members):
            own = distance[:, members]
            near = np.isfinite(own.min(axis=1)) & (found < 0)
            found[near] = members[own.argmin(axis=1)][near]
    named = np.append(kinds, "")[found]
    named[(named == "dipole") & ~_shifted(chosen, here[0], there[0], found)] = "residual"
    return np.asarray(named)


def _shifted(chosen: pd.DataFrame, here: pd.DataFrame, there: pd.DataFrame, found: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Whether the shift of the star in row `found` gives enough of each candidate's flux, (n,); True where it is not known.

    Two Gaussian PSFs of flux F and width sigma at a distance d leave a PSF flux of up to F d exp(-1/2) / (sqrt(2) sigma).
    """
    shift, flux = np.append(_shifts(here, there), np.nan)[found], np.array([*here["flux"], *there["flux"], np.nan])[found]
    sigma = chosen["psf_fwhm"].to_numpy() * _pixel_scale(chosen) / _FWHM_PER_SIGMA
    return np.asarray(~(flux * shift * np.exp(-0.5) / (np.sqrt(2) * sigma) < _SHARE * np.abs(chosen["flux"].to_numpy())))


def _shifts(here: pd.DataFrame, there: pd.DataFrame) -> Floats:
    """Arcsec by which the star of each row, those of `here` first, is elsewhere in the other exposure than most; NaN if not in both."""
    one, other = (rows[rows["kind"].isin(STAR_ARTEFACTS)].drop_duplicates("object_id").set_index("object_id") for rows in (here, there))
    names = one.index.intersection(other.index)
    if not len(names):
        return np.full(len(here) + len(there), np.nan)
    apart = vectors(one.loc[names]) - vectors(other.loc[names])
    moved = np.degrees(np.linalg.norm(apart - np.median(apart, axis=0), axis=1)) * 3600
    return np.asarray(pd.Series(moved, index=names).reindex([*here["object_id"], *there["object_id"]]))


def _made(
    chosen: pd.DataFrame, here: tuple[pd.DataFrame, Floats], there: tuple[pd.DataFrame, Floats], kinds: NDArray[np.object_], reach: Floats
) -> NDArray[np.bool_]:
    """Which rows can have made each candidate, bool (n, m): those whose light has its sign and, where it was measured, enough flux.

    Light of an artefact that is in both exposures makes no more than the difference of its nearest rows.
    """
    sign, flux = chosen["sign"].to_numpy(), np.abs(chosen["flux"].to_numpy())
    first = len(here[0])
    side = np.where(np.arange(len(kinds)) < first, 1, -1)
    made = ~np.isin(kinds, BRIGHTENING)[None, :] | (side[None, :] == sign[:, None])
    for kind in set(kinds).intersection(PHOTOMETRIC):
        light = _nearest(*here, kind, reach[:, :first]) - _nearest(*there, kind, reach[:, first:])
        made[:, kinds == kind] = ~(sign * light < _SHARE * flux)[:, None]  # NaN: nobody measured it
    return np.asarray(made)


def _nearest(rows: pd.DataFrame, distance: Floats, kind: str, reach: Floats) -> Floats:
    """Flux of the nearest row of a kind within reach of each candidate, 0 without: (n,)."""
    members = (rows["kind"] == kind).to_numpy()
    if not members.any():
        return np.zeros(len(distance))
    near = np.where(distance <= reach, distance, np.inf)[:, members]
    return np.where(np.isfinite(near.min(axis=1)), rows["flux"].to_numpy()[members][near.argmin(axis=1)], 0.0)


def match_radius(chosen: pd.DataFrame, scale: float, cfg: DatasetConfig) -> Floats:
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
    sky = identity.separations(vectors(chosen), vectors(rows))
    if not pixels:
        return sky
    x, y = rows["x"].to_numpy(), rows["y"].to_numpy()
    detector = np.hypot(chosen["x"].to_numpy()[:, None] - x, chosen["y"].to_numpy()[:, None] - y) * _pixel_scale(chosen)[:, None]
    return np.where(np.isfinite(detector), detector, sky)


def vectors(rows: pd.DataFrame) -> Floats:
    """Unit vectors of the positions of a table, float64 (n, 3)."""
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
    apart = np.where(one_there @ one_here.T > 0, identity.separations(vectors(there), vectors(here)), np.inf)
    nearest = apart.min(axis=1) if len(here) else np.full(len(there), np.inf)
    with_science = (in_here.astype(float) @ one_here @ one_there.T > 0) & (nearest[None, :] <= radius[:, None])
    in_there = (to_there <= radius[:, None]) | with_science
    flux_here = np.nan_to_num(here["flux"].to_numpy())[None, :]
    flux_there = np.nan_to_num(there["flux"].to_numpy())[None, :]
    near = (in_here @ one_here + in_there @ one_there) > 0
    return near, (in_here * flux_here) @ one_here - (in_there * flux_there) @ one_there

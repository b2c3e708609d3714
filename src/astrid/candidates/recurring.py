"""Candidates at one pixel of a detector in several exposures that look elsewhere: the detector's, not the sky's."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.stats import poisson

from astrid.candidates.moving import sky_places
from astrid.config.schema.candidates import RecurringConfig
from astrid.core.copies import parent_of

_INSTRUMENT = ["survey", "instrument"]


# Columns of CANDIDATES that are looked at.
COLUMNS = (
    *("exposure_id", "reference_id", *_INSTRUMENT, "detector", "reference_detector", "x", "y", "x_reference", "y_reference"),
    *("s_ra", "s_dec", "sign", "psf_fwhm", "pixel_scale", "sharpness"),
)


def recurring(candidates: pd.DataFrame, cfg: RecurringConfig) -> NDArray[np.bool_]:
    """Whether the pixel of each candidate has fired in other exposures too: bool (n,). `candidates`: `COLUMNS` of CANDIDATES.

    What brightened fired in the science exposure, at its pixel; what faded fired in the reference, at the pixel of the reference
    where the candidate lies (x_reference, y_reference; without these it is left out). Science exposures and references of one
    detector are one set: a hot pixel fires in them all. Two candidates recur when they lie within `tolerance` pixels of each other
    in two exposures and more than `apart_fwhm` FWHM of each other on the sky. A candidate is marked where chance brings so many
    exposures together with a probability of at most `chance`, or `chance_sharp` where its sharpness exceeds `sharpness`: the
    other exposures' candidates are taken as Poisson over the image, once each, also where a reference stands in several pairs. Bounded
    by the number of coincidences, not of candidates squared.
    """
    found = np.zeros(len(candidates), dtype=bool)
    for own in candidates.groupby(_INSTRUMENT, sort=False).indices.values():
        fired = _fired(candidates.iloc[own])
        for rows in fired.groupby("detector", sort=False).indices.values():
            group = fired.iloc[rows]
            found[own[group["row"]]] = _recurs(group, cfg)
    return found


def with_hot_pixels(tags: pd.Series, hot: NDArray[np.bool_]) -> pd.Series:
    """The tags with hot_pixel, in place of cosmic_ray, where `hot` (n,) is true."""
    words = [sorted({*names, "hot_pixel"} - {"cosmic_ray"}) if mark else names for names, mark in zip(tags, hot, strict=True)]
    return pd.Series(words, index=tags.index, dtype=object)


def _fired(candidates: pd.DataFrame) -> pd.DataFrame:
    """Exposure, detector and pixel at which each candidate fired, and its `row` among the candidates; those of unknown place left out."""
    faded = (candidates["sign"] < 0).to_numpy()
    own = {"exposure_id": "reference_id", "detector": "reference_detector", "x": "x_reference", "y": "y_reference"}
    kept = ["s_ra", "s_dec", "psf_fwhm", "pixel_scale", "sharpness"]
    columns = {name: candidates[name].to_numpy() for name in kept}
    columns |= {name: np.where(faded, candidates[there], candidates[name]) for name, there in own.items()}
    fired = pd.DataFrame(columns | {"row": np.arange(len(candidates))})
    known = np.isfinite(fired[["x", "y"]].to_numpy(dtype=np.float64)).all(axis=1)
    return fired[known].assign(exposure_id=lambda rows: rows["exposure_id"].map(parent_of))  # a copy's pixels are its parent's


def _recurs(group: pd.DataFrame, cfg: RecurringConfig) -> NDArray[np.bool_]:
    x, y = group["x"].to_numpy(dtype=np.float64), group["y"].to_numpy(dtype=np.float64)
    exposure, _ = pd.factorize(group["exposure_id"])
    pairs = cKDTree(np.column_stack([x, y])).query_pairs(cfg.tolerance, output_type="ndarray")
    place = sky_places(group["s_ra"].to_numpy(), group["s_dec"].to_numpy())
    size = cfg.apart_fwhm * (group["psf_fwhm"] * group["pixel_scale"]).to_numpy(dtype=np.float64)  # arcsec
    first, second = pairs.T
    elsewhere = np.linalg.norm(place[first] - place[second], axis=1) > np.maximum(size[first], size[second])
    pairs = pairs[elsewhere & (exposure[first] != exposure[second])]
    seen = np.unique(
        np.concatenate([np.column_stack([pairs[:, 0], exposure[pairs[:, 1]]]), np.column_stack([pairs[:, 1], exposure[pairs[:, 0]]])]),
        axis=0,
    )
    count = np.bincount(seen[:, 0], minlength=len(group))
    area = max(float(np.ptp(x)) * float(np.ptp(y)), 1.0)
    events = np.unique(np.column_stack([exposure, np.rint(x), np.rint(y)]), axis=0)[:, 0].astype(np.int64)
    others = len(events) - np.bincount(events)[exposure]
    chance = poisson.sf(count - 1, others * np.pi * cfg.tolerance**2 / area)
    limit = np.where(group["sharpness"] > cfg.sharpness, cfg.chance_sharp, cfg.chance)
    return np.asarray((count > 0) & (chance <= limit))

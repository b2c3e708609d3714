"""Candidates at one pixel of a detector in several exposures that look elsewhere: the detector's, not the sky's."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.stats import poisson

from astrid.candidates.moving import sky_places
from astrid.config.schema.candidates import RecurringConfig

_DETECTOR = ["survey", "instrument", "detector"]


def mark_recurring(candidates: pd.DataFrame, cfg: RecurringConfig) -> pd.DataFrame:
    """The candidates with the tag hot_pixel, in place of cosmic_ray, where their pixel has fired in other exposures too.

    Two candidates of one detector recur when they lie within `tolerance` pixels of each other in two science exposures and more than
    `apart_fwhm` FWHM of each other on the sky. A candidate is marked where chance brings so many exposures together with a
    probability of at most `chance`: the candidates of the others are taken as Poisson over the image. Bounded by the number of
    coincidences, not of candidates squared.
    """
    found = np.zeros(len(candidates), dtype=bool)
    for rows in candidates.groupby(_DETECTOR, sort=False).indices.values() if len(candidates) else ():
        found[rows] = _recurs(candidates.iloc[rows], cfg)
    out = candidates.copy()
    tags = [sorted({*words, "hot_pixel"} - {"cosmic_ray"}) if mark else words for words, mark in zip(out["tags"], found, strict=True)]
    out["tags"] = pd.Series(tags, index=out.index, dtype=object)
    return out


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
    others = len(group) - np.bincount(exposure)[exposure]
    expected = others * np.pi * cfg.tolerance**2 / area
    return np.asarray((count > 0) & (poisson.sf(count - 1, expected) <= cfg.chance))

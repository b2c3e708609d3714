"""What several exposures together tell of a candidate: its pixel fires again, or its object moves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astrid.candidates import moving, recurring
from astrid.config.schema.candidates import CandidatesConfig
from astrid.core.copies import is_copy

# Columns of CANDIDATES that are looked at: of all exposures' candidates these alone need to be in memory together.
COLUMNS = tuple(dict.fromkeys((*moving.COLUMNS, *recurring.COLUMNS, "pair_id")))


@dataclass(frozen=True, eq=False)
class Marks:
    """What the other exposures tell of each candidate; arrays of (n,)."""

    hot: NDArray[np.bool_]  # its pixel has fired in other exposures too
    name: NDArray[np.object_]  # of the known moving object; "" without
    track: NDArray[np.object_]  # of the moving object that it belongs to; "" without

    def on(self, candidates: pd.DataFrame, first: int) -> pd.DataFrame:
        """The candidates with their marks, in the columns and the tags; they are those from number `first` on."""
        rows = slice(first, first + len(candidates))
        name, track = self.name[rows], self.track[rows]
        tags = recurring.with_hot_pixels(candidates["tags"], self.hot[rows])
        return candidates.assign(tags=moving.with_moving(tags, (name != "") | (track != "")), moving_name=name, track_id=track)


def compare(candidates: pd.DataFrame, asteroids: pd.DataFrame, cfg: CandidatesConfig) -> tuple[Marks, pd.DataFrame]:
    """The marks of the candidates of many exposures, and the tracks of moving objects among them (TRACKS).

    `candidates`: `COLUMNS` of CANDIDATES, (n,) rows; `asteroids` (ASTEROIDS): known moving objects. The light of an injected copy
    is that of its parent: it makes no track.
    """
    hot = recurring.recurring(candidates, cfg.recurring)
    own = np.flatnonzero(~candidates["pair_id"].map(is_copy).to_numpy(dtype=bool))
    tags = recurring.with_hot_pixels(candidates["tags"], hot)
    seen = candidates[list(moving.COLUMNS)].assign(tags=tags).iloc[own].reset_index(drop=True)
    known, tracks = moving.match_known(seen, asteroids, cfg.moving), moving.link(seen, cfg.moving)
    ids = moving.track_ids(seen, tracks)
    name, track = (np.full(len(candidates), "", dtype=object) for _ in range(2))
    name[own], track[own] = known, ids
    return Marks(hot, name, track), moving.with_names(tracks, ids, known)

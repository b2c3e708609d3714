"""Split strategies: what is held out, in whole groups of everything that triplets can share.

Labelled triplets that share an event, a sky cell, an exposure, a reference or a stamp, or are copies of each other, form one
group (connected components), and a group stands in one part only. A strategy says on which side of its boundary each row would
like to be; a group with rows on both sides goes whole to one of them, and its rows on the other side become unused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astrid.core.errors import DataSetError
from astrid.core.runtime import rng_for
from astrid.datasets import identity
from astrid.datasets.leakage import KEYS, PARTS, UNUSED, by_value, in_order, part_counts, shared_hashes
from astrid.datasets.near import Reader, near_copies
from astrid.io.tables import SPLITS, TRIPLETS, Table, conform

if TYPE_CHECKING:
    from astrid.config.schema.split import SplitConfig

_TRAINING_ONLY = "training_only"
_BOTH = 2  # parts that training is still to be divided into: training itself and validation

Bools = NDArray[np.bool_]

# What splits and their audit need of a triplet table; a store reads these columns alone with `TripletStore.columns`.
COLUMNS = (
    *("candidate_id", "survey", "instrument", "detector", "mjd", "label"),
    *(column for columns in KEYS.values() for column in columns),
    "near_key",
)
# What the strategies ask of the labelled rows.
_ASKED = ("candidate_id", "survey", "instrument", "detector", "mjd", "label", "exposure_id")
_USED = Table(TRIPLETS.name, tuple(column for column in TRIPLETS.columns if column.name in COLUMNS), TRIPLETS.required)


def split_rows(table: pd.DataFrame, cfg: SplitConfig, near: pd.DataFrame | None = None) -> pd.DataFrame:
    """Assign every triplet to train, validation, test or unused.

    `table`: TRIPLETS or their `COLUMNS`, in any order (the assignment depends on the rows, not on their order); `near`: pairs of
    candidate_ids (first, second) that belong together, as `find_near` gives them. Returns SPLITS, in the table's order, with the
    groups as categories; unlabelled rows are unused. Raises `DataSetError` when a part would lack a class, with its counts
    ("training_only" has one part and asks for none), or when a name that is to be held out is not in the table.
    """
    table = conform(table[[name for name in table.columns if name in COLUMNS]], _USED, source="the triplet table")
    labelled = np.flatnonzero(table["label"] >= 0)
    rows = table[[name for name in table.columns if name in _ASKED]].iloc[labelled]
    rows["group_id"] = identity.first_names(_groups(table, labelled, near), rows["candidate_id"])
    rows = rows.sort_values("candidate_id", kind="stable")  # the index says where a row stands in the table
    wants_test = _STRATEGIES[cfg.strategy](rows, cfg)
    test_groups = pd.Index(rows["group_id"][wants_test]).difference(pd.Index(rows["group_id"][~wants_test]))
    test_groups = test_groups.union(_straddlers(rows, wants_test, cfg))
    in_test = rows["group_id"].isin(test_groups).to_numpy()
    kept = in_test == wants_test
    validation = _validation(rows[~in_test & kept], cfg)
    rows["part"] = np.where(in_test, "test", np.where(rows["group_id"].isin(validation), "validation", "train"))
    rows.loc[~kept, "part"] = UNUSED
    _check_classes(rows, cfg)
    out = pd.DataFrame({"candidate_id": table["candidate_id"], "part": UNUSED, "group_id": ""})
    for name in ("part", "group_id"):
        out.loc[rows.index, name] = rows[name]
    return conform(out.astype({"group_id": "category"}), SPLITS, source="the splits")


def find_near(table: pd.DataFrame, read: Reader) -> pd.DataFrame:
    """Slightly changed copies among the labelled triplets of different groups: the columns first, second (candidate_id).

    `table`: TRIPLETS or their `COLUMNS`; `read` gives the stamps of its rows, float32 (n, 3, 63, 63), e.g. `TripletStore.stamps`.
    """
    labelled = np.flatnonzero(table["label"] >= 0)
    groups = np.full(len(table), -1)
    groups[labelled] = _groups(table, labelled)
    return near_copies(table, read, groups)


def group_ids(rows: pd.DataFrame, near: pd.DataFrame | None = None) -> NDArray[np.object_]:
    """The group of each row: connected components over every key of the audit and over near copies; (n,).

    A group is named by its smallest candidate_id. Pairs of `near` (first, second) that name other rows are no link here.
    """
    return identity.first_names(_groups(rows, np.arange(len(rows)), near), rows["candidate_id"])


def _groups(table: pd.DataFrame, rows: NDArray[np.int64], near: pd.DataFrame | None = None) -> NDArray[np.int64]:
    """The number of the group of each of some `rows` of a table, int64 (n,); see `group_ids`."""
    numbers = np.arange(len(rows))
    for key in KEYS:
        places, hashes = shared_hashes(table, key, rows)
        order, begins = by_value(hashes)
        places, again = places[order], np.flatnonzero(~begins)
        numbers = _linked(numbers, np.stack([places[again - 1], places[again]], axis=1))
    if near is not None and len(near):
        names = table["candidate_id"].iloc[rows].reset_index(drop=True)
        names = names[names.isin(near["first"]) | names.isin(near["second"])]
        index = pd.Index(names)
        pairs = np.stack([index.get_indexer(near["first"]), index.get_indexer(near["second"])], axis=1)
        numbers = _linked(numbers, names.index.to_numpy(dtype=np.int64)[pairs[(pairs >= 0).all(axis=1)]])
    return numbers


def _linked(numbers: NDArray[np.int64], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """The components of rows, (n,), once pairs of rows (m, 2) are linked as well."""
    links = numbers[pairs]
    return identity.components(len(numbers), links[links[:, 0] != links[:, 1]])[numbers]


def unused_counts(table: pd.DataFrame, splits: pd.DataFrame) -> dict[str, int]:
    """Why rows are unused: no label, or on the wrong side of a group that stands on both sides of the boundary."""
    labels = in_order(table[["candidate_id", "label"]], splits["candidate_id"])["label"].to_numpy()
    unused = (splits["part"] == UNUSED).to_numpy()
    return {"unlabelled": int((unused & (labels < 0)).sum()), "straddling": int((unused & (labels >= 0)).sum())}


def _validation(rows: pd.DataFrame, cfg: SplitConfig) -> pd.Index:
    """The groups of the training side that become validation."""
    if cfg.strategy == _TRAINING_ONLY:
        return pd.Index([], dtype=object)
    return _pick(_summary(rows), cfg.validation_fraction, leave=1, seed=cfg.seed, purpose="validation")


def _training_only(rows: pd.DataFrame, _: SplitConfig) -> Bools:
    return np.zeros(len(rows), dtype=bool)


def _temporal(rows: pd.DataFrame, cfg: SplitConfig) -> Bools:
    """Rows after the cut; a quantile is taken over exposures, so that a crowded one does not move it."""
    if cfg.cut_mjd is not None:
        cut = cfg.cut_mjd
    else:
        dates = rows.drop_duplicates("exposure_id")["mjd"]
        cut = float(dates.quantile(1 - cfg.test_fraction, interpolation="lower")) if len(dates) else 0.0
    return np.asarray(rows["mjd"] > cut)


def _cross_instrument(rows: pd.DataFrame, cfg: SplitConfig) -> Bools:
    column = cfg.held_out_column
    if cfg.held_out:
        return _named(rows[column], cfg.held_out, column)
    full = pd.Series(list(zip(rows["survey"], rows["instrument"], rows[column], strict=True)), index=rows.index, dtype=object)
    names = pd.DataFrame({"survey": rows["survey"], "name": full})
    last = [max(group) for _, group in names.groupby("survey")["name"] if group.nunique() > 1]
    if not last:
        raise DataSetError(f"no survey has two {column}s with labels, so none can be held out; choose another split strategy.")
    return np.asarray(full.isin(last))


def _cross_survey(rows: pd.DataFrame, cfg: SplitConfig) -> Bools:
    if cfg.held_out:
        return _named(rows["survey"], cfg.held_out, "survey")
    surveys = sorted(rows["survey"].unique())
    if len(surveys) < 2:
        raise DataSetError(f"the triplets come from {len(surveys)} survey ({', '.join(surveys)}); cross_survey needs two or more.")
    return np.asarray(rows["survey"] == surveys[-1])


def _named(values: pd.Series, names: tuple[str, ...], column: str) -> Bools:
    known = sorted(values.unique())
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DataSetError(f"split.held_out names the {column} {unknown[0]!r}; the labelled triplets have {', '.join(known)}.")
    return np.asarray(values.isin(names))


def _random_grouped(rows: pd.DataFrame, cfg: SplitConfig) -> Bools:
    test = _pick(_summary(rows), cfg.test_fraction, leave=_BOTH, seed=cfg.seed, purpose="test")
    return np.asarray(rows["group_id"].isin(test))


_STRATEGIES = {
    "temporal": _temporal,
    "cross_instrument": _cross_instrument,
    "cross_survey": _cross_survey,
    "random_grouped": _random_grouped,
    _TRAINING_ONLY: _training_only,
}


def _summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Per group: how many rows are real and how many bogus."""
    frame = pd.DataFrame({"real": rows["label"] == 1, "bogus": rows["label"] == 0}).astype(float)
    return frame.groupby(rows["group_id"]).sum()


def _straddlers(rows: pd.DataFrame, wants_test: Bools, cfg: SplitConfig) -> pd.Index:
    """Which of the groups with rows on both sides of the boundary go to test; by what each would keep there."""
    there, here = _summary(rows[wants_test]), _summary(rows[~wants_test])
    both = there.index.intersection(here.index)
    here_only = here.drop(both)
    rich = int(((here_only["real"] > 0) & (here_only["bogus"] > 0)).sum())
    leave = max(0, _BOTH - rich)
    return _pick(there.loc[both], cfg.straddling_to_test, leave=leave, seed=cfg.seed, purpose="straddling", rest=here.loc[both])


def _pick(groups: pd.DataFrame, share: float, *, leave: int, seed: int, purpose: str, rest: pd.DataFrame | None = None) -> pd.Index:
    """Whole groups in a seeded order until they hold `share` (mean over the classes), leaving `leave` groups of each class.

    `groups`: real and bogus rows that a group brings when it is picked; `rest`: what it keeps where it is when it is not
    picked (the same rows by default). When the share was reached without one of the classes, the first group in the order
    that brings it and can be spared follows.
    """
    totals = groups.sum().clip(lower=1)
    weight = (groups / totals).mean(axis=1).to_numpy()
    order = rng_for(seed, "split", purpose).permutation(len(groups))
    brings = groups.to_numpy() > 0
    keeps = brings if rest is None else rest.to_numpy() > 0
    left = keeps.sum(axis=0)
    taken: list[int] = []
    held = 0.0

    def spare(number: int) -> bool:
        return bool((left - keeps[number] >= np.where(keeps[number], leave, 0)).all())

    for number in order:
        if held + weight[number] / 2 <= share and spare(number):
            taken.append(number)
            left = left - keeps[number]
            held += weight[number]
    for kind in (0, 1):
        if not brings[taken, kind].any():
            free = np.setdiff1d(order, taken, assume_unique=True)  # keeps the order
            extra = [number for number in free[brings[free, kind]] if spare(number)][:1]
            taken.extend(extra)
            left = left - keeps[extra].sum(axis=0)
    return groups.index[sorted(taken)]


def _check_classes(rows: pd.DataFrame, cfg: SplitConfig) -> None:
    counts = part_counts(rows)
    for part in () if cfg.strategy == _TRAINING_ONLY else PARTS:
        if not (counts[part]["real"] and counts[part]["bogus"]):
            said = "; ".join(f"{name} {counts[name]['real']} real and {counts[name]['bogus']} bogus" for name in (*PARTS, UNUSED))
            raise DataSetError(
                f"the {cfg.strategy} split of {len(rows)} labelled triplets in {rows['group_id'].nunique()} groups leaves {part} "
                f"without both classes ({said}); add fields or labels, or change the fractions of split."
            )

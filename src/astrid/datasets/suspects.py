"""Labels that are probably wrong: confident learning on scores of a model that did not see them.

Northcutt, Jiang & Chuang 2021 (JAIR 70, 1373), for two classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from astrid.core.errors import DataSetError
from astrid.core.runtime import rng_for
from astrid.datasets.kinds import BOGUS, REAL
from astrid.io.tables import Column, Table

SUSPECTS = Table(
    "suspects",
    (
        Column("candidate_id", "str", "", "candidate whose label is doubted"),
        Column("label", "int", "", "1 real, 0 bogus: the label as it stands"),
        Column("score", "float", "", "out-of-fold probability of being real"),
        Column("margin", "float", "", "probability of the other label minus that of this one: how strongly it is doubted"),
    ),
    ("candidate_id", "label", "score", "margin"),
)


@dataclass(frozen=True, eq=False)
class Doubt:
    """What confident learning says of a set of labels. Index 0 is bogus, 1 is real."""

    thresholds: NDArray[np.float64]  # (2,): mean probability of a class among the rows that carry its label
    joint: NDArray[np.float64]  # (2, 2): estimated share of rows with the label i that are truly j; sums to 1
    suspects: pd.DataFrame  # SUSPECTS, the most doubted first

    @property
    def share(self) -> float:
        """Estimated share of wrong labels."""
        return float(self.joint[BOGUS, REAL] + self.joint[REAL, BOGUS])

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a report."""
        names = {"real_called_bogus": (BOGUS, REAL), "bogus_called_real": (REAL, BOGUS)}
        return {
            "wrong_labels": self.share,
            **{name: float(self.joint[place]) for name, place in names.items()},
            "suspects": len(self.suspects),
            "thresholds": {"bogus": float(self.thresholds[BOGUS]), "real": float(self.thresholds[REAL])},
        }


def find_suspects(candidate_ids: ArrayLike, labels: ArrayLike, scores: ArrayLike) -> Doubt:
    """The labels that out-of-fold scores contradict with confidence.

    Parameters
    ----------
    candidate_ids, labels, scores
        (n,) each: names, labels 0 or 1, and the probability of being real from a model that was fitted without the row and without
        anything that shares its event, field or exposure (see `folds`).

    Notes
    -----
    A row counts as truly j where its probability of j reaches the threshold of j, the mean over the rows labelled j (Eqs. 1, 2);
    where it reaches both, the more probable class counts. The counts, scaled to the number of labels of each class, are the joint
    distribution of given and true labels (Eq. 3). Of each kind of error as many rows as that joint expects are listed, those with
    the largest margin (pruning by noise rate, Sect. 3.2). Thresholds that follow the class make it robust against a score that
    leans to one side, and a fold's score needs no calibration.

    Raises `DataSetError` for arrays of unlike length, a label that is neither 0 nor 1, a score outside [0, 1], or a missing class.
    """
    names = pd.Series(candidate_ids)
    given, real = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    _check(names, given, real)
    probability = np.stack([1 - real, real], axis=1)
    thresholds = np.array([probability[given == label, label].mean() for label in (BOGUS, REAL)])
    sure = np.where(probability >= thresholds, probability, -np.inf)
    counted = np.isfinite(sure).any(axis=1)
    counts = np.zeros((2, 2))
    np.add.at(counts, (given[counted], sure.argmax(axis=1)[counted]), 1)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    weighted = share * np.bincount(given, minlength=2)[:, None]
    joint = weighted / weighted.sum()
    margin = np.where(given == BOGUS, 2 * real - 1, 1 - 2 * real)
    chosen = []
    for label, other in ((BOGUS, REAL), (REAL, BOGUS)):
        members = np.flatnonzero(given == label)
        number = min(round(len(given) * joint[label, other]), len(members))
        chosen.append(members[np.argsort(-margin[members], kind="stable")[:number]])
    rows = np.concatenate(chosen)
    rows = rows[np.argsort(-margin[rows], kind="stable")]
    frame = pd.DataFrame({"candidate_id": names.array[rows], "label": given[rows], "score": real[rows], "margin": margin[rows]})
    return Doubt(thresholds, joint, frame.reset_index(drop=True))


def folds(groups: ArrayLike, labels: ArrayLike, number: int, seed: int) -> NDArray[np.int64]:
    """A fold 0 ... number - 1 for each row, whole groups together, each with about as many rows of either label: int64 (n,).

    `groups`: (n,) names of what must not be parted. Groups are dealt from the largest to the smallest to the fold that has least
    of what they bring; ties are drawn by the seed. Raises `DataSetError` for fewer groups than folds.
    """
    codes, names = pd.factorize(np.asarray(groups, dtype=object), sort=True)
    if number < 2 or len(names) < number:
        raise DataSetError(f"{len(names)} groups cannot be dealt to {number} folds; use between 2 and as many folds as groups.")
    real = np.asarray(labels) == REAL
    counts = np.stack([np.bincount(codes, weights=which, minlength=len(names)) for which in (~real, real)], axis=1)
    sizes = counts / np.maximum(counts.sum(axis=0), 1)
    order = rng_for(seed, "folds").permutation(len(names))
    order = order[np.argsort(-sizes[order].sum(axis=1), kind="stable")]
    load, fold = np.zeros((number, 2)), np.zeros(len(names), dtype=np.int64)
    for group in order:
        fold[group] = int(np.argmin(((load + sizes[group]) ** 2).sum(axis=1) - (load**2).sum(axis=1)))
        load[fold[group]] += sizes[group]
    dealt: NDArray[np.int64] = fold[codes]
    return dealt


def _check(names: pd.Series, labels: NDArray[Any], scores: NDArray[np.float64]) -> None:
    if not len(names) == len(labels) == len(scores):
        raise DataSetError(f"{len(names)} candidates have {len(labels)} labels and {len(scores)} scores; give one of each.")
    wrong = int((~np.isin(labels, (REAL, BOGUS))).sum())
    if wrong:
        raise DataSetError(f"{wrong} of {len(labels)} labels are neither 1 nor 0; leave the unlabelled rows out.")
    outside = int((~((scores >= 0) & (scores <= 1))).sum())
    if outside:
        raise DataSetError(f"{outside} of {len(scores)} scores are no probabilities; score every row out of its fold.")
    for label, name in ((REAL, "real"), (BOGUS, "bogus")):
        if not (labels == label).any():
            raise DataSetError(f"none of {len(labels)} rows is labelled {name}; confident learning needs both classes.")

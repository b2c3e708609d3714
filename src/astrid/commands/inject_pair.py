"""`astrid inject SCIENCE REFERENCE`: a pair and injected copies of it -> labelled triplets of the user's own data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from astrid.commands.exposure import NO_COMPANIONS, PairCompanions, check_pair, load_pair
from astrid.config.schema import CandidatesConfig, DatasetConfig, ImagingConfig, InjectionConfig
from astrid.core.copies import is_copy
from astrid.core.errors import ConfigError, InputError
from astrid.core.records import Calibrated
from astrid.io.tables import CANDIDATES, CATALOG, LABELS, PAIRS, TRUTH, write_table

TRUTH_FILE, LABEL_FILE, CANDIDATE_FILE, PAIR_FILE = (f"{name}.parquet" for name in ("truth", "labels", "candidates", "pairs"))
TRIPLETS = "triplets"


@dataclass(frozen=True)
class Rooms:
    """The settings of what the command runs."""

    imaging: ImagingConfig
    injection: InjectionConfig
    candidates: CandidatesConfig
    dataset: DatasetConfig


def inject_pair(
    science: Path,
    reference: Path,
    folder: Path,
    *,
    rooms: Rooms,
    companions: PairCompanions = NO_COMPANIONS,
    bogus_confidence: float | None = None,
) -> None:
    """Subtract a pair as it is and as copies with injected point sources, search all of them, and write labelled triplets.

    `folder` gets the difference products, `truth.parquet` (TRUTH: what was injected), `pairs.parquet`, `candidates.parquet`,
    `labels.parquet` and the store `triplets`: the injected sources that were found, labelled real, and every detection of the pair
    itself. These stay unlabelled, or become bogus with the confidence `bogus_confidence`, where the observer knows that nothing has
    changed between the two images.

    Raises
    ------
    ConfigError
        The settings ask for no copies.
    InputError
        A file is missing or broken, both are one exposure, or the folder holds something.
    ImagingError
        The pair cannot be calibrated or subtracted, or the gain of an image is unknown.
    """
    from astrid.datasets import store
    from astrid.datasets.copies import label_with_copies, unmatched_as_bogus
    from astrid.imaging.injections import on_science_scale

    if not rooms.injection.copies:
        raise ConfigError("injection.copies = 0 asks for no copies; choose injection=default, or set injection.copies=1.")
    check_pair(science, reference)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} {'is not empty' if folder.is_dir() else 'is a file'}; name a new folder for the products.")
    new, old = load_pair(science, reference, rooms.imaging.calibrate, companions)
    pairs, truth = _planned(new, old, rooms)
    frames = list(_searched(new, old, pairs, truth, folder, rooms))
    filled = [frame for frame in frames if len(frame)]
    candidates = pd.concat(filled, ignore_index=True) if filled else CANDIDATES.empty()
    nothing = (TRUTH.empty(), on_science_scale(truth), pairs, CATALOG.empty(), LABELS.empty())
    kept, found = label_with_copies(candidates, *nothing, rooms.dataset)
    if bogus_confidence is not None:
        found = unmatched_as_bogus(kept, found, bogus_confidence)
    rows = store.select(kept, found.columns, max_bogus_per_pair=0, keep_unlabelled=True, seed=rooms.injection.seed)
    written = store.build(folder / TRIPLETS, _batches(rows, folder), rows_per_shard=rooms.dataset.rows_per_shard)
    for frame, name, table in (
        (truth, TRUTH_FILE, TRUTH),
        (pairs, PAIR_FILE, PAIRS),
        (kept, CANDIDATE_FILE, CANDIDATES),
        (found.labels, LABEL_FILE, LABELS),
    ):
        write_table(frame, folder / name, table)
    own = int((~kept["pair_id"].map(is_copy)).sum())
    copies = _counted(rooms.injection.copies, "copy", "copies")
    sources = _counted(int((truth["flux"] > 0).sum()), "source", "sources")
    print(f"{sources} injected into {copies}, {_counted(len(kept) - own, 'detection matches', 'detections match')} one")
    print(f"{_counted(own, 'detection', 'detections')} in the pair itself, {'bogus' if bogus_confidence is not None else 'unlabelled'}")
    print(f"{_counted(len(written), 'triplet', 'triplets')} -> {folder / TRIPLETS}; the tables and difference products -> {folder}")


def _counted(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _planned(new: Calibrated, old: Calibrated, rooms: Rooms) -> tuple[pd.DataFrame, pd.DataFrame]:
    """PAIRS of the pair and its copies, and the copies' TRUTH."""
    from astrid.imaging.copies import Alignment, copies_of, copy_rows

    names = (new.info.exposure_id, old.info.exposure_id)
    if names[0] == names[1]:
        raise InputError(f"both images call themselves {names[0]}; give exposures with different names.")
    difference = rooms.imaging.difference
    alignment = Alignment(difference.psf, difference.registration, difference.flux_scale)
    truth = copies_of(new, old, rooms.injection, alignment, names=names, known=np.zeros((0, 2)))
    identity = {key: getattr(new.info, key) for key in ("survey", "instrument", "detector", "filter", "field_id", "mjd")}
    row = {"pair_id": "__".join(names), "science_id": names[0], "reference_id": names[1], "status": "ok", "reason": "", **identity}
    pair = pd.DataFrame([{**row, "reference_mjd": old.info.mjd}])
    return pd.concat([pair, copy_rows(pair, set(pair["pair_id"]), rooms.injection.copies)], ignore_index=True), truth


def _searched(
    new: Calibrated, old: Calibrated, pairs: pd.DataFrame, truth: pd.DataFrame, folder: Path, rooms: Rooms
) -> Iterator[pd.DataFrame]:
    """Subtract and search the pair and its copies, one after the other; each product is written to `folder`."""
    from astrid.candidates.extract import find_candidates
    from astrid.imaging.copies import added_sources
    from astrid.imaging.pair import subtract_pair
    from astrid.io.fits import write_difference
    from astrid.io.planes import scratch_beside

    added = added_sources(pairs[pairs["pair_id"].map(is_copy)], truth)
    for row in pairs.itertuples():
        path = folder / f"{row.pair_id}.fits"
        with scratch_beside(path) as scratch:
            sides = [(new, str(row.science_id)), (old, str(row.reference_id))]
            exposures = [added[name].to(exposure, scratch) if name in added else exposure for exposure, name in sides]
            product = subtract_pair(exposures[0], exposures[1], rooms.imaging.difference, allocate=scratch)
            write_difference(path, product)
            yield find_candidates(product, rooms.candidates, pair_id=str(row.pair_id))


def _batches(rows: pd.DataFrame, folder: Path) -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
    from astrid.candidates.stamps import cut_stamps
    from astrid.io.fits import read_difference

    for pair_id, part in rows.groupby("pair_id", sort=False):
        yield cut_stamps(read_difference(folder / f"{pair_id}.fits"), part), part

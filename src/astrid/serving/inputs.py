"""What can be scored -> items, one a row to be: alerts, triplet stores, difference products, and triplets as plain arrays.

Each kind imports what it needs when it comes: alerts need fastavro, stores pandas and pyarrow, products the whole of AstrID, plain
arrays numpy alone, and astropy where they are FITS.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from astrid.core.errors import AstridError, InputError, MissingDependencyError
from astrid.core.records import Triplet
from astrid.datasets.normalize import STAMP_SHAPE
from astrid.io.alerts import alert_files, read_alerts

if TYPE_CHECKING:
    from astrid.config.schema.candidates import CandidatesConfig

_FITS = (".fits", ".fits.fz", ".fits.gz", ".fit")
_STORE_INDEX = "index.json"
_ARRAY = ".npy"


@dataclass(frozen=True, eq=False)
class Item:
    """One row to be: its identity, and stamps float32 (3, 63, 63), or None with the reason in the row."""

    row: dict[str, Any]
    stamps: NDArray[np.float32] | None


def check_inputs(inputs: Sequence[Path]) -> None:
    """Raise `InputError` for the first input that does not exist."""
    for path in inputs:
        if not path.exists():
            raise InputError(
                f"{path} does not exist; give alerts (files, folders, tar archives), triplets (stores, arrays) or difference products."
            )


def read_items(inputs: Sequence[Path], candidates: CandidatesConfig | None, batch: int) -> Iterator[Item]:
    """The items of every input in order; `candidates` says how difference products are searched, `batch` how many stamps a store reads.

    Raises `MissingDependencyError` naming the package that a kind of input needs.
    """
    for path in inputs:
        if (path / _STORE_INDEX).is_file():
            with _needing("pandas and pyarrow", "Triplet stores", f"give its shards, e.g. {path / 'shard-00000.npy'}, instead"):
                yield from _store_items(path, batch)
        elif path.name.lower().endswith(_ARRAY):
            yield from _array_items(_load_array(path), path, batch)
        elif products := difference_products(path):
            for product in products:
                triplets = _fits_triplets(product)
                yield from _product_items(product, candidates) if triplets is None else _array_items(triplets, product, batch)
        else:
            with _needing("fastavro and cramjam", "Alert packets", "give triplets as .npy or FITS instead"):
                yield from map(_alert_item, read_alerts([path]))


def difference_products(path: Path) -> list[Path]:
    """The FITS files that an input stands for: itself, or those of a folder without alerts; [] where it is something else."""
    if not path.is_dir():
        return [path] if path.name.lower().endswith(_FITS) else []
    return [] if alert_files(path) else sorted(file for file in path.rglob("*") if file.name.lower().endswith(_FITS))


def needs_candidates(path: Path) -> bool:
    """Whether an input holds a difference product, which is searched for candidates before it is scored."""
    return path.exists() and any(_fits_triplets(product) is None for product in difference_products(path))


@contextmanager
def _needing(packages: str, kind: str, otherwise: str) -> Iterator[None]:
    """A package that is not installed becomes a sentence with what it is for."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"{kind} cannot be read without {packages}; install them, or {otherwise}.") from error


def _alert_item(reading: Any) -> Item:
    if isinstance(reading, Triplet):
        row = _row(reading.candidate_id, reading.object_id, reading.survey, str(reading.meta["source"]), reading.sign)
        return Item(row, reading.stamps)
    row = _row(getattr(reading, "candidate_id", ""), getattr(reading, "object_id", ""), getattr(reading, "survey", ""), reading.source, 0)
    return Item(row | {"reason": reading.reason}, None)


def _store_items(folder: Path, batch: int) -> Iterator[Item]:
    from astrid.io.shards import TripletStore

    store = TripletStore.open(folder)
    table = store.table
    for start in range(0, len(store), batch):
        stamps = store.stamps(slice(start, min(start + batch, len(store))))
        for offset, values in enumerate(table.iloc[start : start + len(stamps)].to_dict("records")):
            row = _row(values["candidate_id"], values["event_id"], values["survey"], str(folder), int(values["sign"]))
            yield Item(row, stamps[offset])


def _load_array(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable .npy array ({str(error).splitlines()[0]}); write it with numpy.save.") from error
    if not _are_triplets(array):
        raise InputError(
            f"{path} holds {array.dtype} of the shape {array.shape}; triplets are floating (n, 3, 63, 63): science, reference, difference."
        )
    return array


def _are_triplets(array: Any) -> bool:
    return array.ndim in (3, 4) and tuple(array.shape[-3:]) == STAMP_SHAPE and array.dtype.kind == "f"


def _fits_triplets(path: Path) -> NDArray[Any] | None:
    """The first image (n, 3, 63, 63) or (3, 63, 63) of a FITS file; None where it holds none, as a difference product does."""
    from astropy.io import fits

    try:
        with fits.open(path, memmap=False) as file:
            for part in file:
                if tuple(part.shape[-3:]) == STAMP_SHAPE and len(part.shape) in (3, 4) and part.header["BITPIX"] < 0:
                    return np.asarray(part.data)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a broken file gets its row, with the reason, from the reader of products
    return None


def _array_items(array: NDArray[Any], path: Path, batch: int) -> Iterator[Item]:
    """Rows named by the file and their number; `sign` is 0, since an array does not tell it."""
    triplets = array.reshape(-1, *STAMP_SHAPE)
    for start in range(0, len(triplets), batch):
        stamps = np.asarray(triplets[start : start + batch]).astype(np.float32)
        for offset, one in enumerate(stamps):
            yield Item(_row(f"{path.name.split('.')[0]}:{start + offset}", "", "", str(path), 0), one)


def _product_items(path: Path, candidates: CandidatesConfig | None) -> Iterator[Item]:
    if candidates is None:
        raise InputError(f"{path} is a FITS file, and finding its candidates needs the section `candidates`; run in the project's root.")
    from astrid.candidates.extract import find_candidates
    from astrid.candidates.stamps import cut_stamps
    from astrid.io.fits import read_difference

    try:
        difference = read_difference(path)
        found = find_candidates(difference, candidates, pair_id=path.name.split(".fits")[0])
        stamps = cut_stamps(difference, found)
    except AstridError as error:
        yield Item(_row("", "", "", str(path), 0) | {"reason": str(error)}, None)
        return
    for index, values in enumerate(found.to_dict("records")):
        row = _row(values["candidate_id"], "", values["survey"], str(path), int(values["sign"]))
        scorable = bool(values.get("scorable", True))
        yield Item(row | {"reason": "" if scorable else str(values["reason"])}, stamps[index] if scorable else None)


def _row(candidate_id: str, object_id: str, survey: str, source: str, sign: int) -> dict[str, Any]:
    return {"candidate_id": candidate_id, "object_id": object_id, "survey": survey, "source": source, "sign": sign, "reason": ""}

"""Image planes that lie on disk and are looked at through windows, so that an image of any size is worked on in bounded memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

LARGE = 5000 * 5000  # px; larger planes stay on disk (a float32 plane of this size takes 100 MB)
_SIGN = np.uint32(1 << 31)  # FITS has no unsigned integers: uint32 is stored as int32 with this offset


@dataclass(frozen=True)
class DiskPlane:
    """A two-dimensional plane in a file. Slicing reads (or writes) that window alone and keeps nothing mapped afterwards.

    `plane[rows, columns]` gives a fresh array in native byte order; `plane[rows, columns] = values` writes through, where the
    file is a scratch file of ours.
    """

    path: Path
    offset: int  # bytes, of the first pixel
    shape: tuple[int, int]  # (ny, nx)
    stored: str  # dtype in the file, such as ">f4"
    signed: bool = False  # stored as int32 minus 2^31, the FITS convention for uint32

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values that slicing gives."""
        return np.dtype(np.uint32) if self.signed else np.dtype(self.stored).newbyteorder("=")

    @property
    def ndim(self) -> int:
        return 2

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, window: Any) -> NDArray[Any]:
        values = np.array(self._mapped("r")[window], dtype=np.dtype(self.stored).newbyteorder("="))
        return np.asarray(values.view(np.uint32) ^ _SIGN) if self.signed else values

    def __setitem__(self, window: Any, values: Any) -> None:
        if self.signed:
            raise TypeError("a plane of a FITS product is read only")
        mapped = self._mapped("r+")
        mapped[window] = values

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        whole = self[:, :]
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def _mapped(self, mode: Any) -> NDArray[Any]:
        return np.memmap(self.path, dtype=self.stored, mode=mode, offset=self.offset, shape=self.shape)


class Scratch:
    """Hands out planes of zeros: in memory while they are small, in files of one folder, made when it is needed, when they are large."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._count = 0

    def __call__(self, shape: tuple[int, int], dtype: DTypeLike) -> Any:
        """A plane of zeros, (ny, nx): an ndarray, or a `DiskPlane` for more than `LARGE` pixels."""
        if shape[0] * shape[1] <= LARGE:
            return np.zeros(shape, dtype)
        if self._folder is None:
            self._place.parent.mkdir(parents=True, exist_ok=True)
            self._folder = tempfile.TemporaryDirectory(prefix=f".{self._place.name}.", suffix=".part", dir=self._place.parent)
        path = Path(self._folder.name) / f"{self._count}.plane"
        self._count += 1
        kind = np.dtype(dtype)
        with path.open("wb") as file:
            file.truncate(shape[0] * shape[1] * kind.itemsize)
        return DiskPlane(path, 0, (int(shape[0]), int(shape[1])), kind.str)

    def clear(self) -> None:
        """Remove the files; planes that were handed out must not be used any more."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


@contextmanager
def scratch_beside(path: Path) -> Iterator[Scratch]:
    """A `Scratch` whose files lie in the folder of `path` and are gone when the block ends."""
    scratch = Scratch(path)
    try:
        yield scratch
    finally:
        scratch.clear()

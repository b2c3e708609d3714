"""Whether a file that arrived is whole, readable, and an image of its event."""

from __future__ import annotations

import bz2
import re
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyError, VerifyWarning
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS, FITSFixedWarning
from astropy.wcs.wcs import NoConvergence
from numpy.typing import NDArray

from astrid.io.images import LEAST_SIZE
from astrid.io.wcs import one_line, without_tables
from astrid.sky.download.memory import digest
from astrid.sky.download.plan import Why

_FITS = re.compile(r"\.(fits?|fts|img)(\.(gz|fz|bz2))?$", re.IGNORECASE)
_HEADS = (b"SIMPLE  =", b"\x1f\x8b", b"BZh")
_BROKEN = (OSError, ValueError, TypeError, KeyError, IndexError, EOFError, zlib.error, VerifyError, AssertionError, MemoryError)
_CHUNK = 1 << 20  # bytes
_GZIP = 31  # zlib's window bits with a gzip header
_NEAR = 0.1  # share of an image's size by which distortions may move its border
_LOCK = threading.Lock()  # Python's filters of warnings are one for all threads


class DamagedError(Exception):
    """The bytes are not those of the archive's file, as far as can be seen: another transfer may bring them."""


class UnusableError(Exception):
    """The file is whole but no image of its event: another transfer would bring the same."""

    def __init__(self, reason: str, why: Why = "file broken") -> None:
        super().__init__(reason)
        self.why = why


def check_bytes(path: Path, size: int, checksum: str) -> None:
    """Compare a file with what the archive says of it (`size` 0 and `checksum` empty = nothing); raises `DamagedError`."""
    found = path.stat().st_size
    if size and found != size:
        raise DamagedError(f"it has {found} bytes and the archive says {size}")
    if not found:
        raise DamagedError("it is empty")
    algorithm, _, wanted = checksum.partition(":")
    if not wanted:
        return
    try:
        value = digest(path, algorithm.lower())
    except ValueError as error:
        raise UnusableError(f"its checksum is of the unknown kind {algorithm!r}") from error
    if value != wanted.lower():
        raise DamagedError(f"its {algorithm} is {value} and the archive says {wanted.lower()}")


def is_fits(name: str) -> bool:
    """Whether a file's name says that it is FITS, packed or not."""
    return _FITS.search(name) is not None


def check_fits(path: Path, target: tuple[float, float] | None, *, image: bool, sized: bool) -> None:
    """Open a FITS file from end to end.

    Every file: the packing ends where the file ends, every HDU is complete, keeps its CHECKSUM and DATASUM where it has them and can
    be read. An image besides: an extension with a celestial WCS, values that differ, and the event inside where there are data.

    Parameters
    ----------
    path
        The file.
    target
        The event (deg, ICRS); None = not checked.
    image
        False for a companion.
    sized
        The file has the length that the archive says: what lies behind its end is the archive's own.

    Raises
    ------
    DamagedError, UnusableError
        See there.
    """
    _check_packing(path, sized=sized)
    with _LOCK, _damage():
        _check_sums(path, sized=sized)
        planes = _read_all(path, target)
    if image:
        _check_image(planes, target)


def _check_packing(path: Path, *, sized: bool) -> None:
    """The outermost compression, whose readers take a file with something behind its end for a good one."""
    with path.open("rb") as stream:
        head = stream.read(16)
        if not head.startswith(_HEADS):
            raise DamagedError(f"it is not FITS (it begins with {head[:12]!r})")
        if head.startswith(_HEADS[0]):
            return
        stream.seek(0)
        make: Any = bz2.BZ2Decompressor if head.startswith(b"BZh") else lambda: zlib.decompressobj(_GZIP)
        packed, left = make(), b""
        try:
            while chunk := left or stream.read(_CHUNK):
                if packed.eof:
                    if sized and not chunk.startswith(_HEADS):
                        break
                    packed = make()
                packed.decompress(chunk)
                left = packed.unused_data if packed.eof else b""
        except (zlib.error, OSError, ValueError) as error:
            raise DamagedError(f"its packing is broken ({one_line(error)})") from error
        if not packed.eof:
            raise DamagedError("it ends in the middle of its packed data")


@contextmanager
def _damage() -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VerifyWarning)
            warnings.simplefilter("ignore", FITSFixedWarning)
            warnings.filterwarnings("ignore", category=RuntimeWarning)
            warnings.filterwarnings("error", message=".*(truncated|verification failed).*", category=AstropyUserWarning)
            warnings.filterwarnings("ignore", message=".*extra padding.*", category=AstropyUserWarning)  # see `sized`
            yield
    except AstropyUserWarning as error:
        raise DamagedError(f"its FITS is damaged ({one_line(error)})") from error
    except _BROKEN as error:
        raise DamagedError(f"its FITS cannot be read ({one_line(error) or type(error).__name__})") from error


def _check_sums(path: Path, *, sized: bool) -> None:
    """Sums and structure of the HDUs as they lie on disk, the tables of compressed images included."""
    with fits.open(path, disable_image_compression=True, memmap=False, checksum=True) as hdus:
        end = 0
        for hdu in hdus:
            hdu.verify("silentfix+exception")
            place = hdu.fileinfo()
            end = place["datLoc"] + place["datSpan"]
        behind = path.stat().st_size - end
    with path.open("rb") as stream:
        plain = stream.read(9) == _HEADS[0]
    if plain and (behind < 0 or (behind and not sized)):
        raise DamagedError(f"{abs(behind)} bytes {'lie behind its last' if behind > 0 else 'are missing of its last'} HDU")


@dataclass(frozen=True)
class _Plane:
    """What an image extension says of itself."""

    name: str
    varied: bool
    located: bool  # has a celestial WCS
    inside: bool  # the event is in it, where there are data


def _read_all(path: Path, target: tuple[float, float] | None) -> list[_Plane]:
    planes = []
    with fits.open(path, memmap=False) as hdus:
        for hdu in hdus:
            data = hdu.data
            if hdu.is_image and data is not None and data.ndim >= 2 and min(data.shape[-2:]) >= LEAST_SIZE:
                planes.append(_plane(hdu, data, hdus, target))
            del data
            if hasattr(hdu, "data"):
                del hdu.data  # one HDU in memory at a time
    return planes


def _plane(hdu: Any, data: NDArray[Any], hdus: Any, target: tuple[float, float] | None) -> _Plane:
    wcs = _wcs(hdu.header, hdus)
    first = data.reshape(-1, *data.shape[-2:])[0]
    return _Plane(hdu.name, _varied(data), wcs is not None, wcs is not None and (target is None or _holds(wcs, first, target)))


def _varied(data: NDArray[Any]) -> bool:
    """Whether the finite values differ, found without a copy of the whole image."""
    seen: Any = None
    for row in data.reshape(-1, data.shape[-1]):
        finite = row[np.isfinite(row)]
        if not len(finite):
            continue
        seen = finite[0] if seen is None else seen
        if (finite != seen).any():
            return True
    return False


def _wcs(header: Any, hdus: Any) -> WCS | None:
    """The celestial WCS; without the distortions in tables where these are broken, as they shift the border by little."""
    for cards in (header.copy(), without_tables(header)):
        try:
            wcs = WCS(cards, fobj=hdus, naxis=2)
            return wcs if wcs.has_celestial else None
        except (ValueError, TypeError, KeyError, AssertionError, IndexError, MemoryError):  # astropy has no one error for a bad header
            continue
    return None


def _holds(wcs: WCS, plane: NDArray[Any], target: tuple[float, float]) -> bool:
    """Whether a position lies in a plane with a finite pixel next to it; distortions are asked only near the image."""
    ny, nx = plane.shape
    x, y = (float(value[0]) for value in wcs.wcs_world2pix([target[0]], [target[1]], 0))
    if not (-_NEAR * nx <= x <= (1 + _NEAR) * nx and -_NEAR * ny <= y <= (1 + _NEAR) * ny):
        return False
    try:
        x, y = (float(value[0]) for value in wcs.all_world2pix([target[0]], [target[1]], 0))
    except NoConvergence:
        return False
    if not (-0.5 <= x <= nx - 0.5 and -0.5 <= y <= ny - 0.5):
        return False
    column, row = round(x), round(y)
    return bool(np.isfinite(plane[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]).any())


def _check_image(planes: list[_Plane], target: tuple[float, float] | None) -> None:
    if not planes:
        raise UnusableError(f"it holds no image of at least {LEAST_SIZE} x {LEAST_SIZE} pixels")
    planes = [plane for plane in planes if plane.name == "SCI"] or planes
    if not any(plane.varied for plane in planes):
        raise UnusableError("all pixels of its image have one value")
    if not any(plane.located for plane in planes):
        raise UnusableError("its image has no celestial WCS")
    if not any(plane.inside and plane.varied for plane in planes):
        where = "" if target is None else f" at {target[0]:.5f}, {target[1]:.5f} deg"
        raise UnusableError(f"the event{where} is not in its image, or there are no data around it", "not inside")

"""Writing FITS with sums and reading it with them: CHECKSUM and DATASUM on every HDU, without a time, at any size."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from astropy.io import fits

from astrid.core.errors import InputError
from astrid.core.runtime import atomic_path

_GZIP_HEADER = 10  # bytes
_SIGN = np.uint32(1 << 31)  # what FITS takes off unsigned integers
_BAND_PX = 1 << 22  # px of a large plane that are in memory at once while it is written
_BLOCK = 1 << 24  # bytes of a file that are in memory at once while its sums are verified


@dataclass(frozen=True, eq=False)
class LargePlane:
    """An image extension that is written row by row."""

    plane: Any
    name: str
    header: fits.Header


def write_hdus(path: Path, hdus: Sequence[Any]) -> None:
    """Write the HDUs and stamp the sums on them as they lie on disk, with no time in their comments."""
    with atomic_path(path) as temporary:
        if any(isinstance(hdu, LargePlane) for hdu in hdus):
            _stream(temporary, hdus)
        else:
            _write_at_once(temporary, hdus)


def _write_at_once(path: Path, hdus: Sequence[Any]) -> None:
    """Serialise once to compress, then once more with the sums."""
    packed = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(packed)
    _forget_times(packed.getbuffer())
    with fits.open(io.BytesIO(packed.getbuffer()), disable_image_compression=True, memmap=False) as raw:
        for hdu in raw:
            hdu.add_checksum(when="", checksum_keyword="CHECKSUM", datasum_keyword="DATASUM")
        raw.writeto(path, overwrite=True)


def _stream(path: Path, hdus: Sequence[Any]) -> None:
    """Append HDU by HDU, a large plane band by band; the cards of the sums are there from the start and filled in place."""
    sums = [("CHECKSUM", "0" * 16), ("DATASUM", "0")]
    for hdu in hdus:
        if not isinstance(hdu, LargePlane):
            hdu.header.extend(sums)
            fits.append(path, hdu.data, hdu.header) if path.exists() else fits.HDUList([hdu]).writeto(path)
            continue
        stream = fits.StreamingHDU(str(path), _image_header(hdu, sums))
        for start in range(0, hdu.plane.shape[0], _BAND_PX // hdu.plane.shape[1]):
            band = np.asarray(hdu.plane[start : start + _BAND_PX // hdu.plane.shape[1]])
            stream.write((band ^ _SIGN).view(np.int32) if band.dtype == np.uint32 else band.astype(np.float32, copy=False))
        stream.close()
    with fits.open(path, mode="update", memmap=False, disable_image_compression=True) as written:
        for written_hdu in written:
            written_hdu.add_checksum(when="", checksum_keyword="CHECKSUM", datasum_keyword="DATASUM")


def _image_header(large: LargePlane, sums: Sequence[tuple[str, str]]) -> fits.Header:
    """A complete header of an image extension; unsigned integers take the offset that FITS has for them."""
    unsigned = np.dtype(large.plane.dtype) == np.uint32
    ny, nx = large.plane.shape
    header = fits.Header([("XTENSION", "IMAGE"), ("BITPIX", 32 if unsigned else -32), ("NAXIS", 2), ("NAXIS1", nx), ("NAXIS2", ny)])
    offset = [("BSCALE", 1), ("BZERO", 1 << 31)] if unsigned else []
    header.extend([("PCOUNT", 0), ("GCOUNT", 1), *offset, ("EXTNAME", large.name)], strip=False)
    header.extend(large.header, strip=True)
    header.extend(sums)
    return header


def _forget_times(content: memoryview) -> None:
    """Zero, in place, the time in the gzip header of every compressed tile (RFC 1952, bytes 4 to 7).

    A plane compressed without loss is a table of one column of (length, offset into the heap), as 32-bit integers.
    """
    everything = np.frombuffer(content, np.uint8)
    with fits.open(io.BytesIO(content), disable_image_compression=True, memmap=False) as hdus:
        for hdu in hdus:
            if "ZCMPTYPE" in hdu.header:
                start, size = hdu.fileinfo()["datLoc"], hdu.header["NAXIS1"] * hdu.header["NAXIS2"]
                tiles = everything[start : start + size].view(">i4").reshape(-1, 2).astype(np.int64)
                first = start + size + tiles[tiles[:, 0] > _GZIP_HEADER, 1]
                everything[first[:, None] + np.arange(4, 8)] = 0


def verify_sums(path: Path, kind: str, *, mark: str) -> None:
    """Check that the 32-bit words of every HDU add up, in ones' complement, to all ones (FITS standard 4.0, appendix J).

    Raises `InputError` that names the HDU, or says that the file is no `kind` when it lacks the extension `mark`.
    """
    with fits.open(path, disable_image_compression=True, memmap=True) as hdus, path.open("rb") as file:
        for number, hdu in enumerate(hdus):
            where = hdu.fileinfo()
            total = _sum_of_words(file, where["hdrLoc"], where["datLoc"] + where["datSpan"])
            if "CHECKSUM" not in hdu.header or total != 0xFFFFFFFF:
                if mark not in {other.header.get("EXTNAME") for other in hdus}:
                    raise InputError(f"{path} is not a {kind} of AstrID (it has no HDU {mark}); make one from it first.")
                raise InputError(
                    f"the checksum of HDU {number} ({hdu.name or 'no name'}) of {path} does not hold; the file is corrupt, make it again."
                )


def _sum_of_words(file: BinaryIO, start: int, stop: int) -> int:
    file.seek(start)
    total = 0
    for begin in range(start, stop, _BLOCK):
        block = file.read(min(_BLOCK, stop - begin))
        total += int(np.frombuffer(block, dtype=">u4", count=len(block) // 4).sum(dtype=np.uint64))
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total

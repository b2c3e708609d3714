"""FITS images and their companions as surveys give them: .fits, .fits.gz, .fits.fz, one or many extensions, any header."""

from __future__ import annotations

import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyError, VerifyWarning
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS, FITSFixedWarning
from numpy.typing import NDArray

from astrid.core.errors import InputError
from astrid.core.records import FloatImage, Frames

LEAST_SIZE = 16  # px a side: below it no PSF and no sky can be measured
_BROKEN = (OSError, ValueError, TypeError, KeyError, IndexError, EOFError, zlib.error, VerifyError)
# Cards of a primary header that speak of its own array, not of the exposure.
_STRUCTURE = re.compile(
    r"^(SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|PCOUNT|GCOUNT|BSCALE|BZERO|CHECKSUM|DATASUM|EXTNAME|EXTVER|COMMENT|HISTORY|"
    r"WCSAXES|C(TYPE|UNIT|RVAL|RPIX|DELT|ROTA)\d|(CD|PC|PV|LTM)\d+_\d+|[AB]P?_(ORDER|\d+_\d+)|Z.*|)$"
)


def read_image(path: Path, hdu: str = "") -> tuple[FloatImage, fits.Header]:
    """Read a sky image from .fits, .fits.gz or .fits.fz.

    Parameters
    ----------
    path
        The file.
    hdu
        Extension by number or name ("2", "SCI"); empty takes the first one that holds an image.

    Returns
    -------
    data, header
        float32 (ny, nx) in native byte order, and the extension's header completed by the primary header's cards.

    Raises
    ------
    InputError
        The file is missing, truncated or not FITS, or the extension is absent, holds no image, only NaN, or one value.
    """
    array, header = _read_array(path, hdu)
    data = array.astype(np.float32)
    if min(data.shape) < LEAST_SIZE:
        raise InputError(f"{path} holds {_size(data.shape)} pixels and {LEAST_SIZE} x {LEAST_SIZE} are needed; give a sky image.")
    finite = np.isfinite(data)
    if not finite.any():
        raise InputError(f"{path} holds no finite pixel (all {data.size} are NaN or infinite); give another exposure.")
    values = data[finite]
    if values.min() == values.max():
        raise InputError(f"{path} holds the one value {values[0]:g} in all {values.size} finite pixels; give another exposure.")
    return data, header


def read_plane(path: Path, *, what: str, shape: tuple[int, int] | None = None, hdu: str = "") -> NDArray[Any]:
    """Read a companion image (`what`: "noise image", "mask", "PSF", ...) in its own type and native byte order.

    Raises `InputError` when it cannot be read, holds no finite value, or has not the (ny, nx) asked for.
    """
    array, _ = _read_array(path, hdu)
    if shape is not None and array.shape != shape:
        raise InputError(
            f"the {what} {path} has {_size(array.shape)} pixels but its image has {_size(shape)}; give the one that belongs to it."
        )
    if not np.isfinite(array).any():
        raise InputError(f"the {what} {path} holds no finite value; give another or leave it out.")
    return array


def read_frames(
    path: Path,
    *,
    hdu: str = "",
    bias: Path | None = None,
    flat: Path | None = None,
    mask: Path | None = None,
    noise: Path | None = None,
    psf: Path | None = None,
) -> Frames:
    """Read an exposure with its companions; only what needs no trimming (noise image, PSF) is checked for its shape here."""
    data, header = read_image(path, hdu)
    wcs = celestial_wcs(header, source=str(path))
    shape = (data.shape[0], data.shape[1])
    flagged = None if mask is None else read_plane(mask, what="mask")
    return Frames(
        source=path.name,
        data=data,
        header=header,
        wcs=wcs,
        bias=None if bias is None else read_plane(bias, what="master bias").astype(np.float32),
        flat=None if flat is None else read_plane(flat, what="master flat").astype(np.float32),
        mask=None if flagged is None else ~np.isfinite(flagged) | (flagged != 0),
        noise=None if noise is None else read_plane(noise, what="noise image", shape=shape).astype(np.float32),
        psf=None if psf is None else read_plane(psf, what="PSF").astype(np.float32),
    )


def celestial_wcs(header: fits.Header, *, source: str) -> WCS:
    """The two-dimensional celestial WCS of a header (TAN, SIP, TPV, CD or PC matrices).

    Raises `InputError` when there is none, or when it does not map the image's centre to the sky.
    """
    for card in ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2"):  # astropy takes 0 for a value that is no number
        if isinstance(header.get(card), str | bool):
            raise InputError(f"{source} has {card} = {header[card]!r}, which is no number; correct the header.")
    with quiet_wcs():
        try:
            wcs = WCS(header, naxis=2)
            centre = wcs.wcs_pix2world([[header.get("NAXIS1", 1) / 2, header.get("NAXIS2", 1) / 2]], 0) if wcs.has_celestial else None
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{source} has a broken WCS ({one_line(error)}); solve its astrometry first.") from error
    if centre is None or not np.isfinite(centre).all():
        raise InputError(f"{source} has no celestial WCS (CTYPE1 = {header.get('CTYPE1')!r}); solve its astrometry first.")
    return wcs


@contextmanager
def quiet_wcs() -> Iterator[None]:
    """Without astropy's remarks on dates and units that it repaired in memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        yield


def _read_array(path: Path, hdu: str) -> tuple[NDArray[Any], fits.Header]:
    if not path.is_file():
        raise InputError(f"{path} is a folder; name a FITS file." if path.is_dir() else f"{path} does not exist; correct the path.")
    with damage_as_errors(path):
        with fits.open(path, memmap=False) as hdus:
            chosen = _choose(hdus, hdu, path)
            array = np.asarray(chosen.data)
            header = _completed(chosen.header, hdus[0].header)
        array = _plane(array, path)
        return array.astype(array.dtype.newbyteorder("="), copy=False), header


@contextmanager
def damage_as_errors(path: Path) -> Iterator[None]:
    """Turn whatever astropy says of a truncated or foreign file into one `InputError`."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*truncated.*", category=AstropyUserWarning)
            warnings.simplefilter("ignore", VerifyWarning)
            yield
    except AstropyUserWarning as error:
        raise InputError(f"{path} is truncated ({one_line(error)}); fetch it again.") from error
    except _BROKEN as error:
        raise InputError(f"{path} is not a readable FITS file ({one_line(error)}); fetch it again or correct the path.") from error


def _choose(hdus: fits.HDUList, hdu: str, path: Path) -> Any:
    if hdu:
        try:
            chosen = hdus[int(hdu) if hdu.isdigit() else hdu]
        except (KeyError, IndexError):
            known = ", ".join(f"{number}:{entry.name}" for number, entry in enumerate(hdus))
            raise InputError(f"{path} has no extension {hdu!r}; it has {known}.") from None
        if not chosen.is_image or chosen.header.get("NAXIS", 0) < 2:
            raise InputError(f"extension {hdu!r} of {path} holds no image; name one that does.")
        return chosen
    for candidate in hdus:
        if candidate.is_image and candidate.header.get("NAXIS", 0) >= 2:
            return candidate
    raise InputError(f"{path} holds no image in its {len(hdus)} extensions; give a file with one.")


def _plane(array: NDArray[Any], path: Path) -> NDArray[Any]:
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2:
        raise InputError(f"{path} holds an array of {_size(array.shape)} where an image of two axes is needed; cut one plane out of it.")
    return array


def _completed(header: fits.Header, primary: fits.Header) -> fits.Header:
    complete = header.copy()
    for card in primary.cards:
        if not _STRUCTURE.match(card.keyword) and card.keyword not in complete:
            complete.append(card, end=True)
    return complete


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, reversed(shape)))


def one_line(error: BaseException) -> str:
    """The first sentence of an exception's message, on one line."""
    return " ".join(str(error).split()).split(". ")[0].rstrip(".")[:200]

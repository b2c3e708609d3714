"""FITS images and their companions as surveys give them: .fits, .fits.gz, .fits.fz, one or many extensions, any header."""

from __future__ import annotations

import re
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyError, VerifyWarning
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS
from numpy.typing import NDArray

from astrid.core.archive import Archive, Identity
from astrid.core.errors import InputError
from astrid.core.records import DQImage, FloatImage, Frames
from astrid.core.runtime import log
from astrid.io.amplifiers import mosaic, numbered_amplifiers
from astrid.io.flags import flags_beside
from astrid.io.headers import header_number
from astrid.io.missions import Companions, Mission, mission_of
from astrid.io.missions._base import is_image
from astrid.io.wcs import celestial_wcs, one_line

COMPANIONS = ("bias", "dark", "flat", "mask", "noise", "variance", "exposure", "psf")  # files that may lie beside an exposure
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
    return _sky_image(array.astype(np.float32), path), header


def _sky_image(data: FloatImage, path: Path) -> FloatImage:
    if min(data.shape) < LEAST_SIZE:
        raise InputError(f"{path} holds {_size(data.shape)} pixels and {LEAST_SIZE} x {LEAST_SIZE} are needed; give a sky image.")
    finite = np.isfinite(data)
    if not finite.any():
        raise InputError(f"{path} holds no finite pixel (all {data.size} are NaN or infinite); give another exposure.")
    values = data[finite]
    if values.min() == values.max():
        raise InputError(f"{path} holds the one value {values[0]:g} in all {values.size} finite pixels; give another exposure.")
    return data


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


@dataclass(frozen=True, eq=False)
class Listing:
    """One exposure of a file, as a survey's table needs it."""

    hdu: str  # empty = the only or first image
    header: fits.Header
    wcs: WCS
    shape: tuple[int, int]
    identity: Identity | None  # None = of no known mission
    siblings: Mapping[str, Path]  # companions that lie beside the file


def list_exposures(path: Path, hdu: str = "") -> list[Listing]:
    """Every exposure of a file: one an extension where its mission keeps them so, else the first image or the one named.

    Raises `InputError` when the file is missing or broken, or an image of it cannot be used.
    """
    _must_exist(path)
    with damage_as_errors(path), fits.open(path, memmap=False) as hdus:
        mission = mission_of(hdus)
        if mission is None:
            data, header, _, _ = _generic(hdus, hdu, path)
            wcs = celestial_wcs(header, source=str(path), hdus=hdus)
            return [Listing(hdu, header, wcs, _sky_image(data, path).shape, None, {})]
        headers = [one.header for one in hdus]
        numbers = mission.images(headers) if not hdu else [_numbered(hdus, hdu, path)]
        if not numbers:
            raise InputError(f"{path} holds no exposure of {mission.name}; give a calibrated image.")
        siblings = mission.siblings(path)
        listings = []
        for number in numbers:
            header = _completed(headers[number], headers[0])
            product = mission.read(hdus, number, header, Companions())
            wcs = _cropped(celestial_wcs(header, source=str(path), hdus=hdus), product.crop)
            shape = _sky_image(product.data, path).shape
            name = hdu if hdu else str(number) if len(numbers) > 1 else ""
            listings.append(Listing(name, header, wcs, (shape[0], shape[1]), product.archive.identity, siblings))
        return listings


def read_frames(
    path: Path,
    *,
    hdu: str = "",
    bias: Path | None = None,
    dark: Path | None = None,
    flat: Path | None = None,
    mask: Path | None = None,
    noise: Path | None = None,
    variance: Path | None = None,
    exposure: Path | None = None,
    psf: Path | None = None,
) -> Frames:
    """Read an exposure with its companions; only what needs no trimming (noise image, PSF) is checked for its shape here.

    A product of a known mission is read by it: its flags, noise, exposure and what was done are in `Frames.archive`, and companions
    that lie beside it under the mission's names are found. Where it has several exposures and none is named, the longest is taken.
    A raw frame may hold several amplifiers, in one image or in extensions of one detector, and flags of its observatory in an extension
    DQ whose cards name the bits.
    """
    given = {"mask": mask, "variance": variance, "exposure": exposure}
    data, header, wcs, amplifiers, archive, dq = _read_exposure(path, hdu, {kind: name for kind, name in given.items() if name is not None})
    shape = (data.shape[0], data.shape[1])
    masters = {"bias": bias, "dark": dark, "flat": flat}
    frames = {kind: _master(name, kind) for kind, name in masters.items() if name is not None}
    used = archive is not None and archive.dq is not None and mask is not None
    flagged = None if mask is None or used else read_plane(mask, what="mask")
    sigma = None if noise is None else read_plane(noise, what="noise image", shape=shape).astype(np.float32)
    if sigma is None and variance is not None and (archive is None or archive.variance is None):
        squares = read_plane(variance, what="variance image", shape=shape).astype(np.float32)
        sigma = np.sqrt(np.where(squares > 0, squares, 0))
    if exposure is not None and archive is None:
        raise InputError(f"{path} is of no known mission, so that the meaning of the exposure map {exposure} is unknown; leave it out.")
    return Frames(
        source=path.name,
        data=data,
        header=header,
        wcs=wcs,
        mask=None if flagged is None else ~np.isfinite(flagged) | (flagged != 0),
        noise=sigma,
        psf=None if psf is None else read_plane(psf, what="PSF").astype(np.float32),
        dark_exptime=frames["dark"].exptime if "dark" in frames else float("nan"),
        variances={kind: frame.variance for kind, frame in frames.items() if frame.variance is not None},
        amplifiers=amplifiers,
        archive=archive,
        dq=dq,
        **{kind: frame.data for kind, frame in frames.items()},
    )


@dataclass(frozen=True, eq=False)
class _Master:
    data: FloatImage
    variance: FloatImage | None  # from an extension VAR, or the square of ERR or UNCERT
    exptime: float


def _master(path: Path, kind: str) -> _Master:
    array, header = _read_array(path, "")
    if not np.isfinite(array).any():
        raise InputError(f"the master {kind} {path} holds no finite value; give another or leave it out.")
    exptime = header_number(header, ("EXPTIME", "DARKTIME", "EXPOSURE"))
    variance = None
    with damage_as_errors(path), fits.open(path, memmap=False) as hdus:
        for entry in hdus[1:]:
            if entry.is_image and entry.data is not None and entry.data.shape == array.shape and entry.name in ("VAR", "ERR", "UNCERT"):
                own = np.asarray(entry.data, dtype=np.float32)
                variance = own if entry.name == "VAR" else own**2
    return _Master(array.astype(np.float32), variance, float("nan") if exptime is None else exptime)


def _read_exposure(
    path: Path, hdu: str, companions: Mapping[str, Path]
) -> tuple[FloatImage, fits.Header, WCS, Any, Archive | None, DQImage | None]:
    _must_exist(path)
    with damage_as_errors(path), fits.open(path, memmap=False) as hdus:
        mission = mission_of(hdus)
        if mission is None:
            data, header, amplifiers, dq = _generic(hdus, hdu, path)
            return _sky_image(data, path), header, celestial_wcs(header, source=str(path), hdus=hdus), amplifiers, None, dq
        headers = [one.header for one in hdus]
        number = _numbered(hdus, hdu, path) if hdu else _longest(mission, headers, path)
        header = _completed(headers[number], headers[0])
        beside = {**mission.siblings(path), **{kind: name for kind, name in companions.items() if kind in mission.beside}}
        planes, cards = {}, {}
        for kind, name in beside.items():
            planes[kind], cards[kind] = _companion_plane(name, kind, mission, headers[number], number)
        product = mission.read(hdus, number, header, Companions(planes, cards))
        for what, plane in (
            ("exposure map", product.archive.exposure),
            ("variance image", product.archive.variance),
            ("mask", product.archive.dq),
        ):
            if plane is not None and plane.shape != product.data.shape:
                raise InputError(
                    f"the {what} of {path} has {_size(plane.shape)} pixels but its image has {_size(product.data.shape)}; give its own."
                )
        wcs = _cropped(celestial_wcs(header, source=str(path), hdus=hdus), product.crop)
        return _sky_image(product.data, path), header, wcs, (), product.archive, None


def _companion_plane(path: Path, kind: str, mission: Mission, header: fits.Header, number: int) -> tuple[NDArray[Any], fits.Header]:
    _must_exist(path)
    with damage_as_errors(path), fits.open(path, memmap=False) as hdus:
        headers = [one.header for one in hdus]
        index = mission.extension(header, number, headers)
        if not is_image(headers[index]):
            raise InputError(f"the {kind} file {path} holds no image; give another or leave it out.")
        array = _plane(np.asarray(hdus[index].data), path)
        return array.astype(array.dtype.newbyteorder("="), copy=False), _completed(headers[index], headers[0])


def _longest(mission: Mission, headers: Sequence[fits.Header], path: Path) -> int:
    numbers = mission.images(headers)
    if not numbers:
        raise InputError(f"{path} holds no exposure of {mission.name}; give a calibrated image.")
    if len(numbers) == 1:
        return numbers[0]
    seconds = [mission.identity(_completed(headers[number], headers[0])).exptime for number in numbers]
    chosen = numbers[int(np.argmax(np.nan_to_num(seconds)))]
    log.info(
        "%s holds %d exposures; the longest is taken, HDU %d (%s)", path.name, len(numbers), chosen, headers[chosen].get("EXTNAME", "")
    )
    return chosen


def _generic(hdus: fits.HDUList, hdu: str, path: Path) -> tuple[FloatImage, fits.Header, tuple[Any, ...], DQImage | None]:
    chosen = _choose(hdus, hdu, path)
    joined = mosaic(hdus, next(number for number, entry in enumerate(hdus) if entry is chosen))
    if joined is not None:
        return joined.data.astype(np.float32), _completed(joined.header, hdus[0].header), joined.amplifiers, None
    array = _plane(np.asarray(chosen.data), path)
    header = _completed(chosen.header, hdus[0].header)
    plain = array.astype(array.dtype.newbyteorder("="), copy=False).astype(np.float32)
    return plain, header, numbered_amplifiers(header), flags_beside(hdus, chosen)


def _numbered(hdus: fits.HDUList, hdu: str, path: Path) -> int:
    chosen = _choose(hdus, hdu, path)
    return next(number for number, entry in enumerate(hdus) if entry is chosen)


def _cropped(wcs: WCS, crop: Any) -> WCS:
    return wcs if crop is None else wcs[crop]


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path} is a folder; name a FITS file." if path.is_dir() else f"{path} does not exist; correct the path.")


def _read_array(path: Path, hdu: str) -> tuple[NDArray[Any], fits.Header]:
    _must_exist(path)
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

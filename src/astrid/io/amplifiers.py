"""The readout channels of a raw frame, from its cards: numbered sections in one image, or one extension an amplifier.

Conventions: NOAO/IRAF mosaics (TRIMSEC, DATASEC, BIASSEC, CCDSEC, DETSEC, CCDSUM, sections "[x1:x2,y1:y2]", 1-based, reversed where
a channel is read from its other end), DECam (DATASECA, BIASSECA, GAINA, RDNOISEA, SATURATA), numbered ones (TRIMSEC1, BIASSEC1).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from astrid.core.archive import Amplifier, Section, pack
from astrid.core.errors import InputError
from astrid.io.headers import header_number, header_text

if TYPE_CHECKING:
    from astropy.io.fits import HDUList, Header

NAN = float("nan")
_SECTION = re.compile(r"^\s*\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]\s*$")
_SUFFIX = re.compile(r"^(TRIMSEC|DATASEC|TSEC)([A-Z]|\d{1,2})$")
_DATA = ("TRIMSEC", "DATASEC", "TSEC")
_OVERSCAN = ("BIASSEC", "BSEC")
_PLACE = ("CCDSEC", "DETSEC")
_GAIN = ("GAIN", "GTGAIN", "EGAIN")
_READ_NOISE = ("RDNOISE", "READNOI", "GTRON", "RON")
_SATURATION = ("SATURAT", "SATURATE", "SATLEV")
_CCD = ("CCDNAME", "CCDNUM", "CCDID", "DETECTOR")


@dataclass(frozen=True)
class _Range:
    """A section with the ends it was given by: reversed where its start lies above its end."""

    rows: slice
    columns: slice
    flip_y: bool
    flip_x: bool

    @property
    def section(self) -> Section:
        return self.rows, self.columns


@dataclass(frozen=True, eq=False)
class Mosaic:
    """The amplifiers of one detector in one frame, and the header whose WCS counts from the first one's data section."""

    data: NDArray[Any]
    header: Header
    amplifiers: tuple[Amplifier, ...]


def numbered_amplifiers(header: Header) -> tuple[Amplifier, ...]:
    """The channels of one image whose cards carry a letter or number each (TRIMSECA, BIASSECA, GAINA); empty for fewer than two.

    Raises `InputError` when a section is malformed.
    """
    names = sorted({match.group(2) for match in map(_SUFFIX.match, header) if match})
    if len(names) < 2:
        return ()
    sections = [_read(header, _DATA, name) for name in names]
    if any(section is None for section in sections):
        return ()
    data = [section.section for section in sections if section is not None]
    return tuple(_amplifier(header, name, part, place, name) for name, part, place in zip(names, data, pack(data), strict=True))


def mosaic(hdus: HDUList, number: int) -> Mosaic | None:
    """Join the extensions that read one detector, the one of HDU `number`; None when that HDU reads a detector alone.

    Each must say its place on the detector (CCDSEC or DETSEC) and have an overscan.

    Raises
    ------
    InputError
        Extensions of one detector have different sizes, or a section does not fit its pixels.
    """
    chosen = _ccd(hdus[number].header)
    members = [index for index, hdu in enumerate(hdus) if _reads(hdu) and _ccd(hdu.header) == chosen]
    if number not in members or len(members) < 2:
        return None
    shapes = {hdus[index].data.shape for index in members}
    if len(shapes) > 1:
        raise InputError(f"the amplifiers of detector {chosen or 'in this file'} have {len(shapes)} sizes; give them as separate files.")
    places = {index: _read(hdus[index].header, _PLACE, "") for index in members}
    ordered = sorted(members, key=lambda index: _flipped(places[index]))  # the header of one that is not mirrored leads
    ny, nx = shapes.pop()
    frame = np.concatenate([_upright(np.asarray(hdus[index].data), places[index]) for index in ordered], axis=1)
    amplifiers = []
    origin = [min(_binned(places[index], hdus[index].header)[axis].start for index in members) for axis in (0, 1)]
    for position, index in enumerate(ordered):
        header, place = hdus[index].header, _binned(places[index], hdus[index].header)
        moved = tuple(slice(part.start - start, part.stop - start) for part, start in zip(place, origin, strict=True))
        data = _read(header, _DATA, "") or _Range(slice(0, ny), slice(0, nx), False, False)
        inside = _shifted(_mirrored(data.section, places[index], (ny, nx)), position * nx)
        found = _amplifier(header, "", inside, (moved[0], moved[1]), header_text(header, ("EXTNAME", "AMPNAME")) or str(index))
        overscan = None if found.overscan is None else _shifted(_mirrored(found.overscan, places[index], (ny, nx)), position * nx)
        amplifiers.append(Amplifier(found.name, inside, found.place, overscan, found.gain, found.read_noise, found.saturation))
    return Mosaic(frame, _mirrored_wcs(hdus[ordered[0]].header, places[ordered[0]], (ny, nx)), tuple(amplifiers))


def _amplifier(header: Header, suffix: str, data: Section, place: Section, name: str) -> Amplifier:
    overscan = _read(header, _OVERSCAN, suffix)
    numbers = [header_number(header, [f"{key}{suffix}" for key in keys]) for keys in (_GAIN, _READ_NOISE, _SATURATION)]
    known = [NAN if value is None else value for value in numbers]
    return Amplifier(name, data, place, None if overscan is None else overscan.section, *known)


def _reads(hdu: Any) -> bool:
    """Whether an extension is one amplifier: an image that says its place on the detector and its overscan."""
    header = hdu.header
    return bool(
        hdu.is_image and header.get("NAXIS", 0) == 2 and any(key in header for key in _PLACE) and any(k in header for k in _OVERSCAN)
    )


def _ccd(header: Header) -> str:
    return header_text(header, _CCD) or ""


def _read(header: Header, keys: Sequence[str], suffix: str) -> _Range | None:
    text = header_text(header, [f"{key}{suffix}" for key in keys])
    if text is None:
        return None
    match = _SECTION.match(text)
    if match is None:
        raise InputError(f"the section {text!r} is not of the form [x1:x2,y1:y2]; correct the header.")
    x1, x2, y1, y2 = map(int, match.groups())
    low_x, high_x, low_y, high_y = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
    return _Range(slice(low_y - 1, high_y), slice(low_x - 1, high_x), y1 > y2, x1 > x2)


def _binned(place: _Range | None, header: Header) -> Section:
    """A place on the detector in binned pixels (CCDSUM)."""
    assert place is not None
    words = str(header.get("CCDSUM", "1 1")).replace(",", " ").split()
    steps = [int(word) for word in words] if len(words) == 2 and all(word.isdigit() for word in words) else [1, 1]
    by, bx = steps[1], steps[0]
    rows, columns = place.section
    return slice(rows.start // by, rows.stop // by), slice(columns.start // bx, columns.stop // bx)


def _flipped(place: _Range | None) -> int:
    return 0 if place is None else int(place.flip_x) + int(place.flip_y)


def _upright(data: NDArray[Any], place: _Range | None) -> NDArray[Any]:
    if place is None:
        return data
    return data[:: -1 if place.flip_y else 1, :: -1 if place.flip_x else 1]


def _mirrored(section: Section, place: _Range | None, shape: tuple[int, int]) -> Section:
    rows, columns = section
    if place is not None and place.flip_y:
        rows = slice(shape[0] - rows.stop, shape[0] - rows.start)
    if place is not None and place.flip_x:
        columns = slice(shape[1] - columns.stop, shape[1] - columns.start)
    return rows, columns


def _shifted(section: Section, dx: int) -> Section:
    return section[0], slice(section[1].start + dx, section[1].stop + dx)


def _mirrored_wcs(header: Header, place: _Range | None, shape: tuple[int, int]) -> Header:
    """The header with its linear WCS turned as its pixels were."""
    out = header.copy()
    if place is None or not _flipped(place):
        return out
    if any(str(header.get(f"CTYPE{axis}", ""))[-3:] in ("SIP", "TPV", "TNX", "ZPX") for axis in (1, 2)):
        raise InputError("every amplifier of this detector is mirrored and its WCS has distortions; give a frame with one that is not.")
    for axis, turned, length in ((1, place.flip_x, shape[1]), (2, place.flip_y, shape[0])):
        if turned:
            if f"CRPIX{axis}" in out:
                out[f"CRPIX{axis}"] = length + 1 - float(out[f"CRPIX{axis}"])
            cards = [f"CD{row}_{axis}" for row in (1, 2)] + [f"PC{row}_{axis}" for row in (1, 2)]
            present = [card for card in cards if card in out]
            for card in present or [f"CDELT{axis}"]:
                if card in out:
                    out[card] = -float(out[card])
    return out

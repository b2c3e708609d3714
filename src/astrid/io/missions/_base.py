"""What every mission answers of its files, and the small tools that all of them use."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from astrid.core.archive import Archive, Identity, Section
from astrid.core.dq import DQ
from astrid.core.records import FloatImage
from astrid.io.headers import header_mjd, header_number, header_text

if TYPE_CHECKING:
    from astropy.io.fits import HDUList, Header

NAN = float("nan")
_UNITS = {
    "electrons": "electron",
    "e-": "electron",
    "electrons/s": "electron/s",
    "e-/s": "electron/s",
    "electron/sec": "electron/s",
    "counts": "count",
    "counts/s": "count/s",
    "dn": "adu",
}


@dataclass(frozen=True, eq=False)
class Product:
    """An exposure as its mission gives it: linear pixels, and what is known of them."""

    data: FloatImage  # (ny, nx)
    archive: Archive
    crop: Section | None = None  # the part of the HDU that `data` is; None = all of it


@dataclass(frozen=True)
class Companions:
    """Planes that lie in files beside the product, read in their own type, and their headers."""

    planes: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    headers: Mapping[str, Header] = field(default_factory=dict)


class Mission(ABC):
    """One mission's products."""

    name: str
    beside: Mapping[str, tuple[tuple[str, str], ...]] = {}  # companion -> (pattern, replacement) of the file's name
    companion_names: tuple[str, ...] = ()  # patterns of files that are nobody's exposure

    @abstractmethod
    def claims(self, headers: Sequence[Header]) -> bool:
        """Whether the headers of a file, primary first, are those of this mission's calibrated products."""

    @abstractmethod
    def images(self, headers: Sequence[Header]) -> list[int]:
        """The HDUs that are exposures of their own."""

    @abstractmethod
    def identity(self, header: Header) -> Identity:
        """Who an exposure is; `header` is that of its HDU, completed by the primary one."""

    @abstractmethod
    def read(self, hdus: HDUList, number: int, header: Header, companions: Companions) -> Product:
        """The exposure in HDU `number`."""

    def extension(self, header: Header, number: int, headers: Sequence[Header]) -> int:
        """The HDU of a companion file (`headers`) for the exposure `header` in HDU `number`: the same number, or the first image."""
        images = [index for index, other in enumerate(headers) if is_image(other)]
        return number if number in images else images[0] if images else 0

    def siblings(self, path: Path) -> dict[str, Path]:
        """The companions that lie beside a product and are named after it."""
        found = {}
        for kind, rules in self.beside.items():
            for pattern, replacement in rules:
                name, count = re.subn(pattern, replacement, path.name)
                for ending in ("", ".gz", ".fz"):
                    other = path.with_name(re.sub(r"\.(gz|fz)$", "", name) + ending)
                    if count and kind not in found and other != path and other.is_file():
                        found[kind] = other
        return found

    def is_companion(self, name: str, names: Iterable[str]) -> bool:
        """Whether a file of this name is a companion, given the names in its folder."""
        return any(re.search(pattern, name) for pattern in self.companion_names)


def is_image(header: Header) -> bool:
    """True for an HDU with an image of two axes, compressed ones included."""
    image = str(header.get("XTENSION", "IMAGE")).strip() == "IMAGE" or bool(header.get("ZIMAGE"))
    return image and int(header.get("ZNAXIS", header.get("NAXIS", 0))) >= 2


def telescope(headers: Sequence[Header], *names: str) -> bool:
    """Whether a header names one of the telescopes."""
    return any(str(header.get("TELESCOP", "")).strip().upper().startswith(names) for header in headers)


def mapped(flags: NDArray[Any], bits: Mapping[int, DQ]) -> NDArray[np.uint32]:
    """A mission's flags as AstrID's: {bit of the mission: bit of `core.dq.DQ`}; bits that are not named are left out."""
    raw = np.asarray(flags).astype(np.int64)
    out = np.zeros(raw.shape, np.uint32)
    for flag in set(bits.values()):
        together = sum(bit for bit, meaning in bits.items() if meaning == flag)
        out[(raw & together) != 0] |= np.uint32(flag)
    return out


def unit(header: Header, default: str = "") -> str:
    """BUNIT in one spelling."""
    text = str(header.get("BUNIT", "") or default).strip()
    return _UNITS.get(text.lower(), text)


def middle(
    header: Header, exptime: float, *, ends: tuple[str, str] | None = None, starts: Sequence[str] = ("MJD-OBS", "DATE-OBS")
) -> float:
    """Middle of an exposure, MJD: of the two cards of its ends, or its start and half the exposure time."""
    if ends is not None:
        both = [header_number(header, (card,)) for card in ends]
        if both[0] is not None and both[1] is not None:
            return 0.5 * (both[0] + both[1])
    found = header_mjd(header, starts, exptime)
    return NAN if found is None else found


def number(header: Header, *cards: str) -> float:
    """The first finite number of the cards, or NaN."""
    found = header_number(header, cards)
    return NAN if found is None else found


def text(header: Header, *cards: str) -> str:
    """The first telling value of the cards, or nothing."""
    return header_text(header, cards) or ""


def completed_steps(header: Header, cards: Mapping[str, str]) -> tuple[str, ...]:
    """The names of the steps whose card says that they were done (COMPLETE, PERFORM in a finished product, T)."""
    return tuple(name for card, name in cards.items() if str(header.get(card, "")).strip().upper() in ("COMPLETE", "PERFORM", "T", "TRUE"))


def plane(hdus: HDUList, name: str, version: int = 1) -> NDArray[Any] | None:
    """The pixels of an extension (name, version), None where it is absent or empty (HST leaves out a plane of one value)."""
    for hdu in hdus[1:]:
        if hdu.name == name and int(hdu.header.get("EXTVER", 1)) == version and hdu.header.get("NAXIS", 0) >= 2:
            return np.asarray(hdu.data)
    return None


def squared(sigma: NDArray[Any] | None) -> NDArray[np.float32] | None:
    """The variance of an error plane; 0 where it is not positive, which stands for unknown."""
    if sigma is None:
        return None
    known = np.isfinite(sigma) & (sigma > 0)
    return np.where(known, np.asarray(sigma, np.float32), np.float32(0)) ** 2

"""Data-quality bits by name: the cards of AstrID's own DQ planes, and such a plane beside an image that somebody else wrote."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.io import fits

from astrid.core.dq import DQ
from astrid.core.records import DQImage

_NAME = "DQ"
_CARD = "DQBIT"


def dq_cards() -> fits.Header:
    """One card a bit, DQBITn = its name."""
    return fits.Header([(f"{_CARD}{flag.value.bit_length() - 1}", flag.name, f"value {flag.value}") for flag in DQ])


def flags_beside(hdus: fits.HDUList, image: Any) -> DQImage | None:
    """The flags of an image, uint32, from the extension DQ of its version; None where there is none that names its bits.

    The header's DQBITn cards name the bits, whatever their order; a bit that is not named there or not known is left out.
    """
    known = {flag.name: int(flag) for flag in DQ}
    for hdu in hdus[1:]:
        if hdu.name != _NAME or not hdu.is_image or hdu.header.get("NAXIS", 0) != 2 or hdu.ver != image.ver:
            continue
        named = {
            card.keyword.removeprefix(_CARD): known.get(str(card.value)) for card in hdu.header.cards if card.keyword.startswith(_CARD)
        }
        bits = {1 << int(number): bit for number, bit in named.items() if number.isdigit() and bit is not None}
        if not bits:
            continue
        raw = np.asarray(hdu.data).astype(np.int64)
        out = np.zeros(raw.shape, np.uint32)
        for given, bit in bits.items():
            out[(raw & given) != 0] |= np.uint32(bit)
        return out
    return None

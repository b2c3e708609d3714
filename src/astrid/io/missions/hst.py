"""Hubble images: calibrated detector frames (flt, flc: SCI, ERR, DQ a chip) and drizzled ones (drz, drc: SCI, WHT).

Documents: HST Introduction to the data handbooks (file formats); WFC3 Data Handbook 5, table 3.3, and ACS Data Handbook, table 3.4
(DQ bits); DrizzlePac Handbook (WHT). A drizzled pixel's weight is used as relative exposure only, since its unit depends on how
the product was made; its noise is measured on the blank sky.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from astrid.core.archive import Archive, Identity
from astrid.core.dq import DQ
from astrid.io.missions._base import (
    NAN,
    Companions,
    Mission,
    Product,
    completed_steps,
    is_image,
    mapped,
    middle,
    number,
    plane,
    squared,
    telescope,
    text,
    unit,
)  # fmt: skip

if TYPE_CHECKING:
    from astropy.io.fits import HDUList, Header

_STEPS = {
    "BIASCORR": "bias",
    "BLEVCORR": "overscan",
    "DARKCORR": "dark",
    "NLINCORR": "linearity",
    "PCTECORR": "charge transfer",
    "FLATCORR": "flat",
    "CRCORR": "cosmic rays",
    "UNITCORR": "unit",
    "PHOTCORR": "photometry",
    "DRIZCORR": "drizzle",
}
_CCD = {
    1: DQ.BAD,  # Reed-Solomon error
    2: DQ.BAD,  # replaced by a fill value
    4: DQ.BAD,  # bad detector pixel
    8: DQ.BAD,  # masked by an aperture
    16: DQ.HOT,
    32: DQ.SUSPECT,  # unstable, or charge-transfer tail
    64: DQ.SUSPECT,  # warm
    128: DQ.BAD,  # bad in the bias
    256: DQ.SATURATED,  # full well
    512: DQ.BAD,  # bad in the flat
    1024: DQ.SUSPECT,  # charge trap, sink pixel
    2048: DQ.SATURATED,  # analogue to digital
    4096: DQ.COSMIC_RAY,  # found by AstroDrizzle
    8192: DQ.COSMIC_RAY,  # found by CR-SPLIT rejection
    16384: DQ.SUSPECT,  # ghost, crosstalk
}
_INFRARED: Mapping[int, DQ] = {
    **_CCD,
    8: DQ.BAD,  # unstable in the zeroth read
    64: DQ.SUSPECT,
    512: DQ.SUSPECT,  # blobs: less sensitive, but corrected for by newer flats
    2048: DQ.SUSPECT,  # signal in the zeroth read
    8192: DQ.SUSPECT,  # a cosmic ray that the fit up the ramp has removed
}
_COUNTS = ("electron", "count", "adu")


class _Hst(Mission):
    name = "hst"

    def claims(self, headers: Sequence[Header]) -> bool:
        return telescope(headers, "HST") and any(_science(header) for header in headers)

    def images(self, headers: Sequence[Header]) -> list[int]:
        return [index for index, header in enumerate(headers) if _science(header) and is_image(header)]

    def identity(self, header: Header) -> Identity:
        exptime = number(header, "EXPTIME", "TEXPTIME")
        filters = [str(header.get(card, "")).strip() for card in ("FILTER", "FILTER1", "FILTER2", "FILTNAM1")]
        band = next((name for name in filters if name and not name.upper().startswith(("CLEAR", "N/A"))), "")
        chip = f"{text(header, 'DETECTOR')}{header.get('CCDCHIP', '') if not _drizzled(header) else ''}"
        mjd = middle(header, exptime, ends=("EXPSTART", "EXPEND"), starts=("MJD-OBS", "DATE-OBS"))
        return Identity("hst", text(header, "INSTRUME").lower(), chip, band, unit(header), mjd, exptime, text(header, "TARGNAME"))

    def read(self, hdus: HDUList, number: int, header: Header, companions: Companions) -> Product:
        data = np.asarray(hdus[number].data, dtype=np.float32)
        version = int(header.get("EXTVER", 1))
        weight, flags = plane(hdus, "WHT", version), plane(hdus, "DQ", version)
        infrared = text(header, "DETECTOR").upper() == "IR"
        errors = None if weight is not None else plane(hdus, "ERR", version)
        seconds = plane(hdus, "TIME", version) if infrared else None
        exposure = None if weight is None else np.where(np.isfinite(weight) & (weight > 0), weight, 0).astype(np.float32)
        archive = Archive(
            identity=self.identity(header),
            done=completed_steps(header, _STEPS) or (("drizzle",) if weight is not None else ()),
            dq=None if flags is None else mapped(flags, _INFRARED if infrared else _CCD),
            variance=squared(errors),
            gain=_gain(header, exposure, seconds),
            exposure=exposure,
            notes={"product": "drizzled" if _drizzled(header) or weight is not None else "detector frame"},
        )
        return Product(data, archive)


def _science(header: Header) -> bool:
    return str(header.get("EXTNAME", "")).strip().upper() == "SCI" or ("NDRIZIM" in header and is_image(header))


def _drizzled(header: Header) -> bool:
    return "NDRIZIM" in header or "D001DATA" in header


def _gain(header: Header, weight: NDArray[np.float32] | None, seconds: NDArray[Any] | None) -> float | NDArray[np.float32] | None:
    """Electrons a unit: 1, the gain of counts, or for a rate the seconds, in a drizzled image in proportion to the weight."""
    said = unit(header)
    if said in _COUNTS:
        per_count = number(header, "ATODGAIN", "CCDGAIN", "ATODGNA")
        return 1.0 if said == "electron" else per_count if per_count > 0 else None
    exptime = number(header, "EXPTIME", "TEXPTIME")
    if not said.endswith("/s") or not exptime > 0:
        return None
    per_unit = 1.0 if said.startswith("electron") else number(header, "ATODGAIN", "CCDGAIN")
    if seconds is not None:
        return np.where(seconds > 0, seconds, NAN).astype(np.float32)
    if weight is None or not (weight > 0).any():
        return exptime * per_unit
    return (exptime * per_unit * weight / np.median(weight[weight > 0])).astype(np.float32)


HST = _Hst()

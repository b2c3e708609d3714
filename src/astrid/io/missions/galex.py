"""GALEX direct-imaging maps: intensity (-int, counts a second) or counts (-cnt), with the relative response (-rrhr, s) beside.

Documents: GALEX pipeline data guide (GSFC/Caltech, file types and artefact flags); Morrissey et al. 2007, ApJS 173, 682.
An intensity is counts over response, so that the response is the counts a unit of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from astrid.core.archive import Archive, Identity
from astrid.core.dq import DQ
from astrid.io.missions._base import NAN, Companions, Mission, Product, is_image, mapped, number, telescope, text

if TYPE_CHECKING:
    from astropy.io.fits import HDUList, Header

_GPS_EPOCH = 44244.0  # MJD of 1980-01-06, from which EXPSTART and EXPEND count seconds
_SECONDS_A_DAY = 86400.0
_BANDS = {1: "NUV", 2: "FUV"}
# Artefact flags (pipeline data guide): only the masked ones are without a value.
_BITS = {
    1: DQ.EDGE,  # detector bevel edge reflection
    2: DQ.SUSPECT,  # window reflection
    4: DQ.SUSPECT,  # dichroic reflection
    8: DQ.SUSPECT,  # variable pixel
    16: DQ.SUSPECT,  # bright star near the field's edge
    32: DQ.EDGE,  # detector rim
    64: DQ.BAD,  # dichroic reflection, masked
    128: DQ.BAD,  # variable pixel, masked
    256: DQ.HOT,  # detector hot spot
    512: DQ.SUSPECT,  # yellow star
}


class _Galex(Mission):
    name = "galex"
    beside = {  # noqa: RUF012
        "exposure": ((r"-(int|cnt)\.fits", r"-rrhr.fits"),),
        "mask": ((r"-(int|cnt)\.fits", r"-flags.fits"),),
    }
    companion_names = (r"-[nf]d-(rrhr|rr|exp|flags|skybg|intbgsub|wt|thresh|objmask|scdose|movie)\.fits",)

    def claims(self, headers: Sequence[Header]) -> bool:
        return telescope(headers, "GALEX")

    def images(self, headers: Sequence[Header]) -> list[int]:
        return [index for index, header in enumerate(headers) if is_image(header)][:1]

    def is_companion(self, name: str, names: Iterable[str]) -> bool:
        """A count map beside the intensity map of the same visit is not a second exposure."""
        twin = re.sub(r"-cnt\.fits", "-int.fits", name)
        return super().is_companion(name, names) or (twin != name and twin in set(names))

    def identity(self, header: Header) -> Identity:
        band = _BANDS.get(int(header["BAND"]), "") if isinstance(header.get("BAND"), int | float) else text(header, "BAND", "FILTER")
        exptime = number(header, "EXPTIME", "AVGEXP", "MEDRR")
        return Identity("galex", "galex", "", band, _unit(header), _date(header, exptime), exptime, text(header, "OBJECT", "TILENAME"))

    def read(self, hdus: HDUList, number: int, header: Header, companions: Companions) -> Product:
        data = np.asarray(hdus[number].data, dtype=np.float32)
        response = companions.planes.get("exposure")
        exposure = None if response is None else np.asarray(response, dtype=np.float32)
        counts = _unit(header) == "count"
        seconds = self.identity(header).exptime
        gain: float | NDArray[np.float32] | None = 1.0
        if not counts:
            gain = exposure if exposure is not None else seconds if seconds > 0 else None
        flags = companions.planes.get("mask")
        archive = Archive(
            identity=self.identity(header),
            done=("aspect", "dead time", *(() if counts else ("flat", "exposure"))),
            dq=None if flags is None else mapped(_enlarged(flags, data.shape), _BITS),
            gain=gain,
            exposure=exposure,
            counting=True,
            notes={"response": "map" if exposure is not None else "exposure time"},
        )
        return Product(data, archive)


def _unit(header: Header) -> str:
    """Counts or counts a second: by BUNIT, else by the file's own name in the header, else the intensity map's."""
    said = str(header.get("BUNIT", "")).strip().lower()
    if said:
        return "count" if said in ("count", "counts", "photon", "photons") else "count/s"
    names = " ".join(str(header.get(card, "")) for card in ("FILENAME", "SUFFIX", "CNTFILE", "OUTFILE"))
    return "count" if "-cnt" in names else "count/s"


def _date(header: Header, exptime: float) -> float:
    start, end = number(header, "EXPSTART"), number(header, "EXPEND")
    if np.isfinite(start) and np.isfinite(end):
        return _GPS_EPOCH + 0.5 * (start + end) / _SECONDS_A_DAY
    from astrid.io.headers import header_mjd

    day, clock = text(header, "OBS-DATE", "DATE-OBS"), text(header, "TIME-OBS")
    if not day:
        return NAN
    from astropy.io.fits import Header as Cards

    joined = f"{day}T{clock}" if clock and "T" not in day else day
    found = header_mjd(Cards([("DATE-OBS", joined)]), ("DATE-OBS",), exptime)
    return NAN if found is None else found


def _enlarged(flags: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The flag map, which is coarser than the image by a whole number, on the image's pixels; nothing where it does not fit."""
    steps = [full // coarse for full, coarse in zip(shape, flags.shape, strict=True)]
    if any(step < 1 or coarse * step != full for step, coarse, full in zip(steps, flags.shape, shape, strict=True)):
        return np.zeros(shape, np.int32)
    return np.repeat(np.repeat(flags, steps[0], axis=0), steps[1], axis=1)


GALEX = _Galex()

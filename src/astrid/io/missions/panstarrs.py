"""Pan-STARRS 1 stacks and warps: asinh-scaled pixels in the stacks, a mask and a variance ("wt") image beside.

Documents: "PS1 Stack images", "PS1 Warp images" and "PS1 Pixel flags in Image Table Data" (STScI, PS1 archive documentation);
Waters et al. 2020, ApJS 251, 4. A stacked pixel v stands for the flux BOFFSET + 2 BSOFTEN sinh(v ln(10) / 2.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from astrid.core.archive import Archive, Identity
from astrid.core.dq import DQ
from astrid.io.missions._base import NAN, Companions, Mission, Product, is_image, mapped, middle, number, text

if TYPE_CHECKING:
    from astropy.io.fits import HDUList, Header

_PER_MAGNITUDE = np.log(10.0) / 2.5
_BITS = {
    0x0001: DQ.BAD,  # DETECTOR
    0x0002: DQ.BAD,  # FLAT
    0x0004: DQ.HOT,  # DARK
    0x0008: DQ.NO_COVERAGE,  # BLANK
    0x0010: DQ.BAD,  # CTE
    0x0020: DQ.SATURATED,  # SAT
    0x0040: DQ.BAD,  # LOW
    0x0080: DQ.SUSPECT,  # SUSPECT and BURNTOOL share it: which of the two it is, the mask does not say
    0x0100: DQ.COSMIC_RAY,  # CR
    0x0200: DQ.SUSPECT,  # SPIKE
    0x0400: DQ.SUSPECT,  # GHOST
    0x0800: DQ.BAD,  # STREAK
    0x1000: DQ.SUSPECT,  # STARCORE
    0x2000: DQ.BAD,  # CONV.BAD
    0x4000: DQ.SUSPECT,  # CONV.POOR
}
_BY_NAME = {
    "DETECTOR": DQ.BAD,
    "FLAT": DQ.BAD,
    "DARK": DQ.HOT,
    "BLANK": DQ.NO_COVERAGE,
    "CTE": DQ.BAD,
    "SAT": DQ.SATURATED,
    "LOW": DQ.BAD,
    "BAD": DQ.BAD,
    "SUSPECT": DQ.SUSPECT,
    "BURNTOOL": DQ.PERSISTENCE,
    "CR": DQ.COSMIC_RAY,
    "SPIKE": DQ.SUSPECT,
    "GHOST": DQ.SUSPECT,
    "STREAK": DQ.BAD,
    "STARCORE": DQ.SUSPECT,
    "CONV.BAD": DQ.BAD,
    "CONV.POOR": DQ.SUSPECT,
}
_MASK_NAMES = 32  # MSKNAM00, MSKNAM01, ... at most


class _PanStarrs(Mission):
    name = "ps1"
    beside = {  # noqa: RUF012
        "mask": ((r"\.fits(\.fz)?$", r".mask.fits"),),
        "variance": ((r"\.fits(\.fz)?$", r".wt.fits"),),
    }
    companion_names = (r"^rings\.v\d.*\.(mask|wt|exp|expwt|num|cmf|psf|target\.psf)\.fits", r"\.unconv\.(mask|wt|exp|num)\.fits")

    def claims(self, headers: Sequence[Header]) -> bool:
        return any(
            str(header.get("FPA.TELESCOPE", header.get("TELESCOP", ""))).strip().upper().startswith(("PS1", "PAN-STARRS1"))
            or "SKYCELL" in header
            or ("BSOFTEN" in header and "BOFFSET" in header)
            for header in headers
        )

    def images(self, headers: Sequence[Header]) -> list[int]:
        return [index for index, header in enumerate(headers) if is_image(header)][:1]

    def identity(self, header: Header) -> Identity:
        band = text(header, "FPA.FILTERID", "FPA.FILTER", "FILTER", "FILTERID").split(".")[0]
        exptime = number(header, "EXPTIME", "CELL.EXPOSURE", "FPA.EXPOSURE")
        # The date of a stack is that of its inputs' mean; a warp's is the start of its exposure.
        stacked = bool(text(header, "STK_TYPE", "STK_ID")) or "BSOFTEN" in header
        mjd = number(header, "MJD-OBS") if stacked else middle(header, exptime)
        cell = text(header, "SKYCELL", "SKYCELL_ID", "OBJECT", "FPA.OBJECT")
        return Identity("ps1", text(header, "FPA.INSTRUMENT", "INSTRUME").lower() or "gpc1", "", band, "adu", mjd, exptime, cell)

    def read(self, hdus: HDUList, number: int, header: Header, companions: Companions) -> Product:
        data = linear(np.asarray(hdus[number].data), header)
        variance = companions.planes.get("variance")
        mask = companions.planes.get("mask")
        stated = None
        if variance is not None:
            stated = linear(variance, companions.headers["variance"])
            stated = np.where(np.isfinite(stated) & (stated > 0), stated, np.float32(0))
        archive = Archive(
            identity=self.identity(header),
            done=("overscan", "bias", "dark", "burntool", "flat", "fringe", "astrometry", "sky", "warp"),
            dq=None if mask is None else mapped(mask, mask_bits(companions.headers["mask"])),
            variance=stated,
            photon_variance=stated,
            gain=_gain(header) if stated is None else None,
            saturation=_saturation(header),
            notes={"asinh": "BSOFTEN" in header},
        )
        return Product(data, archive)


def linear(pixels: NDArray[Any], header: Header) -> NDArray[np.float32]:
    """The flux of asinh-scaled pixels; pixels whose header has no BSOFTEN are linear already. Returns float32."""
    if "BSOFTEN" not in header or "BOFFSET" not in header:
        return np.asarray(pixels, dtype=np.float32)
    scaled = np.asarray(pixels, dtype=np.float64) * _PER_MAGNITUDE
    with np.errstate(over="ignore", invalid="ignore"):
        flux = float(header["BOFFSET"]) + 2.0 * float(header["BSOFTEN"]) * np.sinh(scaled)
    return np.where(np.isfinite(flux), flux, np.nan).astype(np.float32)


def mask_bits(header: Header) -> dict[int, DQ]:
    """The mask's bits as its header names them (MSKNAMnn, MSKVALnn), else those of the archive's table.

    Where SUSPECT and BURNTOOL share a value, as they do in the archive, it says no more than SUSPECT.
    """
    named: dict[int, DQ] = {}
    for index in range(_MASK_NAMES):
        name, value = header.get(f"MSKNAM{index:02d}"), header.get(f"MSKVAL{index:02d}")
        meaning = _BY_NAME.get(str(name).strip().upper().removeprefix("MASK."))
        if meaning is not None and isinstance(value, int) and value > 0:
            named[value] = DQ.SUSPECT if {named.get(value), meaning} == {DQ.SUSPECT, DQ.PERSISTENCE} else meaning
    return named or dict(_BITS)


def _gain(header: Header) -> float | None:
    found = number(header, "CELL.GAIN", "GAIN")
    return found if found > 0 else None


def _saturation(header: Header) -> float:
    """The level of a warp; a stack's pixels are sums over other zero-points, for which no level holds."""
    return NAN if "BSOFTEN" in header else number(header, "CELL.SATURATION", "SATURATE")


PANSTARRS = _PanStarrs()

"""TESS full-frame images, calibrated: electrons a second with their uncertainty, the virtual and overclocked pixels around them.

Documents: TESS Science Data Products Description Document (EXP-TESS-ARC-ICD-0014, sections on full-frame images and quality flags).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from astrid.core.archive import Archive, Identity, Section
from astrid.core.dq import DQ
from astrid.io.missions._base import NAN, Companions, Mission, Product, is_image, number, squared, telescope, text, unit

if TYPE_CHECKING:
    from astropy.io.fits import HDUList, Header

_SECONDS_A_DAY = 86400.0
_JD_TO_MJD = 2400000.5
_TIME_ZERO = 2457000.0  # JD, origin of TSTART and TSTOP
# Quality of the whole image: attitude tweak, safe mode, coarse point, Earth point, Argabrightening, desaturation, manual exclude,
# impulsive outlier, insufficient targets, straylight.
_CAREFUL = 1 | 2 | 4 | 8 | 16 | 32 | 128 | 512 | 1024 | 2048 | 4096 | 8192


class _Tess(Mission):
    name = "tess"

    def claims(self, headers: Sequence[Header]) -> bool:
        return telescope(headers, "TESS") and any("uncert" in _name(header) for header in headers)

    def images(self, headers: Sequence[Header]) -> list[int]:
        return [index for index, header in enumerate(headers) if is_image(header) and "uncert" not in _name(header)][:1]

    def identity(self, header: Header) -> Identity:
        mjd = 0.5 * (number(header, "TSTART") + number(header, "TSTOP"))
        origin = number(header, "BJDREFI")
        if np.isfinite(mjd):
            mjd += (origin if np.isfinite(origin) else _TIME_ZERO) + _or_zero(header, "BJDREFF") - _JD_TO_MJD
        detector = f"{header.get('CAMERA', '')}.{header.get('CCD', '')}".strip(".")
        return Identity("tess", "tess", detector, "TESS", unit(header, "electron/s"), mjd, _seconds(header), _sector(header))

    def read(self, hdus: HDUList, number: int, header: Header, companions: Companions) -> Product:
        crop = _science(header, hdus[number].data.shape)
        data = np.asarray(hdus[number].data[crop], dtype=np.float32)
        errors = next((hdu.data for hdu in hdus if "uncert" in _name(hdu.header) and hdu.header.get("NAXIS", 0) >= 2), None)
        quality = int(_or_zero(header, "DQUALITY"))
        dq = np.full(data.shape, int(DQ.SUSPECT) if quality & _CAREFUL else 0, np.uint32)
        seconds = _seconds(header)
        archive = Archive(
            identity=self.identity(header),
            done=("two-dimensional black", "linearity", "undershoot", "smear", "flat"),
            dq=dq,
            variance=None if errors is None else squared(np.asarray(errors[crop])),
            gain=seconds if seconds > 0 else None,
            notes={"dquality": quality},
        )
        return Product(data, archive, crop=crop)


def _name(header: Header) -> str:
    return str(header.get("EXTNAME", "")).lower()


def _seconds(header: Header) -> float:
    """Time on source: EXPOSURE, in days, has the readout and the cosmic-ray mitigation taken off."""
    days = number(header, "EXPOSURE")
    if np.isfinite(days):
        return days * _SECONDS_A_DAY
    frames, each = number(header, "NUM_FRM"), number(header, "INT_TIME")
    return frames * each if np.isfinite(frames * each) else NAN


def _science(header: Header, shape: tuple[int, int]) -> Section:
    """The exposed pixels: columns SCCSA to SCCED, rows SCROWS to SCROWE, 1-based and inclusive; all where they are not named."""
    first, last = (number(header, card) for card in ("SCCSA", "SCCED"))
    low, high = (number(header, card) for card in ("SCROWS", "SCROWE"))
    columns = slice(int(first) - 1, int(last)) if 1 <= first <= last <= shape[1] else slice(0, shape[1])
    rows = slice(int(low) - 1, int(high)) if 1 <= low <= high <= shape[0] else slice(0, shape[0])
    return rows, columns


def _sector(header: Header) -> str:
    sector = text(header, "SECTOR")
    return f"s{int(sector):04d}" if sector.isdigit() else sector


def _or_zero(header: Header, card: str) -> float:
    found = number(header, card)
    return found if np.isfinite(found) else 0.0


TESS = _Tess()

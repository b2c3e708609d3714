"""Webb images: detector frames (cal: SCI, ERR, DQ, VAR_*) and resampled ones (i2d: SCI, ERR, WHT, VAR_*), in MJy/sr.

Documents: JWST pipeline documentation (jwst-pipeline.readthedocs.io: data products, science products; reference files: data
quality flags). A pixel that is to be left out has DO_NOT_USE; SATURATED without it kept good groups of its ramp.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    "S_SUPERB": "bias",
    "S_REFPIX": "reference pixels",
    "S_LINEAR": "linearity",
    "S_DARK": "dark",
    "S_JUMP": "cosmic rays",
    "S_FLAT": "flat",
    "S_PHOTOM": "photometry",
    "S_SKYMAT": "sky matching",
    "S_OUTLIR": "outliers",
    "S_RESAMP": "resampling",
}
_DO_NOT_USE, _SATURATED, _DEAD, _HOT = 1, 2, 1024, 2048
_NON_SCIENCE = 512 | 1 << 31  # NON_SCIENCE, REFERENCE_PIXEL
_OUTLIER = 16
_CAREFUL = {
    2: DQ.SUSPECT,  # SATURATED in later groups of the ramp
    4: DQ.SUSPECT,  # JUMP_DET, which the ramp fit has removed
    16: DQ.SUSPECT,  # OUTLIER
    32: DQ.PERSISTENCE,
    4096: DQ.SUSPECT,  # WARM
    8192: DQ.SUSPECT,  # LOW_QE
    65536: DQ.SUSPECT,  # NONLINEAR
    1 << 24: DQ.SUSPECT,  # UNRELIABLE_SLOPE
    1 << 25: DQ.SUSPECT,  # UNRELIABLE_FLAT
}
_CAUSES = ((_SATURATED, DQ.SATURATED), (_HOT, DQ.HOT), (_NON_SCIENCE, DQ.NO_COVERAGE), (_OUTLIER, DQ.COSMIC_RAY), (_DEAD, DQ.BAD))
_COMPANION_PLANES = ("ERR", "DQ", "WHT", "VAR_POISSON")


class _Jwst(Mission):
    name = "jwst"

    def claims(self, headers: Sequence[Header]) -> bool:
        """Only products of the pipeline with their own noise or flags; a cut-out that has lost them is read by its keywords."""
        named = {str(header.get("EXTNAME", "")).strip().upper() for header in headers}
        return telescope(headers, "JWST") and "SCI" in named and bool(named & set(_COMPANION_PLANES))

    def images(self, headers: Sequence[Header]) -> list[int]:
        names = [str(header.get("EXTNAME", "")).strip().upper() for header in headers]
        return [index for index, header in enumerate(headers) if names[index] == "SCI" and is_image(header)]

    def identity(self, header: Header) -> Identity:
        exptime = number(header, "XPOSURE", "EFFEXPTM", "TEXPTIME")
        mjd = number(header, "EXPMID", "MJD-AVG")
        if not np.isfinite(mjd):
            mjd = middle(header, exptime, ends=("EXPSTART", "EXPEND"), starts=("MJD-BEG", "DATE-BEG", "DATE-OBS"))
        band = text(header, "FILTER")
        pupil = text(header, "PUPIL")
        if pupil.upper().startswith("F"):  # the narrower filter of NIRCam and NIRISS sits in the pupil wheel
            band = pupil
        field = text(header, "TARGPROP", "TARGNAME", "OBJECT")
        return Identity("jwst", text(header, "INSTRUME").lower(), text(header, "DETECTOR"), band, unit(header), mjd, exptime, field)

    def read(self, hdus: HDUList, number: int, header: Header, companions: Companions) -> Product:
        data = np.asarray(hdus[number].data, dtype=np.float32)
        version = int(header.get("EXTVER", 1))
        flags, weight, photons = (plane(hdus, name, version) for name in ("DQ", "WHT", "VAR_POISSON"))
        dq = np.zeros(data.shape, np.uint32) if flags is None else flagged(flags)
        if weight is not None:
            dq[~(weight > 0)] |= np.uint32(DQ.NO_COVERAGE)
        archive = Archive(
            identity=self.identity(header),
            done=completed_steps(header, _STEPS),
            dq=dq,
            variance=squared(plane(hdus, "ERR", version)),
            photon_variance=None if photons is None else np.nan_to_num(np.asarray(photons, dtype=np.float32)),
            notes={"photmjsr": _plain(header, "PHOTMJSR"), "pixar_sr": _plain(header, "PIXAR_SR")},
        )
        return Product(data, archive)


def flagged(flags: NDArray[Any]) -> NDArray[np.uint32]:
    """AstrID's bits: the cause of a DO_NOT_USE where it is known, BAD where not; the rest is to be used with care."""
    raw = np.asarray(flags).astype(np.int64) & 0xFFFFFFFF
    out = mapped(raw, _CAREFUL)
    lost = (raw & _DO_NOT_USE) != 0
    unexplained = lost.copy()
    for bits, meaning in _CAUSES:
        struck = lost & ((raw & bits) != 0)
        out[struck] |= np.uint32(meaning)
        unexplained &= ~struck
    out[unexplained] |= np.uint32(DQ.BAD)
    return out


def _plain(header: Header, card: str) -> float:
    found = number(header, card)
    return found if np.isfinite(found) else NAN


JWST = _Jwst()

"""Swift UVOT sky images: one extension a snapshot, counts, with an exposure map beside.

Documents: The Swift UVOT Software Guide (HEASARC, sections on sky images and exposure maps); Poole et al. 2008, MNRAS 383, 627
(coincidence loss, equation 1); Breeveld et al. 2010, MNRAS 406, 1687.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from astrid.core.archive import Archive, Identity
from astrid.core.dq import DQ
from astrid.io.missions._base import NAN, Companions, Mission, Product, is_image, middle, number, telescope, text

if TYPE_CHECKING:
    from astropy.io.fits import HDUList, Header

_MJD_REFERENCE = 51910.0  # d, 2001-01-01, the origin of the mission's time
_FRAME_TIME = 0.0110322  # s, of a full frame
_DEAD_TIME = 0.9842  # live share of a frame (Poole et al. 2008); the header's EXPOSURE has it already
_APERTURE = 5.0  # arcsec, radius in which coincidence is counted
_SUSPECT = 0.1  # share of the counts lost to coincidence from which a pixel is to be used with care
_SATURATED = 0.96  # counts a frame, beyond which the correction has no more meaning
_SECONDS_A_DAY = 86400.0


class _Uvot(Mission):
    name = "swift"
    beside = {"exposure": ((r"_sk(\.img|\.fits|_corr)", r"_ex\1"),)}  # noqa: RUF012
    companion_names = (r"^sw\d+.*_ex\.(img|fits)", r"^sw\d+.*_rw\.(img|fits)")

    def claims(self, headers: Sequence[Header]) -> bool:
        return telescope(headers, "SWIFT") and any(str(header.get("INSTRUME", "")).upper().startswith("UVOT") for header in headers)

    def images(self, headers: Sequence[Header]) -> list[int]:
        return [index for index, header in enumerate(headers) if is_image(header)]

    def identity(self, header: Header) -> Identity:
        exptime = number(header, "EXPOSURE", "EXPTIME", "ONTIME")
        mean = middle(header, exptime, ends=("TSTART", "TSTOP"))
        if mean > 1e6:  # seconds of the mission, of which UTCFINIT makes UTC
            mean = _MJD_REFERENCE + (mean + float(header.get("UTCFINIT", 0.0))) / _SECONDS_A_DAY
        return Identity("swift", "uvot", "", text(header, "FILTER"), "count", mean, exptime, text(header, "OBJECT", "TARG_ID"))

    def extension(self, header: Header, number: int, headers: Sequence[Header]) -> int:
        """The exposure map of the same snapshot: the same name but for its last letter (w1478398345I, w1478398345E)."""
        stem = str(header.get("EXTNAME", "")).strip()[:-1].upper()
        for index, other in enumerate(headers):
            if stem and is_image(other) and str(other.get("EXTNAME", "")).strip()[:-1].upper() == stem:
                return index
        return super().extension(header, number, headers)

    def read(self, hdus: HDUList, number: int, header: Header, companions: Companions) -> Product:
        data = np.asarray(hdus[number].data, dtype=np.float32)
        exposure = companions.planes.get("exposure")
        seconds = self.identity(header).exptime
        loss = _coincidence(data, header, seconds)
        dq = np.zeros(data.shape, np.uint32)
        dq[loss > _SUSPECT] |= np.uint32(DQ.SUSPECT)
        dq[loss >= 1.0] |= np.uint32(DQ.SATURATED)
        worst = float(loss.max()) if loss.size else NAN
        archive = Archive(
            identity=self.identity(header),
            done=("attitude", "distortion", *(("mod-8",) if header.get("MOD8CORR") else ())),
            dq=dq,
            gain=1.0,
            exposure=None if exposure is None else np.asarray(exposure, dtype=np.float32),
            counting=True,
            notes={"coincidence": "not corrected", "coincidence_loss_max": round(worst, 4)},
        )
        return Product(data, archive)


def _coincidence(counts: NDArray[Any], header: Header, seconds: float) -> NDArray[np.float64]:
    """Share of the photons lost around each pixel, 1 where the aperture is saturated: with x the counts a frame in 5 arcsec,
    the true ones are -ln(1 - alpha x) / alpha (Poole et al. 2008, eq. 1)."""
    from scipy.signal import fftconvolve  # heavy, and a service that reads no UVOT image must run without

    scale = abs(number(header, "CDELT2", "CD2_2")) * 3600.0
    if not (seconds > 0 and 0.1 < scale < 10.0):
        return np.zeros(counts.shape)
    frame = number(header, "FRAMTIME")
    reach = int(np.ceil(_APERTURE / scale))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = (np.hypot(x, y) * scale <= _APERTURE).astype(np.float64)
    filled = np.nan_to_num(np.asarray(counts, dtype=np.float64))
    total = fftconvolve(filled, disc, mode="same")
    seen = np.clip(total / seconds * (frame if np.isfinite(frame) else _FRAME_TIME), 0.0, None)
    busy = _DEAD_TIME * np.minimum(seen, _SATURATED)
    true = -np.log1p(-busy) / _DEAD_TIME
    loss = np.where(true > 0, 1.0 - np.minimum(seen, _SATURATED) / np.where(true > 0, true, 1.0), 0.0)
    return np.where(seen >= _SATURATED, 1.0, loss)


UVOT = _Uvot()

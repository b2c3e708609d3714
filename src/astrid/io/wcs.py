"""World coordinates out of FITS headers, with the distortions that a file keeps in tables beside its images."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning

from astrid.core.errors import InputError
from astrid.core.runtime import log

_TABLES = {"CPDIS": "DP", "CQDIS": "DQ", "D2IMDIS": "D2IM"}  # card that names a distortion's kind -> the cards with its parameters
_OLD = "AXISCORR"  # card that names a table of HST's older files
_BROKEN = (ValueError, TypeError, KeyError, AssertionError, IndexError, MemoryError)  # astropy has no one error for a bad header


def celestial_wcs(header: fits.Header, *, source: str, hdus: fits.HDUList | None = None) -> WCS:
    """The two-dimensional celestial WCS of a header (TAN, SIP, TPV, CD or PC matrices).

    Parameters
    ----------
    header
        Of the image; it is not changed.
    source
        What messages call it.
    hdus
        The open file, where distortions may lie in lookup tables (HST's CPDISj and D2IMDISj, Calabretta et al. 2004, draft of FITS
        WCS paper IV). Without it, or where these are missing or broken, they are left out: a pixel is moved by less than one.

    Raises
    ------
    InputError
        There is none, or it does not map the image's centre to the sky.
    """
    for card in ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2"):  # astropy takes 0 for a value that is no number
        if isinstance(header.get(card), str | bool):
            raise InputError(f"{source} has {card} = {header[card]!r}, which is no number; correct the header.")
    with quiet_wcs():
        try:
            wcs = _wcs(header, hdus, source)
            centre = wcs.wcs_pix2world([[header.get("NAXIS1", 1) / 2, header.get("NAXIS2", 1) / 2]], 0) if wcs.has_celestial else None
        except _BROKEN as error:
            raise InputError(f"{source} has a broken WCS ({one_line(error)}); solve its astrometry first.") from error
    if centre is None or not np.isfinite(centre).all():
        raise InputError(f"{source} has no celestial WCS (CTYPE1 = {header.get('CTYPE1')!r}); solve its astrometry first.")
    return wcs


def _wcs(header: fits.Header, hdus: fits.HDUList | None, source: str) -> WCS:
    if hdus is not None:
        try:
            return WCS(header.copy(), fobj=hdus, naxis=2)  # a copy, as astropy takes the cards of the tables out of what it reads
        except _BROKEN as error:
            plain = without_tables(header)
            if len(plain) == len(header):
                raise
            log.warning("%s: its tables of distortions cannot be read (%s); its WCS is used without them", source, one_line(error))
            return WCS(plain, naxis=2)
    return WCS(without_tables(header), naxis=2)


def without_tables(header: fits.Header) -> fits.Header:
    """A copy of the header without the cards that name distortions in tables of the file; other distortions stay."""
    plain = header.copy()
    plain.remove(_OLD, ignore_missing=True, remove_all=True)
    for kind, parameters in _TABLES.items():
        for axis in (1, 2):
            if str(header.get(f"{kind}{axis}", "")).strip().lower() != "lookup":
                continue
            names = {card for card in plain if card == f"{parameters}{axis}" or card.startswith(f"{parameters}{axis}.")}
            for name in sorted({f"{kind}{axis}", *names}):
                plain.remove(name, ignore_missing=True, remove_all=True)
    return plain


@contextmanager
def quiet_wcs() -> Iterator[None]:
    """Without astropy's remarks on dates and units that it repaired in memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        yield


def one_line(error: BaseException) -> str:
    """The first sentence of an exception's message, on one line."""
    return " ".join(str(error).split()).split(". ")[0].rstrip(".")[:200]

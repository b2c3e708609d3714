"""Small FITS files and the rows that choose them, for tests of the download."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from astropy.io import fits

from astrid.config.schema.archive import DownloadConfig
from astrid.config.validate import validate
from astrid.io.archive_tables import CHOSEN

RA, DEC = 150.0, 2.0  # deg, the event that every small image holds
SETTINGS: dict[str, Any] = {
    "server": "", "cloud": False, "cloud_server": "", "parallel": 4, "rate": 2000.0, "megabytes_a_second": 0, "retries": 4,
    "timeout": 5.0, "budget_gb": 1.0, "max_file_gb": 0.1, "accept_failed": 0.0,
}  # fmt: skip


def settings(server: str, **changes: Any) -> DownloadConfig:
    """Settings of a download from the test's server."""
    return validate(DownloadConfig, {**SETTINGS, "server": server, **changes}, path="survey.archive.download")


def cards(size: int, ra: float = RA, dec: float = DEC, scale: float = 1.0) -> dict[str, Any]:
    """A TAN projection centred on a position, `scale` arcsec a pixel."""
    return {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": ra, "CRVAL2": dec, "CRPIX1": (size + 1) / 2, "CRPIX2": (size + 1) / 2,
        "CDELT1": -scale / 3600, "CDELT2": scale / 3600,
    }  # fmt: skip


def image(name: str, *, size: int = 32, ra: float = RA, dec: float = DEC, hdus: int = 1, sums: bool = True, **header: Any) -> bytes:
    """A FITS file of noise that depends on its name, gzipped or tile-compressed as that ends."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    made: list[Any] = [fits.PrimaryHDU()]
    for number in range(hdus):
        cards_of = fits.Header([*cards(size, ra, dec).items(), *header.items()])
        data = rng.normal(100, 5, (size, size)).astype(np.float32)
        if name.endswith(".fz"):
            made.append(fits.CompImageHDU(data.astype(np.int16), cards_of, compression_type="RICE_1"))
        else:
            made.append(fits.ImageHDU(data, cards_of))
        made[-1].name = f"IM{number}"
    return pack(name, made, sums=sums)


def pack(name: str, hdus: Iterable[Any], *, sums: bool = True) -> bytes:
    """HDUs as the bytes of a file, gzipped where the name says so."""
    stream = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(stream)
    if sums:  # without the time that astropy writes beside them
        with fits.open(io.BytesIO(stream.getvalue()), disable_image_compression=True, memmap=False) as plain:
            for hdu in plain:
                hdu.add_checksum(when="")
            stream = io.BytesIO()
            plain.writeto(stream)
    return gzip.compress(stream.getvalue(), mtime=0) if name.endswith(".gz") else stream.getvalue()


def row(filename: str, content: bytes | None, event: str = "SN-1", **values: Any) -> dict[str, Any]:
    """A row of CHOSEN for a file of the content, of which the archive says the size."""
    return {
        "role": "science", "object_id": event, "mission": "swift", "instrument": "uvot", "filter": "U", "obs_id": "0001", "kind": "image",
        "filename": filename, "uri": f"mast:SWIFT/{event}/{filename}", "cloud_uri": "", "size": 0 if content is None else len(content),
        "checksum": "", "calib_level": 2, "t_min": 59000.0, "t_max": 59000.1, "exptime": 100.0, "s_ra": RA, "s_dec": DEC, "s_region": "",
        "rights": "public", **values,
    }  # fmt: skip


def chosen(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as CHOSEN."""
    return pd.DataFrame(list(rows), columns=[column.name for column in CHOSEN.columns])


def catalog(events: Iterable[str] = ("SN-1",), ra: float = RA, dec: float = DEC) -> pd.DataFrame:
    """Where the events are."""
    names = list(events)
    return pd.DataFrame({"object_id": names, "s_ra": [ra] * len(names), "s_dec": [dec] * len(names)})

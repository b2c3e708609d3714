"""Alert packets as the surveys write them, small: Avro files with three stamps and the fields that a test names."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
from astropy.io import fits

_CUTOUTS = ("cutoutScience", "cutoutTemplate", "cutoutDifference")
_NUMBER = ["null", "double", "long"]


def stamps(seed: int, *, size: int = 63, flux: float = 2000.0, sign: int = 1) -> list[np.ndarray[Any, Any]]:
    """Science, reference and difference (turned, so that the source is positive) with a source of `flux` in the middle."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((size, size)) - size // 2
    source = flux / (2 * np.pi * 1.2**2) * np.exp(-(x**2 + y**2) / (2 * 1.2**2))
    epochs = [rng.normal(100.0, 5.0, (size, size)) for _ in range(2)]
    epochs[0 if sign > 0 else 1] += source
    return [image.astype(np.float32) for image in (*epochs, sign * (epochs[0] - epochs[1]))]


def packed(image: np.ndarray[Any, Any]) -> bytes:
    """The image as the gzipped FITS file that a packet holds."""
    stream = io.BytesIO()
    fits.PrimaryHDU(image).writeto(stream)
    return gzip.compress(stream.getvalue(), mtime=0)


def record(
    candid: int, *, object_id: str = "", publisher: str = "ZTF", images: list[Any] | None = None, sign: str = "t", **fields: Any
) -> dict[str, Any]:
    """One alert of ZTF's schema; `fields` are the candidate's numbers, `images` three arrays, bytes or None."""
    numbers = {"jd": 2459000.5 + candid, "ra": 10.0 + 0.1 * candid, "dec": 5.0, "magpsf": 19.0, "sigmapsf": 0.1, "fid": 1, **fields}
    shown = stamps(candid, sign=-1 if sign == "f" else 1) if images is None else images
    cutouts = [None if image is None else image if isinstance(image, bytes) else packed(image) for image in shown]
    return {
        "publisher": publisher,
        "objectId": object_id or f"ZTF20{candid:06d}",
        "candid": candid,
        "candidate": {"isdiffpos": sign, **numbers},
        **{
            name: None if content is None else {"fileName": "x.fits.gz", "stampData": content}
            for name, content in zip(_CUTOUTS, cutouts, strict=True)
        },
    }


def _schema(records: list[dict[str, Any]]) -> dict[str, Any]:
    names = sorted({name for one in records for name in one["candidate"]} - {"isdiffpos"})
    cutout = {
        "type": "record",
        "name": "cutout",
        "fields": [{"name": "fileName", "type": "string"}, {"name": "stampData", "type": "bytes"}],
    }
    candidate = {
        "type": "record",
        "name": "candidate",
        "fields": [
            {"name": "isdiffpos", "type": ["null", "string"], "default": None},
            *({"name": name, "type": _NUMBER, "default": None} for name in names),
        ],
    }
    return {
        "type": "record",
        "name": "alert",
        "namespace": "test",
        "fields": [
            {"name": "publisher", "type": "string"},
            {"name": "objectId", "type": "string"},
            {"name": "candid", "type": "long"},
            {"name": "candidate", "type": candidate},
            {"name": "cutoutScience", "type": ["null", cutout], "default": None},
            {"name": "cutoutTemplate", "type": ["null", "cutout"], "default": None},
            {"name": "cutoutDifference", "type": ["null", "cutout"], "default": None},
        ],
    }


def write_packet(path: Path, *records: dict[str, Any]) -> Path:
    """An Avro file of the records."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        fastavro.writer(stream, _schema(list(records)), records, sync_marker=b"0123456789abcdef")
    return path

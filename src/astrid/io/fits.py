"""FITS in and out: AstrID's own two products, and (from `io.images`) the images that surveys give.

A calibrated exposure holds `SCI`, `VAR`, `DQ`, `PSF` and `SOURCES`; a difference product holds `SCIENCE`, `REFERENCE`,
`DIFFERENCE`, `SCORE`, `FLUX`, `FLUX_ERR`, `DQ`, the three PSFs and, where known, `TRUTH` and `MAPPING`. Every HDU of a product
carries DATASUM and CHECKSUM, without a time, so that equal content is equal bytes; both are verified when the product is read.
Planes of more than `io.planes.LARGE` pixels are written row by row, without compression, and read as windows of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from astrid.core.errors import InputError
from astrid.core.records import Calibrated, Difference, DQImage, ExposureInfo, FloatImage, PixelMap, Psf
from astrid.io.checked import LargePlane, compressed, verify_sums, write_hdus
from astrid.io.flags import dq_cards
from astrid.io.images import damage_as_errors, read_frames, read_image, read_plane
from astrid.io.planes import LARGE, DiskPlane
from astrid.io.wcs import celestial_wcs, one_line, quiet_wcs

__all__ = [
    "celestial_wcs",
    "is_calibrated_product",
    "read_calibrated",
    "read_difference",
    "read_frames",
    "read_image",
    "read_plane",
    "write_calibrated",
    "write_difference",
]

_CARDS = {
    "exposure_id": ("EXPID", "exposure: one detector of one visit"),
    "survey": ("SURVEY", "survey or mission"),
    "instrument": ("INSTRUME", "instrument"),
    "detector": ("DETECTOR", "detector or chip"),
    "filter": ("FILTER", "band"),
    "mjd": ("MJD-OBS", "[d] middle of the exposure"),
    "exptime": ("EXPTIME", "[s] exposure time"),
    "role": ("ROLE", "science or reference"),
    "field_id": ("FIELD", "pointing or event"),
    "unit": ("BUNIT", "unit of the pixel values"),
}
_PSF_CARDS = {
    "method": ("PSFMETH", "given, empirical, moffat or gaussian"),
    "n_stars": ("PSFSTARS", "stars it was made of"),
    "fwhm": ("PSFFWHM", "[pixel] full width at half maximum"),
    "residual": ("PSFRESID", "RMS of star - model over flux"),
}
_PSF_QUADRANTS = tuple((f"PSFRES{number}", "RMS residual of a quadrant: ll, lr, ul, ur") for number in range(4))
_PSF_FRAME = (
    ("PSFX0", "[pixel] centre of the field, 0-based"),
    ("PSFY0", "[pixel] its planes: 1, u, v, u2, uv, v2"),
    ("PSFSCALE", "[pixel] u = (x - PSFX0) / PSFSCALE"),
)
_SKY_CARDS = {
    "sky": ("SKY", "sky level that was subtracted"),
    "sky_rms": ("SKYRMS", "RMS of the blank sky"),
    "gain": ("GAIN", "electrons a unit; undefined = infinite"),
}
_PLANES = ("science", "reference", "difference", "score", "flux", "flux_err")
_PSFS = ("psf_science", "psf_reference", "psf_difference")
_META = "META "
_MARKS = {"calibrated exposure": "SCI", "difference product": "DIFFERENCE"}  # an HDU that only this kind of product has
_COMMENTED = 24  # characters of a value that still leave room for the comment of its card

Product = TypeVar("Product")


def write_calibrated(path: Path, calibrated: Calibrated) -> None:
    """Write a calibrated exposure, atomically: `SCI`, `VAR` (float32), `DQ` (uint32, bits named) and `PSF` where there is one."""
    info = calibrated.info
    where = _wcs_header(calibrated.wcs)
    primary = fits.PrimaryHDU(header=_cards(info, _CARDS))
    for step in _steps(calibrated.meta):
        primary.header.add_history(f"AstrID calibrate: {step}")
    science = _joined(where, _cards(info, _CARDS), _cards(calibrated, _SKY_CARDS), _meta_cards(calibrated.meta))
    variance = _joined(where, _cards(info, _CARDS))
    variance["BUNIT"] = f"({info.unit})**2"
    hdus = [
        primary,
        _plain(calibrated.data, "SCI", science),
        _plain(calibrated.variance, "VAR", variance),
        _packed(calibrated.dq, "DQ", _joined(where, dq_cards())),
    ]
    if calibrated.psf is not None:
        hdus.append(_psf_hdu(calibrated.psf, "PSF"))
    if calibrated.sources is not None:
        hdus.append(fits.BinTableHDU(calibrated.sources, name="SOURCES"))
    write_hdus(path, hdus)


def read_calibrated(path: Path) -> Calibrated:
    """Read a calibrated exposure; arrays are float32 and uint32 in native byte order.

    Raises `InputError` when it is missing, not such a product, or fails a checksum (the sentence names the HDU).
    """

    def build(hdus: fits.HDUList) -> Calibrated:
        header = hdus["SCI"].header
        return Calibrated(
            data=_plane(hdus["SCI"], path),
            variance=_plane(hdus["VAR"], path),
            dq=_plane(hdus["DQ"], path),
            wcs=celestial_wcs(header, source=str(path)),
            info=_info(header),
            psf=_psf(hdus["PSF"]) if "PSF" in hdus else None,
            sources=_table(hdus["SOURCES"]) if "SOURCES" in hdus else None,
            meta=_meta(header),
            sky=_number(header["SKY"]),
            sky_rms=_number(header["SKYRMS"]),
            gain=_number(header["GAIN"], unknown=float("inf")),
        )

    return _read(path, build, kind="calibrated exposure")


def is_calibrated_product(path: Path) -> bool:
    """True when a file carries the HDUs of a calibrated exposure of AstrID; whether they are sound is not looked at."""
    if not path.is_file():
        return False
    with damage_as_errors(path), fits.open(path, memmap=False) as hdus:
        return {"SCI", "VAR", "DQ"} <= {hdu.name for hdu in hdus} and "EXPID" in hdus["SCI"].header


def write_difference(path: Path, difference: Difference) -> None:
    """Write a difference product, atomically; image planes are compressed without loss.

    The `REFERENCE` HDU carries the identity of the reference exposure, every other plane that of the science exposure. `MAPPING` is
    a float64 cube: x and y on the reference exposure, 0-based px, at nodes CDELT pixels of the science image apart.
    """
    identity = _cards(difference.info, _CARDS)
    where = _wcs_header(difference.wcs)
    primary = fits.PrimaryHDU(header=identity)
    primary.header.add_history(f"AstrID difference: {difference.info.exposure_id} minus {difference.reference_info.exposure_id}")
    hdus: list[Any] = [primary]
    for name in _PLANES:
        header = _joined(where, _cards(difference.reference_info, _CARDS) if name == "reference" else identity)
        header["BUNIT"] = "sigma" if name == "score" else difference.info.unit
        if name == "difference":
            header.extend(_meta_cards(difference.quality))
        hdus.append(_packed(getattr(difference, name), name.upper(), header))
    hdus.append(_packed(difference.dq, "DQ", _joined(where, dq_cards())))
    if difference.truth is not None:
        hdus.append(_packed(difference.truth, "TRUTH", _joined(where)))
    hdus.extend(_psf_hdu(getattr(difference, name), name.upper()) for name in _PSFS)
    if difference.to_reference is not None:
        hdus.append(_mapping_hdu(difference.to_reference))
    write_hdus(path, hdus)


def read_difference(path: Path) -> Difference:
    """Read a difference product.

    Raises `InputError` when it is missing, not such a product, or fails a checksum (the sentence names the HDU).
    """

    def build(hdus: fits.HDUList) -> Difference:
        header = hdus["DIFFERENCE"].header
        planes: dict[str, Any] = {name: _plane(hdus[name.upper()], path) for name in _PLANES}
        psfs: dict[str, Any] = {name: _psf(hdus[name.upper()]) for name in _PSFS}
        return Difference(
            **planes,
            **psfs,
            dq=_plane(hdus["DQ"], path),
            truth=_plane(hdus["TRUTH"], path) if "TRUTH" in hdus else None,
            wcs=celestial_wcs(header, source=str(path)),
            info=_info(header),
            reference_info=_info(hdus["REFERENCE"].header),
            quality=_meta(header),
            to_reference=_mapping(hdus["MAPPING"], planes["score"].shape) if "MAPPING" in hdus else None,
        )

    return _read(path, build, kind="difference product")


def _read(path: Path, build: Callable[[fits.HDUList], Product], *, kind: str) -> Product:
    if not path.is_file():
        what = "is a folder; name a file" if path.is_dir() else "does not exist; run the stage that makes it, or correct the path"
        raise InputError(f"{path} {what}.")
    with damage_as_errors(path):
        verify_sums(path, kind, mark=_MARKS[kind])
        with fits.open(path, memmap=False, lazy_load_hdus=True) as hdus:
            try:
                return build(hdus)
            except KeyError as error:
                raise InputError(f"{path} is not a {kind} of AstrID ({one_line(error)}); make it again.") from error


# --- headers <-> records ---------------------------------------------------------------------------------------------


def _cards(record: Any, names: Mapping[str, tuple[str, str]]) -> fits.Header:
    values = {name: _value(getattr(record, name)) for name in names}
    return fits.Header([(card, values[name], "" if _long(values[name]) else comment) for name, (card, comment) in names.items()])


def _long(value: Any) -> bool:
    return isinstance(value, str) and len(value) > _COMMENTED


def _value(value: Any) -> Any:
    plain = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(plain, float) and not np.isfinite(plain) else plain


def _number(value: Any, unknown: float = float("nan")) -> float:
    return unknown if value is None or isinstance(value, fits.card.Undefined) else float(value)


def _info(header: fits.Header) -> ExposureInfo:
    values: dict[str, Any] = {}
    for name, (card, _) in _CARDS.items():
        values[name] = _number(header[card]) if name in ("mjd", "exptime") else str(header[card])
    return ExposureInfo(**values)


def _meta_cards(meta: Mapping[str, Any]) -> fits.Header:
    """Scalars as HIERARCH cards; their names are lower case in memory and upper case on disk."""
    return fits.Header([(f"HIERARCH {_META}{name.upper()}", _value(value)) for name, value in sorted(meta.items())])


def _meta(header: fits.Header) -> dict[str, Any]:
    found = {card.keyword.removeprefix(_META).lower(): card.value for card in header.cards if card.keyword.startswith(_META)}
    return {name: float("nan") if isinstance(value, fits.card.Undefined) or value is None else value for name, value in found.items()}


def _steps(meta: Mapping[str, Any]) -> list[str]:
    return [step for step in str(meta.get("applied", "")).split(", ") if step]


def _joined(*headers: fits.Header) -> fits.Header:
    joined = fits.Header()
    for header in headers:
        joined.update(header.copy())  # cards are shared otherwise
    return joined


def _wcs_header(wcs: WCS) -> fits.Header:
    """The WCS as cards; distortions that lie in tables (HST's, less than a pixel) are not kept in a product."""
    with quiet_wcs():
        header = wcs.to_header(relax=True)
    for card in list(header):
        if card.startswith(("DATE", "MJD", "TIMESYS", "TELESCOP", "OBSGEO")):
            del header[card]
    return header


def _plain(array: FloatImage, name: str, header: fits.Header) -> Any:
    return LargePlane(array, name, header) if array.size > LARGE else fits.ImageHDU(array, header, name)


def _packed(array: FloatImage | DQImage, name: str, header: fits.Header) -> Any:
    """An extension compressed without loss; a large one stays as it is, so that windows of it can be read."""
    return LargePlane(array, name, header) if array.size > LARGE else compressed(array, name, header)


def _psf_hdu(psf: Psf, name: str) -> fits.ImageHDU:
    header = _cards(psf, _PSF_CARDS)
    header.extend([(card, _value(value), comment) for (card, comment), value in zip(_PSF_QUADRANTS, psf.quadrants, strict=False)])
    if psf.terms is None:
        return fits.ImageHDU(psf.stamp, header, name)
    header.extend([(card, value, comment) for (card, comment), value in zip(_PSF_FRAME, psf.frame, strict=True)])
    return fits.ImageHDU(np.concatenate([psf.stamp[None], psf.terms]), header, name)


def _psf(hdu: Any) -> Psf:
    values = {name: hdu.header[card] for name, (card, _) in _PSF_CARDS.items()}
    stamps = _float(hdu)
    varies = stamps.ndim == 3
    x0, y0, scale = (float(hdu.header[card]) for card, _ in _PSF_FRAME) if varies else (0.0, 0.0, 1.0)
    return Psf(
        stamp=stamps[0] if varies else stamps,
        method=str(values["method"]),
        n_stars=int(values["n_stars"]),
        fwhm=_number(values["fwhm"]),
        residual=_number(values["residual"]),
        terms=stamps[1:] if varies else None,
        frame=(x0, y0, scale),
        quadrants=tuple(_number(hdu.header[card]) for card, _ in _PSF_QUADRANTS if card in hdu.header),
    )


def _mapping_hdu(mapping: PixelMap) -> fits.ImageHDU:
    header = fits.Header()
    for axis, (size, count) in enumerate(zip(mapping.shape[::-1], mapping.nodes.shape[:0:-1], strict=True), start=1):
        header[f"CRPIX{axis}"] = (1.0, "first node")
        header[f"CRVAL{axis}"] = (0.0, "[pixel] of the science image, 0-based")
        header[f"CDELT{axis}"] = ((size - 1) / (count - 1), "[pixel] of the science image")
    header["BUNIT"] = ("pixel", "of the reference exposure, 0-based: x, then y")
    return fits.ImageHDU(np.asarray(mapping.nodes, dtype=np.float64), header, "MAPPING")


def _mapping(hdu: Any, shape: tuple[int, int]) -> PixelMap:
    return PixelMap(np.ascontiguousarray(hdu.data, dtype=np.float64), shape)


def _float(hdu: Any) -> FloatImage:
    return np.ascontiguousarray(hdu.data, dtype=np.float32)


def _table(hdu: Any) -> NDArray[Any]:
    """The rows of a binary table as a plain structured array in native byte order."""
    columns = {name: np.asarray(hdu.data[name]) for name in hdu.columns.names}
    rows = np.zeros(len(hdu.data), [(name, values.dtype.newbyteorder("=")) for name, values in columns.items()])
    for name, values in columns.items():
        rows[name] = values
    return rows


def _plane(hdu: Any, path: Path) -> Any:
    """An image extension: float32 or uint32 in memory, or a window on the file where it is large."""
    header = hdu.header
    if header["NAXIS1"] * header["NAXIS2"] <= LARGE:
        return np.ascontiguousarray(hdu.data, dtype=np.uint32 if header["BITPIX"] > 0 else np.float32)
    unsigned = header.get("BZERO", 0) == 1 << 31
    shape = (int(header["NAXIS2"]), int(header["NAXIS1"]))
    return DiskPlane(path, int(hdu.fileinfo()["datLoc"]), shape, ">i4" if unsigned else ">f4", signed=unsigned)

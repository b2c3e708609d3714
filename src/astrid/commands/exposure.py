"""A user's exposures, whatever they are: AstrID products, raw frames or an archive's images -> calibrated, alone or as a pair."""

from __future__ import annotations

import math
import re
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from astrid.config.schema.calibrate import CalibrateConfig
from astrid.core.errors import AstridError, InputError
from astrid.core.records import Calibrated, ExposureInfo

if TYPE_CHECKING:
    from astropy.io import fits

    from astrid.core.archive import Identity

# Identity by header card, first found first; AstrID's own cards come first.
_KEYS = {
    "exposure_id": ("EXPID",),
    "survey": ("SURVEY", "TELESCOP", "OBSERVAT"),
    "instrument": ("INSTRUME",),
    "detector": ("DETECTOR", "CCDNAME", "CCDNUM", "CCDID"),
    "filter": ("FILTER", "FILTNAM", "FILTER1", "BAND"),
    "field_id": ("FIELD", "OBJECT", "TARGNAME"),
    "unit": ("BUNIT",),
}
_MIDDLE = ("MJD-AVG", "MJD-MID", "EXPMID")
_START = ("MJD-OBS", "MJD", "DATE-OBS")
_REDUCED = ("OVERSCAN", "TRIM", "BIASCOR", "ZEROCOR", "FLATCOR")
_EXTENSION = re.compile(r"^(?P<file>.+)\[(?P<hdu>[^\[\]]+)\]$")


@dataclass(frozen=True)
class PairCompanions:
    """Files that a user gives beside the images of a pair; None where an image is to speak for itself."""

    science_psf: Path | None = None  # PSF stamp
    reference_psf: Path | None = None
    science_noise: Path | None = None  # 1-sigma noise image
    reference_noise: Path | None = None
    science_mask: Path | None = None  # non-zero = bad
    reference_mask: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Those that were given."""
        return tuple(path for path in astuple(self) if path is not None)


NO_COMPANIONS = PairCompanions()


def load(
    path: Path, config: CalibrateConfig, *, role: str, psf: Path | None = None, noise: Path | None = None, mask: Path | None = None
) -> Calibrated:
    """Read and calibrate one image.

    An AstrID product (with SCI, VAR and DQ) is taken as it is, unless a companion is given. A calibrated product of a known mission
    (see `io.missions`) is read with its own flags, noise and exposure map. Another file is raw when it has an overscan section
    (BIASSEC) and no card says that it is reduced; else it counts as calibrated by its archive. "name.fits[2]" and "name.fits[SCI]"
    name an extension; without it the first image is taken, and of several exposures of a mission the longest.

    Raises
    ------
    AstridError
        The file or a companion is missing or broken, or cannot be calibrated; the sentence names the file.
    """
    from astrid.imaging.calibrate import calibrate, raw_exposure
    from astrid.io.fits import is_calibrated_product, read_calibrated, read_frames

    file, hdu = split_extension(path)
    if psf is None and noise is None and mask is None and is_calibrated_product(file):
        return read_calibrated(file)
    frames = read_frames(file, hdu=hdu, psf=psf, noise=noise, mask=mask)
    overscanned = bool(frames.header.get("BIASSEC")) or any(one.overscan is not None for one in frames.amplifiers)
    raw = frames.archive is None and overscanned and not any(frames.header.get(key) for key in _REDUCED)
    info = identity(frames.header, name=_stem(file) + (f"-{hdu}" if hdu else ""), role=role)
    if frames.archive is not None:
        info = of_mission(frames.archive.identity, info)
    try:
        return calibrate(raw_exposure(frames, info, calibrated=not raw), config)
    except AstridError as error:
        raise type(error)(f"{path.name}: {error}") from error


def load_pair(science: Path, reference: Path, config: CalibrateConfig, companions: PairCompanions) -> tuple[Calibrated, Calibrated]:
    """The science image and the reference of a pair, each as `load` reads and calibrates it."""
    of = companions
    return (
        load(science, config, role="science", psf=of.science_psf, noise=of.science_noise, mask=of.science_mask),
        load(reference, config, role="reference", psf=of.reference_psf, noise=of.reference_noise, mask=of.reference_mask),
    )


def check_pair(science: Path, reference: Path) -> None:
    """Raise `InputError` unless both name a file, and not the same image; "name.fits[2]" names one extension."""
    files = [split_extension(path) for path in (science, reference)]
    for path, _ in files:
        if not path.is_file():
            raise InputError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; give a FITS file.")
    if files[0][0].samefile(files[1][0]) and files[0][1] == files[1][1]:
        raise InputError(f"science and reference are the same file, {science}; a difference needs two exposures.")


def split_extension(path: Path) -> tuple[Path, str]:
    """A file and the extension that its name asks for, "name.fits[2]"; empty where it asks for none."""
    match = _EXTENSION.match(str(path))
    return (path, "") if match is None or path.exists() else (Path(match["file"]), match["hdu"])


def of_mission(known: Identity, info: ExposureInfo) -> ExposureInfo:
    """An exposure's identity with what its mission says of it in place of what the generic cards say."""
    words = {key: getattr(known, key) for key in ("survey", "instrument", "detector", "filter", "field_id", "unit") if getattr(known, key)}
    numbers = {key: getattr(known, key) for key in ("mjd", "exptime") if math.isfinite(getattr(known, key))}
    return replace(info, **words, **numbers)


def identity(header: fits.Header, *, name: str, role: str) -> ExposureInfo:
    """Who an exposure is, as far as its header says; `name` where it has no id of its own.

    Survey, instrument and filter are in lower case, since a pair must agree in them.
    """
    from astrid.io.headers import header_mjd, header_number, header_text

    words = {key: header_text(header, cards) or "" for key, cards in _KEYS.items()}
    exptime = header_number(header, ("EXPTIME", "EXPOSURE", "EFFEXPTM"))
    length = float("nan") if exptime is None else exptime
    mjd = header_number(header, _MIDDLE)
    if mjd is None:
        mjd = header_mjd(header, _START, length)
    return ExposureInfo(
        exposure_id=words["exposure_id"] or name,
        survey=words["survey"].lower(),
        instrument=words["instrument"].lower(),
        detector=words["detector"],
        filter=words["filter"],
        mjd=float("nan") if mjd is None else mjd,
        exptime=length,
        role=role,
        field_id=words["field_id"],
        unit=words["unit"],
    )


def _stem(path: Path) -> str:
    name = path.name
    for ending in (".gz", ".fz", ".fits", ".fit", ".fts", ".img"):
        name = name.removesuffix(ending)
    return name

"""The bytes of the pretend sky's files: every mission's layout with the same stars, and each supernova while it shines.

    content = Content(sky.observations, [Supernova(210.8, 54.3, 59000.0)])
    server.routes[DOWNLOAD] = files(content)

The layouts are those of `support.missions`: headers, extensions, units, compression. An image is small, so that its pixels are
coarser than the mission's and its field is a part of the observation's footprint.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from support.archive_server.queries import Observation
from support.missions import image_hdu

SIZE = 192  # px a side
STARS = 45
_FWHM = 2.6  # px
_SCALE = {"swift": 2.0, "galex": 1.5, "ps1": 0.25, "hst": 0.05, "jwst": 0.03, "tess": 21.0}  # arcsec a pixel
_SHINES = (-3.0, 150.0)  # d after the discovery
_MET = 51910.0  # d (MJD), origin of Swift's time
_GPS = 44244.0  # d (MJD), origin of GALEX's
_BJD = 57000.0  # d (MJD + 0.5 = 2457000), origin of TESS's
_DAY = 86400.0


@dataclass(frozen=True)
class Supernova:
    """An event that shines in every image of its place from just before its discovery on."""

    ra: float  # deg
    dec: float  # deg
    discovery: float  # d, MJD
    flux: float = 8.0  # of the same unit as the stars', of which the median is 6


class Content:
    """The bytes of every file by its URI; None for a URI that no observation has. Made once each."""

    def __init__(self, observations: Iterable[Observation], events: Sequence[Supernova] = ()) -> None:
        self.events = tuple(events)
        self._by_uri = {file.uri: (one, file.filters or one.filters) for one in observations for file in one.files}
        self._made: dict[str, bytes] = {}

    def __call__(self, uri: str) -> bytes | None:
        if uri not in self._by_uri:
            return None
        if uri not in self._made:
            observation, _ = self._by_uri[uri]
            self._made[uri] = product(observation, uri.rsplit("/", 1)[-1], self.events)
        return self._made[uri]

    def size(self, uri: str) -> int:
        return len(self(uri) or b"")


def product(observation: Observation, name: str, events: Sequence[Supernova] = (), **cards: Any) -> bytes:
    """The file `name` of an observation. `cards` replace those of the header: a wrong date, another filter."""
    mission = observation.collection.lower()
    rng = np.random.default_rng(np.frombuffer(name.encode().ljust(8, b"."), np.uint8))
    light = scene(observation, tuple(events))
    hdus = _LAYOUTS[mission](observation, name, light, rng)
    for hdu in hdus:
        hdu.header.update(cards)
    plain = io.BytesIO()
    fits.HDUList(hdus).writeto(plain)
    return gzip.compress(plain.getvalue(), compresslevel=1, mtime=0) if name.endswith(".gz") else plain.getvalue()


def archive_tar(members: Mapping[str, bytes]) -> bytes:
    """A tar archive of files, as some archives bundle an observation's products."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in sorted(members.items()):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def tile_compressed(content: bytes) -> bytes:
    """The same FITS file with its images tile-compressed, without loss: what .fits.fz holds."""
    with fits.open(io.BytesIO(content)) as hdus:
        packed: list[Any] = [fits.PrimaryHDU(header=hdus[0].header if hdus[0].data is None else None)]
        for hdu in hdus:
            if hdu.data is not None:
                packed.append(fits.CompImageHDU(hdu.data, hdu.header, name=hdu.name, compression_type="GZIP_2", quantize_level=0.0))
        out = io.BytesIO()
        fits.HDUList(packed).writeto(out)
    return out.getvalue()


@lru_cache(maxsize=4)
def scene(observation: Observation, events: tuple[Supernova, ...]) -> NDArray[np.float64]:
    """Light of the stars and of each supernova that shines, (SIZE, SIZE), in units of a star of flux 1."""
    scale = _SCALE[observation.collection.lower()]
    wcs = _wcs(observation, scale)
    image = np.zeros((SIZE, SIZE))
    anchor = min(events, key=lambda event: np.hypot(event.ra - observation.ra, event.dec - observation.dec), default=None)
    ra, dec = (anchor.ra, anchor.dec) if anchor else (observation.ra, observation.dec)
    east, north, fluxes = np.array(_stars(round(ra, 4), round(dec, 4))).T
    side = SIZE * scale / 3600  # deg
    places = wcs.wcs_world2pix(np.stack([ra + east * side / np.cos(np.radians(dec)), dec + north * side], axis=1), 0)
    for (x, y), flux in zip(places, fluxes, strict=True):
        _add(image, float(x), float(y), float(flux))
    for event in events:
        if _SHINES[0] <= observation.t_min - event.discovery <= _SHINES[1]:
            at = wcs.wcs_world2pix(event.ra, event.dec, 0)
            _add(image, float(at[0]), float(at[1]), event.flux)
    return image


@lru_cache(maxsize=64)
def _stars(ra: float, dec: float) -> tuple[tuple[float, float, float], ...]:
    """Offsets in shares of the image's side and fluxes; none lies on the event itself."""
    rng = np.random.default_rng([int(1e4 * ra), int(1e4 * (dec + 90))])
    places = rng.uniform(-0.6, 0.6, (4 * STARS, 2))
    places = places[np.hypot(*places.T) > 0.06][: 2 * STARS]
    fluxes = 6.0 * 10 ** rng.normal(0.0, 0.35, len(places))
    return tuple((float(x), float(y), float(flux)) for (x, y), flux in zip(places, fluxes, strict=True))


def _add(image: NDArray[np.float64], x: float, y: float, flux: float) -> None:
    reach = 8
    if not np.isfinite(x + y):  # on the other side of the sky
        return
    left, low = round(x) - reach, round(y) - reach
    rows = slice(max(low, 0), max(min(low + 2 * reach + 1, SIZE), 0))
    columns = slice(max(left, 0), max(min(left + 2 * reach + 1, SIZE), 0))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    sigma = _FWHM / 2.3548
    yy, xx = np.mgrid[rows, columns]
    image[rows, columns] += flux * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)


def _wcs(observation: Observation, scale: float) -> WCS:
    header = image_hdu(np.zeros((SIZE, SIZE), np.int16), scale=scale, **_place(observation)).header
    return WCS(header)


def _place(observation: Observation) -> dict[str, Any]:
    """The image's middle lies where the observation's footprint has it, a part of a pixel away, by its date."""
    shift = (observation.t_min % 1.0) - 0.5
    return {"CRVAL1": observation.ra, "CRVAL2": observation.dec, "CRPIX1": SIZE / 2 + shift, "CRPIX2": SIZE / 2 - shift}


def _round(radius: float = 0.49) -> NDArray[np.bool_]:
    y, x = np.mgrid[:SIZE, :SIZE]
    return np.asarray(np.hypot(x - SIZE / 2, y - SIZE / 2) < radius * SIZE)


def _swift(one: Observation, name: str, light: NDArray[np.float64], rng: np.random.Generator) -> list[Any]:
    """Counts of two snapshots (_sk), or their exposure maps (_ex)."""
    primary = fits.PrimaryHDU()
    common = {"TELESCOP": "SWIFT", "INSTRUME": "UVOTA", "FILTER": one.filters, "OBJECT": one.target, "MJDREFI": 51910}
    primary.header.update(common)
    hdus: list[Any] = [primary]
    begin = (one.t_min - _MET) * _DAY
    for index, share in enumerate((0.35, 0.65)):
        seconds = share * one.exptime
        start = begin + index * 0.5 * (one.t_max - one.t_min) * _DAY
        exposure = np.where(_round(), seconds, 0.0)
        times = {"EXPOSURE": seconds, "TSTART": start, "TSTOP": start + seconds, "UTCFINIT": 0.0}
        letter, unit = ("E", "s") if "_ex" in name else ("I", "count")
        data = exposure if "_ex" in name else rng.poisson((0.02 + 0.5 * light) * exposure)
        extension = f"{name[13:16].upper()}{round(start)}{letter}"
        hdus.append(
            image_hdu(data.astype(np.float32), scale=_SCALE["swift"], BUNIT=unit, EXTNAME=extension, **_place(one), **common, **times)
        )
    return hdus


def _galex(one: Observation, name: str, light: NDArray[np.float64], rng: np.random.Generator) -> list[Any]:
    """Intensity (-int), counts (-cnt), relative response (-rrhr) or the coarser flags (-flags) of a tile."""
    response = np.where(_round(), one.exptime, 0.0)
    counts = rng.poisson((0.02 + 0.3 * light) * response)
    start = (one.t_min - _GPS) * _DAY
    cards = {"TELESCOP": "GALEX", "BAND": 1 if "-nd-" in name else 2, "EXPTIME": one.exptime, "OBJECT": one.target,
             "EXPSTART": start, "EXPEND": start + one.exptime, **_place(one)}  # fmt: skip
    if "-flags" in name:
        return [image_hdu(np.zeros((SIZE // 8, SIZE // 8), np.int16), fits.PrimaryHDU, scale=8 * _SCALE["galex"], **cards)]
    rate = np.divide(counts, response, out=np.zeros((SIZE, SIZE)), where=response > 0)
    data = rate if "-int" in name else counts if "-cnt" in name else response
    unit = "count" if "-cnt" in name else None
    return [image_hdu(data.astype(np.float32), fits.PrimaryHDU, scale=_SCALE["galex"], BUNIT=unit, **cards)]


def _ps1(one: Observation, name: str, light: NDArray[np.float64], rng: np.random.Generator) -> list[Any]:
    """A skycell's warp or stack (asinh), its mask (.mask) or its variance (.wt), tile-compressed."""
    noise, offset, soften = 8.0, 0.7, 12.0
    source = 150.0 * light
    cards: dict[str, Any] = {
        "EXPTIME": one.exptime, "MJD-OBS": one.t_min, "HIERARCH FPA.TELESCOPE": "PS1", "HIERARCH FPA.INSTRUMENT": "GPC1",
        "HIERARCH FPA.FILTERID": f"{one.filters}.00000", "HIERARCH CELL.GAIN": 1.1, "SKYCELL": "skycell.1725.051",
    }  # fmt: skip
    variance = noise**2 + source
    data: NDArray[Any] = source + rng.normal(0, 1, source.shape) * np.sqrt(variance)
    if ".mask." in name:
        data = np.zeros((SIZE, SIZE), np.int16)
    elif ".wt." in name:
        data = variance.astype(np.float32)
    elif ".stk." in name:
        data = (np.arcsinh((data - offset) / (2 * soften)) * 2.5 / np.log(10.0)).astype(np.float32)
        cards |= {"BOFFSET": offset, "BSOFTEN": soften, "STK_TYPE": "DEEP_STACK"}
    else:
        data = data.astype(np.float32)
    header = fits.Header()
    for key, value in {**image_hdu(data, scale=_SCALE["ps1"], **_place(one)).header, **cards}.items():
        if not key.startswith(("NAXIS", "XTENSION", "BITPIX", "PCOUNT", "GCOUNT")):
            header[key] = value
    return [fits.PrimaryHDU(), fits.CompImageHDU(data, header, compression_type="GZIP_2", quantize_level=0.0)]


def _hst(one: Observation, name: str, light: NDArray[np.float64], rng: np.random.Generator) -> list[Any]:
    """A drizzled image with its weight (_drc, _drz; electrons a second), or a frame of two chips (_flc, _flt; electrons)."""
    primary = fits.PrimaryHDU()
    primary.header.update(
        {"TELESCOP": "HST", "INSTRUME": "WFC3", "DETECTOR": "UVIS", "FILTER": one.filters, "EXPTIME": one.exptime, "EXPSTART": one.t_min,
         "EXPEND": one.t_max, "TARGNAME": one.target, "FLATCORR": "COMPLETE", "DARKCORR": "COMPLETE", "CCDGAIN": 1.5}
    )  # fmt: skip
    place, scale = _place(one), _SCALE["hst"]
    if "_dr" in name:
        weight = np.where(_round(0.7), one.exptime, 0.0)
        electrons = rng.poisson((0.06 + 0.8 * light) * weight)
        data = np.divide(electrons, weight, out=np.zeros((SIZE, SIZE)), where=weight > 0) - 0.06 * (weight > 0)
        primary.header.update({"NDRIZIM": 2, "DRIZCORR": "COMPLETE", "D001DATA": "i_flc.fits[sci,1]"})
        science = image_hdu(data.astype(np.float32), scale=scale, EXTNAME="SCI", BUNIT="ELECTRONS/S", **place)
        return [primary, science, image_hdu(weight.astype(np.float32), scale=scale, EXTNAME="WHT", **place)]
    hdus: list[Any] = [primary]
    for chip in (1, 2):  # the event lies on the first; the second looks at the sky beside it
        source = 400.0 * light if chip == 1 else np.zeros_like(light)
        beside = place if chip == 1 else {**place, "CRVAL2": one.dec + 1.1 * SIZE * scale / 3600}
        data = rng.poisson(60.0 + source) + rng.normal(0, 3.1, source.shape)
        error = np.sqrt(np.maximum(data, 0) + 3.1**2)
        cards = {"EXTVER": chip, "CCDCHIP": 3 - chip, **beside}
        hdus.append(image_hdu(data.astype(np.float32), scale=scale, EXTNAME="SCI", BUNIT="ELECTRONS", **cards))
        hdus.append(image_hdu(error.astype(np.float32), scale=scale, EXTNAME="ERR", BUNIT="ELECTRONS", **cards))
        hdus.append(image_hdu(np.zeros((SIZE, SIZE), np.int16), scale=scale, EXTNAME="DQ", **cards))
    return hdus


def _jwst(one: Observation, name: str, light: NDArray[np.float64], rng: np.random.Generator) -> list[Any]:
    """A resampled image with its weight (_i2d), or a calibrated frame with its flags (_cal), MJy/sr."""
    gain, noise = 200.0, 0.05
    truth = 0.6 + 5.0 * light
    photons = truth / gain
    data = truth + rng.normal(0, 1, truth.shape) * np.sqrt(photons + noise**2)
    primary = fits.PrimaryHDU()
    primary.header.update(
        {"TELESCOP": "JWST", "INSTRUME": "NIRCAM", "DETECTOR": "NRCA1", "FILTER": one.filters, "PUPIL": "CLEAR", "TARGPROP": one.target,
         "EXPMID": 0.5 * (one.t_min + one.t_max), "EFFEXPTM": one.exptime, "S_FLAT": "COMPLETE", "S_DARK": "COMPLETE"}
    )  # fmt: skip
    place, scale = _place(one), _SCALE["jwst"]
    error = np.sqrt(photons + noise**2).astype(np.float32)
    science = image_hdu(data.astype(np.float32), scale=scale, EXTNAME="SCI", BUNIT="MJy/sr", PHOTMJSR=2.1, PIXAR_SR=2.2e-14, **place)
    hdus = [primary, science, image_hdu(error, scale=scale, EXTNAME="ERR", **place)]
    hdus.append(image_hdu(photons.astype(np.float32), scale=scale, EXTNAME="VAR_POISSON", **place))
    if "_i2d" in name:
        return [*hdus, image_hdu(np.ones((SIZE, SIZE), np.float32), scale=scale, EXTNAME="WHT", **place)]
    return [*hdus, image_hdu(np.zeros((SIZE, SIZE), np.int32), scale=scale, EXTNAME="DQ", **place)]


def _tess(one: Observation, name: str, light: NDArray[np.float64], rng: np.random.Generator) -> list[Any]:
    """A full-frame image: columns before and after the exposed ones, its uncertainty in the second extension."""
    seconds = one.exptime
    rate = 80.0 + 400.0 * light
    noise = np.sqrt(rate / seconds + 0.3)
    whole, errors = (np.zeros((SIZE + 30, SIZE + 88), np.float32) for _ in range(2))
    whole[:SIZE, 44 : 44 + SIZE] = rate + rng.normal(0, 1, rate.shape) * noise
    errors[:SIZE, 44 : 44 + SIZE] = noise
    start = _clock(name) or one.t_min
    primary = fits.PrimaryHDU()
    primary.header.update(
        {"TELESCOP": "TESS", "INSTRUME": "TESS Photometer", "CAMERA": 2, "CCD": 3, "SECTOR": 12,
         "TSTART": start - _BJD + 0.5, "TSTOP": start - _BJD + 0.5 + seconds / _DAY}
    )  # fmt: skip
    cards = {"BJDREFI": 2457000, "EXPOSURE": seconds / _DAY, "SCCSA": 45, "SCCED": 44 + SIZE, "SCROWS": 1, "SCROWE": SIZE, "DQUALITY": 0}
    place = _place(one)
    science = image_hdu(whole, scale=_SCALE["tess"], EXTNAME="CAMERA.CCD 2.3 cal", BUNIT="electrons/s", TELESCOP="TESS", **place, **cards)
    science.header["CRPIX1"] = place["CRPIX1"] + 44
    return [primary, science, image_hdu(errors, scale=_SCALE["tess"], EXTNAME="CAMERA.CCD 2.3 uncert", **place)]


def _clock(name: str) -> float | None:
    """Start (MJD) that a full-frame image's name tells."""
    from datetime import UTC, datetime

    digits = name[4:17]
    if not digits.isdigit():
        return None
    return 40587.0 + datetime.strptime(digits, "%Y%j%H%M%S").replace(tzinfo=UTC).timestamp() / _DAY


_LAYOUTS = {"swift": _swift, "galex": _galex, "ps1": _ps1, "hst": _hst, "jwst": _jwst, "tess": _tess}

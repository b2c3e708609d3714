"""Small files of the shape that each mission's archive delivers, made with known sky and sources."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

SIZE = 160


def wcs_cards(scale: float = 1.0, size: int = SIZE) -> dict[str, Any]:
    """A TAN projection of `scale` arcsec a pixel around (150, 2)."""
    step = scale / 3600.0
    return {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0,
        "CRPIX1": size / 2, "CRPIX2": size / 2, "CDELT1": -step, "CDELT2": step,
    }  # fmt: skip


def stars(flux: float, count: int = 12, fwhm: float = 2.5, size: int = SIZE, seed: int = 3) -> NDArray[np.float64]:
    """Gaussian stars of equal flux on a grid with jitter."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    image = np.zeros((size, size))
    sigma = fwhm / 2.3548
    side = int(np.ceil(np.sqrt(count)))
    for index in range(count):
        cx = size * (0.15 + 0.7 * (index % side) / max(side - 1, 1)) + rng.uniform(-1, 1)
        cy = size * (0.15 + 0.7 * (index // side) / max(side - 1, 1)) + rng.uniform(-1, 1)
        image += flux * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)
    return image


def image_hdu(data: NDArray[Any], kind: Any = fits.ImageHDU, *, scale: float = 1.0, **cards: Any) -> Any:
    hdu = kind(data)
    hdu.header.update({**wcs_cards(scale, data.shape[0]), **{key: value for key, value in cards.items() if value is not None}})
    return hdu


def save(path: Path, *hdus: Any) -> Path:
    """Write HDUs, gzipped where the name says so."""
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    fits.HDUList(list(hdus)).writeto(plain, overwrite=True)
    if plain != path:
        path.write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
        plain.unlink()
    return path


def uvot(folder: Path, *, rate: float = 2e-4, seconds: tuple[float, ...] = (100.0, 600.0, 300.0), star: float = 0.5) -> Path:
    """A sky image of several snapshots, counts, with its exposure map; `rate` counts/s/px of sky, `star` counts/s of each star."""
    rng = np.random.default_rng(5)
    common = {"TELESCOP": "SWIFT", "INSTRUME": "UVOTA", "FILTER": "UVW1", "OBJECT": "SN 2011fe", "MJDREFI": 51910, "MJDREFF": 7.4287e-4}
    y, x = np.mgrid[:SIZE, :SIZE]
    seen = np.hypot(x - SIZE / 2, y - SIZE / 2) < 0.48 * SIZE
    images, maps = [], []
    for index, length in enumerate(seconds):
        exposure = np.where(seen, length * (1.0 - 0.3 * (x / SIZE)), 0.0)
        counts = rng.poisson((rate + stars(star)) * exposure).astype(np.float32)
        times = {"EXPOSURE": length, "TSTART": 4.0e8 + 6000 * index, "TSTOP": 4.0e8 + 6000 * index + length, "UTCFINIT": -5.0}
        name = f"W1{400000000 + 6000 * index}"
        images.append(image_hdu(counts, BUNIT="count", EXTNAME=name + "I", **common, **times))
        maps.append(image_hdu(exposure.astype(np.float32), BUNIT="s", EXTNAME=name + "E", **common, **times))
    primary = fits.PrimaryHDU()
    primary.header.update(common)
    save(folder / "sw00032081001uw1_ex.img.gz", primary, *maps[::-1])  # in another order: they are matched by name
    return save(folder / "sw00032081001uw1_sk.img.gz", primary, *images)


def galex(folder: Path, *, rate: float = 1e-3, seconds: float = 150.0, star: float = 0.4, kind: str = "int") -> Path:
    rng = np.random.default_rng(6)
    y, x = np.mgrid[:SIZE, :SIZE]
    response = np.where(np.hypot(x - SIZE / 2, y - SIZE / 2) < 0.48 * SIZE, seconds * (0.7 + 0.6 * y / SIZE), 0.0)
    counts = rng.poisson((rate + stars(star)) * response)
    intensity = np.divide(counts, response, out=np.zeros((SIZE, SIZE)), where=response > 0)
    cards = {"TELESCOP": "GALEX", "BAND": 1, "EXPTIME": seconds, "OBJECT": "AIS_1", "EXPSTART": 7.5e8, "EXPEND": 7.5e8 + seconds}
    flags = np.zeros((SIZE // 8, SIZE // 8), np.int16)
    flags[10, 10], flags[5, 6] = 256, 2
    save(folder / "AIS_1_0001-nd-rrhr.fits.gz", image_hdu(response.astype(np.float32), fits.PrimaryHDU, scale=1.5, **cards))
    save(folder / "AIS_1_0001-nd-flags.fits.gz", image_hdu(flags, fits.PrimaryHDU, scale=12.0, **cards))
    data = intensity if kind == "int" else counts
    unit = None if kind == "int" else "count"
    path = folder / f"AIS_1_0001-nd-{kind}.fits.gz"
    return save(path, image_hdu(data.astype(np.float32), fits.PrimaryHDU, scale=1.5, BUNIT=unit, **cards))


def panstarrs(folder: Path, *, stacked: bool = True, offset: float = 0.7, soften: float = 12.0) -> tuple[Path, NDArray[np.float64]]:
    """A stack's skycell with mask and variance, tile-compressed; returns the linear flux too."""
    rng = np.random.default_rng(7)
    noise = 8.0
    flux = stars(4000.0) + rng.normal(0, noise, (SIZE, SIZE))
    variance = (noise**2 + stars(4000.0)).astype(np.float32)
    mask = np.zeros((SIZE, SIZE), np.int16)
    mask[20, 21], mask[30, 31], mask[40:44, 40:44], mask[60, 61] = 0x20, 0x100, 0x08, 0x200
    cards = {
        "EXPTIME": 800.0, "MJD-OBS": 56000.25, "HIERARCH FPA.TELESCOPE": "PS1", "HIERARCH FPA.INSTRUMENT": "GPC1",
        "HIERARCH FPA.FILTERID": "i.00000", "HIERARCH CELL.GAIN": 1.1, "SKYCELL": "skycell.1725.051",
    }  # fmt: skip
    data = flux
    own = dict(cards)
    if stacked:
        data = np.arcsinh((flux - offset) / (2 * soften)) * 2.5 / np.log(10.0)
        own |= {"BOFFSET": offset, "BSOFTEN": soften, "STK_TYPE": "DEEP_STACK"}
    stem = "rings.v3.skycell.1725.051.stk.i.unconv" if stacked else "rings.v3.skycell.1725.051.wrp.i.56000_12345"
    lossless = {"compression_type": "GZIP_2", "quantize_level": 0.0}

    def packed(array: NDArray[Any], header: dict[str, Any]) -> Any:
        cards_of = fits.Header()
        for key, value in {**wcs_cards(0.25), **header}.items():
            cards_of[key] = value
        return fits.CompImageHDU(array, cards_of, **lossless)

    save(folder / f"{stem}.mask.fits", fits.PrimaryHDU(), packed(mask, cards))
    save(folder / f"{stem}.wt.fits", fits.PrimaryHDU(), packed(variance, cards))
    return save(folder / f"{stem}.fits", fits.PrimaryHDU(), packed(data.astype(np.float32), own)), flux


def hst(folder: Path, *, infrared: bool = False) -> Path:
    """A calibrated detector frame of two chips (electrons), or of the infrared channel (electrons a second)."""
    rng = np.random.default_rng(8)
    primary = fits.PrimaryHDU()
    primary.header.update(
        {"TELESCOP": "HST", "INSTRUME": "WFC3", "DETECTOR": "IR" if infrared else "UVIS", "FILTER": "F160W" if infrared else "F606W",
         "EXPTIME": 500.0, "EXPSTART": 59000.0, "EXPEND": 59000.01, "TARGNAME": "SN", "FLATCORR": "COMPLETE", "DARKCORR": "COMPLETE",
         "BIASCORR": "OMIT" if infrared else "COMPLETE", "CCDGAIN": 1.5}
    )  # fmt: skip
    hdus = [primary]
    for chip in (1,) if infrared else (1, 2):
        sky, noise, electrons = 60.0, 3.1, stars(20000.0)
        data = rng.poisson(sky + electrons) + rng.normal(0, noise, (SIZE, SIZE))
        error = np.sqrt(np.maximum(data, 0) + noise**2)
        flags = np.zeros((SIZE, SIZE), np.int16)
        flags[10, 11], flags[12, 13], flags[14, 15], flags[16, 17], flags[18, 19] = 256, 4096, 16, 8192, 64
        per = 500.0 if infrared else 1.0
        unit = "ELECTRONS/S" if infrared else "ELECTRONS"
        cards = {"EXTVER": chip, "CCDCHIP": 3 - chip}
        hdus.append(image_hdu((data / per).astype(np.float32), scale=0.04, EXTNAME="SCI", BUNIT=unit, **cards))
        hdus.append(image_hdu((error / per).astype(np.float32), scale=0.04, EXTNAME="ERR", BUNIT=unit, **cards))
        hdus.append(image_hdu(flags, scale=0.04, EXTNAME="DQ", **cards))
        if infrared:
            hdus.append(image_hdu(np.full((SIZE, SIZE), 500.0, np.float32), scale=0.04, EXTNAME="TIME", **cards))
    return save(folder / ("ibxx01_flt.fits" if infrared else "ibxx02_flc.fits"), *hdus)


def with_tables(path: Path, shift: float = 0.4) -> Path:
    """A frame with the distortions that HST keeps in tables (CPDISj, D2IMDISj): each moves y by `shift` px, and x by nothing."""
    with fits.open(path) as hdus:
        for number, name in enumerate(("WCSDVARR", "D2IMARR")):
            kind, parameters = (("CPDIS", "DP"), ("D2IMDIS", "D2IM"))[number]
            for axis in (1, 2):
                table = fits.ImageHDU(np.full((4, 4), shift * (axis - 1), np.float32), name=name, ver=axis)
                table.header.update({f"{card}{side}": value for side in (1, 2) for card, value in _TABLE.items()})
                hdus.append(table)
                for header in (hdu.header for hdu in hdus if hdu.name == "SCI"):
                    header[f"{kind}{axis}"] = "LOOKUP"
                    for word in (f"EXTVER: {axis}", "NAXES: 2", "AXIS.1: 1", "AXIS.2: 2"):
                        header.append(fits.Card(f"{parameters}{axis}", word), end=True)
        hdus.writeto(path, overwrite=True)
    return path


_TABLE = {"CRPIX": 1.0, "CRVAL": 1.0, "CDELT": SIZE / 3}


def hst_drizzled(folder: Path) -> Path:
    rng = np.random.default_rng(9)
    weight = np.full((SIZE, SIZE), 1000.0)
    weight[:, SIZE // 2 :] = 250.0
    weight[:5] = 0.0
    electrons = rng.poisson((0.06 + stars(20.0)) * weight)
    data = np.divide(electrons, weight, out=np.full((SIZE, SIZE), 0.0), where=weight > 0) - 0.06 * (weight > 0)
    primary = fits.PrimaryHDU()
    primary.header.update(
        {"TELESCOP": "HST", "INSTRUME": "ACS", "DETECTOR": "WFC", "FILTER1": "CLEAR1L", "FILTER2": "F814W", "EXPTIME": 1000.0,
         "EXPSTART": 59000.0, "EXPEND": 59000.02, "NDRIZIM": 2, "DRIZCORR": "COMPLETE", "D001DATA": "j_flc.fits[sci,1]"}
    )  # fmt: skip
    science = image_hdu(data.astype(np.float32), scale=0.05, EXTNAME="SCI", BUNIT="ELECTRONS/S")
    weights = image_hdu(weight.astype(np.float32), scale=0.05, EXTNAME="WHT")
    return save(folder / "jxxx01_drc.fits", primary, science, weights)


def jwst(folder: Path, *, resampled: bool = False) -> Path:
    """Two electrons a unit x 100: the photons' variance is data / 200."""
    rng = np.random.default_rng(10)
    gain, noise = 200.0, 0.05
    truth = 0.6 + stars(300.0)
    photons = truth / gain
    data = truth + rng.normal(0, 1, truth.shape) * np.sqrt(photons + noise**2)
    primary = fits.PrimaryHDU()
    primary.header.update(
        {"TELESCOP": "JWST", "INSTRUME": "NIRCAM", "DETECTOR": "NRCA1", "FILTER": "F150W2", "PUPIL": "F162M", "TARGPROP": "A2744",
         "EXPMID": 59885.5, "EFFEXPTM": 900.0, "S_FLAT": "COMPLETE", "S_DARK": "COMPLETE", "S_RESAMP": "SKIPPED"}
    )  # fmt: skip
    science = image_hdu(data.astype(np.float32), scale=0.03, EXTNAME="SCI", BUNIT="MJy/sr", PHOTMJSR=2.1, PIXAR_SR=2.2e-14)
    error = np.sqrt(photons + noise**2).astype(np.float32)
    error[7, 8] = 0.0
    hdus = [primary, science, image_hdu(error, EXTNAME="ERR"), image_hdu(photons.astype(np.float32), EXTNAME="VAR_POISSON")]
    if resampled:
        weight = np.ones((SIZE, SIZE), np.float32)
        weight[:, :4] = 0.0
        hdus.append(image_hdu(weight, EXTNAME="WHT"))
        return save(folder / "jw01_i2d.fits", *hdus)
    flags = np.zeros((SIZE, SIZE), np.uint32)
    flags[10, 11], flags[12, 13], flags[14, 15], flags[16, 17] = 1 | 2, 2, 1 | 1024, 1 | (1 << 31)
    flags[18, 19], flags[20, 21], flags[22, 23] = 1 | 16, 4, 1
    hdus.append(image_hdu(flags, EXTNAME="DQ"))
    return save(folder / "jw01_cal.fits", *hdus)


def tess(folder: Path, *, quality: int = 0) -> Path:
    rng = np.random.default_rng(11)
    seconds = 0.0165 * 86400.0
    rate = 80.0 + stars(60000.0)
    noise = np.sqrt(rate / seconds + 0.3)
    whole = np.zeros((SIZE + 30, SIZE + 88), np.float32)
    errors = np.zeros_like(whole)
    whole[:SIZE, 44 : 44 + SIZE] = rate + rng.normal(0, 1, rate.shape) * noise
    errors[:SIZE, 44 : 44 + SIZE] = noise
    primary = fits.PrimaryHDU()
    primary.header.update(
        {"TELESCOP": "TESS", "INSTRUME": "TESS Photometer", "CAMERA": 2, "CCD": 3, "SECTOR": 12, "TSTART": 1600.0, "TSTOP": 1600.02}
    )
    cards = {"BJDREFI": 2457000, "EXPOSURE": 0.0165, "SCCSA": 45, "SCCED": 44 + SIZE, "SCROWS": 1, "SCROWE": SIZE, "DQUALITY": quality}
    science = image_hdu(whole, scale=21.0, EXTNAME="CAMERA.CCD 2.3 cal", BUNIT="electrons/s", TELESCOP="TESS", **cards)
    science.header["CRPIX1"], science.header["CRPIX2"] = 44 + SIZE / 2, SIZE / 2
    return save(folder / "tess2019-s0012-2-3-0144-s_ffic.fits", primary, science, image_hdu(errors, EXTNAME="CAMERA.CCD 2.3 uncert"))

"""Small synthetic skies with known PSF, noise, stars and mapping, made with numpy alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS

from astrid.core.records import Calibrated, ExposureInfo, Psf


def gaussian(fwhm):
    sigma = fwhm / 2.3548200450309493
    return lambda dy, dx: np.exp(-(dy**2 + dx**2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)


def moffat(fwhm, beta=3.5, ratio=1.0, angle=0.0):
    alpha = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))

    def profile(dy, dx):
        c, s = np.cos(angle), np.sin(angle)
        u, v = c * dx + s * dy, (c * dy - s * dx) / ratio
        return (beta - 1) / (np.pi * alpha**2 * ratio) * (1 + (u**2 + v**2) / alpha**2) ** -beta

    return profile


def pixelised(profile, sub=5):
    """Integrate a profile over pixels (midpoint rule on sub x sub points)."""
    steps = (np.arange(sub) + 0.5) / sub - 0.5

    def integrated(dy, dx):
        return sum(profile(dy + a, dx + b) for a in steps for b in steps) / sub**2

    return integrated


def stamp_of(profile, half):
    dy, dx = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
    stamp = profile(dy, dx)
    return (stamp / stamp.sum()).astype(np.float32)


def render(shape, profile, x, y, flux, half=25):
    """Sum of stars at sub-pixel positions; flux beyond `half` px of a star is dropped."""
    ny, nx = shape
    image = np.zeros(shape)
    for sx, sy, sf in zip(x, y, flux, strict=True):
        r0, r1 = max(0, round(sy) - half), min(ny, round(sy) + half + 1)
        c0, c1 = max(0, round(sx) - half), min(nx, round(sx) + half + 1)
        if r0 >= r1 or c0 >= c1:
            continue
        rows, columns = np.mgrid[r0:r1, c0:c1]
        image[r0:r1, c0:c1] += sf * profile(rows - sy, columns - sx)
    return image


def tan_wcs(shape, scale_arcsec=1.0, angle_deg=0.0, crval=(150.0, 2.0), crpix=None):
    ny, nx = shape
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = crval
    wcs.wcs.crpix = crpix or ((nx + 1) / 2, (ny + 1) / 2)
    a, s = np.deg2rad(angle_deg), scale_arcsec / 3600
    wcs.wcs.cd = s * np.array([[-np.cos(a), np.sin(a)], [np.sin(a), np.cos(a)]])
    wcs.array_shape = shape
    return wcs


def info(exposure_id="sci", **changes):
    base = {"survey": "sim", "instrument": "cam", "detector": "1", "filter": "r", "mjd": 60000.0, "exptime": 60.0}
    return ExposureInfo(exposure_id=exposure_id, **(base | changes))


@dataclass
class Sky:
    science: Calibrated
    reference: Calibrated
    stars: np.ndarray  # (n, 3): x, y on the science grid, flux in science


def exposure(signal, sky, rng, wcs, name, *, psf=None, unit_gain=1.0, **changes):
    """Poisson noise of sky and sources, with the true variance (not the noisy one) in the plane."""
    variance = np.maximum(signal, 0) / unit_gain + sky
    data = signal + rng.normal(size=signal.shape) * np.sqrt(variance)
    return Calibrated(
        data=data.astype(np.float32),
        variance=variance.astype(np.float32),
        dq=np.zeros(signal.shape, np.uint32),
        wcs=wcs,
        info=info(name, **changes),
        psf=psf,
        sky=float(sky),
        sky_rms=float(np.sqrt(sky)),
    )


def star_field(rng, shape, count, bright=2e5, faint=300.0, margin=-10):
    x = rng.uniform(margin, shape[1] - margin, count)
    y = rng.uniform(margin, shape[0] - margin, count)
    flux = faint * (bright / faint) ** (rng.uniform(size=count) ** 2)
    return x, y, flux


def make_pair(
    seed=0, shape=(256, 256), count=60, fwhm=(3.0, 2.2), sky=(100.0, 25.0), ratio=1.0, angle=0.0, shift=(0.0, 0.0), scale=1.0,
    header_error=(0.0, 0.0), transients=(), given=False, jitter=0.0,
):  # fmt: skip
    """A pair whose reference is turned by `angle` deg, moved by `shift` px, scaled; `header_error` px is added to its header."""
    rng = np.random.default_rng(seed)
    x, y, flux = star_field(rng, shape, count)
    wcs_s = tan_wcs(shape)
    ny, nx = shape
    true = tan_wcs(shape, scale, angle, crpix=((nx + 1) / 2 + shift[0], (ny + 1) / 2 + shift[1]))
    stated = tan_wcs(shape, scale, angle, crpix=((nx + 1) / 2 + shift[0] + header_error[0], (ny + 1) / 2 + shift[1] + header_error[1]))
    p_n, p_r = pixelised(moffat(fwhm[0])), pixelised(moffat(fwhm[1]))
    rx, ry = true.world_to_pixel_values(*wcs_s.pixel_to_world_values(x, y))
    signal = render(shape, p_n, x + jitter * rng.normal(size=count), y + jitter * rng.normal(size=count), flux)
    for tx, ty, tf in transients:
        signal += render(shape, p_n, [tx], [ty], [tf])
    ref = render(shape, p_r, rx, ry, flux * ratio)
    psfs = (Psf(stamp_of(p_n, 15), "given", fwhm=fwhm[0]), Psf(stamp_of(p_r, 15), "given", fwhm=fwhm[1])) if given else (None, None)
    science = exposure(signal, sky[0], rng, wcs_s, "sci", psf=psfs[0])
    reference = exposure(ref, sky[1], rng, stated, "ref", psf=psfs[1], mjd=59000.0, role="reference")
    return Sky(science, reference, np.c_[x, y, flux])

"""A synthetic difference in the limit of a noiseless reference: D = science - reference is white and its PSF is the science PSF."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.wcs import WCS
from scipy.signal import fftconvolve

from astrid.config.schema.candidates import CandidatesConfig
from astrid.config.validate import validate
from astrid.core.records import Difference, ExposureInfo, Psf

ROOT = Path(__file__).parents[3]


@dataclass
class Scene:
    """Draw on `science` and `reference` in place, set `dq`, then `build()`."""

    shape: tuple[int, int] = (256, 256)
    sigma: float = 1.7  # px, of the PSF
    noise: float = 3.0
    seed: int = 1
    science: np.ndarray = field(init=False)
    reference: np.ndarray = field(init=False)
    dq: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.science = np.random.default_rng(self.seed).normal(0, self.noise, self.shape)
        self.reference = np.zeros(self.shape)
        self.dq = np.zeros(self.shape, np.uint32)

    @property
    def stamp(self) -> np.ndarray:
        y, x = np.mgrid[-12:13, -12:13]
        stamp = np.exp(-(x**2 + y**2) / (2 * self.sigma**2))
        return (stamp / stamp.sum()).astype(np.float32)

    @property
    def flux_error(self) -> float:
        return self.noise / float(np.sqrt(np.sum(self.stamp.astype(float) ** 2)))

    def source(self, x: float, y: float, *, sigma: float | None = None) -> np.ndarray:
        """A unit-flux Gaussian at a sub-pixel position on the full grid."""
        width = sigma or self.sigma
        yy, xx = np.mgrid[: self.shape[0], : self.shape[1]]
        return np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / (2 * width**2)) / (2 * np.pi * width**2)

    def add(self, x: float, y: float, snr: float) -> None:
        self.science += snr * self.flux_error * self.source(x, y)

    def build(self) -> Difference:
        difference = self.science - self.reference
        stamp = self.stamp
        power = float(np.sum(stamp.astype(float) ** 2))
        matched = fftconvolve(np.nan_to_num(difference), stamp.astype(float)[::-1, ::-1], mode="same")
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [150.0, 2.0], [128.0, 128.0], [-0.2 / 3600, 0.2 / 3600]
        info = {"survey": "test", "instrument": "cam", "detector": "1", "filter": "r", "mjd": 60000.0, "exptime": 30.0}
        psf = Psf(stamp=stamp, method="given", fwhm=2.3548 * self.sigma)
        planes = (self.science, self.reference, difference, matched / (self.noise * np.sqrt(power)), matched / power)
        return Difference(
            *(plane.astype(np.float32) for plane in planes),
            flux_err=np.full(self.shape, self.flux_error, np.float32),
            dq=self.dq,
            psf_science=psf,
            psf_reference=psf,
            psf_difference=psf,
            wcs=wcs,
            info=ExposureInfo(exposure_id="s", **info),
            reference_info=ExposureInfo(exposure_id="r", role="reference", **info),
        )


@pytest.fixture
def scene() -> type[Scene]:
    return Scene


@pytest.fixture(scope="session")
def cfg() -> CandidatesConfig:
    return validate(CandidatesConfig, yaml.safe_load((ROOT / "conf/candidates/default.yaml").read_text()), path="candidates")

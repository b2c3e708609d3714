"""Frozen records that the rooms hand to each other.

Images are in electrons (or the survey's own calibrated unit, named by `ExposureInfo.unit`), float32, native byte order,
shape (ny, nx); pixel coordinates are 0-based with integers at pixel centres, x along the second axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from astrid.core.archive import Amplifier, Archive

if TYPE_CHECKING:
    from astropy.io.fits import Header
    from astropy.wcs import WCS

FloatImage = NDArray[np.float32]
DQImage = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class ExposureInfo:
    """Who an exposure is: the columns that every table downstream repeats."""

    exposure_id: str  # unique: one detector of one visit
    survey: str
    instrument: str
    detector: str
    filter: str
    mjd: float  # d, middle of the exposure
    exptime: float  # s
    role: str = "science"  # "science" or "reference"
    field_id: str = ""  # the pointing, where the survey has one
    unit: str = "electron"


@dataclass(frozen=True, eq=False)
class Frames:
    """An exposure's image and its companion frames, as read and not yet interpreted."""

    source: str  # file name, for messages
    data: FloatImage  # (ny, nx)
    header: Header
    wcs: WCS
    bias: FloatImage | None = None
    flat: FloatImage | None = None
    mask: NDArray[np.bool_] | None = None  # True = bad
    noise: FloatImage | None = None  # 1 sigma, in the image's unit
    psf: FloatImage | None = None
    dark: FloatImage | None = None  # ADU, without its bias
    dark_exptime: float = float("nan")  # s, of the master dark
    variances: Mapping[str, FloatImage] = field(default_factory=dict)  # of the master frames "bias", "dark", "flat", their unit^2
    amplifiers: tuple[Amplifier, ...] = ()  # empty = one channel; `wcs` counts from the data section of the first
    archive: Archive | None = None  # what a mission's product says of itself
    dq: DQImage | None = None  # bits of `core.dq.DQ` that its observatory wrote beside it


@dataclass(frozen=True, eq=False)
class Psf:
    """A point-spread function as stamps: constant, or a polynomial in the position over its image.

    With u = (x - x0) / scale and v = (y - y0) / scale, clipped to [-1, 1],
    PSF(x, y) = stamp + terms[0] u + terms[1] v + terms[2] u^2 + terms[3] u v + terms[4] v^2 + ... (PSFEx, Bertin 2011).
    """

    stamp: FloatImage  # (k, k), k odd, centred, sums to 1: the PSF at (x0, y0)
    method: str  # "given", "empirical", "moffat" or "gaussian": the rung of the ladder that was reached
    n_stars: int = 0
    fwhm: float = float("nan")  # px, of `stamp`
    residual: float = float("nan")  # RMS of (star - model) / star's flux over the stamp's core
    terms: FloatImage | None = None  # (m, k, k), m = 2, 5, 9, ...; each sums to 0; None = the same everywhere
    frame: tuple[float, float, float] = (0.0, 0.0, 1.0)  # x0, y0, scale, px
    quadrants: tuple[float, ...] = ()  # `residual` of the quadrants (low x low y, high x low y, low x high y, high x high y); NaN = no star

    def at(self, x: float, y: float) -> Psf:
        """The PSF at one position, as a constant one; `fwhm` stays that of the centre."""
        if self.terms is None:
            return self
        x0, y0, scale = self.frame
        u, v = (min(max(value / scale, -1.0), 1.0) for value in (x - x0, y - y0))
        weights = np.array(monomials(u, v, len(self.terms)), dtype=np.float32)
        return replace(self, stamp=self.stamp + np.tensordot(weights, self.terms, axes=1), terms=None)


def monomials(u: float, v: float, count: int) -> list[float]:
    """The first `count` monomials u, v, u^2, u v, v^2, u^3, ... without the constant."""
    out: list[float] = []
    degree = 1
    while len(out) < count:
        out.extend(u ** (degree - power) * v**power for power in range(degree + 1))
        degree += 1
    return out[:count]


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A calibrated, sky-subtracted exposure."""

    data: FloatImage
    variance: FloatImage  # unit^2; sky, read and source noise
    dq: DQImage
    wcs: WCS
    info: ExposureInfo
    psf: Psf | None = None
    sky: float = 0.0  # median sky level that was subtracted, unit
    sky_rms: float = float("nan")  # RMS of the blank sky, unit
    gain: float = 1.0  # electrons per unit of `data`: source variance = data / gain
    meta: Mapping[str, Any] = field(default_factory=dict)  # scalars for the header: what was applied, counts of DQ
    sources: NDArray[Any] | None = None  # structured (n,), see imaging.stars.find: what was found in it, with PSF fits of its stars


@dataclass(frozen=True, eq=False)
class PixelMap:
    """Science pixel -> reference pixel, tabulated at nodes that stand evenly from the first to the last pixel of the science grid."""

    nodes: NDArray[np.float64]  # (2, m, n), m and n >= 2: reference x, then y, px; NaN where the projections have no answer
    shape: tuple[int, int]  # (ny, nx) of the science grid

    def __call__(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Reference positions (x, y) of science positions (k,), px: bilinear between the nodes, NaN beside a node without an answer."""
        cells = [count - 1 for count in self.nodes.shape[1:]]
        place = [value * (many / max(size - 1, 1)) for value, many, size in zip((y, x), cells, self.shape, strict=True)]
        row, column = (np.clip(value, 0, many - 1).astype(np.int64) for value, many in zip(place, cells, strict=True))
        v, u = place[0] - row, place[1] - column
        upper, lower = (self.nodes[:, line, column] * (1.0 - u) + self.nodes[:, line, column + 1] * u for line in (row, row + 1))
        found = upper * (1.0 - v) + lower * v
        return found[0], found[1]


@dataclass(frozen=True, eq=False)
class Difference:
    """A proper subtraction on the science grid; every plane has the shape (ny, nx) of the science image."""

    science: FloatImage
    reference: FloatImage  # resampled, on the science image's flux scale
    difference: FloatImage  # D, on the science image's flux scale
    score: FloatImage  # S_corr, unit sigma, N(0, 1) on blank sky
    flux: FloatImage  # PSF flux of a point source centred on the pixel, unit of science
    flux_err: FloatImage  # its 1-sigma error
    dq: DQImage
    psf_science: Psf
    psf_reference: Psf
    psf_difference: Psf
    wcs: WCS
    info: ExposureInfo  # of the science exposure
    reference_info: ExposureInfo
    quality: Mapping[str, Any] = field(default_factory=dict)  # scalars: registration, zero-point, S_corr width, overlap
    truth: DQImage | None = None  # 1 where a known or simulated transient sits
    to_reference: PixelMap | None = None  # the registration, to the pixels of the reference exposure; None where it is not known


@dataclass(frozen=True, eq=False)
class Triplet:
    """One alert's or candidate's stamps as read from outside, before normalisation."""

    candidate_id: str
    object_id: str
    survey: str
    stamps: NDArray[np.float32]  # (3, 63, 63): science, reference, difference turned so that the source is positive
    sign: int  # +1 brightened, -1 faded
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Problem:
    """An input that was set aside: what it is and, in one sentence, why."""

    source: str
    reason: str

"""An archive-calibrated exposure: its flags, its noise and its gain, from its own planes or from its sky."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrid.config.schema.calibrate import CalibrateConfig
from astrid.core.archive import Archive, Identity
from astrid.core.dq import DQ, unusable
from astrid.core.errors import ImagingError
from astrid.core.records import DQImage, FloatImage
from astrid.imaging.detector.background import Background, measure_background
from astrid.imaging.detector.counts import counts_variance, expected_light, measure_counts_background
from astrid.imaging.detector.readout import edge_flags, saturation_flags

if TYPE_CHECKING:
    from astropy.wcs import WCS

_BLANK_BLOCK = 3  # px, exact zeros of a float image in blocks of this side are outside the footprint
_GAIN_SIGMA = 3.0  # sigma above the sky of the pixels that tell the gain of a noise image
_EMPTY = 20.0  # expected events in a disc that holds none: exp(-20) a position, beyond it nothing was exposed there
_ROUNDS = 4
_LEAST_VARIANCE = 0.1  # of the blank sky's: a pixel far below the sky is not without noise
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True, eq=False)
class Working:
    """A trimmed image with its sky, between the detector and the sky."""

    data: FloatImage
    variance: FloatImage | None  # None = not known yet
    dq: DQImage
    wcs: WCS | None  # None until its caller sets it
    applied: tuple[str, ...]
    numbers: Mapping[str, Any] = field(default_factory=dict)
    gain: float | FloatImage = float("nan")  # electrons a unit; NaN = unknown
    exposure: FloatImage | None = None  # relative exposure
    photon_variance: FloatImage | None = None
    stated: bool = False  # the variance was given, not measured
    counting: bool = False
    response: FloatImage | None = None  # the flat that a raw image was divided by

    @property
    def has_gain(self) -> bool:
        """Whether electrons a unit are known somewhere."""
        known = np.isfinite(self.gain) & (np.asarray(self.gain) > 0)
        return bool(np.any(known))


def open_archive(
    data: FloatImage,
    archive: Archive | None,
    noise: FloatImage | None,
    mask: NDArray[np.bool_] | None,
    gain: float,
    saturation: float,
    config: CalibrateConfig,
) -> Working:
    """Flags and variance of an image (ny, nx) as its archive, its mission's mapping and the user's companions give them.

    A noise image of the user goes before the archive's own variance. Where neither says, `variance` is None.

    Raises
    ------
    ImagingError
        A companion has another shape, or a noise image no positive pixel.
    """
    known = archive or Archive(Identity("", "", "", "", ""))
    level = saturation if np.isfinite(saturation) else known.saturation
    dq = edge_flags((data.shape[0], data.shape[1]), config.detector) | saturation_flags(data, level, config.detector)
    finite = np.isfinite(data)
    dq[~finite] |= np.uint32(DQ.NOT_FINITE)
    applied = []
    if known.exposure is not None:
        dq[~(known.exposure > 0)] |= np.uint32(DQ.NO_COVERAGE)
    elif not known.counting:
        dq[_blank(data)] |= np.uint32(DQ.NO_COVERAGE)
    else:
        dq[_outside(data)] |= np.uint32(DQ.NO_COVERAGE)
    if known.dq is not None:
        dq |= known.dq
        applied.append("archive flags")
    if mask is not None:
        _same_shape(mask, data, "mask")
        dq[mask] |= np.uint32(DQ.BAD)
        applied.append("given mask")
    variance = None
    if noise is not None:
        _same_shape(noise, data, "noise image")
        variance = _filled(noise, dq, "noise image") ** 2
        applied.append("given noise")
    elif known.variance is not None:
        variance = _filled(known.variance, dq, "archive's variance")
        applied.append("archive noise")
    filled = np.where(finite, data, np.median(data[finite])).astype(np.float32)
    electrons = gain if np.isfinite(gain) and gain > 0 else float("nan") if known.gain is None else known.gain
    photons = known.photon_variance if noise is None else None
    return Working(
        filled, variance, dq, None, tuple(applied), dict(known.notes), electrons, known.exposure, photons, variance is not None,
        known.counting and variance is None,
    )  # fmt: skip


def archive_variance(working: Working, background: Background, hidden: NDArray[np.bool_], config: CalibrateConfig) -> FloatImage:
    """V = rms_sky^2 + (data - sky) / gain, unit^2: the measured scatter of the blank sky and the photons of the sources.

    Where the exposure varies, the scatter is measured on data * sqrt(exposure) and scaled back. The sources' photons are their
    expectation (`counts.expected_light`), so that the variance does not follow its own noise.
    """
    blank = background.rms.astype(np.float32) ** 2
    if working.exposure is not None:
        blank = _uneven(working, background, hidden, config)
    if not working.has_gain:
        return np.maximum(blank, _TINY)
    gain = np.where(np.isfinite(working.gain) & (np.asarray(working.gain) > 0), working.gain, np.inf).astype(np.float32)
    variance = blank + expected_light(working.data - background.level, background.sources, np.sqrt(blank)) / gain
    return np.asarray(np.maximum(variance, np.maximum(_LEAST_VARIANCE * blank, _TINY)), dtype=np.float32)


def counting_variance(working: Working, hidden: NDArray[np.bool_], config: CalibrateConfig) -> tuple[FloatImage, Background]:
    """Poisson variance and sky of a counting detector, in the image's unit (see `imaging.detector.counts`)."""
    gain = np.broadcast_to(np.asarray(working.gain, dtype=np.float32), working.data.shape)
    known = np.isfinite(gain) & (gain > 0)
    per_unit = np.where(known, gain, np.float32(1.0))
    counts = np.where(known, working.data * per_unit, np.float32(0.0)).astype(np.float32)
    sky = measure_counts_background(counts, working.exposure, hidden | ~known, config.background, config.counts)
    variance = counts_variance(counts, sky, config.counts) / per_unit**2
    least = float(np.median(variance[known & ~hidden]))
    variance = np.where(known & (variance > _TINY), variance, np.float32(least)).astype(np.float32)
    level = (sky.level / per_unit).astype(np.float32)
    rms = (sky.rms / per_unit).astype(np.float32)
    free = ~(hidden | sky.sources)
    background = Background(level, rms, sky.sources, float(np.median(level[free])), float(np.median(rms[free])))
    return variance, background


def archive_gain(data: FloatImage, variance: FloatImage, dq: DQImage, working: Working) -> float:
    """Electrons a unit: given, or from the slope of the stated variance over the flux; infinite where unknown."""
    if working.has_gain:
        known = np.asarray(working.gain)[np.isfinite(working.gain) & (np.asarray(working.gain) > 0)]
        return float(np.median(known))
    if not working.stated:
        return float("inf")
    plane = variance if working.photon_variance is None else working.photon_variance
    free = ~unusable(dq)
    blank = float(np.median(plane[free]))
    bright = free & (data > _GAIN_SIGMA * np.sqrt(float(np.median(variance[free]))))
    if not bright.any():
        return float("inf")
    slope = float(np.median((plane[bright] - blank) / data[bright]))
    return 1.0 / slope if slope > 0 else float("inf")


def _uneven(working: Working, background: Background, hidden: NDArray[np.bool_], config: CalibrateConfig) -> FloatImage:
    assert working.exposure is not None
    exposed = working.exposure > 0
    middle = float(np.median(working.exposure[exposed]))
    share = np.where(exposed, working.exposure / np.float32(middle), np.float32(1.0)).astype(np.float32)
    even = ((working.data - background.level) * np.sqrt(share)).astype(np.float32)
    scatter = measure_background(even, hidden, config.background).rms
    blank: FloatImage = (scatter**2 / np.maximum(share, np.finfo(np.float32).eps)).astype(np.float32)
    return blank


def _filled(plane: FloatImage, dq: DQImage, what: str) -> FloatImage:
    """The plane with its median where it says nothing; such pixels are flagged in place."""
    known = np.isfinite(plane) & (plane > 0)
    if not known.any():
        raise ImagingError(f"the {what} has no positive finite pixel; give another or leave it out.")
    dq[~known] |= np.uint32(DQ.BAD)
    return np.where(known, plane, np.median(plane[known])).astype(np.float32)


def _same_shape(frame: NDArray[Any], data: FloatImage, what: str) -> None:
    if frame.shape != data.shape:
        raise ImagingError(f"the {what} has shape {frame.shape} but its image {data.shape}; give the one that belongs to it.")


def _blank(data: FloatImage) -> NDArray[np.bool_]:
    """Blocks of exact zeros in an image that is not of integers: nothing was drizzled or stacked there."""
    zero = data == 0
    if not zero.any() or np.all(np.mod(data[np.isfinite(data)], 1) == 0):
        return np.zeros(data.shape, bool)
    blank: NDArray[np.bool_] = ndimage.binary_opening(zero, np.ones((_BLANK_BLOCK, _BLANK_BLOCK), bool))
    return blank


def _outside(counts: FloatImage) -> NDArray[np.bool_]:
    """What a counting detector without an exposure map has not seen: discs so empty that its sky cannot have left them so.

    The chance that no event falls within r of a position is exp(-rate pi r^2).
    """
    struck = np.nan_to_num(counts) != 0
    if struck.all() or not struck.any():
        return np.zeros(counts.shape, bool)
    distance = ndimage.distance_transform_edt(~struck)
    inside, reach = np.ones(counts.shape, bool), 0.0
    for _ in range(_ROUNDS):
        rate = -np.log1p(-min(float(struck[inside].mean()), 0.999))
        reach = float(np.sqrt(_EMPTY / (np.pi * rate)))
        inside = distance <= reach
    if inside.all():
        return ~inside
    outside: NDArray[np.bool_] = (ndimage.distance_transform_edt(inside) < reach) & ~struck
    return outside

"""What the detector did to the photons: overscan, bias, flat, gain, and the pixels that cannot be used."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrid.config.schema.calibrate import DetectorConfig
from astrid.core.dq import DQ
from astrid.core.errors import ImagingError
from astrid.core.records import DQImage, FloatImage

_SECTION = re.compile(r"^\s*\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]\s*$")
_OVERSCAN_SMOOTH = 0.05  # share of the detector's length over which the overscan level is smoothed
_MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True, eq=False)
class Readout:
    """A detector's frames and numbers, before anything is done. Frames are in ADU."""

    data: FloatImage  # (ny, nx), with overscan
    gain: float  # electron/ADU
    read_noise: float  # electron; NaN takes the overscan's scatter
    saturation: float  # ADU; NaN = unknown
    trim: tuple[slice, slice] | None = None  # the exposed part
    overscan: tuple[slice, slice] | None = None
    bias: FloatImage | None = None  # of the whole or of the trimmed shape
    flat: FloatImage | None = None  # the same; any normalisation
    mask: NDArray[np.bool_] | None = None  # the same; True = bad


@dataclass(frozen=True, eq=False)
class Reduced:
    """A trimmed image in electrons with its variance and DQ, sky still in it."""

    data: FloatImage
    variance: FloatImage  # electron^2
    dq: DQImage
    applied: tuple[str, ...]
    overscan_level: float  # ADU; NaN without an overscan
    read_noise: float  # electron


def parse_section(text: str, shape: tuple[int, int]) -> tuple[slice, slice]:
    """An IRAF section, "[x1:x2,y1:y2]" (1-based, inclusive), as slices (rows, columns) of an image of `shape` (ny, nx).

    Raises `ImagingError` when it is malformed or leaves the image.
    """
    match = _SECTION.match(text)
    if match is None:
        raise ImagingError(f"the section {text!r} is not of the form [x1:x2,y1:y2]; correct the header.")
    x1, x2, y1, y2 = map(int, match.groups())
    if not (1 <= x1 <= x2 <= shape[1] and 1 <= y1 <= y2 <= shape[0]):
        raise ImagingError(f"the section {text} leaves the image of {shape[1]} x {shape[0]} pixels; correct the header.")
    return slice(y1 - 1, y2), slice(x1 - 1, x2)


def reduce_readout(readout: Readout, config: DetectorConfig) -> Reduced:
    """Overscan, trim, bias, gain, flat; variance and DQ bits.

    With an overscan its level replaces that of the master bias, of which only the structure is then subtracted. In
    electrons, before the flat, the variance is V = read_noise^2 + max(e, 0) with e the counts, sky included (Poisson);
    after division by the flat f it is V / f^2.

    Raises
    ------
    ImagingError
        The gain is not positive, the read noise is unknown without an overscan, or a frame's shape does not fit.
    """
    if not readout.gain > 0:
        raise ImagingError(
            f"the gain of a raw exposure must be positive, not {readout.gain:g} electron/ADU; give it in the table or header."
        )
    level, scatter = _overscan(readout, config)
    read_noise = readout.read_noise if np.isfinite(readout.read_noise) else scatter * readout.gain
    if not np.isfinite(read_noise):
        raise ImagingError("the read noise is unknown and there is no overscan to measure it in; give it in the table or header.")
    trimmed = _trimmed(readout.data, readout)
    dq = _flags(readout, trimmed, config)
    applied = []
    counts = trimmed.astype(np.float64)
    if level is not None:
        counts -= _trimmed(np.broadcast_to(level, readout.data.shape), readout)
        applied.append("overscan")
    if readout.trim is not None:
        applied.append("trim")
    if readout.bias is not None:
        bias = _fitted(readout.bias, readout, "master bias")
        counts -= bias if level is None else bias - np.median(bias)
        applied.append("bias")
    electrons = counts * readout.gain
    variance = read_noise**2 + np.maximum(electrons, 0)
    applied.append("gain")
    if readout.flat is not None:
        response = _response(readout, config)
        electrons /= response
        variance /= response**2
        applied.append("flat")
    lost = (dq & np.uint32(DQ.NOT_FINITE)) != 0
    electrons[lost], variance[lost] = _fill(electrons, lost), _fill(variance, lost)
    median_level = float("nan") if level is None else float(np.median(level))
    return Reduced(electrons.astype(np.float32), variance.astype(np.float32), dq, tuple(applied), median_level, float(read_noise))


def saturation_flags(data: FloatImage, level: float, config: DetectorConfig) -> DQImage:
    """SATURATED where `data` (ny, nx) reaches the level, BLEED on and around long saturated runs along columns."""
    flags = np.zeros(data.shape, np.uint32)
    if not np.isfinite(level):
        return flags
    saturated = data >= level * config.saturation_fraction
    flags[saturated] |= np.uint32(DQ.SATURATED)
    runs = ndimage.binary_opening(saturated, np.ones((config.bleed_min_px, 1), bool))
    if runs.any():
        trail = ndimage.binary_dilation(runs, np.ones((2 * config.bleed_grow_px + 1, 3), bool))
        flags[trail] |= np.uint32(DQ.BLEED)
    return flags


def edge_flags(shape: tuple[int, int], config: DetectorConfig) -> DQImage:
    """EDGE within the margin of an image of `shape` (ny, nx)."""
    flags = np.full(shape, int(DQ.EDGE), np.uint32)
    margin = config.edge_px
    flags[margin : shape[0] - margin, margin : shape[1] - margin] = 0
    return flags


def _overscan(readout: Readout, config: DetectorConfig) -> tuple[NDArray[np.float64] | None, float]:
    """The overscan level, ADU, to be broadcast over the frame, and the scatter of one overscan pixel."""
    if readout.overscan is None:
        return None, float("nan")
    strip = readout.data[readout.overscan].astype(np.float64)
    along_rows = strip.shape[0] >= strip.shape[1]  # a strip of columns gives one level a row
    axis = 1 if along_rows else 0
    lost = int((~np.isfinite(strip).any(axis=axis)).sum())
    if lost:
        raise ImagingError(f"{lost} lines of the overscan hold no finite pixel; leave BIASSEC out or mend the frame.")
    centre = np.nanmedian(strip, axis=axis, keepdims=True)
    scatter = _MAD_TO_SIGMA * float(np.nanmedian(np.abs(strip - centre)))
    kept = np.where(np.abs(strip - centre) <= max(config.overscan_clip * scatter, np.finfo(np.float32).tiny), strip, np.nan)
    kept = np.where(np.isfinite(kept).any(axis=axis, keepdims=True), kept, centre)
    level = np.nanmean(kept, axis=axis)
    smooth = ndimage.gaussian_filter1d(level, _OVERSCAN_SMOOTH * len(level), mode="nearest")
    start = readout.overscan[0 if along_rows else 1].start
    total = readout.data.shape[0 if along_rows else 1]
    full = np.pad(smooth, (start, total - start - len(smooth)), mode="edge")
    return full[:, None] if along_rows else full[None, :], scatter


def _trimmed(frame: NDArray[Any], readout: Readout) -> NDArray[Any]:
    return frame if readout.trim is None else frame[readout.trim]


def _fitted(frame: FloatImage, readout: Readout, what: str) -> NDArray[np.float64]:
    whole, inside = readout.data.shape, _trimmed(readout.data, readout).shape
    if frame.shape == whole:
        return np.asarray(_trimmed(frame, readout), dtype=np.float64)
    if frame.shape == inside:
        return np.asarray(frame, dtype=np.float64)
    raise ImagingError(
        f"the {what} has {frame.shape[1]} x {frame.shape[0]} pixels but the exposure {whole[1]} x {whole[0]} "
        f"({inside[1]} x {inside[0]} trimmed); give the one that belongs to it."
    )


def _response(readout: Readout, config: DetectorConfig) -> NDArray[np.float64]:
    """The flat over its median; dead pixels, which are flagged, are held at the limit so that nothing explodes."""
    assert readout.flat is not None
    flat = _fitted(readout.flat, readout, "master flat")
    median = float(np.nanmedian(flat))
    if not median > 0:
        raise ImagingError(f"the master flat has the median {median:g}, which is not positive; give another.")
    return np.maximum(np.nan_to_num(flat / median, nan=config.dead_fraction), config.dead_fraction)


def _flags(readout: Readout, trimmed: FloatImage, config: DetectorConfig) -> DQImage:
    dq = edge_flags(trimmed.shape, config) | saturation_flags(trimmed, readout.saturation, config)
    dq[~np.isfinite(trimmed)] |= np.uint32(DQ.NOT_FINITE)
    if readout.bias is not None:
        bias = _fitted(readout.bias, readout, "master bias")
        median = np.nanmedian(bias)
        sigma = _MAD_TO_SIGMA * np.nanmedian(np.abs(bias - median))
        dq[bias > median + config.hot_sigma * sigma] |= np.uint32(DQ.HOT)
        dq[~np.isfinite(bias)] |= np.uint32(DQ.NOT_FINITE)
    if readout.flat is not None:
        flat = _fitted(readout.flat, readout, "master flat")
        dq[~(flat >= config.dead_fraction * np.nanmedian(flat))] |= np.uint32(DQ.BAD)
    if readout.mask is not None:
        dq[_fitted(readout.mask.astype(np.float32), readout, "mask") != 0] |= np.uint32(DQ.BAD)
    return dq


def _fill(values: NDArray[np.float64], lost: NDArray[np.bool_]) -> float:
    return float(np.median(values[~lost])) if not lost.all() else 0.0

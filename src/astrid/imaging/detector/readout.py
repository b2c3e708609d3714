"""What the detector did to the photons: overscan, bias, dark, linearity, gain, flat, and the pixels that cannot be used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrid.config.schema.calibrate import DetectorConfig
from astrid.core.archive import Amplifier, Section, pack
from astrid.core.dq import DQ
from astrid.core.errors import ImagingError
from astrid.core.records import DQImage, FloatImage
from astrid.imaging.detector.trails import saturation_flags

__all__ = ["Readout", "Reduced", "configured_amplifiers", "edge_flags", "parse_section", "reduce_readout", "saturation_flags"]

NAN = float("nan")
_SECTION = re.compile(r"^\s*\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]\s*$")
_OVERSCAN_SMOOTH = 0.05  # share of the detector's length over which the overscan level is smoothed
_MAD_TO_SIGMA = 1.4826
_LEAST_VARIANCE = 0.1  # of the median
_MASTERS = {"bias": "master bias", "dark": "master dark", "flat": "master flat", "mask": "mask"}


@dataclass(frozen=True, eq=False)
class Readout:
    """A detector's frames and numbers, before anything is done. Frames are in ADU, of the whole or of the trimmed shape."""

    data: FloatImage  # (ny, nx), with overscan
    gain: float  # electron/ADU
    read_noise: float  # electron; NaN takes the overscan's scatter
    saturation: float  # ADU; NaN = unknown
    trim: Section | None = None  # the exposed part
    overscan: Section | None = None
    bias: FloatImage | None = None
    flat: FloatImage | None = None  # any normalisation
    mask: NDArray[np.bool_] | None = None  # True = bad
    dark: FloatImage | None = None  # without its bias
    exptime: float = NAN  # s
    dark_exptime: float = NAN  # s, of the master dark
    variances: Mapping[str, FloatImage] = field(default_factory=dict)  # of the master frames "bias", "dark", "flat", their unit^2
    amplifiers: tuple[Amplifier, ...] = ()  # empty = one channel with `trim` and `overscan`
    flags: DQImage | None = None  # bits of `core.dq.DQ` that its observatory knows


@dataclass(frozen=True, eq=False)
class Reduced:
    """A trimmed image in electrons with its variance and DQ, sky still in it."""

    data: FloatImage
    variance: FloatImage  # electron^2
    dq: DQImage
    applied: tuple[str, ...]
    overscan_level: float  # ADU, median of the amplifiers; NaN without an overscan
    read_noise: float  # electron, median of the amplifiers
    response: FloatImage | None = None  # the flat over its median, that it was divided by


@dataclass(frozen=True, eq=False)
class _Masters:
    """The master frames on the trimmed image, float64; None where there is none."""

    bias: NDArray[np.float64] | None
    dark: NDArray[np.float64] | None  # scaled to the exposure
    flat: NDArray[np.float64] | None
    mask: NDArray[np.float64] | None
    variances: Mapping[str, NDArray[np.float64]]  # the dark's scaled like the dark


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
    """Overscan, trim, bias, linearity, gain, dark, flat for every amplifier; variance and DQ bits.

    With an overscan its level replaces that of the master bias, of which only the structure is then subtracted. The dark is
    scaled by exptime / dark_exptime. In electrons, before dark and flat, the variance is V = read_noise^2 + e with e the
    measured counts, sky and dark current included and not clipped, so that its mean is that of the noise; after the flat f it is
    (V + V_bias + V_dark) / f^2 + (e / f^2)^2 V_flat, with the variances of the master frames where they are given.

    Raises
    ------
    ImagingError
        The gain is not positive, the read noise is unknown without an overscan, a frame's shape does not fit, or a dark
        cannot be scaled.
    """
    channels = _channels(readout)
    shape = _trimmed_shape(channels)
    masters = _masters(readout, channels, shape)
    electrons, variance, saturation = (np.empty(shape) for _ in range(3))
    levels, noises = [], []
    for amplifier in channels:
        inside = amplifier.place
        level, scatter = _overscan(readout.data, amplifier.overscan, config)
        noise = amplifier.read_noise if np.isfinite(amplifier.read_noise) else scatter * amplifier.gain
        _check(amplifier, noise)
        bias = None if masters.bias is None else masters.bias[inside]
        counts = _counts(readout.data, amplifier, level, bias, config)
        electrons[inside] = counts * amplifier.gain
        variance[inside] = _bounded(noise**2 + electrons[inside])
        for name in ("bias", "dark"):
            if name in masters.variances:
                variance[inside] += masters.variances[name][inside] * amplifier.gain**2
        if masters.dark is not None:
            electrons[inside] -= masters.dark[inside] * amplifier.gain
        saturation[inside] = amplifier.saturation
        levels.append(NAN if level is None else float(np.median(level)))
        noises.append(noise)
    applied = _steps(readout, channels, config)
    trimmed = _assemble(readout.data, channels, shape)
    dq = _flags(trimmed, saturation, masters, config)
    if readout.flags is not None:
        dq |= _fitted(readout.flags, "DQ plane", readout, channels, shape)
    response = None
    if masters.flat is not None:
        response, excess = _response(masters.flat, masters.variances.get("flat"), config)
        electrons /= response
        variance /= response**2
        if excess is not None:
            variance += electrons**2 * excess
    lost = (dq & np.uint32(DQ.NOT_FINITE)) != 0
    electrons[lost], variance[lost] = _fill(electrons, lost), _fill(variance, lost)
    middle = (float(np.median(levels)), float(np.median(noises)))
    divided = None if response is None else response.astype(np.float32)
    return Reduced(electrons.astype(np.float32), variance.astype(np.float32), dq, applied, *middle, divided)


def configured_amplifiers(shape: tuple[int, int], config: DetectorConfig) -> tuple[Amplifier, ...]:
    """The amplifiers of the configuration for a frame of `shape` (ny, nx), packed without the gaps of their overscans."""
    sections = [parse_section(entry.data, shape) for entry in config.amplifiers]
    placed = pack(sections)
    return tuple(
        Amplifier(
            entry.name,
            section,
            place,
            parse_section(entry.overscan, shape) if entry.overscan else None,
            *(NAN if value is None else value for value in (entry.gain, entry.read_noise, entry.saturation)),
        )
        for entry, section, place in zip(config.amplifiers, sections, placed, strict=True)
    )


def edge_flags(shape: tuple[int, int], config: DetectorConfig) -> DQImage:
    """EDGE within the margin of an image of `shape` (ny, nx)."""
    flags = np.full(shape, int(DQ.EDGE), np.uint32)
    margin = config.edge_px
    flags[margin : shape[0] - margin, margin : shape[1] - margin] = 0
    return flags


def _channels(readout: Readout) -> tuple[Amplifier, ...]:
    """The amplifiers with every number filled in; one that covers all where none is named."""
    ny, nx = readout.data.shape
    whole = (slice(0, ny), slice(0, nx))
    inside = readout.trim or whole
    size = tuple(range_.stop - range_.start for range_ in inside)
    single = Amplifier("", inside, (slice(0, size[0]), slice(0, size[1])), readout.overscan)
    channels = readout.amplifiers or (single,)
    for amplifier in channels:
        for section in (amplifier.data, amplifier.overscan):
            if section is not None and not (section[0].stop <= ny and section[1].stop <= nx):
                raise ImagingError(f"a section of amplifier {amplifier.name!r} leaves the frame of {nx} x {ny} pixels; correct the header.")
    return tuple(
        replace(
            amplifier,
            gain=_known(amplifier.gain, readout.gain),
            read_noise=_known(amplifier.read_noise, readout.read_noise),
            saturation=_known(amplifier.saturation, readout.saturation),
        )
        for amplifier in channels
    )


def _known(own: float, common: float) -> float:
    return own if np.isfinite(own) else common


def _trimmed_shape(channels: tuple[Amplifier, ...]) -> tuple[int, int]:
    """The shape that the channels tile; they must cover it exactly once."""
    shape = tuple(max(amplifier.place[axis].stop for amplifier in channels) for axis in (0, 1))
    cover = np.zeros(shape, np.uint8)
    for amplifier in channels:
        data, place = (tuple(part.stop - part.start for part in section) for section in (amplifier.data, amplifier.place))
        if data != place:
            raise ImagingError(f"amplifier {amplifier.name!r} reads {data[1]} x {data[0]} pixels into {place[1]} x {place[0]}; correct it.")
        cover[amplifier.place] += 1
    if (cover != 1).any():
        raise ImagingError(
            f"the {len(channels)} amplifiers leave {int((cover == 0).sum())} pixels of {shape[1]} x {shape[0]} uncovered and read "
            f"{int((cover > 1).sum())} twice; correct their sections."
        )
    return shape[0], shape[1]


def _check(amplifier: Amplifier, read_noise: float) -> None:
    if not amplifier.gain > 0:
        raise ImagingError(
            f"the gain of a raw exposure must be positive, not {amplifier.gain:g} electron/ADU; give it in the table or header."
        )
    if not np.isfinite(read_noise):
        raise ImagingError("the read noise is unknown and there is no overscan to measure it in; give it in the table or header.")


def _counts(
    data: FloatImage, amplifier: Amplifier, level: NDArray[np.float64] | None, bias: NDArray[np.float64] | None, config: DetectorConfig
) -> NDArray[np.float64]:
    """ADU above bias, made linear: c (1 + k1 c + k2 c^2 + ...)."""
    counts = data[amplifier.data].astype(np.float64)
    if level is not None:
        counts -= np.broadcast_to(level, data.shape)[amplifier.data]
    if bias is not None:
        counts -= bias if level is None else bias - np.nanmedian(bias)
    if config.linearity:
        counts *= np.polynomial.polynomial.polyval(counts, [1.0, *config.linearity])
    return counts


def _bounded(variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The unclipped sum, but for pixels so far below zero that next to no noise, or less, would be left: they keep a tenth of the median.

    Where the median is ten electrons^2 or more this moves the mean of the variance by less than a thousandth.
    """
    least = max(_LEAST_VARIANCE * float(np.nanmedian(variance)), float(np.finfo(np.float32).tiny))
    return np.maximum(variance, least)


def _steps(readout: Readout, channels: tuple[Amplifier, ...], config: DetectorConfig) -> tuple[str, ...]:
    done = {
        "overscan": any(amplifier.overscan is not None for amplifier in channels),
        f"{len(channels)} amplifiers": len(channels) > 1,
        "trim": readout.trim is not None or bool(readout.amplifiers),
        "bias": readout.bias is not None,
        "linearity": bool(config.linearity),
        "gain": True,
        "dark": readout.dark is not None,
        "flat": readout.flat is not None,
    }
    return tuple(name for name, used in done.items() if used)


def _overscan(data: FloatImage, section: Section | None, config: DetectorConfig) -> tuple[NDArray[np.float64] | None, float]:
    """The overscan level, ADU, to be broadcast over the frame, and the scatter of one overscan pixel."""
    if section is None:
        return None, NAN
    strip = data[section].astype(np.float64)
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
    start = section[0 if along_rows else 1].start
    total = data.shape[0 if along_rows else 1]
    full = np.pad(smooth, (start, total - start - len(smooth)), mode="edge")
    return full[:, None] if along_rows else full[None, :], scatter


def _assemble(frame: NDArray[Any], channels: tuple[Amplifier, ...], shape: tuple[int, int]) -> NDArray[Any]:
    """The exposed pixels of a whole frame in the trimmed image's order; a view where there is one channel."""
    if len(channels) == 1:
        return frame[channels[0].data]
    out = np.empty(shape, frame.dtype)
    for amplifier in channels:
        out[amplifier.place] = frame[amplifier.data]
    return out


def _fitted(frame: NDArray[Any], what: str, readout: Readout, channels: tuple[Amplifier, ...], shape: tuple[int, int]) -> NDArray[Any]:
    """A frame of the whole or of the trimmed shape as the trimmed one."""
    whole = readout.data.shape
    if frame.shape not in (whole, shape):
        raise ImagingError(
            f"the {what} has {frame.shape[1]} x {frame.shape[0]} pixels but the exposure {whole[1]} x {whole[0]} "
            f"({shape[1]} x {shape[0]} trimmed); give the one that belongs to it."
        )
    return _assemble(frame, channels, shape) if frame.shape == whole else frame


def _masters(readout: Readout, channels: tuple[Amplifier, ...], shape: tuple[int, int]) -> _Masters:
    def fitted(frame: NDArray[Any] | None, what: str) -> NDArray[np.float64] | None:
        return None if frame is None else np.asarray(_fitted(frame, what, readout, channels, shape), dtype=np.float64)

    scale = _dark_scale(readout) if readout.dark is not None else NAN
    dark = fitted(readout.dark, _MASTERS["dark"])
    variances = {}
    for name, frame in readout.variances.items():
        found = fitted(frame, f"variance of the {_MASTERS[name]}")
        if found is not None and getattr(readout, name) is not None:
            known = np.where(np.isfinite(found) & (found > 0), found, 0.0)
            variances[name] = known * scale**2 if name == "dark" else known
    return _Masters(
        fitted(readout.bias, _MASTERS["bias"]),
        None if dark is None else dark * scale,
        fitted(readout.flat, _MASTERS["flat"]),
        fitted(None if readout.mask is None else readout.mask.astype(np.float32), _MASTERS["mask"]),
        variances,
    )


def _dark_scale(readout: Readout) -> float:
    for what, seconds in (("exposure", readout.exptime), ("master dark", readout.dark_exptime)):
        if not seconds > 0:
            raise ImagingError(f"the dark cannot be scaled: the exposure time of the {what} is {seconds:g} s; give it in its header.")
    return readout.exptime / readout.dark_exptime


def _response(
    flat: NDArray[np.float64], variance: NDArray[np.float64] | None, config: DetectorConfig
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """The flat over its median, and its relative variance; dead pixels, which are flagged, are held at the limit."""
    median = float(np.nanmedian(flat))
    if not median > 0:
        raise ImagingError(f"the master flat has the median {median:g}, which is not positive; give another.")
    response = np.maximum(np.nan_to_num(flat / median, nan=config.dead_fraction), config.dead_fraction)
    return response, None if variance is None else variance / (median * response) ** 2


def _flags(trimmed: FloatImage, saturation: NDArray[np.float64], masters: _Masters, config: DetectorConfig) -> DQImage:
    dq = edge_flags((trimmed.shape[0], trimmed.shape[1]), config) | saturation_flags(trimmed, saturation, config)
    dq[~np.isfinite(trimmed)] |= np.uint32(DQ.NOT_FINITE)
    for frame in (masters.bias, masters.dark):
        if frame is None:
            continue
        median = np.nanmedian(frame)
        sigma = _MAD_TO_SIGMA * np.nanmedian(np.abs(frame - median))
        dq[frame > median + config.hot_sigma * sigma] |= np.uint32(DQ.HOT)
        dq[~np.isfinite(frame)] |= np.uint32(DQ.NOT_FINITE)
    if masters.flat is not None:
        dq[~(masters.flat >= config.dead_fraction * np.nanmedian(masters.flat))] |= np.uint32(DQ.BAD)
    if masters.mask is not None:
        dq[masters.mask != 0] |= np.uint32(DQ.BAD)
    return dq


def _fill(values: NDArray[np.float64], lost: NDArray[np.bool_]) -> float:
    return float(np.median(values[~lost])) if not lost.all() else 0.0

"""One exposure, raw or archive-calibrated -> a sky-subtracted image with variance, DQ and PSF."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrid.config.schema.calibrate import BackgroundConfig, CalibrateConfig, GivenPsfConfig
from astrid.core.archive import NAN, Amplifier, Archive, Section
from astrid.core.dq import DQ, unusable
from astrid.core.errors import ImagingError
from astrid.core.records import Calibrated, DQImage, ExposureInfo, FloatImage, Frames, Psf
from astrid.imaging.detector.archive import Working, archive_gain, archive_variance, counting_variance, open_archive
from astrid.imaging.detector.background import Background, measure_background
from astrid.imaging.detector.cosmics import sharp_edges, sharper_than_stars
from astrid.imaging.detector.counts import expected_light, is_counting, mean_background
from astrid.imaging.detector.crosstalk import Crosstalk, channels, flag_crosstalk
from astrid.imaging.detector.readout import Readout, configured_amplifiers, parse_section, reduce_readout
from astrid.imaging.exposure import psf_and_sources
from astrid.imaging.stars.find import find_stars
from astrid.imaging.stars.psf import given_psf
from astrid.imaging.stars.sizes import FWHM_PER_SIGMA

if TYPE_CHECKING:
    from astropy.wcs import WCS

_GAIN_KEYS = ("GAIN", "EGAIN", "CCDGAIN", "GAINA", "ARAWGAIN")
_NOISE_KEYS = ("RDNOISE", "READNOIS", "READNOISE", "RDNOISEA")
_SATURATION_KEYS = ("SATURATE", "SATURATA", "SATLEVEL")
_COUNT_UNITS = ("", "adu", "dn", "count", "counts", "ct")
# Cards by which common reductions say what they have done.
_DONE_KEYS = (
    "OVERSCAN",
    "TRIM",
    "ZEROCOR",
    "BIASCOR",
    "DARKCOR",
    "FLATCOR",
    "ILLUMCOR",
    "FRINGCOR",
    "CRMASK",
    "SKYSUB",
    "PHOTCORR",
    "FLATFILE",
)
_NOT_DONE = (None, False, "", "F", "NO", "NONE", "OMIT", "SKIPPED")
_BLUNT_SHARE = 0.2  # of all stars must be without a sharp edge, or the edges are the stars' own
_PSF_CENTRED = 0.02  # px, a given PSF nearer to the centre than this is left as it is
_CENTROID_ROUNDS = 10


@dataclass(frozen=True, eq=False)
class RawExposure:
    """An exposure before calibration: its arrays, identity and numbers; NaN and None stand for unknown."""

    data: FloatImage  # (ny, nx), ADU when raw, else `info.unit`
    wcs: WCS
    info: ExposureInfo
    calibrated: bool  # the archive has removed the detector's signature
    gain: float = NAN  # electron/ADU when raw, else electrons a unit
    read_noise: float = NAN  # electron
    saturation: float = NAN  # in the unit of `data`
    trim: Section | None = None
    overscan: Section | None = None
    bias: FloatImage | None = None
    flat: FloatImage | None = None
    mask: NDArray[np.bool_] | None = None
    noise: FloatImage | None = None  # 1 sigma, in the unit of `data`
    psf: FloatImage | None = None
    done: tuple[str, ...] = ()  # what the header says was already applied
    dark: FloatImage | None = None  # ADU, without its bias
    dark_exptime: float = NAN  # s
    variances: Mapping[str, FloatImage] = field(default_factory=dict)  # of the master frames
    amplifiers: tuple[Amplifier, ...] = ()  # empty = one; `wcs` counts from the data section of the first
    archive: Archive | None = None  # what a mission's product says of itself
    dq: DQImage | None = None  # the flags beside a raw one, of the whole or of the trimmed shape
    grid: str = ""  # amplifiers along y and x, of the card NAMPSYX; empty = unknown


def raw_exposure(
    frames: Frames, info: ExposureInfo, *, calibrated: bool, gain: float = NAN, read_noise: float = NAN, saturation: float = NAN
) -> RawExposure:
    """Join what was read with who it is; numbers that are NaN are taken from the header where it has them.

    The header's gain is taken for an archive-calibrated image only when its unit is a count, and never for a known mission's
    product, which brings its own.
    """
    header = frames.header
    shape = (frames.data.shape[0], frames.data.shape[1])
    countable = frames.archive is None and (not calibrated or info.unit.strip().lower() in _COUNT_UNITS)
    several = not calibrated and bool(frames.amplifiers)
    sections = {} if calibrated or several else {key: str(header[key]) for key in ("TRIMSEC", "BIASSEC") if header.get(key)}
    return RawExposure(
        data=frames.data,
        wcs=frames.wcs,
        info=info,
        calibrated=calibrated,
        gain=_or_header(gain, header, _GAIN_KEYS) if countable else gain,
        read_noise=_or_header(read_noise, header, _NOISE_KEYS),
        saturation=_or_header(saturation, header, _SATURATION_KEYS) if countable else saturation,
        trim=parse_section(sections["TRIMSEC"], shape) if "TRIMSEC" in sections else None,
        overscan=parse_section(sections["BIASSEC"], shape) if "BIASSEC" in sections else None,
        bias=frames.bias,
        flat=frames.flat,
        mask=frames.mask,
        noise=frames.noise,
        psf=frames.psf,
        done=frames.archive.done if frames.archive else tuple(key for key in _DONE_KEYS if key in header and header[key] not in _NOT_DONE),
        dark=frames.dark,
        dark_exptime=frames.dark_exptime,
        variances=frames.variances,
        amplifiers=frames.amplifiers if several else (),
        archive=frames.archive,
        dq=None if calibrated else frames.dq,
        grid=str(header.get("NAMPSYX", "")),
    )


def calibrate(raw: RawExposure, config: CalibrateConfig) -> Calibrated:
    """Calibrate one exposure.

    A raw one passes overscan, trim, bias, dark, gain, flat and cosmic rays; its unit becomes the electron. An archive-calibrated one
    keeps its unit; its variance is the square of the given noise image, that of its archive, or V = rms_sky^2 + (data - sky) / gain
    with the second term only where the gain is known. Neither clips the measured counts, which would bias the mean of the
    variance, but where photons are few (see `imaging.detector.counts`) sky and variance are expectations. Then sky, variance, DQ and PSF
    are the same for both.

    Returns
    -------
    Calibrated
        `data` finite everywhere: pixels without a value hold 0 and a DQ bit. `gain` is infinite where it is unknown, so that
        data / gain, the source variance, is 0.

    Raises
    ------
    ImagingError
        A frame does not fit, a needed number is unknown, or more than `max_unusable_fraction` of the pixels is unusable.
    """
    working = _opened_archive(raw, config) if raw.calibrated else _open_raw(raw, config)
    _refuse_unusable(working.dq, config)
    working, background = _sky_and_variance(working, raw, config)
    variance = working.variance
    assert variance is not None
    assert working.wcs is not None
    searched = config.cosmics.apply_to == "every" or (config.cosmics.apply_to == "raw" and not raw.calibrated)
    dq, applied = working.dq, list(working.applied)
    if searched and not working.counting:
        dq = _with_cosmics(working.data, variance, dq, background, raw, config)
        applied.append("cosmics")
    sky, data = _subtract_sky(working.data, background, raw, config.background)
    applied.append(f"sky ({'mesh' if not raw.calibrated else config.background.archive_sky})")
    data = np.where((dq & np.uint32(DQ.NOT_FINITE | DQ.NO_COVERAGE)) != 0, np.float32(0), data)
    _refuse_unusable(dq, config)
    crosstalk = _crosstalk(working, background, dq, raw, config)
    dq = dq | crosstalk.flags
    applied += ["crosstalk flags"] if crosstalk.numbers else []
    given = None if raw.psf is None else prepare_psf(raw.psf, config.given_psf)
    psf, sources = psf_and_sources(data, variance, dq, given, config.psf)
    gain = archive_gain(data, variance, dq, working) if raw.calibrated else 1.0
    info = raw.info if raw.calibrated else replace(raw.info, unit="electron")
    numbers = {**working.numbers, **crosstalk.numbers, **_counts(dq), "noise_ratio": _noise_ratio(background, variance, dq)}
    meta = {"applied": ", ".join(applied), "header_applied": ", ".join(raw.done), **numbers}
    return Calibrated(data, variance, dq, working.wcs, info, psf, sky, background.median_rms, gain, sources=sources, meta=meta)


def _open_raw(raw: RawExposure, config: CalibrateConfig) -> Working:
    shape = (raw.data.shape[0], raw.data.shape[1])
    amplifiers = raw.amplifiers or configured_amplifiers(shape, config.detector)
    readout = Readout(
        raw.data, raw.gain, raw.read_noise, raw.saturation, raw.trim, raw.overscan, raw.bias, raw.flat, raw.mask,
        raw.dark, raw.info.exptime, raw.dark_exptime, raw.variances, amplifiers, raw.dq,
    )  # fmt: skip
    reduced = reduce_readout(readout, config.detector)
    wcs = _first_amplifier(raw.wcs, amplifiers[0]) if amplifiers else raw.wcs if raw.trim is None else raw.wcs[raw.trim]
    gains = [amplifier.gain for amplifier in amplifiers if np.isfinite(amplifier.gain)]
    numbers = {
        "overscan_level": reduced.overscan_level,
        "read_noise": reduced.read_noise,
        "raw_gain": float(np.median(gains)) if gains else raw.gain,
    }
    return Working(reduced.data, reduced.variance, reduced.dq, wcs, reduced.applied, numbers, gain=1.0, response=reduced.response)


def _first_amplifier(wcs: WCS, first: Amplifier) -> WCS:
    """A WCS that counts in the raw frame, moved so that the first amplifier's pixels stand at their place."""
    moved = wcs.deepcopy()
    shift = np.array([first.place[axis].start - first.data[axis].start for axis in (1, 0)], dtype=float)
    moved.wcs.crpix = moved.wcs.crpix + shift
    if moved.sip is not None:
        from astropy.wcs import Sip

        moved.sip = Sip(moved.sip.a, moved.sip.b, moved.sip.ap, moved.sip.bp, moved.wcs.crpix)
    return moved


def _opened_archive(raw: RawExposure, config: CalibrateConfig) -> Working:
    working = open_archive(raw.data, raw.archive, raw.noise, raw.mask, raw.gain, raw.saturation, config)
    applied = (*working.applied, "given PSF") if raw.psf is not None else working.applied
    counting = working.counting or (raw.archive is None and raw.noise is None and _few_whole_counts(raw, config))
    gain = 1.0 if counting and not working.has_gain else working.gain
    return replace(working, wcs=raw.wcs, applied=applied, counting=counting, gain=gain)


def _crosstalk(working: Working, background: Background, dq: DQImage, raw: RawExposure, config: CalibrateConfig) -> Crosstalk:
    """Where a raw exposure shows another amplifier's charge; nothing where the layout is unknown or the charge is not."""
    shape = (working.data.shape[0], working.data.shape[1])
    amplifiers = raw.amplifiers or configured_amplifiers((raw.data.shape[0], raw.data.shape[1]), config.detector)
    parts = () if raw.calibrated else channels(shape, raw.grid, amplifiers, config.crosstalk)
    if not parts:
        return Crosstalk(np.zeros(shape, np.uint32), {})
    assert working.variance is not None
    response = np.ones(1) if working.response is None else working.response.astype(np.float64)
    charge = (working.data - background.level) * response
    return flag_crosstalk(charge, np.sqrt(working.variance) * response, dq, parts, config.crosstalk)


def _few_whole_counts(raw: RawExposure, config: CalibrateConfig) -> bool:
    finite = raw.data[np.isfinite(raw.data)]
    return is_counting(raw.data, raw.info.unit) and float(finite.mean()) < config.counts.few


def _sky_and_variance(working: Working, raw: RawExposure, config: CalibrateConfig) -> tuple[Working, Background]:
    """The sky, and the variance where it is not known yet; as expectations where photons are few."""
    hidden = unusable(working.dq)
    if working.counting:
        variance, background = counting_variance(working, hidden, config)
        return replace(working, variance=variance, applied=(*working.applied, "Poisson variance")), background
    background = measure_background(working.data, hidden, config.background)
    if working.variance is None:
        return replace(working, variance=archive_variance(working, background, hidden, config)), background
    if raw.calibrated:
        return working, background
    if float(np.median(working.variance)) < config.counts.few:
        background = mean_background(working.data, background, hidden, config.background, config.counts)
    return replace(working, variance=_modelled(working, background)), background


def _modelled(working: Working, background: Background) -> FloatImage:
    """The variance of a raw image, with the expected electrons of sky and sources in the measured ones' place.

    With e the electrons over the flat f, V holds e / f for the photons: V + (expected - e) / f.
    """
    assert working.variance is not None
    light = expected_light(working.data - background.level, background.sources, background.median_rms)
    expected = background.level + light
    response = np.float32(1.0) if working.response is None else working.response
    least = (float(working.numbers["read_noise"]) / response) ** 2
    modelled: FloatImage = np.maximum(working.variance + (expected - working.data) / response, np.maximum(least, np.finfo(np.float32).tiny))
    return modelled.astype(np.float32)


def _with_cosmics(
    data: FloatImage, variance: FloatImage, dq: DQImage, background: Background, raw: RawExposure, config: CalibrateConfig
) -> DQImage:
    mask = unusable(dq)
    flat = np.where(mask, 0, data - background.level).astype(np.float32)
    level = flat + np.float32(background.median)
    edges = sharp_edges(level, variance, mask, config.cosmics)
    fwhm = given_psf(raw.psf).fwhm if raw.psf is not None else _star_fwhm(flat, variance, dq, edges, config)
    flagged = dq.copy()
    flagged[sharper_than_stars(level, variance, edges, mask, fwhm, config.cosmics)] |= np.uint32(DQ.COSMIC_RAY)
    return flagged


def _star_fwhm(data: FloatImage, variance: FloatImage, dq: DQImage, edges: NDArray[np.bool_], config: CalibrateConfig) -> float:
    """Median FWHM, px, of the stars without sharp edges; where nearly all stars have them, the stars are undersampled and all count."""
    without = dq | np.where(edges, np.uint32(DQ.COSMIC_RAY), np.uint32(0))
    blunt, every = (_star_sizes(data, variance, plane, config) for plane in (without, dq))
    if len(blunt) >= max(config.psf.min_moffat, _BLUNT_SHARE * len(every)):
        return float(np.median(blunt))
    return float(np.median(every)) if len(every) >= config.psf.min_moffat else config.psf.fallback_fwhm


def _star_sizes(data: FloatImage, variance: FloatImage, dq: DQImage, config: CalibrateConfig) -> NDArray[np.float64]:
    stars = find_stars(data, variance, dq, config.psf.stars)
    return np.asarray(stars["fwhm"][stars["flags"] == 0], dtype=np.float64)


def _subtract_sky(data: FloatImage, background: Background, raw: RawExposure, config: BackgroundConfig) -> tuple[float, FloatImage]:
    if not raw.calibrated or config.archive_sky == "mesh":
        return background.median, data - background.level
    if config.archive_sky == "constant":
        return background.median, data - np.float32(background.median)
    return 0.0, data


def prepare_psf(stamp: FloatImage, config: GivenPsfConfig) -> Psf:
    """A given PSF: centred on its middle pixel, cut to the square that encloses the asked flux, odd, of unit sum.

    Raises `ImagingError` when the stamp is not 2-D and finite with a positive sum (see `imaging.stars.psf.given_psf`).
    """
    given = given_psf(stamp)
    whole = given.stamp.astype(np.float64)
    half = whole.shape[0] // 2
    shift = half - _centroid(whole, given.fwhm)
    if np.abs(shift).max() > _PSF_CENTRED:
        whole = ndimage.shift(whole, shift, order=3, mode="constant")
    limit = min(half, config.max_px // 2)
    sums = [whole[half - h : half + h + 1, half - h : half + h + 1].sum() for h in range(limit + 1)]
    enough = np.flatnonzero(np.asarray(sums) >= config.enclosed * whole.sum())
    keep = int(enough[0]) if len(enough) else limit
    return given_psf(whole[half - keep : half + keep + 1, half - keep : half + keep + 1])


def _centroid(stamp: NDArray[np.float64], fwhm: float) -> NDArray[np.float64]:
    """Centroid (y, x) under a Gaussian window of the stamp's FWHM, from the brightest pixel on."""
    grid = np.indices(stamp.shape, dtype=np.float64)
    centre = np.array(np.unravel_index(np.argmax(stamp), stamp.shape), dtype=np.float64)
    for _ in range(_CENTROID_ROUNDS):
        offset = grid - centre[:, None, None]
        window = np.exp(-(offset**2).sum(axis=0) * (FWHM_PER_SIGMA / fwhm) ** 2 / 2) * stamp
        centre = centre + 2.0 * (offset * window).sum(axis=(1, 2)) / window.sum()
    return centre


def _refuse_unusable(dq: DQImage, config: CalibrateConfig) -> None:
    fraction = float(unusable(dq).mean())
    if fraction > config.max_unusable_fraction:
        raise ImagingError(
            f"{fraction:.1%} of the pixels are unusable, more than max_unusable_fraction = {config.max_unusable_fraction:.1%}; "
            "look at the mask and the saturation level."
        )


def _counts(dq: DQImage) -> dict[str, Any]:
    counted = (
        DQ.BAD, DQ.HOT, DQ.SATURATED, DQ.BLEED, DQ.COSMIC_RAY, DQ.NOT_FINITE, DQ.NO_COVERAGE, DQ.CROSSTALK, DQ.PERSISTENCE,
    )  # fmt: skip
    numbers: dict[str, Any] = {f"n_{str(flag.name).lower()}": int(((dq & np.uint32(flag)) != 0).sum()) for flag in counted}
    numbers["masked_fraction"] = round(float(unusable(dq).mean()), 6)
    return numbers


def _noise_ratio(background: Background, variance: FloatImage, dq: DQImage) -> float:
    """Measured RMS of the blank sky over the RMS that the variance plane states for it."""
    free = ~(background.sources | unusable(dq))
    stated = float(np.sqrt(np.median(variance[free]))) if free.any() else NAN
    return background.median_rms / stated


def _or_header(value: float, header: Mapping[str, Any], keys: tuple[str, ...]) -> float:
    if np.isfinite(value):
        return float(value)
    for key in keys:
        found = header.get(key)
        if isinstance(found, int | float) and not isinstance(found, bool) and np.isfinite(found):
            return float(found)
    return NAN

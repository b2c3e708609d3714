"""Versioned normalisations of triplets, the same function for training, serving and edge devices. Imports numpy only.

A model folder names the id of its normalisation; an id never changes its meaning, a better recipe gets a new id.
Every recipe keeps float32, turns masked pixels into 0 and does not depend on the other triplets of the batch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from astrid.core.errors import DataSetError

Stamps = NDArray[np.float32]
Work = tuple[Stamps, Stamps]  # two buffers of (chunk, 3, pixels)

STAMP_SHAPE = (3, 63, 63)  # science, reference, difference; the store's shape, repeated here so that numpy is enough
_PIXELS = STAMP_SHAPE[1] * STAMP_SHAPE[2]
CHANNELS = ("science", "reference", "difference")
_DIFFERENCE = CHANNELS.index("difference")

_LARGEST = np.float32(1.0e37)  # a pixel beyond it is a fill value: masked, like NaN and infinity
_CHUNK = 16  # triplets at a time: takes less time than 8 or 32, as measured

# The measuring pixels of asinh_noise.v1: every other pixel of the outer frame, as on a draughts board. The source sits in
# the middle and stays out; the pattern maps onto itself under flips and quarter turns, so augmentation commutes with it.
_FRAME_WIDTH = 10  # px
_MIN_FRAME = 64  # finite pixels of the frame below which the whole stamp is measured instead
_MAD_TO_SIGMA = np.float32(1.4826)  # of a Gaussian
_RANGE = np.float32(1.0e4)  # sigma that maps to 1; brighter pixels are clipped to it
_BYTE_RANGE = np.float32(300.0)  # the same of asinh_int8.v1: one pixel in two thousand of a survey's stamps is brighter
CODES = 127  # asinh_int8.v1 holds the integers -127 to 127 over this: the scale of an int8 input is 1/127, its zero-point 0
_NO_NOISE = np.float32(1.0e-7)  # noise over peak below which a stamp has none that float32 can carry


def _frame_pixels() -> NDArray[np.intp]:
    rows, columns = np.indices(STAMP_SHAPE[1:])
    last = STAMP_SHAPE[1] - 1
    edge = np.minimum(np.minimum(rows, columns), np.minimum(last - rows, last - columns))
    return np.flatnonzero((edge < _FRAME_WIDTH) & ((rows + columns) % 2 == 0))


_FRAME = _frame_pixels()
_LOCAL = threading.local()
_SIGN_BIT = np.uint32(1 << 31)  # of an IEEE 754 float32


def normalize(stamps: NDArray[Any], normalization_id: str, *, out: Stamps | None = None) -> Stamps:
    """Normalise triplets by the recipe of `normalization_id` (a key of `NORMALIZATIONS`).

    Parameters
    ----------
    stamps
        Floating, shape (n, 3, 63, 63): science, reference and difference turned so that the source is positive, in any
        flux unit common to the three; NaN or infinite where masked.
    normalization_id
        "l2.v1", "asinh_noise.v1" or "asinh_int8.v1".
    out
        Contiguous float32 array of the same shape to put the result into: memory that is used again costs no page faults.

    Returns
    -------
    float32 array of the same shape, finite everywhere; `out`, or a new array. The input is left as it is.

    Raises
    ------
    DataSetError
        For an unknown id, a wrong shape or a dtype that is not floating.
    """
    recipe = NORMALIZATIONS.get(normalization_id)
    if recipe is None:
        raise DataSetError(f"{normalization_id!r} is no normalisation; choose one of {', '.join(NORMALIZATIONS)}.")
    checked = _checked(stamps)
    out = np.empty(checked.shape, dtype=np.float32) if out is None else out
    work = _work()
    for start in range(0, len(checked), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        recipe(checked[chunk].reshape(-1, 3, _PIXELS), out[chunk].reshape(-1, 3, _PIXELS), work)
    return out


def _work() -> Work:
    """The buffers of this thread, made once: fresh memory costs page faults."""
    if not hasattr(_LOCAL, "work"):
        _LOCAL.work = tuple(np.empty((_CHUNK, 3, _PIXELS), dtype=np.float32) for _ in range(2))
    return cast(Work, _LOCAL.work)


def orient(stamps: NDArray[Any], sign: NDArray[Any] | int) -> Stamps:
    """Turn difference stamps from "science minus reference" to the one convention of the house: the source is positive.

    `stamps`: floating (n, 3, 63, 63); `sign`: +1 or -1 for all or shape (n,), -1 for a source that faded. Returns a new
    float32 array whose third channel is multiplied by the sign; turning twice gives the input back.

    Raises `DataSetError` for a wrong shape, dtype, or a sign other than +1 and -1.
    """
    checked = _checked(stamps)
    signs = np.broadcast_to(np.asarray(sign), (len(checked),)) if np.ndim(sign) == 0 else np.asarray(sign)
    if signs.shape != (len(checked),):
        raise DataSetError(f"{len(checked)} triplets came with signs of the shape {signs.shape}; give one sign a triplet.")
    if not np.isin(signs, (-1, 1)).all():
        raise DataSetError("a sign is neither +1 (brightened) nor -1 (faded); give the sign of science minus reference.")
    out = checked.astype(np.float32)
    out[:, 2] *= signs.astype(np.float32)[:, None, None]
    return out


def _checked(stamps: NDArray[Any]) -> NDArray[Any]:
    array = np.asarray(stamps)
    if array.ndim != 4 or array.shape[1:] != STAMP_SHAPE:
        raise DataSetError(f"stamps have the shape {array.shape}; give (n, 3, 63, 63): science, reference, difference.")
    if not np.issubdtype(array.dtype, np.floating):
        raise DataSetError(f"stamps are {array.dtype}; give floating-point stamps, with NaN where masked.")
    return array


def _l2(stamps: NDArray[Any], out: Stamps, work: Work) -> None:
    """Each stamp over its L2 norm, NaN to 0 (Duev et al. 2019, MNRAS 489, 3582, section 3.1); an empty stamp stays 0."""
    with np.errstate(over="ignore"):
        np.copyto(out, stamps, casting="same_kind")
    magnitude = np.abs(out, out=work[0][: len(out)])
    usable = magnitude < _LARGEST
    if not usable.all():
        out[~usable] = magnitude[~usable] = 0
    # Over the peak first: squares of very small or large flux units leave float32's range.
    peak = magnitude.max(axis=2, keepdims=True)
    np.divide(out, peak, out=out, where=peak > 0)
    norm = np.sqrt(np.einsum("ncp,ncp->nc", out, out))[:, :, None]
    np.divide(out, norm, out=out, where=norm > 0)


def _asinh_noise(stamps: NDArray[Any], out: Stamps, work: Work) -> None:
    """asinh((pixel - background) / sigma) / asinh(10^4), clipped to [-1, 1]; sigma is common to the three stamps.

    The background of a stamp is the median of its outer frame, so sky left in an alert's stamps and a pedestal do not
    matter; sigma is 1.4826 MAD of the difference's frame. One sigma for all three keeps the flux relation between them,
    and a common flux scale (a unit, a zero-point) drops out. Where the difference has no noise (identical images, a
    blanked stamp) the brightest pixel of the triplet is put at 10^4 sigma instead.
    """
    _stretched(stamps, out, work, _RANGE)


def _asinh_int8(stamps: NDArray[Any], out: Stamps, work: Work) -> None:
    """The same up to 300 sigma, rounded to the integers -127 to 127 over 127: the input of an int8 network, as it is.

    One sigma of noise is 17.5 codes and the brightest pixels are 5 % apart, so neither the noise nor a bright core is lost
    to rounding; `codes` gives the integers. Masked pixels and the background are the code 0.
    """
    _stretched(stamps, out, work, _BYTE_RANGE)
    out *= np.float32(CODES)
    np.rint(out, out=out)
    out /= np.float32(CODES)


def codes(normalized: Stamps) -> NDArray[np.int8]:
    """The int8 input of an integer network, same shape, of triplets normalised by "asinh_int8.v1"; exact, nothing is rounded.

    Raises `DataSetError` for values that are no such codes.
    """
    scaled = normalized * np.float32(CODES)
    whole = np.rint(scaled)
    if not (np.abs(scaled - whole) < 1e-3).all() or not (np.abs(whole) <= CODES).all():
        raise DataSetError("the triplets hold other values than multiples of 1/127 in -1 to 1; normalise them by 'asinh_int8.v1' first.")
    given: NDArray[np.int8] = whole.astype(np.int8)
    return given


def levels(stamps: NDArray[Any]) -> tuple[Stamps, Stamps]:
    """Background (median) and noise (1.4826 MAD) of every stamp's outer frame: two float32 (n, 3), in the stamps' unit.

    Measured on the pixels that `normalize` uses by "asinh_noise.v1"; 0 where a stamp has no usable pixel. Neighbours in the
    frame count as noise here, so in a crowded field the noise of science and reference comes out too large.

    Raises `DataSetError` for a wrong shape or a dtype that is not floating.
    """
    checked = _checked(stamps)
    background, noise = np.zeros((2, len(checked), 3), dtype=np.float32)
    for start in range(0, len(checked), _CHUNK):
        chunk = checked[start : start + _CHUNK].reshape(-1, 3, _PIXELS)
        frames = chunk.take(_FRAME, axis=-1).astype(np.float32, copy=False)
        whole = np.asarray((np.abs(frames) < _LARGEST).all(axis=2))
        middle = _medians(frames)
        broken = None if whole.all() else _Broken(chunk[~whole].astype(np.float32), frames[~whole])
        if broken is not None:
            middle[~whole] = broken.middle
        frames -= middle[:, :, None]
        spread = _medians(np.abs(frames, out=frames))
        if broken is not None:
            spread[~whole] = broken.spread(np.ones(len(broken.middle), dtype=bool))
        background[start : start + _CHUNK] = middle
        noise[start : start + _CHUNK] = _MAD_TO_SIGMA * spread
    return background, noise


def _stretched(stamps: NDArray[Any], out: Stamps, work: Work, largest: np.float32) -> None:
    """asinh of the noise's multiples over asinh(largest), the recipe of the two asinh normalisations."""
    if stamps.dtype != np.float32:
        with np.errstate(over="ignore"):
            stamps = stamps.astype(np.float32)
    size, root = work[0][: len(out)], work[1][: len(out)]
    frames = stamps.take(_FRAME, axis=-1)
    middle = _medians(frames)
    with np.errstate(over="ignore", invalid="ignore"):  # of what is masked
        np.subtract(stamps, middle[:, :, None], out=out)
    peak = np.abs(out, out=size).max(axis=2)  # NaN where one pixel is
    whole = (peak < _LARGEST / 2) & (np.abs(middle) < _LARGEST / 2)  # so no pixel is beyond _LARGEST
    broken = None if whole.all() else _Broken(stamps[~whole], frames[~whole])
    if broken is not None:
        sizes = np.abs(broken.values)
        middle[~whole], out[~whole], size[~whole], peak[~whole] = broken.middle, broken.values, sizes, sizes.max(axis=1)
    spread = frames[:, _DIFFERENCE]
    spread -= middle[:, _DIFFERENCE, None]
    sigma = _medians(np.abs(spread, out=spread))
    if broken is not None:
        sigma[~whole[:, _DIFFERENCE]] = broken.spread(np.nonzero(~whole)[1] == _DIFFERENCE)
    _scale(size, _MAD_TO_SIGMA * sigma, peak.max(axis=1), largest)
    _asinh(out, size, root, np.float32(1) / np.arcsinh(largest))


class _Broken:
    """Stamps (k, 3969) with masked pixels: the rest above its background, and 0 where masked.

    `frames` (k, 1060): their frames, in any order. The memory of both is used up.
    """

    def __init__(self, stamps: Stamps, frames: Stamps) -> None:
        self._usable = np.abs(stamps) < _LARGEST
        outside = ~(np.abs(frames) < _LARGEST)
        self._counts = _FRAME.size - outside.view(np.uint8).sum(axis=-1, dtype=np.int16)
        np.copyto(frames, np.inf, where=outside)
        self._frames = frames
        self.middle = self._medians(frames, stamps, np.arange(len(stamps)))
        self.values = np.subtract(stamps, self.middle[:, None], out=stamps)
        np.copyto(self.values, 0, where=~self._usable)

    def spread(self, chosen: NDArray[np.bool_]) -> Stamps:
        """The median distance from the background of the stamps `chosen`, bool (k,)."""
        rows = np.flatnonzero(chosen)
        frames = self._frames[rows]
        frames -= self.middle[rows, None]
        return self._medians(np.abs(frames, out=frames), self.values, rows, np.abs)

    def _medians(self, frames: Stamps, stamps: Stamps, rows: NDArray[np.intp], of: Callable[[Stamps], Stamps] = np.asarray) -> Stamps:
        """Of the usable pixels of frames, which are used up, or of the whole stamps `rows` where a frame has few; 0 without any: (k,)."""
        frames.sort(axis=-1)  # the masked ones, infinite, end behind the others
        counts = self._counts[rows]
        out: Stamps = frames[np.arange(len(rows)), np.minimum(counts // 2, _FRAME.size - 1)]
        for position in np.flatnonzero(counts < _MIN_FRAME):
            row = rows[position]
            kept = of(stamps[row][self._usable[row]])
            out[position] = _medians(kept) if len(kept) else 0
        return out


def _scale(size: Stamps, sigma: Stamps, peak: Stamps, largest: np.float32) -> None:
    """Sizes of values (n, 3, 3969) in units of sigma (n,), cut at `largest`; peak (n,) is the greatest of a triplet."""
    sigma = np.where(sigma > _NO_NOISE * peak, sigma, peak / largest)
    sigma[sigma <= 0] = 1  # nothing but a constant: every pixel is 0 already
    size /= sigma[:, None, None]
    bright = np.flatnonzero(peak / sigma > largest)
    if len(bright):
        size[bright] = np.minimum(size[bright], largest)


def _asinh(values: Stamps, size: Stamps, root: Stamps, factor: np.float32) -> None:
    """Turn `values` into factor * log(s + sqrt(s^2 + 1)) of their `size` s, with their sign: asinh. `size` and `root` are used up.

    log and sqrt run in SIMD lanes everywhere, numpy's float32 arcsinh does not; the sign bit moves as an integer for the
    same reason.
    """
    np.multiply(size, size, out=root)
    root += 1
    np.sqrt(root, out=root)
    root += size
    np.log(root, out=root)
    root *= factor
    bits = values.view(np.uint32)
    bits &= _SIGN_BIT
    bits |= root.view(np.uint32)


def _medians(values: Stamps) -> Stamps:
    """The median along the last axis by partition, in place, without averaging the two middle values of an even count."""
    middle = values.shape[-1] // 2
    values.partition(middle, axis=-1)
    return values[..., middle].copy()


NORMALIZATIONS: Mapping[str, Callable[[NDArray[Any], Stamps, Work], None]] = MappingProxyType(
    {"l2.v1": _l2, "asinh_noise.v1": _asinh_noise, "asinh_int8.v1": _asinh_int8}
)

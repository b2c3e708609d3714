"""The sky of one exposure and its RMS, on a mesh, with the sources masked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrid.config.schema.calibrate import BackgroundConfig
from astrid.core.errors import ImagingError
from astrid.core.records import FloatImage

_SMOOTHING = 1.5  # px, sigma of the Gaussian under which faint wings stand out
_MAD_TO_SIGMA = 1.4826
# SExtractor's estimator clips at 3 sigma of what is left: the RMS s of what stays solves s^2 = 1 - 2 c phi(c) / (2 Phi(c) - 1), c = 3 s.
_CLIPPED = 0.9850
_CAP = 20.0  # sigma; brighter pixels are held at it, so that one cosmic ray does not smear into a disc


@dataclass(frozen=True, eq=False)
class Background:
    """The sky: `level` and `rms` are float32 (ny, nx) in the image's unit; `sources` is True on what was masked."""

    level: FloatImage
    rms: FloatImage
    sources: NDArray[np.bool_]
    median: float
    median_rms: float


def measure_background(data: FloatImage, mask: NDArray[np.bool_], config: BackgroundConfig) -> Background:
    """Sky and RMS from a mesh of clipped cells (SExtractor's estimator), sources found and masked in rounds.

    Parameters
    ----------
    data
        (ny, nx) float32, finite.
    mask
        (ny, nx) True where a pixel must not count.

    Raises
    ------
    ImagingError
        Fewer pixels are free of sources and masks than `config.max_masked_fraction` leaves.
    """
    import sep

    image = np.ascontiguousarray(data, dtype=np.float32)
    hidden = np.ascontiguousarray(mask)
    sources = np.zeros(image.shape, bool)
    sky = None
    for _ in range(config.iterations):
        _check(hidden, config)
        sky = _mesh(sep, image, hidden, config)
        sources = _sources(image - sky.back(), mask, sky.globalrms, config)
        hidden = mask | sources
    _check(hidden, config)
    sky = _mesh(sep, image, hidden, config)
    level, rms = sky.back(dtype=np.float32), sky.rms(dtype=np.float32) / np.float32(_CLIPPED)
    free = ~hidden
    return Background(level, rms, sources, float(np.median(level[free])), float(np.median(rms[free])))


def _mesh(sep: Any, image: FloatImage, hidden: NDArray[np.bool_], config: BackgroundConfig) -> Any:
    side = min(config.mesh_px, *image.shape)
    return sep.Background(image, mask=hidden, bw=side, bh=side, fw=config.filter_cells, fh=config.filter_cells)


def _check(hidden: NDArray[np.bool_], config: BackgroundConfig) -> None:
    fraction = float(hidden.mean())
    if fraction > config.max_masked_fraction:
        raise ImagingError(
            f"{fraction:.1%} of the pixels are masked or on sources, more than max_masked_fraction = {config.max_masked_fraction:.1%}; "
            "no sky can be measured."
        )


def _sources(residual: FloatImage, mask: NDArray[np.bool_], rms: float, config: BackgroundConfig) -> NDArray[np.bool_]:
    """Pixels of the smoothed image above the limit, in the smoothed noise measured from its lower half, and grown."""
    clean = np.where(mask, 0, np.minimum(residual, _CAP * rms))
    smooth = ndimage.gaussian_filter(clean, _SMOOTHING)
    usable = smooth[~mask]
    middle = float(np.median(usable))
    sigma = _MAD_TO_SIGMA * float(np.median(middle - usable[usable <= middle]))
    bright = smooth > middle + config.source_sigma * sigma if sigma > 0 else np.zeros(mask.shape, bool)
    return ndimage.binary_dilation(bright, iterations=config.source_grow_px) if config.source_grow_px and bright.any() else bright
